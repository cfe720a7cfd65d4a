"""A step of SVI as Pyro interprets it: the loss of a batch, its gradients, and a step of the optimizer."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pyrovae.engine.replay import Replayed
from pyrovae.fit.loss import BatchLoss
from pyrovae.fit.training import require_finite


class NoSteps:
    """An optimizer that leaves its steps to somebody else."""

    param_groups: Sequence[dict[str, Any]] = ()

    def step(self) -> None:
        """Take none."""


class Step:
    """One step, interpreted by Pyro or by what is given for it; steps of other kinds have the same two methods.

    Args:
        loss: Of a batch.
        optimizer: Of its parameters; :class:`NoSteps` where only the gradients are wanted.
        evaluate: Gives what ``loss`` does, and the gradients; by default in Python.
    """

    def __init__(
        self, loss: BatchLoss, optimizer: Optimizer | NoSteps, evaluate: Callable[..., Sequence[Any]] | None = None
    ) -> None:
        self.loss, self.optimizer = loss, optimizer
        self.evaluate = evaluate or partial(with_gradients, loss, loss.parameters)
        self.replayed = evaluate if isinstance(evaluate, Replayed) else None

    def __call__(self, index: Tensor) -> Sequence[Tensor]:
        """Take one step on the data at ``index``.

        Returns:
            The loss before the step, nats, summed over these data, and the x that was drawn for it.

        Raises:
            NotFinite: If the loss is not finite; no parameter has changed then.
        """
        _, value, x = set_gradients(self.loss.parameters, self.evaluate(index))
        require_finite(value)
        self.optimizer.step()
        return value, x

    def again(self, index: Tensor, x: Tensor) -> Tensor:
        """The loss of a batch once more, for the same x, with the current parameters."""
        return self.loss.on(x, *(each[index] for each in self.loss.feed.given)).detach()

    def check(self, compare: bool) -> None:
        """After the steps of an epoch: nothing is replayed here, so nothing can be out of date."""

    def settle(self) -> None:
        """After all else of an epoch, such as a callback: what has changed there is to hold from here on."""

    def go_on(self, num_calls: int) -> None:
        """Be interpreted from here on, after so many calls, of the step and of ``again``."""


def with_gradients(
    function: Callable[..., Sequence[Tensor]], parameters: Sequence[Tensor], *inputs: Any
) -> Sequence[Any]:
    """What a function returns, detached, and the gradients of the first of it; None for a frozen parameter."""
    trained = [each for each in parameters if each.requires_grad]
    with torch.enable_grad():
        outputs = function(*inputs)
        gradients = torch.autograd.grad(outputs[0], trained, allow_unused=True) if trained else ()
    found = dict(zip(trained, gradients, strict=True))
    return [*(each.detach() for each in outputs), *map(found.get, parameters)]


def set_gradients(parameters: Sequence[Tensor], values: Sequence[Any]) -> Sequence[Tensor]:
    """Set ``grad`` of the parameters to the last of the values; returns the others."""
    outputs = len(values) - len(parameters)
    for parameter, gradient in zip(parameters, values[outputs:], strict=True):
        parameter.grad = gradient
    return values[:outputs]
