"""Distributions over x that Pyro does not have, or not to the precision needed here."""

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.nn import functional as F


class ContinuousBernoulli(TorchDistribution):
    """The density p(x) ∝ exp(λx) on [0, 1], in its natural parameter λ.

    log p(x) = (x − ½)λ − log(sinh h / h), h = λ/2, exact to rounding for every λ.  (torch's own goes by the probability
    σ(λ), which rounds to one: in float32 its density is off by 0.6 nats at λ = 30.)

    Args:
        logits: λ, any shape.

    Reference:
        Loaiza-Ganem and Cunningham (2019), The continuous Bernoulli: fixing a pervasive error in variational
        autoencoders.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real}
    support = constraints.unit_interval

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "ContinuousBernoulli":
        return ContinuousBernoulli(self.logits.expand(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return (value - 0.5) * self.logits - _log_sinhc(self.logits / 2)

    @property
    def mean(self) -> Tensor:
        """½ + ½(coth h − 1/h)."""
        return 0.5 + 0.5 * _langevin(self.logits / 2)

    @property
    def variance(self) -> Tensor:
        """¼(1/h² − 1/sinh² h)."""
        small, h, s = _near_zero(self.logits / 2)
        series = 1 / 3 - s * (1 / 15 - s * (2 / 189 - s * (1 / 675 - s * (2 / 10395 - s * 1382 / 58046625))))
        return torch.where(small, series, 1 / h.square() - 1 / h.sinh().square()) / 4

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """By the inverse of the distribution function, for −|λ|, mirrored where λ > 0."""
        rate = -self.logits.abs().clamp_min(1e-6)  # below, a uniform distribution to seven digits
        u = torch.rand(self._extended_shape(sample_shape), dtype=rate.dtype, device=rate.device)
        x = ((u * rate.expm1()).log1p() / rate).clamp(0, 1)
        return torch.where(self.logits > 0, 1 - x, x)


def _near_zero(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where a series in h² serves better than the formula; h, made harmless there; and h², made harmless elsewhere."""
    small = h.abs() < 0.2
    return small, torch.where(small, 1.0, h), torch.where(small, h, 0.0).square()


def _log_sinhc(h: Tensor) -> Tensor:
    """log(sinh h / h), with its gradient, for every h."""
    small, h, s = _near_zero(h)
    series = s * (1 / 6 - s * (1 / 180 - s * (1 / 2835 - s * (1 / 37800 - s * (1 / 467775 - s * 691 / 3831077250)))))
    h = h.abs()
    return torch.where(small, series, h + (-torch.expm1(-2 * h)).log() - (2 * h).log())


def _langevin(h: Tensor) -> Tensor:
    """coth h − 1/h, the derivative of log(sinh h / h)."""
    small, safe, s = _near_zero(h)
    series = h * (1 / 3 - s * (1 / 45 - s * (2 / 945 - s * (1 / 4725 - s * (2 / 93555 - s * 1382 / 638512875)))))
    return torch.where(small, series, 1 / safe.tanh() - 1 / safe)


class BinaryPixels(dist.Bernoulli):
    """Pyro's Bernoulli, with log p(x) = −softplus((1 − 2x) logit) in two passes over the logits for seven."""

    def log_prob(self, value: Tensor) -> Tensor:
        if torch.distributions.Distribution._validate_args:  # the switch of all; of no account for one x under many z
            self._validate_sample(value)
        return -F.softplus((1 - 2 * value) * self.logits, threshold=40)  # from where on it is linear to rounding


class GreyCrossEntropy(dist.Bernoulli):
    """x log p + (1 − x) log(1 − p) for grey x in [0, 1], under ``log_prob``: a loss, no density, whose integral over
    [0, 1] is below 1.  Samples are those of the Bernoulli, zeros and ones."""

    support = constraints.unit_interval
    has_enumerate_support = False


class _Levels(constraints.Constraint):
    """0, 1/(n−1), …, 1."""

    is_discrete = True
    event_dim = 0

    def __init__(self, num_levels: int) -> None:
        self.num_levels = num_levels

    def check(self, value: Tensor) -> Tensor:
        steps = value * (self.num_levels - 1)
        return ((steps - steps.round()).abs() < 1e-3) & (value >= 0) & (value <= 1)

    def __repr__(self) -> str:
        return f"the {self.num_levels} levels 0, 1/{self.num_levels - 1}, …, 1"


class DiscretizedLogistic(TorchDistribution):
    """A probability mass on the levels 0, Δ, 2Δ, …, 1: what a logistic variable rounded to the nearest has.

    P(x) = F(x + Δ/2) − F(x − Δ/2) with F(x) = 1 / (1 + exp(−(x − μ)/s)); the first level has all the mass below, the
    last all above, so that the masses sum to one.  Each is taken as a product, σ(a) − σ(b) = σ(a) σ(−b) (1 − e^(b−a)),
    which loses no digits however small it is.

    Args:
        loc: μ.
        scale: s; the variance before rounding is s²π²/3.
        num_levels: Number of levels, Δ = 1/(num_levels − 1).

    Reference:
        Salimans, Karpathy, Chen and Kingma (2017), PixelCNN++.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(self, loc: Tensor, scale: Tensor, num_levels: int, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        self.num_levels = num_levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return _Levels(self.num_levels)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DiscretizedLogistic":
        return DiscretizedLogistic(
            self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.num_levels, validate_args=False
        )

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        half = 0.5 / (self.num_levels - 1)
        log_below_upper = F.logsigmoid((value + half - self.loc) / self.scale)
        log_above_lower = F.logsigmoid((self.loc - value + half) / self.scale)
        between = log_below_upper + log_above_lower + (-torch.expm1(-2 * half / self.scale)).log()
        inner = torch.where(value > 1 - half, log_above_lower, between)
        return torch.where(value < half, log_below_upper, inner)

    @property
    def mean(self) -> Tensor:
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        first, second = self._moments()
        return (second - first.square()).clamp_min(0)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """E[x] and E[x²], from E[v] = Σ_n P(v ≥ n) and E[v²] = Σ_n (2n − 1) P(v ≥ n) for whole numbers v."""
        top = self.num_levels - 1
        first, second = torch.zeros_like(self.loc), torch.zeros_like(self.loc)
        for level in range(1, self.num_levels):
            tail = torch.sigmoid((self.loc - (level - 0.5) / top) / self.scale)
            first = first + tail
            second = second + (2 * level - 1) * tail
        return first / top, second / top**2

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        top = self.num_levels - 1
        u = torch.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        tiny = torch.finfo(u.dtype).tiny
        x = self.loc + self.scale * (u.clamp_min(tiny).log() - (-u).log1p())
        return (x * top).round().clamp(0, top) / top


class Reshaped(TorchDistribution):
    """A distribution over real vectors as one over arrays of the same numbers.

    Args:
        vectors: Event shape (D,), with ``rsample``.
        shape: The event shape to show, D numbers in all.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(self, vectors: Any, shape: tuple[int, ...], validate_args: bool | None = None) -> None:
        if vectors.event_shape != (math.prod(shape),):
            raise ValueError(f"`shape` must hold {tuple(vectors.event_shape)} numbers, got {shape}.")
        self.vectors = vectors
        super().__init__(vectors.batch_shape, torch.Size(shape), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Reshaped":
        return Reshaped(self.vectors.expand(batch_shape), tuple(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.vectors.log_prob(value.flatten(-len(self.event_shape)))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self.vectors.rsample(sample_shape).unflatten(-1, self.event_shape)

    @property
    def mean(self) -> Tensor:
        return self.vectors.mean.unflatten(-1, self.event_shape)

    @property
    def variance(self) -> Tensor:
        return self.vectors.variance.unflatten(-1, self.event_shape)


class Unflattened(TorchDistribution):
    """A distribution of batch shape (B,) shown with another batch shape of B in all, whatever its kind.

    Args:
        flat: Batch shape (B,).
        batch_shape: The batch shape to show.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, flat: Any, batch_shape: torch.Size) -> None:
        self.flat, self.has_rsample = flat, flat.has_rsample
        super().__init__(batch_shape, flat.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return self.flat.support

    def log_prob(self, value: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(value.shape, self._extended_shape())
        lead = shape[: len(shape) - len(self._extended_shape())]
        flat = value.expand(shape).reshape(*lead, -1, *self.event_shape)
        return self.flat.log_prob(flat).reshape(*lead, *self.batch_shape)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self.flat.sample(sample_shape).reshape(self._extended_shape(sample_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self.flat.rsample(sample_shape).reshape(self._extended_shape(sample_shape))

    @property
    def mean(self) -> Tensor:
        return self.flat.mean.reshape(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        return self.flat.variance.reshape(self._extended_shape())
