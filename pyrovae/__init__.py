"""pyrovae: latent-variable models in Pyro, measured on one scale, held-out log-likelihood in nats per datum."""

from pyrovae import data, evaluate, fit
from pyrovae.models import PPCA, VAE, Bernoulli, Gaussian, GaussianMixture, exact_guide

__all__ = ["PPCA", "VAE", "Bernoulli", "Gaussian", "GaussianMixture", "data", "evaluate", "exact_guide", "fit"]
