"""Batches dealt into shards, each with draws of its own: one after the other, and shared among processes.

The gradient of a batch is the mean of its shards' over all of their data.  What is drawn for a shard depends on the
seed, the step and the number of the shard alone, so that the fit is the same, but for rounding, wherever each is
computed: n shards in one process (gradient accumulation) are one in each of n.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from pyrovae.engine.processes import ProcessGroup
from pyrovae.engine.seeding import block_seed, seeded
from pyrovae.fit.loss import BatchLoss
from pyrovae.fit.steps.captured import Captured, Stale
from pyrovae.fit.steps.interpreted import Step, set_gradients
from pyrovae.fit.training import require_finite


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

    @torch.no_grad()
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
        changes = [each.to(torch.promote_types(each.dtype, like[0].dtype)) for each in before]
        totals = [torch.zeros_like(each) for each in (*like, *changes)]
        failure: Exception | None = None
        self.calls += 1
        try:
            for number, part in self.own(index):
                with torch.enable_grad(), seeded(block_seed(self.seed, self.calls * self.number + number)):
                    values = function(part)
                for total, value in zip(totals, [*values, *map(_change, before, self.buffers)], strict=True):
                    total.add_(len(part) / len(index) * value)
                _put(self.buffers, before)
        except Exception as error:  # the other processes wait for this one's share of the sums
            failure = error
            _put(self.buffers, before)
            totals[0].fill_(math.nan)
        totals = self.group.sums(totals)
        if failure is not None:
            raise failure
        _put(self.buffers, list(map(_moved, before, totals[len(like) :])))
        return totals[: len(like)]


class Sharded:
    """A step whose batch is dealt into shards.

    Args:
        step: Gives the gradients of a part; the optimizer is not its own.
        loss: Of a batch.
        optimizer: Of its parameters.
        shards: The parts.
    """

    def __init__(self, step: Step | Captured, loss: BatchLoss, optimizer: Optimizer, shards: Shards) -> None:
        self.step, self.loss, self.optimizer, self.shards = step, loss, optimizer, shards

    @property
    def like(self) -> list[Tensor]:
        """Tensors like a loss and the gradients of what is not frozen at the moment."""
        return [self.loss.parameters[0].new_zeros(()), *(each for each in self.loss.parameters if each.requires_grad)]

    def __call__(self, index: Tensor) -> Sequence[Tensor]:
        """A step, as :class:`~pyrovae.fit.steps.interpreted.Step` takes it, but each part has an x of its own."""
        _, *trained = like = self.like
        mean, *gradients = self.shards.mean(self._gradients, index, like)
        if not mean.is_cuda:  # a look would wait for the GPU; the caller looks after the epoch
            require_finite(mean)
        set_gradients(trained, gradients)
        self.optimizer.step()
        return mean * len(index), index

    def again(self, index: Tensor, _: Tensor) -> Tensor:
        """The mean loss once more, with the current parameters and new draws."""
        return self.shards.mean(self._mean, index, self.like[:1])[0]

    def check(self, compare: bool) -> None:
        """As the steps of the parts, in all processes alike."""
        stale: Exception | None = None
        try:
            self.step.check(compare)
        except Stale as error:
            stale = error
        if any(self.shards.group.gathered(float(stale is not None))):
            raise stale or Stale("it is out of date in another process")

    def settle(self) -> None:
        """As the steps of the parts."""
        self.step.settle()

    def go_on(self, num_calls: int) -> None:
        """As the steps of the parts; the draws are those of the next call."""
        self.step.go_on(num_calls)
        self.shards.calls = num_calls

    def _gradients(self, part: Tensor) -> Sequence[Tensor]:
        value = self.step(part)[0]
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in self.like[1:]]
        return [value / len(part), *gradients]

    def _mean(self, part: Tensor) -> Sequence[Tensor]:
        return [self.loss.on(*self.loss.batch(part)).detach() / len(part)]


def _put(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for each, value in zip(tensors, values, strict=True):
        each.copy_(value)


def _change(before: Tensor, after: Tensor) -> Tensor:
    return (after - before).masked_fill(after == before, 0)  # of ∞, too


def _moved(before: Tensor, change: Tensor) -> Tensor:
    return before + (change if before.is_floating_point() else change.round().to(before.dtype))
