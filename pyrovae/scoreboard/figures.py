"""A figure is a number with a name, a meaning and an error; here it is written, for every table, report and file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pyrovae.models.floors import AT_FLOOR

NOT_AVAILABLE = "n/a"

Unit = Literal["nats", "difference", "change", "bits", "share", "variance", "seconds", "count"]

FIGURES: dict[str, tuple[str, Unit, str]] = {  # what a row shows, by its name in files: heading, unit, meaning
    "log_likelihood": ("log p(x)", "nats", "{likelihood}, nats ({basis})"),
    "monte_carlo_standard_error": ("of it MC", "nats", "of its s.e., by {draws}"),
    "data_standard_error": ("of it data", "nats", "of its s.e., by data"),
    "difference": ("Δ best", "difference", "Δ best, nats"),
    "bits_per_dim": ("bits/dim", "bits", "bits per dimension"),
    "elbo": ("ELBO", "nats", "ELBO, nats"),
    "reconstruction": ("E log p(x|z)", "nats", "E log p(x|z), nats"),
    "kl": ("KL", "nats", "KL(q ‖ prior), nats"),
    "k_hat_share": ("k̂ high", "share", "share of data with Pareto k̂ > {threshold:.2f}"),
    "floor": ("ε", "variance", "floor ε of the variances of what the model sees"),
    "share_of_dimensions_at_floor": ("at floor", "share", f"share of variances at the floor, up to {AT_FLOOR:g} ε"),
    "share_of_data_at_floor": ("of the data", "share", "share of data with one there"),
    "ceiling_of_floor": ("ceiling", "nats", "ceiling that the floor allows, nats"),
    "score_under_higher_floor": ("score at 10 ε", "nats", "{likelihood} with a floor of 10 ε, nats"),
    "change_under_higher_floor": ("change", "change", "change of {likelihood} by that, nats"),
    "num_free_parameters": ("params", "count", "parameters of p(x)"),
    "seconds": ("fit s", "seconds", "fit, seconds"),
    "seed_spread": ("± seeds", "nats", "standard deviation over seeds, nats"),
}
FLOOR = {  # those of a floor: the attribute of a DegeneracyReport
    "floor": "floor",
    "share_of_dimensions_at_floor": "share_of_dimensions",
    "share_of_data_at_floor": "share_of_data",
    "ceiling_of_floor": "ceiling",
    "score_under_higher_floor": "raised_score",
    "change_under_higher_floor": "change",
}


@dataclass(frozen=True)
class Figure:
    """A number that is shown.

    Attributes:
        name: Its key in files.
        meaning: What it is, in a few words.
        value: The number; None where a model has no such number.
        error: Its standard error, where it has one.
        unit: What it counts, which decides how it is written.  A ``"difference"`` to the best row and a ``"change"``,
            with its sign, are nats.
        heading: What stands over it in a table of rows.
        mark: What stands in its place where it is not available, NaN.
    """

    name: str
    meaning: str
    value: float | None
    error: float | None = None
    unit: Unit = "nats"
    heading: str = ""
    mark: str = NOT_AVAILABLE

    def text(self, decimals: int = 2) -> str:
        """The value, in nats to so many decimals and in other units to match.

        Example:
            >>> share = Figure("share", "share of the data", 0.1234, unit="share")
            >>> share.text(), share.text(decimals=3), Figure("kl", "KL", 1234.567).text()
            ('12%', '12.3%', '1,234.57')
        """
        if self.value is None:
            return "best" if self.unit == "difference" else ""
        if math.isnan(self.value):
            return self.mark
        least = 10.0**-decimals
        small = self.unit == "share" and 0 < self.value < least
        forms: dict[Unit, str] = {
            "nats": f"z,.{decimals}f",
            "difference": f"z,.{decimals}f",
            "change": f"+z,.{decimals}f",
            "bits": f"z,.{max(decimals, 3)}f",
            "share": f".{decimals - 2}%",
            "variance": "g",
            "seconds": ".1f",
            "count": ",",
        }
        return f"{'<' if small else ''}{least if small else self.value:{forms[self.unit]}}"

    def error_text(self, decimals: int = 2) -> str:
        """The standard error to so many decimals; ``""`` where there is none, ``"n/a"`` where it is not available."""
        if self.error is None:
            return ""
        return NOT_AVAILABLE if math.isnan(self.error) else f"{self.error:,.{decimals}f}"


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
