"""Is collapse told from health?  Fits that are sound, and collapses that are planted, on data within scikit-learn.

Claim: no healthy fit is said to have collapsed, of 60, and every planted collapse is, with the right reason.  There is
no peer: Pyro and scikit-learn say nothing of it.
"""

from __future__ import annotations

import itertools
import math
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import torch
from pyro.nn import DenseNN
from sklearn import datasets
from torch import nn

from pyrovae import VAE, Bernoulli, Gaussian, data, fit
from pyrovae.data import DataSet, Observations
from pyrovae.models.floors import FLOOR

STEPS = 500
SCALES = ("shared", "per_dim", "decoder_scalar", "decoder")
TABLES = {"iris": 2, "wine": 4, "breast_cancer": 8, "diabetes": 4}  # with numbers of latents


def table(name: str) -> DataSet:
    """A standardised table of scikit-learn: a fifth to validate, a fifth to test."""
    x = torch.as_tensor(getattr(datasets, f"load_{name}")().data, dtype=torch.float32)
    x = ((x - x.mean(0)) / x.std(0))[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    train, valid, test = x.tensor_split((3 * len(x) // 5, 4 * len(x) // 5))
    return DataSet(name, Observations(train), Observations(valid), Observations(test))


class OwnDecoder(nn.Module):
    """z → Normal(f(z), σ), σ learned for each dimension; or a network of nothing, if it ignores z."""

    def __init__(self, latent_dim: int, num_dims: int, ignores: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(latent_dim, 64), nn.SiLU(), nn.Linear(64, num_dims))
        self.log_scale = nn.Parameter(torch.zeros(num_dims))
        self.ignores = ignores

    def forward(self, z: torch.Tensor) -> Any:
        mean = self.net(torch.zeros_like(z) if self.ignores else z)
        return dist.Normal(mean, self.log_scale.exp() + 1e-3).to_event(1)


class OwnEncoder(nn.Module):
    """x → Normal, of independent units or, as one affine flow, of any covariance and without moments."""

    def __init__(self, latent_dim: int, num_dims: int, flow: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(num_dims, 64), nn.Tanh(), nn.Linear(64, 2 * latent_dim))
        self.flow = dist.transforms.AffineCoupling(1, DenseNN(1, [16], [1, 1])) if flow else None

    def forward(self, x: torch.Tensor) -> Any:
        mean, raw = self.net(x).chunk(2, dim=-1)
        q = dist.Normal(mean, nn.functional.softplus(raw) + 1e-4).to_event(1)
        return q if self.flow is None else dist.TransformedDistribution(q, [self.flow])


def healthy() -> Iterator[tuple[str, VAE, DataSet, dict[str, Any]]]:
    """What is to be fitted, by name: 30 kinds."""
    digits, binary = data.load("digits"), data.load("digits", observations="binary")
    noisy = {scale: Gaussian(scale, floor=FLOOR * 0.07) for scale in SCALES}
    for scale in SCALES:
        yield f"digits, {scale}", VAE(8, 64, noisy[scale], hidden=(64,)), digits, {}
        for name, latent_dim in TABLES.items():
            sized = table(name)
            likelihood = Gaussian(scale, floor=FLOOR)
            yield f"{name}, {scale}", VAE(latent_dim, sized.train.num_dims, likelihood, hidden=(64,)), sized, {}
    for latent_dim in (2, 8):
        yield f"binary digits, {latent_dim}", VAE(latent_dim, 64, Bernoulli(), hidden=(64,)), binary, {}
    yield "digits, full q", VAE(8, 64, noisy["decoder"], posterior="full", hidden=(64,)), digits, {}
    yield "digits, full q, one sigma", VAE(2, 64, noisy["shared"], posterior="full", hidden=(64,)), digits, {}
    yield "digits, given y", VAE(8, 64, noisy["shared"], num_classes=10, hidden=(64,)), digits, {}
    yield "digits, given y, sigma(z)", VAE(8, 64, noisy["decoder"], num_classes=10, hidden=(64,)), digits, {}
    yield "digits, convolutions", VAE(8, (1, 8, 8), noisy["shared"], network="conv", hidden=(16, 32)), digits, {}
    yield "digits, own modules", VAE(4, encoder=OwnEncoder(4, 64), decoder=OwnDecoder(4, 64)), digits, {}
    yield "digits, own flow", VAE(2, encoder=OwnEncoder(2, 64, True), decoder=OwnDecoder(2, 64)), digits, {}
    yield "digits, beta 4", VAE(8, 64, noisy["shared"], hidden=(64,)), digits, {"elbo": fit.BetaELBO(4.0)}


def planted() -> Iterator[tuple[str, str, VAE, DataSet, dict[str, Any]]]:
    """What is to collapse, by name, and a word of the reason."""
    digits, binary = data.load("digits"), data.load("digits", observations="binary")
    floor, asked = FLOOR * 0.07, "the objective asks for it"
    for scale in SCALES:
        twenty = {"elbo": fit.BetaELBO(20.0)}
        yield (
            f"beta 20, {scale}",
            f"{asked}.*lower beta",
            VAE(8, 64, Gaussian(scale, floor=floor), hidden=(64,)),
            digits,
            twenty,
        )
    yield (
        "beta 20, binary",
        f"{asked}.*lower beta",
        VAE(8, 64, Bernoulli(), hidden=(64,)),
        binary,
        {"elbo": fit.BetaELBO(20.0)},
    )
    yield "sigma 10", f"{asked}.*lower sigma", VAE(8, 64, Gaussian(10.0), hidden=(64,)), digits, {}
    blind = VAE(8, encoder=OwnEncoder(8, 64), decoder=OwnDecoder(8, 64, ignores=True))
    yield "blind decoder", "ignores z", blind, digits, {}


def said(model: VAE, sized: DataSet, options: dict[str, Any]) -> tuple[fit.FitResult, str]:
    """A fit, and what it says of a collapse."""
    num_epochs = math.ceil(STEPS / math.ceil(len(sized.train) / 64))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = fit.svi(model, sized.train, valid=sized.valid, **{"num_epochs": num_epochs, **options})
    return result, "; ".join(str(each.message) for each in caught if each.category is fit.DegeneracyWarning)


def main() -> int:
    false, missed = 0, 0
    for number, (seed, (name, model, sized, options)) in enumerate(itertools.product((0, 1), list(healthy())), 1):
        result, words = said(model, sized, {"seed": seed, **options})
        kl = result.latent_kl
        false += bool(words)
        print(f"{number:>3} {name}, seed {seed}: KL {kl.sum():.2f} nats, {int((kl > 0.01).sum())} of {len(kl)} {words}")
    for name, expected, model, sized, options in planted():
        result, words = said(model, sized, options)
        missed += re.search(expected, words) is None
        print(f"planted: {name}: KL {result.latent_kl.sum():.3f} nats: {words or 'nothing said'}")
    print(f"{false} of {number} healthy fits said to have collapsed, {missed} planted collapses missed or misjudged")
    return int(bool(false or missed))


if __name__ == "__main__":
    sys.exit(main())
