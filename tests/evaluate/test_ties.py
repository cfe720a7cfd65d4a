"""A choice among equals is made by a rule with a stated tolerance: rounding of the last bits changes none."""

import math

import pytest
import torch

from pyrovae import PPCA, evaluate
from pyrovae.evaluate import LatentReport, LinearForecast, PredictiveCheck, SearchOptions
from pyrovae.models.networks import LinearGaussianEncoder

NUDGES = [-1e-15, 0.0, 1e-15]  # some last bits of a number of size one


@pytest.mark.parametrize("nudge", NUDGES)
def test_units_that_carry_the_same_stand_in_the_order_of_their_numbers(nudge):
    kl = torch.tensor([0.0, 1.0, 0.0, 1.0 + nudge, nudge], dtype=torch.float64)
    report = LatentReport(kl, torch.ones(5), torch.ones(5), 0.01, 10)
    assert report.by_kl == [1, 3, 0, 2, 4]


@pytest.mark.parametrize("nudge", NUDGES)
def test_an_eigenvalue_at_the_threshold_is_not_above_it(nudge):
    """So it is where σ² is the mean of equal eigenvalues that are left out, as PPCA's is."""
    eigenvalues = torch.tensor([2.0, 0.5 + nudge, 0.5], dtype=torch.float64)
    assert LinearForecast(eigenvalues, 0.5, 1.0).active.tolist() == [True, False, False]


@pytest.mark.parametrize("nudge", NUDGES)
def test_replicates_that_equal_the_data_count_half(nudge):
    replicated = torch.tensor([0.5, 1.0, 1.0 + nudge, 2.0], dtype=torch.float64)
    data = torch.zeros(1, 1, dtype=torch.float64)
    check = PredictiveCheck({"T": 1.0}, {"T": replicated}, "prior", data, data[None])
    assert check.p_values["T"] == pytest.approx((1 + 0.5 * 2 + 0.5) / 5, abs=0)


@pytest.mark.parametrize("nudge", NUDGES)
def test_components_that_are_the_same_are_matched_in_their_order(nudge):
    """Swapping the last two would be nearer, by rounding."""
    reference = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0 + nudge, 4.0]], dtype=torch.float64)
    assert evaluate.match_components(reference[[0, 2, 1]], reference).tolist() == [0, 1, 2]


@pytest.mark.parametrize("nudge", NUDGES)
def test_weights_of_a_discrete_z_have_no_tail_whatever_their_rounding(nudge):
    """Three values among 500 weights, each rounded in many ways, as tiles of many shapes might."""
    number = torch.arange(500)
    log_weights = torch.tensor([-1.0, -1.5, -2.0], dtype=torch.float64)[number % 3] + nudge / 4 * (number % 31)
    assert math.isnan(evaluate.pareto_k(log_weights[:, None]).item())


def test_a_q_that_no_search_can_better_is_kept():
    """From the posterior itself, where the monitored ELBO of start and end differ by rounding at most."""
    torch.manual_seed(0)
    ppca = PPCA(2, 4, floor=0.3, encoder=LinearGaussianEncoder(4, 2, torch.float64))
    ppca.match_guide()
    x, _ = ppca.sample(5)
    options = {"method": "optimized", "search": SearchOptions(max_steps=60), "num_particles": 50}
    found = evaluate.elbo_gap(ppca, x, "full", **options)
    assert torch.equal(found.best_elbo, found.elbo)


@pytest.mark.parametrize("nudge", NUDGES)
def test_quadrature_takes_as_many_nodes_whatever_the_rounding_of_the_data(nudge):
    torch.manual_seed(1)
    ppca = PPCA(1, 3, noise_variance=0.5)
    torch.nn.init.normal_(ppca.model.weight)
    x, _ = ppca.sample(4)
    exact, moved = (evaluate.quadrature(ppca, each) for each in (x, x + nudge))
    assert torch.equal(exact.num_nodes, moved.num_nodes)
