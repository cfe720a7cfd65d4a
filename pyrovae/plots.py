"""Every picture, each a function that returns a matplotlib ``Figure``; nothing is shown, saved or set globally.

Pictures are built on ``Figure`` itself, never on pyplot, which would choose a backend and keep every figure alive.
They are made for a page 7.6 inches wide, and whatever a colour says, a shape, a fill or a line style says too.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from itertools import cycle
from typing import Any, Protocol

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator, SymmetricalLogLocator
from torch import Tensor
from torch.distributions import identity_transform

from pyrovae.data import Observations, Space, as_observations
from pyrovae.fit.result import FitResult
from pyrovae.models.base import LatentVariableModel

Entry = FitResult | LatentVariableModel
Seen = dict[str, tuple[LatentVariableModel, Space]]  # models by name, each with the space that its x lives in

WIDTH = 7.6  # inches
SMALL, NORMAL = 8, 9  # points
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito (2008)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
CLASS_COLOURS = (  # after Paul Tol's "muted", its palest two darkened for thin strokes
    *("#332288", "#CC6677", "#117733", "#4C9BD6", "#882255", "#999933", "#AA4499", "#44AA99", "#B8860B"),
    "#000000",
)
MOST_POINTS = 1000  # in one scatter plot
MOST_CLASSES = 20  # more labels than these are not told apart


class Board(Protocol):
    """What :func:`scoreboard` reads of a :class:`pyrovae.scoreboard.Scoreboard`."""

    @property
    def rows(self) -> Sequence[Any]: ...

    @property
    def data(self) -> Observations: ...


class Picture(Figure):
    """A figure that a notebook shows where it is the value of a cell, without pyplot or a magic command."""

    def _repr_png_(self) -> bytes:
        stream = BytesIO()
        self.savefig(stream, format="png", dpi=100)
        return stream.getvalue()


# --------------------------------------------------------------------------------------------------------- scoreboard


def scoreboard(board: Board) -> Figure:
    """Held-out log p(x) of every model with its 95% interval over test data, best on top.

    Exact values are filled discs.  An importance-weighted bound is a hollow triangle that points to where the truth
    lies.  Refits with other seeds are ticks below.  The differences to the best, printed beside, have standard errors
    paired over data, which are far smaller than those of the means: overlapping bars do not make two models equal.

    Args:
        board: What :func:`pyrovae.compare` returns.

    Returns:
        The figure; in its one panel row i lies at y = i, and x is nats per datum.

    Raises:
        ValueError: If the scoreboard has no rows.

    Example:
        >>> from pyrovae import PPCA, compare, data, fit
        >>> d = data.load("digits")
        >>> fits = {f"PPCA-{q}": fit.closed_form(PPCA(q, (64,)), d.train) for q in (2, 8)}
        >>> figure = scoreboard(compare(fits, d.test))
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['PPCA-8', 'PPCA-2']
    """
    rows = list(board.rows)
    if not rows:
        raise ValueError("`board` must hold at least one row, got none; compare at least one model.")
    figure = Picture(figsize=(WIDTH, 1.75 + 0.36 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    particles = ", ".join(f"{s:,}" for s in sorted({row.num_particles for row in rows if row.kind != "exact"}))
    styles = [
        (True, "o", COLOURS[0], COLOURS[0], "exact log p(x)"),
        (False, ">", COLOURS[1], "white", f"lower bound by {particles} particles: log p(x) lies to the right"),
    ]
    for exact, marker, colour, fill, label in styles:
        chosen = [(y, row) for y, row in enumerate(rows) if (row.kind == "exact") == exact]
        if not chosen:
            continue
        axes.errorbar(
            [row.mean if math.isfinite(row.mean) else math.nan for _, row in chosen],
            [y for y, _ in chosen],
            xerr=[1.96 * row.standard_error if math.isfinite(row.standard_error) else 0.0 for _, row in chosen],
            fmt=marker,
            color=colour,
            markerfacecolor=fill,
            markeredgewidth=1.4,
            markersize=7,
            elinewidth=1.4,
            label=label,
        )
    refits = [(mean, y + 0.27) for y, row in enumerate(rows) if len(row.seed_means) > 1 for mean in row.seed_means]
    if refits:
        x, y = zip(*refits, strict=True)
        axes.plot(x, y, "|", color="black", markersize=6, label="fits by seed")
    axes.set_yticks(range(len(rows)), [_wrapped(row.name, 26) for row in rows], fontsize=NORMAL)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("held-out log p(x), nats per datum (higher is better)", fontsize=NORMAL)
    axes.tick_params(axis="x", labelsize=SMALL)
    axes.grid(axis="x", color="0.88")
    _tidy(axes)
    _print_numbers(axes, rows)
    space = board.data.space.reference
    figure.suptitle(_wrapped(f"{space}: N = {len(board.data):,} held-out data", 90), fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    first_lines = len(handles) - bool(refits)  # matplotlib lists plain lines first, bars after
    figure.legend(
        handles[-first_lines:] + handles[:-first_lines],
        labels[-first_lines:] + labels[:-first_lines],
        loc="outside lower left",
        title="Bars: 95% (1.96 s.e. over data). Δ: paired datum by datum.",
        title_fontsize=SMALL,
        alignment="left",
        fontsize=SMALL,
        frameon=False,
    )
    return figure


def _print_numbers(axes: Axes, rows: Sequence[Any]) -> None:
    """Two right-aligned columns beside the axes: the mean, and the difference to the best."""
    means = [
        f"{'' if row.kind == 'exact' else '≥ '}{_number(row.mean)} ± {_number(row.standard_error)}" for row in rows
    ]
    differences = ["best"] + [
        f"{_number(row.difference)} ± {_number(row.difference_standard_error)}" for row in rows[1:]
    ]
    edge = 2.0
    for header, cells in (("mean ± s.e.", means), ("Δ best ± s.e.", differences)):
        edge += 5.2 * max(map(len, (header, *cells))) + 8  # points; a digit of 9 points is 5.7 wide, a space 2.9
        entries = [(header, -0.75, "bottom"), *((cell, y, "center") for y, cell in enumerate(cells))]
        for text, y, align in entries:
            axes.annotate(
                text,
                (1, y),
                (edge, 0),
                xycoords=axes.get_yaxis_transform(),
                textcoords="offset points",
                ha="right",
                va=align,
                fontsize=NORMAL if align == "center" else SMALL,
                annotation_clip=False,
            )


def _number(value: float) -> str:
    return f"{value:,.2f}".replace("-", "−")


# ---------------------------------------------------------------------------------------------------- training curves


def training_curves(results: Mapping[str, FitResult]) -> Figure:
    """The objective after every update, one panel a family of models, under the maximum where it is known.

    Training traces are solid, validation traces dashed.  A closed-form result is a horizontal line, the global maximum
    of log p(x) on the training data for that model.  Where EM ends above every such line, its best end is one more: an
    exact log p(x), but perhaps of a local maximum.  The vertical axis starts where fits have left their first, terrible
    values behind; what is cut off is counted beside.

    Args:
        results: Name → fit.  Those of one family should be fits to the same data; fits in different views of the data
            (say logit and plain), whose densities have different units, get panels of their own.

    Returns:
        The figure: x is the number of updates (EM iterations or SVI epochs; logarithmic if there are more than 10), y
        nats per datum.

    Raises:
        ValueError: If ``results`` or a trace is empty, or a trace not finite.
        TypeError: If an entry is not a fit result.

    Example:
        >>> from pyrovae import PPCA, data, fit
        >>> d = data.load("digits")
        >>> ppca = PPCA(2, (64,))
        >>> figure = training_curves({"EM": fit.em(ppca, d.train), "maximum": fit.closed_form(ppca, d.train)})
        >>> figure.axes[0].get_xlabel()
        'EM iteration'
    """
    if not results:
        raise ValueError("`results` must hold at least one fit result, got none.")
    panels: dict[tuple[str, str, str], dict[str, FitResult]] = {}
    for name, result in results.items():
        if not isinstance(result, FitResult):
            raise TypeError(
                f"`results[{name!r}]` must be a FitResult, got {type(result).__name__}; pass what fit gave."
            )
        for trace in (result.trace, result.valid_trace):
            if trace is not None and not (len(trace) and torch.isfinite(trace).all()):
                raise ValueError(f"`results[{name!r}]` must have traces of finite values, got {trace.tolist()[:5]}.")
        family = type(result.model).__name__, result.space.reference, result.space.transform_name
        panels.setdefault(family, {})[name] = result
    heights = [2.4 if any(len(r.trace) > 1 for r in members.values()) else 1.2 for members in panels.values()]
    figure = Picture(figsize=(WIDTH, 0.3 + sum(heights)), layout="constrained")
    every = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, ((family_name, reference, view), members) in zip(every, panels.items(), strict=True):
        _panel(axes, members)
        seen = "" if view == "as it is" else f", {view}"
        axes.set_title(f"{family_name}  ({reference}{seen})", loc="left", fontsize=NORMAL)
        axes.set_ylabel("nats per datum", fontsize=NORMAL)
    return figure


def _panel(axes: Axes, members: Mapping[str, FitResult]) -> None:
    """The curves and lines of one family."""
    curves: list[tuple[Tensor, Tensor]] = []
    levels: list[float] = []
    for number, (name, result) in enumerate(members.items()):
        if len(result.trace) == 1:
            continue
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        start = 0 if result.method == "EM" else 1  # entry 0 of EM is the start, of SVI the first epoch
        for trace, part, style in ((result.trace, "training", "-"), (result.valid_trace, "validation", "--")):
            if trace is None:
                continue
            updates = torch.arange(start, start + len(trace), dtype=torch.float64)
            axes.plot(
                updates.numpy(),
                trace.cpu().numpy(),
                style,
                color=colour,
                marker=marker,
                markersize=4.5,
                markerfacecolor=colour if style == "-" else "white",
                markevery=_spread(len(trace)),
                linewidth=1.4,
                label=_wrapped(f"{name}: {result.objective}, {part}", 30),
            )
            curves.append((updates, trace.double().cpu()))
    styles = cycle([(0, (1, 1.2)), (0, (7, 2, 1, 2)), (0, (12, 3)), (0, (3, 2, 1, 2, 1, 2))])
    for pattern, (label, value) in zip(styles, _maxima(members), strict=False):
        axes.axhline(value, color="black", linewidth=1.1, linestyle=pattern, label=label, zorder=1.5)
        levels.append(value)
    methods = {result.method for result in members.values() if len(result.trace) > 1}
    units = {("EM",): "EM iteration", ("SVI",): "SVI epoch", (): "no updates to show"}
    axes.set_xlabel(units.get(tuple(methods), "update (EM iteration or SVI epoch)"), fontsize=NORMAL)
    hidden = _set_limits(axes, curves, levels)
    if hidden is not None:
        axes.plot([], [], " ", label=hidden)
    axes.tick_params(labelsize=SMALL)
    axes.grid(color="0.9")
    _tidy(axes)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=SMALL, frameon=False, handlelength=2.6)


def _maxima(members: Mapping[str, FitResult]) -> list[tuple[str, float]]:
    """Label and height of every horizontal line."""
    single = {name: result for name, result in members.items() if len(result.trace) == 1}
    lines = []
    for name, result in single.items():
        what = "global maximum" if result.method == "closed form" else f"{result.objective} by {result.method}"
        lines.append((_wrapped(f"{name}: {what}, {_number(result.trace[-1].item())}", 30), result.trace[-1].item()))
    known = max((r.trace[-1].item() for r in single.values() if r.method == "closed form"), default=-math.inf)
    best = max((r.trace[-1].item() for r in members.values() if r.method == "EM"), default=-math.inf)
    if best > known + 1e-6:  # else the closed form is the better line; so is it to rounding for one model
        lines.append((f"best end of EM, {_number(best)}", best))
    return lines


def _spread(length: int) -> list[int]:
    """About six indices of a trace, evenly spread on its logarithmic axis."""
    return sorted({min(length - 1, round(length ** (step / 5)) - 1) for step in range(6)})


def _set_limits(axes: Axes, curves: Sequence[tuple[Tensor, Tensor]], levels: Sequence[float]) -> str | None:
    """Scale both axes so that the start of a fit does not flatten the rest; returns a note on what is cut off."""
    if curves:
        first, last = min(x[0].item() for x, _ in curves), max(x[-1].item() for x, _ in curves)
        logarithmic = last > 10
        if logarithmic:
            axes.set_xscale("symlog", linthresh=1)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            axes.xaxis.set_minor_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=range(2, 10)))
            axes.set_xlim(first - 0.06, last * 1.07)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        low = min([*(_low_end((1 + x).log() if logarithmic else x, y) for x, y in curves), *levels])
        high = max([*(y.max().item() for _, y in curves), *levels])
        margin = 0.06 * (high - low) or 1e-3
    else:
        axes.set_xticks([])
        low, high = min(levels), max(levels)
        margin = max(0.2 * (high - low), 0.05 * abs(high), 1e-3)
    axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_locator(MaxNLocator(6 if curves else 3))
    axes.ticklabel_format(axis="y", useOffset=False)
    below = torch.cat([y[y < low - margin] for _, y in curves]) if curves else torch.empty(0)
    if len(below) == 0:
        return None
    return f"not shown: {len(below):,} value{'s' * (len(below) > 1)} below,\ndown to {_number(below.min().item())}"


def _low_end(place: Tensor, y: Tensor) -> float:
    """The lowest value of a trace worth showing, by its values at evenly spread places on the axis.

    The later half of the axis gets at least a fifth of the height, for which at most the first 30% of the width are
    cut; and the later half is shown whole, but for outliers, so that a fall is seen.
    """
    grid = torch.linspace(place[0].item(), place[-1].item(), 200, dtype=torch.float64)
    after = torch.searchsorted(place, grid).clamp(1, len(place) - 1)
    share = (grid - place[after - 1]) / (place[after] - place[after - 1])
    heights = torch.lerp(y[after - 1], y[after], share)
    tall = y.max() - 5 * (y.max() - heights.median())
    low = torch.minimum(heights.quantile(0.3), torch.maximum(y.min(), tall))
    return min(low.item(), heights[100:].quantile(0.05).item(), y[-1].item())


# ------------------------------------------------------------------------------------------------------------ samples


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
    _check_models(models)
    if not isinstance(num_samples, int) or num_samples < 1:
        raise ValueError(f"`num_samples` must be a whole number of at least 1, got {num_samples!r}.")
    observations = as_observations(data).fixed(seed)
    seen = _seen(models, observations)
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
    real = _seen_from(data.x[_evenly(len(data), num_samples)], data.space, data, reference)
    rows, generated = [("real data", real)], {}
    for name, (model, space) in models.items():
        drawn = _seen_from(model.sample(num_samples, seed=seed)[0], space, data, reference)
        means = _seen_from(model.sample_means(num_samples, seed=seed)[0], space, data, reference)
        title = _wrapped(name, 24)
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
    figure.suptitle(_wrapped(f"Data and samples: {data.space.reference}", 90), fontsize=10)
    figure.supxlabel(_wrapped(_caption(low, high, clipped, models), 105), fontsize=SMALL)
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
    shown = data[_evenly(len(data), MOST_POINTS)]
    real = _seen_from(shown.x, data.space, data, data.space)
    drawn = {
        name: _seen_from(model.sample(len(shown), seed=seed)[0], space, data, data.space)
        for name, (model, space) in models.items()
    }
    view = "" if data.space.transform_name == "as it is" else f" ({data.space.transform_name})"
    labels = [f"$x_{d + 1}${view}" for d in range(data.num_dims)]
    if data.num_dims > 2:
        everything = data.x.flatten(1).to("cpu", torch.float64)
        centre, axes_of, shares = _principal_axes(everything)
        real = (real - centre) @ axes_of
        drawn = {name: (x - centre) @ axes_of for name, x in drawn.items()}
        labels = [f"axis {i + 1} of the data{view}\n({share:.0%} of variance)" for i, share in enumerate(shares)]
    low, high = _window(real, torch.cat(list(drawn.values())))
    figure, panels = _grid(len(drawn), 2 if len(drawn) == 4 else min(len(drawn), 3))
    for axes, (name, x) in zip(panels, drawn.items(), strict=True):
        title = _wrapped(name, 34)
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
    figure.suptitle(_wrapped(f"Data and samples: {data.space.reference}", 90), fontsize=10)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=SMALL, frameon=False)
    return figure


def _histograms(axes: Axes, real: Tensor, x: Tensor, low: float, high: float) -> None:
    """Scalar data: histograms on common bins."""
    shared: dict[str, Any] = {"bins": 40, "range": (low, high), "density": True}
    axes.hist(real.numpy(), color="0.8", label="data", **shared)
    axes.hist(x.numpy(), histtype="step", color=COLOURS[0], linewidth=1.4, label="samples, x ~ p(x given z)", **shared)
    axes.set_ylabel("density", fontsize=NORMAL)
    _tidy(axes)


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


# ------------------------------------------------------------------------------------------------------------ latents


def latents(models: Mapping[str, Entry], data: Observations | Tensor) -> Figure:
    """E[z given x] of data under every model with a continuous z, one panel a model, each point its label.

    The exact posterior mean where the model has one, else the encoder's.  With more than two latents, the first two
    principal axes of the means, with their shares of the variance; with one, the mean against the data in order of
    class.  At most about 1,000 data are shown, the same for every model, equally many of each class.

    Args:
        models: Name → model of ``data``, or fit result, which sees the data as it was fitted to.  Models with a
            discrete z are left out, and named.
        data: Data, with labels if there are any.

    Returns:
        The figure; one that says so if no model has a continuous z.

    Raises:
        ValueError: If ``models`` is empty, or the data do not fit a model.
        TypeError: If an entry is neither a model nor a fit result.

    Example:
        >>> from pyrovae import PPCA, data, fit
        >>> d = data.load("digits")
        >>> figure = latents({"PPCA": fit.closed_form(PPCA(2, (64,)), d.train)}, d.test)
        >>> figure.axes[0].get_xlabel()
        'E[$z_1$ given x]'
    """
    _check_models(models)
    observations = as_observations(data).fixed()
    shown = observations[_balanced(observations)]
    every = {name: _latent_means(model, shown.in_space(space)) for name, (model, space) in _seen(models, shown).items()}
    means = {name: (z, kind) for name, (z, kind) in every.items() if z is not None}
    reasons = dict.fromkeys(kind for z, kind in every.values() if z is None)
    skipped = [f"{why}: {', '.join(name for name, (_, kind) in every.items() if kind == why)}" for why in reasons]
    if not means:
        figure = Picture(figsize=(WIDTH, 1.2), layout="constrained")
        figure.text(
            0.5,
            0.5,
            _wrapped(f"No model has a continuous z to show; {'; '.join(skipped)}.", 90),
            ha="center",
            va="center",
        )
        return figure
    figure, panels = _grid(len(means), min(len(means), 2))
    for axes, (name, (z, kind)) in zip(panels, means.items(), strict=True):
        _latent_panel(axes, z, shown.labels)
        axes.set_title(f"{_wrapped(name, 40)}\n({kind})", fontsize=NORMAL)
    title = _wrapped(f"Latent means E[z given x] of {len(shown):,} data, {observations.space.reference}", 90)
    if skipped:
        title += "\n" + _wrapped(f"left out, {'; '.join(skipped)}", 90)
    figure.suptitle(title, fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        columns = min(len(handles), 10)
        options: dict[str, Any] = {"fontsize": SMALL, "handletextpad": 0.1, "columnspacing": 1.2, "frameon": False}
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, title="class", **options)
    return figure


@torch.no_grad()
def _latent_means(model: LatentVariableModel, data: Observations) -> tuple[Tensor | None, str]:
    """E[z given x], shape (N, L), and whose it is; None where z is discrete or nothing gives its mean."""
    encoder = getattr(model, "encoder", None) or getattr(model.guide, "encoder", None)
    if (exact := getattr(model, "posterior", None)) is not None:
        q, kind = exact(data), "exact posterior means"
    elif encoder is not None:
        training = model.training
        try:
            model.eval()
            q, kind = encoder(model.as_input(data)), "means of the encoder"
        finally:
            model.train(training)
    else:
        return None, "no posterior, no encoder"
    if q.support.is_discrete:
        return None, "z is discrete"
    return q.mean.to("cpu", torch.float64).flatten(1), kind


def _latent_panel(axes: Axes, z: Tensor, labels: Tensor | None) -> None:
    """One scatter of means (N, L), each point drawn as its label."""
    if z.shape[1] == 1:
        order = torch.arange(len(z), dtype=torch.float64)
        if labels is not None:
            order[labels.cpu().argsort(stable=True)] = order.clone()
        points = torch.stack([z[:, 0], order], dim=1)
        names = ["E[z given x]", "datum" if labels is None else "datum, in order of class"]
    elif z.shape[1] == 2:
        points, names = z, [f"E[$z_{i}$ given x]" for i in (1, 2)]
    else:
        centre, axes_of, shares = _principal_axes(z)
        points = (z - centre) @ axes_of
        names = [f"principal axis {i + 1} of E[z given x] ({share:.0%} of variance)" for i, share in enumerate(shares)]
    axes.set_xlabel(names[0], fontsize=NORMAL)
    axes.set_ylabel(names[1], fontsize=NORMAL)
    if z.shape[1] > 1:
        axes.set_aspect("equal", adjustable="datalim")
    if labels is None or len(classes := labels.cpu().unique().tolist()) > MOST_CLASSES:
        axes.scatter(points[:, 0].numpy(), points[:, 1].numpy(), s=12, color=COLOURS[0], alpha=0.7)
        return
    for number, label in enumerate(classes):
        chosen = points[labels.cpu() == label]
        colour = CLASS_COLOURS[number % len(CLASS_COLOURS)]
        size = 24 * len(str(label))  # an area, so that labels of two digits are as tall
        axes.scatter(
            chosen[:, 0].numpy(),
            chosen[:, 1].numpy(),
            s=size,
            marker=f"${label}$",
            color=colour,
            linewidths=0.3,
            label=str(label),
        )


# -------------------------------------------------------------------------------------------------------------- shared


def _check_models(models: Mapping[str, Entry]) -> None:
    if not models:
        raise ValueError("`models` must hold at least one model, got none.")
    for name, entry in models.items():
        if not isinstance(entry, FitResult | LatentVariableModel):
            raise TypeError(f"`models[{name!r}]` must be a model or a FitResult, got {type(entry).__name__}.")


def _seen(models: Mapping[str, Entry], data: Observations) -> Seen:
    """Every model with the space of its x: a fit knows its own, a model is taken to be one of ``data``."""
    return {
        name: (entry.model, entry.space) if isinstance(entry, FitResult) else (entry, data.space)
        for name, entry in models.items()
    }


def _evenly(length: int, most: int) -> Tensor:
    """At most so many indices, evenly spread, all if they fit."""
    return torch.linspace(0, length - 1, min(length, most)).round().long()


def _balanced(data: Observations) -> Tensor:
    """Indices of about 1,000 data at most, equally many of each class; of classes below 20, all that there are."""
    if data.labels is None:
        return _evenly(len(data), MOST_POINTS)
    labels = data.labels.cpu()
    classes, counts = labels.unique(return_counts=True)
    each = max(1, min(MOST_POINTS // len(classes), max(20, int(counts.min()))))
    members = [(labels == label).nonzero().flatten() for label in classes]
    return torch.cat([index[_evenly(len(index), each)] for index in members]).sort().values


def _principal_axes(x: Tensor) -> tuple[Tensor, Tensor, list[float]]:
    """Centre (D,), the first two principal axes (D, 2), and their shares of the variance."""
    centre = x.mean(0)
    variances, axes = torch.linalg.eigh((x - centre).T @ (x - centre) / len(x))
    leading = axes.flip(1)[:, :2]
    skewness = ((x - centre) @ leading).pow(3).sum(0)
    leading = torch.where(skewness < 0, -leading, leading)  # a sign that no rotation of z changes
    shares = variances.flip(0)[:2].clamp_min(0) / variances.clamp_min(0).sum().clamp_min(1e-300)
    return centre, leading, shares.tolist()


def _grid(number: int, columns: int) -> tuple[Picture, list[Axes]]:
    """Panels in rows of so many columns."""
    rows = math.ceil(number / columns)
    height = 0.9 + rows * (WIDTH / columns * 0.9 if columns > 1 else 4.5)
    figure = Picture(figsize=(WIDTH, height), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in panels[number:]:
        spare.remove()
    for axes in panels[:number]:
        axes.tick_params(labelsize=SMALL)
    return figure, panels[:number]


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width).replace("$", r"\$")  # a name is no formula
