"""The Gaussian mixture: p(x) = Σ_k π_k Normal(x; μ_k, Σ_k), every Σ_k ⪰ ε I.

The covariances are held as Σ_k = A_k A_kᵀ + ε I, so that gradient steps and the exact constrained M step move in one
feasible set, {Σ ⪰ ε I}, and neither can collapse a component onto a datum.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.data import Observations
from pyrovae.models.base import AmortizedGuide, Program, TractableModel, check_floor, flat_dims

Covariance = Literal["full", "tied", "diag", "spherical"]
CHUNK_FLOATS = 2**20  # numbers in the largest intermediate array of a density, 8 MiB in float64
COVARIANCES = ("full", "tied", "diag", "spherical")


class GaussianMixtureModel(Program):
    """z ~ Categorical(π);  x ~ Normal(μ_z, Σ_z).  The site ``"z"`` is marked for enumeration."""

    def __init__(
        self, num_components: int, num_dims: int, covariance: Covariance, floor: float, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.matrix_valued = covariance in ("full", "tied")
        self.floor = floor
        shapes = {
            "full": (num_components, num_dims, num_dims),
            "tied": (1, num_dims, num_dims),
            "diag": (num_components, num_dims),
            "spherical": (num_components, 1),
        }
        factor = torch.eye(num_dims, dtype=dtype) if self.matrix_valued else torch.ones((), dtype=dtype)
        self.logits = nn.Parameter(torch.zeros(num_components, dtype=dtype))
        self.means = nn.Parameter(torch.zeros(num_components, num_dims, dtype=dtype))
        self.covariance_factor = nn.Parameter(factor.expand(shapes[covariance]).clone())

    def scale_tril(self) -> Tensor:
        """Cholesky factors of A Aᵀ + ε I, shape (K, D, D)."""
        factor = self.covariance_factor
        identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        cholesky = torch.linalg.cholesky(factor @ factor.mT + self.floor * identity)
        return cholesky.expand(len(self.means), -1, -1)

    def scale(self) -> Tensor:
        """Standard deviations (A² + ε)^½, shape (K, D)."""
        return (self.covariance_factor.square() + self.floor).sqrt().expand_as(self.means)

    def forward(self, x: Tensor | None = None, *, num_data: int = 1) -> Tensor:
        scale = self.scale_tril() if self.matrix_valued else self.scale()
        with pyro.plate("data", num_data if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})
            if self.matrix_valued:
                component = dist.MultivariateNormal(self.means[z], scale_tril=scale[z])
            else:
                component = dist.Normal(self.means[z], scale[z]).to_event(1)
            return pyro.sample("x", component, obs=x)


class MarginalGuide(Program):
    """The empty guide: z is enumerated in the model, so the ELBO of ``TraceEnum_ELBO`` is log p(x) itself."""

    def forward(self, x: Tensor | None = None, *, num_data: int = 1) -> None:
        return None


class GaussianMixture(TractableModel):
    """Mixture of K Gaussians, exact likelihood and posterior.

    Args:
        num_components: K.
        data_shape: ``(D,)``.
        covariance: ``"full"``, ``"tied"`` (one full covariance), ``"diag"`` or ``"spherical"``.
        floor: ε, every covariance is at least ε I; in squared units of the data.
        encoder: For an amortized q(z given x): a module, x → ``Categorical`` (see ``networks.CategoricalEncoder``).
            Left out, z is enumerated in the model, and the guide is empty.
        dtype: Type of the parameters; float64 unless you say otherwise.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> gmm = GaussianMixture(num_components=3, data_shape=(2,), covariance="diag")
        >>> gmm.log_prob(torch.zeros(4, 2)).shape
        torch.Size([4])

    Reference:
        Dempster, Laird and Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm.
    """

    def __init__(
        self,
        num_components: int,
        data_shape: int | tuple[int, ...],
        covariance: Covariance = "full",
        floor: float = 1e-6,
        *,
        encoder: nn.Module | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        if not (isinstance(num_components, int) and num_components >= 1):
            raise ValueError(f"`num_components` must be a whole number of at least 1, got {num_components!r}.")
        if covariance not in COVARIANCES:
            raise ValueError(f"`covariance` must be one of {COVARIANCES}, got {covariance!r}.")
        self.num_components, self.num_dims = num_components, flat_dims(data_shape)
        self.data_shape = (self.num_dims,)
        self.covariance, self.floor = covariance, check_floor(floor)
        self.floats_per_datum = num_components * self.num_dims
        self.smallest_chunk = 2 * self.num_dims if covariance in ("full", "tied") else 1
        self.model = GaussianMixtureModel(num_components, self.num_dims, covariance, self.floor, dtype)
        self.guide = MarginalGuide() if encoder is None else AmortizedGuide(encoder)
        if encoder is None:
            self.config = {
                "num_components": num_components,
                "data_shape": list(self.data_shape),
                "covariance": covariance,
                "floor": self.floor,
            }

    # ------------------------------------------------------------------------------------------------- parameters

    @property
    def weights(self) -> Tensor:
        """π, shape (K,)."""
        return self.model.logits.softmax(0)

    @property
    def means(self) -> Tensor:
        """μ, shape (K, D)."""
        return cast(Tensor, self.model.means)

    @property
    def covariances(self) -> Tensor:
        """Σ as in scikit-learn: (K, D, D) full, (D, D) tied, (K, D) diag, (K,) spherical; the floor included."""
        factor = cast(Tensor, self.model.covariance_factor)
        if self.model.matrix_valued:
            covariance = factor @ factor.mT + self.floor * torch.eye(
                self.num_dims, dtype=factor.dtype, device=factor.device
            )
            return covariance[0] if self.covariance == "tied" else covariance
        variance = factor.square() + self.floor
        return variance[:, 0] if self.covariance == "spherical" else variance

    @property
    def num_free_parameters(self) -> int:
        """K − 1 weights, K D means, and the entries of the symmetric covariances."""
        k, d = self.num_components, self.num_dims
        covariance = {"full": k * d * (d + 1) // 2, "tied": d * (d + 1) // 2, "diag": k * d, "spherical": k}
        return k - 1 + k * d + covariance[self.covariance]

    # ------------------------------------------------------------------------------------------------- densities

    def log_prob(self, x: Observations | Tensor) -> Tensor:
        """Exact log p(x) = log Σ_k π_k Normal(x; μ_k, Σ_k), shape (N,), nats per datum."""
        return self._log_joint(self.as_input(x)).logsumexp(1)

    def posterior(self, x: Observations | Tensor) -> dist.Categorical:
        """Exact p(z given x), the responsibilities: categorical over K, batch shape (N,)."""
        return dist.Categorical(logits=self._log_joint(self.as_input(x)))

    def posterior_kl(self, x: Observations | Tensor) -> Tensor:
        """Exact KL(p(z given x) ‖ p(z)) = Σ_k r_k log(r_k / π_k), shape (N,), nats."""
        posterior = self.posterior(x)
        log_ratio = posterior.logits - self.model.logits.log_softmax(0)
        return (posterior.probs * log_ratio.nan_to_num(0.0)).sum(1)

    def _log_joint(self, x: Tensor) -> Tensor:
        """log π_k + log Normal(x; μ_k, Σ_k), shape (N, K), in chunks of rows that bound the (K, rows, D) in between."""
        if self.model.matrix_valued:
            scale_tril = self.model.scale_tril()
            identity = torch.eye(self.num_dims, dtype=x.dtype, device=x.device).expand_as(scale_tril)
            whitening = torch.linalg.solve_triangular(scale_tril, identity, upper=False).mT
            log_det = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        else:
            scale = self.model.scale()
            whitening = 1 / scale[:, None]
            log_det = scale.log().sum(-1)
        constant = self.model.logits.log_softmax(0) - log_det - 0.5 * self.num_dims * math.log(2 * math.pi)
        blocks = []
        for rows in x.split(max(self.smallest_chunk, CHUNK_FLOATS // self.floats_per_datum)):
            deviations = rows - self.means[:, None]  # (K, rows, D)
            whitened = deviations @ whitening if self.model.matrix_valued else deviations * whitening
            blocks.append(constant - 0.5 * whitened.square().sum(-1).T)
        return torch.cat(blocks)

    # ------------------------------------------------------------------------------------------------- EM

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """k-means++ centres, refined by ten Lloyd steps; covariances start at the pooled one within the clusters.

        Raises:
            ValueError: If there are fewer data than components.

        Reference:
            Arthur and Vassilvitskii (2007), k-means++: the advantages of careful seeding.
        """
        if len(x) < self.num_components:
            raise ValueError(
                f"`num_components` must be at most the number of data, {len(x)}, got {self.num_components}."
            )
        centres = _kmeans_plus_plus(x, self.num_components)
        for _ in range(10):
            nearest = torch.cdist(x, centres).argmin(1)
            counts = torch.bincount(nearest, minlength=self.num_components)[:, None]
            sums = torch.zeros_like(centres).index_add_(0, nearest, x)
            centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
        nearest = torch.cdist(x, centres).argmin(1)
        counts = torch.bincount(nearest, minlength=self.num_components).to(x.dtype)
        within = x - centres[nearest]
        self.model.logits.copy_((counts.clamp_min(1) / counts.clamp_min(1).sum()).log())
        self.model.means.copy_(centres)
        pooled = within.T @ within / len(x) if self.model.matrix_valued else within.square().mean(0)
        self._set_covariances(pooled.double().expand(self.num_components, *pooled.shape), counts.double())

    @torch.no_grad()
    def expected_statistics(self, x: Tensor) -> dict[str, Tensor]:
        """E step: with responsibilities r, the sums Σr, Σr(x − μ) and Σr(x − μ)(x − μ)ᵀ about the current means."""
        log_joint = self._log_joint(x)
        log_prob = log_joint.logsumexp(1)
        responsibilities = (log_joint - log_prob[:, None]).exp().T[..., None]  # (K, N, 1)
        deviations = x - self.means[:, None]
        weighted = responsibilities * deviations
        second = weighted.mT @ deviations if self.model.matrix_valued else (weighted * deviations).sum(1)
        return {
            "log_prob": log_prob.double().sum(),
            "count": torch.tensor(float(len(x)), dtype=torch.float64, device=x.device),
            "mass": responsibilities.double().sum((1, 2)),
            "first": weighted.double().sum(1),
            "second": second.double(),
        }

    @torch.no_grad()
    def maximize(self, statistics: dict[str, Tensor]) -> None:
        """M step under Σ_k ⪰ ε I: exact, because clipping the eigenvalues of the scatter at ε maximises under it."""
        mass = statistics["mass"].clamp_min(torch.finfo(torch.float64).tiny)
        shift = statistics["first"] / mass[:, None]
        second = statistics["second"] / mass.reshape(-1, *[1] * (statistics["second"].ndim - 1))
        outer = shift[:, :, None] * shift[:, None] if self.model.matrix_valued else shift.square()
        self.model.logits.copy_(mass.log() - mass.sum().log())
        self.model.means.add_(shift)
        self._set_covariances(second - outer, mass)

    @torch.no_grad()
    def maximum_likelihood(self, x: Tensor) -> None:
        """Set the parameters to the global maximum, which is known for one component.

        Raises:
            ValueError: If there is more than one component.
        """
        if self.num_components > 1:
            raise ValueError(
                f"`num_components` must be 1 for a closed form, got {self.num_components}; fit the mixture by fit.em."
            )
        mean = x.mean(0)
        deviations = x - mean
        scatter = deviations.T @ deviations if self.model.matrix_valued else deviations.square().sum(0)
        self.model.means.copy_(mean[None])
        self._set_covariances(scatter[None].double() / len(x), mean.new_ones(1).double())

    def _set_covariances(self, scatter: Tensor, mass: Tensor) -> None:
        """Take A from Σ = A Aᵀ + ε I, for scatters (K, D, D) or (K, D) of components with the given mass."""
        if self.covariance == "tied":
            scatter = (scatter * (mass / mass.sum())[:, None, None]).sum(0, keepdim=True)
        elif self.covariance == "spherical":
            scatter = scatter.mean(1, keepdim=True)
        if not self.model.matrix_valued:
            self.model.covariance_factor.copy_((scatter - self.floor).clamp_min(0).sqrt())
            return
        scatter = (scatter + scatter.mT) / 2
        excess = scatter - self.floor * torch.eye(self.num_dims, dtype=scatter.dtype, device=scatter.device)
        factor, info = torch.linalg.cholesky_ex(excess)
        clipped = info != 0  # the floor binds: clip the spectrum
        if clipped.any():
            values, vectors = torch.linalg.eigh(excess[clipped])
            factor[clipped] = vectors * values.clamp_min(0).sqrt()[:, None]
        self.model.covariance_factor.copy_(factor)


def _kmeans_plus_plus(x: Tensor, num_centres: int) -> Tensor:
    """Centres drawn from the data, each with probability proportional to its squared distance from those before."""
    centres = x[torch.randint(len(x), (1,), device=x.device)]
    squared = torch.full((len(x),), math.inf, dtype=x.dtype, device=x.device)
    for _ in range(num_centres - 1):
        squared = torch.minimum(squared, (x - centres[-1]).square().sum(1))
        probabilities = squared if squared.sum() > 0 else torch.ones_like(squared)
        centres = torch.cat([centres, x[torch.multinomial(probabilities, 1)]])
    return centres
