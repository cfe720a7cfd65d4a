"""Models of continuous latents as estimators: they transform data to posterior means, and back."""

from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pyrovae import models
from pyrovae.engine.checks import check_choice
from pyrovae.evaluate import decode_means, encode, log_likelihood
from pyrovae.fit import FitResult, closed_form, svi
from pyrovae.models.architecture import DEFAULT_ACTIVATION
from pyrovae.models.defaults import LIKELIHOODS
from pyrovae.sklearn.base import Estimator, ExactEstimator
from pyrovae.sklearn.validation import as_array, as_tensor, seed_of


class LatentEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Estimator):
    """To z and back."""

    def transform(self, X: Any) -> np.ndarray:
        """E[z|x], the mean of the posterior, (N, L); of a VAE that of q(z|x)."""
        x = self._input(X)
        return as_array(encode(self.model_, x).mean)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """E[x|z] at latents z, (N, L) → (N, D)."""
        check_is_fitted(self)
        z = check_array(X, dtype=np.float64, order="C")
        if z.shape[1] != self._n_features_out:
            raise ValueError(f"`X` must have {self._n_features_out} columns, one a latent, got {z.shape[1]}.")
        return as_array(decode_means(self.model_, as_tensor(z)))

    @property
    def _n_features_out(self) -> int:
        return self.model_.latent_dim


class _Linear(LatentEstimator, ExactEstimator):
    """PPCA and factor analysis."""

    shown: ClassVar[tuple[str, ...]] = ("weight", "mean", "noise_variance")
    least_features = 2


class PPCA(_Linear):
    """Probabilistic PCA, in closed form, by EM where values are missing: :class:`pyrovae.PPCA`.

    Its maximum is that of the likelihood: the noise divides by N, that of scikit-learn's ``PCA`` by N − 1.

    Args:
        latent_dim: L; by default 8, or D − 1 if that is less, and 16 from 256 dimensions on.
        floor, noise_variance, missing: As for the model.
        tolerance, max_iterations, num_restarts: As for :func:`pyrovae.fit.em`, where values are missing.
        random_state: The seed of EM's start and of ``sample``; None draws one from numpy's global state.

    Attributes:
        weight_, mean_, noise_variance_: W (D, L), μ (D,) and σ².
        converged_, n_iter_, lower_bound_: As for :class:`GaussianMixture`.
        model_, result_: The fitted model, and the fit.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> frame = load_iris(as_frame=True).data
        >>> PPCA(latent_dim=2).set_output(transform="pandas").fit_transform(frame).columns.to_list()
        ['ppca0', 'ppca1']
    """

    def __init__(
        self,
        latent_dim: int | None = None,
        floor: float | None = None,
        *,
        noise_variance: float | None = None,
        missing: str = "error",
        tolerance: float | None = None,
        max_iterations: int = 1000,
        num_restarts: int | None = None,
        random_state: Any = 0,
    ) -> None:
        self.latent_dim, self.floor, self.noise_variance, self.missing = latent_dim, floor, noise_variance, missing
        self.tolerance, self.max_iterations, self.num_restarts = tolerance, max_iterations, num_restarts
        self.random_state = random_state

    def _model(self, x: Tensor) -> Any:
        options: dict[str, Any] = {"noise_variance": self.noise_variance, "missing": self.missing}
        return models.PPCA(self._latent_dim(x), x.shape[1], self.floor, **options)

    def _fit_model(self, model: Any, x: Tensor, weight: Tensor | None) -> FitResult:
        if x.isnan().any():
            return super()._fit_model(model, x, weight)
        return closed_form(model, x, sample_weight=weight)


class FactorAnalysis(_Linear):
    """Factor analysis, fitted by EM: :class:`pyrovae.FactorAnalysis`.

    Args:
        latent_dim: L; by default 8, or D − 1 if that is less, and 16 from 256 dimensions on.
        floor, missing: As for the model.
        tolerance, max_iterations, num_restarts: As for :func:`pyrovae.fit.em`.
        random_state: The seed of the start and of ``sample``; None draws one from numpy's global state.

    Attributes:
        weight_, mean_, noise_variance_: W (D, L), μ (D,) and Ψ (D,).
        converged_, n_iter_, lower_bound_, model_, result_: As for :class:`PPCA`.
    """

    def __init__(
        self,
        latent_dim: int | None = None,
        floor: float | None = None,
        *,
        missing: str = "error",
        tolerance: float | None = None,
        max_iterations: int = 1000,
        num_restarts: int | None = None,
        random_state: Any = 0,
    ) -> None:
        self.latent_dim, self.floor, self.missing = latent_dim, floor, missing
        self.tolerance, self.max_iterations, self.num_restarts = tolerance, max_iterations, num_restarts
        self.random_state = random_state

    def _model(self, x: Tensor) -> Any:
        options: dict[str, Any] = {"missing": self.missing}
        return models.FactorAnalysis(self._latent_dim(x), x.shape[1], self.floor, **options)


class VAE(LatentEstimator):
    """Variational autoencoder of vectors, fitted by SVI: :class:`pyrovae.VAE`.

    Args:
        latent_dim: L; by default 8, or D − 1 if that is less, and 16 from 256 dimensions on.
        likelihood: p(x|z): ``"gaussian"``, ``"bernoulli"`` or another name that ``pyrovae fit vae`` takes, or one of
            :mod:`pyrovae.models.likelihoods`, such as ``Gaussian("decoder")``.
        hidden, activation, posterior: As for the model.
        num_steps, batch_size, lr, num_restarts: As for :func:`pyrovae.fit.svi`, which chooses what is left out.
        num_particles: S of ``score``.
        random_state: The seed of fit, ``score`` and ``sample``; None draws one from numpy's global state.

    Attributes:
        model_, result_: The fitted model, and the fit.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> vae = VAE(latent_dim=2, hidden=(16,), num_steps=50).fit(load_iris().data)
        >>> vae.transform(load_iris().data).shape
        (150, 2)
    """

    def __init__(
        self,
        latent_dim: int | None = None,
        likelihood: Any = "gaussian",
        hidden: Any = None,
        *,
        activation: str = DEFAULT_ACTIVATION,
        posterior: str = "diag",
        num_steps: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        num_restarts: int = 1,
        num_particles: int = 100,
        random_state: Any = 0,
    ) -> None:
        self.latent_dim, self.likelihood, self.hidden = latent_dim, likelihood, hidden
        self.activation, self.posterior = activation, posterior
        self.num_steps, self.batch_size, self.lr, self.num_restarts = num_steps, batch_size, lr, num_restarts
        self.num_particles, self.random_state = num_particles, random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit the model to data X (N, D); y is ignored."""
        return self._fit(X)

    def _model(self, x: Tensor) -> Any:
        likelihood = self.likelihood
        if isinstance(likelihood, str):
            check_choice("likelihood", likelihood, LIKELIHOODS, other="one of pyrovae.models.likelihoods")
            likelihood = LIKELIHOODS[likelihood]()
        options: dict[str, Any] = {"activation": self.activation, "posterior": self.posterior}
        return models.VAE(self._latent_dim(x), x.shape[1], likelihood, self.hidden, **options)

    def _fit_model(self, model: Any, x: Tensor, weight: Tensor | None) -> FitResult:
        options: dict[str, Any] = {"batch_size": self.batch_size, "lr": self.lr, "num_restarts": self.num_restarts}
        return svi(model, x, num_steps=self.num_steps, seed=seed_of(self.random_state), progress=False, **options)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log p(x), nats per datum, by importance weights: below the exact one in expectation; higher is better.

        Args:
            X: Data (N, D).
            y: Ignored.
        """
        x = self._input(X)
        options: dict[str, Any] = {"seed": seed_of(self.random_state), "progress": False}
        return log_likelihood(self.model_, x, self.num_particles, **options).values.double().mean().item()
