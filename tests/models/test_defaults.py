"""Models from plain values, with defaults that suit the data."""

import pytest
import torch

from pyrovae.data import Observations, Space
from pyrovae.models import defaults

D = 5


def observations(support="real", num_data=60, scale=3.0):
    x = scale * torch.randn(num_data, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (x > 0).double() if support != "real" else x
    return Observations(x, space=Space("toy", support, levels=2 if support == "integer" else None))


@pytest.mark.parametrize("kind", defaults.KINDS)
def test_every_kind_is_built_without_an_option(kind):
    train = observations("boolean" if kind == "bernoulli-mixture" else "real")
    model = defaults.build(kind, train)
    assert model.data_shape == (D,)
    assert model.config.get("latent_dim") in (None, D - 1)
    assert model.config.get("num_components") in (None, 6)  # a tenth of the data


@pytest.mark.parametrize("name", defaults.LIKELIHOODS)
def test_every_likelihood_is_built_by_its_name(name):
    support = defaults.LIKELIHOODS[name].support
    vae = defaults.build("vae", observations(support), likelihood=name, hidden=(4,))
    assert vae.support == support
    assert vae.config["likelihood"]["kind"].lower() == name.replace("-", "")


def test_a_loss_that_is_no_density_has_no_name():
    assert "cross-entropy-loss" not in defaults.LIKELIHOODS


def test_options_are_those_of_the_classes():
    assert defaults.KINDS["gmm"].options == ("num_components", "covariance", "floor")
    assert defaults.KINDS["fa"].options == ("latent_dim", "floor")
    with pytest.raises(ValueError, match="`posterior` must be left out for gmm, which takes `num_components`"):
        defaults.build("gmm", observations(), posterior="full")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gmm", {"num_components": 3, "covariance": "diag", "floor": 0.5}),
        ("ppca-mixture", {"num_components": 2, "latent_dim": 1, "floor": 0.5}),
        ("vae", {"latent_dim": 2, "hidden": [], "activation": "tanh", "posterior": "full", "num_classes": 3}),
    ],
)
def test_options_that_are_given_are_taken(kind, options):
    config = defaults.build(kind, observations(), **options).config
    assert {name: config[name] for name in options} == options


def test_an_option_that_is_none_is_left_to_the_data():
    assert defaults.build("ppca", observations(), latent_dim=None, floor=None).config["latent_dim"] == D - 1


def test_data_that_do_not_vary_are_refused():
    with pytest.raises(ValueError, match="`data` must hold training data that differ, got one value throughout"):
        defaults.build("ppca", Observations(torch.ones(9, D)))
