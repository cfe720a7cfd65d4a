"""Gaussians of which some entries are observed: densities, conditionals and the sums that EM needs, exactly.

A NaN is an entry that was not observed.  Data with the same pattern of observed entries share every factorisation.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def column_means(x: Tensor) -> Tensor:
    """Mean of the observed entries of every column, 0 where none is; shape (D,)."""
    return x.nanmean(0).nan_to_num(0.0)


def fill_columns(x: Tensor, values: Tensor) -> Tensor:
    """The data with one value a column, (D,), where an entry is missing; the data themselves where none is."""
    return torch.where(x.isnan(), values, x) if x.isnan().any() else x


@dataclass(frozen=True, eq=False)
class ConditionalGaussians:
    """Normal(μ_k, Σ_k) for K components, conditioned on the observed entries of n data.

    Attributes:
        log_density: log-density of the observed entries, (K, n).
        mean: The observed entries, and the conditional means of the others, (K, n, D).
        covariance: Conditional covariances, zero where an entry is observed; one for each pattern, (K, U, D, D), or
            their diagonals, (K, U, D).
        pattern: Which of the U patterns a datum has, (n,).
    """

    log_density: Tensor
    mean: Tensor
    covariance: Tensor
    pattern: Tensor

    @classmethod
    def of_variances(cls, x: Tensor, means: Tensor, variances: Tensor) -> "ConditionalGaussians":
        """Independent entries: means and variances (K, D), data (n, D)."""
        observed = ~x.isnan()
        deviations = torch.where(observed, x - means[:, None], 0.0)
        log_normaliser = (variances.log() + math.log(2 * math.pi)) @ observed.to(x).T
        log_density = -0.5 * ((deviations.square() / variances[:, None]).sum(-1) + log_normaliser)
        patterns, pattern = observed.unique(dim=0, return_inverse=True)
        return cls(log_density, means[:, None] + deviations, variances[:, None] * ~patterns, pattern)

    @classmethod
    def of_matrices(cls, x: Tensor, means: Tensor, covariances: Tensor) -> "ConditionalGaussians":
        """Full covariances (K, D, D) in float64, or one for all (1, D, D); means (K, D), data (n, D)."""
        observed = ~x.isnan()
        patterns, pattern = observed.unique(dim=0, return_inverse=True)
        seen = patterns.to(covariances)
        # With unobserved entries made independent of all others, of variance 1, the matrix keeps the inverse and the
        # determinant of the block of observed ones.
        block = seen[:, :, None] * covariances[:, None] * seen[:, None] + torch.diag_embed(1 - seen)
        cholesky = torch.linalg.cholesky(block)  # (K or 1, U, D, D)
        log_det = 2 * cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)[:, pattern]
        identity = torch.eye(len(covariances[0]), dtype=seen.dtype, device=seen.device).expand_as(cholesky)
        whitening = torch.linalg.solve_triangular(cholesky, identity, upper=False) * seen[:, None]
        explained = whitening @ covariances[:, None]  # its square is what the observed take away of the covariance
        unseen = (1 - seen)[:, :, None] * (1 - seen)[:, None]
        covariance = (covariances[:, None] - explained.mT @ explained) * unseen
        deviations = torch.where(observed, x - means[:, None], 0.0)
        white = (whitening.to(x.dtype)[:, pattern] @ deviations[..., None]).squeeze(-1)
        constant = observed.to(x).sum(1) * math.log(2 * math.pi)
        log_density = -0.5 * (white.square().sum(-1) + log_det.to(x.dtype) + constant)
        predicted = (white[..., None, :] @ explained.to(x.dtype)[:, pattern]).squeeze(-2)
        mean = means[:, None] + torch.where(observed, deviations, predicted)
        return cls(log_density, mean, covariance.to(x.dtype).expand(len(means), -1, -1, -1), pattern)

    @property
    def variance(self) -> Tensor:
        """Conditional variances, zero where an entry is observed, (K, n, D)."""
        diagonal = self.covariance if self.covariance.ndim == 3 else self.covariance.diagonal(dim1=-2, dim2=-1)
        return diagonal[:, self.pattern]

    def statistics(self, means: Tensor, responsibilities: Tensor) -> dict[str, Tensor]:
        """Σ r E[x − μ] and Σ r E[(x − μ)(x − μ)ᵀ], or its diagonal, for responsibilities (K, n)."""
        deviations = self.mean - means[:, None]
        weighted = responsibilities[..., None] * deviations
        by_pattern = responsibilities.new_zeros(len(means), self.covariance.shape[1])
        by_pattern.index_add_(1, self.pattern, responsibilities)
        if self.covariance.ndim == 3:
            second = (weighted * deviations).sum(1) + torch.einsum("ku,kud->kd", by_pattern, self.covariance)
        else:
            second = weighted.mT @ deviations + torch.einsum("ku,kuij->kij", by_pattern, self.covariance)
        return {"first": weighted.sum(1).double(), "second": second.double()}
