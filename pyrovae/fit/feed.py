"""Where training by mini-batches finds its data: on the device, or streamed there in chunks.

Both give the same batches: a random order of all data, and of each batch the rows of tensors on the device.  Streamed,
those tensors hold one chunk of that order, while the next is gathered by a thread into pinned memory.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor

from pyrovae.data import Observations
from pyrovae.engine.processes import ALONE, ProcessGroup
from pyrovae.models.base import LatentVariableModel

CHUNK_BYTES = 2**28  # on the device where nobody has said how much, and twice as much in pinned memory


class InMemory:
    """Batches of data that are all on the device.

    Args:
        model: On the device.
        observations: N data.

    Attributes:
        observations: Those on the device.
        given: What the programs take beside their x, such as labels, row by row.

    Raises:
        ValueError: If the data do not fit the model.
    """

    def __init__(self, model: LatentVariableModel, observations: Observations) -> None:
        self.model, self.source = model, observations
        x, *self.given = model.program_inputs(observations, "data")
        self.observations = _like(observations, x)

    def __len__(self) -> int:
        """N, the data of an epoch."""
        return len(self.observations)

    def start(self) -> Tensor:
        """The data that the starting parameters are taken from, as the model takes them."""
        return self.model.program_inputs(self.source, "data")[0] if self.source.resample else self.observations.x

    def batches(self, batch_size: int, most: int | None = None) -> Iterator[Tensor]:
        """One pass over all data, in random order: of each batch its rows in ``observations``, on the device.

        A batch of all data has them in their own order, since a guide may hold numbers for every single datum.

        Args:
            batch_size: Data in a batch; the last may be short.
            most: Batches after which the pass ends, all data or not.
        """
        order = torch.randperm(len(self), device=self.observations.x.device)[: _first(batch_size, most)]
        yield from (order if batch_size < len(self) else order.sort().values).split(batch_size)


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
        self.source, self.rows = observations, rows
        for first in range(0, len(observations), rows):  # only to check them
            model.program_inputs(observations[first : first + rows], "data")
        x, *given = model.program_inputs(observations[:1], "data")
        here = [each.new_zeros(rows, *each.shape[1:]) for each in (x, *given)]
        chunk = observations[torch.arange(rows, device=observations.x.device)]
        self.observations = replace(_like(chunk, here[0]), x=here[0])
        self.given = here[1:]
        labels = [] if not given or observations.labels is None else [observations.labels.to(observations.x.device)]
        self._sources = [observations.x.reshape(-1, *x.shape[1:]), *labels]
        self._staged = [
            [torch.empty_like(each, device="cpu", pin_memory=each.is_cuda) for each in here] for _ in range(2)
        ]
        self._copied: list[torch.cuda.Event | None] = [None, None]

    def __len__(self) -> int:
        return len(self.source)

    def start(self) -> Tensor:
        """As many data as a chunk holds, at random."""
        self._gather(self._order()[: self.rows], 0)
        self._put_on_device(self.rows, 0)
        return self.observations.fixed().x

    def batches(self, batch_size: int, most: int | None = None) -> Iterator[Tensor]:
        """As :meth:`InMemory.batches`."""
        chunks = self._order()[: _first(batch_size, most)].split(self.rows)
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
            staged[: len(chunk)].copy_(source.index_select(0, chunk))

    def _put_on_device(self, num_rows: int, slot: int) -> None:
        for here, staged in zip((self.observations.x, *self.given), self._staged[slot], strict=True):
            here[:num_rows].copy_(staged[:num_rows], non_blocking=True)
        if self.observations.x.is_cuda:
            self._copied[slot] = torch.cuda.current_stream(self.observations.x.device).record_event()


Feed = InMemory | Streamed


def open_feed(
    model: LatentVariableModel,
    observations: Observations,
    batch_size: int,
    memory_budget: int | None = None,
    group: ProcessGroup = ALONE,
) -> Feed:
    """The data of a fit: on the device of ``model`` where they fit, else streamed there.

    Args:
        model: On the device.
        observations: N data.
        batch_size: Data in a batch.
        memory_budget: Bytes that data may take on the device: two chunks, since their checks and the start need one
            beside the one that stays.  By default data are streamed, in chunks of some 256 MiB, only to a GPU where
            they are not already and of whose free memory they would take more than half.
        group: The processes that share the fit, all of which stream or none.

    Raises:
        ValueError: If the data do not fit the model, or not even two batches the budget.
    """
    like = model._like
    size = observations.num_dims * like.element_size() + (0 if model.num_classes is None else 8)  # bytes of a datum
    whole, batch = size * len(observations), size * batch_size
    if memory_budget is not None:
        limit, chunk = memory_budget, max(batch, memory_budget // 2)
        if limit < min(2 * batch, whole):
            raise ValueError(
                f"`memory_budget` must be at least the {2 * batch} bytes of two batches of {batch_size}, got {limit}."
            )
    else:
        limit, chunk = whole, max(batch, CHUNK_BYTES)
        if like.is_cuda and observations.x.device != like.device:
            limit = torch.cuda.mem_get_info(like.device)[0] // 2
    if not any(group.gathered(whole > limit)):
        return InMemory(model, observations)
    return Streamed(model, observations, min(chunk // batch * batch_size, len(observations)))


def _first(batch_size: int, most: int | None) -> int | None:
    return None if most is None else batch_size * most


def _like(observations: Observations, x: Tensor) -> Observations:
    """Observations of the type, device and shape of ``x``, which is what the model takes of them.

    What is resampled is probabilities, of which ``x`` is one draw: they are kept.
    """
    values = observations.x.to(x).reshape(x.shape) if observations.resample else x
    labels = None if observations.labels is None else observations.labels.to(x.device)
    return replace(observations, x=values, labels=labels, log_abs_det=observations.log_abs_det.to(x.device))
