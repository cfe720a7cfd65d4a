"""Data beside what models generate: ancestral samples, and means that are no samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.data import Observations, as_observations
from pyrovae.plots.common import (
    COLOURS,
    MOST_POINTS,
    NORMAL,
    SMALL,
    Entry,
    Seen,
    as_seen,
    check_count,
    check_models,
    check_shapes,
    evenly,
    grid,
    principal_axes,
    tidy,
    wrapped,
)
from pyrovae.plots.images import Row, caption, check_images, grey_limits, image_rows, reference_of, seen_from


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
    check_models(models)
    check_count("num_samples", num_samples)
    observations = as_observations(data).fixed(seed)
    seen = as_seen(models, observations)
    check_shapes(seen, observations)
    if observations.image_shape is not None:
        return _image_samples(seen, observations, check_images(observations), num_samples, seed)
    return _scatter_samples(seen, observations, seed)


def _image_samples(
    models: Seen, data: Observations, image_shape: tuple[int, ...], num_samples: int, seed: int
) -> Figure:
    reference = reference_of(data.space)
    real = seen_from(data.x[evenly(len(data), num_samples)], data.space, data, reference)
    rows, generated = [Row("real data", real)], {}
    for name, (model, space) in models.items():
        drawn = seen_from(model.sample(num_samples, seed=seed)[0], space, data, reference)
        means = seen_from(model.sample_means(num_samples, seed=seed)[0], space, data, reference)
        title = wrapped(name, 24)
        rows += [
            Row(f"{title}\nx ~ p(x|z)", drawn, first=True),
            Row(f"{title}\nE[x|z], not samples", means),
        ]
        generated[name] = torch.cat([drawn, means])
    limits = grey_limits(real)
    said = "Within a model, images above one another share their z. " + caption(limits, image_shape, generated, models)
    return image_rows(rows, image_shape, limits, f"Data and samples: {data.space.reference}", said)[0]


def _scatter_samples(models: Seen, data: Observations, seed: int) -> Figure:
    shown = data[evenly(len(data), MOST_POINTS)]
    real = seen_from(shown.x, data.space, data, data.space)
    drawn = {
        name: seen_from(model.sample(len(shown), seed=seed)[0], space, data, data.space)
        for name, (model, space) in models.items()
    }
    view = "" if data.space.transform_name == "as it is" else f" ({data.space.transform_name})"
    labels = [f"$x_{d + 1}${view}" for d in range(data.num_dims)]
    if data.num_dims > 2:
        everything = data.x.flatten(1).to("cpu", torch.float64)
        centre, axes_of, shares = principal_axes(everything)
        real = (real - centre) @ axes_of
        drawn = {name: (x - centre) @ axes_of for name, x in drawn.items()}
        labels = [f"axis {i + 1} of the data{view}\n({share:.0%} of variance)" for i, share in enumerate(shares)]
    low, high = _window(real, torch.cat(list(drawn.values())))
    figure, panels = grid(len(drawn), 2 if len(drawn) == 4 else min(len(drawn), 3))
    for axes, (name, x) in zip(panels, drawn.items(), strict=True):
        title = wrapped(name, 34)
        axes.set_xlabel(labels[0], fontsize=NORMAL)
        if data.num_dims == 1:
            _histograms(axes, real[:, 0], x[:, 0], low.item(), high.item())
        else:
            axes.set_ylabel(labels[1], fontsize=NORMAL)
            axes.scatter(
                real[:, 0].numpy(),
                real[:, 1].numpy(),
                s=16,
                facecolors="none",
                edgecolors="0.55",
                linewidths=0.8,
                label="data",
            )
            axes.scatter(
                x[:, 0].numpy(),
                x[:, 1].numpy(),
                s=14,
                marker="x",
                color=COLOURS[0],
                linewidths=0.9,
                label="samples, x ~ p(x|z)",
            )
            axes.set_ylim(low[1].item(), high[1].item())
        axes.set_xlim(low[0].item(), high[0].item())
        outside = int(((x < low) | (x > high)).any(1).sum())
        axes.set_title(f"{title}\n({outside:,} of {len(x):,} outside)" if outside else title, fontsize=NORMAL)
    figure.suptitle(wrapped(f"Data and samples: {data.space.reference}", 90), fontsize=10)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=SMALL, frameon=False)
    return figure


def _histograms(axes: Axes, real: Tensor, x: Tensor, low: float, high: float) -> None:
    """Scalar data: histograms on common bins."""
    shared: dict[str, Any] = {"bins": 40, "range": (low, high), "density": True}
    axes.hist(real.numpy(), color="0.8", label="data", **shared)
    axes.hist(x.numpy(), histtype="step", color=COLOURS[0], linewidth=1.4, label="samples, x ~ p(x|z)", **shared)
    axes.set_ylabel("density", fontsize=NORMAL)
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
