"""Distributions of our own, against arithmetic of fifty digits, scipy, and what theory says of their derivatives."""

import math

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch
from torch.nn import functional as F

from pyrovae.models.distributions import (
    BinaryPixels,
    ContinuousBernoulli,
    DiscretizedLogistic,
    GreyCrossEntropy,
    Reshaped,
)

# λ/2 = 0.2 is where the series gives way to the formula; torch's own leaves the formula at σ(λ) = 0.499 and 0.501
DELICATE = (0.0, 1e-300, 1e-12, 1e-6, 3.9e-3, 4.1e-3, 0.1, 0.3999, 0.4, 0.4001, 2.0)
LOGITS = sorted({sign * value for value in (*DELICATE, 30.0, 100.0, 1000.0) for sign in (1, -1)})


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def exact_log_density(x, rate):
    """log(λ exp(λx) / (exp λ − 1)), to fifty digits."""
    with mpmath.workdps(50):
        x, rate = mpmath.mpf(x), mpmath.mpf(rate)
        normaliser = mpmath.mpf(1) if rate == 0 else rate / mpmath.expm1(rate)
        return float(rate * x + mpmath.log(normaliser))


def exact_mean(rate):
    """1/(1 − exp(−λ)) − 1/λ, to fifty digits beside those that cancel."""
    with mpmath.workdps(700):
        return float(1 / -mpmath.expm1(-mpmath.mpf(rate)) - 1 / mpmath.mpf(rate)) if rate else 0.5


# ------------------------------------------------------------------------------------------------- continuous Bernoulli


@pytest.mark.parametrize("rate", LOGITS)
@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_continuous_bernoulli_has_the_density_of_exact_arithmetic(rate, x, dtype):
    rate, x = (torch.tensor(value, dtype=dtype) for value in (rate, x))
    error = ContinuousBernoulli(rate).log_prob(x).item() - exact_log_density(x.item(), rate.item())
    assert abs(error) <= 8 * torch.finfo(dtype).eps * (1 + abs(rate.item()))


@pytest.mark.parametrize("rate", LOGITS)
def test_continuous_bernoulli_integrates_to_one(rate):
    """Gauss and Legendre's rule of 60 points on each of 40 panels."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    edges = np.linspace(0, 1, 41)
    x = tensor(((edges[1:] + edges[:-1]) / 2)[:, None] + nodes / 80)
    mass = ContinuousBernoulli(tensor(rate)).log_prob(x).exp() @ tensor(weights / 80)
    assert abs(mass.sum().item() - 1) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_derivatives_of_the_continuous_bernoulli_are_its_moments(dtype):
    """In an exponential family d log p(x)/dλ = x − E[x], and dE[x]/dλ = Var[x]."""
    rate = torch.tensor(LOGITS, dtype=dtype, requires_grad=True)
    p, x = ContinuousBernoulli(rate), torch.tensor(0.3, dtype=dtype)
    (score,) = torch.autograd.grad(p.log_prob(x).sum(), rate)
    (slope,) = torch.autograd.grad(p.mean.sum(), rate)
    tolerance = 40 * torch.finfo(dtype).eps
    torch.testing.assert_close(score, x - p.mean, rtol=0, atol=tolerance)
    torch.testing.assert_close(slope, p.variance, rtol=0, atol=10 * tolerance)
    exact = tensor([exact_mean(each) for each in rate.tolist()])
    torch.testing.assert_close(p.mean.double(), exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize("rate", [-1000.0, -3.0, 0.0, 0.5, 50.0])
def test_samples_of_the_continuous_bernoulli_have_its_moments(rate):
    """Mean and second moment of 20,000 samples, at 5 standard errors."""
    p = ContinuousBernoulli(tensor(rate))
    x = p.sample((20_000,))
    assert ((x >= 0) & (x <= 1)).all()
    for sample, expected in ((x, p.mean), (x.square(), p.variance + p.mean.square())):
        assert abs(sample.mean() - expected) <= 5 * sample.std() / math.sqrt(len(x))


# ------------------------------------------------------------------------------------------------- discretised logistic


def levels(num_levels):
    return torch.arange(num_levels, dtype=torch.float64) / (num_levels - 1)


@pytest.mark.parametrize("num_levels", [2, 17, 256])
@pytest.mark.parametrize("loc", [-3.0, 0.0, 0.37, 1.0, 40.0])
@pytest.mark.parametrize("scale", [1e-3, 0.05, 1.0, 100.0])
def test_discretised_masses_sum_to_one(num_levels, loc, scale):
    log_mass = DiscretizedLogistic(tensor(loc), tensor(scale), num_levels).log_prob(levels(num_levels))
    assert abs(log_mass.logsumexp(0).item()) < 1e-12


def test_discretised_masses_are_differences_of_scipys_distribution_function():
    p, x = DiscretizedLogistic(tensor(0.4), tensor(0.06), 17), levels(17)
    edges = np.concatenate([[-np.inf], (np.arange(16) + 0.5) / 16, [np.inf]])
    expected = np.diff(scipy.stats.logistic.cdf(edges, loc=0.4, scale=0.06))
    np.testing.assert_allclose(p.log_prob(x).exp().numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose([p.mean.item()], [expected @ x.numpy()], rtol=1e-12)
    np.testing.assert_allclose([p.variance.item()], [expected @ (x.numpy() - expected @ x.numpy()) ** 2], rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_mass_far_in_the_tail_keeps_its_digits_and_its_gradient(dtype):
    loc = torch.tensor(0.0, dtype=dtype, requires_grad=True)
    log_mass = DiscretizedLogistic(loc, torch.tensor(1e-3, dtype=dtype), 256).log_prob(
        torch.tensor(204 / 255, dtype=dtype)
    )
    log_mass.backward()
    with mpmath.workdps(600):
        half, x, scale = mpmath.mpf(1) / 510, mpmath.mpf(204) / 255, mpmath.mpf(1) / 1000
        f = lambda t: 1 / (1 + mpmath.exp(-t / scale))  # noqa: E731
        expected = float(mpmath.log(f(x + half) - f(x - half)))
    assert log_mass.item() == pytest.approx(expected, rel=20 * torch.finfo(dtype).eps)
    assert loc.grad.item() == pytest.approx(1000, rel=1e-3)


def test_discretised_samples_have_the_masses():
    """Counts of 20,000 samples against the masses: chi-squared, one seed in 100,000 fails."""
    p = DiscretizedLogistic(tensor(0.8), tensor(0.15), 6)
    counts = torch.bincount((p.sample((20_000,)) * 5).round().long(), minlength=6).double()
    expected = 20_000 * p.log_prob(levels(6)).exp()
    statistic = ((counts - expected).square() / expected).sum().item()
    assert statistic < scipy.stats.chi2.isf(1e-5, df=5)


def test_discretised_values_off_the_levels_are_refused():
    p = DiscretizedLogistic(tensor(0.5), tensor(0.1), 17)
    assert p.support.is_discrete
    for value in (0.5 / 16, -1 / 16, 17 / 16):
        with pytest.raises(ValueError, match=r"the 17 levels 0, 1/16, …, 1"):
            p.log_prob(tensor(value))


# ----------------------------------------------------------------------------------------------------------- the others


def test_binary_pixels_are_a_bernoulli():
    """Log-probabilities by numpy at logits of any size, gradients x − σ(logit), and what is refused."""
    logits = tensor([-700.0, -45.0, -39.0, -1.0, 0.0, 2.0, 41.0, 700.0]).requires_grad_()
    for x in (torch.zeros(8), torch.ones(8)):
        x = x.double()
        log_prob = BinaryPixels(logits=logits).log_prob(x)
        expected = -np.logaddexp(0, np.where(x == 1, -1, 1) * logits.detach().numpy())
        torch.testing.assert_close(log_prob.detach(), tensor(expected), rtol=1e-14, atol=0)
        (gradient,) = torch.autograd.grad(log_prob.sum(), logits)
        torch.testing.assert_close(gradient, x - logits.detach().sigmoid(), rtol=0, atol=1e-14)
    expanded = BinaryPixels(logits=logits[3:5], validate_args=False).expand((6, 2))
    assert isinstance(expanded, BinaryPixels)
    assert expanded.enumerate_support().shape == (2, 6, 2)
    for wrong in (0.5, math.nan):
        with pytest.raises(ValueError, match="within the support"):
            expanded.log_prob(torch.full((2,), wrong))


@pytest.mark.parametrize("logit", [-4.0, 0.7])
def test_cross_entropy_is_torchs_and_no_density(logit):
    p, x = GreyCrossEntropy(logits=tensor(logit)), torch.linspace(0, 1, 101, dtype=torch.float64)
    expected = -F.binary_cross_entropy(torch.sigmoid(tensor(logit)).expand(101), x, reduction="none")
    torch.testing.assert_close(p.log_prob(x), expected)
    integral = torch.trapezoid(p.log_prob(x).exp(), x).item()
    probability = 1 / (1 + math.exp(-logit))
    assert integral == pytest.approx((2 * probability - 1) / logit, rel=1e-3)
    assert integral < 0.97


def test_reshaped_is_the_same_distribution():
    vectors = torch.distributions.MultivariateNormal(tensor([1.0, 2, 3, 4, 5, 6]), torch.eye(6).double() * 2)
    images = Reshaped(vectors, (1, 2, 3))
    x = torch.randn(7, 1, 2, 3, dtype=torch.float64)
    assert (images.log_prob(x) == vectors.log_prob(x.flatten(1))).all()
    assert (images.mean.flatten() == vectors.mean).all()
    assert (images.variance.flatten() == vectors.variance).all()
    torch.manual_seed(1)
    drawn = images.sample((4,))
    torch.manual_seed(1)
    assert (drawn.flatten(1) == vectors.sample((4,))).all()
    with pytest.raises(ValueError, match=r"`shape` must hold \(6,\) numbers, got \(2, 2\)"):
        Reshaped(vectors, (2, 2))


@pytest.mark.parametrize(
    "p",
    [
        ContinuousBernoulli(torch.randn(3, 1)),
        DiscretizedLogistic(torch.rand(3, 1), torch.ones(1), 5),
        GreyCrossEntropy(logits=torch.randn(3, 1)),
        Reshaped(torch.distributions.MultivariateNormal(torch.zeros(3, 1, 4), torch.eye(4)), (2, 2)),
    ],
    ids=lambda p: type(p).__name__,
)
def test_expanding_repeats_a_distribution(p):
    again = p.expand((3, 2))
    assert again.batch_shape == (3, 2)
    assert again.sample().shape == (3, 2, *p.event_shape)
    value = p.sample()
    torch.testing.assert_close(again.log_prob(value), p.log_prob(value).expand(3, 2))
