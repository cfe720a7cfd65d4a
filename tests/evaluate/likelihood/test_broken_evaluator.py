"""Would we notice?  An evaluator broken on purpose, by 0.05 nats, in three ways; and three checks that each notice.

Each check gives by how much log p̂ is off, in nats, and the standard error of that.  It passes within 5 standard errors,
so that it fails a right evaluator once in 1.7 million; and its standard error is at most 1/9 of 0.05 nats, so that it
passes a wrong one, 9 standard errors off, once in 30,000 (4 standard errors to one side).
"""

import itertools
import math

import pytest
import torch
from torch import nn

from pyrovae import PPCA, VAE, Bernoulli, evaluate, exact_guide
from pyrovae.evaluate.likelihood import importance, log_likelihood as estimator
from pyrovae.models.networks import LinearGaussianEncoder

PARTICLES = 20  # log(20/19) = 0.051, log(21/20) = 0.049
STANDARD_ERRORS, POWER = 5, 9


def ppca_near_its_posterior():
    torch.manual_seed(0)
    ppca = PPCA(2, 4, floor=0.5, encoder=LinearGaussianEncoder(4, 2, torch.float64))
    nn.init.normal_(ppca.model.weight, std=0.5)
    ppca.match_guide()
    with torch.no_grad():
        ppca.guide.encoder.log_diagonal.add_(math.log(1.2))
    return ppca


def identity():
    """With the exact posterior as q, p̂ = p for every datum; to rounding, and so the error is 1e-12."""
    ppca = ppca_near_its_posterior()
    x = ppca.sample(50)[0]
    likelihood = evaluate.log_likelihood(ppca, x, PARTICLES, "importance", guide=exact_guide(ppca))
    return (likelihood.values - ppca.log_prob(x)).abs().max().item(), 1e-12


def known_answer():
    """E[p̂ / p] = 1 for any q, log p of PPCA being known."""
    ppca = ppca_near_its_posterior()
    x = ppca.sample(2000)[0]
    ratios = (evaluate.log_likelihood(ppca, x, PARTICLES, "importance").values - ppca.log_prob(x)).detach().exp()
    return ratios.mean().log().item(), (ratios.std() / math.sqrt(len(ratios))).item()


def probabilities_add_up():
    """Σ_x p̂(x) = 1 in expectation, over every image of six binary pixels, for a nonlinear decoder too."""
    torch.manual_seed(0)
    vae = VAE(2, 6, Bernoulli(), hidden=(8,), activation="tanh").double()
    nn.init.constant_(vae.encoder.raw_scale.bias, 1.0)  # q is wider than the posterior, so that no weight is large
    every_image = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)), dtype=torch.float64)
    likelihood = evaluate.log_likelihood(vae, every_image.repeat(20, 1), PARTICLES, "importance")
    p = likelihood.values.exp()
    error = (p * likelihood.standard_error).square().sum().sqrt()
    return (p.sum() / 20).log().item(), error.item() / 20


def a_constant_off(monkeypatch):
    original = importance.log_densities

    def broken(*arguments, **plates):
        likelihood, prior = original(*arguments, **plates)
        return likelihood - 0.05, prior

    monkeypatch.setattr(importance, "log_densities", broken)


def off_by_one(monkeypatch):
    """log Σ w − log (S + 1)."""
    original = estimator.summarize

    def broken(log_w):
        values, *rest = original(log_w)
        return values + math.log(len(log_w) / (len(log_w) + 1)), *rest

    monkeypatch.setattr(estimator, "summarize", broken)


def a_remainder_dropped(monkeypatch):
    """Chunks of 19 particles, of which a last one that is not full is forgotten."""
    original = estimator.summarize

    def broken(log_w):
        whole = log_w[: len(log_w) // 19 * 19]
        return whole.logsumexp(0) - math.log(len(log_w)), *original(log_w)[1:]

    monkeypatch.setattr(estimator, "summarize", broken)


CHECKS = pytest.mark.parametrize("check", [identity, known_answer, probabilities_add_up])


@CHECKS
def test_the_evaluator_passes(check):
    off, error = check()
    assert abs(off) <= STANDARD_ERRORS * error
    assert POWER * error <= 0.05


@CHECKS
@pytest.mark.parametrize("broken", [a_constant_off, off_by_one, a_remainder_dropped])
def test_an_evaluator_broken_by_a_twentieth_of_a_nat_is_caught(check, broken, monkeypatch):
    broken(monkeypatch)
    off, error = check()
    assert abs(off) > STANDARD_ERRORS * error
    assert abs(off) == pytest.approx(0.05, abs=0.002 + STANDARD_ERRORS * error)
