"""How good a model is: log p(x) exactly, by quadrature, or bounded by importance weights and annealing; where the ELBO
loses; what z holds."""

from pyrovae.evaluate.annealed import AnnealedLikelihood, Sandwich, ais, sandwich
from pyrovae.evaluate.collapse import CollapseReport, LinearForecast, collapse_report, linear_forecast
from pyrovae.evaluate.criticism import (
    CalibrationRanks,
    PredictiveCheck,
    calibration_ranks,
    posterior_predictive_check,
)
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
from pyrovae.evaluate.degeneracy import DegeneracyReport, degeneracy_report
from pyrovae.evaluate.downstream import Downstream, downstream
from pyrovae.evaluate.exact_gaps import EMLedger, em_ledger, posterior_gap
from pyrovae.evaluate.fid import FID, FIDHistory, fid
from pyrovae.evaluate.gaps import GapLedger, gap_ledger
from pyrovae.evaluate.importance import (
    ELBOTerms,
    LogLikelihood,
    draws,
    elbo,
    elbo_terms,
    log_weights,
)
from pyrovae.evaluate.information import LatentInformation, latent_information
from pyrovae.evaluate.integration import PosteriorGrid, Quadrature, posterior_grid, quadrature
from pyrovae.evaluate.latents import Encoding, LatentReport, encode, latent_report
from pyrovae.evaluate.likelihood import log_likelihood, log_likelihood_by_class
from pyrovae.evaluate.parameters import match_components, principal_angles
from pyrovae.evaluate.pareto import k_hat_threshold, pareto_k
from pyrovae.evaluate.smoothness import Smoothness, smoothness
from pyrovae.evaluate.two_sample import TwoSampleTest, two_sample_test

__all__ = [
    "FID",
    "AnnealedLikelihood",
    "CalibrationRanks",
    "CollapseReport",
    "DegeneracyReport",
    "Downstream",
    "ELBOTerms",
    "EMLedger",
    "Encoding",
    "FIDHistory",
    "GapLedger",
    "LatentInformation",
    "LatentReport",
    "LinearForecast",
    "LogLikelihood",
    "PosteriorGrid",
    "PredictiveCheck",
    "Quadrature",
    "Sandwich",
    "Smoothness",
    "TwoSampleTest",
    "ais",
    "calibration_ranks",
    "collapse_report",
    "decode_deviations",
    "decode_means",
    "decode_samples",
    "degeneracy_report",
    "downstream",
    "draws",
    "elbo",
    "elbo_terms",
    "em_ledger",
    "encode",
    "fid",
    "gap_ledger",
    "interpolate",
    "k_hat_threshold",
    "latent_grid",
    "latent_information",
    "latent_report",
    "linear_forecast",
    "log_likelihood",
    "log_likelihood_by_class",
    "log_weights",
    "manifold_means",
    "match_components",
    "pareto_k",
    "posterior_gap",
    "posterior_grid",
    "posterior_predictive_check",
    "principal_angles",
    "quadrature",
    "reconstruct_means",
    "reconstruct_samples",
    "sandwich",
    "smoothness",
    "two_sample_test",
]
