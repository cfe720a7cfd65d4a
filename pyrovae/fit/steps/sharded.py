"""Batches dealt into shards, each with draws of its own: one after the other, and shared among processes.

The gradient of a batch is the mean of its shards' over all of their data.  What is drawn for a shard depends on the
seed, the step and the number of the shard alone, so that the fit is the same, but for rounding, wherever each is
computed: n shards in one process (gradient accumulation) are one in each of n.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyrovae.engine.processes import ProcessGroup
from pyrovae.engine.seeding import block_seed, seeded
from pyrovae.fit.steps.cuda_graph import CudaGraphStep
from pyrovae.fit.steps.training import Run, Update


class Shards:
    """A batch in parts, of which each process has its own.

    Args:
        number: Of parts.
        group: The processes; part i is that of process i modulo their number.
        seed: Seed of all draws.
        buffers: Tensors that the work on a part may change, such as running means: every part begins with what they
            were, and the mean over the data of what became of them is kept.
    """

    def __init__(self, number: int, group: ProcessGroup, seed: int, buffers: Sequence[Tensor] = ()) -> None:
        self.number, self.group, self.seed = number, group, block_seed(seed)  # apart from an evaluation's blocks
        self.buffers = [each for each in buffers if each.dtype is not torch.bool]
        self.calls = 0

    def own(self, index: Tensor) -> list[tuple[int, Tensor]]:
        """The parts of this process, with their numbers; none is empty, and sizes differ by at most 1."""
        parts = list(enumerate(index.tensor_split(self.number)))
        return [(number, part) for number, part in parts[self.group.rank :: self.group.number] if len(part)]

    def mean(
        self, function: Callable[[Tensor], Sequence[Tensor]], index: Tensor, like: Sequence[Tensor]
    ) -> list[Tensor]:
        """The mean over data of what a function gives for the parts of a batch, over all processes.

        Args:
            function: Of a part; gives means over its data.
            index: The data of the batch, the same in every process.
            like: Tensors of the shapes of what the function gives, the first a scalar.

        Returns:
            The same in every process; the first is NaN if the function failed in another, and where it failed, its
            error is raised.
        """
        before = [each.clone() for each in self.buffers]
        sums = [torch.zeros_like(each) for each in like]
        changes = [torch.zeros_like(each, dtype=torch.promote_types(each.dtype, like[0].dtype)) for each in before]
        failure: Exception | None = None
        self.calls += 1
        for number, part in self.own(index):
            try:
                with seeded(block_seed(self.seed, self.calls * self.number + number)):
                    values = function(part)
            except Exception as error:  # the other processes wait for this one's share of the sums
                failure, values = error, [torch.full_like(each, math.nan) for each in like]
            _add(sums, values, len(part) / len(index))
            _add(changes, [_change(*each) for each in zip(before, self.buffers, strict=True)], len(part) / len(index))
            _put(self.buffers, before)
            if failure is not None:
                break
        both = self.group.sums([*sums, *changes])
        if failure is not None:
            raise failure
        _put(self.buffers, [_moved(*each) for each in zip(before, both[len(like) :], strict=True)])
        return both[: len(like)]


class ShardedRun(Run):
    """A training run whose batches are dealt into shards.

    Args:
        *args, **options: As for :class:`~pyrovae.fit.steps.training.Run`.
        num_shards: Parts of a batch.
        group: The processes that share them.
        seed: Seed of their draws.
    """

    def __init__(self, *args: Any, num_shards: int, group: ProcessGroup, seed: int, **options: Any) -> None:
        super().__init__(*args, **options)
        group.copy_from_first(self.model.state_dict().values())
        self.shards = Shards(num_shards, group, seed, list(self.loss.buffers()))
        first = torch.arange(min(self.batch_size, len(self.source)))
        self.usual_sizes = Counter(len(part) for _, part in self.shards.own(first))
        self.like = [self.parameters[0].new_zeros(()), *self.parameters]

    def validate(self, inputs: tuple[Tensor, ...], seed: int) -> float:
        """As in one process, and the first process's value in all, so that all decide alike."""
        super().validate(inputs, seed)
        self.valid_trace[-1] = self.shards.group.gathered(self.valid_trace[-1])[0]
        return self.valid_trace[-1]

    def _descend(self, index: Tensor, *weight: Tensor) -> Sequence[Tensor]:
        descend = super()._descend

        def gradients(part: Tensor) -> Sequence[Tensor]:
            mean = descend(part, *weight)[0]
            return [mean, *(torch.zeros_like(each) if each.grad is None else each.grad for each in self.parameters)]

        mean, *averages = self._checked(
            lambda: self.shards.mean(gradients, index, self.like),
            lambda: self._batch(index),
            look=index.device.type != "cuda",  # where a look would wait for the step; epochs look
        )
        for parameter, gradient in zip(self.parameters, averages, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        return mean, mean * len(index), index

    def _update(self, size: int) -> Update:
        """How the gradients of a part of this size are had; the step is taken when all are added up."""
        loss, way = self._loss_for(size)
        if way == "cuda_graph":
            return CudaGraphStep(loss, None)
        return loss if way else loss.run

    def _check_last(self, index: Tensor, x: Tensor) -> None:
        def loss(part: Tensor) -> list[Tensor]:
            return [self.loss(*self._batch(part)).detach() / len(part)]

        self._checked(lambda: self.shards.mean(loss, index, self.like[:1]), lambda: self._batch(index))


@torch.no_grad()
def _add(totals: Sequence[Tensor], values: Sequence[Tensor], share: float) -> None:
    for total, value in zip(totals, values, strict=True):
        total.add_(share * value)


@torch.no_grad()
def _put(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for each, value in zip(tensors, values, strict=True):
        each.copy_(value)


def _change(before: Tensor, after: Tensor) -> Tensor:
    return (after - before).masked_fill(after == before, 0)  # of ∞, too


def _moved(before: Tensor, change: Tensor) -> Tensor:
    return before + (change if before.is_floating_point() else change.round().to(before.dtype))
