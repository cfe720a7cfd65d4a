"""The table of estimates of log p(x): a row for each, its columns the numbers that the estimates themselves give."""

import math

import pandas as pd
import pytest
import torch

from pyrovae import PPCA, AISOptions, evaluate


@pytest.fixture
def ppca_and_x():
    torch.manual_seed(0)
    return PPCA(latent_dim=2, data_shape=(5,)), torch.randn(6, 5, dtype=torch.float64)


def test_columns_are_what_the_estimates_say(ppca_and_x, normal_prior):
    ppca, x = ppca_and_x
    exact, guide = ppca.log_prob(x).detach(), normal_prior(2)
    estimates = {("prior", s): evaluate.log_likelihood(ppca, x, s, "importance", guide=guide) for s in (10, 100)}
    table = evaluate.likelihood_table(estimates, exact)
    assert list(table.index) == list(estimates)
    for name, each in estimates.items():
        row = table.loc[name]
        assert row["log p(x)"] == each.mean
        assert row["off by"] == pytest.approx(each.mean - exact.mean().item(), abs=1e-12)
        assert same(row["± MC"], each.monte_carlo_standard_error)
        assert same(row["−½ SE²"], each.bias.mean().item())
        assert row["ESS"] == each.ess.mean().item()
        assert same(row["k̂ too large"], each.k_hat_share)


def same(one, other):
    return one == other or (math.isnan(one) and math.isnan(other))


def test_a_bound_below_another_is_told_of(ppca_and_x):
    """Two temperatures are far below importance weights from the posterior; an upper bound is below nothing."""
    ppca, _ = ppca_and_x
    torch.nn.init.normal_(ppca.model.weight, std=2.0)
    poor = AISOptions(num_chains=4, num_temperatures=2, num_leapfrog=1)
    both = evaluate.sandwich(ppca, 6, poor)
    estimates = {
        "annealed": both.lower,
        "reverse": both.upper,
        "importance": evaluate.log_likelihood(ppca, both.data, 10, "importance"),
        "exact": evaluate.log_likelihood(ppca, both.data),
    }
    table = evaluate.likelihood_table(estimates)
    assert table.loc["annealed", "short by"] > 0.5
    assert table.loc["annealed", "short by"] == pytest.approx(ppca.score(both.data) - both.lower.mean, abs=1e-9)
    assert table.loc[["importance", "exact"], "short by"].abs().max() < 1e-9
    assert math.isnan(table.loc["reverse", "short by"])
    assert math.isnan(evaluate.likelihood_table({"reverse": both.upper}).loc["reverse", "short by"])


def test_exact_posterior_is_off_by_nothing(ppca_and_x):
    ppca, x = ppca_and_x
    ll = evaluate.log_likelihood(ppca, x, 10, "importance")
    table = evaluate.likelihood_table({"posterior": ll}, ppca.log_prob(x).detach())
    assert abs(table.loc["posterior", "off by"]) < 1e-10
    assert table.loc["posterior", "± MC"] < 1e-10


def test_without_an_exact_value_there_is_no_error(ppca_and_x):
    ppca, x = ppca_and_x
    table = evaluate.likelihood_table({"bound": evaluate.log_likelihood(ppca, x, 10, "importance")})
    assert isinstance(table, pd.DataFrame)
    assert "off by" not in table.columns
