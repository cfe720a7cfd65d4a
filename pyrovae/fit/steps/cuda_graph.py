"""A training step on a GPU in one launch: gradients and the optimizer as a CUDA graph, with no word to the host."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from pyrovae.fit.steps.captured import CompiledLoss
from pyrovae.fit.steps.interpreted import NoSteps

PLAIN_STEPS = 6  # of which the loss takes four to be captured and compared; the others fill the caches of libraries


class CudaGraphStep:
    """Gradients of a loss and a step of an optimizer, recorded as a CUDA graph after a few steps, and replayed.

    A fused Adam is part of the graph, with its learning rate in a tensor, so that a schedule of it holds; any other
    optimizer takes its steps after the graph, and so does one whose other settings change.

    Args:
        loss: The loss, captured.
        optimizer: Of the parameters of the loss; NoSteps where somebody else takes the steps.
    """

    def __init__(self, loss: CompiledLoss, optimizer: Optimizer | NoSteps) -> None:
        self.loss, self.optimizer, self.replayed = loss, optimizer, loss.evaluate
        self.steps, self.recorded_for = 0, (self.replayed.watched.version, self.replayed.mode())
        self.graph: torch.cuda.CUDAGraph | None = None
        self.settings = other_settings(self.optimizer)
        self.inside = fits_in_graph(self.optimizer)

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Take one step.  Returns the outputs of the loss but the first, on the GPU: nobody waits for them."""
        if self.inside and other_settings(self.optimizer) != self.settings:
            self.inside, self.graph = False, None
        now = self.replayed.watched.version, self.replayed.mode()
        if self.recorded_for != now:  # the loss is captured again
            self.steps, self.graph, self.recorded_for = 0, None, now
        if self.steps < PLAIN_STEPS:
            self.steps += 1
            return self._plain(inputs)[1:]
        if self.graph is None:
            self._record(inputs)
        for static, given in zip(self.inputs, inputs, strict=True):
            static.copy_(given)
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        assert self.graph is not None
        self.graph.replay()
        self.replayed.replays += 1
        if not self.inside:
            for parameter, gradient in zip(self.loss.parameters, self.gradients, strict=True):
                parameter.grad = gradient
            self.optimizer.step()
        return [each.clone() for each in self.outputs[1:]]

    def _plain(self, inputs: tuple[Tensor, ...]) -> Sequence[Tensor]:
        """A step by separate launches, on a stream of its own, as a recording asks for."""
        here, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(here)
        with torch.cuda.stream(side):
            outputs = self.loss(*inputs)
            self.optimizer.step()
        here.wait_stream(side)
        return outputs

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        """Record a step without taking it."""
        device = inputs[0].device
        self.inputs = [each.clone() for each in inputs]
        self.rates = [torch.full((), float(each["lr"]), device=device) for each in self.optimizer.param_groups]
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = self._recorded()
        self.gradients = [each.grad for each in self.loss.parameters]

    def _recorded(self) -> Sequence[Tensor]:
        outputs = self.loss(*self.inputs)
        if self.inside:
            with rates_in_tensors(self.optimizer, self.rates):
                self.optimizer.step()
        return outputs


def fits_in_graph(optimizer: Optimizer | NoSteps) -> bool:
    """Whether a step of the optimizer is only launches: a fused Adam on which nobody has hooked anything."""
    if isinstance(optimizer, NoSteps):
        return False
    hooks: Any = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    fused = all(group.get("fused") and group.get("capturable") is not None for group in optimizer.param_groups)
    return type(optimizer) in (Adam, AdamW) and fused and not any(hooks)


def other_settings(optimizer: Optimizer | NoSteps) -> list[dict[str, Any]]:
    """Everything of an optimizer that a graph would take to be constant."""
    left_out = ("params", "lr", "capturable")
    return [{key: group[key] for key in group if key not in left_out} for group in optimizer.param_groups]


@contextmanager
def rates_in_tensors(optimizer: Optimizer | NoSteps, rates: Sequence[Tensor]) -> Iterator[None]:
    """The learning rates in tensors, as a step that is recorded needs them, and back again."""
    before = [(group["lr"], group["capturable"]) for group in optimizer.param_groups]
    try:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"], group["capturable"] = rate, True
        yield
    finally:
        for group, (lr, capturable) in zip(optimizer.param_groups, before, strict=True):
            group["lr"], group["capturable"] = lr, capturable
