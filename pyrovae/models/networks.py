"""Networks whose forward returns a distribution: encoder(x) over z, decoder(z) over x."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Independent
from torch.distributions.kl import register_kl
from torch.nn import functional as F

from pyrovae.models.architecture import Architecture
from pyrovae.models.likelihoods import Likelihood
from pyrovae.models.linear_algebra import log_det
from pyrovae.models.standardise import Standardise


def mlp(widths: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of the given widths, each followed by the activation; a single width gives the identity."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers)


def with_labels(features: Tensor, y: Tensor | None, num_classes: int | None) -> Tensor:
    """Features (..., F), with the one-hot code of labels y appended where there are classes: (..., F + K).

    Raises:
        ValueError: If there are classes and no labels, or the other way round.
    """
    if (y is None) != (num_classes is None):
        asked = "left out of a network without classes" if num_classes is None else "given to a conditional network"
        raise ValueError(f"`y` must be {asked}, got {'None' if y is None else tuple(y.shape)}; see `num_classes`.")
    if y is None or num_classes is None:
        return features
    code = F.one_hot(y, num_classes).to(features.dtype)
    return torch.cat([features, code.expand(*features.shape[:-1], num_classes)], dim=-1)


class GaussianPosterior(nn.Module):
    """The last layer of an encoder: features → q(z|x), a Gaussian.

    Args:
        num_features: Number of features.
        architecture: Its ``latent_dim`` and ``posterior``.
    """

    def __init__(self, num_features: int, architecture: Architecture) -> None:
        super().__init__()
        latent_dim, self.num_classes = architecture.latent_dim, architecture.num_classes
        self.loc = nn.Linear(num_features, latent_dim)
        self.raw_scale = nn.Linear(num_features, latent_dim)
        self.below_diagonal: nn.Linear | None = None
        if architecture.posterior == "full" and latent_dim > 1:
            self.below_diagonal = nn.Linear(num_features, latent_dim * (latent_dim - 1) // 2)

    def q(self, h: Tensor) -> dist.Distribution:
        """Features (..., F) → distribution of batch shape (...), event shape (L,)."""
        loc, scale = self.loc(h), F.softplus(self.raw_scale(h)) + 1e-6
        if self.below_diagonal is None:
            return dist.Normal(loc, scale).to_event(1)
        rows, columns = torch.tril_indices(loc.shape[-1], loc.shape[-1], -1, device=loc.device)
        scale_tril = scale.diag_embed()
        scale_tril[..., rows, columns] = self.below_diagonal(h)
        return FullNormal(loc, scale_tril=scale_tril, validate_args=False)  # valid as built


class FullNormal(dist.MultivariateNormal):
    """A multivariate normal whose KL from independent normals torch knows, so that ``TraceMeanField_ELBO`` takes it
    exactly, as it does that of a diagonal q."""


@register_kl(FullNormal, Independent)
def _kl_full_independent(q: FullNormal, p: Independent) -> Tensor:
    """½ Σ (diag Σ + (m − μ)²)/σ² − ½L + Σ log σ − ½ log|Σ|."""
    normal = p.base_dist
    if not isinstance(normal, torch.distributions.Normal) or p.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    squares = (q.variance + (q.loc - normal.loc).square()) / normal.variance
    return (0.5 * (squares - 1) + normal.scale.log()).sum(-1) - log_det(q.scale_tril)


class GaussianEncoder(GaussianPosterior):
    """q(z|x) = Normal(μ(x), Σ(x)) by a multilayer perceptron; with classes, q(z|x, y).

    Args:
        architecture: Widths, activation, shapes and covariance.

    Example:
        >>> GaussianEncoder(Architecture(latent_dim=2, data_shape=(6,), hidden=(8,)))(torch.zeros(5, 6)).event_shape
        torch.Size([2])
    """

    def __init__(self, architecture: Architecture) -> None:
        widths = (math.prod(architecture.data_shape) + architecture.num_labels, *architecture.widths)
        super().__init__(widths[-1], architecture)
        self.num_event_dims = len(architecture.data_shape)
        self.standardise = Standardise(architecture.data_shape)
        self.body = mlp(widths, architecture.activate)

    def forward(self, x: Tensor, y: Tensor | None = None) -> dist.Distribution:
        """x of shape (..., *data_shape) → distribution of batch shape (...), event shape (L,)."""
        flat = self.standardise(x).flatten(-self.num_event_dims)
        return self.q(self.body(with_labels(flat, y, self.num_classes)))


class LinearGaussianEncoder(nn.Module):
    """q(z|x) = Normal(Ax + b, S) with one covariance for all data: the family of PPCA's exact posteriors.

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
    """q(z|x) = Categorical(softmax(f(x))) by a multilayer perceptron: amortized responsibilities.

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
    """p(x|z): a multilayer perceptron under the head of a likelihood; with classes, p(x|z, y).

    Args:
        architecture: Widths (the encoder's in reverse order), activation and shapes.
        likelihood: p(x|z).
    """

    def __init__(self, architecture: Architecture, likelihood: Likelihood) -> None:
        super().__init__()
        self.num_classes = architecture.num_classes
        widths = (architecture.latent_dim + architecture.num_labels, *architecture.widths[::-1])
        head = likelihood.head(widths[-1], architecture.data_shape)
        self.body = mlp(widths, architecture.activate)
        self.head = head

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        """z of shape (..., L) → distribution of batch shape (...), event shape data_shape."""
        return self.head(self.body(with_labels(z, y, self.num_classes)))


def redraw_parameters(module: nn.Module) -> None:
    """Draw the weights of every layer afresh, as its constructor did, from torch's random state."""
    layer: Any
    for layer in module.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
