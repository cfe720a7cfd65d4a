"""The models: each an explicit Pyro program with its guide."""

from pyrovae.models.base import LatentVariableModel, Program, TractableModel, exact_guide
from pyrovae.models.gmm import GaussianMixture
from pyrovae.models.likelihoods import (
    Bernoulli,
    ContinuousBernoulli,
    CrossEntropyLoss,
    DiscretizedLogistic,
    FullGaussian,
    Gaussian,
    Likelihood,
    LowRankGaussian,
)
from pyrovae.models.ppca import PPCA
from pyrovae.models.vae import VAE

__all__ = [
    "PPCA",
    "VAE",
    "Bernoulli",
    "ContinuousBernoulli",
    "CrossEntropyLoss",
    "DiscretizedLogistic",
    "FullGaussian",
    "Gaussian",
    "GaussianMixture",
    "LatentVariableModel",
    "Likelihood",
    "LowRankGaussian",
    "Program",
    "TractableModel",
    "exact_guide",
]
