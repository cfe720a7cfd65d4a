"""Data beside what models generate: ancestral samples, and means that are no samples."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.data import Observations
from pyrovae.engine.checks import check_whole
from pyrovae.plots.common import (
    COLOURS,
    MOST_POINTS,
    NORMAL,
    Entry,
    Seen,
    as_seen,
    evenly,
    grid,
    headline,
    label,
    legend_below,
    principal_axes,
    short,
    tidy,
    wrapped,
)
from pyrovae.plots.images import Gallery, Row, seen_from

SAMPLES = "samples, x ~ p(x|z)"
NAMED = 2  # columns in the name of an axis


def samples(
    models: Mapping[str, Entry], data: Observations | Tensor, *, num_samples: int = 10, seed: int = 0
) -> Figure:
    """What the models generate, beside real data.

    Images: a row of data, and for every model a row of samples x ~ p(x|z) and a row of means E[x|z] at the
    same z.  The means look better, and are *not* samples of the model: its likelihood is that of the samples.  Other
    data: a scatter of samples over data, on the first two principal axes of the data.

    Args:
        models: Name → model of ``data``, or fit result, which is asked in the view that it was fitted in.
        data: Real data; images are those with ``image_shape``.
        num_samples: Images in a row.  Scatters show as many samples as data, at most 1,000.
        seed: Of the samples.

    Returns:
        The figure.  Images are shown in the reference space, grey from 0 (black) to 1 (white), or over the range of the
        data where they leave [0, 1]; samples beyond are clipped, and the caption says how many.

    Raises:
        ValueError: If ``models`` is empty, ``num_samples`` is below 1, or a model is one of data of another shape or
            space.
        TypeError: If an entry is neither a model nor a fit result.

    Example:
        >>> from pyrovae import PPCA, data, fit
        >>> d = data.load("digits")
        >>> figure = samples({"PPCA": fit.closed_form(PPCA(8, (64,)), d.train)}, d.test, num_samples=5)
        >>> len(figure.axes), len(figure.axes[0].images)
        (3, 5)
    """
    check_whole("num_samples", num_samples)
    seen, observations = as_seen(models, data, seed)
    if observations.image_shape is not None:
        return _image_samples(Gallery.of(models, observations, num_samples), num_samples, seed)
    return _scatter_samples(seen, observations, seed)


def _image_samples(gallery: Gallery, num_samples: int, seed: int) -> Figure:
    rows, generated = [Row("real data", gallery.real)], {}
    for name, (model, space) in gallery.models.items():
        drawn = gallery.seen(model.sample(num_samples, seed=seed)[0], space)
        means = gallery.seen(model.sample_means(num_samples, seed=seed)[0], space)
        title = wrapped(name, 24)
        rows += [Row(f"{title}\nx ~ p(x|z)", drawn, first=True), Row(f"{title}\nE[x|z], not samples", means)]
        generated[name] = torch.cat([drawn, means])
    said = "Within a model, images above one another share their z."
    return gallery.figure(rows, "Data and samples", said, generated)[0]


def _scatter_samples(models: Seen, data: Observations, seed: int) -> Figure:
    """One panel a model: samples over data, in the view of the data."""
    shown = data[evenly(len(data), MOST_POINTS)]
    drawn = {
        name: seen_from(model.sample(len(shown), seed=seed)[0], space, data, data.space)
        for name, (model, space) in models.items()
    }
    project, labels, mostly = _projection(data)
    real = project(seen_from(shown.x, data.space, data, data.space))
    drawn = {name: project(x) for name, x in drawn.items()}
    window = _window(real, torch.cat(list(drawn.values())))
    figure, panels = grid(len(drawn), 2 if len(drawn) == 4 else min(len(drawn), 3))
    for axes, (name, x) in zip(panels, drawn.items(), strict=True):
        label(axes, *labels)
        (_histograms if data.num_dims == 1 else _points)(axes, real, x, *window)
        title, outside = wrapped(name, 34), int(((x < window[0]) | (x > window[1])).any(1).sum())
        axes.set_title(f"{title}\n({outside:,} of {len(x):,} outside)" if outside else title, fontsize=NORMAL)
    headline(figure, "; ".join(filter(None, [f"Data and samples: {data.space.reference}", mostly])))
    legend_below(figure, panels[0])
    return figure


def _projection(data: Observations) -> tuple[Callable[[Tensor], Tensor], list[str], str]:
    """What takes data to the one or two coordinates that are drawn, the labels of both axes, and what these are."""
    view = "" if data.space.transform_name == "as it is" else f" ({data.space.transform_name})"
    if data.num_dims <= 2:
        names = [f"$x_{d + 1}$" for d in range(data.num_dims)] if data.names is None else map(short, data.names)
        return lambda x: x, [*(f"{name}{view}" for name in names), "density"][:2], ""
    centre, directions, shares = principal_axes(data.x.flatten(1).to("cpu", torch.float64))
    labels = [f"axis {i + 1} of the data{view}\n({share:.0%} of variance)" for i, share in enumerate(shares)]
    mostly = "; ".join(f"axis {i + 1} mostly {_largest(data, axis)}" for i, axis in enumerate(directions.T))
    return lambda x: (x - centre) @ directions, labels, mostly if data.names else ""


def _largest(data: Observations, direction: Tensor) -> str:
    """The columns with the largest parts in an axis."""
    largest = direction.abs().argsort(descending=True, stable=True)[:NAMED].tolist()
    return " and ".join(short(data.column_names[d]) for d in largest)


def _points(axes: Axes, real: Tensor, x: Tensor, low: Tensor, high: Tensor) -> None:
    (a, b), (c, d) = real.T.numpy(), x.T.numpy()
    axes.scatter(a, b, s=16, facecolors="none", edgecolors="0.55", linewidths=0.8, label="data")
    axes.scatter(c, d, s=14, marker="x", color=COLOURS[0], linewidths=0.9, label=SAMPLES)
    axes.set(xlim=(low[0].item(), high[0].item()), ylim=(low[1].item(), high[1].item()))


def _histograms(axes: Axes, real: Tensor, x: Tensor, low: Tensor, high: Tensor) -> None:
    """Scalar data: histograms on common bins."""
    bins = np.linspace(low.item(), high.item(), 41).tolist()
    axes.hist(real[:, 0].numpy(), bins, density=True, color="0.8", label="data")
    axes.hist(x[:, 0].numpy(), bins, density=True, histtype="step", color=COLOURS[0], linewidth=1.4, label=SAMPLES)
    axes.set_xlim(low.item(), high.item())
    tidy(axes)


def _window(real: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Corners of what a scatter shows: all data, and samples up to 30% of the data's range away from them.

    A few samples far away would shrink everything else.
    """
    low, high = real.amin(0), real.amax(0)
    border = torch.where(high > low, 0.3 * (high - low), torch.inf)
    low = torch.minimum(low, torch.maximum(low - border, drawn.amin(0)))
    high = torch.maximum(high, torch.minimum(high + border, drawn.amax(0)))
    margin = 0.04 * (high - low).clamp_min(1e-6)
    return low - margin, high + margin
