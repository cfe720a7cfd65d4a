"""A column of a table: text, and the numbers, labels, dates or words that it may be."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

LABELS = ("label", "labels", "class", "target", "y")
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "?", "-", ".", "#N/A", "#DIV/0!", "#VALUE!")
MOST_CLASSES = 50  # of a column that labels are taken from unasked
NAMED = 6  # columns that a sentence names
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?|nan|true|false", re.IGNORECASE)
DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T].*)?|\d{1,2}:\d{2}(:\d{2})?")


class Column:
    """A column of text, and what it can be."""

    def __init__(self, name: str, cells: Any, path: Path) -> None:
        self.name, self.path = name, path
        self.cells = cells.where(~cells.isin(MISSING), None)
        self.given = self.cells.dropna()
        self.bad = self.given[~self.given.str.fullmatch(NUMBER)]
        self.text = self.given
        if len(self.bad):
            self._mend()

    def _mend(self) -> None:
        """Decimal commas, and commas or points between thousands, where they can be told apart."""
        commas = self.given[self.given.str.contains(",", regex=False)]
        if not commas.str.fullmatch(r"[+-]?[\d.,]+([eE][+-]?\d+)?").all() or commas.empty:
            return
        thousands = r"[+-]?\d{1,3}(,\d{3})+"
        if commas.str.fullmatch(thousands + r"\.\d+").any() and commas.str.fullmatch(thousands + r"(\.\d*)?").all():
            mended = self.given.str.replace(",", "")
        elif commas.str.fullmatch(r"[+-]?(\d{1,3}(\.\d{3})*|\d+)?,\d+").all():
            if commas.str.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}").all():
                raise ValueError(
                    f"`name` must be a table of numbers, got {commas.iloc[0]!r} in {self.name!r} of "
                    f"{self.path.name!r}, which may be a decimal comma or thousands; write decimal points, and nothing "
                    "between thousands."
                )
            mended = self.given.str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
        else:
            return
        if mended.str.fullmatch(NUMBER).all():
            self.cells = self.cells.copy()
            self.cells[mended.index] = mended
            self.given, self.bad = mended, mended[:0]

    @property
    def is_numeric(self) -> bool:
        return len(self.bad) == 0 and len(self.given) > 0

    def numbers(self) -> np.ndarray:
        """The values, NaN where missing.

        Raises:
            ValueError: If a cell holds something else.
        """
        if len(self.bad):
            raise ValueError(
                f"`name` must be a table of numbers, got {self.bad.iloc[0]!r} in row {self.bad.index[0] + 1} of "
                f"{self.name!r} of {self.path.name!r}; write plain numbers there, leave the cell empty for a missing "
                f"value, or leave the column out by `drop`."
            )
        words = self.cells.str.lower().map({"true": "1", "false": "0"})
        cells = self.cells.where(words.isna(), words)
        return cells.astype("float64").to_numpy()

    def labels(self) -> np.ndarray:
        """Its classes: whole numbers as they are, words as they are, "" where missing."""
        if self.is_numeric and not self.cells.isna().any():
            values = self.numbers()
            if (values == np.round(values)).all():
                return values.astype(np.int64)
        return self.cells.to_numpy(dtype=object)

    def could_be_labels(self) -> bool:
        """Whether it holds a few classes: words, or whole numbers, each more than once on average."""
        classes = self.given.nunique()
        if not 1 < classes <= min(MOST_CLASSES, len(self.given) // 2):
            return False
        return not self.is_numeric or bool((self.numbers()[~self.cells.isna()] % 1 == 0).all())

    def left_out(self, first: bool) -> str:
        """Why it is no datum: an index that somebody wrote along, dates, words, or nothing at all; else ``""``."""
        if not len(self.given):
            return "empty"
        if self.is_numeric:
            unnamed = self.name in ("column 1", "Unnamed: 0", "index", "rownames")
            return "a count of the rows" if first and unnamed and self._counts() else ""
        if self.bad.str.fullmatch(DATE).mean() > 0.5:
            return "dates"
        if len(self.bad) <= 0.5 * len(self.given) or self.bad.str.match(r"[+-]?[.,]?\d").mean() > 0.5:
            self.numbers()  # says which cell is none
        return "words"

    def _counts(self) -> bool:
        values = self.numbers()
        return bool((np.diff(values) == 1).all()) and len(values) > 1 and values[0] in (0, 1)


def listed(names: Sequence[str], quoted: bool = True) -> str:
    """Names in a sentence, a long list cut short."""
    shown = ", ".join(repr(name) if quoted else name for name in names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} … and {len(names) - NAMED:,} more"
