"""The variational autoencoder: p(x) = ∫ p(x|z) p(z) dz, with networks for p(x|z) and for q(z|x).

With classes it is the supervised, or conditional, one: p(x|y) = ∫ p(x|z, y) p(z) dz, and q(z|x, y).
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.data import Observations
from pyrovae.engine.checks import check_whole
from pyrovae.engine.isolation import evaluating
from pyrovae.engine.seeding import seeded
from pyrovae.models.architecture import DEFAULT_ACTIVATION, Architecture, Covariance, Network
from pyrovae.models.base import LatentVariableModel, Program
from pyrovae.models.convolutional import ConvDecoder, ConvEncoder
from pyrovae.models.distributions import Unflattened
from pyrovae.models.floors import RaisedFloor, noise_variances
from pyrovae.models.guides import AmortizedGuide
from pyrovae.models.latents import moments
from pyrovae.models.likelihoods import Gaussian, Head, Likelihood
from pyrovae.models.networks import GaussianEncoder, MLPDecoder, redraw_parameters
from pyrovae.models.outputs import checked_output, needs_rows, support_of, values_of
from pyrovae.models.parameters import Held

DECODED_FLOATS = 2**22  # numbers decoded at once where a sum over data is taken


class VAEModel(Program):
    """z ~ Normal(0, I);  x ~ decoder(z), which is the distribution p(x|z).

    A decoder that knows z (N, L) alone, as batch norm does, is shown particles as more data: ``by_rows``.
    """

    decoder: nn.Module
    prior_loc: Tensor
    prior_scale: Tensor

    def __init__(self, decoder: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.decoder, self.by_rows = decoder, False
        like = next(decoder.parameters(), torch.zeros(()))
        self.register_buffer("prior_loc", like.new_zeros(latent_dim), persistent=False)
        self.register_buffer("prior_scale", like.new_ones(latent_dim), persistent=False)

    def forward(self, x: Tensor | None = None, *, num_data: int = 1) -> Tensor:
        with pyro.plate("data", num_data if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.prior_loc, self.prior_scale).to_event(1))
            return pyro.sample("x", self.given(z), obs=x)

    def given(self, z: Tensor, *y: Tensor) -> Any:
        """p(x|z), the decoder's at z (..., L), of batch shape (...)."""
        if self.by_rows and z.ndim > 2:
            batch = z.shape[:-1]
            p = self.decoder(z.reshape(-1, z.shape[-1]), *(each.expand(batch).reshape(-1) for each in y))
            return Unflattened(p, batch)
        return self.decoder(z, *y)


# The guide is AmortizedGuide(encoder), of guides.py: z ~ q(z|x) = encoder(x), also a distribution.  The objective, the
# ELBO of the two, is Pyro's Trace_ELBO; fit.svi ascends it.


class ConditionalVAEModel(VAEModel):
    """z ~ Normal(0, I);  x ~ decoder(z, y), at given labels y, shape (N,)."""

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, *, num_data: int = 1) -> Tensor:
        y = _given_labels(y, None if x is None else len(x))
        with pyro.plate("data", len(y), dim=-1):
            z = pyro.sample("z", dist.Normal(self.prior_loc, self.prior_scale).to_event(1))
            return pyro.sample("x", self.given(z, y), obs=x)


class ConditionalGuide(AmortizedGuide):
    """z ~ q(z|x, y) = encoder(x, y)."""

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, *, num_data: int = 1) -> Tensor:
        if x is None:
            raise ValueError("`x` must be given to an amortized guide, got None; q(z|x, y) needs data.")
        y = _given_labels(y, len(x))
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.encoder(x, y))


def _given_labels(y: Tensor | None, num_data: int | None) -> Tensor:
    """The labels, which a conditional program cannot do without, as indices."""
    if y is None:
        raise ValueError("`y` must be given to a conditional model, got None; pass the labels after x, as in (x, y).")
    if y.is_floating_point():
        raise TypeError(f"`y` must be whole numbers, got {y.dtype}; convert the labels with y.long().")
    if y.ndim != 1 or num_data not in (None, len(y)):
        raise ValueError(f"`y` must have shape ({num_data or 'N'},), one label a datum, got {tuple(y.shape)}.")
    return y.long()


class VAE(LatentVariableModel):
    """Variational autoencoder: z ~ Normal(0, I), x ~ decoder(z); q(z|x) = encoder(x).

    With ``num_classes`` it is conditional on labels y: x ~ decoder(z, y), q(z|x, y) = encoder(x, y).  Its
    programs then take ``(x, y)``; data are Observations that carry labels; and every log p is log p(x|y).

    Args:
        latent_dim: L.
        data_shape: Shape of one datum; may be left out when ``decoder`` is given.
        likelihood: p(x|z) of the decoder built here: ``Gaussian(...)`` (the default), ``Bernoulli()``, or another of
            :mod:`pyrovae.models.likelihoods`.
        hidden: Widths of the encoder's hidden layers, channels of a convolutional one; the decoder has them in reverse.
            By default (256, 256), (256,) below 64 dimensions, and for convolutions 32, 64, … until a side is
            shorter than 8.
        activation: One of ``"relu"``, ``"tanh"``, ``"elu"``, ``"gelu"``, ``"silu"``, ``"softplus"``.
        network: ``"mlp"``, or ``"conv"`` for images, ``data_shape`` (channels, height, width).
        posterior: q: a Gaussian of ``"diag"`` or ``"full"`` covariance.
        num_classes: Number of classes K of labels 0, …, K − 1, or None for a model without labels.
        encoder: Your own module, x (N, *data_shape) → distribution over z with event shape (L,).
        decoder: Your own module, z (N, L) → distribution over x with event shape data_shape; particles come to it as
            more data.  With classes, both take labels y (N,) as a second argument.  Its covariance has no floor that
            this model knows.

    Raises:
        ValueError: If an argument is out of range, neither ``data_shape`` nor both modules are given, or the output of
            a module does not fit.

    Example:
        >>> vae = VAE(latent_dim=2, data_shape=(64,), likelihood=Gaussian(scale="shared"), hidden=(32,))
        >>> x, z = vae.sample(5)
        >>> x.shape, z.shape
        (torch.Size([5, 64]), torch.Size([5, 2]))
        >>> conditional = VAE(latent_dim=2, data_shape=(1, 28, 28), network="conv", num_classes=10)
        >>> threes, _ = conditional.sample_means(4, labels=3)
        >>> threes.shape
        torch.Size([4, 1, 28, 28])

    Reference:
        Kingma and Welling (2014), Auto-encoding variational Bayes; Sohn, Lee and Yan (2015), Learning structured output
        representation using deep conditional generative models.
    """

    model: VAEModel
    guide: AmortizedGuide
    takes_particles = True

    def __init__(
        self,
        latent_dim: int,
        data_shape: int | tuple[int, ...] | None = None,
        likelihood: Likelihood | None = None,
        hidden: Sequence[int] | None = None,
        activation: str = DEFAULT_ACTIVATION,
        *,
        network: Network = "mlp",
        posterior: Covariance = "diag",
        num_classes: int | None = None,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        shape = (data_shape,) if isinstance(data_shape, int) else tuple(data_shape or ())
        architecture = Architecture(latent_dim, shape, hidden, activation, network, posterior, num_classes)
        _check_parts(shape, likelihood, encoder, decoder)
        self.latent_dim, self.num_classes = latent_dim, num_classes
        self._built = (encoder is None, decoder is None)
        if encoder is None:
            encoder = (GaussianEncoder if network == "mlp" else ConvEncoder)(architecture)
        if decoder is None:
            likelihood = likelihood or Gaussian()
            decoder = (MLPDecoder if network == "mlp" else ConvDecoder)(architecture, likelihood)
            self.is_density, self.decoded_floats = likelihood.is_density, likelihood.decoded_floats(math.prod(shape))
            self.config = architecture.plain() if self._built[0] else None
            self.floor_is_given = getattr(likelihood, "floor", 0.0) is not None
            self._describe(likelihood)
        output = checked_output(encoder, decoder, latent_dim, shape, num_classes)  # lazy layers learn their sizes
        if num_classes is None:
            self.model, self.guide = VAEModel(decoder, latent_dim), AmortizedGuide(encoder)
        else:
            self.model, self.guide = ConditionalVAEModel(decoder, latent_dim), ConditionalGuide(encoder)
        self.model.by_rows = self._needs_rows()
        self.register_load_state_dict_post_hook(_describe_again)
        self.data_shape = tuple(output.event_shape)
        self._values = values_of(output)  # the constraint on one number
        self.support = support_of(self._values)

    def _needs_rows(self) -> bool:
        """Whether a decoder of the user's own knows z (N, L) alone."""
        return not self._built[1] and needs_rows(self.decoder, self.latent_dim, self.num_classes)

    def _describe(self, likelihood: Likelihood) -> None:
        """Record the likelihood of a decoder built here; its floor may come from data, or from a state."""
        self.covariance_floor = likelihood.covariance_floor
        if self.config is not None:
            described = {"kind": type(likelihood).__name__, **vars(likelihood)}
            self.config = {**self.config, "likelihood": described}

    @property
    def encoder(self) -> nn.Module:
        """x → q(z|x); with classes, (x, y) → q(z|x, y)."""
        return self.guide.encoder

    @property
    def decoder(self) -> nn.Module:
        """z → p(x|z); with classes, (z, y) → p(x|z, y)."""
        return self.model.decoder

    @property
    def _head(self) -> Any:
        """The last layer of a decoder built here, whose floor may have been raised; None of another."""
        return getattr(self.decoder.decoder if isinstance(self.decoder, RaisedFloor) else self.decoder, "head", None)

    def _floored_variances(self, data: Observations | Tensor) -> Tensor:
        inputs = self.program_inputs(data)
        blocks = _chunks(inputs, self.decoded_floats or inputs[0][0].numel())
        with evaluating(self), seeded(0), Held(self.guide.pyro_params):
            every_p = (self.decoder(moments(self.encoder(x, *y))[0], *y) for x, *y in blocks)
            return torch.cat([noise_variances(p) for p in every_p])

    def _lift(self, lower: Self, floor: float) -> None:
        """Clip the variances of p(x|z) at a higher floor; such a model cannot be saved."""
        self.model.decoder, self.config, self.floor_is_given = RaisedFloor(self.decoder, floor), None, True

    def initialize(self, x: Tensor) -> None:
        """Draw fresh weights for the networks built here, and start them at the data.

        The encoder then sees data in units of their deviations, and the decoder gives p(x|z) about their mean in such
        units; a floor that nobody gave follows their variance.  Modules of the user's own keep the parameters that they
        came with.
        """
        for module, built in zip((self.encoder, self.decoder), self._built, strict=True):
            if built:
                redraw_parameters(module)
        if self._built[1]:
            self._head.start_at(x)
            _describe_again(self)
        if self._built[0]:
            encoder: Any = self.encoder
            encoder.standardise.start_at(x, not self._built[1] or self._head.likelihood.each_has_unit)

    def as_input(self, data: Observations | Tensor, name: str = "x") -> Tensor:
        x = super().as_input(data, name)
        if not self._values.check(x).all():
            raise ValueError(
                f"`{name}` must hold only values of the likelihood's support, {self._values}, got values in "
                f"[{x.min().item():g}, {x.max().item():g}]; rescale the data, or choose another likelihood."
            )
        return x

    @torch.no_grad()
    def with_optimal_scale(self, data: Observations | Tensor, num_particles: int = 10, *, seed: int = 0) -> Self:
        """A copy whose shared or per-dimension σ² maximises the ELBO on these data, all other parameters as they are.

        The maximum has a closed form: σ² = E_q |x − μ(z)|² / D, averaged over the data, with the expectation over
        ``num_particles`` draws of z.  Per dimension it is E_q (x_d − μ_d(z))².  Neither goes below the floor.

        Args:
            data: Data to set it by, the training data.
            num_particles: Draws of z for each datum.
            seed: Of the draws.

        Returns:
            The copy.

        Raises:
            ValueError: If the likelihood is not ``Gaussian("shared")`` or ``Gaussian("per_dim")``, or the data do not
                fit.

        Example:
            >>> vae, x = VAE(latent_dim=1, data_shape=(3,), hidden=()), torch.zeros(10, 3)
            >>> vae.with_optimal_scale(x + vae.decoder(torch.zeros(1)).mean).decoder(torch.zeros(1)).stddev.shape
            torch.Size([3])

        Reference:
            Rybkin, Daniilidis and Levine (2021), Simple and effective VAE training with calibrated decoders.
        """
        tuned = self.copy()
        head = tuned._head
        likelihood = head.likelihood if isinstance(head, Head) else None
        if not (isinstance(likelihood, Gaussian) and likelihood.scale in ("shared", "per_dim")):
            raise ValueError(
                '`likelihood` must be Gaussian("shared") or Gaussian("per_dim") to have a closed-form σ, got '
                f"{'a decoder of your own' if self.config is None else self.config['likelihood']}."
            )
        check_whole("num_particles", num_particles)
        inputs = tuned.program_inputs(data)
        squares = torch.zeros(inputs[0][0].numel(), dtype=torch.float64, device=inputs[0].device)
        with evaluating(tuned), seeded(seed), Held(tuned.guide.pyro_params):
            for x, *y in _chunks(inputs, num_particles * len(squares)):
                z = tuned.encoder(x, *y).sample((num_particles,))
                errors = (x - tuned.decoder(z, *y).mean).double().square()
                squares = squares + errors.mean(0).flatten(1).sum(0)
        head.set(likelihood.with_variance(squares / len(inputs[0]), head.unit, 1e-6 * likelihood.least_variance))
        return tuned.eval()


def _describe_again(vae: VAE, keys: Any = None) -> None:
    """After a start or the load of a state, record the likelihood; a floor that was raised stays."""
    if vae._built[1] and not isinstance(vae.decoder, RaisedFloor):
        vae._describe(vae._head.likelihood)


def _check_parts(
    data_shape: tuple[int, ...], likelihood: Likelihood | None, encoder: nn.Module | None, decoder: nn.Module | None
) -> None:
    """Refuse parts of a VAE that do not go together."""
    if not data_shape and (encoder is None or decoder is None):
        raise ValueError("`data_shape` must be given unless both `encoder` and `decoder` are, got None.")
    if decoder is not None and likelihood is not None:
        raise ValueError("`likelihood` must be left out when `decoder` is given, whose output is the likelihood.")
    if not isinstance(likelihood, Likelihood | None):
        raise TypeError(
            f"`likelihood` must be a Likelihood, got {type(likelihood).__name__}; one of your own is a class derived "
            "from pyrovae.models.Likelihood."
        )


def _chunks(inputs: tuple[Tensor, ...], floats_per_datum: int) -> Iterator[tuple[Tensor, ...]]:
    """The inputs of a program, a few data at a time."""
    rows = max(1, DECODED_FLOATS // floats_per_datum)
    return zip(*(each.split(rows) for each in inputs), strict=True)
