"""The networks of an autoencoder from a few plain values, and the check of what any network returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from pyro.distributions import TorchDistribution
from torch import nn

from pyrovae.models.convolutional import ConvDecoder, ConvEncoder, default_channels
from pyrovae.models.likelihoods import Likelihood
from pyrovae.models.networks import Covariance, GaussianEncoder, MLPDecoder

Network = Literal["mlp", "conv"]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}
DEFAULT_WIDTHS = (256, 256)


@dataclass(frozen=True)
class Architecture:
    """An encoder and a decoder that mirror each other.

    Args:
        hidden: Widths of the encoder's hidden layers, or channels of a convolutional one; None for the default.
        activation: A key of ``ACTIVATIONS``.
        network: ``"mlp"`` or ``"conv"``.
        posterior: Covariance of q: ``"diag"`` or ``"full"``.

    Raises:
        ValueError: If a value is none of these.
    """

    hidden: Sequence[int] | None
    activation: str
    network: Network
    posterior: Covariance

    def __post_init__(self) -> None:
        for name, allowed in (
            ("activation", tuple(ACTIVATIONS)),
            ("network", ("mlp", "conv")),
            ("posterior", ("diag", "full")),
        ):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}, got {value!r}.")

    def widths(self, data_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Widths or channels of the encoder's layers."""
        if self.hidden is not None:
            return tuple(self.hidden)
        return DEFAULT_WIDTHS if self.network == "mlp" else default_channels(data_shape)

    def encoder(self, data_shape: tuple[int, ...], latent_dim: int, num_classes: int | None) -> nn.Module:
        """x → q(z|x)."""
        kind = GaussianEncoder if self.network == "mlp" else ConvEncoder
        activation = ACTIVATIONS[self.activation]
        return kind(data_shape, latent_dim, self.widths(data_shape), activation, self.posterior, num_classes)

    def decoder(
        self, likelihood: Likelihood, data_shape: tuple[int, ...], latent_dim: int, num_classes: int | None
    ) -> nn.Module:
        """z → p(x|z)."""
        widths, activation = self.widths(data_shape)[::-1], ACTIVATIONS[self.activation]
        if self.network == "conv":
            return ConvDecoder(latent_dim, likelihood, data_shape, widths, activation, num_classes)
        head = likelihood.head(widths[-1] if widths else latent_dim + (num_classes or 0), data_shape)
        return MLPDecoder(latent_dim, head, widths, activation, num_classes)


@torch.no_grad()
def output_for_two(
    name: str, module: nn.Module, input_shape: tuple[int, ...], num_classes: int | None
) -> TorchDistribution:
    """What an encoder or decoder returns for two inputs of zeros, with labels 0 where there are classes.

    Raises:
        ValueError: If that is no distribution with these two as its batch.
    """
    training = module.training
    like = next(module.parameters(), torch.zeros(()))
    inputs = [torch.zeros(2, *input_shape, device=like.device, dtype=like.dtype)]
    if num_classes is not None:
        inputs.append(torch.zeros(2, device=like.device, dtype=torch.long))
    try:
        output = module.eval()(*inputs)
    finally:
        module.train(training)
    given, over, dimensions = ("z", "x", "data") if name == "decoder" else ("x", "z", "latent")
    if not isinstance(output, torch.distributions.Distribution):
        raise ValueError(f"`{name}` must return a distribution over {over}, got {type(output).__name__}.")
    if (batch_shape := tuple(output.batch_shape)) != (2,):
        raise ValueError(
            f"`{name}` must return a distribution of batch shape (2,) for two {given}, got {batch_shape}; "
            f"declare the {dimensions} dimensions with .to_event()."
        )
    return cast(TorchDistribution, output)
