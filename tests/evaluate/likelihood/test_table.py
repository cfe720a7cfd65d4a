"""The table of estimates of log p(x): a row for each, its columns the numbers that the estimates themselves give."""

import pandas as pd
import pytest
import torch

from pyrovae import PPCA, evaluate


@pytest.fixture
def ppca_and_x():
    torch.manual_seed(0)
    return PPCA(latent_dim=2, data_shape=(5,)), torch.randn(6, 5, dtype=torch.float64)


def test_columns_are_what_the_estimates_say(ppca_and_x):
    ppca, x = ppca_and_x
    exact = ppca.log_prob(x).detach()
    estimates = {("prior", s): evaluate.log_likelihood(ppca, x, s, "importance", guide=ppca.model) for s in (10, 100)}
    table = evaluate.likelihood_table(estimates, exact)
    assert list(table.index) == list(estimates)
    for name, each in estimates.items():
        row = table.loc[name]
        assert row["log p(x)"] == each.mean
        assert row["off by"] == pytest.approx(each.mean - exact.mean().item(), abs=1e-12)
        assert row["± MC"] == each.monte_carlo_standard_error
        assert row["−½ SE²"] == each.bias.mean().item()
        assert row["ESS"] == each.ess.mean().item()
        assert row["k̂ too large"] == each.k_hat_share


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
