"""The heads of a decoder: shapes, where σ comes from, the floor, and the start at the data."""

import math
from dataclasses import dataclass

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import nn
from torch.nn import functional as F

from pyrovae import (
    VAE,
    Bernoulli,
    ContinuousBernoulli,
    CrossEntropyLoss,
    DiscretizedLogistic,
    FullGaussian,
    Gaussian,
    LowRankGaussian,
)
from pyrovae.models import Likelihood

LEARNED = ("shared", "per_dim", "decoder_scalar", "decoder")
CORRELATED = [LowRankGaussian(2, floor=0.01), FullGaussian(floor=0.01)]
LIKELIHOODS = [
    Bernoulli(),
    Gaussian(0.5),
    *(Gaussian(scale) for scale in LEARNED),
    Gaussian("decoder", bounded=True),
    *CORRELATED,
    ContinuousBernoulli(),
    CrossEntropyLoss(),
    *(DiscretizedLogistic(17, scale) for scale in (0.5, *LEARNED)),
]
SHAPES = [(6,), (1, 2, 3)]
FEATURES = 3

shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
likelihoods = pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
correlated = pytest.mark.parametrize("likelihood", CORRELATED, ids=str)
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


def covariances(output):
    """Of a Gaussian over data of any shape, (..., D, D)."""
    return getattr(output, "vectors", output).covariance_matrix


@correlated
@shapes
def test_correlated_gaussians_have_scipys_density(likelihood, shape):
    output, x = make_head(likelihood, shape)(features(5)), torch.randn(5, *shape, dtype=torch.float64)
    means, matrices = output.mean.flatten(1).detach().numpy(), covariances(output).detach().numpy()
    expected = [
        scipy.stats.multivariate_normal.logpdf(row, mean, matrix)
        for row, mean, matrix in zip(x.flatten(1).numpy(), means, matrices, strict=True)
    ]
    np.testing.assert_allclose(output.log_prob(x).detach().numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("scale", [0.5, *LEARNED])
def test_independent_gaussians_have_scipys_density(scale):
    output, x = make_head(Gaussian(scale))(features(5)), torch.randn(5, 6, dtype=torch.float64)
    expected = scipy.stats.norm.logpdf(x, output.mean.detach(), output.stddev.detach()).sum(1)
    np.testing.assert_allclose(output.log_prob(x).detach().numpy(), expected, rtol=1e-12)


@shapes
def test_correlated_noise_varies_over_data_and_is_correlated(shape):
    for likelihood in CORRELATED:
        matrices = covariances(make_head(likelihood, shape)(features(5)))
        assert (matrices.std(0) > 1e-6).all()
    low_rank = make_head(LowRankGaussian(2, floor=0.01), shape)
    h = features(5)
    diagonal = low_rank.likelihood.floor + F.softplus(low_rank.raw_variance(h))
    explained = covariances(low_rank(h)) - diagonal.diag_embed()
    assert (torch.linalg.matrix_rank(explained, atol=1e-9) == 2).all()


@correlated
@pytest.mark.parametrize("raw", [-1e3, -100.0, 0.0, 100.0])
def test_every_eigenvalue_of_a_covariance_is_above_the_floor(likelihood, raw):
    head = make_head(likelihood)
    if isinstance(likelihood, LowRankGaussian):
        nn.init.constant_(head.raw_variance.bias, raw)
    else:
        for parameter in head.factor.parameters():
            parameter.data.mul_(0.0 if raw < 0 else 1.0).add_(max(raw, 0.0))
    values = torch.linalg.eigvalsh(covariances(head(features(5))))
    assert values.isfinite().all()
    rounding = 1e-13 * values.amax(-1, keepdim=True)
    assert (values >= 0.01 - rounding).all()
    if raw < 0:
        assert (values[:, 0] < 0.0101).all()  # nothing lies between the floor and what was asked for


@learned
def test_the_logistic_of_a_discretised_head_has_the_variance_of_its_sigma(scale):
    """σ² ≥ floor is that of the logistic before rounding, s²π²/3."""
    head = make_head(DiscretizedLogistic(17, scale, floor=0.01))
    nn.init.constant_(head.raw_variance.bias if scale.startswith("decoder") else head.raw_variance, -1e6)
    scale_before_rounding = head(features(5)).base_dist.scale
    expected = scipy.stats.logistic.var(scale=scale_before_rounding.detach().numpy())
    np.testing.assert_allclose(expected, 0.01, rtol=1e-12)


@shapes
def test_discretised_mass_sums_to_one(shape):
    """Over all 3⁶ x of three levels."""
    every_x = torch.cartesian_prod(*[torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)] * 6).reshape(-1, *shape)
    log_prob = make_head(DiscretizedLogistic(3), shape)(features()).log_prob(every_x)
    assert abs(log_prob.logsumexp(0).item()) < 1e-12


@pytest.mark.parametrize(
    "likelihood", [Gaussian("decoder"), *CORRELATED, ContinuousBernoulli()], ids=lambda each: type(each).__name__
)
def test_a_density_integrates_to_one_in_two_dimensions(likelihood):
    """The trapezium rule, whose error on a smooth bump falls faster than any power of the step."""
    output = make_head(likelihood, (2,))(0.3 * features())
    inside = isinstance(likelihood, ContinuousBernoulli)
    count = 2001 if inside else 801
    middle = torch.full((2,), 0.5) if inside else output.mean.detach()
    reach = torch.full((2,), 0.5) if inside else 9 * output.variance.detach().sqrt()
    axes = [m + r * torch.linspace(-1, 1, count, dtype=torch.float64) for m, r in zip(middle, reach, strict=True)]
    density = output.log_prob(torch.cartesian_prod(*axes).reshape(count, count, 2)).exp()
    mass = torch.trapezoid(torch.trapezoid(density, axes[1]), axes[0]).item()
    assert mass == pytest.approx(1, abs=1e-6)


def test_a_network_trained_by_cross_entropy_can_be_measured_as_a_bernoulli():
    loss, bernoulli = make_head(CrossEntropyLoss()), make_head(Bernoulli())
    bernoulli.load_state_dict(loss.state_dict())
    h, x = features(5), torch.rand(5, 6, dtype=torch.float64).round()
    torch.testing.assert_close(loss(h).log_prob(x), bernoulli(h).log_prob(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss(h).mean, bernoulli(h).mean, rtol=1e-12, atol=0)


# ------------------------------------------------------------------------------------------------ the start at the data


@shapes
def test_continuous_bernoulli_starts_at_the_clipped_means_of_the_pixels(shape):
    x = torch.rand(1000, 6, dtype=torch.float64)
    x[:, 0], x[:, 1], x[:, 2] = 0, 1, 0.5
    head = make_head(ContinuousBernoulli(), shape)
    head.start_at(x.reshape(1000, *shape))
    mean = head(torch.zeros(FEATURES, dtype=torch.float64)).mean.flatten()
    torch.testing.assert_close(mean, x.mean(0).clamp(0.001, 0.999), rtol=0, atol=1e-12)


@correlated
@shapes
def test_correlated_gaussians_start_at_the_means_and_variances_of_the_data(likelihood, shape):
    x = torch.randn(50, 6, dtype=torch.float64) * torch.arange(1, 7) + 3
    x[:, 0] = 3.0
    head = make_head(likelihood, shape)
    head.start_at(x.reshape(50, *shape))
    output = head(torch.zeros(FEATURES, dtype=torch.float64))
    torch.testing.assert_close(output.mean.flatten(), x.mean(0), rtol=1e-12, atol=1e-12)
    expected = x.var(0, correction=0).clamp_min(2 * likelihood.floor)
    torch.testing.assert_close(covariances(output), expected.diag(), rtol=1e-10, atol=1e-12)


@learned
def test_a_discretised_logistic_starts_at_the_means_and_variances_of_the_data(scale):
    """Whose own mean differs by what rounding and the two ends do, little for data that stay away from those."""
    x = (0.5 + 0.05 * torch.randn(2000, 6, dtype=torch.float64)).mul(255).round().div(255)
    head = make_head(DiscretizedLogistic(256, scale))
    head.start_at(x)
    output = head(torch.zeros(FEATURES, dtype=torch.float64))
    torch.testing.assert_close(output.base_dist.loc, x.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(output.mean, x.mean(0), rtol=1e-5, atol=0)
    torch.testing.assert_close(output.variance.mean(), x.var(0, correction=0).mean(), rtol=5e-3, atol=0)


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


@shapes
def test_a_bounded_gaussian_has_its_mean_in_the_unit_interval_and_starts_at_that_of_the_data(shape):
    x = torch.rand(50, 6, dtype=torch.float64)
    x[:, 0] = 0
    head = make_head(Gaussian("per_dim", bounded=True), shape)
    head.start_at(x.reshape(50, *shape))
    output = head(torch.zeros(FEATURES, dtype=torch.float64))
    expected = x.mean(0).clamp(0.001, 0.999)
    torch.testing.assert_close(output.mean.flatten(), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(output.variance.flatten()[1:], x.var(0, correction=0)[1:], rtol=1e-10, atol=0)
    means = head(100 * features(50)).mean
    assert means.min() >= 0
    assert means.max() <= 1


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


@dataclass(frozen=True)
class Laplace(Likelihood):
    """A likelihood of one's own: a location from z, a scale that all data share."""

    def outputs(self, num_dims):
        return {"loc": num_dims}

    def shared(self, num_dims):
        return {"log_scale": 1}

    def distribution(self, numbers, data_shape):
        loc = numbers["loc"].unflatten(-1, data_shape)
        return dist.Laplace(loc, numbers["log_scale"].exp()).to_event(len(data_shape))

    def start(self, x):
        return {"loc": x.mean(0), "log_scale": (x - x.mean(0)).abs().mean().log()}


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_a_likelihood_of_ones_own_serves_every_network(network):
    x = torch.randn(50, 1, 4, 4, dtype=torch.float64) + 2
    vae = VAE(2, (1, 4, 4), Laplace(), (6,), network=network).double()
    vae.initialize(x)
    output = vae.decoder.head.likelihood.distribution({"loc": x[0].flatten(), "log_scale": torch.zeros(1)}, (1, 4, 4))
    assert output.event_shape == vae.data_shape == (1, 4, 4)
    assert vae.decoder.head.log_scale.exp().item() == pytest.approx((x - x.mean(0)).abs().mean().item())
    assert (vae.support, vae.is_density, vae.covariance_floor) == ("real", True, None)
    p = vae.decoder(torch.zeros(3, 2, dtype=torch.float64))
    p.log_prob(x[:3]).sum().backward()
    assert all((parameter.grad != 0).any() for parameter in vae.decoder.head.parameters() if parameter.ndim < 2)


def test_what_is_no_likelihood_is_refused():
    with pytest.raises(TypeError, match=r"`likelihood` must be a Likelihood, got str; .*pyrovae\.models\.Likelihood"):
        VAE(2, 3, "gaussian")


@pytest.mark.parametrize("scale", ["dense", 0, -1.0, math.inf, math.nan, True, None, "0.5"])
def test_unknown_scales_are_refused(scale):
    for likelihood in (Gaussian, lambda scale: DiscretizedLogistic(scale=scale)):
        with pytest.raises(ValueError, match=r"`scale` must be a positive number or one of \('shared', 'per_dim'"):
            likelihood(scale)


@pytest.mark.parametrize("floor", [0, -1e-4, math.inf, math.nan])
def test_floors_that_are_no_variance_are_refused(floor):
    for likelihood in (Gaussian, LowRankGaussian, FullGaussian, DiscretizedLogistic):
        with pytest.raises(ValueError, match=r"`floor` must be a positive variance, .* without one the likelihood is"):
            likelihood(floor=floor)


@pytest.mark.parametrize("value", [0, -1, 2.0, True, None])
def test_ranks_and_levels_that_are_no_counts_are_refused(value):
    with pytest.raises(ValueError, match=r"`rank` must be a whole number of at least 1, got "):
        LowRankGaussian(value)
    with pytest.raises(ValueError, match=r"`levels` must be a whole number of at least 2, got "):
        DiscretizedLogistic(value)
