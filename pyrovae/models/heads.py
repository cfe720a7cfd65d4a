"""The last layers of decoders: modules that map features h to a distribution over x.

Each has ``start_at(x)``, which starts its output at the data by way of the biases of its layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyrovae.models.distributions import (
    BinaryPixels,
    ContinuousBernoulli,
    DiscretizedLogistic,
    GreyCrossEntropy,
    Reshaped,
)

Scale = float | Literal["shared", "per_dim", "decoder_scalar", "decoder"]
SCALES = ("shared", "per_dim", "decoder_scalar", "decoder")
MakeLinear = Callable[[int, int], nn.Module]  # (num_features, num_outputs) → affine layer with a bias


def inverse_softplus(value: Tensor) -> Tensor:
    """log(exp(v) − 1), for v > 0 of any size."""
    return value + (-(-value).expm1()).log()


class LogitsHead(nn.Module):
    """Features → independent numbers, each of a distribution with one parameter, which a subclass names."""

    def __init__(self, num_features: int, data_shape: tuple[int, ...], linear: MakeLinear = nn.Linear) -> None:
        super().__init__()
        self.data_shape = data_shape
        self.logits: Any = linear(num_features, math.prod(data_shape))

    def forward(self, h: Tensor) -> dist.Distribution:
        logits = self.logits(h).unflatten(-1, self.data_shape)
        return self.distribution(logits).to_event(len(self.data_shape))

    def distribution(self, logits: Tensor) -> Any:
        """Independent numbers, batch shape that of ``logits``."""
        raise NotImplementedError

    @torch.no_grad()
    def start_at(self, x: Tensor) -> None:
        """Start the output at the data: the bias becomes the logit of the mean, clipped to [0.001, 0.999]."""
        self.logits.bias.copy_(x.flatten(1).mean(0).clamp(0.001, 0.999).logit())


class BernoulliHead(LogitsHead):
    """Features → Bernoulli(logits)."""

    def distribution(self, logits: Tensor) -> Any:
        return BinaryPixels(logits=logits, validate_args=False)  # it looks at x all the same


class CrossEntropyHead(LogitsHead):
    """Features → binary cross-entropy of grey values, which is no distribution."""

    def distribution(self, logits: Tensor) -> Any:
        return GreyCrossEntropy(logits=logits)


class ContinuousBernoulliHead(LogitsHead):
    """Features → ContinuousBernoulli(logits)."""

    def distribution(self, logits: Tensor) -> Any:
        return ContinuousBernoulli(logits)

    @torch.no_grad()
    def start_at(self, x: Tensor) -> None:
        """Start the output at the data: the λ whose mean is theirs, clipped to [0.001, 0.999], found by bisection."""
        mean = x.flatten(1).mean(0).double().clamp(0.001, 0.999)
        low, high = torch.full_like(mean, -1001.0), torch.full_like(mean, 1001.0)
        for _ in range(64):
            middle = (low + high) / 2
            below = ContinuousBernoulli(middle).mean < mean
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        self.logits.bias.copy_((low + high) / 2)


class LocationScaleHead(nn.Module):
    """Features → a distribution with location μ and variance σ² = ε + softplus(raw), which a subclass names."""

    def __init__(
        self,
        num_features: int,
        data_shape: tuple[int, ...],
        scale: Scale,
        floor: float,
        linear: MakeLinear = nn.Linear,
    ) -> None:
        super().__init__()
        num_dims = math.prod(data_shape)
        self.data_shape, self.scale, self.floor = data_shape, scale, floor
        self.loc: Any = linear(num_features, num_dims)
        self.raw_variance: Any
        if scale == "shared":
            self.raw_variance = nn.Parameter(torch.zeros(1))
        elif scale == "per_dim":
            self.raw_variance = nn.Parameter(torch.zeros(num_dims))
        elif scale in ("decoder_scalar", "decoder"):
            self.raw_variance = linear(num_features, 1 if scale == "decoder_scalar" else num_dims)

    def forward(self, h: Tensor) -> dist.Distribution:
        loc = self.loc(h).unflatten(-1, self.data_shape)
        return self.distribution(loc, self._sigma(h, loc)).to_event(len(self.data_shape))

    def distribution(self, loc: Tensor, sigma: Tensor) -> Any:
        """Independent numbers of this location and standard deviation."""
        raise NotImplementedError

    def _sigma(self, h: Tensor, loc: Tensor) -> Tensor:
        if not isinstance(self.scale, str):
            return torch.full_like(loc, self.scale)
        raw = self.raw_variance if isinstance(self.raw_variance, nn.Parameter) else self.raw_variance(h)
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
        self.set_variance(per_dim if self.scale in ("per_dim", "decoder") else per_dim.mean().reshape(1), self.floor)

    @torch.no_grad()
    def set_variance(self, variance: Tensor, least_above_floor: float) -> None:
        """Set σ², or what it is where the features are zero, to ``variance`` or a little above the floor."""
        raw = inverse_softplus((variance - self.floor).clamp_min(least_above_floor))
        bias = self.raw_variance if isinstance(self.raw_variance, nn.Parameter) else self.raw_variance.bias
        bias.copy_(raw)


class GaussianHead(LocationScaleHead):
    """Features → Normal(μ, σ)."""

    def distribution(self, loc: Tensor, sigma: Tensor) -> Any:
        return dist.Normal(loc, sigma)


class BoundedGaussianHead(GaussianHead):
    """Features → Normal(sigmoid(·), σ), whose mean stays in (0, 1)."""

    def distribution(self, loc: Tensor, sigma: Tensor) -> Any:
        return dist.Normal(loc.sigmoid(), sigma)

    @torch.no_grad()
    def start_at(self, x: Tensor) -> None:
        """As the other's, the mean of the data clipped to [0.001, 0.999]."""
        super().start_at(x)
        self.loc.bias.copy_(x.flatten(1).mean(0).clamp(0.001, 0.999).logit())


class DiscretizedLogisticHead(LocationScaleHead):
    """Features → a rounded logistic variable of location μ and standard deviation σ."""

    def __init__(
        self,
        num_features: int,
        data_shape: tuple[int, ...],
        levels: int,
        scale: Scale,
        floor: float,
        linear: MakeLinear = nn.Linear,
    ) -> None:
        super().__init__(num_features, data_shape, scale, floor, linear)
        self.levels = levels

    def distribution(self, loc: Tensor, sigma: Tensor) -> Any:
        return DiscretizedLogistic(loc, sigma * (math.sqrt(3) / math.pi), self.levels)


class LowRankGaussianHead(nn.Module):
    """Features → Normal(μ, FFᵀ + diag(ε + softplus(raw)))."""

    def __init__(
        self, num_features: int, data_shape: tuple[int, ...], rank: int, floor: float, linear: MakeLinear = nn.Linear
    ) -> None:
        super().__init__()
        num_dims = math.prod(data_shape)
        self.data_shape, self.rank, self.floor = data_shape, rank, floor
        self.decoded_floats = rank * num_dims
        self.loc: Any = linear(num_features, num_dims)
        self.factor: Any = linear(num_features, rank * num_dims)
        self.raw_variance: Any = linear(num_features, num_dims)

    def forward(self, h: Tensor) -> dist.Distribution:
        factor = self.factor(h).unflatten(-1, (self.rank, -1)).mT
        noise = self.floor + F.softplus(self.raw_variance(h))
        return _shaped(dist.LowRankMultivariateNormal(self.loc(h), factor, noise), self.data_shape)

    @torch.no_grad()
    def start_at(self, x: Tensor) -> None:
        """Start the output at the data: μ at their mean, the diagonal at their variances, F without a bias."""
        flat = x.flatten(1)
        self.loc.bias.copy_(flat.mean(0))
        self.factor.bias.zero_()
        above = (flat.var(0, correction=0) - self.floor).clamp_min(self.floor)
        self.raw_variance.bias.copy_(inverse_softplus(above))


class FullGaussianHead(nn.Module):
    """Features → Normal(μ, AAᵀ + ε I), A lower triangular."""

    def __init__(
        self, num_features: int, data_shape: tuple[int, ...], floor: float, linear: MakeLinear = nn.Linear
    ) -> None:
        super().__init__()
        self.num_dims = math.prod(data_shape)
        self.data_shape, self.floor = data_shape, floor
        self.decoded_floats = self.num_dims**2
        self.loc: Any = linear(num_features, self.num_dims)
        self.factor: Any = linear(num_features, self.num_dims * (self.num_dims + 1) // 2)

    def forward(self, h: Tensor) -> dist.Distribution:
        entries = self.factor(h)
        rows, columns = torch.tril_indices(self.num_dims, self.num_dims, device=entries.device)
        factor = entries.new_zeros(*entries.shape[:-1], self.num_dims, self.num_dims)
        factor[..., rows, columns] = entries
        floor = self.floor * torch.eye(self.num_dims, dtype=h.dtype, device=h.device)
        scale_tril = torch.linalg.cholesky(factor @ factor.mT + floor)
        # valid as built, and asking Pyro whether it is would cost as much again
        normal = dist.MultivariateNormal(self.loc(h), scale_tril=scale_tril, validate_args=False)
        return _shaped(normal, self.data_shape)

    @torch.no_grad()
    def start_at(self, x: Tensor) -> None:
        """Start the output at the data: μ at their mean, the covariance at the diagonal of their variances."""
        flat = x.flatten(1)
        self.loc.bias.copy_(flat.mean(0))
        above = (flat.var(0, correction=0) - self.floor).clamp_min(self.floor)
        rows, columns = torch.tril_indices(self.num_dims, self.num_dims, device=x.device)
        self.factor.bias.copy_(above.sqrt().diag()[rows, columns])


def _shaped(vectors: Any, data_shape: tuple[int, ...]) -> dist.Distribution:
    return vectors if len(data_shape) == 1 else Reshaped(vectors, data_shape)
