"""Where the fit of a mixture starts: centres by k-means++, or given, and a few steps of Lloyd's algorithm."""

import torch
from torch import Tensor

from pyrovae.models.linear_algebra import chunk_rows, first_largest

STARTS = ("k-means++", "random")
START_STEPS = 10  # of Lloyd's algorithm, after the centres are drawn


def checked_start(start: str | Tensor, num_centres: int, num_dims: int) -> str | Tensor:
    """A way to start, or centres (K, D) as a tensor.

    Raises:
        ValueError: If it is neither.
    """
    start = start if isinstance(start, str) else torch.as_tensor(start)
    if not (start in STARTS if isinstance(start, str) else start.shape == (num_centres, num_dims)):
        given = repr(start) if isinstance(start, str) else f"a tensor of shape {tuple(start.shape)}"
        raise ValueError(f"`start` must be one of {STARTS} or means of shape {(num_centres, num_dims)}, got {given}.")
    return start


def start_clusters(x: Tensor, weight: Tensor, num_centres: int, start: str | Tensor) -> tuple[Tensor, Tensor]:
    """Centres (K, D) after a few steps of Lloyd's algorithm, and the nearest of them for each datum (N,).

    Args:
        x: Data (N, D), nothing missing.
        weight: What each datum counts for, (N,).
        num_centres: K.
        start: ``"k-means++"``, ``"random"`` (data drawn uniformly), or the centres themselves, which then stay.

    Raises:
        ValueError: If there are fewer data than centres.

    Reference:
        Arthur and Vassilvitskii (2007), k-means++: the advantages of careful seeding.
    """
    if (weight > 0).sum() < num_centres:
        raise ValueError(
            f"`num_components` must be at most the number of data, {int((weight > 0).sum())}, got {num_centres}; "
            "ask for fewer, or give more data of positive weight (or a larger `memory_budget`)."
        )
    if isinstance(start, Tensor):
        centres = start.to(x)
        return centres, _nearest(x, centres)
    centres = x[_draw(weight, num_centres if start == "random" else 1)]
    squared = (x - centres[0]).square().sum(1)
    for _ in range(num_centres - len(centres)):
        probabilities = squared * weight
        chosen = x[_draw(probabilities if probabilities.sum() > 0 else weight, 1)]
        squared = torch.minimum(squared, (x - chosen).square().sum(1))
        centres = torch.cat([centres, chosen])
    for _ in range(START_STEPS):
        nearest = _nearest(x, centres)
        mass = torch.zeros_like(centres[:, :1]).index_add_(0, nearest, weight[:, None])
        sums = torch.zeros_like(centres).index_add_(0, nearest, x * weight[:, None])
        centres = torch.where(mass > 0, sums / mass.clamp_min(torch.finfo(x.dtype).tiny), centres)
    return centres, _nearest(x, centres)


def _draw(probabilities: Tensor, number: int) -> Tensor:
    """Indices drawn by their probabilities, of 2²⁴ or more (where torch.multinomial ends) with replacement."""
    if len(probabilities) < 2**24:
        return torch.multinomial(probabilities, number)
    uniform = torch.rand(number, dtype=torch.float64, device=probabilities.device)
    cumulative = probabilities.double().cumsum(0)
    return torch.searchsorted(cumulative, uniform * cumulative[-1]).clamp_max(len(probabilities) - 1)


def _nearest(x: Tensor, centres: Tensor) -> Tensor:
    """Index of the nearest centre, shape (N,); of equally near ones, to rounding, the first."""
    rows = chunk_rows(len(centres) + x.shape[1], 1, x.device)
    return torch.cat([first_largest(-torch.cdist(chunk, centres), 1) for chunk in x.split(rows)])
