"""The decoder's manifold over two latents, alone and beside the cloud of codes that it was trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyrovae import evaluate
from pyrovae.data import Observations, Space, as_observations
from pyrovae.evaluate.samples.decoding import grid_side
from pyrovae.models.base import LatentVariableModel
from pyrovae.plots.common import (
    NORMAL,
    SMALL,
    WIDTH,
    Entry,
    Picture,
    as_seen,
    balanced,
    check_count,
    check_models,
    check_shapes,
    grid,
    wrapped,
)
from pyrovae.plots.images import Limits, check_images, grey_limits, reference_of, seen_from, shown
from pyrovae.plots.latents import class_legend, scatter_by_class

MASSES = (0.5, 0.95)  # of the prior within the circles


def manifold(
    models: Mapping[str, Entry],
    data: Observations | Tensor,
    *,
    num_steps: int = 15,
    extent: float | None = None,
    units: tuple[int, int] = (0, 1),
    labels: int | None = None,
) -> Figure:
    """E[x|z] over a grid of two latents, one panel a model; other latents are held at 0.

    Args:
        models: Name → model of ``data`` with at least two continuous latents, or fit result.
        data: Real images, for their shape, space and range.
        num_steps: Images along each side.
        extent: Even steps up to so many standard deviations of the prior, or None for its quantiles.
        units: Which latents run along the horizontal and the vertical axis.
        labels: The class that is shown, of models of p(x|z, y).

    Returns:
        The figure; the ticks are values of z.

    Raises:
        ValueError: If ``models`` is empty, ``data`` are no images, or a model is one of other data or of other z.
        TypeError: If an entry is neither a model nor a fit result.

    Example:
        >>> from pyrovae import PPCA, data, fit
        >>> d = data.load("digits")
        >>> figure = manifold({"PPCA": fit.closed_form(PPCA(2, (64,)), d.train)}, d.test, num_steps=5)
        >>> figure.axes[0].get_xlabel()
        '$z_{1}$'
    """
    seen, observations, limits = _checked(models, data, num_steps)
    figure, panels = grid(len(seen), min(len(seen), 2))
    for axes, (name, (model, space)) in zip(panels, seen.items(), strict=True):
        _draw(axes, model, space, observations, limits, num_steps, extent, units, labels)
        axes.set_title(wrapped(name, 40), fontsize=NORMAL)
    figure.suptitle(wrapped(f"E[x|z] over z: {observations.space.reference}", 90), fontsize=10)
    figure.supxlabel(_said(extent, labels, seen), fontsize=SMALL)
    return figure


def clouds_and_manifolds(
    models: Mapping[str, Entry],
    data: Observations | Tensor,
    *,
    num_steps: int = 10,
    extent: float | None = None,
    units: tuple[int, int] = (0, 1),
    labels: int | None = None,
) -> Figure:
    """Codes of data against the prior, above the manifold of the decoder: what a weight β does to either.

    A decoder is trained at draws of q(z|x), and generates from draws of p(z).  Where the cloud of the first is
    wider than the prior or has holes, generation meets z that training never did; where it is the prior whatever x is,
    z says nothing, and the manifold is one image.

    Args:
        models: Name → model or fit result, e.g. by their β, with at least two continuous latents.
        data: Images, with labels if there are any; about 1,000 are coded, equally many of each class.
        num_steps, extent, units, labels: As for :func:`manifold`; with a label, only data of that class are coded.

    Returns:
        The figure, three models a line: above, one draw z ~ q(z|x) for each datum, and circles that hold 50% and
        95% of the prior; below, the manifold.

    Raises:
        ValueError, TypeError: As for :func:`manifold`.
    """
    seen, observations, limits = _checked(models, data, num_steps)
    chosen = (
        observations if labels is None or observations.labels is None else observations[observations.labels == labels]
    )
    coded = chosen[balanced(chosen)]
    columns = min(len(seen), 3)
    lines = math.ceil(len(seen) / columns)
    side = (WIDTH - 0.7) / max(columns, 2)
    figure = Picture(figsize=(WIDTH, 0.9 + lines * 2 * side), layout="constrained")
    every = figure.subplots(2 * lines, columns, squeeze=False)
    for number, (name, (model, space)) in enumerate(seen.items()):
        line, column = divmod(number, columns)
        above, below = every[2 * line : 2 * line + 2, column]
        z = evaluate.draws(model, coded.in_space(space), 1)[0][0].cpu().double()
        _cloud(above, z[:, list(units)], coded.labels, units)
        above.set_title(wrapped(name, 28), fontsize=NORMAL)
        _draw(below, model, space, observations, limits, num_steps, extent, units, labels)
    for spare in range(len(seen), lines * columns):
        line, column = divmod(spare, columns)
        every[2 * line, column].remove()
        every[2 * line + 1, column].remove()
    reference = observations.space.reference
    figure.suptitle(wrapped(f"Above z ~ q(z|x), below E[x|z] over z: {reference}", 90), fontsize=10)
    said = f"Circles hold {MASSES[0]:.0%} and {MASSES[1]:.0%} of the prior. " + _said(extent, labels, seen)
    figure.supxlabel(wrapped(said, 105), fontsize=SMALL)
    class_legend(figure, every[0, 0], beside=True)
    return figure


def _checked(
    models: Mapping[str, Entry], data: Observations | Tensor, num_steps: int
) -> tuple[dict[str, tuple[LatentVariableModel, Space]], Observations, Limits]:
    check_models(models)
    check_count("num_steps", num_steps, 2)
    observations = as_observations(data).fixed()
    seen = as_seen(models, observations)
    check_shapes(seen, observations)
    check_images(observations)
    real = seen_from(observations.x[:1000], observations.space, observations[:1000], reference_of(observations.space))
    return seen, observations, grey_limits(real)


def _draw(
    axes: Axes,
    model: LatentVariableModel,
    space: Space,
    data: Observations,
    limits: Limits,
    num_steps: int,
    extent: float | None,
    units: tuple[int, int],
    labels: int | None,
) -> None:
    """One mosaic, z rising to the right and upwards."""
    assert data.image_shape is not None
    means = evaluate.manifold_means(model, num_steps, extent=extent, units=units, labels=labels)
    flat = seen_from(means.reshape(num_steps**2, -1), space, data, reference_of(data.space))
    pictures = torch.stack([torch.as_tensor(picture) for picture in shown(flat, data.image_shape, limits)])
    height, width = data.image_shape[1:]
    rows = pictures.unflatten(0, (num_steps, num_steps)).flip(0)  # the largest z on top
    mosaic = rows.transpose(1, 2).reshape(num_steps * height, num_steps * width, *pictures.shape[3:])
    edge = (0.0, num_steps * width, 0.0, num_steps * height)
    axes.imshow(mosaic.numpy(), cmap="gray", vmin=limits[0], vmax=limits[1], extent=edge, interpolation="nearest")
    side = grid_side(num_steps, extent).tolist()
    gaps = next((number for number in (4, 3, 5, 6, 7, 2) if (num_steps - 1) % number == 0), 1)
    ticks = range(0, num_steps, (num_steps - 1) // gaps)
    values = [f"{side[tick]:.1f}".replace("-", "−").replace("−0.0", "0.0") for tick in ticks]
    axes.set_xticks([(tick + 0.5) * width for tick in ticks], values, fontsize=SMALL)
    axes.set_yticks([(tick + 0.5) * height for tick in ticks], values, fontsize=SMALL)
    _label(axes, units)


def _cloud(axes: Axes, z: Tensor, labels: Tensor | None, units: tuple[int, int]) -> None:
    """Codes on two units, and circles of the prior."""
    scatter_by_class(axes, z, labels, size=12)
    for mass, style in zip(MASSES, ("-", "--"), strict=True):
        radius = math.sqrt(-2 * math.log1p(-mass))
        axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor="black", linewidth=1.2, linestyle=style))
    reach = 1.05 * max(z.abs().max().item(), radius)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.tick_params(labelsize=SMALL)
    _label(axes, units)


def _label(axes: Axes, units: Sequence[int]) -> None:
    axes.set_xlabel(f"$z_{{{units[0] + 1}}}$", fontsize=NORMAL)
    axes.set_ylabel(f"$z_{{{units[1] + 1}}}$", fontsize=NORMAL)


def _said(extent: float | None, labels: int | None, seen: Mapping[str, Any]) -> str:
    """How z was chosen."""
    steps = "at quantiles of the prior" if extent is None else f"in even steps up to {extent:g} standard deviations"
    more = any(model.sample(1)[1].shape[-1] > 2 for model, _ in seen.values())
    given = "" if labels is None else f" given class {labels}"
    return f"Images show means{given} {steps}{', other latents at 0' if more else ''}; they are not samples."
