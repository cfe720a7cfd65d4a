"""How good a model is: log p(x) exactly or by importance weights, and what the weights themselves say."""

from pyrovae.evaluate.importance import (
    ELBOTerms,
    LogLikelihood,
    draws,
    elbo,
    elbo_terms,
    log_likelihood,
    log_likelihood_by_class,
    log_weights,
)
from pyrovae.evaluate.parameters import match_components, principal_angles
from pyrovae.evaluate.pareto import k_hat_threshold, pareto_k

__all__ = [
    "ELBOTerms",
    "LogLikelihood",
    "draws",
    "elbo",
    "elbo_terms",
    "k_hat_threshold",
    "log_likelihood",
    "log_likelihood_by_class",
    "log_weights",
    "match_components",
    "pareto_k",
    "principal_angles",
]
