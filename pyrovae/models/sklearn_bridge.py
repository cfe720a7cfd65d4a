"""Models of scikit-learn to ours and back, as parameters in the shapes that scikit-learn has."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyrovae.models.covariances import Diagonal, Full
from pyrovae.models.floors import NOISE_FLOOR, two_digits

if TYPE_CHECKING:
    import sklearn.decomposition
    import sklearn.mixture

DIFFERS = 1e-4  # of log p, or of a nat: from here on a density is not that of the parameters


def fitted_attributes(estimator: Any, kind: type, names: Sequence[str]) -> list[Tensor]:
    """Attributes of a fitted estimator of a kind, as tensors.

    Raises:
        TypeError: If it is of no such kind.
        ValueError: If it is not fitted.
    """
    wanted = f"a fitted {kind.__module__.split('._')[0]}.{kind.__name__}"
    if not isinstance(estimator, kind):
        hint = "take its `model_`" if hasattr(estimator, "model_") else "fit one, or build the model by its parameters"
        if type(estimator).__name__ == "BayesianGaussianMixture":
            hint = (
                "its p(z|x) averages over a posterior of the parameters, and is that of no mixture with the weights_, "
                "means_ and covariances_ that it shows; give those to from_parameters if they are what you want"
            )
        found = estimator.__name__ if isinstance(estimator, type) else type(estimator).__name__
        raise TypeError(f"`estimator` must be {wanted}, got {found}; {hint}.")
    if missing := [name for name in names if not hasattr(estimator, name)]:
        raise ValueError(f"`estimator` must be {wanted}, got one without {', '.join(missing)}; call its fit(X) first.")
    return [torch.as_tensor(getattr(estimator, name)) for name in names]


def check_density(log_prob: Tensor, estimator: Any, at: Tensor) -> None:
    """Refuse an estimator whose log p is not that of the parameters that it shows.

    Args:
        log_prob: Ours, by its parameters, at points (n, D).
        estimator: Of scikit-learn.
        at: Those points.

    Raises:
        ValueError: If they differ.
    """
    theirs = torch.as_tensor(estimator.score_samples(at.numpy())).double()
    error = (log_prob.double() - theirs).abs()
    if not (error <= DIFFERS * theirs.abs().clamp_min(1)).all():
        raise ValueError(
            f"`estimator` must have the density of the parameters that it shows, got a log p that is {error.max():.2g} "
            "nats off it; one whose attributes were set by hand needs precisions_cholesky_, too, and a covariance that "
            "is singular to rounding needs data in other units."
        )


# ------------------------------------------------------------------------------------------------- Gaussian mixtures


def mixture_parameters(estimator: "sklearn.mixture.GaussianMixture") -> tuple[Tensor, Tensor, Tensor, float]:
    """Weights, means and covariances of a fitted estimator, and a floor that changes none of them."""
    from sklearn.mixture import GaussianMixture

    names = ("weights_", "means_", "covariances_", "precisions_cholesky_")
    weights, means, covariances, _ = fitted_attributes(estimator, GaussianMixture, names)
    if estimator.reg_covar > 0:
        return weights, means, covariances, float(estimator.reg_covar)
    matrices = estimator.covariance_type in ("full", "tied")
    smallest = (torch.linalg.eigvalsh(covariances.double()) if matrices else covariances).min().item()
    return weights, means, covariances, max(NOISE_FLOOR * smallest, torch.finfo(torch.float64).tiny)


def estimator_of(weights: Tensor, gaussians: Full | Diagonal, covariance: str) -> "sklearn.mixture.GaussianMixture":
    """A fitted estimator with these parameters, as numpy arrays on the CPU.

    Args:
        weights: π, shape (K,).
        gaussians: The components.
        covariance: Their form, as scikit-learn calls it.
    """
    import numpy as np
    from sklearn.mixture import GaussianMixture

    form = gaussians.as_in_sklearn
    estimator = GaussianMixture(len(weights), covariance_type=covariance, reg_covar=gaussians.floor)
    estimator.weights_, estimator.means_, estimator.covariances_ = (
        value.cpu().numpy().copy() for value in (weights, gaussians.means, gaussians.covariances[form])
    )
    if isinstance(gaussians, Full):
        precision_cholesky = np.linalg.inv(gaussians.cholesky().cpu().numpy()).swapaxes(-1, -2)[form]
        estimator.precisions_ = precision_cholesky @ precision_cholesky.swapaxes(-1, -2)
    else:
        precision_cholesky, estimator.precisions_ = estimator.covariances_**-0.5, 1 / estimator.covariances_
    estimator.precisions_cholesky_ = precision_cholesky
    estimator.n_features_in_ = gaussians.means.shape[1]
    estimator.converged_, estimator.n_iter_ = True, 0
    estimator.lower_bound_, estimator.lower_bounds_ = -math.inf, []
    return estimator


# ------------------------------------------------------------------------------------------------- PCA, factor analysis


def pca_parameters(estimator: "sklearn.decomposition.PCA") -> tuple[Tensor, Tensor, Tensor]:
    """W (D, L), μ and σ² of the Gaussian whose log p is the score of a fitted PCA.

    Raises:
        ValueError: If it leaves no noise.
    """
    from sklearn.decomposition import PCA

    names = ("components_", "explained_variance_", "mean_", "noise_variance_")
    components, variance, mean, noise = fitted_attributes(estimator, PCA, names)
    if not noise > 0:
        raise ValueError(
            f"`estimator` must leave noise, got noise_variance_ {noise.item():g}; fit a PCA of fewer `n_components`."
        )
    return components.T * (variance - noise).clamp_min(0).sqrt(), mean, noise


def factor_parameters(estimator: "sklearn.decomposition.FactorAnalysis") -> tuple[Tensor, Tensor, Tensor]:
    """W (D, L), μ and Ψ (D,) of a fitted factor analysis."""
    from sklearn.decomposition import FactorAnalysis

    components, mean, noise = fitted_attributes(estimator, FactorAnalysis, ("components_", "mean_", "noise_variance_"))
    return components.T, mean, noise


def floor_below(weight: Tensor, noise: Tensor) -> float:
    """The floor of a fit to data of this covariance, but low enough to leave the noise as it is."""
    mean_variance = (weight.square().sum(1).mean() + noise.mean()).item()
    return two_digits(min(NOISE_FLOOR * mean_variance, 0.5 * noise.min().item()))


def factor_estimator(weight: Tensor, mean: Tensor, noise: Tensor) -> "sklearn.decomposition.FactorAnalysis":
    """A fitted factor analysis with these parameters, as numpy arrays on the CPU."""
    from sklearn.decomposition import FactorAnalysis

    estimator = FactorAnalysis(weight.shape[1])
    estimator.components_, estimator.mean_, estimator.noise_variance_ = (
        value.detach().cpu().numpy().copy() for value in (weight.T, mean, noise)
    )
    estimator.n_features_in_, estimator.n_iter_, estimator.loglike_ = len(mean), 0, []
    return estimator
