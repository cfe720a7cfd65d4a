"""The scoreboard as a dot plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyrovae.data import Observations
from pyrovae.plots.common import COLOURS, NORMAL, SMALL, WIDTH, Picture, number, tidy, wrapped


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
    if not rows:
        raise ValueError("`board` must hold at least one row, got none; compare at least one model.")
    figure = Picture(figsize=(WIDTH, 1.75 + 0.36 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    draws = sorted({_drawn(row) for row in rows if row.kind != "exact"})
    styles = [
        (True, "o", COLOURS[0], COLOURS[0], "exact log p(x)"),
        (False, ">", COLOURS[1], "white", f"lower bound by {', '.join(draws)}: log p(x) lies to the right"),
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
    axes.set_yticks(range(len(rows)), [wrapped(row.name, 26) for row in rows], fontsize=NORMAL)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("held-out log p(x), nats per datum (higher is better)", fontsize=NORMAL)
    axes.tick_params(axis="x", labelsize=SMALL)
    axes.grid(axis="x", color="0.88")
    tidy(axes)
    _print_numbers(axes, rows)
    space = board.data.space.reference
    figure.suptitle(wrapped(f"{space}: N = {len(board.data):,} held-out data", 90), fontsize=10)
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
