"""Likelihoods p(x|z): which numbers a decoder gives for a datum, and the distribution over x that they make.

Every Gaussian covariance is bounded below by a floor, Σ ⪰ ε I, because a decoder that may let σ → 0 has an unbounded
likelihood.  A floor that nobody gives follows the data of the fit.  The network's numbers are in units of the data.

=========================  =====================  ======================================================================
likelihood                 data                   p(x|z)
=========================  =====================  ======================================================================
``Bernoulli``              0 and 1                a mass
``Gaussian``               real numbers           a density, independent over dimensions, σ from five places
``LowRankGaussian``        real numbers           a density, covariance FFᵀ + diag(v), from z
``FullGaussian``           real numbers, few      a density, any covariance, from z
``ContinuousBernoulli``    [0, 1]                 a density
``DiscretizedLogistic``    levels 0, 1/255, …, 1  a mass
``CrossEntropyLoss``       [0, 1]                 none: a loss
=========================  =====================  ======================================================================
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyrovae.data.observations import Support
from pyrovae.engine.checks import check_whole
from pyrovae.models import distributions
from pyrovae.models.base import check_floor
from pyrovae.models.floors import FLOOR, relative_floor
from pyrovae.models.linear_algebra import identity_like
from pyrovae.models.standardise import units

Scale = float | Literal["shared", "per_dim", "decoder_scalar", "decoder"]
SCALES = ("shared", "per_dim", "decoder_scalar", "decoder")
Numbers = dict[str, Tensor]
MakeLinear = Callable[[int, int], nn.Module]  # (num_features, num_outputs) → affine layer with a bias
Shape = tuple[int, ...]


class Likelihood:
    """p(x|z): named numbers for every datum, most of them from z, and the distribution over x that they make.

    One of your own is a frozen dataclass derived from this class, with ``outputs`` and ``distribution``, and, if it is
    to start at the data, with ``start``.

    Attributes:
        support: ``"boolean"``, ``"integer"`` or ``"real"``: what kind of data it is a mass or a density of.
        is_density: Whether it is a mass or a density at all; a loss is not.

    Example:
        >>> @dataclass(frozen=True)
        ... class Laplace(Likelihood):
        ...     scale: float = 1.0
        ...     def outputs(self, num_dims):
        ...         return {"loc": num_dims}
        ...     def distribution(self, numbers, data_shape):
        ...         loc = numbers["loc"].unflatten(-1, data_shape)
        ...         return dist.Laplace(loc, self.scale).to_event(len(data_shape))
        >>> from pyrovae import VAE
        >>> VAE(latent_dim=1, data_shape=(3,), likelihood=Laplace(0.5)).decoder(torch.zeros(5, 1)).event_shape
        torch.Size([3])
    """

    support: ClassVar[Support] = "real"
    is_density: ClassVar[bool] = True

    def outputs(self, num_dims: int) -> dict[str, int]:
        """The numbers that the network gives for a datum of D dimensions: how many of each name."""
        raise NotImplementedError

    def shared(self, num_dims: int) -> dict[str, int]:
        """The learned numbers that all data share: how many of each name."""
        return {}

    def units(self, num_dims: int) -> dict[str, int]:
        """The numbers that all data share and nothing learns, 1 until the start: how many of each name."""
        return {}

    @property
    def each_has_unit(self) -> bool:
        """Whether every dimension has a unit of its own, as columns of a table; else one serves all, as pixels."""
        return False

    def for_data(self, x: Tensor) -> Self:
        """This likelihood, with what it leaves to the data (N, ...) taken from them."""
        return self

    def distribution(self, numbers: Numbers, data_shape: Shape) -> Any:
        """p(x|z), event shape ``data_shape``.

        Args:
            numbers: By name, those of ``outputs`` of shape (..., their number), those of ``shared`` and of ``units``
                (their number,).
            data_shape: Shape of one datum.
        """
        raise NotImplementedError

    def start(self, x: Tensor) -> Numbers:
        """The numbers to start from, given data (N, D); those not named start at random."""
        return {}

    @property
    def covariance_floor(self) -> float | None:
        """ε of a learned covariance Σ ⪰ ε I; None where there is none."""
        return None

    def decoded_floats(self, num_dims: int) -> int | None:
        """Numbers that p(x|z) holds for each datum, if more than x itself has; else None."""
        return None

    def head(self, num_features: int, data_shape: Shape, linear: MakeLinear = nn.Linear) -> "Head":
        """The last layer of a decoder: features (..., num_features) → distribution over (..., *data_shape).

        Args:
            num_features: Number of features, channels of a convolutional decoder.
            data_shape: Shape of one datum.
            linear: Makes an affine layer from (num_features, num_outputs); has a ``bias`` (num_outputs,).
        """
        return Head(self, num_features, data_shape, linear)


class Head(nn.Module):
    """The last layer of a decoder: an affine layer of the features for every output of a likelihood.

    Args: As for :meth:`Likelihood.head`.
    """

    def __init__(self, likelihood: Likelihood, num_features: int, data_shape: Shape, linear: MakeLinear) -> None:
        super().__init__()
        self.given, self.data_shape = likelihood, data_shape
        self.likelihood: Any = likelihood
        num_dims = math.prod(data_shape)
        for name, number in likelihood.outputs(num_dims).items():
            self.add_module(name, linear(num_features, number))
        for name, number in likelihood.shared(num_dims).items():
            self.register_parameter(name, nn.Parameter(torch.zeros(number)))
        for name, number in likelihood.units(num_dims).items():
            self.register_buffer(name, torch.ones(number))

    def forward(self, h: Tensor) -> Any:
        # gradients in h add up in this order, which fits of earlier releases had
        outputs = {name: layer(h) for name, layer in sorted(self.named_children())}
        return self.likelihood.distribution({**outputs, **self._of_all_data()}, self.data_shape)

    def _of_all_data(self) -> Numbers:
        return {**dict(self.named_parameters(recurse=False)), **dict(self.named_buffers(recurse=False))}

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """The floor is part of the state: the same parameters mean nothing under another."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if isinstance(self.likelihood, _Floored) and self.likelihood.floor is not None:
            destination[f"{prefix}floor"] = torch.tensor(self.likelihood.least_variance, dtype=torch.float64)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if (floor := state_dict.pop(f"{prefix}floor", None)) is not None:
            self.likelihood = replace(self.likelihood, floor=floor.item())
        super()._load_from_state_dict(state_dict, prefix, *args)

    def start_at(self, x: Tensor) -> None:
        """Start the output at the data, with the likelihood for them."""
        self.likelihood = self.given.for_data(x)
        self.set(self.likelihood.start(x.flatten(1)))

    @torch.no_grad()
    def set(self, numbers: Numbers) -> None:
        """Set shared numbers and units, and by the biases what outputs are where the features are zero."""
        own = self._of_all_data()
        for name, value in numbers.items():
            (own[name] if name in own else getattr(self, name).bias).copy_(value)


# ---------------------------------------------------------------------------------------- one logit for every dimension


class _Logits(Likelihood):
    """Independent dimensions, each with one number from z, its logit."""

    def outputs(self, num_dims: int) -> dict[str, int]:
        return {"logits": num_dims}

    def distribution(self, numbers: Numbers, data_shape: Shape) -> Any:
        return self._dimensions(numbers["logits"].unflatten(-1, data_shape)).to_event(len(data_shape))

    def _dimensions(self, logits: Tensor) -> Any:
        """The distribution of every dimension."""
        raise NotImplementedError

    def start(self, x: Tensor) -> Numbers:
        """The logits of the means of the data, clipped to [0.001, 0.999]."""
        return {"logits": _clipped_mean(x).logit()}


@dataclass(frozen=True)
class Bernoulli(_Logits):
    """p(x|z) = Π_d Bernoulli(x_d; logits_d(z)), a probability mass on {0, 1}^D.

    Example:
        >>> import torch
        >>> head = Bernoulli().head(num_features=4, data_shape=(3,))
        >>> head(torch.zeros(5, 4)).event_shape
        torch.Size([3])
    """

    support: ClassVar[Support] = "boolean"

    def _dimensions(self, logits: Tensor) -> Any:
        return distributions.BinaryPixels(logits=logits, validate_args=False)  # it looks at x all the same


@dataclass(frozen=True)
class CrossEntropyLoss(_Logits):
    """Binary cross-entropy on grey pixels, Σ_d x_d log p_d(z) + (1 − x_d) log(1 − p_d(z)): a loss, and no density.

    It trains the mean images that many tutorials show.  It integrates to less than 1 over [0, 1]^D, so that no number
    made of it is a log-likelihood: ``compare`` and ``evaluate.log_likelihood`` refuse it.  A model trained with it has
    the parameters of one with ``Bernoulli()``, into which its ``state_dict`` loads, to be measured on binary data.

    Example:
        >>> from pyrovae import VAE
        >>> loss = VAE(latent_dim=1, data_shape=(3,), likelihood=CrossEntropyLoss(), hidden=(4,))
        >>> model = VAE(latent_dim=1, data_shape=(3,), likelihood=Bernoulli(), hidden=(4,))
        >>> model.load_state_dict(loss.state_dict())
        <All keys matched successfully>
        >>> loss.is_density, model.is_density
        (False, True)
    """

    is_density: ClassVar[bool] = False

    def _dimensions(self, logits: Tensor) -> Any:
        return distributions.GreyCrossEntropy(logits=logits)


@dataclass(frozen=True)
class ContinuousBernoulli(_Logits):
    """p(x|z) = Π_d C(λ_d) exp(λ_d(z) x_d), a density on [0, 1]^D.

    What binary cross-entropy on grey pixels becomes once it is normalised.  Its only shape per pixel is its mean, and
    it never falls off steeply, so that it is no match for a Gaussian on data that are nearly black and white.

    Example:
        >>> import torch
        >>> p = ContinuousBernoulli().head(num_features=4, data_shape=(3,))(torch.zeros(5, 4))
        >>> bool(((p.sample() >= 0) & (p.sample() <= 1)).all())
        True

    Reference:
        Loaiza-Ganem and Cunningham (2019), The continuous Bernoulli: fixing a pervasive error in variational
        autoencoders.
    """

    def _dimensions(self, logits: Tensor) -> Any:
        return distributions.ContinuousBernoulli(logits)

    def start(self, x: Tensor) -> Numbers:
        """The λ whose means are those of the data, clipped to [0.001, 0.999], found by bisection."""
        mean = _clipped_mean(x).double()
        low, high = torch.full_like(mean, -1001.0), torch.full_like(mean, 1001.0)
        for _ in range(64):
            middle = (low + high) / 2
            below = distributions.ContinuousBernoulli(middle).mean < mean
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return {"logits": (low + high) / 2}


# ---------------------------------------------------------------------------------- a location and a scale, independent


class _Floored(Likelihood):
    """Gaussians, and what is like them, whose variances are bounded below."""

    floor: float | None

    def __post_init__(self) -> None:
        if self.floor is not None:
            check_floor(self.floor)

    def for_data(self, x: Tensor) -> Self:
        """A floor of None becomes 0.004 of the mean variance of a dimension."""
        return self if self.floor is not None else replace(cast(Any, self), floor=relative_floor(x, FLOOR))

    @property
    def least_variance(self) -> float:
        """ε; of a likelihood that has not seen its data, that of data of unit variance."""
        return FLOOR if self.floor is None else self.floor


class _LocationScale(_Floored):
    """Independent dimensions with location u·μ(z) and variance σ² = ε + u²·softplus(raw), u the unit of the data.

    There is one unit for every dimension where every dimension has its σ; else there is one for all.
    """

    scale: Scale

    def __post_init__(self) -> None:
        super().__post_init__()
        number = isinstance(self.scale, int | float) and not isinstance(self.scale, bool)
        if not (self.scale in SCALES or (number and 0 < float(self.scale) < math.inf)):
            raise ValueError(f"`scale` must be a positive number or one of {SCALES}, got {self.scale!r}.")

    @property
    def each_has_unit(self) -> bool:
        return self.scale in ("per_dim", "decoder")

    def outputs(self, num_dims: int) -> dict[str, int]:
        raw = {"decoder_scalar": {"raw_variance": 1}, "decoder": {"raw_variance": num_dims}}
        return {"loc": num_dims, **raw.get(str(self.scale), {})}

    def shared(self, num_dims: int) -> dict[str, int]:
        raw = {"shared": {"raw_variance": 1}, "per_dim": {"raw_variance": num_dims}}
        return raw.get(str(self.scale), {})

    def units(self, num_dims: int) -> dict[str, int]:
        return {"unit": num_dims if self.each_has_unit else 1}

    def distribution(self, numbers: Numbers, data_shape: Shape) -> Any:
        unit = numbers["unit"]
        loc = self._location(numbers["loc"], unit).unflatten(-1, data_shape)
        if not isinstance(self.scale, str):
            sigma = torch.full_like(loc, self.scale)
        else:
            flat = (self.least_variance + unit.square() * F.softplus(numbers["raw_variance"])).sqrt()
            shape = data_shape if flat.shape[-1] > 1 else (1,) * len(data_shape)
            sigma = flat.unflatten(-1, shape).expand_as(loc)
        return self._dimensions(loc, sigma).to_event(len(data_shape))

    def _location(self, raw: Tensor, unit: Tensor) -> Tensor:
        return unit * raw

    def _dimensions(self, loc: Tensor, sigma: Tensor) -> Any:
        """The distribution of every dimension, from its location and its standard deviation."""
        raise NotImplementedError

    def start(self, x: Tensor) -> Numbers:
        """μ at the mean of the data, σ² at their variance (per dimension where σ² is)."""
        learned = isinstance(self.scale, str)
        unit = units(x, self.each_has_unit, math.sqrt(self.least_variance) if learned else 0.0)
        raw = self.with_variance(x.var(0, correction=0), unit, self.least_variance) if learned else {}
        return {"unit": unit, "loc": x.mean(0) / unit, **raw}

    def with_variance(self, per_dim: Tensor, unit: Tensor, least_above_floor: float) -> Numbers:
        """The raw number of these variances (D,), or of their mean, or of one a little above the floor."""
        variance = per_dim if self.each_has_unit else per_dim.mean().reshape(1)
        above = (variance - self.least_variance).clamp_min(least_above_floor)
        return {"raw_variance": inverse_softplus(above / unit.square())}


@dataclass(frozen=True)
class Gaussian(_LocationScale):
    """p(x|z) = Normal(μ(z), σ²), independent over dimensions, with σ² ≥ floor.

    A learned ``"shared"`` or ``"per_dim"`` σ² has a closed-form optimum given the rest, the mean squared error:
    ``VAE.with_optimal_scale(data)`` sets it.  (Taking it anew from every batch, within the program, would let p(x|z)
    depend on the x that it is to score: no density.)

    Args:
        scale: Where σ comes from: a number (fixed), ``"shared"`` (one learned number), ``"per_dim"`` (one learned
            number a dimension), ``"decoder_scalar"`` (one a datum, from z) or ``"decoder"`` (one a dimension and datum,
            from z).
        floor: ε, the lower bound of σ², in squared units of the data; not used when σ is a number.  By default it
            follows the data of the fit, 0.004 of the mean variance of a dimension.
        bounded: Whether μ(z) stays in (0, 1), by a sigmoid: for data in [0, 1] many of which are at an end.

    Raises:
        ValueError: If ``scale`` is none of these, or ``floor`` not positive.

    Example:
        >>> import torch
        >>> p = Gaussian(scale="per_dim").head(num_features=4, data_shape=(3,))(torch.zeros(5, 4))
        >>> p.stddev.shape, bool((p.stddev[0] == p.stddev[1]).all())
        (torch.Size([5, 3]), True)

    Reference:
        Rybkin, Daniilidis and Levine (2021), Simple and effective VAE training with calibrated decoders; Kingma and
        Welling (2014), Auto-encoding variational Bayes (bounded means, for images).
    """

    scale: Scale = "shared"
    floor: float | None = None
    bounded: bool = False

    @property
    def covariance_floor(self) -> float | None:
        return self.least_variance if isinstance(self.scale, str) else None

    def _location(self, raw: Tensor, unit: Tensor) -> Tensor:
        return raw.sigmoid() if self.bounded else super()._location(raw, unit)

    def _dimensions(self, loc: Tensor, sigma: Tensor) -> Any:
        return dist.Normal(loc, sigma)

    def start(self, x: Tensor) -> Numbers:
        """μ at the mean of the data (bounded, clipped to [0.001, 0.999]), σ² at their variance."""
        numbers = super().start(x)
        return {**numbers, "loc": _clipped_mean(x).logit()} if self.bounded else numbers


@dataclass(frozen=True)
class DiscretizedLogistic(_LocationScale):
    """A probability mass on integer pixels v, seen as x = v/(levels − 1): a logistic variable, rounded.

    P(x|z) = F((x + Δ/2 − μ(z))/s) − F((x − Δ/2 − μ(z))/s), Δ = 1/(levels − 1), the first and the last level
    taking the tails, so that the masses sum to one.  Its likelihood is that of the integers themselves, and is ranked
    neither with densities nor with masses of binary pixels.

    Args:
        levels: Number of levels, 256 for 8-bit pixels.
        scale: Where σ, the standard deviation before rounding, comes from: as for :class:`Gaussian`.
        floor: The lower bound of σ².  A mass is at most 1, so nothing here is unbounded; it keeps gradients finite.

    Raises:
        ValueError: If ``levels`` is below 2, ``scale`` unknown, or ``floor`` not positive.

    Example:
        >>> import torch
        >>> p = DiscretizedLogistic(levels=5).head(num_features=4, data_shape=(1,))(torch.zeros(4))
        >>> every_level = torch.tensor([[0.0], [0.25], [0.5], [0.75], [1.0]])
        >>> round(p.log_prob(every_level).exp().sum().item(), 5)
        1.0

    Reference:
        Salimans, Karpathy, Chen and Kingma (2017), PixelCNN++.
    """

    levels: int = 256
    scale: Scale = "decoder"
    floor: float | None = 1e-6
    support: ClassVar[Support] = "integer"

    def __post_init__(self) -> None:
        check_whole("levels", self.levels, 2)
        super().__post_init__()

    def _dimensions(self, loc: Tensor, sigma: Tensor) -> Any:
        return distributions.DiscretizedLogistic(loc, sigma * (math.sqrt(3) / math.pi), self.levels)


# ------------------------------------------------------------------------------------------------- correlated Gaussians


class _Correlated(_Floored):
    """Gaussians whose covariance is a matrix, Σ ⪰ ε I; every dimension has its unit u."""

    each_has_unit = True

    @property
    def covariance_floor(self) -> float:
        return self.least_variance

    def units(self, num_dims: int) -> dict[str, int]:
        return {"unit": num_dims}

    def _start(self, x: Tensor) -> tuple[Numbers, Tensor]:
        """μ at the mean of the data, and the variances above the floor, in units."""
        least = self.least_variance
        unit = units(x, True, math.sqrt(least))
        above = (x.var(0, correction=0) - least).clamp_min(least) / unit.square()
        return {"unit": unit, "loc": x.mean(0) / unit}, above


@dataclass(frozen=True)
class LowRankGaussian(_Correlated):
    """p(x|z) = Normal(μ(z), F(z)F(z)ᵀ + diag v(z)), v ≥ floor: noise that is correlated over dimensions.

    Args:
        rank: Columns of F.
        floor: ε, the lower bound of v and so of every eigenvalue of the covariance, in squared units of the data.  By
            default as for :class:`Gaussian`.

    Raises:
        ValueError: If ``rank`` is below 1, or ``floor`` not positive.

    Example:
        >>> import torch
        >>> p = LowRankGaussian(rank=2).head(num_features=4, data_shape=(3,))(torch.zeros(5, 4))
        >>> p.covariance_matrix.shape
        torch.Size([5, 3, 3])

    Reference:
        Monteiro et al. (2020), Stochastic segmentation networks (a low-rank covariance from a network).
    """

    rank: int = 5
    floor: float | None = None

    def __post_init__(self) -> None:
        check_whole("rank", self.rank, 1)
        super().__post_init__()

    def decoded_floats(self, num_dims: int) -> int:
        return self.rank * num_dims

    def outputs(self, num_dims: int) -> dict[str, int]:
        return {"loc": num_dims, "factor": self.rank * num_dims, "raw_variance": num_dims}

    def distribution(self, numbers: Numbers, data_shape: Shape) -> Any:
        unit = numbers["unit"]
        factor = unit[:, None] * numbers["factor"].unflatten(-1, (self.rank, -1)).mT
        noise = self.least_variance + unit.square() * F.softplus(numbers["raw_variance"])
        return _shaped(dist.LowRankMultivariateNormal(unit * numbers["loc"], factor, noise), data_shape)

    def start(self, x: Tensor) -> Numbers:
        """μ at the mean of the data, the diagonal at their variances, F without a bias."""
        numbers, above = self._start(x)
        return {**numbers, "factor": x.new_zeros(()), "raw_variance": inverse_softplus(above)}


@dataclass(frozen=True)
class FullGaussian(_Correlated):
    """p(x|z) = Normal(μ(z), A(z)A(z)ᵀ + ε I), A lower triangular: any covariance above the floor.

    The decoder has D(D + 1)/2 outputs for A, and every datum costs a Cholesky factorisation: for few dimensions.

    Args:
        floor: ε, the lower bound of every eigenvalue of the covariance, in squared units of the data.  By default as
            for :class:`Gaussian`.

    Raises:
        ValueError: If ``floor`` is not positive.

    Example:
        >>> import torch
        >>> p = FullGaussian(floor=0.01).head(num_features=4, data_shape=(3,))(torch.zeros(5, 4))
        >>> bool(torch.linalg.eigvalsh(p.covariance_matrix).min() > 0.0099)
        True
    """

    floor: float | None = None

    def decoded_floats(self, num_dims: int) -> int:
        return num_dims**2

    def outputs(self, num_dims: int) -> dict[str, int]:
        return {"loc": num_dims, "factor": num_dims * (num_dims + 1) // 2}

    def distribution(self, numbers: Numbers, data_shape: Shape) -> Any:
        loc, entries, unit = numbers["unit"] * numbers["loc"], numbers["factor"], numbers["unit"]
        num_dims = loc.shape[-1]
        rows, columns = torch.tril_indices(num_dims, num_dims, device=loc.device)
        factor = entries.new_zeros(*entries.shape[:-1], num_dims, num_dims)
        factor[..., rows, columns] = entries * unit[rows]
        scale_tril = torch.linalg.cholesky(factor @ factor.mT + self.least_variance * identity_like(factor))
        # valid as built, and asking Pyro whether it is would cost as much again
        return _shaped(dist.MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False), data_shape)

    def start(self, x: Tensor) -> Numbers:
        """μ at the mean of the data, the covariance at the diagonal of their variances."""
        rows, columns = torch.tril_indices(x.shape[1], x.shape[1], device=x.device)
        numbers, above = self._start(x)
        return {**numbers, "factor": above.sqrt().diag()[rows, columns]}


_OF_PIXELS = (Bernoulli, ContinuousBernoulli, CrossEntropyLoss, DiscretizedLogistic)
_OF_REALS = (FullGaussian, Gaussian, LowRankGaussian)
LIKELIHOODS: dict[str, type[Likelihood]] = {cls.__name__: cls for cls in (*_OF_PIXELS, *_OF_REALS)}


def inverse_softplus(value: Tensor) -> Tensor:
    """log(exp(v) − 1), for v > 0 of any size."""
    return value + (-(-value).expm1()).log()


def _clipped_mean(x: Tensor) -> Tensor:
    return x.mean(0).clamp(0.001, 0.999)


def _shaped(vectors: Any, data_shape: Shape) -> Any:
    return vectors if len(data_shape) == 1 else distributions.Reshaped(vectors, data_shape)
