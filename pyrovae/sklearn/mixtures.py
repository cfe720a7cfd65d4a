"""Mixtures as estimators: they predict components, and score."""

from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import DensityMixin
from torch import Tensor

from pyrovae import models
from pyrovae.fit import FitWarning
from pyrovae.fit.result import warn
from pyrovae.sklearn.base import ExactEstimator
from pyrovae.sklearn.validation import as_array


class MixtureEstimator(DensityMixin, ExactEstimator):
    """What mixtures predict."""

    score = ExactEstimator.score  # that of DensityMixin is empty
    not_met: ClassVar[dict[str, str]] = {
        "check_sample_weights_invariance": "random starts differ between a weighted datum and its copies"
    }

    def predict(self, X: Any) -> np.ndarray:
        """The most probable component of each datum, (N,)."""
        x = self._input(X)
        return as_array(self.model_.predict(x))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Responsibilities p(z|x), (N, K)."""
        x = self._input(X)
        return as_array(self.model_.predict_proba(x))

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """Fit, and the component of each datum; see :meth:`fit` and :meth:`predict`."""
        return self.fit(X, y, sample_weight).predict(X)


class GaussianMixture(MixtureEstimator):
    """Mixture of K Gaussians, fitted by EM: :class:`pyrovae.GaussianMixture`.

    Args:
        num_components: K.
        covariance, floor, start, missing: As for the model.
        tolerance, max_iterations, num_restarts: As for :func:`pyrovae.fit.em`.
        random_state: The seed of the starts and of ``sample``; None draws one from numpy's global state.

    Attributes:
        weights_, means_, covariances_: π, μ and Σ, in the shapes of scikit-learn.
        converged_, n_iter_, lower_bound_: Whether EM met its rule, its iterations, and mean log p(x) at its end.
        model_, result_: The fitted model, and the fit.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> mixture = GaussianMixture(num_components=3, random_state=0).fit(load_iris().data)
        >>> mixture.predict_proba(load_iris().data).shape
        (150, 3)
    """

    shown: ClassVar[tuple[str, ...]] = ("weights", "means", "covariances")

    def __init__(
        self,
        num_components: int = 1,
        covariance: str = "full",
        floor: float | None = None,
        *,
        start: Any = "k-means++",
        missing: str = "error",
        tolerance: float | None = None,
        max_iterations: int = 1000,
        num_restarts: int | None = None,
        random_state: Any = 0,
    ) -> None:
        self.num_components, self.covariance, self.floor = num_components, covariance, floor
        self.start, self.missing = start, missing
        self.tolerance, self.max_iterations, self.num_restarts = tolerance, max_iterations, num_restarts
        self.random_state = random_state

    def _model(self, x: Tensor) -> Any:
        options: dict[str, Any] = {"covariance": self.covariance, "start": self.start, "missing": self.missing}
        return models.GaussianMixture(self.num_components, x.shape[1], floor=self.floor, **options)


class PPCAMixture(MixtureEstimator):
    """Mixture of K probabilistic PCAs, fitted by EM: :class:`pyrovae.PPCAMixture`.

    Args:
        num_components: K.
        latent_dim: L of each component; by default 8, or D − 1 if that is less, and 16 from 256 dimensions on.
        floor: As for the model.
        tolerance, max_iterations, num_restarts, random_state: As for :class:`GaussianMixture`.

    Attributes:
        weights_, means_: π and μ.
        converged_, n_iter_, lower_bound_, model_, result_: As for :class:`GaussianMixture`.
    """

    shown: ClassVar[tuple[str, ...]] = ("weights", "means")
    least_features = 2

    def __init__(
        self,
        num_components: int = 1,
        latent_dim: int | None = None,
        floor: float | None = None,
        *,
        tolerance: float | None = None,
        max_iterations: int = 1000,
        num_restarts: int | None = None,
        random_state: Any = 0,
    ) -> None:
        self.num_components, self.latent_dim, self.floor = num_components, latent_dim, floor
        self.tolerance, self.max_iterations, self.num_restarts = tolerance, max_iterations, num_restarts
        self.random_state = random_state

    def _model(self, x: Tensor) -> Any:
        return models.PPCAMixture(self.num_components, self._latent_dim(x), x.shape[1], self.floor)


class BernoulliMixture(MixtureEstimator):
    """Mixture of K products of Bernoullis (latent class analysis), fitted by EM: :class:`pyrovae.BernoulliMixture`.

    Args:
        num_components: K.
        floor, missing: As for the model.
        binarize: Values above it are 1, others 0.  Left out, data other than 0 and 1 are cut at 0, as by
            scikit-learn's ``BernoulliNB``, and a warning says so.
        tolerance, max_iterations, num_restarts, random_state: As for :class:`GaussianMixture`.

    Attributes:
        weights_, probs_: π, and θ (K, D).
        converged_, n_iter_, lower_bound_, model_, result_: As for :class:`GaussianMixture`.
    """

    shown: ClassVar[tuple[str, ...]] = ("weights", "probs")

    def __init__(
        self,
        num_components: int = 1,
        floor: float = 1e-3,
        *,
        missing: str = "error",
        binarize: float | None = None,
        tolerance: float | None = None,
        max_iterations: int = 1000,
        num_restarts: int | None = None,
        random_state: Any = 0,
    ) -> None:
        self.num_components, self.floor, self.missing, self.binarize = num_components, floor, missing, binarize
        self.tolerance, self.max_iterations, self.num_restarts = tolerance, max_iterations, num_restarts
        self.random_state = random_state

    def _table(self, X: Any, reset: bool = False, **least: int) -> Tensor:
        x = super()._table(X, reset, **least)
        bits = torch.where(x.isnan(), x, (x > (self.binarize or 0)).double())
        if self.binarize is None and not ((x == bits) | x.isnan()).all():
            warn(
                f"`X` should hold only 0 and 1, got values in [{x.nan_to_num().min():g}, {x.nan_to_num().max():g}]: "
                "those above 0 are taken as 1, others as 0; give `binarize` to choose.",
                FitWarning,
            )
        return bits

    def _model(self, x: Tensor) -> Any:
        options: dict[str, Any] = {"missing": self.missing}
        return models.BernoulliMixture(self.num_components, x.shape[1], self.floor, **options)
