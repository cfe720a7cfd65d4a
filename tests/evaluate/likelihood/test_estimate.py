"""What an estimate says of its own error: right where weights know it, and nothing where they do not."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pyrovae import PPCA, AISOptions, GaussianMixture, evaluate, exact_guide
from pyrovae.evaluate import AnnealedLikelihood, LogLikelihood
from pyrovae.evaluate.likelihood import annealed
from pyrovae.evaluate.likelihood.estimate import data_part, mean_error, standard_error, summarize
from pyrovae.models.networks import CategoricalEncoder, LinearGaussianEncoder

N, S = 40, 400


def likelihood_of(log_w):
    """What is said of log weights (S, N)."""
    values, errors, ess, k_hat = summarize(log_w)
    return LogLikelihood(values, "importance", len(log_w), errors, ess, k_hat)


def detuned(shift=0.0, stretch=1.0):
    """PPCA of 8 latents in 20 dimensions, its q off the posterior by so much in the mean and the scale of each."""
    ppca = PPCA(8, 20, floor=0.1, encoder=LinearGaussianEncoder(20, 8, torch.float64))
    nn.init.normal_(ppca.model.weight)
    ppca.match_guide()
    with torch.no_grad():
        ppca.guide.encoder.loc.bias.add_(shift)
        ppca.guide.encoder.log_diagonal.add_(math.log(stretch))
        ppca.guide.encoder.lower.mul_(stretch)
    return ppca


# -------------------------------------------------------------------------------- weights that do not know their error


@pytest.mark.parametrize("q", ["shifted", "too narrow", "prior"])
def test_where_k_hat_is_too_high_no_error_stands(q, normal_prior):
    """The truth lies tens to thousands of delta-method errors away, none of which can exceed 1/√N."""
    ppca = detuned({"shifted": 1.0}.get(q, 0.0), {"too narrow": 0.3}.get(q, 1.0))
    x = ppca.sample(N, seed=1)[0]
    guide = normal_prior(8) if q == "prior" else None
    found = evaluate.log_likelihood(ppca, x, S, "importance", guide=guide)
    share = evaluate.log_weights(ppca, x, S, guide=guide).softmax(0)
    claimed = (S * share.var(0)).sum().sqrt().item() / N
    assert ppca.score(x) - found.mean > 8 * claimed
    assert found.k_hat_share > 0.9
    assert math.isnan(found.monte_carlo_standard_error)
    assert math.isnan(found.data_standard_error)
    over = found.k_hat > evaluate.k_hat_threshold(S)
    assert torch.equal(found.standard_error.isnan(), over)
    assert torch.equal(found.bias.isnan(), over)
    assert found.mark == "k̂"
    assert found.doubt.startswith(
        f"No Monte-Carlo error can be given, for {int(over.sum())} of the {N} data: weights who"
    )
    assert "no Monte-Carlo error can be given" in repr(found)
    assert "of it Monte Carlo" not in repr(found)
    assert found.mean_standard_error == pytest.approx(found.values.std().item() / math.sqrt(N))  # over data, it stands


def test_one_datum_of_many_is_enough():
    """Its value may be off by anything, and so may the mean."""
    log_w = 0.3 * torch.randn(S, N, dtype=torch.float64)
    log_w[:, 7] = 2 * torch.empty(S, dtype=torch.float64).exponential_()  # Pareto weights without a mean
    found = likelihood_of(log_w)
    assert found.standard_error[7].isnan()
    assert math.isnan(found.monte_carlo_standard_error)
    assert found.mark == "k̂"


@pytest.mark.parametrize("number", [2, 10, 16, 24])
def test_a_few_uneven_draws_claim_no_error(number):
    """No k̂ is there to warn; by simulation their errors are half of what they should be, or less."""
    log_w = 3 * torch.randn(number, N, 200, dtype=torch.float64)
    values, errors, _, k_hat = summarize(log_w.flatten(1))
    assert k_hat.isnan().all()
    means = values.reshape(N, 200).mean(0)
    share = log_w.softmax(0)
    claimed = (number * share.var(0)).sum(0).sqrt() / N
    assert means.std() > 1.5 * claimed.mean()
    assert errors.reshape(N, 200).isnan().any(0).all()  # of 40 data there is always one that says so


def test_chains_with_next_to_no_temperatures_claim_no_error(monkeypatch):
    monkeypatch.setattr(annealed, "PILOT_TRANSITIONS", 1)
    monkeypatch.setattr(annealed, "PILOT_WARM_UP", 1)
    ppca = detuned()
    x = ppca.sample(10, seed=1)[0]
    found = evaluate.ais(ppca, x, AISOptions(num_chains=16, num_temperatures=3, num_leapfrog=2))
    assert ppca.score(x) - found.mean > 5
    assert isinstance(found, AnnealedLikelihood)
    assert math.isnan(found.monte_carlo_standard_error)
    assert found.mark == "ESS"
    assert "there is no k̂, and fewer than 5 effective draws" in found.doubt
    both = evaluate.sandwich(ppca, 4, AISOptions(num_chains=3, num_temperatures=2, num_leapfrog=1))
    assert "nan" not in str(both)
    assert "± n/a nats per datum" in str(both)
    assert both.lower.doubt in str(both)
    assert "the chains of the upper bound start from one z a datum, and their ± knows of no other" in str(both)


# --------------------------------------------------------------------------------------------- weights that do know it


@pytest.mark.parametrize("number", [16, 24])
def test_errors_that_stand_for_few_draws_are_right(number):
    """Over 400 sets the spread of the mean is the error: its own s.d. is 1/√800, and the delta method is 5% off."""
    log_w = 0.4 * torch.randn(number, N * 400, dtype=torch.float64)
    values, errors, *_ = summarize(log_w)
    means, claimed = values.reshape(N, 400).mean(0), errors.reshape(N, 400).square().sum(0).sqrt() / N
    assert not claimed.isnan().any()
    assert abs(means.std() / claimed.mean() - 1) < 4 / math.sqrt(800) + 0.05


def test_errors_of_a_good_guide_are_the_delta_methods():
    ppca = detuned(stretch=1.1)
    x = ppca.sample(N, seed=1)[0]
    found = evaluate.log_likelihood(ppca, x, 2000, "importance")
    w = evaluate.log_weights(ppca, x, 2000).numpy()
    w = np.exp(w - w.max(0))
    known = found.k_hat <= evaluate.k_hat_threshold(2000)
    assert known.double().mean() > 0.8
    expected = (w.std(0, ddof=1) / w.mean(0) / math.sqrt(2000))[known.numpy()]
    np.testing.assert_allclose(found.standard_error[known], expected, rtol=1e-9)


def test_equal_weights_have_no_error_and_a_single_one_has_none_to_give():
    ppca = detuned()
    x = ppca.sample(5, seed=1)[0]
    exact = evaluate.log_likelihood(ppca, x, 2, "importance", guide=exact_guide(ppca))
    assert exact.monte_carlo_standard_error < 1e-10
    assert (exact.mark, exact.doubt, exact.k_hat_share) == ("", "", 0.0)
    single = evaluate.log_likelihood(ppca, x, 1, "importance", guide=exact_guide(ppca))
    assert single.standard_error.isnan().all()
    assert single.k_hat.isnan().all()
    assert single.mark == "ESS"


# ----------------------------------------------------------------------------------------------- what is not available


@pytest.mark.parametrize("number", [1, 10, 16, 24])
def test_without_a_k_hat_its_share_is_not_zero(number):
    found = likelihood_of(torch.randn(number, N, dtype=torch.float64))
    assert math.isnan(found.k_hat_share)
    assert repr(found).endswith("; k̂ is not available")
    assert "0%" not in repr(found)


def test_a_share_is_of_the_data_that_have_a_k_hat():
    """A discrete z of three values has no tail; where one value is certain, all weights are equal."""
    gmm = GaussianMixture(3, 2, encoder=CategoricalEncoder((2,), 3).double())
    with torch.no_grad():
        gmm.model.means.copy_(torch.tensor([[-9.0, 0.0], [0.0, 0.0], [9.0, 0.0]]))
    found = evaluate.log_likelihood(gmm, torch.zeros(4, 2, dtype=torch.float64), 500, "importance")
    assert found.k_hat.isnan().all()
    assert math.isnan(found.k_hat_share)
    log_w = torch.stack([torch.zeros(S), 2 * torch.empty(S).exponential_(), torch.randint(3, (S,)).float()], 1).double()
    assert likelihood_of(log_w).k_hat_share == 0.5


@pytest.mark.parametrize("certain", [6.0, 30.0])
def test_a_discrete_z_of_which_one_value_is_drawn_has_no_error_of_zero(certain):
    """q is sure of the first component, the posterior of neither: log p̂ is low by log 2, and all weights are equal."""
    gmm = GaussianMixture(2, 3, encoder=CategoricalEncoder((3,), 2).double())
    for parameter in (*gmm.model.parameters(), *gmm.guide.parameters()):
        nn.init.zeros_(parameter)
    (logits,) = [parameter for name, parameter in gmm.guide.named_parameters() if name.endswith("bias")][-1:]
    with torch.no_grad():
        logits.copy_(torch.tensor([certain, 0.0]))
    x = torch.zeros(3, 3, dtype=torch.float64)
    found = evaluate.log_likelihood(gmm, x, 20, "importance", seed=1)
    drawn, _ = evaluate.draws(gmm, x, 20, seed=1)
    alike = (drawn == drawn[0]).all(0)
    assert alike.any()
    off = (gmm.log_prob(x) - found.values)[alike]
    torch.testing.assert_close(off, torch.full_like(off, math.log(2)), rtol=0, atol=0.01)
    assert found.standard_error[alike].isnan().all()
    assert found.k_hat[alike].isnan().all()
    assert math.isnan(found.monte_carlo_standard_error)
    assert "all alike" in found.doubt


def test_the_exact_posterior_may_be_certain():
    gmm = GaussianMixture(2, 3)
    with torch.no_grad():
        gmm.model.means.copy_(torch.tensor([[-50.0] * 3, [50.0] * 3]))
    x = gmm.sample(5)[0]
    found = evaluate.log_likelihood(gmm, x, 20, "importance", guide=exact_guide(gmm))
    torch.testing.assert_close(found.values, gmm.log_prob(x).detach(), rtol=0, atol=1e-10)
    assert found.standard_error.max() < 1e-10
    assert found.k_hat_share == 0


def test_one_datum_has_no_error_over_data_and_no_warning():
    ppca = detuned()
    x = ppca.sample(1, seed=1)[0]
    for found in (evaluate.log_likelihood(ppca, x), evaluate.log_likelihood(ppca, x, 50, "importance")):
        assert "± n/a nats per datum, N = 1" in repr(found)
        assert "nan" not in repr(found)
        assert math.isnan(found.mean_standard_error)
        assert math.isnan(found.data_standard_error)


def test_an_error_that_is_not_known_is_no_zero():
    assert math.isnan(data_part(1.0, math.nan))
    assert math.isnan(data_part(math.nan, 0.1))
    assert data_part(5.0, 3.0) == pytest.approx(4.0)
    assert data_part(1.0, 1.0 + 1e-12) == 0.0
    assert math.isnan(standard_error(torch.ones(1)))
    assert mean_error(torch.ones(1, 3)).isnan().all()


def test_an_impossible_datum_has_no_error_at_all():
    """p(x) = 0: every weight is 0, and nothing divides by their sum unseen."""
    found = likelihood_of(torch.full((50, 2), -math.inf, dtype=torch.float64))
    assert found.values.tolist() == [-math.inf] * 2
    assert found.standard_error.isnan().all()
    assert math.isnan(found.k_hat_share)
