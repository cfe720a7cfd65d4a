"""A static function of tensors, called as ever: interpreted at first, then captured, checked and replayed.

What a graph is, and what can be one, :mod:`pyrovae.engine.capture` says.  Here is when it is made, and what makes it
trusted: before it takes the function's place it has given what the function gives, at the same draws.
"""

import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pyrovae.engine.capture import Graph, NotStatic, capture

Backend = Literal["graph", "inductor"]
BACKENDS = ("graph", "inductor")
Values = Sequence[Tensor | None]


class Replayed:
    """A function with a graph for every set of shapes of its inputs.

    The first call runs the function as it is, so that whatever is made lazily is made; the second captures it; the
    third does both with the same draws, to see that they agree; from then on the graph is replayed.  Every call gives
    what the function would.

    Args:
        function: Of tensors; returns a sequence of tensors or None.
        reads: The tensors besides its inputs that may be leaves of the gradients it takes; others enter by reference.
        state: Those that it changes, or that are changed between calls, such as the buffers of modules.
        mode: What else it depends on, such as whether modules are in training mode; each mode has a graph.
        backend: ``"graph"``, or ``"inductor"``, which takes some ten seconds and a C++ compiler, and is faster then.
        num_gradients: How many of the last outputs are compared on the scale of the largest of them, since a gradient
            that is zero by cancellation has no digits.
        warning: The category of the warning that Inductor failed, where the graph serves.

    Raises:
        NotStatic: From a call, if the function is not static; nothing has changed then, random state included.

    Example:
        >>> double = Replayed(lambda x: [2 * x])
        >>> [double(torch.full((), float(each)))[0].item() for each in range(5)]
        [0.0, 2.0, 4.0, 6.0, 8.0]
    """

    def __init__(
        self,
        function: Callable[..., Values],
        reads: Iterable[Tensor] = (),
        state: Iterable[Tensor] = (),
        *,
        mode: Callable[[], Hashable] = lambda: None,
        backend: Backend = "graph",
        num_gradients: int = 0,
        warning: type[Warning] = UserWarning,
    ) -> None:
        self.function, self.mode, self.backend = function, mode, backend
        self.reads, self.state = list(reads), list(state)
        self.num_gradients, self.warning = num_gradients, warning
        self._calls: dict[Hashable, int] = {}
        self._replays: dict[Hashable, Graph] = {}

    def __call__(self, *inputs: Tensor) -> Values:
        """What the function returns."""
        key = self._key(inputs)
        calls = self._calls.get(key, 0)
        take = (self._evaluate, self._capture, self._compare, self._replay)[min(calls, 3)]
        values = take(key, inputs)
        self._calls[key] = calls + 1
        return values

    def _key(self, inputs: tuple[Tensor, ...]) -> Hashable:
        return (self.mode(), *((each.shape, each.stride(), each.dtype, each.device) for each in inputs))

    def _evaluate(self, key: Hashable, inputs: tuple[Tensor, ...]) -> Values:
        return self.function(*inputs)

    def _replay(self, key: Hashable, inputs: tuple[Tensor, ...]) -> Values:
        return self._replays[key](*self.reads, *self.state, *inputs)

    def _capture(self, key: Hashable, inputs: tuple[Tensor, ...]) -> Values:
        before = self._snapshot()
        try:
            graph, values = capture(lambda: self.function(*inputs), [*self.reads, *self.state, *inputs])
        except Exception as error:
            self._restore(before)
            if isinstance(error, NotStatic):
                raise
            raise NotStatic(f"tracing it failed with {type(error).__name__}: {error}") from error
        self._replays[key] = graph
        return values

    def _compare(self, key: Hashable, inputs: tuple[Tensor, ...]) -> Values:
        """Replay a graph for the first time, beside the function itself at the same draws."""
        before = self._snapshot()
        expected = self.function(*inputs)
        self._restore(before)
        if self.backend == "inductor":
            self._compile(key, inputs)
        try:
            values = self._replay(key, inputs)
            apart = _apart(expected, values, len(expected) - self.num_gradients)
        except RuntimeError as error:
            self._restore(before)
            raise NotStatic(f"its graph fails on the next batch: {error}") from error
        if apart != 0:
            self._restore(before)
            raise NotStatic(
                f"on the next batch its graph is {apart:.1e} off, relatively, so it depends on something that is no "
                "tensor, and changes"
            )
        return values

    def _compile(self, key: Hashable, inputs: tuple[Tensor, ...]) -> None:
        try:
            self._replays[key] = self._replays[key].compiled([*self.reads, *self.state, *inputs])
        except Exception as error:  # whatever a compiler can meet
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(
                f"Inductor could not compile the graph ({type(error).__name__}: {reason}); the graph serves as it is.",
                self.warning,
                stacklevel=2,
            )

    def _snapshot(self) -> tuple[list[Tensor], list[Tensor]]:
        states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._cuda_devices())]
        return states, [each.detach().clone() for each in self.state]

    @torch.no_grad()
    def _restore(self, before: tuple[list[Tensor], list[Tensor]]) -> None:
        (cpu, *others), state = before
        torch.set_rng_state(cpu)
        for device, random_state in zip(self._cuda_devices(), others, strict=True):
            torch.cuda.set_rng_state(random_state, device)
        for each, value in zip(self.state, state, strict=True):
            each.copy_(value)

    def _cuda_devices(self) -> list[torch.device]:
        return sorted({each.device for each in (*self.reads, *self.state) if each.is_cuda}, key=str)


def _apart(expected: Values, values: Sequence[Any], outputs: int) -> float:
    """The worst relative error, if it is above half the digits of its type, else 0.

    What comes after so many outputs is compared on the scale of the largest of it.
    """
    shapes = [[None if each is None else each.shape for each in both] for both in (expected, values)]
    if shapes[0] != shapes[1]:
        return math.inf
    pairs = [(one, other) for one, other in zip(expected, values, strict=True) if one is not None]
    sizes = [one.where(one.isfinite(), 0).abs().max().item() for one, _ in pairs]
    sizes[outputs:] = [max(sizes[outputs:], default=0.0)] * (len(pairs) - outputs)
    return max((_error(*pair, size) for pair, size in zip(pairs, sizes, strict=True)), default=0.0)


def _error(one: Tensor, other: Tensor, size: float) -> float:
    """The largest error relative to a size, if it is above half the digits, else 0."""
    allowed = math.sqrt(torch.finfo(one.dtype).eps) * size if one.is_floating_point() else 0.0
    if torch.allclose(one, other, rtol=0.0, atol=allowed, equal_nan=True):
        return 0.0
    error = (one - other).abs().max().item() / size if size > 0 else math.inf
    return error if math.isfinite(error) else math.inf
