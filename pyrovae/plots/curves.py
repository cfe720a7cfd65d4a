"""Objectives over updates, against the exact maximum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, SymmetricalLogLocator
from torch import Tensor

from pyrovae.fit.result import FitResult
from pyrovae.plots.common import COLOURS, MARKERS, NORMAL, SMALL, WIDTH, Picture, number, tidy, wrapped


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
    for index, (name, result) in enumerate(members.items()):
        if len(result.trace) == 1:
            continue
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
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
                label=wrapped(f"{name}: {result.objective}, {part}", 30),
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
    tidy(axes)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=SMALL, frameon=False, handlelength=2.6)


def _maxima(members: Mapping[str, FitResult]) -> list[tuple[str, float]]:
    """Label and height of every horizontal line."""
    single = {name: result for name, result in members.items() if len(result.trace) == 1}
    lines = []
    for name, result in single.items():
        what = "global maximum" if result.method == "closed form" else f"{result.objective} by {result.method}"
        lines.append((wrapped(f"{name}: {what}, {number(result.trace[-1].item())}", 30), result.trace[-1].item()))
    known = max((r.trace[-1].item() for r in single.values() if r.method == "closed form"), default=-math.inf)
    best = max((r.trace[-1].item() for r in members.values() if r.method == "EM"), default=-math.inf)
    if best > known + 1e-6:  # else the closed form is the better line; so is it to rounding for one model
        lines.append((f"best end of EM, {number(best)}", best))
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
    return f"not shown: {len(below):,} value{'s' * (len(below) > 1)} below,\ndown to {number(below.min().item())}"


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
