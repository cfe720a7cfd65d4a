"""The same variational autoencoders by others: each an object whose ``epoch()`` trains once over the data.

All take Bernoulli decoders, a standard normal prior, Adam and batches in random order; ``resample`` binarizes grey data
afresh at every step.  ``epoch()`` returns the mean loss, nats per datum.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import ELBO, SVI, Trace_ELBO
from torch import Tensor, nn
from torch.nn import functional as F

from pyrovae import VAE, Bernoulli, Execution
from pyrovae.data import Observations
from pyrovae.fit.feed import InMemory
from pyrovae.fit.starts import Plan, Run
from pyrovae.fit.svi import train_epoch

BATCH, LR = 128, 1e-3


def dense_layers(data_dim: int, hidden: Sequence[int], latent_dim: int) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder as a pair of perceptrons: x → (μ, raw σ), z → logits."""

    def perceptron(*widths: int) -> nn.Sequential:
        layers = [layer for pair in itertools.pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
        return nn.Sequential(*layers[:-1])

    return perceptron(data_dim, *hidden, 2 * latent_dim), perceptron(latent_dim, *reversed(hidden), data_dim)


class BiasPerPixel(nn.Module):
    """Adds a bias to every number of an image."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, images: Tensor) -> Tensor:
        return images + self.bias


def image_layers(shape: tuple[int, ...], channels: Sequence[int], latent_dim: int) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of convolutions that halve and double an image, as ``VAE(network="conv")`` has them."""
    side = shape[1] // 2 ** len(channels)
    smallest = (channels[-1], side, side)
    down: list[nn.Module] = []
    for pair in itertools.pairwise((shape[0], *channels)):
        down += [nn.Conv2d(*pair, kernel_size=4, stride=2, padding=1), nn.ReLU()]
    features = channels[-1] * side * side
    up: list[nn.Module] = [nn.Linear(latent_dim, features), nn.Unflatten(1, smallest)]
    for pair in itertools.pairwise((*reversed(channels), shape[0])):
        last = pair[1] == shape[0]
        up += [nn.ReLU(), nn.ConvTranspose2d(*pair, kernel_size=4, stride=2, padding=1, bias=not last)]
    encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(features, 2 * latent_dim))
    return encoder, nn.Sequential(*up, BiasPerPixel(shape))


class ByHand:
    """A loop as one writes it in PyTorch: the KL in closed form, binary cross-entropy, a fused Adam."""

    def __init__(self, x: Tensor, layers: tuple[nn.Module, nn.Module], resample: bool, compiled: bool = False) -> None:
        self.x, self.resample = x, resample
        self.encoder, self.decoder = layers
        parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=LR, fused=True)
        self.loss = torch.compile(self._loss) if compiled else self._loss

    def _loss(self, x: Tensor) -> Tensor:
        if self.resample:
            x = torch.bernoulli(x)
        loc, raw = self.encoder(x).chunk(2, -1)
        scale = F.softplus(raw) + 1e-6
        logits = self.decoder(loc + scale * torch.randn_like(scale))
        kl = 0.5 * (loc.square() + scale.square() - 1).sum() - scale.log().sum()
        return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl

    def epoch(self) -> float:
        total = 0.0
        for index in torch.randperm(len(self.x)).split(BATCH):
            self.optimizer.zero_grad()
            loss = self.loss(self.x[index])
            (loss / len(index)).backward()
            self.optimizer.step()
            total += loss.item()
        return total / len(self.x)


class PyroSVI:
    """Pyro's own recipe: ``pyro.module`` in model and guide, ``SVI`` with Pyro's Adam."""

    def __init__(self, x: Tensor, layers: tuple[nn.Module, nn.Module], resample: bool, latent_dim: int) -> None:
        self.x, self.resample = x, resample
        encoder, decoder = layers

        def model(x: Tensor) -> None:
            pyro.module("decoder", decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), latent_dim), 1.0).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=decoder(z), validate_args=False).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            pyro.module("encoder", encoder)
            loc, raw = encoder(x).chunk(2, -1)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc, F.softplus(raw) + 1e-6).to_event(1))

        self.svi = SVI(model, guide, pyro.optim.Adam({"lr": LR}), Trace_ELBO())

    def epoch(self) -> float:
        total = 0.0
        for index in torch.randperm(len(self.x)).split(BATCH):
            x = self.x[index]
            total += self.svi.step(torch.bernoulli(x) if self.resample else x)
        return total / len(self.x)


class Ours:
    """An epoch inside of ``fit.svi``, without its start and end."""

    def __init__(
        self, vae: VAE, x: Tensor, resample: bool, compile: Any, elbo: ELBO | None = None, schedule: str = "cosine"
    ) -> None:
        feed, how = InMemory(vae, Observations(x, resample=resample)), Execution(compile=compile)
        num_steps = 1000 * math.ceil(len(x) / BATCH)
        self.run = Run(Plan(vae, feed, (), num_steps, BATCH, LR, schedule, None, elbo, {}, execution=how))
        self.vae = self.run.state.model

    def epoch(self) -> float:
        with pyro.get_param_store().scope():
            train_epoch(self.run, is_due=False)
        return -self.run.state.elbo


class NumPyro:
    """NumPyro's SVI, an epoch in one ``lax.scan``, data and permutation on the device."""

    def __init__(self, x: Tensor, hidden: Sequence[int], latent_dim: int, resample: bool) -> None:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as npdist
        from numpyro.infer import SVI as NumPyroSVI, Trace_ELBO as NumPyroELBO

        data_dim = x.shape[1]
        self.x = jnp.asarray(x.numpy())
        num_batches = len(x) // BATCH  # scan takes whole batches alone

        def perceptron(name: str, h: Any, widths: Sequence[int]) -> Any:
            for layer, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
                bound = n_in**-0.5
                weight = numpyro.param(
                    f"{name}.{layer}.weight",
                    lambda key, shape=(n_in, n_out), bound=bound: jax.random.uniform(
                        key, shape, minval=-bound, maxval=bound
                    ),
                )
                h = h @ weight + numpyro.param(f"{name}.{layer}.bias", jnp.zeros(n_out))
                h = jax.nn.relu(h) if layer < len(widths) - 2 else h
            return h

        def model(x: Any) -> None:
            with numpyro.plate("data", len(x)):
                z = numpyro.sample("z", npdist.Normal(jnp.zeros(latent_dim), 1.0).to_event(1))
                logits = perceptron("decoder", z, (latent_dim, *reversed(hidden), data_dim))
                numpyro.sample("x", npdist.Bernoulli(logits=logits).to_event(1), obs=x)

        def guide(x: Any) -> None:
            loc, raw = jnp.split(perceptron("encoder", x, (data_dim, *hidden, 2 * latent_dim)), 2, axis=-1)
            with numpyro.plate("data", len(x)):
                numpyro.sample("z", npdist.Normal(loc, jax.nn.softplus(raw) + 1e-6).to_event(1))

        svi = NumPyroSVI(model, guide, numpyro.optim.Adam(LR), NumPyroELBO())
        self.state = svi.init(jax.random.PRNGKey(0), self.x[:BATCH])

        @jax.jit
        def epoch(state: Any, key: Any, x: Any) -> Any:
            key_order, key_draws = jax.random.split(key)
            rows = jax.random.permutation(key_order, len(x))[: num_batches * BATCH].reshape(num_batches, BATCH)
            keys = jax.random.split(key_draws, num_batches)

            def step(state: Any, inputs: Any) -> Any:
                index, key = inputs
                batch = x[index]
                if resample:
                    batch = jax.random.bernoulli(key, batch).astype(batch.dtype)
                return svi.update(state, batch)

            state, losses = jax.lax.scan(step, state, (rows, keys))
            return state, losses.sum() / (num_batches * BATCH)

        self._epoch = epoch
        self.keys = (jax.random.PRNGKey(number) for number in itertools.count(1))

    def epoch(self) -> float:
        self.state, loss = self._epoch(self.state, next(self.keys), self.x)
        return float(np.asarray(loss))


def vae_like(layers: tuple[nn.Module, nn.Module], vae: VAE) -> VAE:
    """Our model, after a check that it is of the size of the layers."""
    ours = sum(each.numel() for each in vae.parameters())
    theirs = sum(each.numel() for module in layers for each in module.parameters())
    if ours != theirs:
        raise ValueError(f"the networks differ: {ours} parameters here, {theirs} there.")
    return vae


def perceptrons(hidden: Sequence[int] = (400,), latent_dim: int = 20, data_dim: int = 784) -> VAE:
    """784-400-20 by default."""
    return vae_like(
        dense_layers(data_dim, hidden, latent_dim),
        VAE(latent_dim, data_dim, Bernoulli(), hidden=tuple(hidden), activation="relu"),
    )


def falls(peer: Any, name: str) -> Callable[[], object]:
    """The peer's epoch, after a check that it trains."""
    losses = [peer.epoch() for _ in range(3)]
    if not losses[2] < losses[0]:
        raise RuntimeError(f"{name} does not train: its losses are {losses}.")
    return peer.epoch
