"""Likelihoods p(x|z): small descriptions that build the head of a decoder.

A head maps features h to a distribution over x.  Every Gaussian covariance is bounded below by a floor, Σ ⪰ ε I,
because a decoder that may let σ → 0 has an unbounded likelihood.

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

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

from torch import nn

from pyrovae.data.observations import Support
from pyrovae.models import heads
from pyrovae.models.base import check_floor, check_whole
from pyrovae.models.heads import SCALES, MakeLinear, Scale


class Likelihood(Protocol):
    """What a decoder asks of a likelihood.  One of your own is a frozen dataclass with this method."""

    def head(self, num_features: int, data_shape: tuple[int, ...], linear: MakeLinear = nn.Linear) -> nn.Module:
        """The last layer of a decoder: features (..., num_features) → distribution over (..., *data_shape).

        Args:
            num_features: Number of features, channels of a convolutional decoder.
            data_shape: Shape of one datum.
            linear: Makes an affine layer from (num_features, num_outputs); has a ``bias`` (num_outputs,).
        """


@dataclass(frozen=True)
class Bernoulli:
    """p(x|z) = Π_d Bernoulli(x_d; logits_d(z)), a probability mass on {0, 1}^D.

    Example:
        >>> import torch
        >>> head = Bernoulli().head(num_features=4, data_shape=(3,))
        >>> head(torch.zeros(5, 4)).event_shape
        torch.Size([3])
    """

    support: ClassVar[Support] = "boolean"

    def head(self, num_features: int, data_shape: tuple[int, ...], linear: MakeLinear = nn.Linear) -> nn.Module:
        """See :class:`Likelihood`."""
        return heads.BernoulliHead(num_features, data_shape, linear)


@dataclass(frozen=True)
class ContinuousBernoulli:
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

    support: ClassVar[Support] = "real"

    def head(self, num_features: int, data_shape: tuple[int, ...], linear: MakeLinear = nn.Linear) -> nn.Module:
        """See :class:`Likelihood`."""
        return heads.ContinuousBernoulliHead(num_features, data_shape, linear)


@dataclass(frozen=True)
class CrossEntropyLoss:
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

    support: ClassVar[Support] = "real"
    is_density: ClassVar[bool] = False

    def head(self, num_features: int, data_shape: tuple[int, ...], linear: MakeLinear = nn.Linear) -> nn.Module:
        """See :class:`Likelihood`."""
        return heads.CrossEntropyHead(num_features, data_shape, linear)


@dataclass(frozen=True)
class Gaussian:
    """p(x|z) = Normal(μ(z), σ²), independent over dimensions, with σ² ≥ floor.

    A learned ``"shared"`` or ``"per_dim"`` σ² has a closed-form optimum given the rest, the mean squared error:
    ``VAE.with_optimal_scale(data)`` sets it.  (Taking it anew from every batch, within the program, would let p(x|z)
    depend on the x that it is to score: no density.)

    Args:
        scale: Where σ comes from: a number (fixed), ``"shared"`` (one learned number), ``"per_dim"`` (one learned
            number a dimension), ``"decoder_scalar"`` (one a datum, from z) or ``"decoder"`` (one a dimension and datum,
            from z).
        floor: ε, the lower bound of σ², in squared units of the data; not used when σ is a number.
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
    floor: float = 1e-4
    bounded: bool = False
    support: ClassVar[Support] = "real"

    def __post_init__(self) -> None:
        check_floor(self.floor)
        _check_scale(self.scale)

    def head(self, num_features: int, data_shape: tuple[int, ...], linear: MakeLinear = nn.Linear) -> nn.Module:
        """See :class:`Likelihood`."""
        head = heads.BoundedGaussianHead if self.bounded else heads.GaussianHead
        return head(num_features, data_shape, self.scale, self.floor, linear)


@dataclass(frozen=True)
class LowRankGaussian:
    """p(x|z) = Normal(μ(z), F(z)F(z)ᵀ + diag v(z)), v ≥ floor: noise that is correlated over dimensions.

    Args:
        rank: Columns of F.
        floor: ε, the lower bound of v and so of every eigenvalue of the covariance, in squared units of the data.

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
    floor: float = 1e-4
    support: ClassVar[Support] = "real"

    def __post_init__(self) -> None:
        check_whole("rank", self.rank, 1)
        check_floor(self.floor)

    def head(self, num_features: int, data_shape: tuple[int, ...], linear: MakeLinear = nn.Linear) -> nn.Module:
        """See :class:`Likelihood`."""
        return heads.LowRankGaussianHead(num_features, data_shape, self.rank, self.floor, linear)


@dataclass(frozen=True)
class FullGaussian:
    """p(x|z) = Normal(μ(z), A(z)A(z)ᵀ + ε I), A lower triangular: any covariance above the floor.

    The decoder has D(D + 1)/2 outputs for A, and every datum costs a Cholesky factorisation: for few dimensions.

    Args:
        floor: ε, the lower bound of every eigenvalue of the covariance, in squared units of the data.

    Raises:
        ValueError: If ``floor`` is not positive.

    Example:
        >>> import torch
        >>> p = FullGaussian(floor=0.01).head(num_features=4, data_shape=(3,))(torch.zeros(5, 4))
        >>> bool(torch.linalg.eigvalsh(p.covariance_matrix).min() > 0.0099)
        True
    """

    floor: float = 1e-4
    support: ClassVar[Support] = "real"

    def __post_init__(self) -> None:
        check_floor(self.floor)

    def head(self, num_features: int, data_shape: tuple[int, ...], linear: MakeLinear = nn.Linear) -> nn.Module:
        """See :class:`Likelihood`."""
        return heads.FullGaussianHead(num_features, data_shape, self.floor, linear)


@dataclass(frozen=True)
class DiscretizedLogistic:
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
    floor: float = 1e-6
    support: ClassVar[Support] = "integer"

    def __post_init__(self) -> None:
        check_whole("levels", self.levels, 2)
        check_floor(self.floor)
        _check_scale(self.scale)

    def head(self, num_features: int, data_shape: tuple[int, ...], linear: MakeLinear = nn.Linear) -> nn.Module:
        """See :class:`Likelihood`."""
        return heads.DiscretizedLogisticHead(num_features, data_shape, self.levels, self.scale, self.floor, linear)


LIKELIHOODS: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        Bernoulli,
        ContinuousBernoulli,
        CrossEntropyLoss,
        DiscretizedLogistic,
        FullGaussian,
        Gaussian,
        LowRankGaussian,
    )
}


def _check_scale(scale: object) -> None:
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not (scale in SCALES or (number and 0 < cast(float, scale) < math.inf)):
        raise ValueError(f"`scale` must be a positive number or one of {SCALES}, got {scale!r}.")
