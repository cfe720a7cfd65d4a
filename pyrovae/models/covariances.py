"""K Gaussians, one class for each form of their covariances: full, tied, diagonal and spherical.

Σ_k = A_k A_kᵀ + ε I, with A of the shape that the form has: full (K, D, D), tied (1, D, D), diagonal (K, D), spherical
(K, 1).  A class says what densities need of it, and what the M step makes of the scatter about the means.
"""

from functools import cached_property
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.models.linear_algebra import lower_triangular_product, symmetric_product
from pyrovae.models.missing import ConditionalGaussians


class _Gaussians:
    """Normal(μ_k, Σ_k) for every k.

    Args:
        means: μ, shape (K, D).
        factor: A, of the shape that the form has.
        floor: ε.
    """

    matrices: ClassVar[bool]  # whether a covariance is a matrix, rather than the variances on its diagonal
    as_in_sklearn: ClassVar[Any] = ...  # the index that makes of a tensor shaped as A is one shaped as in scikit-learn

    def __init__(self, means: Tensor, factor: Tensor, floor: float) -> None:
        self.means, self.factor, self.floor = means, factor, floor

    @staticmethod
    def pooled(scatter: Tensor, mass: Tensor) -> Tensor:
        """The covariances, shaped as A is, that a scatter of every component (K, D, D) or (K, D) and mass (K,) give."""
        return scatter


class Full(_Gaussians):
    """Normal(μ_k, A_k A_kᵀ + ε I), a covariance matrix for every component: A of shape (K, D, D)."""

    matrices = True

    @classmethod
    def unit(cls, num_components: int, num_dims: int, dtype: torch.dtype) -> Tensor:
        """A = I."""
        return torch.eye(num_dims, dtype=dtype).repeat(num_components, 1, 1)

    @property
    def num_entries(self) -> int:
        """Free parameters of the covariances."""
        return len(self.factor) * self.factor.shape[1] * (self.factor.shape[1] + 1) // 2

    # ------------------------------------------------------------------------------------------------- densities

    def cholesky(self) -> Tensor:
        """L of Σ = L Lᵀ, in float64, because ε may be small."""
        factor = self.factor.double()
        return torch.linalg.cholesky(torch.baddbmm(self.floor * _identity(factor), factor, factor.mT))

    @cached_property
    def exact_covariances(self) -> Tensor:
        """Σ in float64, of the shape of A."""
        cholesky = self.cholesky()
        return cholesky @ cholesky.mT

    @property
    def covariances(self) -> Tensor:
        """Σ, of the shape of A."""
        return self.factor @ self.factor.mT + self.floor * _identity(self.factor)

    def eigenvalues(self) -> Tensor:
        """Of every Σ_k, shape (K, D)."""
        return torch.linalg.eigvalsh(self.exact_covariances).expand(len(self.means), -1)

    def normal(self, k: Any) -> dist.TorchDistribution:
        """Normal(μ_k, Σ_k) as a distribution of Pyro, for a tensor or a slice of indices."""
        scale_tril = self.cholesky().to(self.means.dtype).expand(len(self.means), -1, -1)
        return dist.MultivariateNormal(self.means[k], scale_tril=scale_tril[k])

    def whitening(self) -> tuple[Tensor, Tensor]:
        """In float64, L⁻¹ (K, D, D), tied (1, D, D), or for variances 1/σ (K, D); and log|L|."""
        cholesky = self.cholesky()
        whitening = torch.linalg.solve_triangular(cholesky, _identity(cholesky).expand_as(cholesky), upper=False)
        return whitening, cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    @staticmethod
    def whiten(whitening: Tensor, deviations: Tensor) -> Tensor:
        """L⁻¹ (x − μ) for one component, x − μ of shape (D, n)."""
        return lower_triangular_product(whitening, deviations)

    def conditionals(self, x: Tensor) -> ConditionalGaussians:
        """The Gaussians given the observed entries of data (n, D)."""
        return ConditionalGaussians.of_matrices(x, self.means, self.exact_covariances)

    # ------------------------------------------------------------------------------------------------- the M step

    @staticmethod
    def products(weighted: Tensor, deviations: Tensor) -> Tensor:
        """Σ_n r (x − μ)(x − μ)ᵀ, or its diagonal, from r (x − μ) and x − μ, both (D, n)."""
        return symmetric_product(weighted, deviations)

    @staticmethod
    def outer(vectors: Tensor) -> Tensor:
        """v vᵀ of every row v of (K, D), or its diagonal."""
        return vectors[:, :, None] * vectors[:, None]

    @staticmethod
    def factor_of(covariances: Tensor, floor: float) -> Tensor:
        """A from A Aᵀ + ε I = Σ, shaped as A is, with the spectrum of Σ clipped at ε."""
        excess = covariances.clone()  # of which only the lower triangle is read
        excess.diagonal(dim1=-2, dim2=-1).sub_(floor)
        factor, info = torch.linalg.cholesky_ex(excess)
        clipped = info != 0  # the floor binds
        if clipped.any():
            values, vectors = torch.linalg.eigh(excess[clipped])
            factor[clipped] = vectors * values.clamp_min(0).sqrt()[:, None]
        return factor

    @staticmethod
    def smallest(covariances: Tensor) -> Tensor:
        """Where a floor binds first: the smallest eigenvalue (..., 1), or every variance."""
        return torch.linalg.eigvalsh(covariances)[..., :1]


class Tied(Full):
    """One covariance matrix for all components, A of shape (1, D, D)."""

    as_in_sklearn = 0

    @classmethod
    def unit(cls, num_components: int, num_dims: int, dtype: torch.dtype) -> Tensor:
        return super().unit(1, num_dims, dtype)

    @staticmethod
    def pooled(scatter: Tensor, mass: Tensor) -> Tensor:
        return (scatter * (mass / mass.sum())[:, None, None]).sum(0, keepdim=True)


class Diagonal(_Gaussians):
    """Normal(μ_k, diag(A_k² + ε)), a variance for every component and dimension: A of shape (K, D).

    Its methods are those of ``Full``, with variances in place of matrices.
    """

    matrices = False

    @classmethod
    def unit(cls, num_components: int, num_dims: int, dtype: torch.dtype) -> Tensor:
        return torch.ones(num_components, num_dims, dtype=dtype)

    @property
    def num_entries(self) -> int:
        return self.factor.numel()

    @cached_property
    def scale(self) -> Tensor:
        """Standard deviations, shape (K, D)."""
        return self.covariances.sqrt().expand_as(self.means)

    @property
    def exact_covariances(self) -> Tensor:
        return self.factor.double().square() + self.floor

    @property
    def covariances(self) -> Tensor:
        return self.factor.square() + self.floor

    def eigenvalues(self) -> Tensor:
        return self.scale.square()

    def normal(self, k: Any) -> dist.TorchDistribution:
        return dist.Normal(self.means[k], self.scale[k]).to_event(1)

    def whitening(self) -> tuple[Tensor, Tensor]:
        return 1 / self.scale.double(), self.scale.double().log().sum(-1)

    @staticmethod
    def whiten(whitening: Tensor, deviations: Tensor) -> Tensor:
        return deviations * whitening[:, None]

    def conditionals(self, x: Tensor) -> ConditionalGaussians:
        return ConditionalGaussians.of_variances(x, self.means, self.scale.square())

    @staticmethod
    def products(weighted: Tensor, deviations: Tensor) -> Tensor:
        return (weighted * deviations).sum(1)

    @staticmethod
    def outer(vectors: Tensor) -> Tensor:
        return vectors.square()

    @staticmethod
    def factor_of(covariances: Tensor, floor: float) -> Tensor:
        return (covariances - floor).clamp_min(0).sqrt()

    @staticmethod
    def smallest(covariances: Tensor) -> Tensor:
        return covariances


class Spherical(Diagonal):
    """One variance for every component, A of shape (K, 1)."""

    as_in_sklearn = (slice(None), 0)

    @classmethod
    def unit(cls, num_components: int, num_dims: int, dtype: torch.dtype) -> Tensor:
        return super().unit(num_components, 1, dtype)

    @staticmethod
    def pooled(scatter: Tensor, mass: Tensor) -> Tensor:
        return scatter.mean(1, keepdim=True)


Form = type[Full] | type[Diagonal]
FORMS: dict[str, Form] = {"full": Full, "tied": Tied, "diag": Diagonal, "spherical": Spherical}


def _identity(matrices: Tensor) -> Tensor:
    return torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
