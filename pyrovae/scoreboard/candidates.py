"""The standard comparison: every model fitted every way it can be, each baseline at its best on validation data.

A learned model is worth something only beside baselines that somebody has tried to make good.  So the number of
components, the form of the covariance, its floor and the latent dimension of the exact models are chosen here by
validation likelihood; among equals by the order of the candidates, which begins with the simplest.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from pyrovae import fit
from pyrovae.data import DataSet, Observations
from pyrovae.data.observations import MASSES
from pyrovae.engine.checks import check_whole
from pyrovae.engine.isolation import quiet
from pyrovae.engine.seeding import seeded
from pyrovae.fit import FitResult
from pyrovae.fit.defaults import LARGE_NUMBERS
from pyrovae.fit.verdict import BELOW
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.defaults import build, default_latent_dim
from pyrovae.models.floors import FLOOR, relative_floor

FitFunction = Callable[[Any], FitResult]

FORMS = ("diag", "full")
COMPONENTS = (2, 3, 5, 10, 20, 30, 60, 100)
LARGE_COMPONENTS: dict[str, tuple[int, ...]] = {"full": (10,), "diag": (10, 30), "Bernoulli": (30, 100)}
LATENT_DIMS = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 80, 120, 200, 300, 400)
RELATIVE_FLOORS = (4 * FLOOR, FLOOR, FLOOR / 4)  # times the mean variance of a dimension; the highest allows the least
PROBABILITY_FLOORS = (1e-2, 1e-3)  # of a mixture of Bernoullis
SELECTION_NUMBERS = LARGE_NUMBERS  # mixtures are chosen on so many numbers of the training data, N × D, at most


@dataclass(frozen=True, eq=False)
class Suite:
    """What :func:`standard_fits` returns.

    Attributes:
        fits: Results by row name, ready for ``compare``.
        chosen: For each baseline, one line on what was chosen on validation data, and from what.
    """

    fits: dict[str, FitResult]
    chosen: tuple[str, ...]


def standard_fits(
    dataset: DataSet,
    *,
    latent_dim: int | None = None,
    num_components: int | None = None,
    num_epochs: int | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    progress: bool | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Suite:
    """Fit one Gaussian, a mixture, probabilistic PCA and variational autoencoders, each every way it can be.

    On binary data, whose likelihood is a mass, the mixture and the autoencoders are of Bernoullis.  On integer pixels
    there are autoencoders only, with discretised logistics: no model here has an exact mass of integers.

    Args:
        dataset: Train and validation splits; the test split is not looked at.
        latent_dim: L of PPCA and of the autoencoders; by default chosen for PPCA, and 8 (or D − 1) for the
            autoencoders, 16 from 256 dimensions on.
        num_components: K; by default chosen.
        num_epochs: Passes over the data for the autoencoders; by default as ``fit.svi`` takes.
        device: Where to compute.
        seed: Of every fit.
        progress: Show progress bars.
        report: Called with a line on each stage.

    Raises:
        ValueError: If there are no validation data, or an argument does not fit the data.
    """
    if dataset.valid is None:
        raise ValueError("`dataset` must have validation data, on which the baselines are chosen, got None.")
    _check_sizes(dataset.train, latent_dim, num_components)
    baselines = _Baselines(dataset.train, dataset.valid, device, seed, progress, report)
    size = latent_dim or default_latent_dim(dataset.train)
    support = dataset.train.space.support
    if support not in MASSES:
        baselines.gaussian()
    if support != "integer":
        baselines.mixture(num_components)
    if support not in MASSES and dataset.train.num_dims > 1:
        baselines.ppca(latent_dim)
    if support == "boolean":
        networks: dict[str, dict[str, Any]] = {f"VAE-{size}": {}, f"linear VAE-{size}": {"hidden": ()}}
    else:
        networks = {f"VAE-{size}, one σ": {"scale": "shared"}, f"VAE-{size}, σ(z)": {"scale": "decoder"}}
    epochs: dict[str, Any] = {} if num_epochs is None else {"num_epochs": num_epochs}
    if not baselines.is_complete:
        baselines.chosen.append("autoencoders and fits by SVI: left out, as they take no missing values")
        networks = {}
    for name, options in networks.items():  # of each the best epoch on validation data is kept
        baselines.svi(name, baselines.model("vae", latent_dim=size, **options), valid=dataset.valid, **epochs)
    return Suite(baselines.fits, tuple(baselines.chosen))


def _check_sizes(train: Observations, latent_dim: int | None, num_components: int | None) -> None:
    """Refuse at once what a fit would refuse after minutes."""
    check_whole("latent_dim", latent_dim, optional=True)
    check_whole("num_components", num_components, optional=True)
    if (train.x == train.x[0]).all():
        raise ValueError("`dataset` must hold training data that differ, got one value throughout.")
    if latent_dim is not None and latent_dim >= train.num_dims > 1 and train.space.support not in MASSES:
        raise ValueError(
            f"`latent_dim` must be below the number of dimensions, {train.num_dims}, got {latent_dim}; "
            "probabilistic PCA would have no noise left to model."
        )
    num_data = min(len(train), SELECTION_NUMBERS // train.num_dims)
    if num_components is not None and num_components > num_data:
        raise ValueError(
            f"`num_components` must be at most the number of training data, {num_data:,}, got {num_components:,}."
        )


@dataclass(frozen=True, eq=False)
class _Baselines:
    """Fits row after row; keeps the results, and what was chosen."""

    train: Observations
    valid: Observations
    device: torch.device | str
    seed: int
    progress: bool | None
    report: Callable[[str], None]
    fits: dict[str, FitResult] = field(default_factory=dict)
    chosen: list[str] = field(default_factory=list)

    @property
    def large(self) -> bool:
        """Whether the training data are too many to fit every candidate to all of them."""
        return self.train.x.numel() > SELECTION_NUMBERS

    @cached_property
    def is_complete(self) -> bool:
        """Whether no value of the training data is missing."""
        return not self.train.x.isnan().any()

    @property
    def how(self) -> str:
        return "closed form" if self.is_complete else "EM"

    def gaussian(self) -> None:
        """One Gaussian with full covariance."""
        self.report(f"one Gaussian: {self.how} at each floor")
        candidates = [self.model("gmm", num_components=1, floor=floor) for floor in self.floors]
        choice = "Gaussian: floor {floor:.2g}"
        self.fits[f"Gaussian, {self.how}"] = self._best(candidates, self._exact, choice)

    def mixture(self, num_components: int | None) -> None:
        """A mixture, of Gaussians or on binary data of Bernoullis, by EM, and by SVI from the same start."""
        binary = self.train.space.support == "boolean"
        what, name, form = "Gaussian mixture", "GMM-{num_components} {covariance}", ", {covariance} covariance"
        if binary:
            what, name, form = "Bernoulli mixture", "BMM-{num_components}", ""
        subset = self._subset()
        candidates = self._mixtures(num_components, len(subset), binary)
        self.report(f"{what}: choosing among {len(candidates)} on {len(subset):,} training data")
        quick = {"tolerance": 1e-3, "max_iterations": 3 if self.large else 1000}
        where = f", fitted to {len(subset):,} of the training data in 3 iterations" if self.large else ""
        choice = f"{what}: K = {{num_components}}{form}, floor {{floor:.2g}}"
        best = self._best(candidates, lambda model: self._em(model, subset, fit.FitWarning, **quick), choice, where)
        tolerance, iterations = (1e-3, 30 if binary else 8) if self.large else (1e-6, 1000)
        self._em_and_svi(name, best.model, "z enumerated", tolerance=tolerance, max_iterations=iterations)

    def ppca(self, latent_dim: int | None) -> None:
        """Probabilistic PCA in closed form, by EM, and by SVI with the exact posterior as guide."""
        most = min(self.train.num_dims, len(self.train)) - 1
        dims = [latent_dim] if latent_dim is not None else [q for q in LATENT_DIMS if q <= most]
        candidates = [self.model("ppca", latent_dim=q) for q in dims]
        self.report(f"probabilistic PCA: {self.how} at {len(dims)} latent dimensions")
        best = self._best(candidates, self._exact, "probabilistic PCA: latent dimension {latent_dim}")
        self.fits[_filled(f"PPCA-{{latent_dim}}, {self.how}", best.model)] = best
        tolerance, iterations = (1e-3, 30) if self.large else (1e-9, 3000)
        budget = {"tolerance": tolerance, "max_iterations": iterations, "accelerate": True}
        self._em_and_svi("PPCA-{latent_dim}", best.model, "guide = exact posterior", **budget)

    def svi(self, name: str, model: LatentVariableModel, note: str = "", **given: Any) -> None:
        """A model by SVI, with the options given; that one Gaussian scores higher, the scoreboard shows."""
        self.report(f"{name}: SVI{note}")
        with quiet(fit.FitWarning, BELOW):
            self.fits[f"{name}, SVI"] = fit.svi(model, self.train, seed=self.seed, progress=self.progress, **given)

    def model(self, kind: str, **options: Any) -> Any:
        """A model of a kind that suits the training data, not fitted."""
        return build(kind, self.train, **options).to(self.device)

    @cached_property
    def floors(self) -> list[float]:
        """Floors of covariances worth trying."""
        return [relative_floor(self.train.x, relative) for relative in RELATIVE_FLOORS]

    def _mixtures(self, num_components: int | None, num_data: int, binary: bool) -> list[Any]:
        """Every form of the covariance, number of components and floor worth trying; the fewest parameters first."""
        kind, floors = ("bernoulli-mixture", PROBABILITY_FLOORS) if binary else ("gmm", self.floors)
        candidates = [
            self.model(kind, num_components=k, floor=floor, **({} if binary else {"covariance": form}))
            for form in (("Bernoulli",) if binary else FORMS)
            for k in self._components(form, num_components, num_data)
            for floor in floors
        ]
        return sorted(candidates, key=lambda model: model.num_free_parameters)

    def _components(self, form: str, num_components: int | None, num_data: int) -> Sequence[int]:
        """The K given, or those worth trying: ten data a component, and for full covariances D/2."""
        if num_components is not None:
            return [num_components]
        per_component = max(10, self.train.num_dims / 2 if form == "full" else 0)
        candidates = LARGE_COMPONENTS[form] if self.large else COMPONENTS
        return [k for k in candidates if k * per_component <= num_data] or [1]

    def _subset(self) -> Observations:
        """All training data, or a random part of large ones."""
        count = SELECTION_NUMBERS // self.train.num_dims
        if len(self.train) <= count:
            return self.train
        with seeded(self.seed):
            return self.train[torch.randperm(len(self.train))[:count]]

    def _best(self, candidates: Sequence[Any], fit_one: FitFunction, choice: str, where: str = "") -> FitResult:
        """The fit that is best on validation data; a line on what was chosen is kept."""
        best = fit.select(candidates, fit_one, self.valid, progress=self.progress).best
        tried = f" (of {len(candidates)} tried{where})" if len(candidates) > 1 else ""
        self.chosen.append(_filled(choice, best.model) + tried)
        return best

    def _em_and_svi(self, template: str, model: LatentVariableModel, guide: str, **budget: Any) -> None:
        """A chosen model fitted to all data; on large ones EM uses up its iterations, as planned, without a warning."""
        name = _filled(template, model)
        self.report(f"{name}: EM")
        planned = fit.ConvergenceWarning if self.large else None
        self.fits[f"{name}, EM"] = self._em(model, self.train, planned, **budget)
        if self.is_complete:
            self.svi(name, model, f", {guide}")

    def _exact(self, model: Any) -> FitResult:
        """In closed form, or by EM where values are missing."""
        return fit.closed_form(model, self.train) if self.is_complete else self._em(model, self.train, None)

    def _em(self, model: Any, data: Observations, ignored: type[Warning] | None, **options: Any) -> FitResult:
        with nullcontext() if ignored is None else quiet(ignored):
            return fit.em(model, data, seed=self.seed, progress=self.progress, **options)


def _filled(template: str, model: LatentVariableModel) -> str:
    """A template with the model's own arguments in it."""
    return template.format(**(model.config or {}))
