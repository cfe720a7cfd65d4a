"""What the pictures share: sizes, colours, layouts, and the figure that a notebook shows by itself."""

import math
import textwrap
from collections.abc import Collection, Mapping
from io import BytesIO
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.data import Observations, Space, as_observations
from pyrovae.fit.result import FitResult
from pyrovae.models.base import LatentVariableModel

Entry = FitResult | LatentVariableModel
Seen = dict[str, tuple[LatentVariableModel, Space]]  # models by name, each with the space that its x lives in

WIDTH = 7.6  # inches
SMALL, NORMAL = 8, 9  # points
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito (2008)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_POINTS = 1000  # in one scatter plot


class Picture(Figure):
    """A figure that a notebook shows where it is the value of a cell, without pyplot or a magic command."""

    def _repr_png_(self) -> bytes:
        stream = BytesIO()
        self.savefig(stream, format="png", dpi=100)
        return stream.getvalue()


def as_seen(models: Mapping[str, Entry], data: Observations | Tensor, seed: int = 0) -> tuple[Seen, Observations]:
    """The models, each with the space of its x, and the data with nothing left to chance; all checked.

    A fit knows its own space, a model is taken to be one of ``data``.

    Raises:
        ValueError: If there is no model, or one is of data of another shape.
        TypeError: If an entry is neither a model nor a fit result.
    """
    check_some("models", models, "model")
    observations = as_observations(data).fixed(seed)
    seen: Seen = {}
    for name, entry in models.items():
        if not isinstance(entry, FitResult | LatentVariableModel):
            raise TypeError(f"`models[{name!r}]` must be a model or a FitResult, got {type(entry).__name__}.")
        model, space = (entry.model, entry.space) if isinstance(entry, FitResult) else (entry, observations.space)
        if model.data_shape is not None and math.prod(model.data_shape) != observations.num_dims:
            raise ValueError(
                f"`models[{name!r}]` must be a model of data of shape {observations.data_shape}, got "
                f"{model.data_shape}; pass the data that it was fitted to."
            )
        seen[name] = model, space
    return seen, observations


def check_some(name: str, values: Collection[Any], what: str) -> None:
    if not values:
        raise ValueError(f"`{name}` must hold at least one {what}, got none.")


def evenly(length: int, most: int) -> Tensor:
    """At most so many indices, evenly spread, all if they fit."""
    return torch.linspace(0, length - 1, min(length, most)).round().long()


def balanced(data: Observations) -> Tensor:
    """Indices of about 1,000 data at most, equally many of each class; of classes below 20, all that there are."""
    if data.labels is None:
        return evenly(len(data), MOST_POINTS)
    labels = data.labels.cpu()
    classes, counts = labels.unique(return_counts=True)
    each = max(1, min(MOST_POINTS // len(classes), max(20, int(counts.min()))))
    members = [(labels == label).nonzero().flatten() for label in classes]
    return torch.cat([index[evenly(len(index), each)] for index in members]).sort().values


def principal_axes(x: Tensor, number: int = 2) -> tuple[Tensor, Tensor, list[float]]:
    """Centre (D,), the first so many principal axes (D, number), and their shares of the variance."""
    centre = x.mean(0)
    variances, axes = torch.linalg.eigh((x - centre).T @ (x - centre) / len(x))
    leading = axes.flip(1)[:, :number]
    skewness = ((x - centre) @ leading).pow(3).sum(0)
    leading = torch.where(skewness < 0, -leading, leading)  # a sign that no rotation of z changes
    shares = variances.flip(0)[:number].clamp_min(0) / variances.clamp_min(0).sum().clamp_min(1e-300)
    return centre, leading, shares.tolist()


def sheet(height: float) -> Picture:
    """An empty figure as wide as a page, so many inches high."""
    return Picture(figsize=(WIDTH, height), layout="constrained")


def panel(height: float) -> tuple[Picture, Axes]:
    """A figure of one panel without a box around it."""
    figure = sheet(height)
    axes = figure.add_subplot()
    tidy(axes)
    return figure, axes


def grid(number: int, columns: int) -> tuple[Picture, list[Axes]]:
    """Panels in rows of so many columns."""
    rows = math.ceil(number / columns)
    figure = sheet(0.9 + rows * (WIDTH / columns * 0.9 if columns > 1 else 4.5))
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in panels[number:]:
        spare.remove()
    for axes in panels[:number]:
        axes.tick_params(labelsize=SMALL)
    return figure, panels[:number]


def style(index: int) -> dict[str, Any]:
    """How the curve at an index is drawn; the markers tell curves apart without colour, too."""
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    return {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.4}


def label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=NORMAL)
    axes.set_ylabel(y, fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL)


def tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def headline(figure: Figure, title: str, caption: str = "") -> None:
    """A title above all panels, and a caption below them."""
    figure.suptitle(wrapped(title, 90), fontsize=10)
    if caption:
        figure.supxlabel(wrapped(caption, 105), fontsize=SMALL)


def legend_below(figure: Figure, axes: Axes) -> None:
    """What is drawn on ``axes``, in one line below all panels."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=SMALL, frameon=False)


def legend_beside(axes: Axes, **options: Any) -> None:
    """What is drawn on ``axes``, to their right."""
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=SMALL, frameon=False, **options)


def wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width).replace("$", r"\$")  # a name is no formula


def short(name: str, most: int = 24) -> str:
    """A column's name beside others: its beginning, if it is long."""
    return wrapped(name if len(name) <= most else f"{name[: most - 1]}…", most)


def number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:,.2f}".replace("-", "−")
