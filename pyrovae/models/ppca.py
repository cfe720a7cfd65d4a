"""Probabilistic principal component analysis: z ~ Normal(0, I), x ~ Normal(Wz + μ, σ²I), with σ² ≥ ε."""

from __future__ import annotations

import math
from typing import cast

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.data import Observations
from pyrovae.models.base import AmortizedGuide, Program, TractableModel, check_floor, exact_guide, flat_dims
from pyrovae.models.networks import LinearGaussianEncoder


class PPCAModel(Program):
    """z ~ Normal(0, I);  x ~ Normal(Wz + μ, σ²I), with σ² = s² + ε."""

    def __init__(self, latent_dim: int, num_dims: int, floor: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.floor = floor
        self.weight = nn.Parameter(torch.zeros(num_dims, latent_dim, dtype=dtype))
        self.mean = nn.Parameter(torch.zeros(num_dims, dtype=dtype))
        self.noise_factor = nn.Parameter(torch.ones((), dtype=dtype))
        self.register_buffer("prior_loc", torch.zeros(latent_dim, dtype=dtype), persistent=False)
        self.register_buffer("prior_scale", torch.ones(latent_dim, dtype=dtype), persistent=False)

    def noise_variance(self) -> Tensor:
        """σ², a scalar."""
        return self.noise_factor.square() + self.floor

    def forward(self, x: Tensor | None = None, *, num_data: int = 1) -> Tensor:
        sigma = self.noise_variance().sqrt()
        with pyro.plate("data", num_data if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.prior_loc, self.prior_scale).to_event(1))
            return pyro.sample("x", dist.Normal(z @ self.weight.T + self.mean, sigma).to_event(1), obs=x)


class PPCA(TractableModel):
    """Probabilistic PCA, exact likelihood and posterior.

    Args:
        latent_dim: L, at least 1 and below D.
        data_shape: ``(D,)``.
        floor: ε, the lower bound of σ², in squared units of the data.
        encoder: For a learned q(z given x): a module, x → distribution over z.  With ``networks.LinearGaussianEncoder``
            the model is a linear variational autoencoder.  Left out, the guide is the exact posterior, and the ELBO log
            p(x).
        dtype: Type of the parameters; float64 unless you say otherwise.

    Raises:
        ValueError: If ``latent_dim`` is not in [1, D − 1].

    Example:
        >>> ppca = PPCA(latent_dim=2, data_shape=(5,))
        >>> ppca.posterior(torch.zeros(4, 5)).mean.shape
        torch.Size([4, 2])

    Reference:
        Tipping and Bishop (1999), Probabilistic principal component analysis.
    """

    def __init__(
        self,
        latent_dim: int,
        data_shape: int | tuple[int, ...],
        floor: float = 1e-6,
        *,
        encoder: nn.Module | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        self.num_dims = flat_dims(data_shape)
        if not (isinstance(latent_dim, int) and 1 <= latent_dim < self.num_dims):
            raise ValueError(
                f"`latent_dim` must be a whole number from 1 to D - 1 = {self.num_dims - 1}, got {latent_dim!r}; "
                "with D latents no noise is left to model (use a one-component GaussianMixture)."
            )
        self.data_shape, self.latent_dim, self.floor = (self.num_dims,), latent_dim, check_floor(floor)
        self.floats_per_datum = self.num_dims
        self.model = PPCAModel(latent_dim, self.num_dims, self.floor, dtype)
        self.guide = exact_guide(self) if encoder is None else AmortizedGuide(encoder)
        if encoder is None:
            self.config = {"latent_dim": latent_dim, "data_shape": list(self.data_shape), "floor": self.floor}

    # ------------------------------------------------------------------------------------------------- parameters

    @property
    def weight(self) -> Tensor:
        """W, shape (D, L)."""
        return cast(Tensor, self.model.weight)

    @property
    def mean(self) -> Tensor:
        """μ, shape (D,)."""
        return cast(Tensor, self.model.mean)

    @property
    def noise_variance(self) -> Tensor:
        """σ², a scalar."""
        return cast(Tensor, self.model.noise_variance())

    @property
    def num_free_parameters(self) -> int:
        """D L − L(L−1)/2 for W up to rotation, D for μ, 1 for σ²."""
        return self.num_dims * self.latent_dim - self.latent_dim * (self.latent_dim - 1) // 2 + self.num_dims + 1

    # ------------------------------------------------------------------------------------------------- densities

    def log_prob(self, x: Observations | Tensor) -> Tensor:
        """Exact log Normal(x; μ, WWᵀ + σ²I), shape (N,), nats per datum; no D×D matrix is formed."""
        deviations = self.as_input(x) - self.mean
        return self._log_prob(deviations, self._latent_mean(deviations))

    def posterior(self, x: Observations | Tensor) -> dist.MultivariateNormal:
        """Exact p(z given x) = Normal(M⁻¹Wᵀ(x − μ), σ²M⁻¹), M = WᵀW + σ²I; batch shape (N,), event shape (L,)."""
        covariance = torch.cholesky_inverse(self._precision_tril())
        loc = self._latent_mean(self.as_input(x) - self.mean)
        return dist.MultivariateNormal(loc, scale_tril=torch.linalg.cholesky(covariance), validate_args=False)

    def posterior_kl(self, x: Observations | Tensor) -> Tensor:
        """Exact KL(p(z given x) ‖ p(z)) = ½(tr S + |m|² − L − log|S|), S the posterior covariance; (N,), nats."""
        precision_tril = self._precision_tril()
        latent_mean = self._latent_mean(self.as_input(x) - self.mean)
        trace = torch.cholesky_inverse(precision_tril).trace()
        log_det = -2 * precision_tril.diagonal().log().sum()
        return 0.5 * (trace + latent_mean.square().sum(1) - self.latent_dim - log_det)

    def _latent_mean(self, deviations: Tensor) -> Tensor:
        """E[z given x] for deviations x − μ, shape (N, L)."""
        projected = (deviations @ self.weight).T / self.noise_variance
        return torch.cholesky_solve(projected, self._precision_tril()).T

    def _log_prob(self, deviations: Tensor, latent_mean: Tensor) -> Tensor:
        # With m = E[z given x]: (x−μ)ᵀ(WWᵀ + σ²I)⁻¹(x−μ) = |x−μ−Wm|²/σ² + |m|², a sum of squares: nothing cancels.
        variance = self.noise_variance
        residual = deviations - latent_mean @ self.weight.T
        mahalanobis = residual.square().sum(1) / variance + latent_mean.square().sum(1)
        log_det = self.num_dims * variance.log() + 2 * self._precision_tril().diagonal().log().sum()
        return -0.5 * (mahalanobis + log_det + self.num_dims * math.log(2 * math.pi))

    def _start_guide(self) -> None:
        """Set a linear guide to the exact posterior of the present parameters."""
        if isinstance(self.guide.encoder, LinearGaussianEncoder):
            self.guide.encoder.start_at(self.weight, self.mean, self._precision_tril(), self.noise_variance)

    def _precision_tril(self) -> Tensor:
        """Cholesky factor of the posterior precision, I + WᵀW/σ², shape (L, L)."""
        identity = torch.eye(self.latent_dim, dtype=self.weight.dtype, device=self.weight.device)
        return torch.linalg.cholesky(identity + self.weight.T @ self.weight / self.noise_variance)

    # ------------------------------------------------------------------------------------------------- fits

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Start at the data's mean and variance, half of it in a random W; the guide at the posterior of that start."""
        mean = x.mean(0)
        variance = (x - mean).square().mean()
        self.model.mean.copy_(mean)
        self.model.weight.copy_(torch.randn_like(self.weight) * (variance / 2 / self.latent_dim).sqrt())
        self.model.noise_factor.copy_((variance / 2 - self.floor).clamp_min(0).sqrt())
        self._start_guide()

    @torch.no_grad()
    def expected_statistics(self, x: Tensor) -> dict[str, Tensor]:
        """E step: sums over data of |x−μ|², (x−μ)E[z̃]ᵀ and E[z̃z̃ᵀ], where z̃ = (z, 1) carries the mean along."""
        deviations = x - self.mean
        latent_mean = self._latent_mean(deviations)
        extended = nn.functional.pad(latent_mean, (0, 1), value=1.0)
        second = (extended.T @ extended).double()
        second[:-1, :-1] += len(x) * torch.cholesky_inverse(self._precision_tril()).double()
        return {
            "log_prob": self._log_prob(deviations, latent_mean).double().sum(),
            "count": torch.tensor(float(len(x)), dtype=torch.float64, device=x.device),
            "squares": deviations.square().sum().double(),
            "cross": (deviations.T @ extended).double(),
            "latent": second,
        }

    @torch.no_grad()
    def maximize(self, statistics: dict[str, Tensor]) -> None:
        """M step: (W, shift of μ) = (Σ(x−μ)E[z̃]ᵀ)(ΣE[z̃z̃ᵀ])⁻¹, then σ² = mean squared residual, clipped at ε."""
        cross = statistics["cross"]
        extended = torch.linalg.solve(statistics["latent"], cross, left=False)
        residual = statistics["squares"] - (extended * cross).sum()
        variance = residual / (statistics["count"] * self.num_dims)
        self.model.weight.copy_(extended[:, :-1])
        self.model.mean.add_(extended[:, -1])
        self.model.noise_factor.copy_((variance - self.floor).clamp_min(0).sqrt())
        self._start_guide()

    @torch.no_grad()
    def maximum_likelihood(self, x: Tensor) -> None:
        """Set the parameters to the global maximum: W = U(Λ − σ²I)^½ on the L leading eigenvectors of the covariance.

        σ² is the mean of the D − L discarded eigenvalues, zeros included, and at least ε.  The covariance divides by N.
        For N < D the eigenvectors come from the N×N Gram matrix.
        """
        mean = x.double().mean(0)
        deviations = x.double() - mean
        if len(x) < self.num_dims:
            values, vectors = torch.linalg.eigh(deviations @ deviations.T / len(x))
            scores = vectors.flip(1)[:, : self.latent_dim]
            directions = nn.functional.normalize(deviations.T @ scores, dim=0)
        else:
            values, vectors = torch.linalg.eigh(deviations.T @ deviations / len(x))
            directions = vectors.flip(1)[:, : self.latent_dim]
        leading = values.flip(0)[: self.latent_dim].clamp_min(0)
        leading = nn.functional.pad(leading, (0, self.latent_dim - len(leading)))
        directions = nn.functional.pad(directions, (0, self.latent_dim - directions.shape[1]))
        discarded = values.flip(0)[self.latent_dim :].clamp_min(0).sum() / (self.num_dims - self.latent_dim)
        variance = discarded.clamp_min(self.floor)
        self.model.mean.copy_(mean)
        self.model.weight.copy_(directions * (leading - variance).clamp_min(0).sqrt())
        self.model.noise_factor.copy_((variance - self.floor).clamp_min(0).sqrt())
        self._start_guide()
