"""The scoreboard as a dot plot."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyrovae.data import Observations
from pyrovae.plots.common import COLOURS, NORMAL, SMALL, check_some, headline, label, number, panel, wrapped


class Board(Protocol):
    """What :func:`scoreboard` reads of a :class:`pyrovae.scoreboard.comparison.Scoreboard`."""

    @property
    def rows(self) -> Sequence[Any]: ...

    @property
    def data(self) -> Observations: ...


def scoreboard(board: Board) -> Figure:
    """Held-out log p(x) of every model with its 95% interval over test data, best on top.

    Exact values are filled discs.  A bound is a hollow triangle that points to where the truth
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
    check_some("board", rows, "row")
    figure, axes = panel(1.75 + 0.36 * len(rows))
    draws = sorted({_drawn(row) for row in rows if row.kind != "exact"})
    bound = f"lower bound by {', '.join(draws)}: log p(x) lies to the right"
    _points(axes, rows, True, "exact log p(x)", fmt="o", color=COLOURS[0])
    _points(axes, rows, False, bound, fmt=">", color=COLOURS[1], markerfacecolor="white")
    refits = [(mean, y + 0.27) for y, row in enumerate(rows) if len(row.seed_means) > 1 for mean in row.seed_means]
    if refits:
        axes.plot(*zip(*refits, strict=True), "|", color="black", markersize=6, label="fits by seed")
    label(axes, "held-out log p(x), nats per datum (higher is better)", "")
    axes.set_yticks(range(len(rows)), [wrapped(row.name, 26) for row in rows], fontsize=NORMAL)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", color="0.88")
    _print_numbers(axes, rows)
    headline(figure, f"{board.data.space.reference}: N = {len(board.data):,} held-out data")
    entries = zip(*axes.get_legend_handles_labels(), strict=True)
    handles, labels = zip(*sorted(entries, key=lambda entry: entry[1] == "fits by seed"), strict=True)
    figure.legend(
        handles,
        labels,
        loc="outside lower left",
        title="Bars: 95% (1.96 s.e. over data). Δ: paired datum by datum.",
        title_fontsize=SMALL,
        alignment="left",
        fontsize=SMALL,
        frameon=False,
    )
    return figure


def _points(axes: Axes, rows: Sequence[Any], exact: bool, label: str, **style: Any) -> None:
    """Means and intervals of the exact rows, or of the bounds.  What is not finite has no place on the axis."""
    chosen = {y: row for y, row in enumerate(rows) if (row.kind == "exact") == exact}
    if chosen:
        means, errors = np.array([(row.mean, row.standard_error) for row in chosen.values()]).T
        places, bars = np.where(np.isfinite(means), means, np.nan), 1.96 * np.where(np.isfinite(errors), errors, 0)
        shape: dict[str, Any] = {"markeredgewidth": 1.4, "markersize": 7, "elinewidth": 1.4}
        axes.errorbar(places, list(chosen), xerr=bars, label=label, **shape, **style)


def _drawn(row: Any) -> str:
    """What a bound was made of."""
    return f"{row.num_particles:,} {'annealed chains' if row.estimate.method == 'annealed' else 'particles'}"


def _print_numbers(axes: Axes, rows: Sequence[Any]) -> None:
    """Two right-aligned columns beside the axes: the mean, and the difference to the best."""
    means = [f"{'' if row.kind == 'exact' else '≥ '}{number(row.mean)} ± {number(row.standard_error)}" for row in rows]
    differences = ["best"] + [f"{number(row.difference)} ± {number(row.difference_standard_error)}" for row in rows[1:]]
    edge = 2.0
    for header, cells in (("mean ± s.e.", means), ("Δ best ± s.e.", differences)):
        edge += 5.2 * max(map(len, (header, *cells))) + 8  # points; a digit of 9 points is 5.7 wide, a space 2.9
        options: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "ha": "right"}
        axes.annotate(header, (1, -0.75), (edge, 0), va="bottom", fontsize=SMALL, annotation_clip=False, **options)
        for y, cell in enumerate(cells):
            axes.annotate(cell, (1, y), (edge, 0), va="center", fontsize=NORMAL, annotation_clip=False, **options)
