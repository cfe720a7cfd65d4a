"""Data in parts that lie elsewhere, on the workers of a cluster say: sums over them come to the fit, the rows stay.

Whoever holds the parts says how a function is called with each of them; EM asks for nothing else.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data import Space
from pyrovae.fit.sums import Statistics, merge
from pyrovae.fit.workers import Answer, Chunk, Kind, Opened, answer_from, kind_of, rows_at, statistics_of
from pyrovae.models.tractable import TractableModel


class Parts:
    """Data in parts, each of which is computed on where it is: in another process, or on another machine.

    ``fit.em`` sends the model there, and adds up the sums that come back in the order of the parts: the result depends
    neither on how many workers there are nor on which is the first.  A fit starts from the rows that it would take of
    an array of all of them, 2²⁴ numbers at most, which do come.

    ``docs/how_to/fit_on_dask.md`` and ``docs/how_to/fit_on_spark.md`` do it on clusters.

    Args:
        over: Takes a function, calls it with (number, part) for every part, numbered from 0, and returns what it gave,
            in any order.  The function can be pickled, and may be called again where a worker was lost.  A part is an
            array, a tensor, a pandas table or a list of rows, the same at every call; it may be empty.
        weighted: Whether a part is a pair: data, and what each datum counts for.

    Example:
        >>> from pyrovae import PPCA, fit
        >>> x = torch.randn(90, 4, generator=torch.Generator().manual_seed(0)).double()
        >>> parts = Parts(lambda function: map(function, range(2), [x[:50], x[50:]]))
        >>> parts.shape
        (90, 4)
        >>> here, there = (fit.em(PPCA(1, 4), data, accelerate=False, tolerance=1e-4) for data in (x, parts))
        >>> torch.allclose(here.trace, there.trace, rtol=1e-10)
        True
    """

    def __init__(self, over: Callable[[Callable[[int, Any], Any]], Iterable[Any]], *, weighted: bool = False) -> None:
        self.over, self.weighted = over, weighted

    def values(self, function: Callable[[Opened], Any]) -> Iterator[Any]:
        """What the function gives for every part, in the order of the parts.

        Raises:
            TypeError: If ``over`` gives something else, or a part is of no kind known here.
            ValueError: If not every part came once, or one cannot be read.
            torch.linalg.LinAlgError: If the function raised it.
        """
        known: tuple[Kind, ...] = vars(self).get("kinds", ())
        number = -1
        for number, answer in enumerate(_in_order(self.over(partial(answer_from, function, self.weighted)))):
            if isinstance(answer.value, Exception):
                raise answer.value
            if known and [answer.count] != [kind.count for kind in known[number : number + 1]]:
                raise ValueError(
                    f"`part {number} of data` must be the same at every call, got {answer.count} data, which is not as "
                    "before; keep it in memory or in a file."
                )
            yield answer.value
        if number + 1 < max(1, len(known)):
            raise _lost(number + 1)

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """What each part is like.

        Raises:
            ValueError: If there are no data, or those of one part are unlike those of another.
        """
        kinds = tuple(self.values(kind_of))
        filled = [number for number, kind in enumerate(kinds) if kind.count]
        if not filled:
            raise ValueError(f"`data` must hold at least one datum, got none in {len(kinds)} parts.")
        first = kinds[filled[0]]
        for number in filled:
            if (shape := kinds[number].data_shape) != first.data_shape:
                raise ValueError(
                    f"`part {number} of data` must have shape {_shape(first.data_shape)}, as part {filled[0]} has, "
                    f"got {_shape(shape)}; every part needs the same columns."
                )
            for name, expected in zip(kinds[number].columns, first.columns, strict=True):
                if name != expected:
                    raise ValueError(
                        f"`part {number} of data` must have the columns of part {filled[0]}, got {name!r} in place of "
                        f"{expected!r}; select them by name, in one order."
                    )
        return kinds

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all the data, (N, *data_shape)."""
        data_shape = next(kind.data_shape for kind in self.kinds if kind.count)
        return (sum(kind.count for kind in self.kinds), *data_shape)


@dataclass(frozen=True, eq=False)
class PartsSource:
    """What :class:`~pyrovae.fit.sources.Rows` is for an array, for parts of one.

    Attributes:
        model: The model that takes them.
        data: The parts.
        rows: Data in a chunk.
        start_rows: Data that a fit starts from.
        space: The space of the data.

    Raises:
        ValueError: If the data do not fit the model, or none counts for anything.
    """

    model: TractableModel
    data: Parts
    rows: int
    start_rows: int
    space: Space = field(default_factory=Space)

    def __post_init__(self) -> None:
        if (shape := self.data.shape[1:]) != self.model.data_shape:
            raise ValueError(
                f"`data` must have shape {_shape(self.model.data_shape)} in every part, got {_shape(shape)}; build the "
                "model with the `data_shape` of the data."
            )
        if not self._mean_weight > 0:
            raise ValueError("`data` must have weights with a positive sum, got 0 in every part.")

    @cached_property
    def _mean_weight(self) -> float:
        return math.fsum(kind.weight for kind in self.data.kinds) / self.data.shape[0]

    def statistics(self, model: TractableModel) -> Statistics:
        """The E step: the sums of all parts."""
        return merge(self.data.values(partial(statistics_of, model, self.rows, self._mean_weight)))

    def start(self) -> Chunk:
        """The data that the starting parameters are taken from."""
        count = self.data.shape[0]
        return self._picked(one_of_each(self.start_rows, count) if count > self.start_rows else torch.arange(count))

    def first(self) -> Tensor:
        """Some data, the first."""
        return self._picked(torch.arange(min(self.rows, self.data.shape[0])))[0]

    def _picked(self, at: Tensor) -> Chunk:
        """The rows at ascending indices, and what each counts for or None."""
        counts = [kind.count for kind in self.data.kinds]
        steps = at.diff(prepend=at.new_zeros(1)).numpy()
        steps = steps.astype(np.min_scalar_type(steps.max()))  # in few bytes: they go to every part
        values = list(self.data.values(partial(rows_at, self.model, self._mean_weight, steps, counts)))
        weight = torch.cat([weight for _, weight in values]) if self.data.weighted else None
        return torch.cat([x for x, _ in values]), weight


def one_of_each(number: int, count: int) -> Tensor:
    """So many of ``count`` indices, ascending: one at random from each of as many equal ranges."""
    ranges = torch.arange(number, dtype=torch.float64) + torch.rand(number, dtype=torch.float64)
    return (ranges * (count / number)).long().clamp_max(count - 1)


def _in_order(answers: Any) -> Iterator[Answer]:
    """Answers by their numbers, as soon as those before have come."""
    early: dict[int, Answer] = {}
    following = 0
    for answer in answers if isinstance(answers, Iterable) else [answers]:
        if not isinstance(answer, Answer):
            raise TypeError(
                "`over` must return a list of what the function gave for each part, got "
                f"{type(answer).__name__}; collect, or gather, what the workers hold."
            )
        if answer.number < following or answer.number in early:
            raise ValueError(f"`over` must give every part a number of its own, got {answer.number} twice.")
        early[answer.number] = answer
        while following in early:
            yield early.pop(following)
            following += 1
    if early:
        raise _lost(following)


def _lost(number: int) -> ValueError:
    return ValueError(f"`over` must call the function for every part, numbered from 0, got nothing for part {number}.")


def _shape(data_shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, ('N', *data_shape)))})"
