"""BIC and AIC: what they count, of parameters and, with weights, of data."""

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_iris
from torch.autograd.functional import jacobian

from pyrovae import PPCA, BernoulliMixture, FactorAnalysis, GaussianMixture, PPCAMixture, fit
from pyrovae.data import Observations


@pytest.fixture(scope="module")
def iris():
    return torch.from_numpy(load_iris().data)


MODELS = {
    "GMM": lambda: GaussianMixture(1, 4),
    "PPCA": lambda: PPCA(2, 4),
    "FA": lambda: FactorAnalysis(1, 4),
    "PPCA mixture": lambda: PPCAMixture(2, 1, 4),
    "Bernoulli mixture": lambda: BernoulliMixture(2, 4),
}


def fitted(name, iris):
    x = (iris > iris.mean(0)).double() if name == "Bernoulli mixture" else iris
    return fit.em(MODELS[name](), x[:50]).model, x


@pytest.mark.filterwarnings("ignore::pyrovae.fit.FitWarning")
@pytest.mark.parametrize("name", MODELS)
def test_what_weighs_nothing_is_not_there_and_what_weighs_two_is_there_twice(name, iris):
    model, x = fitted(name, iris)
    first = (torch.arange(150) < 50).double()
    twice = torch.cat([x[:50], x[:50]])
    for criterion in ("score", "bic", "aic"):
        measure = getattr(model, criterion)
        assert measure(x, sample_weight=first) == pytest.approx(measure(x[:50]), rel=1e-12)
        assert measure(x, sample_weight=2 * first) == pytest.approx(measure(twice), rel=1e-12)
        assert measure(x[:50], sample_weight=torch.ones(50)) == pytest.approx(measure(x[:50]), rel=1e-12)


@pytest.mark.parametrize(
    "kind",
    [np.asarray, list, pd.Series, torch.as_tensor, lambda w: pd.Series(w, index=np.arange(150)[::-1]), lambda w: w > 0],
)
def test_weights_of_every_kind(kind, iris):
    model = GaussianMixture(1, 4)
    given = kind((np.arange(150) < 50) * 1.0)
    assert model.bic(Observations(iris), given) == pytest.approx(model.bic(iris[:50]), rel=1e-12)


@pytest.mark.parametrize("criterion", ["bic", "aic"])
def test_shares_are_no_numbers_of_data(criterion, iris):
    model = GaussianMixture(1, 4)
    for share in (torch.full((150,), 1 / 150), torch.linspace(0, 1e-3, 150)):
        with pytest.raises(ValueError, match=r"`sample_weight` must sum to the number of data .* got a sum of"):
            getattr(model, criterion)(iris, share)
    assert model.score(iris, torch.full((150,), 1 / 150)) == pytest.approx(model.score(iris), rel=1e-12)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.ones(149), r"`sample_weight` must have shape \(150,\), one entry a datum, got \(149,\)"),
        (-torch.ones(150), r"`sample_weight` must be finite and not negative"),
        (torch.zeros(150), r"not all of them zero"),
        (np.ma.masked_less(np.arange(150.0), 3), r"must be finite .* got values in \[nan, nan\]"),
    ],
)
def test_what_are_no_weights_is_refused(weight, message, iris):
    for method in (PPCA(1, 4).score, PPCA(1, 4).bic, PPCA(1, 4).aic):
        with pytest.raises(ValueError, match=message):
            method(iris, weight)
    with pytest.raises(ValueError, match=message):
        fit.select([PPCA(1, 4)], lambda model: fit.closed_form(model, iris), iris, sample_weight=weight)


@pytest.mark.parametrize("criterion", ["log_likelihood", "bic", "aic"])
def test_select_with_weights_is_select_on_the_data_that_count(criterion, iris):
    weight = (torch.arange(150) < 50).double()
    candidates = [PPCA(q, 4) for q in (0, 1, 2, 3)]

    def choose(x, weight):
        return fit.select(
            candidates,
            lambda model: fit.closed_form(model, x, sample_weight=weight),
            x,
            criterion=criterion,
            sample_weight=weight,
        )

    weighted, alone = choose(iris, weight), choose(iris[:50], None)
    assert weighted.scores == pytest.approx(alone.scores, rel=1e-9)
    assert weighted.best.model.latent_dim == alone.best.model.latent_dim


def test_select_asks_for_the_weights_of_the_fit(iris):
    weight = torch.ones(150)

    def by_weight(model):
        return fit.closed_form(model, iris, sample_weight=weight)

    with pytest.raises(ValueError, match=r'`sample_weight` must be given for `criterion` "bic", as it was to the fit'):
        fit.select([PPCA(1, 4)], by_weight, iris, criterion="bic")
    assert fit.select([PPCA(1, 4)], by_weight, iris).best is not None  # validation data have weights of their own


# ------------------------------------------------------------------------------------------------ counts of parameters


def rank(function, *parameters):
    """Of the Jacobian at random parameters: the dimension of the set of distributions."""
    parts = [part.flatten(1) for part in jacobian(function, parameters)]
    return int(torch.linalg.matrix_rank(torch.cat(parts, 1), rtol=1e-9))


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize(("latent_dim", "num_dims"), [(q, d) for d in range(1, 7) for q in range(d)])
def test_linear_models_count_the_dimension_of_their_set_of_gaussians(latent_dim, num_dims):
    def moments(mean, weight, noise):
        return torch.cat([mean, (weight @ weight.T + torch.diag(noise.exp().expand(num_dims))).flatten()])

    for model, noise in ((PPCA, 1), (FactorAnalysis, num_dims)):
        expected = rank(moments, normal(num_dims), normal(num_dims, latent_dim), normal(noise))
        assert model(latent_dim, num_dims).num_free_parameters == expected


@pytest.mark.parametrize(("num_components", "num_dims"), [*product(range(1, 6), repeat=2)])
def test_bernoulli_mixtures_count_the_dimension_of_their_set_of_tables(num_components, num_dims):
    """The probabilities of all 2^D outcomes; several draws, since a Jacobian may be near-singular by chance."""
    bits = torch.tensor(list(product([0.0, 1.0], repeat=num_dims)), dtype=torch.float64)

    def table(logits, raw):
        log_p = bits @ raw.T - torch.nn.functional.softplus(raw).sum(1)
        return (log_p.exp() * logits.softmax(0)).sum(1)

    shapes = (num_components,), (num_components, num_dims)
    ranks = [rank(table, *(2 * normal(*shape) for shape in shapes)) for _ in range(5)]
    assert max(ranks) == BernoulliMixture(num_components, num_dims).num_free_parameters


def test_mixtures_of_ppca_count_what_their_components_do():
    for k, q, d in [(1, 1, 2), (3, 2, 5), (2, 4, 5)]:
        expected = k - 1 + k * PPCA(q, d).num_free_parameters
        assert PPCAMixture(k, q, d).num_free_parameters == expected
    assert PPCAMixture(1, 4, 5).num_free_parameters == GaussianMixture(1, 5).num_free_parameters


def test_saturated_factor_analysis_of_iris_pays_for_no_more_than_a_full_gaussian(iris):
    """D q + D − q(q−1)/2 + D are 15, and a full Gaussian has 14."""
    model = fit.em(FactorAnalysis(2, 4), iris).model
    assert model.num_free_parameters == GaussianMixture(1, 4).num_free_parameters == 14
    assert model.bic(iris) == pytest.approx(14 * math.log(150) - 2 * model.log_prob(iris).sum().item(), rel=1e-12)
