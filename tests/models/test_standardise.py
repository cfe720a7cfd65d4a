"""Standardisation inside: units from the data, kept with the model, and no influence of the units of x."""

import pytest
import torch

from pyrovae import VAE, Bernoulli, FullGaussian, Gaussian, LowRankGaussian, evaluate, fit, load, save
from pyrovae.io import model_file
from pyrovae.models.standardise import FARTHEST, Standardise, units

D = 4
SIZES = torch.tensor([1e-3, 1.0, 50.0, 1e6], dtype=torch.float64)


@pytest.fixture
def x():
    return (
        torch.randn(300, 2, dtype=torch.float64) @ torch.randn(2, D, dtype=torch.float64) + torch.randn(300, D).double()
    )


@pytest.mark.parametrize("each", [True, False])
def test_units_are_deviations_from_the_mean(x, each):
    found = units(x + 100, each)
    std = x.std(0, correction=0)
    expected = std if each else std.square().mean().sqrt().reshape(1)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("each", [True, False])
def test_no_datum_is_farther_than_ten_units(each):
    x = torch.zeros(10_000, D, dtype=torch.float64)
    x[0] = SIZES
    assert ((x - x.mean(0)).abs() / units(x, each)).max() <= FARTHEST * (1 + 1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_what_varies_by_rounding_alone_has_the_unit_one(value):
    x = torch.full((7, D), value)
    x[0] = torch.nextafter(x[0], torch.tensor(1e9))
    assert (units(x, True)[value != 0 :] == 1).all() or value == 0.0
    assert (units(torch.full((7, D), value), True) == 1).all()


def test_an_encoder_sees_each_dimension_at_unit_scale(x):
    layer = Standardise((D,)).double()
    layer.start_at(x * SIZES + 1e3 * SIZES, each=True)
    torch.testing.assert_close(layer(x * SIZES + 1e3 * SIZES).std(0, correction=0), torch.ones(D).double())


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize(
    "likelihood", [*(Gaussian(scale) for scale in ("shared", "per_dim", "decoder_scalar", "decoder")),
                   LowRankGaussian(1), FullGaussian()], ids=str,
)  # fmt: skip
def test_a_fit_in_other_units_is_the_same_fit(x, network, likelihood):
    """In the units of x alone it differs: log p by the Jacobian, whatever the likelihood."""
    shape = (1, 2, 2) if network == "conv" else (D,)
    x = x.reshape(-1, *shape)
    vae = VAE(2, shape, likelihood, hidden=(4,), network=network).double()
    given, scaled = (fit.svi(vae, each, num_epochs=3, batch_size=100, lr=3e-3) for each in (x, 1000 * x))
    torch.testing.assert_close(
        scaled.trace + D * torch.tensor(1000.0).double().log(), given.trace, rtol=1e-6, atol=1e-6
    )
    assert scaled.model.covariance_floor == pytest.approx(
        1024**2 * given.model.covariance_floor, rel=0.06
    )  # two digits


@pytest.mark.parametrize("scale", ["per_dim", "decoder"])
def test_each_dimension_may_be_in_a_unit_of_its_own(x, scale):
    """A floor far below every variance does not bind, so that the fits are the same."""
    vae = VAE(2, D, Gaussian(scale, floor=1e-12), hidden=(4,)).double()
    sizes = torch.tensor([2.0**-9, 1.0, 32.0, 2.0**20], dtype=torch.float64)
    given, scaled = (fit.svi(vae, each, num_epochs=3, batch_size=100, lr=3e-3) for each in (x, x * sizes))
    torch.testing.assert_close(scaled.trace + sizes.log().sum(), given.trace, rtol=1e-4, atol=1e-4)


def test_data_about_large_numbers_are_fitted_in_float64_and_that_is_said(x):
    vae = VAE(2, D, hidden=(4,))
    with pytest.warns(fit.FitWarning, match=r"`data` vary by .* in dimension \d, where float32 goes in steps of .*"):
        far = fit.svi(vae, x + 1e6, num_epochs=3)
    near = fit.svi(vae.double(), x, num_epochs=3)
    torch.testing.assert_close(far.trace, near.trace, rtol=1e-4, atol=1e-4)  # the mean is known to 1e-10
    assert evaluate.elbo(far.model, x + 1e6, 10).dtype == torch.float64


def test_units_are_saved_and_an_earlier_file_without_them_has_none(x, tmp_path):
    fitted = fit.svi(VAE(2, D, Gaussian("decoder"), hidden=(4,)), 50 * x, num_epochs=2).model
    again = load(save(fitted, tmp_path / "vae.pt"))
    assert all(
        torch.equal(a, b) for a, b in zip(fitted.state_dict().values(), again.state_dict().values(), strict=True)
    )
    content = model_file._read(tmp_path / "vae.pt")
    content["state"] = {name: each for name, each in content["state"].items() if not name.endswith(("centre", "unit"))}
    torch.save({**content, "description": "null"}, tmp_path / "earlier.pt")
    earlier = load(tmp_path / "earlier.pt")
    assert (earlier.encoder.standardise(x.float()) == x.float()).all()
    assert (earlier.decoder.head.unit == 1).all()


def test_binary_pixels_are_centred_and_a_refit_takes_the_units_of_its_own_data():
    x = (torch.rand(200, D) < torch.tensor([0.5, 0.1, 0.9, 0.01])).float()
    vae = fit.svi(VAE(1, D, Bernoulli(), hidden=(4,)), x, num_epochs=1).model
    torch.testing.assert_close(vae.encoder.standardise.centre, x.mean(0))
    again = fit.svi(vae, 1 - x, num_epochs=1).model
    torch.testing.assert_close(again.encoder.standardise.centre, 1 - x.mean(0))
    kept = fit.svi(vae, 1 - x, num_epochs=1, warm_start=True).model
    assert torch.equal(kept.encoder.standardise.centre, vae.encoder.standardise.centre)


def test_a_floor_that_nobody_gave_follows_the_data_of_each_fit_and_is_recorded(x):
    vae = VAE(2, D, Gaussian("decoder"), hidden=(4,))
    first = fit.svi(vae, x.float(), num_epochs=1).model
    assert first.covariance_floor == pytest.approx(4e-3 * x.var(0, correction=0).mean().item(), rel=0.06)
    assert first.config["likelihood"]["floor"] == first.covariance_floor == first.decoder.head.likelihood.floor
    second = fit.svi(first, 10 * x.float(), num_epochs=1).model
    assert second.covariance_floor == pytest.approx(100 * first.covariance_floor, rel=0.06)
    assert (
        fit.svi(first, 10 * x.float(), num_epochs=1, warm_start=True).model.covariance_floor == first.covariance_floor
    )
    given = VAE(2, D, Gaussian("decoder", floor=0.5), hidden=(4,))
    assert fit.svi(given, x.float(), num_epochs=1).model.covariance_floor == 0.5


def test_a_floor_from_the_data_goes_with_the_state_of_a_model(x):
    fitted = fit.svi(VAE(2, D, Gaussian("decoder"), hidden=(4,)), 50 * x.float(), num_epochs=1).model
    other = VAE(2, D, Gaussian("decoder"), hidden=(4,))
    other.load_state_dict(fitted.state_dict())
    z = torch.randn(5, 2)
    assert torch.equal(other.decoder(z).stddev, fitted.decoder(z).stddev)
    assert (other.covariance_floor, other.config) == (fitted.covariance_floor, fitted.config)
    assert fitted.copy().covariance_floor == fitted.covariance_floor


def test_a_model_of_a_raised_floor_is_fitted_under_it(x):
    raised = fit.svi(VAE(2, D, Gaussian("decoder"), hidden=(4,)), x.float(), num_epochs=1).model.with_floor(50.0)
    again = fit.svi(raised, 3 * x.float(), num_epochs=1).model
    assert (again.covariance_floor, again.config) == (50.0, None)
    assert again.decoder(torch.zeros(1, 2)).variance.min() >= 50.0 * (1 - 1e-6)
    torch.testing.assert_close(again.encoder.standardise.centre, 3 * x.float().mean(0))
