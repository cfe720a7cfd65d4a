"""The models as estimators of scikit-learn: in a ``Pipeline``, ``clone``, ``GridSearchCV``, with pandas in and out.

Each has the arguments of its model and of the fit, under their names here, and ``random_state``, which is the seed.  Of a
fitted one ``model_`` is the model and ``result_`` the fit, which every function of pyrovae takes.
"""

from pyrovae.sklearn.latents import PPCA as PPCA, VAE as VAE, FactorAnalysis as FactorAnalysis
from pyrovae.sklearn.mixtures import (
    BernoulliMixture as BernoulliMixture,
    GaussianMixture as GaussianMixture,
    PPCAMixture as PPCAMixture,
)
