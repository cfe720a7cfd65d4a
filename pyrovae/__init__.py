"""Latent-variable models in Pyro, measured on one scale: held-out log-likelihood in nats per datum."""

import importlib
from typing import Any

from pyrovae import data as data, evaluate as evaluate, fit as fit
from pyrovae.engine.execution import Execution as Execution
from pyrovae.evaluate import AISOptions as AISOptions
from pyrovae.io import load as load, save as save
from pyrovae.models import (
    PPCA as PPCA,
    VAE as VAE,
    Bernoulli as Bernoulli,
    BernoulliMixture as BernoulliMixture,
    ContinuousBernoulli as ContinuousBernoulli,
    CrossEntropyLoss as CrossEntropyLoss,
    DiscretizedLogistic as DiscretizedLogistic,
    FactorAnalysis as FactorAnalysis,
    FullGaussian as FullGaussian,
    Gaussian as Gaussian,
    GaussianMixture as GaussianMixture,
    LowRankGaussian as LowRankGaussian,
    PPCAMixture as PPCAMixture,
    exact_guide as exact_guide,
)
from pyrovae.scoreboard import compare as compare

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``plots`` and ``sklearn``, imported when first asked for: matplotlib and scikit-learn take their time."""
    if name in ("plots", "sklearn"):
        return importlib.import_module(f"pyrovae.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
