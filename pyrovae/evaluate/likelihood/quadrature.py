"""log p(x) by quadrature over z, and p(z|x) on a grid: ground truth for any decoder, with one latent or two.

The rule is the trapezoid's: for a smooth integrand that has died out at both ends its error falls faster than any power
of the spacing, so that doubling the nodes soon shows whether a value is stable.  (A decoder with ReLU has kinks: there
the error only falls by two digits with every tenfold number of nodes along an axis.)
"""

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrovae.data import Observations
from pyrovae.engine.checks import check_positive, check_whole
from pyrovae.engine.isolation import evaluating
from pyrovae.engine.seeding import seeded
from pyrovae.evaluate.evaluation import Evaluation
from pyrovae.evaluate.likelihood.joint import Joint
from pyrovae.evaluate.likelihood.plates import check_likelihood, plates_of
from pyrovae.evaluate.likelihood.tiles import Tiles
from pyrovae.models.base import LatentVariableModel

LOOK_NODES = {1: 513, 2: 65}  # along an axis, when looking for where the posterior is
FIRST_NODES = {1: 33, 2: 17}
NEGLIGIBLE = 37.0  # nats below the largest: e^−37 is below rounding
LOWEST = -1e30  # in place of log 0, which has no steepness
PRIOR_DRAWS = 4096
REACH = 10.0  # standard deviations of the prior in the first look, to either side
MOST_LOOKS = 30
FITS = 0.8  # a box that a look narrows to no less than this fits
NODES_AT_ONCE = 2**21


@dataclass(frozen=True, eq=False)
class Quadrature:
    """log p(x) by quadrature, and where in z the posterior of each datum lies.

    Attributes:
        values: log p(x), shape (N,), nats.
        error: What the last doubling of the nodes changed, shape (N,), nats; the error is about that or less.
        num_nodes: Nodes along each axis in the last rule, shape (N,).
        low, high: The box that holds the posterior, but for a share of about e^−37, shape (N, L).
    """

    values: Tensor
    error: Tensor
    num_nodes: Tensor
    low: Tensor
    high: Tensor

    @property
    def mean(self) -> float:
        """Mean log p(x), nats per datum."""
        return self.values.mean().item()

    @property
    def meaning(self) -> str:
        """One sentence on what ``values`` are."""
        return (
            f"log p(x) by quadrature, whose last doubling of the nodes changed no value by over {self.error.max():.1g}."
        )


@dataclass(frozen=True, eq=False)
class PosteriorGrid:
    """The normalised density p(z|x) of every datum on a grid of its own.

    Attributes:
        z: The nodes, shape (G, ..., G, N, L): the first index moves the first latent.
        log_density: log p(z|x), shape (G, ..., G, N), nats.
    """

    z: Tensor
    log_density: Tensor


def quadrature(
    model: LatentVariableModel,
    data: Observations | Tensor,
    *,
    tolerance: float = 1e-6,
    max_nodes: int = 2**17,
    chunk_size: int | None = None,
) -> Quadrature:
    """log p(x) = log ∫ p(x|z) p(z) dz for a model of one or two latents, by a rule doubled until it is stable.

    First it finds a box that holds the integrand: a grid over what the prior reaches is widened while there is mass at
    its edge, then narrowed to the nodes near which there can be mass, judged by the node itself and by how steep the
    integrand is there.  A separate mode that is much narrower than the spacing of this grid may be missed.

    Args:
        model: Any model with continuous latents, one number or two in all.
        data: N data.
        tolerance: Nats: the nodes are doubled until that changes no value by more, or by no more than its rounding.
        max_nodes: Most nodes for one datum.
        chunk_size: (node, datum) pairs decoded at once; bounds the memory.

    Returns:
        The values, with what the last doubling changed.

    Warns:
        RuntimeWarning: If some value is not stable at ``max_nodes``; see its ``error``.

    Raises:
        ValueError: If the model has more than two latents, or discrete ones, or an argument is out of range.

    Example:
        >>> from pyrovae import PPCA
        >>> ppca, x = PPCA(latent_dim=2, data_shape=(5,)), torch.zeros(3, 5, dtype=torch.float64)
        >>> bool((quadrature(ppca, x).values - ppca.log_prob(x)).abs().max() < 1e-10)
        True

    Reference:
        Trefethen and Weideman (2014), The exponentially convergent trapezoidal rule.
    """
    check_positive("tolerance", tolerance)
    check_whole("max_nodes", max_nodes)
    with torch.no_grad(), evaluating(model), seeded(0):
        joint = _joint(model, data, chunk_size)
        result = _doubled(joint, *_boxes(joint), tolerance, max_nodes)
    unstable = _unstable(result.values, result.error, result.low.dtype, tolerance)
    if unstable.any():
        warnings.warn(
            f"{int(unstable.sum())} of {len(unstable)} values are not stable to {tolerance:g} nats at `max_nodes` = "
            f"{max_nodes}: the last doubling changed one by {result.error.max():.2g}; raise either.",
            RuntimeWarning,
            stacklevel=2,
        )
    return result


def posterior_grid(
    model: LatentVariableModel,
    data: Observations | Tensor,
    num_nodes: int = 101,
    *,
    tolerance: float = 1e-4,
    low: Tensor | None = None,
    high: Tensor | None = None,
    chunk_size: int | None = None,
) -> PosteriorGrid:
    """p(z|x) of every datum on a grid, normalised by :func:`quadrature`.

    Args:
        model: As for :func:`quadrature`.
        data: N data.
        num_nodes: G, along each axis.
        tolerance: Of log p(x), which normalises.
        low, high: Corners of the grids, shape (N, L) or (L,); by default of the boxes that hold the posteriors.
        chunk_size: As for :func:`quadrature`.

    Returns:
        The nodes, and the log-densities at them.

    Raises:
        ValueError: As :func:`quadrature`.
    """
    check_whole("num_nodes", num_nodes, 2)
    whole = quadrature(model, data, tolerance=tolerance, chunk_size=chunk_size)
    low, high = (
        own if given is None else given.to(own).expand_as(own) for own, given in ((whole.low, low), (whole.high, high))
    )
    z = _grid(low, high, num_nodes)
    with torch.no_grad(), evaluating(model), seeded(0):
        log_joint = _joint(model, data, chunk_size).log_prob(z)
    shape = (num_nodes,) * z.shape[-1]
    return PosteriorGrid(z.unflatten(0, shape), (log_joint - whole.values).unflatten(0, shape))


def _joint(model: LatentVariableModel, data: Observations | Tensor, chunk_size: int | None) -> Joint:
    run = Evaluation(model, data, chunk_size=chunk_size)
    plates = plates_of(run, model.model)
    check_likelihood(plates)
    joint = Joint(model.model, run.inputs, Tiles.of(run), plates)
    if joint.latent_dim > 2:
        raise ValueError(
            f"`model` must have one latent or two for quadrature, got {joint.latent_dim}; use evaluate.ais for more."
        )
    return joint


def _grid(low: Tensor, high: Tensor, num_nodes: int) -> Tensor:
    """The nodes (G^L, n, L) of every datum's grid over its box, the last latent moving fastest."""
    steps = torch.linspace(0, 1, num_nodes, dtype=low.dtype, device=low.device)
    shares = torch.cartesian_prod(*[steps] * low.shape[-1]).reshape(-1, 1, low.shape[-1])
    return low + (high - low) * shares


def _boxes(joint: Joint) -> tuple[Tensor, Tensor]:
    """The corners (N, L) of a box for each datum that holds its posterior."""
    prior = joint[:1].draw(joint.program, PRIOR_DRAWS)[:, 0]
    centre, reach = prior.mean(0), REACH * prior.std(0)
    rows = NODES_AT_ONCE // LOOK_NODES[joint.latent_dim] ** joint.latent_dim
    parts = [joint[start : start + rows] for start in range(0, len(joint), rows)]
    boxes = [_fitting(part, *((centre + side).expand(len(part), -1) for side in (-reach, reach))) for part in parts]
    lows, highs = zip(*boxes, strict=True)
    return torch.cat(lows), torch.cat(highs)


def _fitting(joint: Joint, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (n, L), widened and narrowed until they fit."""
    num_latents = joint.latent_dim
    num_nodes = LOOK_NODES[num_latents]
    for _ in range(MOST_LOOKS):
        log_joint = joint.log_prob(_grid(low, high, num_nodes)).nan_to_num(nan=-torch.inf).clamp_min(LOWEST)
        height = log_joint.unflatten(0, (num_nodes,) * num_latents)
        kept = height + _steepness(height) > log_joint.amax(0) - NEGLIGIBLE
        spacing, ends = (high - low) / (num_nodes - 1), []
        for axis in range(num_latents):
            others = [other for other in range(num_latents) if other != axis]
            along = (kept.any(others[0]) if others else kept).int()  # (G, n)
            ends.append((along.argmax(0), num_nodes - 1 - along.flip(0).argmax(0)))
        first, last = (torch.stack(side, dim=-1) for side in zip(*ends, strict=True))
        wider = (high - low) / 2
        new_low = torch.where(first == 0, low - wider, low + (first - 1) * spacing)
        new_high = torch.where(last == num_nodes - 1, high + wider, low + (last + 1) * spacing)
        fits = (new_high - new_low >= FITS * (high - low)) & (first > 0) & (last < num_nodes - 1)
        low, high = new_low, new_high
        if fits.all():
            break
    return low, high


def _steepness(height: Tensor) -> Tensor:
    """The largest step from each node of a grid (G, ..., n) to a neighbour along an axis."""
    steepest = torch.zeros_like(height)
    for axis in range(height.ndim - 1):
        steps = height.diff(dim=axis).abs()
        edge = torch.zeros_like(height.narrow(axis, 0, 1))
        steepest = torch.maximum(steepest, torch.cat([edge, steps], axis))
        steepest = torch.maximum(steepest, torch.cat([steps, edge], axis))
    return steepest


def _doubled(joint: Joint, low: Tensor, high: Tensor, tolerance: float, max_nodes: int) -> Quadrature:
    """The trapezoidal rule in each box, with twice the nodes along each axis until the value is stable."""
    num_data, num_latents = low.shape
    values = torch.full((num_data,), -math.inf, dtype=torch.float64, device=low.device)
    error, used = torch.full_like(values, math.inf), torch.zeros_like(values, dtype=torch.long)
    active, nodes = torch.arange(num_data, device=low.device), FIRST_NODES[num_latents]
    while len(active) and nodes**num_latents <= max_nodes:
        for part in active.split(max(1, NODES_AT_ONCE // nodes**num_latents)):
            log_joint = joint[part].log_prob(_grid(low[part], high[part], nodes)).double()
            spacing = (high[part] - low[part]).double() / (nodes - 1)
            value = log_joint.logsumexp(0) + spacing.log().sum(-1)
            error[part] = (value - values[part]).abs()
            values[part], used[part] = value, nodes
        active = active[_unstable(values[active], error[active], low.dtype, tolerance)]
        nodes = 2 * nodes - 1
    return Quadrature(values, error, used, low, high)


def _unstable(values: Tensor, error: Tensor, dtype: torch.dtype, tolerance: float) -> Tensor:
    """Which values the last doubling changed by more than the tolerance and more than their rounding."""
    return error > (64 * torch.finfo(dtype).eps * values.abs()).clamp_min(tolerance)
