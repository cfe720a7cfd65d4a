"""Intervals of ±1.96 standard errors, against known answers: do they cover as often as they say?

Of 400 replicates at a true coverage of 95%, fewer than 4 or more than 38 miss once in 14,000 runs; one of the 6 counts
here, once in 2,300.  With standard errors three quarters of what they should be, 57 would miss on average.  The full
study, 2,000 replicates of three families, is benchmarks/coverage.py.
"""

import itertools
import math

import pytest
import torch
from scipy.stats import binom
from torch import nn

from pyrovae import PPCA, VAE, Bernoulli, compare, evaluate
from pyrovae.evaluate.likelihood import estimate
from pyrovae.evaluate.likelihood.estimate import LogLikelihood
from pyrovae.models.networks import LinearGaussianEncoder

REPLICATES, N, S = 400, 50, 30
FEWEST, MOST = 4, 38


@pytest.fixture(autouse=True)
def no_k_hat(monkeypatch):
    """Which would take nearly all of the time."""
    monkeypatch.setattr(estimate, "pareto_k", lambda log_w: torch.zeros(log_w.shape[1]))


def two_linear():
    """PPCA, its q wider than the posterior, and a copy whose mean is shifted, so that differences are normal.

    p(x) of either is Gaussian: the population's means are minus the entropy of the first, and their cross-entropy.
    """
    first = PPCA(2, 4, floor=0.5, encoder=LinearGaussianEncoder(4, 2, torch.float64))
    nn.init.normal_(first.model.weight, std=0.5)
    first.match_guide()
    second = first.copy()
    with torch.no_grad():
        second.model.mean.fill_(0.3)
        covariance = first.weight @ first.weight.T + first.noise_variance * torch.eye(4)
        population = []
        for ppca in (first, second):
            ppca.match_guide()
            ppca.guide.encoder.log_diagonal.add_(math.log(1.3))
            shift = ppca.mean @ torch.linalg.solve(covariance, ppca.mean)
            population.append(-0.5 * (4 * math.log(2 * math.pi * math.e) + covariance.logdet() + shift))
    return [(ppca, ppca.log_prob) for ppca in (first, second)], population


def two_networks():
    """Of four pixels, 0 or 1: quadrature of all sixteen images is the whole truth."""
    every_image = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64)
    pair, tables = [], []
    for latent_dim in (2, 1):
        vae = VAE(latent_dim, 4, Bernoulli(), hidden=(6,), activation="tanh").double()
        nn.init.normal_(vae.decoder.body[0].weight)
        for weight in (vae.encoder.loc.weight, vae.encoder.raw_scale.weight):
            nn.init.zeros_(weight)  # q is the prior, about, and the posterior not far from it
        nn.init.constant_(vae.encoder.raw_scale.bias, 0.55)
        tables.append(evaluate.quadrature(vae, every_image).values)
        pair.append((vae, lambda x, table=tables[-1]: table[x.long() @ torch.tensor([8, 4, 2, 1])]))
    assert tables[0].exp().sum().item() == pytest.approx(1, abs=1e-6)
    return pair, [tables[0].exp() @ table for table in tables]


def misses(estimates, errors, truth):
    return int(((estimates - truth).abs() > 1.959964 * errors).sum())


def by_replicate(values, name):
    """A property of the likelihood of each replicate."""
    value, error = (each.split(N) for each in values)
    zeros = torch.zeros(N)
    parts = [LogLikelihood(v, "importance", S, e, zeros, zeros) for v, e in zip(value, error, strict=True)]
    return torch.tensor([getattr(each, name) for each in parts], dtype=torch.float64)


@pytest.mark.parametrize("models", [two_linear, two_networks])
def test_intervals_cover(models):
    """Of the test set's mean, by the Monte-Carlo part; of the population's, and of paired differences, by both."""
    torch.manual_seed(0)
    ((first, exact), (second, _)), population = models()
    x = first.sample(REPLICATES * N, seed=1)[0]
    with torch.no_grad():
        truth = exact(x).reshape(REPLICATES, N).mean(1)
    a, b = (evaluate.log_likelihood(model, x, S, "importance", seed=1) for model in (first, second))
    mean = by_replicate((a.values, a.standard_error), "mean")
    monte_carlo, whole = (
        by_replicate((a.values, a.standard_error), f"{part}_standard_error") for part in ("monte_carlo", "mean")
    )
    difference, paired = (
        by_replicate((b.values - a.values, a.standard_error), name) for name in ("mean", "mean_standard_error")
    )
    assert FEWEST <= misses(mean, monte_carlo, truth) <= MOST
    assert FEWEST <= misses(mean, whole, population[0]) <= MOST
    assert FEWEST <= misses(difference, paired, population[1] - population[0]) <= MOST
    assert misses(mean, 0.75 * whole, population[0]) > MOST  # and would be seen not to
    assert misses(mean, 0.75 * monte_carlo, truth) > MOST


def test_the_paired_interval_is_the_scoreboards():
    torch.manual_seed(0)
    (first, _), (second, _) = two_networks()[0]
    x = first.sample(N, seed=1)[0]
    worse = compare({"first": first, "second": second}, x, num_particles=S, seed=3).rows[1]
    a, b = (evaluate.log_likelihood(model, x, S, seed=3) for model in (first, second))
    sign = 1 if worse.name == "second" else -1
    difference = LogLikelihood(sign * (b.values - a.values), "importance", S, a.standard_error, a.ess, a.k_hat)
    assert worse.difference == pytest.approx(difference.mean, abs=1e-12)
    assert worse.difference_standard_error == pytest.approx(difference.mean_standard_error, abs=1e-12)


def test_the_false_failure_rate_is_the_one_stated():
    assert binom.cdf(FEWEST - 1, REPLICATES, 0.05) + binom.sf(MOST, REPLICATES, 0.05) < 1 / 14_000
