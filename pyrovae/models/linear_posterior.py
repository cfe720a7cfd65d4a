"""The posterior of z in z ~ Normal(0, I), x ~ Normal(Wz + μ, Ψ), Ψ diagonal, by the Woodbury identities."""

import math

import torch
from torch import Tensor


class LinearPosterior:
    """p(z|x) = Normal(m, P⁻¹) of n data, P = I + WᵀΨ⁻¹W, and log p(x).

    Args:
        deviations: x − μ, zero where not observed, (n, D).
        weight: W, (D, L).
        variance: Ψ, (D,).
        precision_tril: Cholesky factor of P, (L, L) or, where entries are missing, (n, L, L).
        observed: 1 where an entry is observed, (n, D); None where all are.

    Attributes:
        mean: m, (n, L).
        log_det: log|P|, a scalar or (n,).
    """

    def __init__(
        self,
        deviations: Tensor,
        weight: Tensor,
        variance: Tensor,
        precision_tril: Tensor,
        observed: Tensor | None = None,
    ) -> None:
        self.deviations, self.weight, self.variance = deviations, weight, variance
        self.precision_tril, self.observed = precision_tril, observed
        projected = (deviations / variance) @ weight
        if observed is None:
            self.mean = torch.cholesky_solve(projected.T, precision_tril).T
        else:
            self.mean = torch.cholesky_solve(projected[..., None], precision_tril).squeeze(-1)
        self.log_det = 2 * precision_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    @classmethod
    def given_observed(cls, deviations: Tensor, weight: Tensor, variance: Tensor) -> "LinearPosterior":
        """Given what is observed; in a missing entry the deviation is NaN, and the precision becomes 0."""
        observed = ~deviations.isnan()
        patterns, pattern = observed.unique(dim=0, return_inverse=True)
        latent_dim = weight.shape[1]
        outer = (weight[:, :, None] * weight[:, None] / variance[:, None, None]).flatten(1)
        information = (patterns.to(weight) @ outer).unflatten(1, (latent_dim, latent_dim))
        identity = torch.eye(latent_dim, dtype=weight.dtype, device=weight.device)
        precision_tril = torch.linalg.cholesky(identity + information)[pattern]
        return cls(torch.where(observed, deviations, 0.0), weight, variance, precision_tril, observed.to(weight))

    def covariance(self) -> Tensor:
        """P⁻¹, (L, L) or (n, L, L)."""
        return torch.cholesky_inverse(self.precision_tril)

    @property
    def log_prob(self) -> Tensor:
        """log-density of what is observed, (n,).

        (x−μ)ᵀ(WWᵀ + Ψ)⁻¹(x−μ) = |Ψ^-½(x−μ−Wm)|² + |m|², a sum of squares: nothing cancels.
        """
        residual = self.deviations - self.mean @ self.weight.T
        constants = self.variance.log() + math.log(2 * math.pi)
        if self.observed is None:
            normaliser = constants.sum()
        else:
            residual, normaliser = residual * self.observed, self.observed @ constants
        mahalanobis = residual.square() @ (1 / self.variance) + self.mean.square().sum(1)
        return -0.5 * (mahalanobis + self.log_det + normaliser)
