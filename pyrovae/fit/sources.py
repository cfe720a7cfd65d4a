"""Where EM finds its data: a tensor, a memory-mapped array or any iterable of batches, in chunks that fit in memory."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data import Observations, Space
from pyrovae.models.linear_algebra import chunk_rows
from pyrovae.models.tractable import TractableModel

START_FLOATS = 2**24  # numbers of data outside of memory, 128 MiB, from which a fit starts
WINDOW_BYTES = 2**22  # of a mapped file that are in memory at once while single rows are picked out of it

Chunk = tuple[Tensor, Tensor | None]


@dataclass(frozen=True, eq=False)
class Source:
    """Data in chunks.

    Attributes:
        chunks: Iterates over (data, what each counts for or None), as the model takes them.
        start: The data that the starting parameters are taken from, and what each counts for.
        space: The space of the data.
    """

    chunks: Callable[[], Iterator[Chunk]]
    start: Callable[[], Chunk]
    space: Space


def open_source(
    model: TractableModel,
    data: Observations | Tensor | np.ndarray | Iterable[Any],
    sample_weight: Tensor | None,
    rows: int | None,
    memory_budget: int | None,
    rank: int = 0,
    world_size: int = 1,
) -> Source:
    """The chunks of ``data`` as ``model`` takes them.

    Args:
        model: The model to be fitted.
        data: What :func:`~pyrovae.fit.em` takes.
        sample_weight: What each datum counts for, (N,), or None.
        rows: Data in a chunk; by default as many as pays.
        memory_budget: Bytes that the data in memory and all that is derived from them may take at once.
        rank: Which part of a tensor or an array is this process's own.
        world_size: Of how many.

    Raises:
        TypeError: If the data are of no kind known here.
        ValueError: If they do not fit the model, or the weights not the data.
    """
    like = next(model.parameters())
    size = like.element_size()
    rows = rows or chunk_rows(model.floats_per_datum, model.smallest_chunk, like.device)
    start_rows: int | None = None
    if memory_budget is not None:
        chunk_bytes, start_bytes = 4 * size * model.floats_per_datum, 16 * size * model.data_shape[0]  # of one datum
        rows, start_rows = min(rows, memory_budget // chunk_bytes), memory_budget // start_bytes
        if rows < 1 or start_rows < 1:
            raise ValueError(
                f"`memory_budget` must be at least the {max(chunk_bytes, start_bytes)} bytes that one datum needs, "
                f"got {memory_budget}."
            )
    if isinstance(data, Observations | Tensor):
        observations = model.checked(data, "data")
        x = observations.x if memory_budget is not None else observations.x.to(like)
        return _rows(
            lambda at: x[at].to(like),
            len(x),
            x.shape,
            sample_weight,
            rows,
            start_rows,
            rank,
            world_size,
            observations.space,
        )
    if isinstance(data, np.ndarray):
        start_rows = start_rows or START_FLOATS // model.data_shape[0]
        read = _reader(model, data)
        return _rows(read, len(data), data.shape, sample_weight, rows, start_rows, rank, world_size, Space())
    if sample_weight is not None:
        raise ValueError("`sample_weight` needs data with an order, a tensor or an array, got batches.")
    if not isinstance(data, Iterable) or isinstance(data, Iterator):
        raise TypeError(
            f"`data` must be Observations, a tensor, an array or an iterable that can be gone through many times, "
            f"got {type(data).__name__}; a generator ends after one pass, so wrap it in a DataLoader or a list."
        )
    return _batches(model, data, rows, start_rows or START_FLOATS // model.data_shape[0])


def _rows(
    read: Callable[[Any], Tensor],
    count: int,
    shape: tuple[int, ...],
    sample_weight: Tensor | None,
    rows: int,
    start_rows: int | None,
    rank: int,
    world_size: int,
    space: Space,
) -> Source:
    """Data that can be read at any rows; the start is the same for every number of processes."""
    if count == 0:
        raise ValueError(f"`data` must hold at least one datum, got shape {tuple(shape)}.")
    if count < world_size:
        raise ValueError(f"`data` must hold at least one datum for each of {world_size} processes, got {count}.")
    probe = read(slice(0, 1))
    weight = checked_weight(sample_weight, count, probe)
    first, last = rank * count // world_size, (rank + 1) * count // world_size

    def weights_at(at: Any) -> Tensor | None:
        return None if weight is None else weight[at]

    def chunks() -> Iterator[Chunk]:
        for begin in range(first, last, rows):
            at = slice(begin, min(begin + rows, last))
            yield read(at), weights_at(at)

    def start() -> Chunk:
        if start_rows is None or count <= start_rows:
            at: Any = slice(0, count)
        else:  # one at random from each of as many equal parts
            parts = torch.arange(start_rows, dtype=torch.float64) + torch.rand(start_rows, dtype=torch.float64)
            at = (parts * (count / start_rows)).long().clamp_max(count - 1)
        return read(at), weights_at(at)

    return Source(chunks, start, space)


def _reader(model: TractableModel, array: np.ndarray) -> Callable[[Any], Tensor]:
    """Reads rows of an array, a slice or ascending indices, as the model takes them.

    Pages of a mapped file are given back once copied.
    """
    mapped = getattr(array, "_mmap", None) if getattr(array, "mode", "c") != "c" else None
    window = max(1, WINDOW_BYTES // max(1, array[:1].nbytes))

    def copied(at: Any) -> Tensor:
        rows = _copied(array[at], model)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)
        return rows

    def read(at: slice | Tensor) -> Tensor:
        if isinstance(at, slice):
            return model.as_input(copied(at), f"data[{at.start}:{at.stop}]")
        pieces = at.split(torch.bincount(at // window).tolist())
        return model.as_input(torch.cat([copied(piece.numpy()) for piece in pieces if len(piece)]), "data[sample]")

    return read


def _copied(array: np.ndarray, model: TractableModel) -> Tensor:
    """An array as a tensor of its own, of the model's type if it holds integers; what it came from is left alone."""
    x = torch.from_numpy(np.array(array))
    return x if x.is_floating_point() else x.to(next(model.parameters()).dtype)


def checked_weight(sample_weight: Tensor | None, count: int, like: Tensor) -> Tensor | None:
    """What each datum counts for, scaled to a mean of 1, as ``like`` is and where it is; None if nobody has said.

    Raises:
        ValueError: If there is not one finite, non-negative number a datum.
    """
    if sample_weight is None:
        return None
    weight = torch.as_tensor(sample_weight)
    if weight.shape != (count,):
        raise ValueError(f"`sample_weight` must have shape ({count},), one entry a datum, got {tuple(weight.shape)}.")
    if not torch.isfinite(weight).all() or (weight < 0).any() or not weight.sum() > 0:
        raise ValueError(
            "`sample_weight` must be finite and not negative, with a positive sum, "
            f"got values in [{weight.min().item():g}, {weight.max().item():g}]."
        )
    return (weight.double() * (count / weight.double().sum())).to(like)


def _batches(model: TractableModel, data: Iterable[Any], rows: int, start_rows: int) -> Source:
    """Batches that come in any size; a batch is a tensor, an array, or a tuple that begins with one."""

    def tensors() -> Iterator[Tensor]:
        number = -1
        for number, batch in enumerate(data):
            x = batch[0] if isinstance(batch, tuple | list) else batch
            yield model.as_input(_copied(x, model) if isinstance(x, np.ndarray) else x, f"batch {number} of data")
        if number < 0:
            raise ValueError(
                "`data` must give at least one batch in every pass, got none; a generator ends after one pass."
            )

    def chunks() -> Iterator[Chunk]:
        for batch in tensors():
            yield from ((chunk, None) for chunk in batch.split(rows))

    def start() -> Chunk:
        """A reservoir: every datum of the first pass is as likely to be among the rows as any other (Vitter 1985)."""
        kept: Tensor | None = None
        seen = 0
        for batch in tensors():
            room = start_rows if kept is None else start_rows - len(kept)
            if room > 0:
                kept = batch[:room].clone() if kept is None else torch.cat([kept, batch[:room]])
                seen += len(batch[:room])
                batch = batch[room:]
            assert kept is not None
            places = (torch.rand(len(batch)) * torch.arange(seen + 1, seen + len(batch) + 1)).long()
            for row in (places < start_rows).nonzero().flatten().tolist():
                kept[places[row]] = batch[row]
            seen += len(batch)
        assert kept is not None
        return kept, None

    return Source(chunks, start, Space())
