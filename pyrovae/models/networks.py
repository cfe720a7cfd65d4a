"""Networks whose forward returns a distribution: encoder(x) over z, decoder(z) over x."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def mlp(widths: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of the given widths, each followed by the activation; a single width gives the identity."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers)


class GaussianEncoder(nn.Module):
    """q(z given x) = Normal(μ(x), diag σ(x)²) by a multilayer perceptron.

    Args:
        data_shape: Shape of one datum.
        latent_dim: L.
        hidden: Widths of the hidden layers.
        activation: Makes the activation after each hidden layer.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        hidden: Sequence[int] = (256, 256),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        widths = (math.prod(data_shape), *hidden)
        self.num_event_dims = len(data_shape)
        self.body = mlp(widths, activation)
        self.loc = nn.Linear(widths[-1], latent_dim)
        self.raw_scale = nn.Linear(widths[-1], latent_dim)

    def forward(self, x: Tensor) -> dist.Distribution:
        """x of shape (..., *data_shape) → distribution of batch shape (...), event shape (L,)."""
        h = self.body(x.flatten(-self.num_event_dims))
        return dist.Normal(self.loc(h), F.softplus(self.raw_scale(h)) + 1e-6).to_event(1)


class LinearGaussianEncoder(nn.Module):
    """q(z given x) = Normal(Ax + b, S) with one covariance for all data: the family of PPCA's exact posteriors.

    Args:
        num_dims: D.
        latent_dim: L.
    """

    def __init__(self, num_dims: int, latent_dim: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.loc = nn.Linear(num_dims, latent_dim, dtype=dtype)
        self.log_diagonal = nn.Parameter(torch.zeros(latent_dim, dtype=dtype))
        self.lower = nn.Parameter(torch.zeros(latent_dim, latent_dim, dtype=dtype))

    def forward(self, x: Tensor) -> dist.Distribution:
        """x of shape (..., D) → multivariate normal of batch shape (...), event shape (L,)."""
        scale_tril = self.lower.tril(-1) + self.log_diagonal.exp().diag()
        return dist.MultivariateNormal(self.loc(x), scale_tril=scale_tril, validate_args=False)  # valid as built

    @torch.no_grad()
    def start_at(self, weight: Tensor, mean: Tensor, precision_tril: Tensor, variance: Tensor) -> None:
        """Set q to the exact posterior of x ~ Normal(Wz + μ, σ²I), whose precision has this Cholesky factor."""
        covariance = torch.cholesky_inverse(precision_tril)
        scale_tril = torch.linalg.cholesky(covariance)
        gain = covariance @ weight.T / variance
        self.loc.weight.copy_(gain)
        self.loc.bias.copy_(-gain @ mean)
        self.log_diagonal.copy_(scale_tril.diagonal().log())
        self.lower.copy_(scale_tril.tril(-1))


class CategoricalEncoder(nn.Module):
    """q(z given x) = Categorical(softmax(f(x))) by a multilayer perceptron: amortized responsibilities.

    Args:
        data_shape: Shape of one datum.
        num_components: K.
        hidden: Widths of the hidden layers.
        activation: Makes the activation after each hidden layer.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        num_components: int,
        hidden: Sequence[int] = (64,),
        activation: Callable[[], nn.Module] = nn.ReLU,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        widths = (math.prod(data_shape), *hidden)
        self.num_event_dims = len(data_shape)
        self.body = mlp(widths, activation)
        self.logits = nn.Linear(widths[-1], num_components)
        self.to(dtype)

    def forward(self, x: Tensor) -> dist.Distribution:
        """x of shape (..., *data_shape) → categorical of batch shape (...)."""
        return dist.Categorical(logits=self.logits(self.body(x.flatten(-self.num_event_dims))))


class MLPDecoder(nn.Module):
    """p(x given z): a multilayer perceptron under the head of a likelihood.

    Args:
        latent_dim: L.
        head: Maps features (..., hidden[-1]) to a distribution over x; see :mod:`pyrovae.models.likelihoods`.
        hidden: Widths of the hidden layers; the encoder's in reverse order.
        activation: Makes the activation after each hidden layer.
    """

    def __init__(
        self,
        latent_dim: int,
        head: nn.Module,
        hidden: Sequence[int] = (256, 256),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.body = mlp((latent_dim, *hidden), activation)
        self.head = head

    def forward(self, z: Tensor) -> dist.Distribution:
        """z of shape (..., L) → distribution of batch shape (...), event shape data_shape."""
        return cast(dist.Distribution, self.head(self.body(z)))


def redraw_parameters(module: nn.Module) -> None:
    """Draw the weights of every layer afresh, as its constructor did, from torch's random state."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
