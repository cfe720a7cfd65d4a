"""What a model says of each row: that of the model's own methods, in the units of the reference space."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch.distributions import AffineTransform

from pyrovae import PPCA, VAE, BernoulliMixture, FactorAnalysis, GaussianMixture, PPCAMixture, data, evaluate

UNITS = torch.tensor([0.1, 10.0, 1000.0], dtype=torch.float64)
OFFSETS = torch.tensor([5.0, -50.0, 0.0], dtype=torch.float64)


@pytest.fixture
def table():
    """Twelve rows in three units, standardised, with names and rows."""
    x = OFFSETS + UNITS * torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    raw = data.Observations(x, names=("a", "b", "c"), rows=torch.arange(101, 113))
    return raw.transformed(AffineTransform(OFFSETS, UNITS).inv, "standardized")


@pytest.fixture
def mixture():
    """Two components of full covariance, far from the start."""
    generator = torch.Generator().manual_seed(1)
    factor = torch.randn(2, 3, 3, dtype=torch.float64, generator=generator)
    covariances = factor @ factor.mT + 0.5 * torch.eye(3)
    means = torch.randn(2, 3, dtype=torch.float64, generator=generator)
    return GaussianMixture.from_parameters(torch.tensor([0.3, 0.7], dtype=torch.float64), means, covariances)


def in_units(mean, covariance):
    """A Gaussian of the view as scipy has it in the units of the file."""
    scale = torch.diag(UNITS)
    return (OFFSETS + UNITS * mean).numpy(), (scale @ covariance @ scale).numpy()


def test_log_p_is_the_density_in_the_units_of_the_file(table, mixture):
    found = evaluate.score_rows(mixture, table).table
    raw = (OFFSETS + UNITS * table.x).numpy()
    parts = [in_units(*each) for each in zip(mixture.means.detach(), mixture.covariances.detach(), strict=True)]
    densities = np.array([multivariate_normal(*part).pdf(raw) for part in parts])
    joint = mixture.weights.detach().numpy()[:, None] * densities
    np.testing.assert_allclose(found["log_p"], np.log(joint.sum(0)), rtol=1e-9)
    assert found["component"].tolist() == joint.argmax(0).tolist()
    np.testing.assert_allclose(found["component_probability"], joint.max(0) / joint.sum(0), rtol=1e-9)
    assert found["row"].tolist() == list(range(101, 113))
    assert list(found) == ["row", "log_p", "component", "component_probability"]


@pytest.mark.parametrize("built_with_it", [True, False])
def test_what_is_missing_is_the_conditional_in_the_units_of_the_file(built_with_it, table):
    """One Gaussian: the textbook's conditional mean and deviation, and the density of the observed entries."""
    covariance = torch.tensor([[1.0, 0.6, 0.2], [0.6, 2.0, -0.3], [0.2, -0.3, 1.5]], dtype=torch.float64)
    mean = torch.tensor([0.5, -0.5, 1.0], dtype=torch.float64)
    missing = "nan" if built_with_it else "error"
    model = GaussianMixture.from_parameters(
        torch.ones(1, dtype=torch.float64), mean[None], covariance[None], missing=missing
    )
    x = table.x.clone()
    x[3, 2] = x[5, 1] = x[5, 2] = math.nan
    scores = evaluate.score_rows(model, data.Observations(x, space=table.space, names=table.names, rows=table.rows))
    found = scores.table.set_index("row")
    raw_mean, raw_covariance = in_units(mean, covariance)
    raw = (OFFSETS + UNITS * table.x).numpy()
    for row, hidden in ((104, [2]), (106, [1, 2])):
        seen = [d for d in range(3) if d not in hidden]
        gain = raw_covariance[np.ix_(hidden, seen)] @ np.linalg.inv(raw_covariance[np.ix_(seen, seen)])
        expected = raw_mean[hidden] + gain @ (raw[row - 101][seen] - raw_mean[seen])
        left = raw_covariance[np.ix_(hidden, hidden)] - gain @ raw_covariance[np.ix_(seen, hidden)]
        names = [table.names[d] for d in hidden]
        np.testing.assert_allclose(found.loc[row, [f"imputed_{name}" for name in names]].astype(float), expected)
        deviations = found.loc[row, [f"imputed_sd_{name}" for name in names]].astype(float)
        np.testing.assert_allclose(deviations, np.sqrt(np.diag(left)))
        assert found.loc[row, "num_missing"] == len(hidden)
    assert found.loc[104, ["imputed_b", "imputed_sd_b"]].isna().all()
    assert "imputed_a" not in found
    assert model.missing == missing  # the caller's model is as it was
    assert "Values are missing in 2 of 12 rows" in " ".join(scores.sentences)


def test_log_p_of_a_row_with_missing_values_is_that_of_the_others(table, mixture):
    """log p of the observed entries in their own units, so that no Jacobian of a missing one is counted."""
    x = (OFFSETS + UNITS * table.x).clone()
    x[0, 1] = math.nan
    raw = data.Observations(x).transformed(AffineTransform(OFFSETS, UNITS).inv, "standardized")
    found = evaluate.score_rows(mixture, raw).table["log_p"][0]
    seen = [0, 2]
    density = sum(
        weight * multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)]).pdf(x[0, seen].numpy())
        for weight, (mean, covariance) in zip(
            mixture.weights.detach().numpy(),
            (in_units(*each) for each in zip(mixture.means.detach(), mixture.covariances.detach(), strict=True)),
            strict=True,
        )
    )
    assert found == pytest.approx(math.log(density), rel=1e-9)


@pytest.mark.parametrize("model", [PPCA(2, 3), FactorAnalysis(1, 3), VAE(2, (3,), hidden=(4,))])
def test_latents_are_posterior_means(model, table):
    rows = table if not isinstance(model, VAE) else table.to(torch.float32)
    found = evaluate.score_rows(model, rows, num_particles=20).table
    means = evaluate.encode(model, rows).mean
    assert [name for name in found if name.startswith("z")] == [f"z[{unit}]" for unit in range(means.shape[1])]
    np.testing.assert_allclose(found[f"z[{means.shape[1] - 1}]"], means[:, -1].detach().double(), rtol=1e-6)


def test_a_bound_is_named_so_with_its_error(table):
    model, rows = VAE(2, (3,), hidden=(4,)), table.to(torch.float32)
    scores = evaluate.score_rows(model, rows, num_particles=50, seed=3)
    expected = evaluate.log_likelihood(model, rows, 50, seed=3)
    np.testing.assert_allclose(scores.table["log_p_bound"], expected.values.double() + rows.log_abs_det)
    np.testing.assert_allclose(scores.table["log_p_bound_se"], expected.standard_error, equal_nan=True)
    assert "log_p" not in scores.table
    assert "lower bound of log p(x) in expectation" in scores.sentences[0]
    assert "standardized" in scores.sentences[0]


def test_a_model_of_classes_says_that_it_was_told(table):
    labelled = data.Observations(table.x.float(), labels=torch.arange(12) % 2)
    scores = evaluate.score_rows(VAE(1, (3,), hidden=(4,), num_classes=2), labelled, num_particles=5)
    assert list(scores.table)[:3] == ["datum", "log_p_given_y_bound", "log_p_given_y_bound_se"]
    assert "log p(x|y)" in scores.sentences[0]


def test_mixtures_of_other_kinds_have_components():
    x = (torch.rand(8, 4, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    for model in (BernoulliMixture(2, 4), PPCAMixture(2, 1, 4)):
        found = evaluate.score_rows(model, x).table
        assert found["component_probability"].between(0.5, 1).all()
    x[2, 1] = math.nan
    found = evaluate.score_rows(BernoulliMixture(2, 4), x).table
    assert 0 < found["imputed_x[1]"][2] < 1


def test_a_model_without_marginals_refuses_missing_values_and_says_where(table):
    x = table.x.float().clone()
    x[4, 0] = math.nan
    rows = data.Observations(x, names=table.names, rows=table.rows)
    message = r"`data` must have no missing values for a VAE, got some in 1 of 12 data, first in row 105 of the file"
    with pytest.raises(ValueError, match=message):
        evaluate.score_rows(VAE(2, (3,), hidden=(4,)), rows)


def test_a_view_that_keeps_no_means_imputes_nothing(mixture):
    """The mean of a logit is not the logit of a mean."""
    from pyrovae.data.loading import Logit

    x = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[1, 1] = math.nan
    scores = evaluate.score_rows(mixture, data.Observations(x).transformed(Logit(), "logit"))
    assert list(scores.table)[-1] == "num_missing"
    assert "They are not imputed: the view of the model (logit) does not keep means." in scores.sentences


def test_as_plain_values_nothing_is_null(table, mixture):
    x = table.x.clone()
    x[0, 0] = math.nan
    plain = evaluate.score_rows(mixture, x).to_plain()
    assert plain["rows"][1]["imputed_x[0]"] is None
    assert plain["rows"][0]["imputed_x[0]"] is not None
