"""The models: each an explicit Pyro program with its guide."""

from pyrovae.models.base import LatentVariableModel, Program
from pyrovae.models.bernoulli_mixture import BernoulliMixture
from pyrovae.models.factor_analysis import FactorAnalysis
from pyrovae.models.gmm import GaussianMixture
from pyrovae.models.guides import exact_guide
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
from pyrovae.models.ppca_mixture import PPCAMixture
from pyrovae.models.tractable import TractableModel
from pyrovae.models.vae import VAE

__all__ = [
    "PPCA",
    "VAE",
    "Bernoulli",
    "BernoulliMixture",
    "ContinuousBernoulli",
    "CrossEntropyLoss",
    "DiscretizedLogistic",
    "FactorAnalysis",
    "FullGaussian",
    "Gaussian",
    "GaussianMixture",
    "LatentVariableModel",
    "Likelihood",
    "LowRankGaussian",
    "PPCAMixture",
    "Program",
    "TractableModel",
    "exact_guide",
]
