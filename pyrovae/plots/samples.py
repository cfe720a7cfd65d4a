"""Data beside what models generate: ancestral samples, and means that are no samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor
from torch.distributions import identity_transform

from pyrovae.data import Observations, Space, as_observations
from pyrovae.plots.common import (
    COLOURS,
    MOST_POINTS,
    NORMAL,
    SMALL,
    WIDTH,
    Entry,
    Picture,
    Seen,
    as_seen,
    check_models,
    evenly,
    grid,
    principal_axes,
    tidy,
    wrapped,
)


def samples(
    models: Mapping[str, Entry], data: Observations | Tensor, *, num_samples: int = 10, seed: int = 0
) -> Figure:
    """What the models generate, beside real data.

    Images: a row of data, and for every model a row of samples x ~ p(x given z) and a row of means E[x given z] at the
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
    if not isinstance(num_samples, int) or num_samples < 1:
        raise ValueError(f"`num_samples` must be a whole number of at least 1, got {num_samples!r}.")
    observations = as_observations(data).fixed(seed)
    seen = as_seen(models, observations)
    for name, (model, _) in seen.items():
        shape = model.data_shape
        if shape is not None and math.prod(shape) != observations.num_dims:
            raise ValueError(
                f"`models[{name!r}]` must be a model of data of shape {observations.data_shape}, got {shape}; "
                "pass the data that it was fitted to."
            )
    if observations.image_shape is not None:
        return _image_samples(seen, observations, observations.image_shape, num_samples, seed)
    return _scatter_samples(seen, observations, seed)


def _seen_from(x: Tensor, space: Space, data: Observations, target: Space) -> Tensor:
    """``x`` of a model in one space as flat data of another, (n, D), float64."""
    shaped = x.detach().to("cpu", torch.float64).reshape(len(x), *data.data_shape)
    return Observations(shaped, space=space).in_space(target).x.flatten(1)


def _image_samples(
    models: Seen, data: Observations, image_shape: tuple[int, ...], num_samples: int, seed: int
) -> Figure:
    channels, height, width = image_shape
    if channels not in (1, 3):
        raise ValueError(f"`data` must be images of 1 or 3 channels to be shown, got {channels}.")
    reference = replace(data.space, transform=identity_transform, transform_name="as it is")
    real = _seen_from(data.x[evenly(len(data), num_samples)], data.space, data, reference)
    rows, generated = [("real data", real)], {}
    for name, (model, space) in models.items():
        drawn = _seen_from(model.sample(num_samples, seed=seed)[0], space, data, reference)
        means = _seen_from(model.sample_means(num_samples, seed=seed)[0], space, data, reference)
        title = wrapped(name, 24)
        rows += [(f"{title}\nx ~ p(x given z)", drawn), (f"{title}\nE[x given z], not samples", means)]
        generated[name] = torch.cat([drawn, means])

    low, high = min(0.0, real.min().item()), max(1.0, real.max().item())
    if real.min() > -1e-3 and real.max() < 1.001:  # far below a grey level: rounding of a transform and its inverse
        low, high = 0.0, 1.0
    slack = 1e-3 * (high - low)
    clipped = {name: ((x < low - slack) | (x > high + slack)).double().mean().item() for name, x in generated.items()}

    size = (WIDTH - 1.7) / (1.08 * max(num_samples, 6)) * height / width
    ratios = [1.0] + [0.15, 1.0, 1.0] * len(models)  # a gap above every model
    layout = ConstrainedLayoutEngine(hspace=0, h_pad=0.02)
    figure = Picture(figsize=(WIDTH, 0.65 + sum(ratios) * (size + 0.05)), layout=layout)
    grid = figure.add_gridspec(len(ratios), 1, height_ratios=ratios)
    places = [place for place, ratio in enumerate(ratios) if ratio == 1]
    for place, (label, x) in zip(places, rows, strict=True):
        axes = figure.add_subplot(grid[place])
        pictures = x.clamp(low, high).reshape(-1, channels, height, width)
        for column, picture in enumerate(pictures.permute(0, 2, 3, 1)):
            shown = picture[..., 0] if channels == 1 else (picture - low) / (high - low)
            left = column * 1.08 * width
            extent = (left, left + width, height, 0.0)
            axes.imshow(shown.numpy(), cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="nearest")
        axes.set(xlim=(-0.5, num_samples * 1.08 * width), ylim=(height, 0), xticks=[], yticks=[])
        axes.set_anchor("W")  # beside its label, whichever of width and height is short
        axes.spines[:].set_visible(False)
        axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=SMALL)
    figure.suptitle(wrapped(f"Data and samples: {data.space.reference}", 90), fontsize=10)
    figure.supxlabel(wrapped(_caption(low, high, clipped, models), 105), fontsize=SMALL)
    return figure


def _caption(low: float, high: float, clipped: Mapping[str, float], models: Seen) -> str:
    caption = f"Grey from {low:g} (black) to {high:g} (white). Within a model, images above one another share their z."
    if any(clipped.values()):
        shares = ", ".join(f"{name} {share:.1%}" for name, share in clipped.items() if share > 0)
        caption += f" Values outside are clipped: {shares}."
    views = {space.transform_name for _, space in models.values()} - {"as it is"}
    if views:
        caption += f" Means are taken where the model lives ({', '.join(sorted(views))}), then mapped back."
    return caption


def _scatter_samples(models: Seen, data: Observations, seed: int) -> Figure:
    shown = data[evenly(len(data), MOST_POINTS)]
    real = _seen_from(shown.x, data.space, data, data.space)
    drawn = {
        name: _seen_from(model.sample(len(shown), seed=seed)[0], space, data, data.space)
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
                label="samples, x ~ p(x given z)",
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
    axes.hist(x.numpy(), histtype="step", color=COLOURS[0], linewidth=1.4, label="samples, x ~ p(x given z)", **shared)
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
