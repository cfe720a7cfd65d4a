"""The networks of an autoencoder, built from a few plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn

from pyrovae.models.base import check_whole
from pyrovae.models.convolutional import ConvDecoder, ConvEncoder, default_channels
from pyrovae.models.likelihoods import Likelihood
from pyrovae.models.networks import ACTIVATIONS, DEFAULT_HIDDEN, Covariance, GaussianEncoder, MLPDecoder

Network = Literal["mlp", "conv"]


@dataclass(frozen=True)
class Architecture:
    """An encoder and a decoder that mirror each other.

    Args:
        latent_dim: L.
        data_shape: Shape of one datum.
        hidden: Widths of the encoder's hidden layers, or channels of a convolutional one; None for the default.
        activation: A key of ``ACTIVATIONS``.
        network: ``"mlp"`` or ``"conv"``.
        posterior: Covariance of q: ``"diag"`` or ``"full"``.
        num_classes: Number of classes of labels; None without.

    Raises:
        ValueError: If a value is none of these.
    """

    latent_dim: int
    data_shape: tuple[int, ...]
    hidden: Sequence[int] | None
    activation: str
    network: Network
    posterior: Covariance
    num_classes: int | None

    def __post_init__(self) -> None:
        check_whole("latent_dim", self.latent_dim)
        if self.num_classes is not None:
            check_whole("num_classes", self.num_classes)
        choices = {"activation": tuple(ACTIVATIONS), "network": ("mlp", "conv"), "posterior": ("diag", "full")}
        for name, allowed in choices.items():
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}, got {value!r}.")

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths or channels of the encoder's layers."""
        if self.hidden is not None:
            return tuple(self.hidden)
        return DEFAULT_HIDDEN if self.network == "mlp" else default_channels(self.data_shape)

    def encoder(self) -> nn.Module:
        """x → q(z|x)."""
        kind = GaussianEncoder if self.network == "mlp" else ConvEncoder
        activation = ACTIVATIONS[self.activation]
        return kind(self.data_shape, self.latent_dim, self.widths, activation, self.posterior, self.num_classes)

    def decoder(self, likelihood: Likelihood) -> nn.Module:
        """z → p(x|z)."""
        kind = MLPDecoder if self.network == "mlp" else ConvDecoder
        activation = ACTIVATIONS[self.activation]
        return kind(self.latent_dim, likelihood, self.data_shape, self.widths[::-1], activation, self.num_classes)

    def plain(self) -> dict[str, Any]:
        """All of it as plain values, with the widths that a default stands for."""
        return {**asdict(self), "data_shape": list(self.data_shape), "hidden": list(self.widths)}
