"""Rows of another file in the columns that a model was fitted to: found by name, in the same units, seen alike."""

import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pyrovae.data import DataSet, Observations
from pyrovae.data.loading import observed
from pyrovae.data.provenance import DTYPES, MANY, OBSERVATIONS, OtherDataError, Provenance
from pyrovae.data.readers import own_file
from pyrovae.data.table_form import is_table
from pyrovae.data.tables import WHOLE, TableOptions

FEW = 10  # rows whose spread says nothing
NARROW = 0.01  # of the range of the training data: less looks like another unit
NAMED = 3  # columns in a warning


class NewRowsWarning(UserWarning):
    """New rows are not like the data that a model was fitted to: in other units, perhaps, or with other columns."""


def new_rows(provenance: Provenance, name: str) -> Observations:
    """All rows of a file, as a model that was fitted to other data sees them.

    Args:
        provenance: The data that the model was fitted to.
        name: The file, which has their columns: by name, in any order and beside others, if they have names.

    Raises:
        OtherDataError: If columns are missing, or the values are of another kind.

    Warns:
        NewRowsWarning: If they do not look like the training data, or have other columns beside theirs.
    """
    table = TableOptions(missing="nan") if is_table(Path(name)) else WHOLE
    source = own_file(name, None, table, provenance.names)
    if source.left_out:
        left_out = ", ".join(map(repr, source.left_out))
        warnings.warn(f"the model knows no columns {left_out}, which are left out.", NewRowsWarning, stacklevel=2)
    missing = source.x.isnan()
    generator, dtype = torch.Generator().manual_seed(provenance.seed), DTYPES[provenance.dtype]
    whole = replace(source, x=source.x.masked_fill(missing, 0))
    x, space = observed(whole, OBSERVATIONS[provenance.space.support], True, dtype, generator)
    x = x.masked_fill(missing, torch.nan) if missing.any() else x
    if not provenance.is_of_kind(space, name):
        raise OtherDataError(
            f"`name` must lead to data of the kind that the model was fitted to, {provenance.space.reference!r}, got "
            f"{space.reference!r}."
        )
    found = Observations(
        x.to(dtype),
        source.labels,
        space,
        image_shape=provenance.image_shape,
        names=provenance.names,
        rows=source.rows,
    )
    if provenance.ranges is not None:
        low, high = torch.tensor(provenance.ranges, dtype=torch.float64)
        warn_off_range(x.double(), low, high, found)
    return provenance.seen(found)


def same_or_new(provenance: Provenance, name: str) -> DataSet | Observations:
    """The data that a model was fitted to, split as they were, wherever they are now; else the rows of another file.

    Args, Raises, Warns: As for :func:`new_rows`.
    """
    try:
        return provenance.load(name)
    except ValueError:  # other data, or data that cannot be split
        return new_rows(provenance, name)


def about_rows(provenance: Provenance, rows: Observations) -> list[str]:
    """What of new rows the model has seen before, in a sentence; nothing if it is known that it has seen none."""
    known = provenance.known_rows(rows)
    if known is None:
        return ["Whether some of these rows were training data, nobody knows: the file of the model does not say."]
    few = "" if provenance.sizes[0] <= MANY else f" at least, of those {MANY:,} that are known again"
    seen = f"{known:,} of the {len(rows):,} rows are training data{few}, whose log p(x) is no held-out one."
    return [seen] * (known > 0)


def warn_off_range(x: Tensor, low: Tensor, high: Tensor, data: Observations) -> None:
    """Warn of columns of new rows that do not look like those of the training data.

    Such are columns with a value further outside the range of the training data than that is wide; columns of which no
    value is inside; and columns of ten values or more that spread over less than a hundredth of it.

    Args:
        x: New rows in the units of the file, (N, D); NaN is missing.
        low, high: Ranges of the training data, (D,).
        data: The same, which knows what columns and rows are called.
    """
    width, seen = high - low, ~x.isnan()
    outside = torch.maximum(low - x, x - high).nan_to_num(nan=-torch.inf)  # by how much, where it is positive
    spread = x.nan_to_num(nan=-torch.inf).amax(0) - x.nan_to_num(nan=torch.inf).amin(0)
    off = (outside > width).any(0) | ((outside > 0) | ~seen).all(0) & seen.any(0)
    narrow = (seen.sum(0) >= FEW) & (spread < NARROW * width)
    columns = ((off | narrow) & width.isfinite()).nonzero().flatten().tolist()
    if not columns:
        return
    said = []
    for d in columns[:NAMED]:
        worst, number = int(outside[:, d].argmax()), int((outside[:, d] > 0).sum())
        where = f"{number} of {len(x)} rows outside, {data.datum(worst)} by most, {x[worst, d]:g}"
        what = where if off[d] else f"all rows within {spread[d]:.2g}"
        said.append(f"{data.column(d)} from {low[d]:g} to {high[d]:g} ({what})")
    more = f", and {len(columns) - NAMED} more" if len(columns) > NAMED else ""
    warnings.warn(
        f"new rows do not look like the training data, with {'; '.join(said)}{more}: in other units, perhaps; log p(x) "
        "is that of the values as they stand.",
        NewRowsWarning,
        stacklevel=3,
    )
