"""The models as estimators of scikit-learn: in a ``Pipeline``, ``clone``, ``GridSearchCV``, with pandas in and out.

Each has the arguments of its model and of the fit, under their names here, and ``random_state``, which is the seed.
Once fitted, its ``model_`` is the model and its ``result_`` the fit, which every function of pyrovae takes.
"""

from pyrovae.sklearn.latents import PPCA as PPCA, VAE as VAE, FactorAnalysis as FactorAnalysis
from pyrovae.sklearn.mixtures import (
    BernoulliMixture as BernoulliMixture,
    GaussianMixture as GaussianMixture,
    PPCAMixture as PPCAMixture,
)
