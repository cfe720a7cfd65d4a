"""Checks of arguments.  Each raises one sentence: the argument, what was expected, what came, and what to do."""

import math
from collections.abc import Iterable
from numbers import Integral
from typing import Any


def check_whole(
    name: str, value: Any, least: int = 1, most: int | None = None, *, optional: bool = False, hint: str = ""
) -> None:
    """Check a count.

    Args:
        name: Of the argument.
        value: What came.
        least, most: The range, both included.
        optional: Whether None will do.
        hint: What to do.

    Raises:
        ValueError: If it is not a whole number in the range.

    Example:
        >>> check_whole("num_epochs", 2.5)
        Traceback (most recent call last):
        ValueError: `num_epochs` must be a whole number of at least 1, got 2.5.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if (value is None and optional) or (whole and least <= value and (most is None or value <= most)):
        return
    expected = f"of at least {least}" if most is None else f"from {least} to {most}"
    _refuse(name, f"a whole number {expected}{', or None' if optional else ''}", value, hint)


def check_positive(name: str, value: Any, what: str = "number", *, above: float = 0.0, hint: str = "") -> None:
    """Check a number, which must be finite.

    Args:
        name: Of the argument.
        value: What came; a tensor of one number will do.
        what: What the number is.
        above: It must be greater than this.
        hint: What to do.

    Raises:
        ValueError: If it is no such number.

    Example:
        >>> check_positive("floor", -1.0, "variance")
        Traceback (most recent call last):
        ValueError: `floor` must be a positive variance, got -1.0.
    """
    if not above < _number(value) < math.inf:
        _refuse(name, f"a {what} above {above:g}" if above else f"a positive {what}", value, hint)


def check_share(name: str, value: Any) -> None:
    """Check a number between 0 and 1, both excluded.

    Raises:
        ValueError: If it is not.
    """
    if not 0 < _number(value) < 1:
        _refuse(name, "a number between 0 and 1", value)


def check_choice(name: str, value: Any, allowed: Iterable[Any], *, other: str = "") -> None:
    """Check an argument that is one of several values.

    Args:
        name: Of the argument.
        value: What came.
        allowed: Those it may be; ``0`` is not ``False`` here.
        other: What the caller takes besides, in words.

    Raises:
        ValueError: If it is none of them.

    Example:
        >>> check_choice("method", "guess", ("auto", "exact"))
        Traceback (most recent call last):
        ValueError: `method` must be "auto" or "exact", got 'guess'.
    """
    allowed = tuple(allowed)
    if not any(isinstance(value, type(each)) and value == each for each in allowed):
        words = [f'"{each}"' if isinstance(each, str) else str(each) for each in allowed] + [other] * bool(other)
        _refuse(name, f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0], value)


def _number(value: Any) -> float:
    """The value as a float, and NaN for what is no number."""
    try:
        return math.nan if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # a tensor of many numbers raises RuntimeError
        return math.nan


def _refuse(name: str, expected: str, value: Any, hint: str = "") -> None:
    raise ValueError(f"`{name}` must be {expected}, got {value!r}{'; ' if hint else ''}{hint}.")
