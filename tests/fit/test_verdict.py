"""A fit says that its posterior collapsed, and why; and that one Gaussian does better.  Sound fits say nothing."""

import re
import sys
import warnings

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrovae import PPCA, VAE, Bernoulli, Gaussian, compare, fit
from pyrovae.data import Observations
from pyrovae.fit import verdict
from pyrovae.models.collapse_causes import Residuals

D, L, N = 6, 2, 160
LONG = {"num_epochs": 60, "batch_size": 32, "progress": False}  # 300 steps


def data():
    """Two strong axes, unit noise."""
    return torch.randn(N, 2) @ (2 * torch.randn(2, D)) + torch.randn(N, D)


class Encoder(nn.Module):
    """x → Normal(f(x), σ(x))."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(D, 2 * L)

    def forward(self, x):
        loc, raw = self.net(x).chunk(2, -1)
        return dist.Normal(loc, nn.functional.softplus(raw)).to_event(1)


class Decoder(nn.Module):
    """z → Normal(f(z), σ), σ learned; it can be blind, and its units can be dead."""

    def __init__(self, blind=False, dead=False):
        super().__init__()
        self.hidden, self.loc, self.blind = nn.Linear(L, 8), nn.Linear(8, D), blind
        self.log_scale = nn.Parameter(torch.ones(()))
        if dead:
            nn.init.constant_(self.hidden.bias, -1e3)

    def forward(self, z):
        h = self.hidden(torch.zeros_like(z) if self.blind else z).relu()
        return dist.Normal(self.loc(h), self.log_scale.exp()).to_event(1)


class Pixels(nn.Module):
    """z → a Bernoulli that is sure of itself, and wrong."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", 20 * torch.ones(L, D))

    def forward(self, z):
        return dist.Bernoulli(logits=z @ self.weight).to_event(1)


def own(**options):
    return VAE(L, encoder=Encoder(), decoder=Decoder(**options))


def small(likelihood, **options):
    return VAE(L, D, likelihood, hidden=(16,), **options)


PLANTED = {
    "blind": (lambda: own(blind=True), {}, "the decoder ignores z"),
    "dead": (lambda: own(dead=True), {}, f"a linear model would use {L} of {L} latents: try a schedule"),
    "beta": (lambda: small(Gaussian("shared")), {"elbo": fit.BetaELBO(20.0)}, "the objective asks .* lower beta"),
    "sigma": (lambda: small(Gaussian(30.0)), {}, "the objective asks .* lower sigma"),
}


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_collapse_is_reported_with_its_reason(case):
    make, options, why = PLANTED[case]
    x = data()
    with pytest.warns(fit.DegeneracyWarning, match=f"posterior collapsed: {L} of {L} latents .* {why}"):
        result = fit.svi(make(), x, **LONG, lr=0.03, **options)
    assert re.search(r"nats( since epoch \d+ of 60)?; log p is that of p\(x\) without latents", result.degeneracies[0])
    assert result.latent_kl.shape == (L,)
    assert bool((result.latent_kl < 0.01).all())


def test_the_scoreboard_says_it():
    x = data()
    with pytest.warns(fit.DegeneracyWarning):
        result = fit.svi(own(blind=True), x, **LONG, lr=0.03)
    assert "own is a degenerate fit: posterior collapsed" in " ".join(str(compare({"own": result}, x)).split())


@pytest.mark.parametrize("scale", ["shared", "decoder"])
@pytest.mark.parametrize("options", [{}, {"posterior": "full"}, {"num_classes": 2}], ids=str)
def test_a_sound_fit_says_nothing_of_collapse(scale, options):
    x = Observations(data(), labels=torch.arange(N) % 2)
    result = fit.svi(small(Gaussian(scale), **options), x, **LONG, lr=0.01)
    assert result.degeneracies == ()
    assert bool((result.latent_kl > 0.01).any())


def test_a_short_fit_is_unfinished_rather_than_collapsed():
    result = fit.svi(own(blind=True), data(), **{**LONG, "num_epochs": 59}, lr=0.03)
    assert result.degeneracies == ()


def test_looking_changes_no_number(monkeypatch):
    x = data()
    seen, unseen = [], []
    for traces in (seen, unseen):
        traces += fit.svi(small(Gaussian("shared")), x, num_epochs=4, batch_size=32, progress=False).trace.tolist()
        monkeypatch.setattr(sys.modules["pyrovae.fit.svi"], "watch", lambda *_: None)  # fit.svi is the function
    assert seen == unseen


def residuals(values, **options):
    return Residuals(values, 1.0, **{"has_one_scale": True, "is_learned": True, **options})


def test_white_noise_has_no_use_for_latents_whatever_beta():
    noise = torch.randn(2000, D, dtype=torch.float64)
    for beta in (1.0, 20.0):
        assert "best for these data" in verdict.reason(residuals(noise), None, L, beta)
        assert "best for these data" in verdict.reason(residuals(noise[:1000]), residuals(noise[1000:]), L, beta)


def test_a_fixed_scale_is_taken_as_it_is_and_a_learned_one_as_it_could_be():
    x = data().double()
    x = (x - x.mean(0)) / x.square().mean().sqrt()
    second = torch.linalg.eigvalsh(x.T @ x / N)[-2].item()
    x = x / (1.1 * second) ** 0.5  # so that σ = 1 leaves one axis, and a σ that follows both
    assert "would use 2 of 3" in verdict.reason(residuals(x), None, 3, 1.0).replace("3 of 3", "2 of 3")
    assert "would use 1 of 3" in verdict.reason(residuals(x, is_learned=False), None, 3, 1.0)


def test_a_score_below_one_gaussian_is_said():
    x = torch.randn(N, D) @ torch.randn(D, D)
    narrow = VAE(1, D, Gaussian("shared"), hidden=(64,))
    with pytest.warns(fit.FitWarning, match="is below the log p of one Gaussian in closed form"):
        fit.svi(narrow, x, valid=x[:40], **LONG)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit.svi(narrow, x, **LONG)
        fit.svi(PPCA(1, D), x, valid=x[:40], **LONG)


def test_a_score_below_independent_bernoullis_is_said():
    x = torch.bernoulli(torch.full((N, D), 0.5))
    with pytest.warns(fit.FitWarning, match="below the log p of independent Bernoullis"):
        fit.svi(VAE(L, encoder=Encoder(), decoder=Pixels()), x, valid=x[:40], **LONG)


def test_a_bernoulli_fit_that_is_sound_says_nothing():
    x = torch.bernoulli(torch.sigmoid(4 * torch.randn(N, 1) * torch.ones(D)))
    result = fit.svi(small(Bernoulli()), x, valid=x[:40], **LONG, lr=0.01)
    assert result.degeneracies == ()
