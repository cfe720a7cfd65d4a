"""How good a model is: log p(x) exactly, by quadrature, or bounded by importance weights and annealing; where the ELBO
loses; what z holds."""

from pyrovae.evaluate.gaps.closed_form import (
    EMDecomposition as EMDecomposition,
    em_decomposition as em_decomposition,
    posterior_gap as posterior_gap,
)
from pyrovae.evaluate.gaps.elbo_gap import ELBOGap as ELBOGap, elbo_gap as elbo_gap
from pyrovae.evaluate.latents.collapse import (
    CollapseReport as CollapseReport,
    LinearForecast as LinearForecast,
    collapse_report as collapse_report,
    linear_forecast as linear_forecast,
)
from pyrovae.evaluate.latents.downstream import Downstream as Downstream, downstream as downstream
from pyrovae.evaluate.latents.encoding import (
    Encoding as Encoding,
    LatentReport as LatentReport,
    encode as encode,
    latent_report as latent_report,
)
from pyrovae.evaluate.latents.information import (
    LatentInformation as LatentInformation,
    latent_information as latent_information,
)
from pyrovae.evaluate.latents.parameters import (
    match_components as match_components,
    principal_angles as principal_angles,
)
from pyrovae.evaluate.latents.smoothness import Smoothness as Smoothness, smoothness as smoothness
from pyrovae.evaluate.likelihood.annealed import (
    AISOptions as AISOptions,
    AnnealedLikelihood as AnnealedLikelihood,
    ais as ais,
)
from pyrovae.evaluate.likelihood.best_gaussian import SearchOptions as SearchOptions
from pyrovae.evaluate.likelihood.degeneracy import (
    DegeneracyReport as DegeneracyReport,
    degeneracy_report as degeneracy_report,
)
from pyrovae.evaluate.likelihood.estimate import LogLikelihood as LogLikelihood
from pyrovae.evaluate.likelihood.importance import (
    ELBOTerms as ELBOTerms,
    draws as draws,
    elbo as elbo,
    elbo_terms as elbo_terms,
    log_weights as log_weights,
)
from pyrovae.evaluate.likelihood.log_likelihood import (
    log_likelihood as log_likelihood,
    log_likelihood_by_class as log_likelihood_by_class,
)
from pyrovae.evaluate.likelihood.pareto import k_hat_threshold as k_hat_threshold, pareto_k as pareto_k
from pyrovae.evaluate.likelihood.quadrature import (
    PosteriorGrid as PosteriorGrid,
    Quadrature as Quadrature,
    posterior_grid as posterior_grid,
    quadrature as quadrature,
)
from pyrovae.evaluate.likelihood.sandwich import Sandwich as Sandwich, sandwich as sandwich
from pyrovae.evaluate.likelihood.table import likelihood_table as likelihood_table
from pyrovae.evaluate.row_scores import RowScores as RowScores, score_rows as score_rows
from pyrovae.evaluate.samples.classifier import train_classifier as train_classifier
from pyrovae.evaluate.samples.criticism import (
    PredictiveCheck as PredictiveCheck,
    SimulationBasedCalibration as SimulationBasedCalibration,
    posterior_predictive_check as posterior_predictive_check,
    simulation_based_calibration as simulation_based_calibration,
)
from pyrovae.evaluate.samples.decoding import (
    decode_deviations as decode_deviations,
    decode_means as decode_means,
    decode_samples as decode_samples,
    interpolate as interpolate,
    latent_grid as latent_grid,
    manifold_means as manifold_means,
    reconstruct_means as reconstruct_means,
    reconstruct_samples as reconstruct_samples,
)
from pyrovae.evaluate.samples.fid import FID as FID, FIDHistory as FIDHistory, fid as fid
from pyrovae.evaluate.samples.two_sample import TwoSampleTest as TwoSampleTest, two_sample_test as two_sample_test
