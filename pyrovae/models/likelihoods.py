"""Likelihoods p(x given z): small descriptions that build the head of a decoder.

A head maps features h to a distribution over x.  Every Gaussian variance is bounded below by a floor ε, σ² = ε +
softplus(·), because a decoder that may let σ → 0 has an unbounded likelihood.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyrovae.data.observations import Support
from pyrovae.models.base import check_floor

Scale = float | Literal["shared", "per_dim", "decoder_scalar", "decoder"]
SCALES = ("shared", "per_dim", "decoder_scalar", "decoder")


@dataclass(frozen=True)
class Bernoulli:
    """p(x given z) = Π_d Bernoulli(x_d; logits_d(z)), a probability mass on {0, 1}^D."""

    support: ClassVar[Support] = "boolean"

    def head(self, num_features: int, data_shape: tuple[int, ...]) -> nn.Module:
        """The last layer of a decoder: features (..., num_features) → distribution over (..., *data_shape)."""
        return BernoulliHead(num_features, data_shape)


@dataclass(frozen=True)
class Gaussian:
    """p(x given z) = Normal(μ(z), σ²), independent over dimensions, with σ² ≥ floor.

    Args:
        scale: Where σ comes from: a number (fixed), ``"shared"`` (one learned number), ``"per_dim"`` (one learned
            number a dimension), ``"decoder_scalar"`` (one a datum, from z) or ``"decoder"`` (one a dimension and datum,
            from z).
        floor: ε, the lower bound of σ², in squared units of the data; not used when σ is a number.

    Raises:
        ValueError: If ``scale`` is none of these, or ``floor`` not positive.
    """

    scale: Scale = "shared"
    floor: float = 1e-4
    support: ClassVar[Support] = "real"

    def __post_init__(self) -> None:
        check_floor(self.floor)
        number = isinstance(self.scale, int | float) and not isinstance(self.scale, bool)
        if not (self.scale in SCALES or (number and 0 < cast(float, self.scale) < math.inf)):
            raise ValueError(f"`scale` must be a positive number or one of {SCALES}, got {self.scale!r}.")

    def head(self, num_features: int, data_shape: tuple[int, ...]) -> nn.Module:
        """The last layer of a decoder: features (..., num_features) → distribution over (..., *data_shape)."""
        return GaussianHead(num_features, data_shape, self.scale, self.floor)


Likelihood = Bernoulli | Gaussian


class BernoulliHead(nn.Module):
    """Features → Bernoulli(logits)."""

    def __init__(self, num_features: int, data_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.data_shape = data_shape
        self.logits = nn.Linear(num_features, math.prod(data_shape))

    def forward(self, h: Tensor) -> dist.Distribution:
        logits = self.logits(h).unflatten(-1, self.data_shape)
        return dist.Bernoulli(logits=logits).to_event(len(self.data_shape))

    @torch.no_grad()
    def start_at(self, x: Tensor) -> None:
        """Start the output at the data: the bias becomes the logit of the mean, clipped to [0.001, 0.999]."""
        self.logits.bias.copy_(x.flatten(1).mean(0).clamp(0.001, 0.999).logit())


class GaussianHead(nn.Module):
    """Features → Normal(μ, σ), with σ² = ε + softplus(raw)."""

    def __init__(self, num_features: int, data_shape: tuple[int, ...], scale: Scale, floor: float) -> None:
        super().__init__()
        num_dims = math.prod(data_shape)
        self.data_shape, self.scale, self.floor = data_shape, scale, floor
        self.loc = nn.Linear(num_features, num_dims)
        self.raw_variance: nn.Parameter | nn.Linear
        if scale == "shared":
            self.raw_variance = nn.Parameter(torch.zeros(1))
        elif scale == "per_dim":
            self.raw_variance = nn.Parameter(torch.zeros(num_dims))
        elif scale in ("decoder_scalar", "decoder"):
            self.raw_variance = nn.Linear(num_features, 1 if scale == "decoder_scalar" else num_dims)

    def forward(self, h: Tensor) -> dist.Distribution:
        loc = self.loc(h).unflatten(-1, self.data_shape)
        return dist.Normal(loc, self._sigma(h, loc)).to_event(len(self.data_shape))

    def _sigma(self, h: Tensor, loc: Tensor) -> Tensor:
        if not isinstance(self.scale, str):
            return torch.full_like(loc, self.scale)
        raw = self.raw_variance(h) if isinstance(self.raw_variance, nn.Module) else self.raw_variance
        sigma = (self.floor + F.softplus(raw)).sqrt()
        per_datum_or_shared = sigma.shape[-1] == 1
        return sigma.unflatten(-1, (1,) * len(self.data_shape) if per_datum_or_shared else self.data_shape).expand_as(
            loc
        )

    @torch.no_grad()
    def start_at(self, x: Tensor) -> None:
        """Start the output at the data: μ at their mean, σ² at their variance (per dimension where σ² is)."""
        flat = x.flatten(1)
        self.loc.bias.copy_(flat.mean(0))
        if not isinstance(self.scale, str):
            return
        per_dim = flat.var(0, correction=0)
        variance = per_dim if self.scale in ("per_dim", "decoder") else per_dim.mean().reshape(1)
        above = (variance - self.floor).clamp_min(self.floor)
        raw = above + (-(-above).expm1()).log()  # the inverse of softplus, for variances of any size
        bias = self.raw_variance.bias if isinstance(self.raw_variance, nn.Linear) else self.raw_variance
        bias.copy_(raw)
