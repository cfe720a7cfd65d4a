"""Where EM finds its data: a tensor, a memory-mapped array or any iterable of batches, in chunks that fit in memory."""

import math
import mmap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyrovae.data import Observations, Space, as_observations
from pyrovae.data.weights import as_weight
from pyrovae.engine.processes import ALONE, ProcessGroup
from pyrovae.fit.parts import Parts, PartsSource, one_of_each
from pyrovae.fit.sums import Statistics, merge
from pyrovae.fit.workers import Chunk
from pyrovae.models.linear_algebra import chunk_rows
from pyrovae.models.tractable import TractableModel

START_FLOATS = 2**24  # numbers of data outside of memory, 128 MiB, from which a fit starts
WINDOW_BYTES = 2**22  # of a mapped file that are in memory at once while single rows are picked out of it


class Limits(NamedTuple):
    """Of memory: data in a chunk, and data that a fit starts from, or None for all."""

    rows: int
    start_rows: int | None


class Chunks(ABC):
    """Data that a fit goes through in chunks, once for every E step."""

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """The data of this process, and what each counts for or None, as the model takes them."""

    def statistics(self, model: TractableModel) -> Statistics:
        """The E step: the sums of all chunks."""
        return merge(model.expected_statistics(x, weight) for x, weight in self.chunks())

    def first(self) -> Tensor:
        """Some data, the first."""
        return next(self.chunks())[0]


class Rows(Chunks):
    """Data that can be read at any rows: a tensor, or an array in memory or in a file.

    Args:
        read: Gives the rows at a slice or at ascending indices, as the model takes them.
        shape: Of the data, (N, *data_shape).
        sample_weight: What each datum counts for, (N,), or None.
        limits: Of memory.
        group: The processes, each of which goes through a part of the rows.
        space: The space of the data.

    Raises:
        ValueError: If there are too few data, or the weights do not fit them.
    """

    def __init__(
        self,
        read: Callable[[Any], Tensor],
        shape: Sequence[int],
        sample_weight: Tensor | None,
        limits: Limits,
        group: ProcessGroup,
        space: Space,
    ) -> None:
        self.read, self.count, self.limits, self.group, self.space = read, shape[0], limits, group, space
        if self.count == 0:
            raise ValueError(f"`data` must hold at least one datum, got shape {tuple(shape)}.")
        if self.count < group.number:
            raise ValueError(
                f"`data` must hold at least one datum for each of {group.number} processes, got {self.count}."
            )
        self.weight = checked_weight(sample_weight, self.count, read(slice(0, 1)))

    def chunks(self) -> Iterator[Chunk]:
        rank, number = self.group.rank, self.group.number
        first, last = rank * self.count // number, (rank + 1) * self.count // number
        for begin in range(first, last, self.limits.rows):
            yield self._at(slice(begin, min(begin + self.limits.rows, last)))

    def start(self) -> Chunk:
        """The data that the starting parameters are taken from, the same in every process."""
        number = self.limits.start_rows
        if number is None or self.count <= number:
            return self._at(slice(0, self.count))
        return self._at(one_of_each(number, self.count))

    def _at(self, at: Any) -> Chunk:
        return self.read(at), None if self.weight is None else self.weight[at]


@dataclass(frozen=True, eq=False)
class Batches(Chunks):
    """Batches of any size, each process's own; a batch is a tensor, an array, or a tuple that begins with one.

    Attributes:
        model: The model that takes them.
        data: Gives the batches, once for every pass.
        rows: Data in a chunk.
        start_rows: Data that a fit starts from.
        space: The space of the data.
    """

    model: TractableModel
    data: Iterable[Any]
    rows: int
    start_rows: int
    space: Space = field(default_factory=Space)

    def chunks(self) -> Iterator[Chunk]:
        for batch in self._tensors():
            yield from ((chunk, None) for chunk in batch.split(self.rows))

    def start(self) -> Chunk:
        """A reservoir: every datum of the first pass is as likely to be among the rows as any other (Vitter 1985)."""
        kept, seen = None, 0
        for batch in self._tensors():
            kept = batch[:0] if kept is None else kept
            room = self.start_rows - len(kept)
            if room > 0:
                kept = torch.cat([kept, batch[:room]])
                seen, batch = len(kept), batch[room:]
            places = (torch.rand(len(batch)) * torch.arange(seen + 1, seen + len(batch) + 1)).long()
            for row in (places < self.start_rows).nonzero().flatten().tolist():
                kept[places[row]] = batch[row]
            seen += len(batch)
        assert kept is not None
        return kept, None

    def _tensors(self) -> Iterator[Tensor]:
        number = -1
        for number, batch in enumerate(self.data):
            x = batch[0] if isinstance(batch, tuple | list) else batch
            x = _copied(x, self.model) if isinstance(x, np.ndarray) else x
            yield self.model.as_input(x, f"batch {number} of data")
        if number < 0:
            raise ValueError(
                "`data` must give at least one batch in every pass, got none; a generator ends after one pass."
            )


Source = Rows | Batches | PartsSource


def open_source(
    model: TractableModel,
    data: Observations | Tensor | np.ndarray | Parts | Iterable[Any],
    sample_weight: Tensor | None = None,
    rows: int | None = None,
    memory_budget: int | None = None,
    group: ProcessGroup = ALONE,
) -> Source:
    """The chunks of ``data`` as ``model`` takes them.

    Args:
        model: The model to be fitted.
        data: What :func:`~pyrovae.fit.em` takes.
        sample_weight: What each datum counts for, (N,), or None.
        rows: Data in a chunk; by default as many as pays.
        memory_budget: Bytes that the data in memory and all that is derived from them may take at once.
        group: The processes that share a tensor or an array.

    Raises:
        TypeError: If the data are of no kind known here.
        ValueError: If they do not fit the model, or the weights not the data.
    """
    limits = _limits(model, rows, memory_budget)
    if hasattr(data, "iloc") or isinstance(data, np.ma.MaskedArray | Dataset) or _is_rows(data):
        data = as_observations(data, allow_nan=model.missing == "nan")
    if isinstance(data, Observations | Tensor):
        observations, like = model.checked(data, "data"), model._like
        x = observations.x if memory_budget else observations.x.to(like)
        return Rows(lambda at: x[at].to(like), x.shape, sample_weight, limits, group, observations.space)
    start_rows = limits.start_rows or max(1, START_FLOATS // math.prod(model.data_shape))
    if isinstance(data, np.ndarray):
        limits = Limits(limits.rows, start_rows)
        return Rows(_reader(model, data), data.shape, sample_weight, limits, group, Space())
    if sample_weight is not None:
        hint = "parts; give them with the data, fit.Parts(..., weighted=True)" if isinstance(data, Parts) else "batches"
        raise ValueError(f"`sample_weight` needs data with an order, a tensor or an array, got {hint}.")
    if isinstance(data, Parts):
        if group.distributed:
            raise ValueError(
                "`distributed` shares out rows among processes, but fit.Parts has workers of its own; leave it out."
            )
        return PartsSource(model, data, limits.rows, start_rows)
    if not isinstance(data, Iterable) or isinstance(data, Iterator):
        raise TypeError(
            f"`data` must be Observations, a tensor, an array or an iterable that can be gone through many times, "
            f"got {type(data).__name__}; a generator ends after one pass, so wrap it in a DataLoader or a list."
        )
    return Batches(model, data, limits.rows, start_rows)


def _is_rows(data: Any) -> bool:
    """Whether it is a list of rows of numbers, and not of batches."""
    first = data[0] if isinstance(data, list) and data else None
    return isinstance(first, list | tuple) and bool(first) and isinstance(first[0], int | float | np.number)


def _limits(model: TractableModel, rows: int | None, memory_budget: int | None) -> Limits:
    like = model._like
    rows = rows or chunk_rows(model.floats_per_datum, model.smallest_chunk, like.device)
    if memory_budget is None:
        return Limits(rows, None)
    chunk_bytes, start_bytes = (  # of one datum
        like.element_size() * floats for floats in (4 * model.floats_per_datum, 16 * math.prod(model.data_shape))
    )
    if memory_budget < max(chunk_bytes, start_bytes):
        raise ValueError(
            f"`memory_budget` must be at least the {max(chunk_bytes, start_bytes)} bytes that one datum needs, "
            f"got {memory_budget}."
        )
    return Limits(min(rows, memory_budget // chunk_bytes), memory_budget // start_bytes)


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
    return x if x.is_floating_point() else x.to(model._like.dtype)


def checked_weight(sample_weight: Tensor | None, count: int, like: Tensor) -> Tensor | None:
    """What each datum counts for, scaled to a mean of 1, as ``like`` is and where it is; None if nobody has said.

    Raises:
        ValueError: If there is not one finite, non-negative number a datum.
    """
    if sample_weight is None:
        return None
    weight = as_weight(sample_weight, count)
    return (weight * (count / weight.sum())).to(like)
