"""The heads of a decoder: shapes, where σ comes from, the floor, and the start at the data."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyrovae import Bernoulli, Gaussian

LEARNED = ("shared", "per_dim", "decoder_scalar", "decoder")
LIKELIHOODS = [Bernoulli(), Gaussian(0.5), *(Gaussian(scale) for scale in LEARNED)]
SHAPES = [(6,), (1, 2, 3)]
FEATURES = 3

shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
likelihoods = pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
learned = pytest.mark.parametrize("scale", LEARNED)


def make_head(likelihood, shape=(6,)):
    head = likelihood.head(FEATURES, shape).double()
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    return head


def features(*batch_shape):
    return torch.randn(*batch_shape, FEATURES, dtype=torch.float64)


@likelihoods
@shapes
@pytest.mark.parametrize("batch_shape", [(), (5,), (4, 5)], ids=str)
def test_batch_and_event_shapes(likelihood, shape, batch_shape):
    output = make_head(likelihood, shape)(features(*batch_shape))
    assert (output.batch_shape, output.event_shape) == (batch_shape, shape)
    assert output.sample().shape == output.mean.shape == (*batch_shape, *shape)
    assert output.log_prob(output.sample()).shape == batch_shape


@shapes
@pytest.mark.parametrize(
    ("scale", "varies_over_data", "varies_over_dims"),
    [
        (0.5, False, False),
        ("shared", False, False),
        ("per_dim", False, True),
        ("decoder_scalar", True, False),
        ("decoder", True, True),
    ],
)
def test_sigma_varies_over_what_its_name_says(shape, scale, varies_over_data, varies_over_dims):
    sigma = make_head(Gaussian(scale), shape)(features(5)).stddev.flatten(1)
    assert (sigma.std(0) > 1e-6).all().item() is varies_over_data
    assert (sigma.std(1) > 1e-6).all().item() is varies_over_dims
    if not varies_over_data:
        assert (sigma == sigma[0]).all()
    if not varies_over_dims:
        assert (sigma == sigma[:, :1]).all()


def test_sigma_given_as_a_number_is_that_number():
    assert (make_head(Gaussian(0.25))(features(5)).stddev == 0.25).all()


@learned
@shapes
def test_variance_is_the_floor_plus_softplus(scale, shape):
    head, h = make_head(Gaussian(scale, floor=0.01), shape), features(5)
    raw = head.raw_variance(h) if scale.startswith("decoder") else head.raw_variance
    expected = (0.01 + F.softplus(raw)).expand(5, -1).expand(5, 6)
    torch.testing.assert_close(head(h).variance.flatten(1), expected, rtol=1e-12, atol=0)


@learned
@pytest.mark.parametrize("raw", [-1e6, -100.0, 0.0, 1e6])
def test_variance_is_never_below_the_floor(scale, raw):
    head = make_head(Gaussian(scale, floor=0.01))
    nn.init.constant_(head.raw_variance.bias if scale.startswith("decoder") else head.raw_variance, raw)
    variance = head(features(5)).variance
    assert variance.isfinite().all()
    assert (variance >= 0.01 * (1 - 1e-15)).all()


@likelihoods
@shapes
def test_gradients_reach_every_parameter(likelihood, shape):
    head = make_head(likelihood, shape)
    output = head(features(5))
    output.log_prob(output.sample()).sum().backward()
    for name, parameter in head.named_parameters():
        assert (parameter.grad != 0).any(), name


@shapes
def test_bernoulli_mass_sums_to_one(shape):
    """Over all 2⁶ binary x."""
    every_x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 6).reshape(64, *shape)
    log_prob = make_head(Bernoulli(), shape)(features()).log_prob(every_x)
    torch.testing.assert_close(log_prob.logsumexp(0), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------ the start at the data


@shapes
def test_bernoulli_starts_at_the_clipped_means_of_the_pixels(shape):
    x = torch.bernoulli(torch.rand(1000, 6, dtype=torch.float64))
    x[:, 0], x[:, 1] = 0, 1
    head = make_head(Bernoulli(), shape)
    head.start_at(x.reshape(1000, *shape))
    mean = head(torch.zeros(FEATURES, dtype=torch.float64)).mean.flatten()
    torch.testing.assert_close(mean[2:], x.mean(0)[2:], rtol=1e-12, atol=0)
    torch.testing.assert_close(mean[:2], torch.tensor([0.001, 0.999], dtype=torch.float64), rtol=1e-12, atol=0)


@learned
@shapes
@pytest.mark.parametrize("size", [0.1, 1.0, 1000.0])  # the largest has variances whose exponentials overflow
def test_gaussian_starts_at_the_mean_and_the_variance_of_the_data(scale, shape, size):
    x = size * torch.randn(50, 6, dtype=torch.float64) * torch.arange(1, 7) + 3
    head = make_head(Gaussian(scale), shape)
    head.start_at(x.reshape(50, *shape))
    output = head(torch.zeros(FEATURES, dtype=torch.float64))
    per_dim = x.var(0, correction=0)
    expected = per_dim if scale in ("per_dim", "decoder") else per_dim.mean().expand(6)
    torch.testing.assert_close(output.mean.flatten(), x.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(output.variance.flatten(), expected, rtol=1e-10, atol=0)


@learned
def test_gaussian_starts_at_a_positive_variance_on_constant_data(scale):
    head = make_head(Gaussian(scale, floor=0.01))
    head.start_at(torch.ones(50, 6))
    variance = head(torch.zeros(FEATURES, dtype=torch.float64)).variance
    assert ((variance > 0.01) & (variance < 0.021)).all()


def test_fixed_sigma_starts_at_the_mean_alone():
    head, x = make_head(Gaussian(0.5)), torch.randn(50, 6, dtype=torch.float64)
    head.start_at(x)
    output = head(torch.zeros(FEATURES, dtype=torch.float64))
    torch.testing.assert_close(output.mean, x.mean(0))
    assert (output.stddev == 0.5).all()


# ------------------------------------------------------------------------------------------------------------- contract


@pytest.mark.parametrize("scale", ["dense", 0, -1.0, math.inf, math.nan, True, None, "0.5"])
def test_unknown_scales_are_refused(scale):
    with pytest.raises(ValueError, match=r"`scale` must be a positive number or one of \('shared', 'per_dim'"):
        Gaussian(scale)


@pytest.mark.parametrize("floor", [0, -1e-4, math.inf, math.nan])
def test_floors_that_are_no_variance_are_refused(floor):
    with pytest.raises(ValueError, match=r"`floor` must be a positive variance, .* without one the likelihood is unb"):
        Gaussian(floor=floor)
