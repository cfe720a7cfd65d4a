"""The form of a table: compression, encoding, separator, header; every cell as text."""

import bz2
import csv
import gzip
import io
import lzma
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from pyrovae.data.table_columns import LABELS, MISSING, NUMBER, listed

OPENED: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
SUFFIXES = (".csv", ".tsv", ".txt", ".dat")
SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas", " ": "blanks"}
TOTALS = ("total", "totals", "grand total", "sum", "mean", "average", "avg", "summe", "count")
YEARS = range(1900, 2101)
ROWS = 200  # that the form of a table is judged by


def is_table(path: Path) -> bool:
    """Whether a file is called like a table, compressed or not."""
    suffixes = [each.lower() for each in path.suffixes[-2:]]
    packed = (*OPENED, ".zip")
    return bool(suffixes) and (suffixes[-1] in SUFFIXES or (suffixes[-1] in packed and suffixes[0] in SUFFIXES))


def text_frame(path: Path) -> tuple[Any, list[str]]:
    """All cells as text, in a pandas table whose columns are named as in the file, and what there is to say."""
    import pandas as pd

    said: list[str] = []
    lines, separator = _lines(path, said)
    sample = list(islice(_cells(lines, separator), ROWS))
    width = _width(path, lines, separator, sample)
    names, num_skipped = _header(sample, width, said)
    body = list(_cells(lines, separator))[num_skipped:] if separator == " " else None
    if body is None:
        text = "\n".join(lines[num_skipped:])
        frame = pd.read_csv(
            io.StringIO(text),
            sep=separator,
            header=None,
            names=range(width),
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
            engine="c",
        )
    else:
        frame = pd.DataFrame(body, dtype=str)
    if not len(frame):
        raise ValueError(f"`name` must be a table with rows of numbers, got none in {str(path)!r}.")
    frame.columns = names
    frame = frame.apply(lambda column: column.str.strip())
    if any(str(cell).lower() in TOTALS for cell in frame.iloc[-1]):
        raise ValueError(
            f"`name` must be a table of data alone, got a last row of {path.name!r} that looks like a sum, "
            f"{separator.join(map(str, frame.iloc[-1]))[:60]!r}; delete it."
        )
    return frame, said


def _lines(path: Path, said: list[str]) -> tuple[list[str], str]:
    """The lines of a file that hold cells, and what separates them."""
    text = _decoded(path, said).replace("\r\n", "\n").replace("\r", "\n").replace("\u2212", "-")
    if "\0" in text:
        raise ValueError(f"`name` must be a text file, got zero bytes in {str(path)!r}; save it as CSV.")
    lines = [line for line in text.split("\n") if line.strip()]
    stated = re.fullmatch(r"sep=(.)", lines[0].strip()) if lines else None  # a line of Excel's
    comments = [line for line in lines if line.lstrip().startswith(("#", "%"))]
    lines = lines[1:] if stated else [line for line in lines if line not in comments] if comments else lines
    if not lines:
        raise ValueError(f"`name` must be a table of numbers, got an empty file: {str(path)!r}.")
    separator = stated[1] if stated else _separator(lines[:ROWS])
    if comments:
        heading = comments[-1].lstrip()[1:].strip()
        cells = [next(_cells([line], separator)) for line in (heading, lines[0])] if heading else [[], [""]]
        if len(cells[0]) == len(cells[1]) and all(map(_is_number, cells[1])):  # as numpy.savetxt writes a header
            lines, comments = [heading, *lines], comments[:-1]
    if comments:
        said.append(f"{len(comments)} lines of comments left out")
    return lines, separator


def _decoded(path: Path, said: list[str]) -> str:
    """The text of a file."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                inner = [each for each in archive.namelist() if not each.endswith("/")]
                if len(inner) != 1:
                    raise ValueError(f"`name` must be a .zip of one file, got {len(inner)} in {str(path)!r}.")
                raw = archive.read(inner[0])
        elif suffix in OPENED:
            with OPENED[suffix](path) as file:
                raw = file.read()
        else:
            raw = path.read_bytes()
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"`name` must lead to a whole file, got {str(path)!r} ({error}); replace it.") from error
    encodings = ["utf-16"] if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding == "cp1252":
            said.append("read as Western European text (cp1252), as it is no UTF-8")
        return text
    raise ValueError(f"`name` must be a text file in UTF-8, got {str(path)!r} in another encoding; save it as UTF-8.")


def _separator(lines: Sequence[str]) -> str:
    """What separates the cells: that by which most lines have most numbers, in columns of one number."""

    def score(separator: str) -> tuple[float, int]:
        rows = list(_cells(lines, separator))
        width, count = Counter(map(len, rows[1:] or rows)).most_common(1)[0]
        cells = [cell for row in (rows[1:] or rows) for cell in row]
        numbers = sum(_is_number(cell.strip().replace(",", "." if separator != "," else ",")) for cell in cells)
        return (numbers / max(1, len(cells)) * count / len(rows) if width > 1 else 0.0), width

    scores = {separator: score(separator) for separator in SEPARATORS}
    best = max(scores.values(), key=lambda pair: pair[0])[0]
    if best == 0:
        return next((each for each in SEPARATORS if each != " " and all(each in line for line in lines)), ",")
    return max((each for each in SEPARATORS if scores[each][0] > 0.999 * best), key=lambda each: scores[each][1] > 1)


def _cells(lines: Sequence[str], separator: str) -> Iterator[list[str]]:
    if separator == " ":
        lines = [re.sub(r"[ \t]+", " ", line.strip()) for line in lines]
    return csv.reader(lines, delimiter=separator, skipinitialspace=True)


def _width(path: Path, lines: Sequence[str], separator: str, sample: Sequence[Sequence[str]]) -> int:
    """Cells of a row, of which all have as many."""
    width = max(map(len, sample[1:] or sample))
    body = sample[1:]
    bare = body and _is_number(body[0][0].strip()) and not lines[1].lstrip().startswith(('"', "'"))
    if separator == "," and bare and all(len(row) == width == len(sample[0]) + 1 for row in body):
        raise ValueError(  # R puts names of rows in quotation marks
            f"`name` must be a table with a name for each column, got {width - 1} for rows of {width} cells in "
            f"{path.name!r}, where {lines[1][:40]!r} may hold a decimal comma; write decimal points, or name them all."
        )
    for number, row in enumerate(_cells(lines, separator)):
        if len(row) != width and (number > 0 or len(row) not in (width - 1, width)):
            raise ValueError(
                f"`name` must be a table with rows of one length, got {len(row)} cells in line {number + 1} of "
                f"{path.name!r}, and {width} in others, between {SEPARATORS.get(separator, repr(separator))}; mend it."
            )
    return width


def _header(sample: Sequence[Sequence[str]], width: int, said: list[str]) -> tuple[list[str], int]:
    """Names of the columns, and how many lines they take."""
    first, body = [cell.strip() for cell in sample[0]], [list(map(str.strip, row)) for row in sample[1:]]
    if not (body and _is_header(first, body)):
        said.append("no header")
        return [f"column {number}" for number in range(1, width + 1)], 0
    if len(first) == width - 1:  # as R writes names of rows
        first = ["", *first]
    num_skipped = 1
    below, rest = body[0], body[1:]
    is_text = [not _is_cell(cell) for cell in below]
    numeric = [all(_is_cell(row[d]) for row in rest if d < len(row)) for d in range(len(below))]
    if rest and any(numeric) and all(text for text, number in zip(is_text, numeric, strict=True) if number):
        said.append(f"a second line of the header left out, {', '.join(below)[:40]!r}")
        num_skipped = 2
    return [name or f"column {number}" for number, name in enumerate(first, 1)], num_skipped


def _is_header(first: list[str], body: list[list[str]]) -> bool:
    """Whether the first line names the columns rather than holding data."""
    if len(first) == len(body[0]) - 1 or any(cell.lower() in LABELS for cell in first):
        return True
    columns = [[row[d] for row in body if d < len(row)] for d in range(len(first))]
    if all(map(_is_cell, first)):
        whole = all(re.fullmatch(r"\d+", cell) for cell in first if cell)
        numbers = [int(cell) for cell in first if cell] if whole else []
        steps = len(numbers) > 1 and all(b - a == 1 for a, b in pairwise(numbers))
        decimals = any(re.search(r"[.,eE]", cell) for column in columns for cell in column)
        counted = numbers == list(range(len(numbers)))
        years = all(number in YEARS for number in numbers)
        return steps and len(numbers) >= len(first) - 1 and (decimals or counted or years)
    names = [not _is_cell(cell) and cell != "" for cell in first]
    return all(names) or any(
        is_name and all(map(_is_cell, column)) for is_name, column in zip(names, columns, strict=True)
    )


def _is_number(cell: str) -> bool:
    return NUMBER.fullmatch(cell) is not None


def _is_cell(cell: str) -> bool:
    """Whether a cell of a column of numbers may look so, a decimal comma and a missing value included."""
    return cell in MISSING or _is_number(cell.replace(",", ".", 1)) or _is_number(cell.replace(",", ""))


def unique(names: list[str], said: list[str]) -> list[str]:
    """Names of which none is there twice."""
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}.{seen[name] - 1}")
    if twice := [name for name, number in seen.items() if number > 1]:
        said.append(f"more than one column is called {listed(twice)}: they are numbered")
    return unique
