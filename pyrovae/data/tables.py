"""Tables of numbers as people have them: CSV by any separator, encoding or compression, read by pandas.

Nothing is taken or left out in silence: :class:`Table` says what was read and what was not, and why.  What could be
read in two ways is refused, with what to do.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pyrovae.data.table_columns import LABELS, Column, listed
from pyrovae.data.table_form import text_frame, unique
from pyrovae.engine.checks import check_choice

Missing = Literal["error", "nan", "drop"]
FEW = 10  # values that increase by chance
BINARY = "holds zeros and ones alone"
SENTINELS = (-9.0, -99.0, -999.0, -9999.0, 9999.0, 99999.0)


class TableWarning(UserWarning):
    """A column of a table may not be what a density of numbers is meant for."""


@dataclass(frozen=True)
class TableOptions:
    """What of a table is read: see :func:`pyrovae.data.load`.

    Raises:
        ValueError: If ``missing`` is unknown.
    """

    label: str | None = None
    drop: tuple[str, ...] = ()
    missing: Missing = "error"

    def __post_init__(self) -> None:
        check_choice("missing", self.missing, ("error", "nan", "drop"))


WHOLE = TableOptions()


@dataclass(frozen=True, eq=False)
class Table:
    """What was read.

    Attributes:
        x: Shape (N, D), float64; NaN where a cell is missing.
        names: Of the D columns.
        labels: Shape (N,), or None.
        rows: The row in the file of each, counted from 1 without the header, shape (N,).
        about: What was read and what was left out, in a line.
        left_out: Names of other columns of the file.
    """

    x: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray | None
    rows: np.ndarray
    about: str
    left_out: tuple[str, ...]


def read_table(path: Path, options: TableOptions = WHOLE, columns: Sequence[str] | None = None) -> Table:
    """Read a table.

    Args:
        path: The file.
        options: What of it.
        columns: These columns, in this order, of which none is judged; None for all that hold numbers.

    Raises:
        ValueError: If it cannot be read in one way only, or a column is not there; it says what to do.

    Warns:
        TableWarning: If columns are constant, zeros and ones, look like an id or hold a code for missing values.
    """
    frame, said = text_frame(path)
    frame.columns = unique(list(frame.columns), said)
    _check_names(path, list(frame.columns), options, columns)
    kinds = {name: Column(name, frame[name], path) for name in frame.columns if name not in options.drop}
    left_out: dict[str, str] = dict.fromkeys(options.drop, "as asked")
    labels, chosen = None, None
    if columns is None:
        chosen = options.label or _label_of(kinds, said)
        labels = None if chosen is None else kinds.pop(chosen).labels()
        for name, column in kinds.items():
            if reason := column.left_out(first=name == frame.columns[0]):
                left_out[name] = reason
    taken = [name for name in kinds if name not in left_out] if columns is None else list(columns)
    if not taken:
        raise ValueError(
            f"`name` must be a table with a column of numbers, got none in {path.name!r}: {_why(left_out)}."
        )
    x = np.column_stack([kinds[name].numbers() for name in taken])
    x, labels, rows = _without_missing(path, x, labels, taken, options.missing, said)
    if columns is None:
        _warn_of_doubts(x, taken)
    about = [f"{len(x):,} rows, {x.shape[1]:,} columns: {listed(taken)}"]
    if chosen is not None:
        about.append(f"labels from {chosen!r}")
    if left_out:
        about.append(f"left out: {_why(left_out)}")
    others = tuple(name for name in frame.columns if columns is not None and name not in columns)
    return Table(x, tuple(taken), labels, rows, "; ".join([*about, *said]), others)


def _check_names(path: Path, names: list[str], options: TableOptions, columns: Sequence[str] | None) -> None:
    """Refuse names of columns that are not there."""
    for argument, asked in (("label", [options.label] if options.label else []), ("drop", options.drop)):
        if lost := [name for name in asked if name not in names]:
            raise ValueError(
                f"`{argument}` must name columns of {path.name!r}, got {lost[0]!r}; there are {listed(names)}."
            )
    if lost := [name for name in columns or () if name not in names]:
        raise ValueError(
            f"`name` must have the columns that the model was fitted to, got {str(path)!r} without "
            f"{', '.join(map(repr, lost))}."
        )


def _label_of(kinds: dict[str, Column], said: list[str]) -> str | None:
    """The column that labels are taken from unasked, if there is one, and one alone."""
    named = [name for name in kinds if name.lower() in LABELS]
    found = [name for name in named if kinds[name].could_be_labels()]
    if len(found) > 1:
        raise ValueError(f"`label` must be given where several columns may be it, got {listed(found)}; name one.")
    for name in named:
        if name not in found and kinds[name].is_numeric:
            said.append(f"{name!r} is taken for a feature, as it holds no few classes")
    return found[0] if found and len(kinds) > 1 else None


def _without_missing(
    path: Path,
    x: np.ndarray,
    labels: np.ndarray | None,
    names: list[str],
    missing: str,
    said: list[str],
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Rows of which every cell is there, unless missing ones may stay."""
    if (infinite := np.argwhere(np.isinf(x))).size:
        n, d = infinite[0]
        raise ValueError(f"`name` must hold finite numbers, got {x[n, d]} in row {n + 1} of {names[d]!r}; mend it.")
    holes, rows = np.isnan(x), np.arange(1, len(x) + 1)
    if not holes.any():
        return x, labels, rows
    count, bad = holes.sum(0), holes.any(1)
    where = listed([f"{name} ({number})" for name, number in zip(names, count, strict=True) if number], quoted=False)
    if missing == "error":
        raise ValueError(
            f"`missing` must be 'nan' or 'drop' for {path.name!r}, which lacks values in {bad.sum():,} of {len(x):,} "
            f"rows: {where}; 'nan' keeps them for models that take missing values, 'drop' drops these rows."
        )
    if missing == "nan":
        if holes.all(1).any():
            raise ValueError(
                f"`name` must have a value in every row, got none in row {rows[holes.all(1)][0]}; delete it."
            )
        said.append(f"{int(count.sum()):,} missing values kept, in {where}")
        return x, labels, rows
    said.append(f"{bad.sum():,} rows with missing values dropped, for {where}")
    return x[~bad], None if labels is None else labels[~bad], rows[~bad]


def _warn_of_doubts(x: np.ndarray, names: list[str]) -> None:
    """Warn of columns whose density says little, or that stand for something else."""
    doubts: dict[str, list[str]] = {}
    for name, values in zip(names, x.T, strict=True):
        if reason := _doubt(values[~np.isnan(values)], name):
            doubts.setdefault(reason, []).append(name)
    if doubts.get(BINARY) == names:
        doubts = {f"{BINARY}, as all do: take observations='binary'": names}
    if doubts:
        said = "; ".join(f"{listed(columns)} {reason}" for reason, columns in doubts.items())
        warnings.warn(f"{said}; leave out by `drop` what is no measurement.", TableWarning, stacklevel=5)


def _doubt(values: np.ndarray, name: str) -> str:
    """Why a column may be no measurement; ``""`` where nothing speaks against it."""
    distinct = np.unique(values)
    if len(distinct) == 1:
        return "is constant"
    if np.isin(distinct, (0, 1)).all():
        return BINARY
    if (values % 1 == 0).all() and len(distinct) == len(values) > 2:
        called = re.search(r"(^|[ _.-])id$|^id([ _.-]|$)", name.lower())
        if called or (len(values) >= FEW and (np.diff(values) > 0).all()):
            return "looks like an id"
    for code in set(SENTINELS) & set(distinct.tolist()):
        rest = distinct[distinct != code]
        if len(rest) > 2 and not rest.min() - np.ptp(rest) <= code <= rest.max() + np.ptp(rest):
            return f"may hold {code:g} for missing values"
    return ""


def _why(left_out: dict[str, str]) -> str:
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason, []).append(name)
    return ", ".join(f"{listed(names)} ({reason})" for reason, names in by_reason.items())
