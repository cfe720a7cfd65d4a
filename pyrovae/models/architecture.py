"""The architecture of an autoencoder in a few plain values, and what it is by default."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn

from pyrovae.engine.checks import check_choice, check_whole

Network = Literal["mlp", "conv"]
Covariance = Literal["diag", "full"]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}

# The default architecture: hidden widths, channels of convolutions, and the activation.
DEFAULT_HIDDEN = (256, 256)
FEW_DIMS = 64  # below it one hidden layer: two lose 1 to 2 nats on tables of 10 and 30 columns (benchmarks/tuning.py)
FIRST_CHANNELS, MOST_CHANNELS = 32, 256
SMALLEST = 8  # sides from which the default stack of convolutions halves once more
DEFAULT_ACTIVATION = "silu"


@dataclass(frozen=True)
class Architecture:
    """An encoder and a decoder that mirror each other.

    Args:
        latent_dim: L.
        data_shape: Shape of one datum, for convolutions (channels, height, width).
        hidden: Widths of the encoder's hidden layers, or channels of a convolutional one, each of which halves the
            image; the decoder has them in reverse.  None for the default.
        activation: A key of ``ACTIVATIONS``.
        network: ``"mlp"`` or ``"conv"``.
        posterior: Covariance of q: ``"diag"``, or ``"full"``, a lower-triangular factor from the encoder.
        num_classes: Number of classes of labels, whose one-hot code is appended to x and to z (as constant channels to
            an image); None without.

    Raises:
        ValueError: If a value is none of these.

    Example:
        >>> Architecture(latent_dim=2, data_shape=(1, 28, 28), network="conv").widths
        (32, 64)
    """

    latent_dim: int
    data_shape: tuple[int, ...]
    hidden: Sequence[int] | None = None
    activation: str = DEFAULT_ACTIVATION
    network: Network = "mlp"
    posterior: Covariance = "diag"
    num_classes: int | None = None

    def __post_init__(self) -> None:
        check_whole("latent_dim", self.latent_dim)
        check_whole("num_classes", self.num_classes, optional=True)
        object.__setattr__(self, "latent_dim", int(self.latent_dim))  # of NumPy's numbers, which no model file holds
        if self.num_classes is not None:
            object.__setattr__(self, "num_classes", int(self.num_classes))
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("network", self.network, ("mlp", "conv"))
        check_choice("posterior", self.posterior, ("diag", "full"))

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths or channels of the encoder's layers."""
        if self.hidden is not None:
            return tuple(self.hidden)
        if self.network == "conv":
            return default_channels(self.data_shape)
        return DEFAULT_HIDDEN if math.prod(self.data_shape) >= FEW_DIMS else DEFAULT_HIDDEN[:1]

    @property
    def num_labels(self) -> int:
        """Numbers that the code of a label adds to an input."""
        return self.num_classes or 0

    def activate(self) -> nn.Module:
        """A fresh activation."""
        return ACTIVATIONS[self.activation]()

    def plain(self) -> dict[str, Any]:
        """All of it as plain values, with the widths that a default stands for."""
        return {**asdict(self), "data_shape": list(self.data_shape), "hidden": list(self.widths)}


def default_channels(data_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Channels of the default stack: 32, 64, … up to 256, halving until a side is shorter than 8.

    Example:
        >>> default_channels((1, 28, 28)), default_channels((3, 64, 64))
        ((32, 64), (32, 64, 128, 256))
    """
    side = min(image_shape(data_shape)[1:])
    num_layers = max(1, side.bit_length() - SMALLEST.bit_length() + 1)
    return tuple(min(FIRST_CHANNELS * 2**i, MOST_CHANNELS) for i in range(num_layers))


def image_shape(data_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height and width of one datum.

    Raises:
        ValueError: If it is not (channels, height, width).
    """
    if len(data_shape) != 3:
        raise ValueError(
            f"`data_shape` must be (channels, height, width) for a convolutional network, got {tuple(data_shape)}; "
            "show it the data as images, data.images()."
        )
    channels, height, width = data_shape
    return channels, height, width
