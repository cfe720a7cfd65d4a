"""The decoder's manifold over two latents, alone and beside the cloud of codes that it was trained on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyrovae import evaluate
from pyrovae.data import Observations, Space, as_observations
from pyrovae.engine.checks import check_whole
from pyrovae.evaluate.samples.decoding import grid_side
from pyrovae.models.base import LatentVariableModel
from pyrovae.plots.common import NORMAL, WIDTH, Entry, balanced, grid, headline, label, sheet, wrapped
from pyrovae.plots.images import Gallery, shown
from pyrovae.plots.latents import class_legend, scatter_by_class

MOST_REAL = 1000  # images that the range of greys is taken from
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
    check_whole("num_steps", num_steps, 2)
    gallery = Gallery.of(models, data, MOST_REAL)
    mosaic = Mosaic(gallery, num_steps, extent, units, labels)
    figure, panels = grid(len(models), min(len(models), 2))
    for axes, (name, (model, space)) in zip(panels, gallery.models.items(), strict=True):
        mosaic.draw(axes, model, space)
        axes.set_title(wrapped(name, 40), fontsize=NORMAL)
    headline(figure, f"E[x|z] over z: {gallery.data.space.reference}", mosaic.said)
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
    check_whole("num_steps", num_steps, 2)
    coded = as_observations(data).fixed()
    gallery = Gallery.of(models, coded, MOST_REAL)
    mosaic = Mosaic(gallery, num_steps, extent, units, labels)
    if labels is not None and coded.labels is not None:
        coded = coded[coded.labels == labels]
    coded = coded[balanced(coded)]
    columns = min(len(models), 3)
    lines = math.ceil(len(models) / columns)
    figure = sheet(0.9 + lines * 2 * (WIDTH - 0.7) / max(columns, 2))
    every = figure.subplots(2 * lines, columns, squeeze=False)
    above, below = every[::2].flatten(), every[1::2].flatten()
    for spare in (*above[len(models) :], *below[len(models) :]):
        spare.remove()
    for cloud, means, (name, (model, space)) in zip(above, below, gallery.models.items(), strict=False):
        z = evaluate.draws(model, coded.in_space(space), 1)[0][0].cpu().double()
        _cloud(cloud, z[:, list(units)], coded.labels)
        cloud.set_title(wrapped(name, 28), fontsize=NORMAL)
        _label(cloud, units)
        mosaic.draw(means, model, space)
    said = f"Circles hold {MASSES[0]:.0%} and {MASSES[1]:.0%} of the prior. {mosaic.said}"
    headline(figure, f"Above z ~ q(z|x), below E[x|z] over z: {gallery.data.space.reference}", said)
    class_legend(figure, every[0, 0], beside=True)
    return figure


@dataclass(frozen=True)
class Mosaic:
    """Means E[x|z] over a grid of two latents; the fields are the arguments of :func:`manifold`."""

    gallery: Gallery
    num_steps: int
    extent: float | None
    units: tuple[int, int]
    labels: int | None

    def draw(self, axes: Axes, model: LatentVariableModel, space: Space) -> None:
        """The means of one model, z rising to the right and upwards."""
        steps, image_shape, limits = self.num_steps, self.gallery.image_shape, self.gallery.limits
        height, width = image_shape[1:]
        means = evaluate.manifold_means(model, steps, extent=self.extent, units=self.units, labels=self.labels)
        pictures = np.stack(shown(self.gallery.seen(means.reshape(steps**2, -1), space), image_shape, limits))
        rows = pictures.reshape(steps, steps, *pictures.shape[1:])[::-1]  # the largest z on top
        mosaic = rows.swapaxes(1, 2).reshape(steps * height, steps * width, *pictures.shape[3:])
        edge = (0.0, steps * width, 0.0, steps * height)
        axes.imshow(mosaic, cmap="gray", vmin=limits[0], vmax=limits[1], extent=edge, interpolation="nearest")
        side = grid_side(steps, self.extent).tolist()
        gaps = next((number for number in (4, 3, 5, 6, 7, 2) if (steps - 1) % number == 0), 1)
        ticks = range(0, steps, (steps - 1) // gaps)
        values = [f"{side[tick]:.1f}".replace("-", "−").replace("−0.0", "0.0") for tick in ticks]
        axes.set_xticks([(tick + 0.5) * width for tick in ticks], values)
        axes.set_yticks([(tick + 0.5) * height for tick in ticks], values)
        _label(axes, self.units)

    @property
    def said(self) -> str:
        """How z was chosen."""
        steps = "at quantiles of the prior"
        if self.extent is not None:
            steps = f"in even steps up to {self.extent:g} standard deviations"
        more = any(model.sample(1)[1].shape[-1] > 2 for model, _ in self.gallery.models.values())
        given = "" if self.labels is None else f" given class {self.labels}"
        return f"Images show means{given} {steps}{', other latents at 0' if more else ''}; they are not samples."


def _cloud(axes: Axes, z: Tensor, labels: Tensor | None) -> None:
    """Codes on two units, and circles of the prior."""
    scatter_by_class(axes, z, labels, size=12)
    for mass, style in zip(MASSES, ("-", "--"), strict=True):
        radius = math.sqrt(-2 * math.log1p(-mass))
        axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor="black", linewidth=1.2, linestyle=style))
    reach = 1.05 * max(z.abs().max().item(), radius)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    for side in (axes.xaxis, axes.yaxis):
        side.set_major_locator(MaxNLocator(5, integer=True))


def _label(axes: Axes, units: tuple[int, int]) -> None:
    label(axes, f"$z_{{{units[0] + 1}}}$", f"$z_{{{units[1] + 1}}}$")
