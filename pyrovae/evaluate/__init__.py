"""How good a model is: log p(x) exactly, by quadrature, or bounded by importance weights and annealing; where the ELBO
loses; what z holds."""

from pyrovae.evaluate.gaps.best_gaussian import SearchOptions
from pyrovae.evaluate.gaps.closed_form import EMDecomposition, em_decomposition, posterior_gap
from pyrovae.evaluate.gaps.elbo_gap import ELBOGap, elbo_gap
from pyrovae.evaluate.latents.collapse import CollapseReport, LinearForecast, collapse_report, linear_forecast
from pyrovae.evaluate.latents.downstream import Downstream, downstream
from pyrovae.evaluate.latents.encoding import Encoding, LatentReport, encode, latent_report
from pyrovae.evaluate.latents.information import LatentInformation, latent_information
from pyrovae.evaluate.latents.parameters import match_components, principal_angles
from pyrovae.evaluate.latents.smoothness import Smoothness, smoothness
from pyrovae.evaluate.likelihood.annealed import AISOptions, AnnealedLikelihood, ais
from pyrovae.evaluate.likelihood.degeneracy import DegeneracyReport, degeneracy_report
from pyrovae.evaluate.likelihood.estimate import LogLikelihood
from pyrovae.evaluate.likelihood.importance import ELBOTerms, draws, elbo, elbo_terms, log_weights
from pyrovae.evaluate.likelihood.log_likelihood import log_likelihood, log_likelihood_by_class
from pyrovae.evaluate.likelihood.pareto import k_hat_threshold, pareto_k
from pyrovae.evaluate.likelihood.quadrature import PosteriorGrid, Quadrature, posterior_grid, quadrature
from pyrovae.evaluate.likelihood.sandwich import Sandwich, sandwich
from pyrovae.evaluate.likelihood.table import likelihood_table
from pyrovae.evaluate.samples.classifier import train_classifier
from pyrovae.evaluate.samples.criticism import (
    PredictiveCheck,
    SimulationBasedCalibration,
    posterior_predictive_check,
    simulation_based_calibration,
)
from pyrovae.evaluate.samples.decoding import (
    decode_deviations,
    decode_means,
    decode_samples,
    interpolate,
    latent_grid,
    manifold_means,
    reconstruct_means,
    reconstruct_samples,
)
from pyrovae.evaluate.samples.fid import FID, FIDHistory, fid
from pyrovae.evaluate.samples.two_sample import TwoSampleTest, two_sample_test

__all__ = [
    "FID",
    "AISOptions",
    "AnnealedLikelihood",
    "CollapseReport",
    "DegeneracyReport",
    "Downstream",
    "ELBOGap",
    "ELBOTerms",
    "EMDecomposition",
    "Encoding",
    "FIDHistory",
    "LatentInformation",
    "LatentReport",
    "LinearForecast",
    "LogLikelihood",
    "PosteriorGrid",
    "PredictiveCheck",
    "Quadrature",
    "Sandwich",
    "SearchOptions",
    "SimulationBasedCalibration",
    "Smoothness",
    "TwoSampleTest",
    "ais",
    "collapse_report",
    "decode_deviations",
    "decode_means",
    "decode_samples",
    "degeneracy_report",
    "downstream",
    "draws",
    "elbo",
    "elbo_gap",
    "elbo_terms",
    "em_decomposition",
    "encode",
    "fid",
    "interpolate",
    "k_hat_threshold",
    "latent_grid",
    "latent_information",
    "latent_report",
    "likelihood_table",
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
    "simulation_based_calibration",
    "smoothness",
    "train_classifier",
    "two_sample_test",
]
