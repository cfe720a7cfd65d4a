"""Data as people hold them: arrays, masked ones too, tables of pandas, lists of rows, Datasets and DataLoaders."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

NUMBERS = "biuf"  # kinds of numpy's types: Boolean, integer, unsigned, floating point
BATCH = 1024  # data of a Dataset that are collated together


def numbers(data: Any, name: str) -> np.ndarray:
    """An array, a pandas table or a list of rows as floating point, with NaN for what is missing or masked.

    Raises:
        TypeError: If it is none, or holds no numbers.
        ValueError: If rows have different lengths.
    """
    if hasattr(data, "iloc"):  # of pandas
        for column, kind in (data if hasattr(data, "columns") else data.to_frame()).dtypes.items():
            if kind.kind not in NUMBERS and len(data):  # an empty table knows no types
                raise TypeError(
                    f"`{name}` must hold numbers, got {kind} in column {column!r}; drop it, or convert it by "
                    "astype(float)."
                )
        single = len(data) > 0 and all(kind == np.float32 for kind in np.atleast_1d(data.dtypes))
        return data.to_numpy("float32" if single else "float64", na_value=np.nan)
    if not isinstance(data, np.ndarray | list | tuple):
        raise TypeError(
            f"`{name}` must be Observations, a torch.Tensor, an array, a pandas table, a list of rows, a Dataset or a "
            f"DataLoader, got {in_words(data)}; make it an array by np.array(list(rows), dtype=float)."
        )
    kind = getattr(data, "dtype", np.dtype(object))
    if kind.kind not in NUMBERS + "O":
        raise TypeError(f"`{name}` must hold numbers, got {kind}; convert them by astype(float).")
    try:
        array = np.ma.array(data, dtype=np.float32 if kind == np.float32 else np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be numbers in rows of one length, which numpy says of it: {error}.") from error
    return np.atleast_1d(np.ma.filled(array, np.nan))


def in_words(data: Any) -> str:
    """What an argument is, for a sentence."""
    return f"a tuple of {len(data)}" if isinstance(data, tuple) else type(data).__name__


def is_dataset(data: Any) -> bool:
    """Whether it is a Dataset or a DataLoader of torch."""
    return isinstance(data, Dataset | DataLoader)


def gathered(data: Any, name: str) -> tuple[Tensor, Tensor | None]:
    """All of a Dataset or a DataLoader, one pass of it: data, and labels where there are whole numbers beside them.

    Raises:
        TypeError: If its items are no tensors or arrays, or an endless stream.
        ValueError: If it is empty.
    """
    if isinstance(data, Dataset):
        if isinstance(data, IterableDataset):
            raise TypeError(f"`{name}` must have an end, got an IterableDataset; pass a DataLoader of it.")
        data = DataLoader(data, batch_size=BATCH)
    parts: list[tuple[Tensor, Tensor | None]] = []
    for batch in data:
        first, *others = batch if isinstance(batch, tuple | list) else [batch]
        x = first if isinstance(first, Tensor) else torch.tensor(numbers(first, name))
        y = others[0] if others and isinstance(others[0], Tensor) and not others[0].is_floating_point() else None
        parts.append((x, y if y is not None and y.shape == (len(x),) else None))
    if not parts:
        raise ValueError(f"`{name}` must hold at least one datum, got an empty {type(data).__name__}.")
    labels = [y for _, y in parts if y is not None]
    return torch.cat([x for x, _ in parts]), torch.cat(labels) if len(labels) == len(parts) else None
