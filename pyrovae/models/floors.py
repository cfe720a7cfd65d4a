"""Where variances lie at their floor ε, where that makes a fit degenerate, and p(x|z) under a higher floor.

A variance is at the floor if it is at most a tenth above it: what it would be without the floor, nobody knows, and an
optimiser may stop just above.  Whatever counts such variances says so.  A fit
is degenerate where a variance would be far below the floor, or is the floor but for rounding, though the data vary by
much more.
"""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal, Normal

from pyrovae.models.distributions import Reshaped
from pyrovae.models.linear_algebra import chunk_rows

FLOOR = 4e-3  # of a covariance or a decoder's variance where nobody chose, relative to the mean variance of a dimension
NOISE_FLOOR = 1e-6  # of the noise of linear models, relative too
ROUNDING = 1e-15  # of the size of data: a deviation that is none
# All of them times ε:
AT_FLOOR = 1.1  # up to here a variance is at the floor
ON_FLOOR = 1.001  # up to here it is the floor itself, but for rounding
FAR_BELOW = 0.1  # below it, data are so flat that their likelihood comes from the floor
VARIES = 10.0  # data that vary by more than this have no need of the floor


def relative_floor(x: Tensor, relative: float, weight: Tensor | None = None) -> float:
    """So many times the mean variance of a dimension of data (N, ...), to two digits, so that a reported floor is ε.

    Each datum counts for ``weight`` (N,).  Data that do not vary are taken to have a variance of 1.
    """
    return two_digits(relative * mean_variance(x, weight))


def two_digits(floor: float) -> float:
    """A floor as it is reported."""
    return float(f"{floor:.1e}")


def mean_variance(x: Tensor, weight: Tensor | None = None) -> float:
    """The mean over dimensions of the variance of data (N, ...), or 1 if none varies; NaN is a value not observed."""
    mean, _ = _moments(x.flatten(1), weight, torch.zeros((), dtype=torch.float64, device=x.device))
    _, variance = _moments(x.flatten(1), weight, mean)
    return variance_or_one(variance.mean().item(), mean)


def variance_or_one(variance: float, mean: Tensor) -> float:
    """A mean variance, or 1 where it is that of rounding, about means (D,)."""
    return variance if variance > ROUNDING**2 * mean.double().square().mean().item() else 1.0


def _moments(x: Tensor, weight: Tensor | None, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Means of x − shift and of its squares over data (N, D), (D,) each, in float64; chunk by chunk."""
    chunks = x.split(chunk_rows(4 * x.shape[1], 1, x.device))
    weights = [None] * len(chunks) if weight is None else weight.double().split(len(chunks[0]))
    sums = torch.zeros(3, x.shape[1], dtype=torch.float64, device=x.device)
    for chunk, each in zip(chunks, weights, strict=True):
        deviations = chunk.double() - shift
        mass = (~deviations.isnan()).double() if each is None else ~deviations.isnan() * each[:, None]
        counted = deviations.nan_to_num_() * mass
        sums += torch.stack([mass.sum(0), counted.sum(0), (counted * deviations).sum(0)])
    mass, first, second = sums
    mass = mass.clamp_min(1e-300)
    return first / mass, second / mass


def degenerate(variance: Tensor, limit: float, whole: Tensor, floor: float) -> Tensor:
    """Whether a variance is within so many floors, though all data vary by much more."""
    return (variance <= limit * floor) & (whole > VARIES * floor)


def share_at_floor(variances: Tensor, floor: float) -> Tensor:
    """The share of the last dimension that is at the floor, up to 1.1 ε, shape (...)."""
    return (variances <= AT_FLOOR * floor).double().mean(-1)


def noise_variances(p: Any) -> Tensor:
    """The D variances of Gaussian noise that a floor binds, (..., D): of its dimensions or, full, its eigenvalues."""
    match p:
        case Reshaped():
            return noise_variances(p.vectors)
        case Independent(base_dist=Normal()):
            return p.variance.flatten(-len(p.event_shape))
        case LowRankMultivariateNormal():
            return p.cov_diag
        case MultivariateNormal():
            return torch.linalg.eigvalsh(p.covariance_matrix)
    raise TypeError(f"`p` must be Gaussian to have a covariance, got {type(p).__name__}.")


def raised(p: Any, floor: float) -> Any:
    """The same Gaussian with each of those variances lifted to the floor."""
    match p:
        case Reshaped():
            return Reshaped(raised(p.vectors, floor), tuple(p.event_shape))
        case Independent(base_dist=Normal()):
            scale = p.stddev.clamp_min(floor**0.5)
            return dist.Normal(p.mean, scale).to_event(len(p.event_shape))
        case LowRankMultivariateNormal():
            return dist.LowRankMultivariateNormal(p.loc, p.cov_factor, p.cov_diag.clamp_min(floor))
        case MultivariateNormal():
            return dist.MultivariateNormal(p.loc, clipped(p.covariance_matrix, floor))
    raise TypeError(f"`p` must be Gaussian to have a covariance, got {type(p).__name__}.")


def clipped(covariance: Tensor, floor: float) -> Tensor:
    """The covariances (..., D, D) with their eigenvalues lifted to the floor."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(floor).unsqueeze(-2)) @ vectors.mT


def shrunk(weight: Tensor, noise: Tensor, higher_noise: Tensor) -> Tensor:
    """The W' (..., D, L) for which W'W'ᵀ + σ'²I is WWᵀ + σ²I with its eigenvalues lifted to σ'² ≥ σ².

    Args:
        weight: W, shape (..., D, L).
        noise, higher_noise: σ² and σ'², shape (...).
    """
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    excess = s.square() + (noise - higher_noise)[..., None]
    return (u * excess.clamp_min(0).sqrt().unsqueeze(-2)) @ vh


class RaisedFloor(nn.Module):
    """A decoder under a higher floor: p(x|z) is Gaussian, with no variance below it."""

    def __init__(self, decoder: nn.Module, floor: float) -> None:
        super().__init__()
        self.decoder, self.floor = decoder, floor

    def forward(self, *inputs: Tensor) -> Any:
        return raised(self.decoder(*inputs), self.floor)
