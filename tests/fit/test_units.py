"""Data whose units a fit remarks on."""

import math

import pytest
import torch

from pyrovae import PPCA, VAE, Gaussian, GaussianMixture, data, fit

D = 3


@pytest.fixture
def table():
    """Columns of which the last varies by a ten-thousandth of the others."""
    return torch.randn(200, D, dtype=torch.float64) * torch.tensor([1.0, 2.0, 1e-4])


@pytest.mark.parametrize(
    "make",
    [
        lambda floor, x: fit.em(GaussianMixture(2, D, floor=floor), x, tolerance=0.01),
        lambda floor, x: fit.closed_form(PPCA(1, D, floor=floor), x),
        lambda floor, x: fit.svi(VAE(1, D, Gaussian("decoder", floor=floor), hidden=(4,)), x, num_steps=4),
    ],
    ids=["em", "closed form", "svi"],
)
def test_a_floor_that_follows_the_data_and_hides_a_column_is_remarked_on(make, table):
    with pytest.warns(fit.FitWarning, match=r"`floor` was not given .* 1 of 3 dimensions, .* of dimension 2, which"):
        make(None, table)
    with pytest.warns(fit.FitWarning, match=r"`floor` was not given .* 1 of 3 dimensions"):
        make(None, table * torch.tensor([1e5, 1e5, 1.0]))  # an income beside a rate of interest
    make(1e-10, table)  # the caller's own
    make(None, table / table.std(0))


def test_pixels_that_hardly_vary_get_no_remark():
    train = data.load("digits", dequantize=False).train
    assert train.x.var(0).min() < 4e-3 * train.x.var(0).mean()
    fit.em(GaussianMixture(1, 64), train)


def test_constant_columns_get_no_remark():
    x = torch.randn(200, D, dtype=torch.float64) * torch.tensor([1.0, 2.0, 0.0])
    fit.em(GaussianMixture(1, D), x)


@pytest.mark.parametrize(
    "warm",
    [
        lambda floor, x: fit.em(PPCA(1, D, floor=floor), x, warm_start=True),
        lambda floor, x: fit.svi(
            VAE(1, D, Gaussian("decoder", floor=floor), hidden=(4,)), x, num_steps=4, warm_start=True
        ),
    ],
    ids=["em", "svi"],
)
def test_a_warm_start_says_that_the_floor_of_a_model_without_data_hides_them(warm):
    x = torch.randn(200, D, dtype=torch.float64) * torch.tensor([1.0, 2.0, 3.0]) * 1e-4
    with pytest.warns(fit.FitWarning, match="`floor` was not given .* 3 of 3 dimensions"):
        warm(None, x)
    warm(1e-12, x)


MAKE = {
    "em": lambda x: fit.em(GaussianMixture(1, D), x, tolerance=0.01),
    "closed form": lambda x: fit.closed_form(PPCA(1, D), x),
    "svi": lambda x: fit.svi(VAE(1, D, Gaussian("decoder"), hidden=(4,)).double(), x, num_steps=4),
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_floor_cannot_follow_data_that_do_not_vary(make):
    with pytest.warns(fit.FitWarning, match="`data` do not vary, so that no `floor` can follow them: it is "):
        result = make(torch.full((50, D), 1.3))
    assert result.model.covariance_floor in (4e-3, 1e-6)


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
@pytest.mark.parametrize("size", [1e-25, 1e-9, 1e20])
def test_a_fit_follows_units_of_any_size(make, size):
    x = torch.randn(200, D, dtype=torch.float64)
    scaled = make(size * x).trace + D * math.log(size)
    torch.testing.assert_close(scaled, make(x).trace, rtol=0, atol=1e-8)


def test_numbers_whose_squares_float32_cannot_hold_are_fitted_in_float64():
    with pytest.warns(fit.FitWarning, match=r"`data` vary by .* where float32 goes in squares of 1/1e\+30 to 1e\+30"):
        result = fit.svi(VAE(1, D, Gaussian("decoder"), hidden=(4,)), 1e20 * torch.randn(200, D), num_steps=4)
    assert result.trace.isfinite().all()
