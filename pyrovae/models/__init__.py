"""The models: each an explicit Pyro program with its guide."""

from pyrovae.models.base import LatentVariableModel as LatentVariableModel, Program as Program
from pyrovae.models.bernoulli_mixture import BernoulliMixture as BernoulliMixture
from pyrovae.models.factor_analysis import FactorAnalysis as FactorAnalysis
from pyrovae.models.gmm import GaussianMixture as GaussianMixture
from pyrovae.models.guides import exact_guide as exact_guide
from pyrovae.models.likelihoods import (
    Bernoulli as Bernoulli,
    ContinuousBernoulli as ContinuousBernoulli,
    CrossEntropyLoss as CrossEntropyLoss,
    DiscretizedLogistic as DiscretizedLogistic,
    FullGaussian as FullGaussian,
    Gaussian as Gaussian,
    Likelihood as Likelihood,
    LowRankGaussian as LowRankGaussian,
)
from pyrovae.models.ppca import PPCA as PPCA
from pyrovae.models.ppca_mixture import PPCAMixture as PPCAMixture
from pyrovae.models.tractable import TractableModel as TractableModel
from pyrovae.models.vae import VAE as VAE
