"""What every estimator is: data in as scikit-learn passes them, a model and a fit of pyrovae inside."""

from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pyrovae.data import Observations
from pyrovae.data.weights import as_weight
from pyrovae.fit import FitResult, em
from pyrovae.models import LatentVariableModel
from pyrovae.models.defaults import default_latent_dim
from pyrovae.sklearn.validation import as_array, as_table, seed_of


class Estimator(BaseEstimator):
    """An estimator around one model.

    A subclass names its arguments, builds its model (``_model``) and fits it (``_fit_model``).
    """

    shown: ClassVar[tuple[str, ...]] = ()  # attributes of the fitted model that it has, too, with an underscore
    least_features: ClassVar[int] = 1
    not_met: ClassVar[dict[str, str]] = {}  # checks of scikit-learn before 1.6, and why
    latent_dim: int | None
    random_state: Any

    def _model(self, x: Tensor) -> LatentVariableModel:
        raise NotImplementedError

    def _latent_dim(self, x: Tensor) -> int:
        return default_latent_dim(Observations(x)) if self.latent_dim is None else self.latent_dim

    def _fit_model(self, model: Any, x: Tensor, weight: Tensor | None) -> FitResult:
        raise NotImplementedError

    def _table(self, X: Any, reset: bool = False, **least: int) -> Tensor:
        return as_table(self, X, reset=reset, allow_nan=self._allows_nan(), **least)

    def _allows_nan(self) -> bool:
        return getattr(self, "missing", "error") == "nan"

    def _fit(self, X: Any, sample_weight: Any = None) -> Self:
        least = 1 if getattr(self, "latent_dim", None) == 0 else self.least_features
        x = self._table(X, reset=True, ensure_min_samples=2, ensure_min_features=least)
        weight = None if sample_weight is None else as_weight(sample_weight, len(x))
        if weight is not None:  # what weighs nothing is not there, for random starts neither
            x, weight = x[weight > 0], weight[weight > 0]
        self.result_ = self._fit_model(self._model(x), x, weight)
        self.model_: Any = self.result_.model
        for name in self.shown:
            setattr(self, f"{name}_", as_array(getattr(self.model_, name)))
        return self

    def _input(self, X: Any) -> Tensor:
        """New data for a fitted model."""
        check_is_fitted(self)
        return self._table(X)

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draw from the model by ``random_state``: a whole number gives the same draws at every call.

        Args:
            n_samples: How many.

        Returns:
            x (n_samples, D), and the z that each came from: the component, or the latents (n_samples, L).
        """
        check_is_fitted(self)
        x, z = self.model_.sample(n_samples, seed=seed_of(self.random_state))
        return as_array(x), as_array(z)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._allows_nan()
        return tags

    def _more_tags(self) -> dict[str, Any]:  # before scikit-learn 1.6
        return {"allow_nan": self._allows_nan(), "_xfail_checks": self.not_met}


class ExactEstimator(Estimator):
    """An estimator of a model whose log p(x) is exact, fitted by EM unless a subclass knows better."""

    tolerance: float | None
    max_iterations: int
    num_restarts: int | None

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the model.

        Args:
            X: Data (N, D); with ``missing="nan"`` a NaN stands for a missing value.
            y: Ignored.
            sample_weight: What each datum counts for, (N,): a weight of 2 is that datum twice.

        Returns:
            The estimator.
        """
        self._fit(X, sample_weight)
        trace = self.result_.trace
        self.converged_, self.lower_bound_ = self.result_.converged, trace[-1].item()
        self.n_iter_ = max(1, len(trace) - 1)
        return self

    def _fit_model(self, model: Any, x: Tensor, weight: Tensor | None) -> FitResult:
        names = ("tolerance", "max_iterations", "num_restarts")
        given: dict[str, Any] = {name: value for name in names if (value := getattr(self, name)) is not None}
        return em(model, x, sample_weight=weight, seed=seed_of(self.random_state), progress=False, **given)

    def score_samples(self, X: Any) -> np.ndarray:
        """Exact log p(x) of each datum, (N,), nats."""
        x = self._input(X)
        return as_array(self.model_.score_samples(x))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean exact log p(x), nats per datum; higher is better.

        Args:
            X: Data (N, D).
            y: Ignored.
            sample_weight: What each datum counts for, (N,).
        """
        return self._measured("score", X, sample_weight)

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """Bayesian information criterion; lower is better.  With weights N is their sum."""
        return self._measured("bic", X, sample_weight)

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Akaike information criterion; lower is better."""
        return self._measured("aic", X, sample_weight)

    def _measured(self, name: str, X: Any, sample_weight: Any) -> float:
        x = self._input(X)
        return getattr(self.model_, name)(x, sample_weight)
