"""Rows as a table of text, and what its numbers are in sentences."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pyrovae import evaluate
from pyrovae.data import Observations
from pyrovae.evaluate.likelihood.estimate import NO_ERROR
from pyrovae.fit import FitResult
from pyrovae.models.floors import AT_FLOOR
from pyrovae.scoreboard.figures import FLOOR
from pyrovae.scoreboard.rows import Row

if TYPE_CHECKING:
    import pandas as pd

Column = str | tuple[str, Callable[[Row], str]]  # a figure by its name, or a heading and the cell of a row

FEW_DATA = 30  # below which a standard error is not known to a tenth or so
SHOWN = 3  # degeneracies of a fit, in its note


def _basis(row: Row) -> str:
    annealed = ", AIS" if row.estimate.method == "annealed" else ""
    return f"{row.kind}{annealed}{', given y' if row.conditional else ''}"


def _at_floor(row: Row) -> str:
    return row.figures["share_of_dimensions_at_floor"].text() if row.at_floor else ""


COLUMNS: tuple[Column, ...] = (
    *("log_likelihood", "monte_carlo_standard_error", ("how", _basis), "difference", "bits_per_dim"),
    *("reconstruction", "kl", ("at floor", _at_floor), "num_free_parameters", "seconds", "seed_spread"),
)


def cells(rows: Sequence[Row], columns: Sequence[Column] = COLUMNS, decimals: int = 2) -> list[list[str]]:
    """A header, then one line a row, every figure with its standard error; what is empty throughout is left out."""
    filled = [["", *(row.name for row in rows)]]
    for column in columns:
        if isinstance(column, str):
            figures = [row.figures[column] for row in rows]
            filled.append([figures[0].heading, *(figure.text(decimals) for figure in figures)])
            filled.append(["± s.e.", *(figure.error_text(decimals) for figure in figures)])
        else:
            heading, cell = column
            filled.append([heading, *map(cell, rows)])
    return [list(line) for line in zip(*(column for column in filled if any(column[1:])), strict=True)]


def notes(rows: Sequence[Row], data: Observations) -> list[str]:
    """What the numbers are, in sentences."""
    scale = f"Means over {len(data):,} held-out data, nats per datum, higher is better"
    about_rows = (_on_differences, _on_bounds, _on_errors, _on_fits, _on_floors)
    said = [note for about in about_rows for note in about(rows)]
    return [f"{scale}; space: {data.space.reference}.", *about_data(data), *said]


def about_data(data: Observations) -> list[str]:
    """What the data keep the numbers from saying: values that are missing, too few data."""
    share = data.x.isnan().sum().item() / data.x.numel()
    missing = f"{share:.1%} of the values are missing: log p(x) and bits are of the observed ones, whatever the model."
    few = (
        f"N = {len(data)}: from so few data, standard errors are rough at best, and the order of models may be chance."
    )
    return [missing] * (share > 0) + [few] * (len(data) < FEW_DATA)


def _on_differences(rows: Sequence[Row]) -> list[str]:
    others = [row for row in rows[1:] if row.conditional == rows[0].conditional]
    if not others:
        return []
    equal = "; ".join(row.name for row in others if not row.told_apart)
    bounds = "; ".join(row.name for row in others if row.kind == "bound" and row.difference)
    apart = "each other row is below the best by more than chance over these data explains"
    decided = f"Δ, paired over data (t test, 5%): {f'not told apart from the best: {equal}' if equal else apart}."
    return [decided, *([f"Bounds below the best, whose log p(x) may be higher: {bounds}."] if bounds else [])]


def _on_bounds(rows: Sequence[Row]) -> list[str]:
    bounds = [row for row in rows if row.kind == "bound"]
    notes = list(dict.fromkeys(f"bound: {row.meaning[0].lower()}{row.meaning[1:]}" for row in bounds))
    if tails := [row for row in bounds if row.has_tail]:
        threshold = evaluate.k_hat_threshold(tails[0].num_particles)
        shares = "; ".join(f"{row.figures['k_hat_share'].text()} of the data under {row.name}" for row in tails)
        notes.append(f"Pareto k̂ > {threshold:.2f}, where more particles may raise the value: {shares}.")
    if any(row.conditional for row in rows):
        notes.append(
            "given y: log p(x|y), the label told, where the other rows are log p(x): not to be ranked "
            "against them (evaluate.log_likelihood_by_class leads from the one to the other)."
        )
    return notes


def _on_errors(rows: Sequence[Row]) -> list[str]:
    bounds = [row for row in rows if row.kind == "bound"]
    notes = []
    if untailed := "; ".join(row.name for row in bounds if math.isnan(row.k_hat_share)):
        notes.append(f"k̂ is not available for {untailed}.")
    for mark, reason in NO_ERROR.items():
        if marked := "; ".join(row.name for row in bounds if row.estimate.mark == mark):
            notes.append(f"{mark} in place of a Monte-Carlo error, for {marked}: {reason}.")
    return notes + [f"{row.name}: {row.too_low}" for row in bounds if row.too_low]


def _on_fits(rows: Sequence[Row]) -> list[str]:
    found = [(row.name, row.entry.degeneracies) for row in rows if isinstance(row.entry, FitResult)]
    return [
        f"{name} is a degenerate fit: {'; '.join(lines[:SHOWN])}{', and more' if len(lines) > SHOWN else ''}."
        for name, lines in found
        if lines
    ]


def _on_floors(rows: Sequence[Row]) -> list[str]:
    notes = []
    for row in rows:
        if row.at_floor is not None:
            floor, _, share, ceiling, _, change = (row.figures[name].text() for name in FLOOR)
            higher = f"with {row.at_floor.raised_floor:g} the score changes by {change}"
            notes.append(f"{row.name}: ε = {floor}, at {share} of the data; {higher}; ceiling {ceiling}.")
    what = f"the share of variances of what the model sees at the floor ε, up to {AT_FLOOR:g} ε"
    said = f"at floor: {what}; the score depends on ε."
    return [said, *notes] if notes else []


def to_dataframe(rows: Sequence[Row]) -> "pd.DataFrame":
    """One line a row, without the pointwise values."""
    import pandas as pd

    return pd.DataFrame.from_records([row.record() for row in rows]).set_index("name")
