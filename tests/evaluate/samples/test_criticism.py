"""Calibration of guides, and replicated data: where the answer is known, and where an error was put on purpose."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyrovae import PPCA, VAE, Bernoulli, GaussianMixture, evaluate, exact_guide
from pyrovae.models.guides import AmortizedGuide

D, LATENTS, N, S = 5, 2, 2000, 99
FALSE_FAILURE = 1e-3  # the rate at which a test of uniformity fails though all is well


@pytest.fixture(scope="module")
def ppca():
    model = PPCA(LATENTS, (D,))
    with torch.no_grad():
        model.model.weight.copy_(torch.randn(D, LATENTS, generator=torch.Generator().manual_seed(0)))
    return model


class Changed(torch.nn.Module):
    """The exact posterior with its means shifted and its standard deviations multiplied."""

    def __init__(self, model, factor=1.0, shift=0.0):
        super().__init__()
        self.exact, self.factor, self.shift = exact_guide(model).encoder, factor, shift

    def forward(self, x):
        q = self.exact(x)
        return dist.MultivariateNormal(q.mean + self.shift, scale_tril=self.factor * q.scale_tril)


def ranks_of(model, **change):
    return evaluate.simulation_based_calibration(model, N, S, guide=AmortizedGuide(Changed(model, **change)), seed=1)


def within(found, expected, num_data=N, errors=4):
    """Shares of so many data, within that many standard errors."""
    return bool(((found - expected).abs() < errors * math.sqrt(expected * (1 - expected) / num_data)).all())


# --------------------------------------------------------------------------------------------------------- calibration


def test_the_exact_posterior_has_uniform_ranks(ppca):
    ranks = evaluate.simulation_based_calibration(ppca, N, S, guide=exact_guide(ppca))
    assert ranks.p_value > FALSE_FAILURE
    assert ranks.ranks.shape == ranks.pit.shape == (N, LATENTS)
    assert ranks.ranks.min() >= 0
    assert ranks.ranks.max() <= S
    for level in (0.5, 0.9, 0.99):
        assert within(ranks.coverage(level), level)
    for unit in range(LATENTS):
        assert stats.kstest(ranks.pit[:, unit].numpy(), "uniform").pvalue > FALSE_FAILURE


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_width_is_caught_and_told_from_the_other(ppca, factor):
    ranks = ranks_of(ppca, factor=factor)
    assert ranks.p_value < 1e-12
    expected = 2 * stats.norm.cdf(factor * stats.norm.ppf(0.95)) - 1
    assert within(ranks.coverage(0.9), expected, errors=5)  # one more for the share within a rank
    assert (ranks.coverage(0.9) < 0.9).all() == (factor < 1)


def test_a_shift_is_caught(ppca):
    assert ranks_of(ppca, shift=0.2).p_value < 1e-6
    assert (ranks_of(ppca, shift=-100.0).ranks == S).all()
    assert (ranks_of(ppca, shift=100.0).ranks == 0).all()


def test_the_prior_is_calibrated_though_it_ignores_x(ppca):
    class Prior(torch.nn.Module):
        def forward(self, x):
            return dist.Normal(x.new_zeros(len(x), LATENTS), x.new_ones(())).to_event(1)

    assert evaluate.simulation_based_calibration(ppca, N, S, guide=AmortizedGuide(Prior())).p_value > FALSE_FAILURE


def test_the_test_is_that_of_scipy(ppca):
    ranks = ranks_of(ppca, factor=0.9)
    for unit in range(LATENTS):
        counts = np.bincount(ranks.ranks[:, unit].numpy(), minlength=S + 1).reshape(20, -1).sum(1)
        expected = stats.chisquare(counts)
        assert ranks.statistic[unit].item() == pytest.approx(expected.statistic)
        assert ranks.p_values[unit].item() == pytest.approx(expected.pvalue, rel=1e-9)
    assert ranks.p_value == pytest.approx(min(1, LATENTS * ranks.p_values.min().item()))
    assert "90% interval holds" in str(ranks)


def test_a_guide_of_a_conditional_model_is_ranked_at_its_labels():
    vae = VAE(1, (3,), hidden=(4,), num_classes=2)
    ranks = evaluate.simulation_based_calibration(vae, 100, 19, num_bins=5, labels=1)
    assert ranks.ranks.shape == (100, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_bins": 7}, r"`num_bins` must be a divisor of `num_draws` \+ 1 = 100, got 7; take 99 draws and 20"),
        ({"num_data": 99}, r"`num_data` must be a whole number of at least 100, got 99"),
        ({"num_bins": 1}, r"`num_bins` must be a whole number of at least 2, got 1"),
    ],
)
def test_counts_that_no_test_can_use_are_refused(ppca, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate.simulation_based_calibration(ppca, **options)


def test_a_discrete_z_has_no_ranks():
    gmm = GaussianMixture(2, (3,))
    with pytest.raises(ValueError, match=r"`model` must have a continuous z to be ranked, got GaussianMixture"):
        evaluate.simulation_based_calibration(gmm, 100, guide=exact_guide(gmm))


def test_a_seed_gives_the_same_ranks_and_leaves_the_callers_noise_alone(ppca):
    state = torch.get_rng_state()
    first, again = (evaluate.simulation_based_calibration(ppca, 100, seed=3) for _ in range(2))
    assert torch.equal(first.pit, again.pit)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first.pit, evaluate.simulation_based_calibration(ppca, 100, seed=4).pit)


# ----------------------------------------------------------------------------------------------------- replicated data


def test_a_true_model_replicates_its_data(ppca):
    x, _ = ppca.sample(100, seed=5)
    for latents in ("prior", "posterior"):
        check = evaluate.posterior_predictive_check(ppca, x, num_replicates=200, latents=latents)
        for name, p in check.p_values.items():  # six, each the most extreme of all at a rate of 1% under the prior
            assert 0.0025 < p < 0.9975, name


def test_a_wrong_spread_and_a_wrong_mean_are_caught(ppca):
    x, _ = ppca.sample(100, seed=5)
    wide = evaluate.posterior_predictive_check(ppca, 2 * x, num_replicates=50, latents="prior").p_values
    assert wide["standard deviation"] == wide["spread within data"] == 0.5 / 51
    assert evaluate.posterior_predictive_check(ppca, x + 10, num_replicates=50).p_values["mean"] < 0.05


def test_p_values_count_replicates_and_half_of_ties():
    bernoulli = VAE(1, (4,), Bernoulli(), hidden=(3,)).double()
    x = torch.tensor([[0.0, 1.0, 1.0, 0.0]] * 3, dtype=torch.float64)
    check = evaluate.posterior_predictive_check(bernoulli, x, {"ones": lambda x: x.sum()}, num_replicates=40)
    replicated = check.replicated["ones"].numpy()
    assert check.observed == {"ones": 6.0}
    assert set(replicated) <= set(range(13))
    expected = ((replicated > 6).sum() + 0.5 * (replicated == 6).sum() + 0.5) / 41
    assert check.p_values["ones"] == pytest.approx(expected)


def test_replicates_are_drawn_from_what_was_asked_for(ppca):
    """With a far x, replicates from its own z are near it, those from the prior are not."""
    x, _ = ppca.sample(20, seed=5)
    far = x + 5 * ppca.weight.detach()[:, 0]
    own, new = (
        evaluate.posterior_predictive_check(ppca, far, num_replicates=10, latents=latents, seed=2)
        for latents in ("posterior", "prior")
    )
    assert (own.replicates.mean((0, 1)) - far.mean(0)).norm() < 0.5 * (new.replicates.mean((0, 1)) - far.mean(0)).norm()
    assert own.replicates.shape == (10, 20, D)
    assert torch.equal(own.data, far)
    for r in range(10):
        assert own.replicated["mean"][r].item() == pytest.approx(own.replicates[r].mean().item())


def test_a_mixture_is_checked_by_its_exact_posterior():
    gmm = GaussianMixture(2, (3,))
    with torch.no_grad():
        gmm.model.means[1] += 50
    x, z = gmm.sample(30)
    check = evaluate.posterior_predictive_check(gmm, x, num_replicates=10)
    assert ((check.replicates.mean(-1) > 25) == (z == 1)).all()  # every datum from its own component


def test_large_data_are_kept_in_part(ppca, monkeypatch):
    monkeypatch.setattr("pyrovae.evaluate.samples.criticism.KEPT_NUMBERS", 30)
    check = evaluate.posterior_predictive_check(ppca, ppca.sample(4)[0], num_replicates=5)
    assert check.replicates.shape == (2, 4, D)
    assert evaluate.posterior_predictive_check(ppca, ppca.sample(9)[0], num_replicates=5).replicates.shape == (1, 6, D)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statistics": {}}, r"`statistics` must hold at least one statistic, got none"),
        ({"statistics": {"log": lambda x: (0 * x.sum()).log()}}, r"`statistics\['log'\]` must give a finite number"),
        ({"latents": "both"}, r'`latents` must be "posterior" or "prior", got \'both\''),
        ({"num_replicates": 0}, r"`num_replicates` must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_checks_are_refused(ppca, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate.posterior_predictive_check(ppca, torch.zeros(3, D), **options)


def test_one_datum_has_no_spread(ppca):
    x, _ = ppca.sample(1)
    with pytest.raises(ValueError, match=r"`data` must hold at least 2 data for the default `statistics`, got 1"):
        evaluate.posterior_predictive_check(ppca, x)
    check = evaluate.posterior_predictive_check(ppca, x, {"largest": lambda x: x.max()}, num_replicates=5)
    assert check.observed["largest"] == x.max()
