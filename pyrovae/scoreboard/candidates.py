"""The standard comparison: every model fitted every way it can be, each baseline at its best on validation data.

A learned model is worth something only beside baselines that somebody has tried to make good.  So the number of
components, the form of the covariance, its floor and the latent dimension of the exact models are chosen here by
validation likelihood.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from pyrovae import fit
from pyrovae.data import DataSet, Observations
from pyrovae.data.observations import MASSES
from pyrovae.engine.seeding import seeded
from pyrovae.fit import FitResult
from pyrovae.models import PPCA, BernoulliMixture, GaussianMixture
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.gmm import Covariance
from pyrovae.models.tractable import TractableModel
from pyrovae.scoreboard import recipes

FORMS: tuple[Covariance, ...] = ("full", "diag")
COMPONENTS = (2, 3, 5, 10, 20, 30, 60, 100)
LARGE_COMPONENTS: dict[str, tuple[int, ...]] = {"full": (10,), "diag": (10, 30), "Bernoulli": (30, 100)}
LATENT_DIMS = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 80, 120, 200, 300, 400)
RELATIVE_FLOORS = (recipes.FLOOR / 4, recipes.FLOOR, 4 * recipes.FLOOR)  # times the mean variance of a dimension
PROBABILITY_FLOORS = (1e-3, 1e-2)  # of a mixture of Bernoullis
SELECTION_NUMBERS = recipes.LARGE_NUMBERS  # mixtures are chosen on so many numbers of the training data, N × D, at most


AnyMixture = GaussianMixture | BernoulliMixture


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
        num_epochs: Passes over the data for the autoencoders; by default as many as make about 1,700 to 5,000 steps.
        device: Where to compute.
        seed: Of every fit.
        progress: Show progress bars.
        report: Called with a line on each stage.

    Raises:
        ValueError: If there are no validation data, or an argument does not fit the data.
    """
    if dataset.valid is None:
        raise ValueError("`dataset` must have validation data, on which the baselines are chosen, got None.")
    builder = _Builder(dataset.train, dataset.valid, device, seed, progress, report)
    builder.check(latent_dim, num_components)
    size = latent_dim or recipes.default_latent_dim(builder.num_dims)
    support = dataset.train.space.support
    if support == "boolean":
        builder.mixture(num_components)
        builder.autoencoder(f"VAE-{size}", size, num_epochs)
        builder.autoencoder(f"linear VAE-{size}", size, num_epochs, hidden=())
        return Suite(builder.fits, tuple(builder.chosen))
    if support != "integer":
        builder.gaussian()
        builder.mixture(num_components)
        if builder.num_dims > 1:
            builder.ppca(latent_dim)
    builder.autoencoder(f"VAE-{size}, one σ", size, num_epochs, scale="shared")
    builder.autoencoder(f"VAE-{size}, σ(z)", size, num_epochs, scale="decoder")
    return Suite(builder.fits, tuple(builder.chosen))


class _Builder:
    """Fits row after row, keeping the results and what was chosen."""

    def __init__(
        self,
        train: Observations,
        valid: Observations,
        device: torch.device | str,
        seed: int,
        progress: bool | None,
        report: Callable[[str], None],
    ) -> None:
        self.train, self.valid, self.device = train, valid, device
        self.seed, self.progress, self.report = seed, progress, report
        self.num_dims = train.num_dims
        self.large = train.x.numel() > SELECTION_NUMBERS
        self.floors = [recipes.relative_floor(train, relative) for relative in RELATIVE_FLOORS]
        self.fits: dict[str, FitResult] = {}
        self.chosen: list[str] = []

    def check(self, latent_dim: int | None, num_components: int | None) -> None:
        """Refuse at once what a fit would refuse after minutes."""
        for name, size in (("latent_dim", latent_dim), ("num_components", num_components)):
            if size is not None and size < 1:
                raise ValueError(f"`{name}` must be at least 1, got {size}.")
        if (self.train.x == self.train.x[0]).all():
            raise ValueError("`dataset` must hold training data that differ, got one value throughout.")
        if latent_dim is not None and latent_dim >= self.num_dims > 1 and self.train.space.support not in MASSES:
            raise ValueError(
                f"`latent_dim` must be below the number of dimensions, {self.num_dims}, got {latent_dim}; "
                "probabilistic PCA would have no noise left to model."
            )
        num_data = min(len(self.train), SELECTION_NUMBERS // self.num_dims)
        if num_components is not None and num_components > num_data:
            raise ValueError(
                f"`num_components` must be at most the number of training data, {num_data:,}, got {num_components:,}."
            )

    def gaussian(self) -> None:
        """One Gaussian with full covariance."""
        self.report("one Gaussian: closed form at each floor")
        candidates = [self._mixture(1, "full", floor) for floor in self.floors]
        selection = fit.select(candidates, lambda m: fit.closed_form(m, self.train), self.valid, progress=self.progress)
        self.fits["Gaussian, closed form"] = selection.best
        self._note("Gaussian", candidates, f"floor {_floor(selection)}")

    def mixture(self, num_components: int | None) -> None:
        """A mixture, of Gaussians or on binary data of Bernoullis, by EM, and by SVI from the same start."""
        subset = self._subset()
        candidates = self._mixtures(num_components, len(subset))
        binary = isinstance(candidates[0], BernoulliMixture)
        what = f"{'Bernoulli' if binary else 'Gaussian'} mixture"
        self.report(f"{what}: choosing among {len(candidates)} on {len(subset):,} training data")
        quick = 3 if self.large else 1000
        selection = fit.select(
            candidates, lambda m: self._em(m, subset, 1e-3, quick, trial=True), self.valid, progress=self.progress
        )
        chosen = cast(AnyMixture, selection.best.model)
        form = "" if isinstance(chosen, BernoulliMixture) else f", {chosen.covariance} covariance"
        kind = "BMM" if isinstance(chosen, BernoulliMixture) else "GMM"
        name = f"{kind}-{chosen.num_components}{form.removesuffix(' covariance').replace(',', '')}"
        where = f", fitted to {len(subset):,} of the training data in {quick} iterations" if self.large else ""
        self._note(what, candidates, f"K = {chosen.num_components}{form}, floor {_floor(selection)}", where)
        self.report(f"{name}: EM")
        tolerance, iterations = (1e-3, 30 if binary else 8) if self.large else (1e-6, 1000)
        self.fits[f"{name}, EM"] = self._em(chosen, self.train, tolerance, iterations, planned=self.large)
        self.report(f"{name}: SVI, z enumerated")
        self.fits[f"{name}, SVI"] = self._svi("bernoulli-mixture" if binary else "gmm", chosen)

    def _mixtures(self, num_components: int | None, num_data: int) -> list[AnyMixture]:
        """The candidates: every K worth trying, form of the covariance and floor."""

        def components(form: str) -> Sequence[int]:
            return (num_components,) if num_components else self._components(form, num_data)

        if self.train.space.support == "boolean":
            return [
                BernoulliMixture(k, (self.num_dims,), floor).to(self.device)
                for k in components("Bernoulli")
                for floor in PROBABILITY_FLOORS
            ]
        return [self._mixture(k, form, floor) for form in FORMS for k in components(form) for floor in self.floors]

    def ppca(self, latent_dim: int | None) -> None:
        """Probabilistic PCA in closed form, by EM, and by SVI with the exact posterior as guide."""
        dims = (
            [q for q in LATENT_DIMS if q < self.num_dims and q < len(self.train)]
            if latent_dim is None
            else [latent_dim]
        )
        floor = recipes.relative_floor(self.train, recipes.NOISE_FLOOR)
        candidates = [PPCA(q, (self.num_dims,), floor).to(self.device) for q in dims]
        self.report(f"probabilistic PCA: closed form at {len(dims)} latent dimensions")
        selection = fit.select(candidates, lambda m: fit.closed_form(m, self.train), self.valid, progress=self.progress)
        chosen = cast(PPCA, selection.best.model)
        name = f"PPCA-{chosen.latent_dim}"
        self._note("probabilistic PCA", candidates, f"latent dimension {chosen.latent_dim}")
        self.fits[f"{name}, closed form"] = selection.best
        self.report(f"{name}: EM")
        tolerance, iterations = (1e-3, 30) if self.large else (1e-9, 3000)
        self.fits[f"{name}, EM"] = self._em(
            chosen, self.train, tolerance, iterations, planned=self.large, accelerate=True
        )
        self.report(f"{name}: SVI, guide = exact posterior")
        self.fits[f"{name}, SVI"] = self._svi("ppca", chosen)

    def autoencoder(self, name: str, latent_dim: int, num_epochs: int | None, **options: Any) -> None:
        """A variational autoencoder by SVI, the best on validation data kept."""
        self.report(f"{name}: SVI")
        vae = recipes.build("vae", self.train, latent_dim=latent_dim, **options).to(self.device)
        self.fits[f"{name}, SVI"] = self._svi("vae", vae, valid=self.valid, num_epochs=num_epochs)

    def _em(
        self,
        model: TractableModel,
        data: Observations,
        tolerance: float,
        iterations: int,
        *,
        planned: bool = False,
        trial: bool = False,
        accelerate: bool = False,
    ) -> FitResult:
        """EM; using up a ``planned`` budget of iterations is no cause for a warning, and nothing is in a ``trial``."""
        with warnings.catch_warnings():
            if planned:
                warnings.simplefilter("ignore", fit.ConvergenceWarning)
            if trial:
                warnings.simplefilter("ignore", fit.FitWarning)
            return fit.em(
                model,
                data,
                tolerance=tolerance,
                max_iterations=iterations,
                accelerate=accelerate,
                seed=self.seed,
                progress=self.progress,
            )

    def _svi(self, kind: str, model: LatentVariableModel, **options: Any) -> FitResult:
        """SVI as suits the kind of model and the data, but for the options that are not None."""
        given = {name: value for name, value in options.items() if value is not None}
        arguments = {**recipes.svi_options(kind, self.train), **given}
        return fit.svi(model, self.train, seed=self.seed, progress=self.progress, **arguments)

    def _mixture(self, num_components: int, covariance: Covariance, floor: float) -> GaussianMixture:
        return GaussianMixture(num_components, (self.num_dims,), covariance, floor).to(self.device)

    def _components(self, form: str, num_data: int) -> list[int]:
        """K worth trying: ten data a component, and for full covariances D/2."""
        per_component = max(10, self.num_dims / 2 if form == "full" else 0)
        candidates = LARGE_COMPONENTS[form] if self.large else COMPONENTS
        return [k for k in candidates if k * per_component <= num_data] or [1]

    def _subset(self) -> Observations:
        """All training data, or a random part of large ones."""
        count = SELECTION_NUMBERS // self.num_dims
        if len(self.train) <= count:
            return self.train
        with seeded(self.seed):
            return self.train[torch.randperm(len(self.train))[:count]]

    def _note(self, what: str, candidates: Sequence[object], choice: str, where: str = "") -> None:
        tried = f" (of {len(candidates)} tried{where})" if len(candidates) > 1 else ""
        self.chosen.append(f"{what}: {choice}{tried}")


def _floor(selection: fit.Selection) -> str:
    return f"{cast(AnyMixture, selection.best.model).floor:.2g}"
