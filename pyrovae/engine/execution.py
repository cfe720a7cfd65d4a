"""How a computation runs, as one value: compiled or not, in which precision, in how many parts, in how much memory."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, cast

from pyrovae.engine.processes import ProcessGroup, process_group

Compile = Literal["auto", "graph", "inductor", "cuda_graph", False]
Precision = Literal["full", "bf16"]
Function = TypeVar("Function", bound=Callable[..., Any])

COMPILE = ("auto", "graph", "inductor", "cuda_graph", False)
PRECISION = ("full", "bf16")


@dataclass(frozen=True)
class Execution:
    """How a fit or an evaluation runs.  But for rounding it changes no result, except where a field says so.

    ``fit.svi`` follows every field; ``fit.em`` follows ``distributed`` and ``memory_budget``; evaluators follow
    ``distributed``.  A function ignores the fields that it does not follow.

    Attributes:
        compile: How a step of SVI is computed.  ``False``: by Pyro in Python.  ``"graph"``: by a graph of its
            operations, captured once and replayed.  ``"inductor"``: by what Inductor compiles of that graph, in some
            ten seconds and with a C++ compiler.  ``"cuda_graph"``: on a GPU, with the optimizer, in one launch.
            ``"auto"``: the fastest of these for the number of steps.
        precision: ``"full"``: that of the parameters.  ``"bf16"``: linear and convolutional layers in bfloat16 during
            training, and everything else in float32.
        num_shards: Parts of a batch of SVI.  Each part has draws of its own, so fits differ from number to number.  By
            default one part for each process.
        distributed: Share the work among the processes of ``torch.distributed`` (see ``torchrun``), which must be
            initialised.  Every process gets the same arguments and returns the same result.
        memory_budget: Bytes that the data of a fit may take on the device.  Larger data come in chunks; the start is
            then taken from a random part of the data.

    Raises:
        ValueError: If a field is out of range.

    Example:
        >>> Execution(compile=False).precision
        'full'
    """

    compile: Compile = "auto"
    precision: Precision = "full"
    num_shards: int | None = None
    distributed: bool = False
    memory_budget: int | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("compile", self.compile, COMPILE),
            ("precision", self.precision, PRECISION),
            ("distributed", self.distributed, (True, False)),
        ):
            if value not in known or (isinstance(value, int) and not isinstance(value, bool)):
                raise ValueError(f"`{name}` must be one of {known}, got {value!r}.")
        for name, count in (("num_shards", self.num_shards), ("memory_budget", self.memory_budget)):
            if count is not None and not (isinstance(count, int) and not isinstance(count, bool) and count >= 1):
                raise ValueError(f"`{name}` must be a whole number of at least 1, or None, got {count!r}.")

    def process_group(self) -> ProcessGroup:
        """The processes that share the work: those of ``torch.distributed``, or this one alone.

        Raises:
            ValueError: If there is no process group.
        """
        return process_group(self.distributed)


DEFAULT = Execution()


def keywords_moved(**arguments: type) -> Callable[[Function], Function]:
    """For a function whose keywords have become fields of one value: an old keyword raises, and names its new place.

    Args:
        **arguments: The argument that takes the value, and the dataclass of the value.

    Example:
        >>> @keywords_moved(execution=Execution)
        ... def fit(data, execution=DEFAULT): ...
        >>> fit([], compile=False)
        Traceback (most recent call last):
        TypeError: `compile` of fit() is now a field of Execution: pass execution=Execution(compile=...).
    """
    place = {field.name: (argument, kind) for argument, kind in arguments.items() for field in fields(kind)}

    def decorate(function: Function) -> Function:
        moved = place.keys() - inspect.signature(function).parameters.keys()

        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            for name in sorted(moved & kwargs.keys()):
                argument, kind = place[name]
                raise TypeError(
                    f"`{name}` of {function.__name__}() is now a field of {kind.__name__}: "
                    f"pass {argument}={kind.__name__}({name}=...)."
                )
            return function(*args, **kwargs)

        return cast(Function, checked)

    return decorate
