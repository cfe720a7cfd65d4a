"""The Gaussian mixture: p(x) = Σ_k π_k Normal(x; μ_k, Σ_k), every Σ_k ⪰ ε I.

The covariances are held as Σ_k = A_k A_kᵀ + ε I, so that gradient steps and the exact constrained M step move in one
feasible set, {Σ ⪰ ε I}, and neither can collapse a component onto a datum.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Self, cast

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.models.base import Missing, Program, check_floor, check_missing
from pyrovae.models.guides import AmortizedGuide, MarginalGuide
from pyrovae.models.linear_algebra import lower_triangular_product, symmetric_product
from pyrovae.models.missing import ConditionalGaussians, column_means, fill_columns
from pyrovae.models.mixture import SUPPORTED_BY_FLOOR, Mixture, start_clusters
from pyrovae.models.tractable import derived

if TYPE_CHECKING:
    import sklearn.mixture

Covariance = Literal["full", "tied", "diag", "spherical"]
COVARIANCES = ("full", "tied", "diag", "spherical")
STARTS = ("k-means++", "random")
NEGLIGIBLE = 1e-30  # responsibilities below this add nothing, to rounding, to any sum


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

    def cholesky(self) -> Tensor:
        """Cholesky factors of A Aᵀ + ε I, (K, D, D) or, tied, (1, D, D); in float64, because ε may be small."""
        factor = self.covariance_factor.double()
        identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        return torch.linalg.cholesky(torch.baddbmm(self.floor * identity, factor, factor.mT))

    def scale_tril(self) -> Tensor:
        """Cholesky factors of the covariances, shape (K, D, D)."""
        return self.cholesky().to(self.means.dtype).expand(len(self.means), -1, -1)

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


class GaussianMixture(Mixture):
    """Mixture of K Gaussians, exact likelihood and posterior.

    Args:
        num_components: K.
        data_shape: ``(D,)``.
        covariance: ``"full"``, ``"tied"`` (one full covariance), ``"diag"`` or ``"spherical"``.
        floor: ε, every covariance is at least ε I; in squared units of the data.
        start: Where a fit starts: ``"k-means++"``, ``"random"`` (data drawn uniformly), or means of shape (K, D).  To
            start from weights, means and covariances, see :meth:`from_parameters` and ``fit.em(..., warm_start=True)``.
        missing: ``"nan"`` lets a NaN stand for a value that was not observed: fits by EM, densities and posteriors are
            then those of the observed values.
        encoder: For an amortized q(z|x): a module, x → ``Categorical`` (see ``networks.CategoricalEncoder``).
            Left out, z is enumerated in the model, and the guide is empty.
        dtype: Type of the parameters; float64 unless you say otherwise.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> gmm = GaussianMixture(num_components=3, data_shape=(2,), covariance="diag")
        >>> gmm.log_prob(torch.zeros(4, 2)).shape
        torch.Size([4])

    Reference:
        Dempster, Laird and Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm; Ghahramani and
        Jordan (1994), Supervised learning from incomplete data via an EM approach, for missing values.
    """

    def __init__(
        self,
        num_components: int,
        data_shape: int | tuple[int, ...],
        covariance: Covariance = "full",
        floor: float = 1e-6,
        *,
        start: str | Tensor = "k-means++",
        missing: Missing = "error",
        encoder: nn.Module | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        self._describe(num_components, data_shape)
        if covariance not in COVARIANCES:
            raise ValueError(f"`covariance` must be one of {COVARIANCES}, got {covariance!r}.")
        start = start if isinstance(start, str) else torch.as_tensor(start)
        if not (start in STARTS if isinstance(start, str) else start.shape == (num_components, self.num_dims)):
            given = repr(start) if isinstance(start, str) else f"a tensor of shape {tuple(start.shape)}"
            raise ValueError(
                f"`start` must be one of {STARTS} or means of shape ({num_components}, {self.num_dims}), got {given}."
            )
        self.covariance, self.floor = covariance, check_floor(floor)
        self.start, self.missing = start, check_missing(missing)
        matrix_valued = covariance in ("full", "tied")
        self.smallest_chunk = 2 * self.num_dims if matrix_valued else 1
        if missing == "nan":
            pattern = num_components * self.num_dims**2 if matrix_valued else 0
            self.floats_per_datum = 4 * (num_components * self.num_dims + pattern)
            self.smallest_chunk = 1
        self.model = GaussianMixtureModel(num_components, self.num_dims, covariance, self.floor, dtype)
        self.guide = MarginalGuide() if encoder is None else AmortizedGuide(encoder)
        if encoder is None:
            self.config = {
                "num_components": num_components,
                "data_shape": list(self.data_shape),
                "covariance": covariance,
                "floor": self.floor,
                "missing": missing,
            }

    @classmethod
    def from_parameters(
        cls,
        weights: Tensor,
        means: Tensor,
        covariances: Tensor,
        covariance: Covariance = "full",
        floor: float = 1e-6,
        missing: Missing = "error",
    ) -> GaussianMixture:
        """A mixture with the given parameters, of their type; covariances below the floor are lifted to it.

        Args:
            weights: π, shape (K,), summing to 1.
            means: μ, shape (K, D).
            covariances: Σ in the shape of :attr:`covariances`, that of scikit-learn.
            covariance: Their form.
            floor: ε.
            missing: As for the class.

        Raises:
            ValueError: If the shapes do not fit one another, or the weights do not sum to 1.
        """
        if weights.shape != means.shape[:1] or means.ndim != 2:
            raise ValueError(
                f"`weights` and `means` must have shapes (K,) and (K, D), got {tuple(weights.shape)} and "
                f"{tuple(means.shape)}."
            )
        if (weights < 0).any() or not math.isclose(weights.sum().item(), 1, rel_tol=1e-4):
            raise ValueError(f"`weights` must be positive and sum to 1, got a sum of {weights.sum().item():g}.")
        mixture = cls(len(means), means.shape[1], covariance, floor, missing=missing, dtype=means.dtype)
        if covariances.shape != mixture.covariances.shape:
            raise ValueError(
                f"`covariances` must have shape {tuple(mixture.covariances.shape)} for {covariance!r}, "
                f"got {tuple(covariances.shape)}."
            )
        full = {"tied": lambda: covariances[None], "spherical": lambda: covariances[:, None]}
        with torch.no_grad():
            mixture._set_weights(weights.double())
            mixture.model.means.copy_(means)
            mixture._set_factor(full.get(covariance, lambda: covariances)().double())
        return mixture

    @classmethod
    def from_sklearn(cls, estimator: sklearn.mixture.GaussianMixture, floor: float | None = None) -> GaussianMixture:
        """The mixture that a fitted ``sklearn.mixture.GaussianMixture`` holds.

        Args:
            estimator: A fitted estimator.
            floor: ε; by default the estimator's ``reg_covar``.
        """
        weights, means, covariances = (
            torch.as_tensor(value) for value in (estimator.weights_, estimator.means_, estimator.covariances_)
        )
        floor = estimator.reg_covar if floor is None else floor
        return cls.from_parameters(weights, means, covariances, estimator.covariance_type, floor)

    @torch.no_grad()
    def to_sklearn(self) -> sklearn.mixture.GaussianMixture:
        """A fitted ``sklearn.mixture.GaussianMixture`` with these parameters, as numpy arrays on the CPU."""
        import numpy as np
        from sklearn.mixture import GaussianMixture as Estimator

        estimator = Estimator(self.num_components, covariance_type=self.covariance, reg_covar=self.floor)
        estimator.weights_, estimator.means_, estimator.covariances_ = (
            value.cpu().numpy().copy() for value in (self.weights, self.means, self.covariances)
        )
        if self.model.matrix_valued:
            precision_cholesky = np.linalg.inv(self.model.cholesky().cpu().numpy()).swapaxes(-1, -2)
            precision_cholesky = precision_cholesky[0] if self.covariance == "tied" else precision_cholesky
            estimator.precisions_ = precision_cholesky @ precision_cholesky.swapaxes(-1, -2)
        else:
            precision_cholesky = estimator.covariances_**-0.5
            estimator.precisions_ = 1 / estimator.covariances_
        estimator.precisions_cholesky_ = precision_cholesky
        estimator.converged_, estimator.n_features_in_ = True, self.num_dims
        return estimator

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

    def as_distribution(self) -> dist.MixtureSameFamily:
        """p(x) as a distribution of Pyro, event shape (D,): the prior of another program, say.

        Its parameters are this model's own: gradients flow into them, and a later change of them does not show.

        Example:
            >>> gmm = GaussianMixture(num_components=3, data_shape=(2,))
            >>> gmm.as_distribution().log_prob(torch.zeros(4, 2, dtype=torch.float64)).shape
            torch.Size([4])
        """
        if self.model.matrix_valued:
            component = dist.MultivariateNormal(self.means, scale_tril=self.model.scale_tril())
        else:
            component = dist.Normal(self.means, self.model.scale()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.model.logits), component)

    # ------------------------------------------------------------------------------------------------- floor

    @property
    def covariance_floor(self) -> float:
        return self.floor

    def _eigenvalues(self) -> Tensor:
        if not self.model.matrix_valued:
            return self.model.scale().square()
        return torch.linalg.eigvalsh(self._covariance_matrices()).expand(self.num_components, -1)

    @torch.no_grad()
    def with_floor(self, floor: float) -> Self:
        lifted = self.copy()
        lifted.floor = lifted.model.floor = check_floor(floor)
        factor = self.model.covariance_factor
        own = self._covariance_matrices() if self.model.matrix_valued else factor.double().square() + self.floor
        lifted._set_factor(own)
        lifted.config = None if self.config is None else {**self.config, "floor": lifted.floor}
        return lifted

    # ------------------------------------------------------------------------------------------------- densities

    @derived
    def _whitening(self) -> tuple[Tensor, Tensor]:
        """What makes component k white, and log π_k less its normaliser (K,).

        L⁻¹ (K, D, D) for full covariances Σ = L Lᵀ, (1, D, D) for a tied one, else 1/σ (K, D).
        """
        if self.model.matrix_valued:
            cholesky = self.model.cholesky()
            identity = torch.eye(self.num_dims, dtype=cholesky.dtype, device=cholesky.device)
            whitening = torch.linalg.solve_triangular(cholesky, identity.expand_as(cholesky), upper=False)
            log_det = cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        else:
            scale = self.model.scale().double()
            whitening, log_det = 1 / scale, scale.log().sum(-1)
        log_weights = self.model.logits.double().log_softmax(0)
        constant = log_weights - log_det - 0.5 * self.num_dims * math.log(2 * math.pi)
        return whitening.to(self.means.dtype), constant.to(self.means.dtype)

    def _log_joint(self, x: Tensor) -> Tensor:
        """log π_k + log Normal(x; μ_k, Σ_k) for a chunk of data (n, D), shape (K, n)."""
        if self._incomplete(x):
            return self._conditionals(x).log_density + self.model.logits.log_softmax(0)[:, None]
        whitening, constant = self._whitening()
        data = x.T.contiguous()
        distances = []
        for k, mean in enumerate(self.means):
            deviations = data - mean[:, None]
            factor = whitening[k if len(whitening) > 1 else 0]
            white = (
                lower_triangular_product(factor, deviations)
                if self.model.matrix_valued
                else deviations * factor[:, None]
            )
            distances.append(white.square().sum(0))
        return constant[:, None] - 0.5 * torch.stack(distances)

    def _conditionals(self, x: Tensor) -> ConditionalGaussians:
        """Each component's Gaussian, conditioned on the observed entries of a chunk with missing values."""
        if self.model.matrix_valued:
            return ConditionalGaussians.of_matrices(x, self.means, self._covariance_matrices())
        return ConditionalGaussians.of_variances(x, self.means, self.model.scale().square())

    @derived
    def _covariance_matrices(self) -> Tensor:
        """Σ, (K, D, D) or, tied, (1, D, D), in float64."""
        cholesky = self.model.cholesky()
        return cholesky @ cholesky.mT

    def _moments_given_observed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        conditionals = self._conditionals(x)
        log_joint = conditionals.log_density + self.model.logits.log_softmax(0)[:, None]
        responsibilities = log_joint.softmax(0)[..., None]
        mean = (responsibilities * conditionals.mean).sum(0)
        spread = conditionals.variance + (conditionals.mean - mean).square()
        return mean, (responsibilities * spread).sum(0)

    # ------------------------------------------------------------------------------------------------- EM

    @torch.no_grad()
    def initialize(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Centres by ``start``, refined by ten Lloyd steps; covariances start at the pooled one within the clusters.

        Raises:
            ValueError: If there are fewer data than components.
        """
        x = fill_columns(x, column_means(x))
        centres, nearest = start_clusters(x, weight, self.num_components, self.start)
        weight = torch.ones_like(x[:, 0]) if weight is None else weight
        mass = torch.zeros_like(centres[:, 0]).index_add_(0, nearest, weight)
        within = (x - centres[nearest]) * weight.sqrt()[:, None]
        self._set_weights(mass.clamp_min(1).double())
        self.model.means.copy_(centres)
        pooled = symmetric_product(within.T, within.T) if self.model.matrix_valued else within.square().sum(0)
        pooled = (pooled / weight.sum()).double()
        pooled = pooled.expand(self.num_components, *pooled.shape)
        self._set_factor(self._of_one_form(pooled, mass.double()))

    def _component_statistics(self, x: Tensor, responsibilities: Tensor) -> dict[str, Tensor]:
        """With responsibilities r, the sums Σr(x − μ) and Σr(x − μ)(x − μ)ᵀ about the current means."""
        if self._incomplete(x):
            return self._conditionals(x).statistics(self.means, responsibilities)
        data = x.T.contiguous()
        first, second = [], []
        costly = self.model.matrix_valued and self.num_dims > 16
        for mean, r in zip(self.means, responsibilities, strict=True):
            some = data
            if costly:  # of well-separated components, most data count for nothing
                counted = (r > NEGLIGIBLE).nonzero().squeeze(1)
                if len(counted) < 0.7 * len(r):
                    some, r = data[:, counted], r[counted]
            deviations = some - mean[:, None]
            weighted = deviations * r
            first.append(weighted.sum(1))
            second.append(
                symmetric_product(weighted, deviations) if self.model.matrix_valued else (weighted * deviations).sum(1)
            )
        return {"first": torch.stack(first).double(), "second": torch.stack(second).double()}

    @torch.no_grad()
    def maximize(self, statistics: dict[str, Tensor]) -> None:
        """M step under Σ_k ⪰ ε I: exact, because clipping the eigenvalues of the scatter at ε maximises under it."""
        shift, scatter = self._scatter(statistics)
        self._set_weights(statistics["mass"])
        self.model.means.add_(shift)
        self._set_factor(self._of_one_form(scatter, statistics["mass"]))

    def _scatter(self, statistics: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """How far each mean moves (K, D), and the covariance about the new one, not yet constrained."""
        mass = statistics["mass"].clamp_min(torch.finfo(torch.float64).tiny)
        shift = statistics["first"] / mass[:, None]
        second = statistics["second"] / mass.reshape(-1, *[1] * (statistics["second"].ndim - 1))
        outer = shift[:, :, None] * shift[:, None] if self.model.matrix_valued else shift.square()
        return shift, second.sub_(outer)

    def _of_one_form(self, scatter: Tensor, mass: Tensor) -> Tensor:
        """Covariances of all components (K, D, D) or (K, D), pooled where the form asks for it; of the shape of A."""
        if self.covariance == "tied":
            return (scatter * (mass / mass.sum())[:, None, None]).sum(0, keepdim=True)
        return scatter.mean(1, keepdim=True) if self.covariance == "spherical" else scatter

    @torch.no_grad()
    def maximum_likelihood(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Set the parameters to the global maximum, which is known for one component and nothing missing.

        Raises:
            ValueError: If there is more than one component, or a value is missing.
        """
        if self.num_components > 1:
            raise ValueError(
                f"`num_components` must be 1 for a closed form, got {self.num_components}; fit the mixture by fit.em."
            )
        if x.isnan().any():
            raise ValueError("`data` must have nothing missing for a closed form, got NaN; use fit.em.")
        self.model.means.copy_(x.mean(0, keepdim=True))
        ones = torch.ones_like(x[:, 0]) if weight is None else weight
        rows = 4096
        sums = [
            {"mass": r.sum()[None].double(), **self._component_statistics(chunk, r[None])}
            for chunk, r in zip(x.split(rows), ones.split(rows), strict=True)
        ]
        self.maximize({name: sum(each[name] for each in sums) for name in sums[0]})

    def _set_factor(self, covariance: Tensor) -> None:
        """Take A from A Aᵀ + ε I = Σ, Σ in the shape that A has, with its spectrum clipped at ε."""
        if not self.model.matrix_valued:
            self.model.covariance_factor.copy_((covariance - self.floor).clamp_min(0).sqrt())
            return
        excess = covariance.clone()  # of which only the lower triangle is read
        excess.diagonal(dim1=-2, dim2=-1).sub_(self.floor)
        factor, info = torch.linalg.cholesky_ex(excess)
        clipped = info != 0  # the floor binds
        if clipped.any():
            values, vectors = torch.linalg.eigh(excess[clipped])
            factor[clipped] = vectors * values.clamp_min(0).sqrt()[:, None]
        self.model.covariance_factor.copy_(factor)

    @torch.no_grad()
    def degeneracies(self, statistics: dict[str, Tensor]) -> list[str]:
        """Components with next to no data, and those whose data are far flatter than the floor, where not all are."""
        shift, scatter = self._scatter(statistics)
        share = statistics["mass"] / statistics["mass"].sum()
        centred = self.means + shift - share @ (self.means + shift)
        own = self._of_one_form(scatter, statistics["mass"])
        if self.model.matrix_valued:
            whole = torch.einsum("k,kij->ij", share, scatter) + centred.T @ (centred * share[:, None])
            flat = (torch.linalg.eigvalsh(own)[:, 0] < SUPPORTED_BY_FLOOR * self.floor) & (
                torch.linalg.eigvalsh(whole)[0] > 10 * self.floor
            )
        else:
            flat = (
                (own < SUPPORTED_BY_FLOOR * self.floor) & (share @ (scatter + centred.square()) > 10 * self.floor)
            ).any(1)
        names = ["the tied covariance"] if self.covariance == "tied" else [f"component {k}" for k in range(len(flat))]
        return super().degeneracies(statistics) + [
            f"{names[k]} is held up by the floor, {self.floor:g}, in a direction in which the data vary"
            for k in flat.nonzero().flatten().tolist()
        ]
