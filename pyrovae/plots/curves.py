"""Objectives over updates, against the exact maximum."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, SymmetricalLogLocator
from torch import Tensor

from pyrovae.fit.result import FitResult
from pyrovae.plots.common import NORMAL, check_some, label, legend_beside, number, sheet, style, tidy, wrapped

PATTERNS = [(0, (1, 1.2)), (0, (7, 2, 1, 2)), (0, (12, 3)), (0, (3, 2, 1, 2, 1, 2))]  # of horizontal lines


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
    check_some("results", results, "fit result")
    families: dict[tuple[str, str, str], dict[str, FitResult]] = {}
    for name, result in results.items():
        _check(name, result)
        family = type(result.model).__name__, result.space.reference, result.space.transform_name
        families.setdefault(family, {})[name] = result
    heights = [2.4 if any(len(r.trace) > 1 for r in members.values()) else 1.2 for members in families.values()]
    figure = sheet(0.3 + sum(heights))
    every = figure.subplots(len(families), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, ((family_name, reference, view), members) in zip(every, families.items(), strict=True):
        _panel(axes, members)
        seen = "" if view == "as it is" else f", {view}"
        axes.set_title(f"{family_name}  ({reference}{seen})", loc="left", fontsize=NORMAL)
    return figure


def _check(name: str, result: FitResult) -> None:
    if not isinstance(result, FitResult):
        raise TypeError(f"`results[{name!r}]` must be a FitResult, got {type(result).__name__}; pass what fit gave.")
    for trace in (result.trace, result.valid_trace):
        if trace is not None and not (len(trace) and torch.isfinite(trace).all()):
            raise ValueError(f"`results[{name!r}]` must have traces of finite values, got {trace.tolist()[:5]}.")


def _panel(axes: Axes, members: Mapping[str, FitResult]) -> None:
    """The curves and lines of one family."""
    moving = [(index, name, result) for index, (name, result) in enumerate(members.items()) if len(result.trace) > 1]
    curves = [curve for index, name, result in moving for curve in _draw(axes, name, result, style(index))]
    lines = _maxima(members)
    for pattern, (text, value) in zip(cycle(PATTERNS), lines, strict=False):
        axes.axhline(value, color="black", linewidth=1.1, linestyle=pattern, label=text, zorder=1.5)
    units = {("EM",): "EM iteration", ("SVI",): "SVI epoch", (): "no updates to show"}
    methods = tuple({result.method for _, _, result in moving})
    label(axes, units.get(methods, "update (EM iteration or SVI epoch)"), "nats per datum")
    hidden = _set_limits(axes, curves, [value for _, value in lines])
    if hidden is not None:
        axes.plot([], [], " ", label=hidden)
    axes.grid(color="0.9")
    tidy(axes)
    legend_beside(axes, handlelength=2.6)


def _draw(axes: Axes, name: str, result: FitResult, style: dict[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw the traces of a fit; gives the updates and the values of each."""
    start = 0 if result.method == "EM" else 1  # entry 0 of EM is the start, of SVI the first epoch
    for trace, part, line in ((result.trace, "training", "-"), (result.valid_trace, "validation", "--")):
        if trace is not None:
            values = trace.double().cpu()
            updates = torch.arange(start, start + len(values), dtype=torch.float64)
            fill = style["color"] if line == "-" else "white"
            look = {**style, "markerfacecolor": fill, "markevery": _spread(len(values))}
            text = wrapped(f"{name}: {result.objective}, {part}", 30)
            axes.plot(updates.numpy(), values.numpy(), line, label=text, **look)
            yield updates, values


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
        logarithmic = _scale_updates(axes, torch.cat([updates for updates, _ in curves]))
        low = min([*(_low_end(updates.log1p() if logarithmic else updates, y) for updates, y in curves), *levels])
        high = max([*(y.max().item() for _, y in curves), *levels])
        margin = 0.06 * (high - low) or 1e-3
    else:
        axes.set_xticks([])
        low, high = min(levels), max(levels)
        margin = max(0.2 * (high - low), 0.05 * abs(high), 1e-3)
    axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_locator(MaxNLocator(6 if curves else 3))
    axes.ticklabel_format(axis="y", useOffset=False)
    below = torch.cat([torch.empty(0), *(y[y < low - margin] for _, y in curves)])
    if len(below) == 0:
        return None
    return f"not shown: {len(below):,} value{'s' * (len(below) > 1)} below,\ndown to {number(below.min().item())}"


def _scale_updates(axes: Axes, updates: Tensor) -> bool:
    """Make the horizontal axis logarithmic if there are more than 10 updates; returns whether it is."""
    first, last = updates.min().item(), updates.max().item()
    if last <= 10:
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        return False
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=range(2, 10)))
    axes.set_xlim(first - 0.06, last * 1.07)
    return True


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
