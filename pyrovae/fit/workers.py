"""What runs on the worker that has a part of the data: it reads the part, and computes on it."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.arrays import in_words, numbers
from pyrovae.data.weights import as_weight
from pyrovae.fit.sums import Statistics, merge
from pyrovae.models.tractable import TractableModel

Chunk = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Answer:
    """What a function found in a part: how many data, and a value, or an error that no other attempt would mend."""

    number: int
    count: int
    value: Any


class Unreadable(Exception):
    """A part cannot be read; its cause says why."""


class Opened(NamedTuple):
    """A part on its worker: its number, numbers with NaN for what is missing, names of columns, and weights."""

    number: int
    x: Tensor | np.ndarray
    columns: tuple[Any, ...]
    weight: Tensor | None

    @property
    def name(self) -> str:
        return f"part {self.number} of data"


@dataclass(frozen=True)
class Kind:
    """Of a part: how many data, the shape of one, names of columns (None without), and the sum of the weights."""

    count: int
    data_shape: tuple[int, ...]
    columns: tuple[Any, ...]
    weight: float


def answer_from(function: Callable[[Opened], Any], weighted: bool, number: int, part: Any) -> Answer:
    """What is called with a part.  An error of the data or the parameters is returned: a cluster would try again."""
    try:
        opened = _opened(number, part, weighted)
        with torch.no_grad(), _one_thread():
            return Answer(number, len(opened.x), function(opened))
    except Unreadable as unreadable:
        return Answer(number, 0, unreadable.__cause__)
    except torch.linalg.LinAlgError as error:
        return Answer(number, 0, error)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:
        raise Unreadable from error


@contextmanager
def _one_thread() -> Iterator[None]:
    """A block in which torch computes in one thread, as there is a worker for every processor.

    Their number is one for a process; so among the threads of one, nothing is set.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(number)


@_reading()
def _opened(number: int, part: Any, weighted: bool) -> Opened:
    name = f"part {number} of data"
    if isinstance(part, tuple) != weighted or (weighted and len(part) != 2):
        expected = "a pair, data and their weights," if weighted else "data alone"
        raise TypeError(f"`{name}` must be {expected} with weighted={weighted} of fit.Parts, got {in_words(part)}.")
    data, weight = part if weighted else (part, None)
    x = data if isinstance(data, Tensor) else numbers(data, name)
    columns = tuple(getattr(data, "columns", [None] * math.prod(x.shape[1:2])))
    if weight is not None:
        name = f"weights of {name}"
        weight = as_weight(
            weight if isinstance(weight, Tensor) else numbers(weight, name), len(x), name, positive=False
        )
    return Opened(number, x, columns, weight)


def kind_of(part: Opened) -> Kind:
    weight = float(len(part.x)) if part.weight is None else part.weight.sum().item()
    return Kind(len(part.x), tuple(part.x.shape[1:]), part.columns, weight)


def statistics_of(model: TractableModel, rows: int, mean_weight: float, part: Opened) -> Statistics:
    ranges = [slice(begin, min(begin + rows, len(part.x))) for begin in range(0, len(part.x), rows)]
    chunks = (_chunk(model, mean_weight, part, at, f"[{at.start}:{at.stop}]") for at in ranges)
    with model.unchanged():
        return merge(model.expected_statistics(x, weight) for x, weight in chunks)


def rows_at(model: TractableModel, mean_weight: float, steps: np.ndarray, counts: list[int], part: Opened) -> Chunk:
    """Those of some rows, by the steps from one to the next, that are in this part."""
    at = np.cumsum(steps, dtype=np.int64) - sum(counts[: part.number])
    at = at[(at >= 0) & (at < len(part.x))]
    if len(at) == 0:
        return model._like.new_empty(0, *model.data_shape), model._like.new_empty(0)
    return _chunk(model, mean_weight, part, at, "[sample]")


@_reading()
def _chunk(model: TractableModel, mean_weight: float, part: Opened, at: Any, where: str) -> Chunk:
    """Rows as the model takes them, and what each counts for or None."""
    x = part.x[at] if isinstance(part.x, Tensor) else torch.from_numpy(np.array(part.x[at]))
    x = model.as_input(x, part.name + where)
    return x, None if part.weight is None else (part.weight[at] / mean_weight).to(x)
