"""The variational autoencoder: p(x) = ∫ p(x given z) p(z) dz, with networks for p(x given z) and for q(z given x)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae.models.base import AmortizedGuide, LatentVariableModel, Program
from pyrovae.models.likelihoods import Gaussian, Likelihood
from pyrovae.models.networks import GaussianEncoder, MLPDecoder, redraw_parameters

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}


class VAEModel(Program):
    """z ~ Normal(0, I);  x ~ decoder(z)."""

    def __init__(self, decoder: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.register_buffer("prior_loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("prior_scale", torch.ones(latent_dim), persistent=False)

    def forward(self, x: Tensor | None = None, *, num_data: int = 1) -> Tensor:
        with pyro.plate("data", num_data if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.prior_loc, self.prior_scale).to_event(1))
            return pyro.sample("x", self.decoder(z), obs=x)


class VAE(LatentVariableModel):
    """Variational autoencoder: z ~ Normal(0, I), x ~ decoder(z); q(z given x) = encoder(x).

    Args:
        latent_dim: L.
        data_shape: Shape of one datum; may be left out when ``decoder`` is given.
        likelihood: ``Bernoulli()`` or ``Gaussian(...)``, the head of the decoder built here.
        hidden: Widths of the encoder's hidden layers; the decoder has them in reverse.
        activation: One of ``"relu"``, ``"tanh"``, ``"elu"``, ``"gelu"``, ``"silu"``, ``"softplus"``.
        encoder: Your own module, x (N, *data_shape) → distribution over z with event shape (L,).
        decoder: Your own module, z (..., L) → distribution over x with event shape data_shape.

    Raises:
        ValueError: If neither ``data_shape`` nor both modules are given, or a decoder's output does not fit.

    Example:
        >>> vae = VAE(latent_dim=2, data_shape=(64,), likelihood=Gaussian(scale="shared"), hidden=(32,))
        >>> x, z = vae.sample(5)
        >>> x.shape, z.shape
        (torch.Size([5, 64]), torch.Size([5, 2]))

    Reference:
        Kingma and Welling (2014), Auto-encoding variational Bayes.
    """

    def __init__(
        self,
        latent_dim: int,
        data_shape: int | tuple[int, ...] | None = None,
        likelihood: Likelihood | None = None,
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        *,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not (isinstance(latent_dim, int) and latent_dim >= 1):
            raise ValueError(f"`latent_dim` must be a whole number of at least 1, got {latent_dim!r}.")
        if activation not in ACTIVATIONS:
            raise ValueError(f"`activation` must be one of {tuple(ACTIVATIONS)}, got {activation!r}.")
        if data_shape is None and (encoder is None or decoder is None):
            raise ValueError("`data_shape` must be given unless both `encoder` and `decoder` are, got None.")
        if decoder is not None and likelihood is not None:
            raise ValueError("`likelihood` must be left out when `decoder` is given, whose output is the likelihood.")
        shape = (data_shape,) if isinstance(data_shape, int) else data_shape
        likelihood = likelihood or Gaussian()
        self.latent_dim = latent_dim
        self._built = (encoder is None, decoder is None)
        if encoder is None:
            encoder = GaussianEncoder(cast(tuple, shape), latent_dim, hidden, ACTIVATIONS[activation])
        if decoder is None:
            widths = tuple(reversed(hidden))
            head = likelihood.head(widths[-1] if widths else latent_dim, cast(tuple, shape))
            decoder = MLPDecoder(latent_dim, head, widths, ACTIVATIONS[activation])
        self.model = VAEModel(decoder, latent_dim)
        self.guide = AmortizedGuide(encoder)
        output = self._describe_output()
        if shape is not None and output.event_shape != torch.Size(shape):
            raise ValueError(
                f"`decoder` must return a distribution of event shape {tuple(shape)}, got {tuple(output.event_shape)}; "
                "declare the data dimensions with .to_event()."
            )
        self.data_shape = tuple(output.event_shape)
        self.support = "boolean" if "Boolean" in type(_innermost(output.support)).__name__ else "real"
        if all(self._built):
            described = {"kind": type(likelihood).__name__, **asdict(likelihood)}
            self.config = {
                "latent_dim": latent_dim,
                "data_shape": list(self.data_shape),
                "likelihood": described,
                "hidden": list(hidden),
                "activation": activation,
            }

    @property
    def encoder(self) -> nn.Module:
        """x → q(z given x)."""
        return cast(nn.Module, self.guide.encoder)

    @property
    def decoder(self) -> nn.Module:
        """z → p(x given z)."""
        return cast(nn.Module, self.model.decoder)

    def initialize(self, x: Tensor) -> None:
        """Draw fresh weights for the networks built here, and start the decoder's output at the data.

        Modules of the user's own keep the parameters that they came with.
        """
        for module, built in zip((self.encoder, self.decoder), self._built, strict=True):
            if built:
                redraw_parameters(module)
        if self._built[1]:
            cast(Any, self.decoder).head.start_at(x)

    @torch.no_grad()
    def _describe_output(self) -> TorchDistribution:
        """What the decoder returns for two z, checked."""
        training = self.decoder.training
        like = next(self.decoder.parameters(), torch.zeros(()))
        try:
            output = self.decoder.eval()(torch.zeros(2, self.latent_dim, device=like.device, dtype=like.dtype))
        finally:
            self.decoder.train(training)
        if not isinstance(output, torch.distributions.Distribution):
            raise ValueError(f"`decoder` must return a distribution over x, got {type(output).__name__}.")
        if output.batch_shape != (2,):
            raise ValueError(
                f"`decoder` must return a distribution of batch shape (2,) for two z, got {tuple(output.batch_shape)}; "
                "declare the data dimensions with .to_event()."
            )
        return cast(TorchDistribution, output)


def _innermost(support: Any) -> Any:
    """The constraint on one number, from inside the wrapping of ``to_event``."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support
