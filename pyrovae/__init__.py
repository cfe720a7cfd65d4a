"""Latent-variable models in Pyro, measured on one scale: held-out log-likelihood in nats per datum."""

import importlib
from typing import Any

from pyrovae import data, evaluate, fit
from pyrovae.engine.execution import Execution
from pyrovae.evaluate import AISOptions
from pyrovae.io import load, save
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
    "AISOptions",
    "Bernoulli",
    "BernoulliMixture",
    "ContinuousBernoulli",
    "CrossEntropyLoss",
    "DiscretizedLogistic",
    "Execution",
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
    "load",
    "plots",
    "save",
]


def __getattr__(name: str) -> Any:
    """``pyrovae.plots``, imported when it is first asked for, because matplotlib takes its time."""
    if name == "plots":
        return importlib.import_module("pyrovae.plots")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
