"""The mixture of probabilistic principal component analysers: Gaussians with covariances W_k W_kᵀ + σ_k² I."""

import math
from typing import Any, Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.engine.checks import check_whole
from pyrovae.models.floors import FAR_BELOW, FLOOR, degenerate, shrunk
from pyrovae.models.guides import MarginalGuide
from pyrovae.models.linear_algebra import identity_like, log_det
from pyrovae.models.mixture import Mixture, MixtureModel
from pyrovae.models.ppca import PPCA
from pyrovae.models.starts import Clusters
from pyrovae.models.tractable import derived


class PPCAMixtureModel(MixtureModel):
    """z ~ Categorical(π);  x ~ Normal(μ_z, W_z W_zᵀ + σ_z² I): the factors of each component are integrated out."""

    means: Tensor
    weight: Tensor
    noise_factor: Tensor

    def __init__(self, num_components: int, latent_dim: int, num_dims: int, floor: float, dtype: torch.dtype) -> None:
        super().__init__(num_components, floor, dtype)
        self.means = nn.Parameter(torch.zeros(num_components, num_dims, dtype=dtype))
        self.weight = nn.Parameter(torch.zeros(num_components, num_dims, latent_dim, dtype=dtype))
        self.noise_factor = nn.Parameter(torch.ones(num_components, dtype=dtype))

    def noise_variance(self) -> Tensor:
        """σ², shape (K,)."""
        return self.noise_factor.square() + self.floor

    def component(self, k: Any) -> dist.TorchDistribution:
        variance = self.noise_variance()[:, None].expand_as(self.means)
        return dist.LowRankMultivariateNormal(self.means[k], self.weight[k], variance[k])


class PPCAMixture(Mixture):
    """Mixture of K probabilistic PCAs: a Gaussian mixture that affords full covariances in many dimensions.

    Args:
        num_components: K.
        latent_dim: L, the dimension of each component's subspace, from 1 to D − 1.
        data_shape: ``(D,)``.
        floor: ε, the lower bound of every σ_k², in squared units of the data.  Left out, a fit takes it from the data:
            4e-3 times the mean variance of a dimension; until then it is 4e-3.
        dtype: Type of the parameters.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> mixture = PPCAMixture(num_components=3, latent_dim=2, data_shape=(5,))
        >>> mixture.log_prob(torch.zeros(4, 5)).shape, mixture.component(0).latent_dim
        (torch.Size([4]), 2)

    Reference:
        Tipping and Bishop (1999), Mixtures of probabilistic principal component analyzers.
    """

    model: PPCAMixtureModel
    relative_floor = FLOOR
    in_units = ("means", "weight", "noise_factor")

    def __init__(
        self,
        num_components: int,
        latent_dim: int,
        data_shape: int | tuple[int, ...],
        floor: float | None = None,
        *,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__(num_components, data_shape)
        check_whole("latent_dim", latent_dim, 1, self.num_dims - 1)
        self.latent_dim = int(latent_dim)
        self.model = PPCAMixtureModel(num_components, latent_dim, self.num_dims, self._first_floor(floor), dtype)
        self.guide = MarginalGuide()
        self.config = self._plain("num_components", "latent_dim", "data_shape", "floor")

    @property
    def means(self) -> Tensor:
        """μ, shape (K, D)."""
        return self.model.means

    @property
    def num_free_parameters(self) -> int:
        """K − 1 weights, and what K probabilistic PCAs have."""
        k, d, q = self.num_components, self.num_dims, self.latent_dim
        return k - 1 + k * (d * q - q * (q - 1) // 2 + d + 1)

    @torch.no_grad()
    def component(self, k: int) -> PPCA:
        """Component k by itself: p(x|z = k), with p(its factors|x)."""
        ppca = PPCA(self.latent_dim, self.num_dims, self.floor, dtype=self.means.dtype).to(self.means.device)
        ppca.model.mean.copy_(self.means[k])
        ppca.model.weight.copy_(self.model.weight[k])
        ppca.model.noise_factor.copy_(self.model.noise_factor[k])
        return ppca

    def _eigenvalues(self) -> Tensor:
        factors = torch.linalg.svdvals(self.model.weight).square()
        padded = nn.functional.pad(factors, (0, self.num_dims - self.latent_dim))
        return padded + self.model.noise_variance()[:, None]

    def _lift(self, lower: Self, floor: float) -> None:
        super()._lift(lower, floor)
        noise = lower.model.noise_variance()
        higher = noise.clamp_min(self.floor)
        self.model.weight.copy_(shrunk(lower.model.weight, noise, higher))
        self.model.noise_factor.copy_((higher - self.floor).sqrt())

    # ------------------------------------------------------------------------------------------------- densities

    @derived
    def _precision_tril(self) -> Tensor:
        """Cholesky factors of the posterior precisions of the factors, I + W_kᵀW_k/σ_k², shape (K, L, L)."""
        information = self.model.weight.mT @ self.model.weight / self.model.noise_variance()[:, None, None]
        return torch.linalg.cholesky(identity_like(information) + information)

    def _factor_means(self, deviations: Tensor, k: int) -> Tensor:
        """E[factors of component k|x] for deviations from its mean (n, D), shape (n, L)."""
        projected = (deviations @ self.model.weight[k]).T / self.model.noise_variance()[k]
        return torch.cholesky_solve(projected, self._precision_tril()[k]).T

    def _log_joint(self, x: Tensor) -> Tensor:
        """log π_k + log Normal(x; μ_k, W_kW_kᵀ + σ_k²I) for a chunk of data (n, D), shape (K, n)."""
        variance, distances = self.model.noise_variance(), []
        for k, mean in enumerate(self.means):
            deviations = x - mean
            factors = self._factor_means(deviations, k)
            residual = deviations - factors @ self.model.weight[k].T
            distances.append(residual.square().sum(1) / variance[k] + factors.square().sum(1))
        log_dets = 2 * log_det(self._precision_tril()) + self.num_dims * variance.log()
        constant = self.model.logits.log_softmax(0) - 0.5 * (log_dets + self.num_dims * math.log(2 * math.pi))
        return constant[:, None] - 0.5 * torch.stack(distances)

    # ------------------------------------------------------------------------------------------------- EM

    def _start_components(self, x: Tensor, weight: Tensor, clusters: Clusters) -> None:
        """Means at the centres; half of the pooled variance within clusters in a random W, half in σ²."""
        variance = (weight @ (x - clusters.centres[clusters.nearest]).square()).mean() / weight.sum()
        self.model.means.copy_(clusters.centres)
        self.model.weight.copy_(torch.randn_like(self.model.weight) * (variance / 2 / self.latent_dim).sqrt())
        self.model.noise_factor.copy_((variance / 2 - self.floor).clamp_min(0).sqrt().expand(self.num_components))

    def _component_statistics(self, x: Tensor, responsibilities: Tensor) -> dict[str, Tensor]:
        """For each component the sums of its probabilistic PCA, weighted by r."""
        parts: list[dict[str, Tensor]] = [
            self._factor_statistics(x - mean, r, k)
            for k, (mean, r) in enumerate(zip(self.means, responsibilities, strict=True))
        ]
        return {name: torch.stack([part[name] for part in parts]).double() for name in parts[0]}

    def _factor_statistics(self, deviations: Tensor, r: Tensor, k: int) -> dict[str, Tensor]:
        """Σr|x−μ|², Σr(x−μ)E[f̃]ᵀ and Σr E[f̃f̃ᵀ], where f̃ = (factors, 1) carries the mean along."""
        extended = nn.functional.pad(self._factor_means(deviations, k), (0, 1), value=1.0)
        weighted = extended * r[:, None]
        second = weighted.T @ extended
        second[:-1, :-1] += r.sum() * torch.cholesky_inverse(self._precision_tril()[k])
        return {"squares": r @ deviations.square().sum(1), "cross": deviations.T @ weighted, "latent": second}

    @torch.no_grad()
    def maximize(self, statistics: dict[str, Tensor]) -> None:
        """M step: for each component that of probabilistic PCA; one without mass stays as it is."""
        extended, variance = self._regression(statistics)
        empty = (statistics["mass"] <= torch.finfo(torch.float64).tiny)[:, None, None]
        self._set_weights(statistics["mass"])
        self.model.means.add_(extended[..., -1])
        self.model.weight.copy_(torch.where(empty, self.model.weight.double(), extended[..., :-1]))
        noise = (variance - self.floor).clamp_min(0).sqrt()
        self.model.noise_factor.copy_(torch.where(empty.flatten(), self.model.noise_factor.double(), noise))

    def _regression(self, statistics: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(W, shift of μ) of each component, (K, D, L + 1), and its σ² (K,), not yet constrained."""
        tiny = torch.finfo(torch.float64).tiny
        mass, cross = statistics["mass"], statistics["cross"]
        latent = statistics["latent"]
        latent = torch.where((mass <= tiny)[:, None, None], identity_like(latent), latent)
        extended = torch.linalg.solve(latent, cross, left=False)
        residual = statistics["squares"] - (extended * cross).sum((1, 2))
        return extended, residual / (mass.clamp_min(tiny) * self.num_dims)

    @torch.no_grad()
    def degeneracies(self, statistics: dict[str, Tensor]) -> list[str]:
        """Components with next to no data, and noises at the floor, though the mixture varies by more."""
        spread = (self.means - self.weights @ self.means).square().mean(1)
        own = self.model.weight.square().sum(2).mean(1) + self.model.noise_variance()
        share = self.latent_dim / self.num_dims  # of σ² = ε, which the factors' own uncertainty leaves in any case
        noise = self._regression(statistics)[1]
        flat = degenerate(noise, share + FAR_BELOW, self.weights @ (own + spread), self.floor)
        return super().degeneracies(statistics) + [
            f"the noise of component {k} is at the floor, {self.floor:g}" for k in flat.nonzero().flatten().tolist()
        ]
