"""Pareto k̂ against the law of its weights, and against ArviZ in either version."""

import math
import warnings

import pytest
import torch

from pyrovae.evaluate import k_hat_threshold, pareto_k


def exponential(num_particles, num_data=1):
    return torch.empty(num_particles, num_data, dtype=torch.float64).exponential_()


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_k_hat_is_the_shape_of_pareto_weights(k):
    """If log w = k e, e exponential, then P(w > t) = t^(−1/k), whose tail is generalised Pareto with shape k.

    ArviZ fits the largest M = 3√S weights; k̂ then has a standard error of (1 + k)/√M, and ArviZ pulls it towards ½ by
    10 pseudo-observations.
    """
    num_particles = 100_000
    tail = 3 * math.sqrt(num_particles)
    estimate = pareto_k(k * exponential(num_particles)).item()
    expected = (tail * k + 10 * 0.5) / (tail + 10)
    assert abs(estimate - expected) <= 5 * (1 + k) / math.sqrt(tail)


def test_k_hat_is_arviz_own():
    log_weights = 0.6 * exponential(400, num_data=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ announces its own changes on import
        import arviz

        if hasattr(arviz, "psislw"):
            expected = arviz.psislw(log_weights.T.numpy())[1]
        else:
            xarray = pytest.importorskip("xarray")
            weights = xarray.DataArray(log_weights.numpy(), dims=("sample", "datum"))
            expected = (-weights).azstats.psislw(dim="sample")[1].values  # it takes log-likelihoods
    torch.testing.assert_close(pareto_k(log_weights), torch.as_tensor(expected), rtol=1e-10, atol=1e-10)


def test_k_hat_ignores_the_scale_of_the_weights():
    log_weights = exponential(200, num_data=4)
    torch.testing.assert_close(pareto_k(log_weights - 1000), pareto_k(log_weights), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, -1234.5])
def test_equal_weights_are_the_best_there_are(dtype, value):
    """Equal up to the rounding of sums of this size; ArviZ itself would say k̂ = ∞."""
    log_weights = torch.full((100, 2), value, dtype=dtype)
    log_weights[::2] *= 1 + torch.finfo(dtype).eps
    assert pareto_k(log_weights).tolist() == [-math.inf, -math.inf]


def test_data_are_judged_one_by_one():
    log_weights = exponential(100, num_data=3)
    log_weights[:, 1] = 0
    k_hat = pareto_k(log_weights)
    assert k_hat[1] == -math.inf
    assert k_hat[[0, 2]].isfinite().all()
    torch.testing.assert_close(k_hat[2:], pareto_k(log_weights[:, 2:]))


def test_discrete_weights_have_no_tail_to_fit():
    """Of three values: the weights are bounded, and nothing like a Pareto tail."""
    log_weights = torch.randint(3, (1000, 1)).double()
    assert pareto_k(log_weights).isnan().all()


def test_too_few_particles_for_a_tail_give_nan():
    assert pareto_k(exponential(24)).isnan().all()
    assert pareto_k(exponential(40)).isfinite().all()
    assert pareto_k(torch.zeros(3, 1)).item() == -math.inf
    assert pareto_k(torch.zeros(1, 2)).isnan().all()  # a single weight is equal to itself, whatever the guide


@pytest.mark.parametrize(("num_particles", "threshold"), [(100, 0.5), (1000, 0.67), (2200, 0.70), (10**6, 0.70)])
def test_thresholds_are_those_of_vehtari_and_others(num_particles, threshold):
    assert k_hat_threshold(num_particles) == pytest.approx(threshold, abs=0.005)
    assert k_hat_threshold(num_particles) <= 0.7


def test_no_k_hat_passes_with_one_particle():
    assert k_hat_threshold(1) == -math.inf
