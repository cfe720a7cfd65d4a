"""The linear-Gaussian latent-variable model: z ~ Normal(0, I), x ~ Normal(Wz + μ, Ψ), Ψ diagonal and ⪰ ε I.

Probabilistic PCA has Ψ = σ²I, factor analysis any diagonal; all that they share is here.  No D×D matrix is formed: with
P = I + WᵀΨ⁻¹W, the Woodbury identities need only its L×L Cholesky factor.
"""

from typing import ClassVar, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pyrovae.data import Observations
from pyrovae.engine.checks import check_whole
from pyrovae.models.base import Missing, Program, check_missing, flat_dims
from pyrovae.models.floors import NOISE_FLOOR, shrunk
from pyrovae.models.guides import AmortizedGuide, exact_guide
from pyrovae.models.linear_algebra import identity_like
from pyrovae.models.linear_posterior import LinearPosterior
from pyrovae.models.missing import column_means, fill_columns
from pyrovae.models.networks import LinearGaussianEncoder
from pyrovae.models.sklearn_bridge import floor_below
from pyrovae.models.stored import LowRankOfModel
from pyrovae.models.tractable import TractableModel, derived


class LinearGaussianModel(Program):
    """z ~ Normal(0, I);  x ~ Normal(Wz + μ, Ψ), with Ψ = s² + ε, s one number or one a dimension."""

    weight: Tensor
    mean: Tensor
    noise_factor: Tensor
    prior_loc: Tensor
    prior_scale: Tensor

    def __init__(
        self, latent_dim: int, num_dims: int, noise_shape: tuple[int, ...], floor: float, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.floor = floor
        self.weight = nn.Parameter(torch.zeros(num_dims, latent_dim, dtype=dtype))
        self.mean = nn.Parameter(torch.zeros(num_dims, dtype=dtype))
        self.noise_factor = nn.Parameter(torch.ones(noise_shape, dtype=dtype))
        self.register_buffer("prior_loc", torch.zeros(latent_dim, dtype=dtype), persistent=False)
        self.register_buffer("prior_scale", torch.ones(latent_dim, dtype=dtype), persistent=False)

    def fix_noise(self) -> None:
        """Take Ψ out of the parameters: no optimiser sees it, neither torch's nor Pyro's, which trains all it finds."""
        value = self.noise_factor.detach()
        del self.noise_factor
        self.register_buffer("noise_factor", value)

    def noise_variance(self) -> Tensor:
        """Ψ, a scalar or (D,)."""
        return self.noise_factor.square() + self.floor

    def forward(self, x: Tensor | None = None, *, num_data: int = 1) -> Tensor:
        sigma = self.noise_variance().sqrt()
        with pyro.plate("data", num_data if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.prior_loc, self.prior_scale).to_event(1))
            return pyro.sample("x", dist.Normal(z @ self.weight.T + self.mean, sigma).to_event(1), obs=x)


class LinearGaussian(TractableModel):
    """Exact likelihood, posterior and EM of z ~ Normal(0, I), x ~ Normal(Wz + μ, Ψ).

    A subclass says whether Ψ is one number or one a dimension, and what the data make of it.
    """

    model: LinearGaussianModel
    guide: AmortizedGuide
    takes_particles = True
    relative_floor = NOISE_FLOOR
    in_units = ("weight", "mean", "noise_factor")
    noise_is_shared: ClassVar[bool]

    def __init__(
        self,
        latent_dim: int,
        data_shape: int | tuple[int, ...],
        floor: float | None = None,
        *,
        missing: Missing = "error",
        encoder: nn.Module | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        self.num_dims = flat_dims(data_shape)
        hint = "with D latents no noise is left to model (use a one-component GaussianMixture)"
        check_whole("latent_dim", latent_dim, 0, self.num_dims - 1, hint=hint)
        self.data_shape, self.latent_dim = (self.num_dims,), int(latent_dim)
        self.missing = check_missing(missing)
        self.floats_per_datum = 3 * self.num_dims + (4 * (latent_dim + 1) ** 2 if missing == "nan" else 2 * latent_dim)
        noise_shape = () if self.noise_is_shared else (self.num_dims,)
        self.model = LinearGaussianModel(latent_dim, self.num_dims, noise_shape, self._first_floor(floor), dtype)
        self.guide = exact_guide(self) if encoder is None else AmortizedGuide(encoder)
        if encoder is None:
            self.config = self._plain("latent_dim", "data_shape", "floor", "missing")

    @classmethod
    @torch.no_grad()
    def _holding(cls, weight: Tensor, mean: Tensor, noise_variance: Tensor) -> Self:
        """A model with these parameters, of their type, under a floor that changes none."""
        num_dims, latent_dim = weight.shape
        model = cls(latent_dim, num_dims, floor_below(weight, noise_variance), dtype=weight.dtype)
        model.model.weight.copy_(weight)
        model.model.mean.copy_(mean)
        model._set_noise(noise_variance)
        return model

    # ------------------------------------------------------------------------------------------------- parameters

    @property
    def weight(self) -> Tensor:
        """W, shape (D, L)."""
        return self.model.weight

    @property
    def mean(self) -> Tensor:
        """μ, shape (D,)."""
        return self.model.mean

    @property
    def noise_variance(self) -> Tensor:
        """Ψ: σ², a scalar, or one variance a dimension, (D,)."""
        return self.model.noise_variance()

    @property
    def num_free_parameters(self) -> int:
        """D for μ; for the covariance D L − L(L−1)/2 of W up to rotation and those of Ψ, or D(D+1)/2 if that is less.

        Factor analysis with more latents than Ledermann's bound, (D − L)² < D + L, is saturated: its set of Gaussians
        has the dimension of all of them, and counts as one full Gaussian does.

        Reference:
            Drton, Sturmfels and Sullivant (2007), Algebraic factor analysis: tetrads, pentads and beyond.
        """
        rotations = self.latent_dim * (self.latent_dim - 1) // 2
        of_covariance = self.num_dims * self.latent_dim - rotations + self.model.noise_factor.numel()
        return self.num_dims + min(of_covariance, self.num_dims * (self.num_dims + 1) // 2)

    def _floored_variances(self, data: Observations | Tensor) -> Tensor:
        """The eigenvalues of WWᵀ + σ²I or, where the noise has a variance for each dimension, those of Ψ."""
        variances = self.noise_variance
        if variances.ndim == 0:
            factors = torch.linalg.svdvals(self.weight).square()
            variances = pad(factors, (0, self.num_dims - self.latent_dim)) + variances
        return variances.expand(len(self.as_input(data)), -1)

    def _lift(self, lower: Self, floor: float) -> None:
        """Of a noise with a variance for each dimension, W stays."""
        super()._lift(lower, floor)
        higher = lower.noise_variance.clamp_min(self.floor)
        if higher.ndim == 0:
            self.model.weight.copy_(shrunk(lower.weight, lower.noise_variance, higher))
        self.model.noise_factor.copy_((higher - self.floor).sqrt())

    def as_distribution(self) -> dist.TorchDistribution:
        """p(x) = Normal(μ, WWᵀ + Ψ) as a distribution of Pyro, event shape (D,): the prior of another program, say.

        Its parameters are this model's own: gradients flow into them, and a later change of them does not show.  In a
        copy they are constant.
        """
        variance = self.noise_variance.expand(self.num_dims)
        if self.latent_dim == 0:  # torch knows no factor of rank 0
            return dist.Normal(self.mean, variance.sqrt()).to_event(1)
        return LowRankOfModel(self.mean, self.weight, variance)

    # ------------------------------------------------------------------------------------------------- densities

    def log_prob(self, x: Observations | Tensor) -> Tensor:
        """Exact log Normal(x; μ, WWᵀ + Ψ), shape (N,), nats per datum; with missing values of the observed ones."""
        with self.unchanged():
            return torch.cat([self._infer(chunk).log_prob for chunk in self._chunks(x)])

    def posterior(self, x: Observations | Tensor) -> dist.TorchDistribution:
        """Exact p(z|x) = Normal(P⁻¹WᵀΨ⁻¹(x − μ), P⁻¹), P = I + WᵀΨ⁻¹W; batch shape (N,), event shape (L,)."""
        return self._posterior(self.as_input(x))

    def _posterior(self, x: Tensor) -> dist.TorchDistribution:
        inferred = self._infer(x)
        if self.latent_dim == 0:  # torch knows no multivariate normal of no dimension
            return dist.Normal(inferred.mean, inferred.mean.exp()).to_event(1)
        scale_tril = torch.linalg.cholesky(inferred.covariance())
        return dist.MultivariateNormal(inferred.mean, scale_tril=scale_tril, validate_args=False)

    def posterior_kl(self, x: Observations | Tensor) -> Tensor:
        """Exact KL(p(z|x) ‖ p(z)) = ½(tr S + |m|² − L − log|S|), S the posterior covariance; (N,), nats."""
        inferred = self._infer(self.as_input(x))
        trace = inferred.covariance().diagonal(dim1=-2, dim2=-1).sum(-1)
        return 0.5 * (trace + inferred.mean.square().sum(1) - self.latent_dim + inferred.log_det)

    def transform(self, x: Observations | Tensor) -> Tensor:
        """E[z|x], shape (N, L)."""
        return self._infer(self.as_input(x)).mean

    def inverse_transform(self, z: Tensor) -> Tensor:
        """E[x|z] = Wz + μ, shape (N, D)."""
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"`z` must have shape (N, {self.latent_dim}), got {tuple(z.shape)}.")
        return z.to(self.weight) @ self.weight.T + self.mean

    def reconstruct(self, x: Observations | Tensor) -> Tensor:
        """E[x'|z] at z = E[z|x], shape (N, D)."""
        return self.inverse_transform(self.transform(x))

    def _moments_given_observed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inferred = self._infer(x)
        latent_variance = torch.einsum("dl,...lm,dm->...d", self.weight, inferred.covariance(), self.weight)
        return self.inverse_transform(inferred.mean), (latent_variance + self.noise_variance).expand_as(x)

    def _infer(self, x: Tensor) -> LinearPosterior:
        """The posterior of every datum, and its log-density."""
        parameters = (x - self.mean, self.weight, self.noise_variance.expand(self.num_dims))
        if self._incomplete(x):
            return LinearPosterior.given_observed(*parameters)
        return LinearPosterior(*parameters, self._precision_tril())

    @derived
    def _precision_tril(self) -> Tensor:
        """Cholesky factor of the posterior precision, I + WᵀΨ⁻¹W, shape (L, L)."""
        scaled = self.weight / self.noise_variance.expand(self.num_dims)[:, None]
        information = self.weight.T @ scaled
        return torch.linalg.cholesky(identity_like(information) + information)

    def match_guide(self) -> None:
        """Set a linear guide to the exact posterior of the present parameters."""
        if isinstance(self.guide.encoder, LinearGaussianEncoder):
            self.guide.encoder.start_at(self.weight, self.mean, self._precision_tril(), self.noise_variance)

    # ------------------------------------------------------------------------------------------------- EM

    @torch.no_grad()
    def initialize(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Start at the data's mean and variances, half of them in a random W; the guide at the posterior of that."""
        self._floor_from(x, weight)
        x = fill_columns(x, column_means(x))
        share = torch.full_like(x[:, 0], 1 / len(x)) if weight is None else weight / weight.sum()
        mean = share @ x
        variance = share @ (x - mean).square()
        if self.model.noise_factor.ndim == 0:
            variance = variance.mean().expand_as(variance)
        self.model.mean.copy_(mean)
        if self.latent_dim:
            scale = (variance / 2 / self.latent_dim).sqrt()
            self.model.weight.copy_(torch.randn_like(self.weight) * scale[:, None])
        self._set_noise(variance / 2)
        self.match_guide()

    @torch.no_grad()
    def expected_statistics(self, x: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        """E step: the sums of (x−μ)², (x−μ)E[z̃]ᵀ and E[z̃z̃ᵀ], where z̃ = (z, 1) carries the mean along.

        In a model of missing values all of them, and the count of data, are kept for every dimension, over the data in
        which it was observed; for complete data, too, so that they can be added to others.
        """
        inferred = self._infer(x)
        deviations, log_prob = inferred.deviations, inferred.log_prob.double()
        extended = pad(inferred.mean, (0, 1), value=1.0)
        counted = extended if weight is None else extended * weight[:, None]
        seen = inferred.observed
        if seen is None:
            second = (counted.T @ extended).double()
            second[:-1, :-1] += counted[:, -1].sum() * inferred.covariance().double()
            if self.missing == "nan":
                second = second.expand(self.num_dims, -1, -1)
            observed = counted[:, -1].double().sum().expand(self.num_dims)
        else:
            each = counted[:, :, None] * extended[:, None]
            each[:, :-1, :-1] += counted[:, -1, None, None] * inferred.covariance()
            second = (seen.T @ each.flatten(1)).double().unflatten(1, each.shape[1:])
            observed = (seen.T @ counted[:, -1]).double()
        return {
            "log_prob": (log_prob if weight is None else log_prob * weight).sum(),
            "count": counted[:, -1].double().sum(),
            "observed": observed,
            "squares": (deviations.square().T @ counted[:, -1]).double(),
            "cross": (deviations.T @ counted).double(),
            "latent": second,
        }

    @torch.no_grad()
    def maximize(self, statistics: dict[str, Tensor]) -> None:
        """M step: (W, shift of μ) = (Σ(x−μ)E[z̃]ᵀ)(ΣE[z̃z̃ᵀ])⁻¹, then Ψ from the mean squared residuals."""
        cross, latent, observed = (statistics[name] for name in ("cross", "latent", "observed"))
        if latent.ndim == 2:
            extended = torch.linalg.solve(latent, cross, left=False)
        else:  # each dimension has its own regression on z; one never observed keeps its mean, and has no weights
            never = (observed == 0)[:, None, None] * identity_like(latent)
            extended = torch.linalg.solve(latent + never, cross)
        self.model.weight.copy_(extended[:, :-1])
        self.model.mean.add_(extended[:, -1])
        self._set_noise_from((statistics["squares"] - (extended * cross).sum(1)), observed)
        self.match_guide()

    def _set_noise_from(self, residuals: Tensor, observed: Tensor) -> None:
        """Ψ from the summed squared residuals of every dimension, and how many they are."""
        raise NotImplementedError

    def _set_noise(self, variance: Tensor) -> None:
        """Set Ψ to variances (D,), or to their mean, but not below ε."""
        factor = self.model.noise_factor
        value = variance if factor.ndim else variance.mean()
        factor.copy_((value - self.floor).clamp_min(0).sqrt())
