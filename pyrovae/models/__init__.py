"""The models: each an explicit Pyro program with its guide."""

from pyrovae.models.base import LatentVariableModel, Program, TractableModel, exact_guide
from pyrovae.models.gmm import GaussianMixture
from pyrovae.models.likelihoods import Bernoulli, Gaussian
from pyrovae.models.ppca import PPCA
from pyrovae.models.vae import VAE

__all__ = [
    "PPCA",
    "VAE",
    "Bernoulli",
    "Gaussian",
    "GaussianMixture",
    "LatentVariableModel",
    "Program",
    "TractableModel",
    "exact_guide",
]
