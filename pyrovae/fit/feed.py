"""Where training by mini-batches finds its data: on the device, or streamed there in chunks.

Both give the same batches: a random order of all data, and of each batch the rows of tensors on the device.  Streamed,
those tensors hold one chunk of that order, while the next is gathered by a thread into pinned memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from pyrovae.data import Observations
from pyrovae.models.base import LatentVariableModel


class Feed(Protocol):
    """Batches of data.

    Attributes:
        observations: Those on the device.
        given: What the programs take beside their x, such as labels, row by row.
    """

    observations: Observations
    given: list[Tensor]

    def __len__(self) -> int:
        """N, the data of an epoch."""
        ...

    def start(self) -> Tensor:
        """The data that the starting parameters are taken from, as the model takes them."""
        ...

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """One pass over all data, in random order: of each batch its rows in ``observations``, on the device."""
        ...


class InMemory:
    """All data on the device.

    Args:
        model: On the device.
        observations: N data.

    Raises:
        ValueError: If the data do not fit the model.
    """

    def __init__(self, model: LatentVariableModel, observations: Observations) -> None:
        self._start, *self.given = model.program_inputs(observations, "data")
        self.observations = _like(observations, self._start)

    def __len__(self) -> int:
        return len(self.observations)

    def start(self) -> Tensor:
        """See :class:`Feed`."""
        return self._start

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """See :class:`Feed`."""
        yield from torch.randperm(len(self), device=self.observations.x.device).split(batch_size)


class Streamed:
    """Data that stay where they are, in memory of the host or a mapped file, and come to the device in chunks.

    The batches are those of :class:`InMemory` on a CPU at the same random state.

    Args:
        model: On the device.
        observations: N data, anywhere.
        rows: Data in a chunk, a multiple of the batch size.

    Raises:
        ValueError: If the data do not fit the model.
    """

    def __init__(self, model: LatentVariableModel, observations: Observations, rows: int) -> None:
        self.model, self.source, self.rows = model, observations, rows
        for first in range(rows, len(observations), rows):  # only to check them
            model.program_inputs(observations[first : first + rows], "data")
        x, *given = model.program_inputs(observations[:rows], "data")
        first_chunk = _like(observations[:rows], x)
        self.observations = replace(first_chunk, x=first_chunk.x.clone())  # which chunk after chunk overwrites
        self.given = [each.clone() for each in given]
        self._sources = [observations.x.reshape(-1, *x.shape[1:]), *([] if not given else [observations.labels])]
        device = x.device
        self._staged = [
            [torch.empty_like(each, device="cpu", pin_memory=device.type == "cuda") for each in (x, *given)]
            for _ in range(2)
        ]
        self._copied: list[torch.cuda.Event | None] = [None, None]

    def __len__(self) -> int:
        return len(self.source)

    def start(self) -> Tensor:
        """See :class:`Feed`: as many as a chunk holds, at random."""
        return self.model.program_inputs(self.source[self._order()[: self.rows]], "data")[0]

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """See :class:`Feed`."""
        chunks = self._order().split(self.rows)
        with ThreadPoolExecutor(1) as worker:
            staged = worker.submit(self._gather, chunks[0], 0)
            for number, chunk in enumerate(chunks):
                staged.result()
                self._put_on_device(len(chunk), number % 2)
                if number + 1 < len(chunks):
                    staged = worker.submit(self._gather, chunks[number + 1], (number + 1) % 2)
                yield from torch.arange(len(chunk), device=self.observations.x.device).split(batch_size)

    def _order(self) -> Tensor:
        return torch.randperm(len(self)).to(self.source.x.device)

    def _gather(self, chunk: Tensor, slot: int) -> None:
        """Copy rows of the data, in their order, to one of two places in pinned memory."""
        if (copied := self._copied[slot]) is not None:
            copied.synchronize()
        for staged, source in zip(self._staged[slot], self._sources, strict=True):
            assert source is not None
            staged[: len(chunk)].copy_(source.index_select(0, chunk))

    def _put_on_device(self, num_rows: int, slot: int) -> None:
        for here, staged in zip((self.observations.x, *self.given), self._staged[slot], strict=True):
            here[:num_rows].copy_(staged[:num_rows], non_blocking=True)
        if self.observations.x.is_cuda:
            self._copied[slot] = torch.cuda.Event()
            self._copied[slot].record()  # type: ignore[union-attr]  # assigned just now


def feed(
    model: LatentVariableModel, observations: Observations, batch_size: int, memory_budget: int | None = None
) -> Feed:
    """The data of a fit: on the device of ``model`` where they fit, else streamed there.

    Args:
        model: On the device.
        observations: N data.
        batch_size: Data in a batch.
        memory_budget: Bytes that data may take on the device; by default, on a GPU where they are not already, half of
            what is free there, and on a CPU no limit.

    Raises:
        ValueError: If the data do not fit the model, or not even one batch the budget.
    """
    if memory_budget is not None and not (isinstance(memory_budget, int) and memory_budget > 0):
        raise ValueError(f"`memory_budget` must be a positive whole number of bytes, got {memory_budget!r}.")
    like = next(model.parameters())
    if memory_budget is None and like.is_cuda and observations.x.device != like.device:
        memory_budget = torch.cuda.mem_get_info(like.device)[0] // 2
    size = observations.num_dims * like.element_size() + (0 if model.num_classes is None else 8)  # bytes of a datum
    if memory_budget is None or size * len(observations) <= memory_budget:
        return InMemory(model, observations)
    if memory_budget < size * batch_size:
        raise ValueError(
            f"`memory_budget` must be at least the {size * batch_size} bytes of a batch of {batch_size}, "
            f"got {memory_budget}."
        )
    return Streamed(model, observations, memory_budget // (size * batch_size) * batch_size)


def _like(observations: Observations, x: Tensor) -> Observations:
    """Observations of the type, device and shape of ``x``, which is what the model takes of them.

    Their own values are kept, since what is resampled is probabilities, of which ``x`` is one draw.
    """
    moved = observations.to(x.device, x.dtype)
    return replace(moved, x=moved.x.reshape(x.shape))
