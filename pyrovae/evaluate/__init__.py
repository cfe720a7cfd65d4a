"""How good a model is: log p(x) exactly or by importance weights, what the weights themselves say, what z holds."""

from pyrovae.evaluate.decoding import (
    decode_deviations,
    decode_means,
    decode_samples,
    interpolate,
    latent_grid,
    manifold_means,
    reconstruct_means,
    reconstruct_samples,
)
from pyrovae.evaluate.downstream import Downstream, downstream
from pyrovae.evaluate.fid import FID, FIDHistory, fid
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
from pyrovae.evaluate.latents import Encoding, LatentReport, encode, latent_report
from pyrovae.evaluate.parameters import match_components, principal_angles
from pyrovae.evaluate.pareto import k_hat_threshold, pareto_k

__all__ = [
    "FID",
    "Downstream",
    "ELBOTerms",
    "Encoding",
    "FIDHistory",
    "LatentReport",
    "LogLikelihood",
    "decode_deviations",
    "decode_means",
    "decode_samples",
    "downstream",
    "draws",
    "elbo",
    "elbo_terms",
    "encode",
    "fid",
    "interpolate",
    "k_hat_threshold",
    "latent_grid",
    "latent_report",
    "log_likelihood",
    "log_likelihood_by_class",
    "log_weights",
    "manifold_means",
    "match_components",
    "pareto_k",
    "principal_angles",
    "reconstruct_means",
    "reconstruct_samples",
]
