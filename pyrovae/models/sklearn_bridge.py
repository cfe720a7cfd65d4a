"""Mixtures of scikit-learn to ours and back, as parameters: π, μ and Σ, in the shapes that scikit-learn has."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyrovae.models.covariances import Diagonal, Full

if TYPE_CHECKING:
    import sklearn.mixture


def parameters_of(estimator: "sklearn.mixture.GaussianMixture") -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and covariances of a fitted estimator."""
    weights, means, covariances = (
        torch.as_tensor(value) for value in (estimator.weights_, estimator.means_, estimator.covariances_)
    )
    return weights, means, covariances


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
    estimator.converged_, estimator.n_features_in_ = True, gaussians.means.shape[1]
    return estimator
