"""The Gaussian mixture: p(x) = Σ_k π_k Normal(x; μ_k, Σ_k), every Σ_k ⪰ ε I.

The covariances are held as Σ_k = A_k A_kᵀ + ε I, so that gradient steps and the exact constrained M step move in one
feasible set, {Σ ⪰ ε I}, and neither can collapse a component onto a datum.  What depends on their form (full, tied,
diagonal, spherical) is in :mod:`pyrovae.models.covariances`.  What every mixture has is in
:mod:`pyrovae.models.mixture`: the program, z ~ Categorical(π) and x ~ component z, and the responsibilities p(z|x) of
the E step.
"""

import math
from typing import TYPE_CHECKING, Any, Literal, Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.engine.checks import check_choice
from pyrovae.models.base import Missing
from pyrovae.models.covariances import FORMS, Diagonal, Full
from pyrovae.models.floors import FAR_BELOW, FLOOR, degenerate
from pyrovae.models.guides import AmortizedGuide, MarginalGuide
from pyrovae.models.mixture import Mixture, MixtureModel
from pyrovae.models.sklearn_bridge import check_density, estimator_of, mixture_parameters
from pyrovae.models.starts import Clusters, checked_start
from pyrovae.models.tractable import derived

if TYPE_CHECKING:
    import sklearn.mixture

Covariance = Literal["full", "tied", "diag", "spherical"]
COVARIANCES = tuple(FORMS)
NEGLIGIBLE = 1e-30  # responsibilities below this add nothing, to rounding, to any sum


class GaussianMixtureModel(MixtureModel):
    """z ~ Categorical(π);  x ~ Normal(μ_z, Σ_z)."""

    means: Tensor
    covariance_factor: Tensor

    def __init__(
        self, num_components: int, num_dims: int, covariance: Covariance, floor: float, dtype: torch.dtype
    ) -> None:
        super().__init__(num_components, floor, dtype)
        self.form = FORMS[covariance]
        self.means = nn.Parameter(torch.zeros(num_components, num_dims, dtype=dtype))
        self.covariance_factor = nn.Parameter(self.form.unit(num_components, num_dims, dtype))

    def gaussians(self) -> Full | Diagonal:
        """Normal(μ_k, A_k A_kᵀ + ε I) for every k."""
        return self.form(self.means, self.covariance_factor, self.floor)

    # MixtureModel.forward samples "z" from Categorical(π), enumerated, and "x" from component(z).
    def component(self, k: Any) -> dist.TorchDistribution:
        return self.gaussians().normal(k)


class GaussianMixture(Mixture):
    """Mixture of K Gaussians, exact likelihood and posterior.

    Args:
        num_components: K.
        data_shape: ``(D,)``.
        covariance: ``"full"``, ``"tied"`` (one full covariance), ``"diag"`` or ``"spherical"``.
        floor: ε, every covariance is at least ε I; in squared units of the data.  Left out, a fit takes it from the
            data: 4e-3 times the mean variance of a dimension; until then it is 4e-3.
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

    model: GaussianMixtureModel
    relative_floor = FLOOR
    in_units = ("means", "covariance_factor")

    def __init__(
        self,
        num_components: int,
        data_shape: int | tuple[int, ...],
        covariance: Covariance = "full",
        floor: float | None = None,
        *,
        start: str | Tensor = "k-means++",
        missing: Missing = "error",
        encoder: nn.Module | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__(num_components, data_shape, missing)
        check_choice("covariance", covariance, COVARIANCES)
        self.covariance, self.start = covariance, checked_start(start, num_components, self.num_dims)
        self.model = GaussianMixtureModel(num_components, self.num_dims, covariance, self._first_floor(floor), dtype)
        self.guide = MarginalGuide() if encoder is None else AmortizedGuide(encoder)
        if encoder is None:
            self.config = self._plain("num_components", "data_shape", "covariance", "floor", "missing")
        matrices = self.model.form.matrices
        if missing == "nan":
            self.floats_per_datum = 4 * num_components * self.num_dims * (1 + matrices * self.num_dims)
        elif matrices:
            self.smallest_chunk = 2 * self.num_dims

    @classmethod
    def from_parameters(
        cls,
        weights: Tensor,
        means: Tensor,
        covariances: Tensor,
        covariance: Covariance = "full",
        floor: float = 1e-6,
        missing: Missing = "error",
    ) -> "GaussianMixture":
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
        with torch.no_grad():
            mixture._set_weights(weights.double())
            mixture.model.means.copy_(means)
            mixture._set_covariances(covariances.double().reshape(mixture.model.covariance_factor.shape))
        return mixture

    @classmethod
    def from_sklearn(
        cls, estimator: "sklearn.mixture.GaussianMixture", floor: float | None = None
    ) -> "GaussianMixture":
        """The mixture that a fitted ``sklearn.mixture.GaussianMixture`` holds.

        Args:
            estimator: A fitted estimator.
            floor: ε, to which smaller eigenvalues are lifted; by default the estimator's ``reg_covar``, and if that is
                0 one that lifts nothing.

        Raises:
            TypeError: If it is another estimator, such as a ``BayesianGaussianMixture``, whose p(z|x) is that of no
                Gaussian mixture.
            ValueError: If it is not fitted, or its density is not that of the parameters that it shows.
        """
        weights, means, covariances, own_floor = mixture_parameters(estimator)
        given = own_floor if floor is None else floor
        mixture = cls.from_parameters(weights, means, covariances, estimator.covariance_type, given)
        if floor is None:
            check_density(mixture.score_samples(mixture.means), estimator, mixture.means.detach())
        return mixture

    @torch.no_grad()
    def to_sklearn(self) -> "sklearn.mixture.GaussianMixture":
        """A fitted ``sklearn.mixture.GaussianMixture`` with these parameters, as numpy arrays on the CPU.

        It has seen no data: ``n_iter_`` is 0, ``lower_bound_`` −∞, and ``converged_`` True, as ``warm_start`` asks.
        Its ``reg_covar`` is the floor, which a further fit by scikit-learn adds to every variance.
        """
        return estimator_of(self.weights, self.model.gaussians(), self.covariance)

    # ------------------------------------------------------------------------------------------------- parameters

    @property
    def means(self) -> Tensor:
        """μ, shape (K, D)."""
        return self.model.means

    @property
    def covariances(self) -> Tensor:
        """Σ as in scikit-learn: (K, D, D) full, (D, D) tied, (K, D) diag, (K,) spherical; the floor included."""
        return self.model.gaussians().covariances[self.model.form.as_in_sklearn]

    @property
    def num_free_parameters(self) -> int:
        """K − 1 weights, K D means, and the entries of the symmetric covariances."""
        return self.num_components * (1 + self.num_dims) - 1 + self.model.gaussians().num_entries

    def _eigenvalues(self) -> Tensor:
        return self.model.gaussians().eigenvalues()

    def _lift(self, lower: Self, floor: float) -> None:
        super()._lift(lower, floor)
        self._set_covariances(lower.model.gaussians().exact_covariances)

    # ------------------------------------------------------------------------------------------------- E step
    # Mixture.expected_statistics (mixture.py) takes r = softmax_k of _log_joint(x), N_k = Σr, and the sums of
    # _component_statistics(x, r).

    def _log_joint(self, x: Tensor) -> Tensor:
        """log π_k + log Normal(x; μ_k, Σ_k) for a chunk of data (n, D), shape (K, n)."""
        if self._incomplete(x):
            return self._gaussians().conditionals(x).log_density + self.model.logits.log_softmax(0)[:, None]
        whitening, constant = self._whitening()
        data = x.T.contiguous()
        distances = []
        for k, mean in enumerate(self.means):
            deviations = data - mean[:, None]
            white = self.model.form.whiten(whitening[k if len(whitening) > 1 else 0], deviations)
            distances.append(white.square().sum(0))
        return constant[:, None] - 0.5 * torch.stack(distances)

    @derived
    def _whitening(self) -> tuple[Tensor, Tensor]:
        """L⁻¹, or 1/σ, with Σ = L Lᵀ, which makes component k white; and log π_k − log|L| − ½ D log 2π, (K,)."""
        whitening, log_det = self.model.gaussians().whitening()  # of L: half of log|Σ|
        log_weights = self.model.logits.double().log_softmax(0)
        constant = log_weights - log_det - 0.5 * self.num_dims * math.log(2 * math.pi)
        return whitening.to(self.means.dtype), constant.to(self.means.dtype)

    def _component_statistics(self, x: Tensor, responsibilities: Tensor) -> dict[str, Tensor]:
        """With responsibilities r, the sums Σr(x − μ) and Σr(x − μ)(x − μ)ᵀ about the current means."""
        if self._incomplete(x):
            return self._gaussians().conditionals(x).statistics(self.means, responsibilities)
        data = x.T.contiguous()
        first, second = [], []
        costly = self.model.form.matrices and self.num_dims > 16
        for mean, r in zip(self.means, responsibilities, strict=True):
            some = data
            if costly:  # of well-separated components, most data count for nothing
                counted = (r > NEGLIGIBLE).nonzero().squeeze(1)
                if len(counted) < 0.7 * len(r):
                    some, r = data[:, counted], r[counted]
            deviations = some - mean[:, None]
            weighted = deviations * r
            first.append(weighted.sum(1))
            second.append(self.model.form.products(weighted, deviations))
        return {"first": torch.stack(first).double(), "second": torch.stack(second).double()}

    # ------------------------------------------------------------------------------------------------- M step

    @torch.no_grad()
    def maximize(self, statistics: dict[str, Tensor]) -> None:
        """M step under the constraint Σ_k ⪰ ε I, with N_k = Σr, which is ``statistics["mass"]``.

        π_k = N_k / N;  μ_k ← μ_k + δ_k with δ_k = Σr(x − μ_k) / N_k;  Σ_k = Σr(x − μ_k)(x − μ_k)ᵀ / N_k − δ_k δ_kᵀ with
        its eigenvalues clipped at ε.  The clipped Σ_k is the exact maximum among all Σ ⪰ ε I.
        """
        shift, scatter = self._scatter(statistics)
        self._set_weights(statistics["mass"])
        self.model.means.add_(shift)
        self._set_covariances(self.model.form.pooled(scatter, statistics["mass"]))

    def _scatter(self, statistics: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """How far each mean moves (K, D), and the covariance about the new one, not yet constrained."""
        mass = statistics["mass"].clamp_min(torch.finfo(torch.float64).tiny)
        shift = statistics["first"] / mass[:, None]
        second = statistics["second"] / mass.reshape(-1, *[1] * (statistics["second"].ndim - 1))
        return shift, second.sub_(self.model.form.outer(shift))

    def _set_covariances(self, covariances: Tensor) -> None:
        """Set A so that A Aᵀ + ε I is the given Σ, its eigenvalues clipped at ε."""
        self.model.covariance_factor.copy_(self.model.form.factor_of(covariances, self.floor))

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
        self._floor_from(x, weight)
        self.model.means.copy_(x.mean(0, keepdim=True))
        ones = torch.ones_like(x[:, 0]) if weight is None else weight
        rows = 4096
        sums = [
            {"mass": r.sum()[None].double(), **self._component_statistics(chunk, r[None])}
            for chunk, r in zip(x.split(rows), ones.split(rows), strict=True)
        ]
        self.maximize({name: sum(each[name] for each in sums) for name in sums[0]})

    @torch.no_grad()
    def degeneracies(self, statistics: dict[str, Tensor]) -> list[str]:
        """Components with next to no data, and those whose data are far flatter than the floor, where not all are."""
        shift, scatter = self._scatter(statistics)
        share = statistics["mass"] / statistics["mass"].sum()
        centred = self.means + shift - share @ (self.means + shift)
        form = self.model.form
        whole = torch.tensordot(share, scatter + form.outer(centred), 1)
        own = form.smallest(form.pooled(scatter, statistics["mass"]))
        flat = degenerate(own, FAR_BELOW, form.smallest(whole), self.floor).any(1)
        names = ["the tied covariance"] if self.covariance == "tied" else [f"component {k}" for k in range(len(flat))]
        return super().degeneracies(statistics) + [
            f"{names[k]} is at the floor, {self.floor:g}, in a direction in which the data vary"
            for k in flat.nonzero().flatten().tolist()
        ]

    def _start_components(self, x: Tensor, weight: Tensor, clusters: Clusters) -> None:
        """Means at the centres, every covariance at the pooled one within the clusters."""
        centres, nearest, mass = clusters
        self.model.means.copy_(centres)
        within = ((x - centres[nearest]) * weight.sqrt()[:, None]).T
        pooled = (self.model.form.products(within, within) / weight.sum()).double()
        self._set_covariances(self.model.form.pooled(pooled.expand(self.num_components, *pooled.shape), mass.double()))

    # ------------------------------------------------------------------------------------------------- missing values

    @derived
    def _gaussians(self) -> Full | Diagonal:
        """The components, which hold what their conditionals share."""
        return self.model.gaussians()

    def _moments_given_observed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        conditionals = self._gaussians().conditionals(x)
        log_joint = conditionals.log_density + self.model.logits.log_softmax(0)[:, None]
        responsibilities = log_joint.softmax(0)[..., None]
        mean = (responsibilities * conditionals.mean).sum(0)
        spread = conditionals.variance + (conditionals.mean - mean).square()
        return mean, (responsibilities * spread).sum(0)
