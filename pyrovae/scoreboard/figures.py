"""A figure is a number with a name, a meaning and an error; here it is written, for every table, report and file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Unit = Literal["nats", "change", "bits", "share", "variance", "seconds", "count"]


@dataclass(frozen=True)
class Figure:
    """A number that is shown.

    Attributes:
        name: Its key in files.
        meaning: What it is, in a few words.
        value: The number; None where a model has no such number.
        error: Its standard error, where it has one.
        unit: What it counts, which decides how it is written; a ``"change"`` is one of nats, with its sign.
    """

    name: str
    meaning: str
    value: float | None
    error: float | None = None
    unit: Unit = "nats"

    def text(self, decimals: int = 2) -> str:
        """The value, in nats to so many decimals and in other units to match; ``""`` for None.

        Example:
            >>> share = Figure("share", "share of the data", 0.1234, unit="share")
            >>> share.text(), share.text(decimals=3), Figure("kl", "KL", 1234.567).text()
            ('12%', '12.3%', '1,234.57')
        """
        if self.value is None:
            return ""
        least = 10.0**-decimals
        small = self.unit == "share" and 0 < self.value < least
        forms: dict[Unit, str] = {
            "nats": f"z,.{decimals}f",
            "change": f"+z,.{decimals}f",
            "bits": f"z,.{max(decimals, 3)}f",
            "share": f".{decimals - 2}%",
            "variance": "g",
            "seconds": ".1f",
            "count": ",",
        }
        return f"{'<' if small else ''}{least if small else self.value:{forms[self.unit]}}"

    def error_text(self, decimals: int = 2) -> str:
        """The standard error to so many decimals; ``""`` where there is none."""
        return "" if self.error is None else f"{self.error:,.{decimals}f}"


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of text, all of one length: the first column to the left, the others to the right.

    Example:
        >>> aligned([["", "value"], ["KL", "1.25"]])
        ['    value', 'KL   1.25']
    """
    first, *others = ([len(cell) for cell in column] for column in zip(*lines, strict=True))
    widths = [max(column) for column in others]
    return [
        "  ".join([name.ljust(max(first)), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))])
        for name, *cells in lines
    ]
