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
from pyrovae.engine.watch import Watched, random_state

Backend = Literal["graph", "inductor"]
BACKENDS = ("graph", "inductor")
Values = Sequence[Tensor | None]

LEARNED = 4  # calls, after which a graph is replayed
WORTHWHILE = 20  # replays between two changes, fewer of which are not worth a capture


class Replayed:
    """A function with a graph for every set of shapes of its inputs.

    The first two calls of a set run the function as it is: what is made lazily is made, and what it changes in Python
    is seen.  The third captures it; the fourth does both with the same draws, to see that they agree; from then on the
    graph is replayed, until Python state has changed.  Every call gives what the function would.

    Args:
        function: Of tensors; returns a sequence of tensors or None.
        reads: The tensors besides its inputs that may be leaves of the gradients it takes; others enter by reference.
        state: Those that it changes, or that are changed between calls, such as the buffers of modules.
        mode: What else it depends on, such as whether modules are in training mode; each mode has a graph.
        watched: The Python state that it can reach.
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
        watched: Watched | None = None,
        backend: Backend = "graph",
        num_gradients: int = 0,
        warning: type[Warning] = UserWarning,
    ) -> None:
        self.function, self.mode, self.backend = function, mode, backend
        self.reads, self.state = list(reads), list(state)
        self.watched = watched or Watched(function)
        self.num_gradients, self.warning = num_gradients, warning
        self.replays = 0
        self._calls: dict[Hashable, int] = {}
        self._graphs: dict[Hashable, Graph] = {}
        self._version, self._replays_then = self.watched.version, -WORTHWHILE
        self._refusal = ""
        self._moved: list[Tensor] = []  # beside the state, what the function changes in place

    def __call__(self, *inputs: Tensor) -> Values:
        """What the function returns."""
        if self._version != self.watched.version:
            self._renew()
        key = self._key(inputs)
        calls = self._calls.get(key, 0)
        return self._replay(key, inputs) if calls == LEARNED else self._learn(key, inputs, calls)

    def is_replayed(self, *inputs: Tensor) -> bool:
        """Whether the graph of these inputs has taken the function's place."""
        return self._version == self.watched.version and self._calls.get(self._key(inputs)) == LEARNED

    def compare(self, *inputs: Tensor) -> None:
        """Compare the graph of these inputs with the function, at the same draws, and leave all as it was.

        Raises:
            NotStatic: If they differ.
        """
        before = self._snapshot()
        try:
            self._compare(self._key(inputs), inputs)
        finally:
            self._restore(before)

    def _key(self, inputs: tuple[Tensor, ...]) -> Hashable:
        return (self.mode(), *((each.shape, each.stride(), each.dtype, each.device) for each in inputs))

    def _renew(self) -> None:
        """Have all graphs captured again, since Python state has changed."""
        if self.replays - self._replays_then < WORTHWHILE:
            raise NotStatic(f"`{self.watched.reason}` keeps changing")
        self._version, self._replays_then, self.backend = self.watched.version, self.replays, "graph"
        self._calls = {key: min(calls, 2) for key, calls in self._calls.items()}

    def _learn(self, key: Hashable, inputs: tuple[Tensor, ...], calls: int) -> Values:
        """One of the first calls, in which the function is seen to change nothing that it may depend on."""
        self.watched.settle()
        if reasons := [*filter(None, [self._refusal]), *self.watched.state.unknown]:
            raise NotStatic(reasons[0])
        if self._version != self.watched.version:  # changed by somebody else since the last call
            return self(*inputs)
        draws = random_state()
        values = (self._evaluate, self._evaluate, self._capture, self._compare)[calls](key, inputs)
        self.watched.look()
        if random_state() != draws:
            self._refusal = "it draws from the random state of Python or NumPy"
        elif self.watched.changed and calls:  # by the first call, what is made lazily
            self._refusal = f"every call of it changes `{self.watched.changed[0]}`"
        self._calls[key] = calls + 1
        return values

    def _evaluate(self, key: Hashable, inputs: tuple[Tensor, ...]) -> Values:
        return self.function(*inputs)

    def _replay(self, key: Hashable, inputs: tuple[Tensor, ...]) -> Values:
        self.replays += 1
        return self._graphs[key](*self.reads, *self.state, *inputs)

    def _capture(self, key: Hashable, inputs: tuple[Tensor, ...]) -> Values:
        before = self._snapshot()
        versions = [(each, each._version) for each in self.watched.state.values.values() if isinstance(each, Tensor)]
        try:
            graph, values = capture(lambda: self.function(*inputs), [*self.reads, *self.state, *inputs])
        except Exception as error:
            self._restore(before)
            if isinstance(error, NotStatic):
                raise
            raise NotStatic(f"tracing it failed with {type(error).__name__}: {error}") from error
        self._graphs[key] = graph
        self.watched.read += graph.constants
        self._moved = [each for each, version in versions if each._version != version]
        return values

    def _compare(self, key: Hashable, inputs: tuple[Tensor, ...]) -> Values:
        """Replay a graph beside the function itself at the same draws; before its first time, compile it."""
        before = self._snapshot()
        expected = self.function(*inputs)
        self._restore(before)
        if self.backend == "inductor" and self._calls[key] == 3:
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
                f"its graph is {apart:.1e} off, relatively, so it depends on something that is no tensor, and changes"
            )
        return values

    def _compile(self, key: Hashable, inputs: tuple[Tensor, ...]) -> None:
        try:
            self._graphs[key] = self._graphs[key].compiled([*self.reads, *self.state, *inputs])
        except Exception as error:  # whatever a compiler can meet
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(
                f"Inductor could not compile the graph ({type(error).__name__}: {reason}); the graph serves as it is.",
                self.warning,
                stacklevel=2,
            )

    def _snapshot(self) -> tuple[list[Tensor], list[Tensor]]:
        states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._cuda_devices())]
        return states, [each.detach().clone() for each in (*self.state, *self._moved)]

    @torch.no_grad()
    def _restore(self, before: tuple[list[Tensor], list[Tensor]]) -> None:
        (cpu, *others), state = before
        torch.set_rng_state(cpu)
        for device, other in zip(self._cuda_devices(), others, strict=True):
            torch.cuda.set_rng_state(other, device)
        for each, value in zip((*self.state, *self._moved), state, strict=True):
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
