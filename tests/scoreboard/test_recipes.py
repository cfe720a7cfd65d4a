"""Recipes: models from plain values, with defaults that suit the data."""

import math

import pytest
import torch

from pyrovae.data import Observations, Space
from pyrovae.scoreboard import recipes

D = 5


def observations(support="real", num_data=60, scale=3.0):
    x = scale * torch.randn(num_data, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (x > 0).double() if support != "real" else x
    return Observations(x, space=Space("toy", support, levels=2 if support == "integer" else None))


@pytest.mark.parametrize("kind", recipes.RECIPES)
def test_every_kind_is_built_without_an_option(kind):
    train = observations("boolean" if kind == "bernoulli-mixture" else "real")
    model = recipes.build(kind, train)
    assert model.data_shape == (D,)
    assert model.config.get("latent_dim") in (None, D - 1)
    assert model.config.get("num_components") in (None, 6)  # a tenth of the data


@pytest.mark.parametrize("kind", ["gmm", "ppca", "fa", "ppca-mixture"])
def test_default_floors_go_with_the_variance_of_the_data(kind):
    small, large = (recipes.build(kind, observations(scale=scale)).floor for scale in (1.0, 10.0))
    assert large / small == pytest.approx(100, rel=0.1)  # rounded to two digits


@pytest.mark.parametrize("name", recipes.LIKELIHOODS)
def test_every_likelihood_is_built_by_its_name(name):
    support = recipes.LIKELIHOODS[name].support
    vae = recipes.build("vae", observations(support), likelihood=name, hidden=(4,))
    assert vae.support == support
    assert vae.config["likelihood"]["kind"].lower() == name.replace("-", "")


def test_options_are_those_of_the_classes():
    assert recipes.RECIPES["gmm"].options == ("num_components", "covariance", "floor")
    assert recipes.RECIPES["fa"].options == ("latent_dim", "floor")
    with pytest.raises(ValueError, match="`posterior` must be left out for gmm, which takes `num_components`"):
        recipes.build("gmm", observations(), posterior="full")


def test_data_that_do_not_vary_are_refused():
    with pytest.raises(ValueError, match="`data` must hold training data that differ, got one value throughout"):
        recipes.build("ppca", Observations(torch.ones(9, D)))


@pytest.mark.parametrize("kind", recipes.RECIPES)
def test_svi_runs_for_a_number_of_steps_whatever_the_number_of_data(kind):
    recipe = recipes.RECIPES[kind]
    for num_data in (600, 6000):
        options = recipes.svi_options(kind, observations(num_data=num_data))
        steps = options["num_epochs"] * math.ceil(num_data / options["batch_size"])
        least = 20 * math.ceil(num_data / recipe.batch_size) if kind == "vae" else 0
        assert steps == pytest.approx(max(recipe.num_steps, least), rel=0.12)
