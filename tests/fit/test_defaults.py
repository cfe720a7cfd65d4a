"""What a fit takes where nobody chose: a number of steps, whatever the number of data."""

import inspect
import math

import pytest
import torch

from pyrovae import PPCA, fit
from pyrovae.data import Observations, Space
from pyrovae.fit import defaults
from pyrovae.models.defaults import KINDS, build

D = 5
STEPS = {"ppca": 400, "fa": 400, "vae": 1700}  # of the others 450


def observations(support="real", num_data=60, scale=1.0):
    x = scale * torch.randn(num_data, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Observations((x > 0).double() if support == "boolean" else x, space=Space("toy", support))


@pytest.mark.parametrize("kind", KINDS)
def test_svi_runs_for_a_number_of_steps_whatever_the_number_of_data(kind):
    for num_data in (600, 6000):
        train = observations("boolean" if kind == "bernoulli-mixture" else "real", num_data)
        options = defaults.svi_options(build(kind, train), train)
        batches = math.ceil(num_data / options["batch_size"])
        least = 60 * batches if kind == "vae" else 0
        assert options["num_steps"] == pytest.approx(max(STEPS.get(kind, 450), least), rel=0.12)


def test_the_learning_rate_of_a_linear_model_goes_with_the_units_of_the_data():
    small, large = (observations(scale=scale) for scale in (1.0, 10.0))
    options = [defaults.svi_options(PPCA(1, D), train) for train in (small, large)]
    assert options[1]["unit"] / options[0]["unit"] == pytest.approx(10)
    assert options[1]["lr"] == options[0]["lr"]
    assert defaults.svi_options(PPCA(1, D), large, lr=0.1)["unit"] == 1


def test_large_data_are_given_fewer_steps_and_less_exact_em(monkeypatch):
    train = observations(num_data=600)
    gmm, vae = build("gmm", train), build("vae", train)
    small = [defaults.svi_options(gmm, train), defaults.svi_options(vae, train), defaults.em_options(gmm, train)]
    monkeypatch.setattr(defaults, "LARGE_NUMBERS", 100)
    large = [defaults.svi_options(gmm, train), defaults.svi_options(vae, train), defaults.em_options(gmm, train)]
    assert large[0]["num_steps"] < small[0]["num_steps"]
    assert large[1]["batch_size"] > small[1]["batch_size"]
    assert large[2]["tolerance"] > small[2]["tolerance"]


@pytest.mark.parametrize("kind", ["gmm", "ppca-mixture", "ppca", "fa"])
def test_em_is_accelerated_where_it_climbs_slowly(kind):
    train = observations()
    options = defaults.em_options(build(kind, train), train)
    assert options == {"tolerance": 1e-6, "accelerate": kind in ("ppca", "fa")}
    assert set(options) <= set(inspect.signature(fit.em).parameters)
    assert defaults.em_options(build(kind, train), train, tolerance=1e-3, accelerate=False) == {
        "tolerance": 1e-3,
        "accelerate": False,
    }


def test_arrays_are_large_as_tensors_are_and_batches_of_unknown_number_are_not(monkeypatch):
    train = observations(num_data=30)
    monkeypatch.setattr(defaults, "LARGE_NUMBERS", 100)
    assert all(defaults.is_large(data) for data in (train, train.x, train.x.numpy()))
    assert not defaults.is_large([train.x, train.x])


def test_the_number_of_steps_is_the_one_given_or_that_of_the_epochs_given():
    train = observations(num_data=150)
    vae = build("vae", train)
    chosen = [
        defaults.svi_options(vae, train, batch_size=20, **given) for given in ({"num_steps": 7}, {"num_epochs": 3})
    ]
    assert [each["num_steps"] for each in chosen] == [7, 3 * 8]
