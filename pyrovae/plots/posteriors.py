"""What p(z|x) looks like, beside what q makes of it."""

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import constraints

from pyrovae.data import Observations, as_observations
from pyrovae.engine.checks import check_whole
from pyrovae.evaluate.latents.encoding import encode, posteriors
from pyrovae.evaluate.likelihood.quadrature import PosteriorGrid, posterior_grid
from pyrovae.models.base import LatentVariableModel, Program
from pyrovae.models.outputs import values_of
from pyrovae.plots.common import COLOURS, NORMAL, grid, headline, label

MASSES = (0.95, 0.68, 0.3)  # inside the contours, outermost first
DEPTHS = (0.2, 0.4, 0.6)  # of their fill
MARGIN = 0.08
COARSE_NODES = 101  # of the grid that finds what there is to see
EXACT, GUIDE = COLOURS[0], COLOURS[1]


def posterior_contours(
    model: LatentVariableModel,
    data: Observations | Tensor,
    *,
    guide: Program | None = None,
    num_nodes: int = 151,
    most: int = 6,
    tolerance: float = 1e-4,
) -> Figure:
    """p(z|x) by quadrature, filled, and the guide's q(z|x), dashed, one panel a datum.

    With two latents, regions of highest density that hold 30, 68 and 95% of the mass of either; with one, the
    densities. Both are seen over the part of z where the posterior or q has its mass.

    Args:
        model: A model of one latent or two.
        data: Data, of which the first ``most`` are shown.
        guide: q; by default ``model.guide``.
        num_nodes: Of the grid, along each axis.
        most: Most panels.
        tolerance: Of the quadrature, nats.

    Returns:
        The figure.

    Raises:
        ValueError: If the model has more latents or discrete ones, the guide samples no z, or the data do not fit.

    Example:
        >>> from pyrovae import PPCA
        >>> figure = posterior_contours(PPCA(2, (3,)), torch.zeros(2, 3, dtype=torch.float64), num_nodes=21)
        >>> [axes.get_title() for axes in figure.axes]
        ['datum 0', 'datum 1']
    """
    check_whole("most", most)
    check_whole("num_nodes", num_nodes, 3)
    shown = as_observations(data).fixed()[:most]
    every_q = list(posteriors(model, shown, guide=guide or model.guide))
    found = encode(model, shown, guide=guide or model.guide)
    means, deviations = found.mean, found.variance.sqrt()
    coarse = posterior_grid(model, shown, COARSE_NODES, tolerance=tolerance)
    low, high = _window(coarse, means, deviations)
    exact = posterior_grid(model, shown, num_nodes, tolerance=tolerance, low=low, high=high)
    with torch.no_grad():
        parts = exact.z.split([q.batch_shape[0] for q in every_q], dim=-2)
        by_guide = torch.cat([_density(q, part) for q, part in zip(every_q, parts, strict=True)], dim=-1)
    figure, panels = grid(len(shown), min(3, len(shown)))
    figure.set_figheight(figure.get_figheight() + 0.4)
    draw = _curves if exact.z.shape[-1] == 1 else _contours
    for n, axes in enumerate(panels):
        p, q = exact.log_density[..., n].double().cpu(), by_guide[..., n].double().cpu()
        draw(axes, p, q, exact.z[..., n, :].cpu())
        axes.set_title(shown.datum(n), fontsize=NORMAL)
    inside = "" if draw is _curves else f"; regions of {', '.join(f'{m:.0%}' for m in reversed(MASSES))} of the mass"
    headline(figure, f"p(z|x) by quadrature, filled; q(z|x), dashed{inside}")
    return figure


def _density(q: Any, z: Tensor) -> Tensor:
    """log q (..., n) at z (..., n, L), whose one number a latent without dimensions is.

    Raises:
        ValueError: If not every real number is a value of it: the posterior's grid is then in other coordinates.
    """
    if not isinstance(values_of(q), type(constraints.real)):
        raise ValueError(f"`model` must have a latent of all real numbers to be drawn, got one of {values_of(q)}.")
    log_prob: Tensor = q.log_prob(z.reshape(*z.shape[:-1], *q.event_shape))
    return log_prob


def _window(coarse: PosteriorGrid, means: Tensor, deviations: Tensor) -> tuple[Tensor, Tensor]:
    """Corners (N, L) of what there is to see: 99.9% of either density along each axis, and a margin."""
    num_latents = means.shape[-1]
    density = coarse.log_density.double().exp()
    lows, highs = means - 3 * deviations, means + 3 * deviations
    for latent in range(num_latents):
        others = [axis for axis in range(num_latents) if axis != latent]
        along = density.sum(others) if others else density  # (G, N)
        nodes = coarse.z.movedim(latent, 0).flatten(1, -3)[:, 0] if others else coarse.z  # (G, N, L)
        share = along.cumsum(0) / along.sum(0)
        for bound, cut, choose in ((lows, 5e-4, torch.minimum), (highs, 1 - 5e-4, torch.maximum)):
            index = (share < cut).sum(0).clamp_max(len(along) - 1)
            edge = nodes[..., latent].gather(0, index[None])[0]
            bound[:, latent] = choose(bound[:, latent], edge)
    margin = MARGIN * (highs - lows)
    return lows - margin, highs + margin


def _curves(axes: Axes, exact: Tensor, by_guide: Tensor, z: Tensor) -> None:
    """Densities over one latent."""
    axes.fill_between(z[:, 0].numpy(), exact.exp().numpy(), color=EXACT, alpha=0.35, label="p(z|x)")
    axes.plot(z[:, 0].numpy(), by_guide.exp().numpy(), color=GUIDE, linestyle="--", label="q(z|x)")
    axes.set_ylim(bottom=0)
    label(axes, "$z_1$", "density")


def _contours(axes: Axes, exact: Tensor, by_guide: Tensor, z: Tensor) -> None:
    """Regions of highest density over two latents."""
    first, second = z[:, 0, 0].numpy(), z[0, :, 1].numpy()
    filled = [*_levels(exact), exact.max().item() + 1]
    axes.contourf(first, second, exact.T.numpy(), levels=filled, colors=[to_rgba(EXACT, depth) for depth in DEPTHS])
    axes.contour(first, second, exact.T.numpy(), levels=filled[:-1], colors=EXACT, linestyles="-", linewidths=0.8)
    axes.contour(first, second, by_guide.T.numpy(), levels=_levels(by_guide), colors=GUIDE, linestyles="--")
    label(axes, "$z_1$", "$z_2$")


def _levels(log_density: Tensor) -> list[float]:
    """The log-densities above which lie so many shares of the mass on the grid, ascending."""
    ordered = log_density.flatten().sort(descending=True).values
    held = ordered.exp().cumsum(0) / ordered.exp().sum()
    return [ordered[int((held < mass).sum())].item() for mass in MASSES]
