"""A floor that nobody gave is taken from the data at the fit, so that fits follow the units of the data."""

import math

import pytest
import torch

import pyrovae
from pyrovae import PPCA, FactorAnalysis, GaussianMixture, PPCAMixture, fit
from pyrovae.models.floors import FLOOR, NOISE_FLOOR, relative_floor

D = 4
MODELS = {
    "full": lambda **options: GaussianMixture(2, D, **options),
    "tied": lambda **options: GaussianMixture(2, D, "tied", **options),
    "PPCA mixture": lambda **options: PPCAMixture(2, 1, D, **options),
    "PPCA": lambda **options: PPCA(1, D, **options),
    "factor analysis": lambda **options: FactorAnalysis(1, D, **options),
    "one Gaussian": lambda **options: GaussianMixture(1, D, **options),
}
FITS = {"em": lambda model, x: fit.em(model, x), "svi": lambda model, x: fit.svi(model, x)}
every_fit = pytest.mark.parametrize(
    ("name", "how"),
    [(name, how) for name in MODELS for how in FITS] + [("PPCA", "closed form"), ("one Gaussian", "closed form")],
)
each_model = pytest.mark.parametrize("name", MODELS)


def data_for(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(150, D, generator=generator, dtype=torch.float64)
    return x + 5 * (torch.arange(150) % 2)[:, None]


def fitted(how, model, x):
    return FITS.get(how, fit.closed_form)(model, x).model


@every_fit
def test_a_floor_left_out_is_that_of_the_data_and_recorded(name, how):
    model, x = MODELS[name](), data_for()
    relative = NOISE_FLOOR if name in ("PPCA", "factor analysis") else FLOOR
    found = fitted(how, model, 30 * x)
    expected = relative_floor(30 * x, relative)
    assert (found.floor, found.covariance_floor, found.model.floor, found.config["floor"]) == (expected,) * 4
    assert (model.floor, model.config["floor"]) == (relative, None)
    assert fitted(how, found, x).floor == relative_floor(x, relative)  # nobody has given the first one either
    assert fitted(how, MODELS[name](floor=0.5), x).floor == 0.5


@every_fit
@pytest.mark.parametrize("seed", range(3))
def test_fits_follow_the_units_and_the_origin_of_the_data(name, how, seed):
    """Rounding is 2⁻⁵² of a datum, at 10⁶ about 1e-10 of a deviation, which EM magnifies by less than 10⁴.

    Adam makes whole steps of a gradient that is rounding, as that of a mean which starts at its best, so that fits by
    SVI agree only as far as they converge.
    """
    near = 1e-2 if how == "svi" else 1e-6
    x = data_for(seed)
    plain, scaled, shifted = (fitted(how, MODELS[name](), data) for data in (x, 1000 * x, x + 1e6))
    jacobian = D * math.log(1000)
    torch.testing.assert_close(scaled.log_prob(1000 * x) + jacobian, plain.log_prob(x), rtol=0, atol=near)
    torch.testing.assert_close(shifted.log_prob(x + 1e6), plain.log_prob(x), rtol=0, atol=near)


@each_model
def test_the_state_of_a_model_holds_the_floor_that_its_parameters_go_with(name, tmp_path):
    x = 30 * data_for()
    found = fitted("em", MODELS[name](), x)
    again = pyrovae.load(pyrovae.save(found, tmp_path / "model.pt"))
    into = MODELS[name]()
    into.load_state_dict(found.state_dict())
    for each in (again, into):
        assert (each.floor, each.config) == (found.floor, found.config)
        assert torch.equal(each.log_prob(x), found.log_prob(x))


@each_model
def test_a_state_without_a_floor_loads_where_one_is_given(name):
    """Of an earlier release: its parameters mean nothing under a floor that nobody gave."""
    state = MODELS[name]().state_dict()
    del state["floor"]
    MODELS[name](floor=1e-6).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r'Missing key.* "floor"'):
        MODELS[name]().load_state_dict(state)
    assert MODELS[name]().load_state_dict(state, strict=False).missing_keys == ["floor"]


@pytest.mark.parametrize("weighted", [False, True])
def test_the_floor_counts_what_is_observed_by_its_weight(weighted):
    x = data_for()
    x = x.masked_fill(torch.rand(x.shape) < 0.2, torch.nan)
    weight = torch.randint(0, 3, (len(x),)).double() if weighted else torch.ones(len(x))
    rows = x.repeat_interleave(weight.long(), dim=0)
    variance = torch.stack([column[~column.isnan()].var(correction=0) for column in rows.T]).mean().item()
    assert relative_floor(x, 1.0, weight if weighted else None) == float(f"{variance:.1e}")


def test_beside_a_given_noise_the_floor_is_relative_to_it():
    assert PPCA(1, D, noise_variance=1e-9).floor == pytest.approx(1e-15)
