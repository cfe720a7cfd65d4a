"""Latent-variable models in Pyro, measured on one scale: held-out log-likelihood in nats per datum."""

from pyrovae import data, evaluate, fit
from pyrovae.models import (
    PPCA,
    VAE,
    Bernoulli,
    BernoulliMixture,
    ContinuousBernoulli,
    CrossEntropyLoss,
    DiscretizedLogistic,
    FactorAnalysis,
    FullGaussian,
    Gaussian,
    GaussianMixture,
    LowRankGaussian,
    PPCAMixture,
    exact_guide,
)
from pyrovae.scoreboard import compare

__version__ = "0.1.0"

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
    "LowRankGaussian",
    "PPCAMixture",
    "compare",
    "data",
    "evaluate",
    "exact_guide",
    "fit",
]
