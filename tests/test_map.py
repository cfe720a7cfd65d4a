"""The map of the sources, notebooks/README.md: no empty cell, and every place that it names exists."""

import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
MAP = FOLDER / "README.md"


def rows():
    """Cells of every row of every table, less headings and rules."""
    lines = [line for line in MAP.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells if not set("".join(row)) <= set("-:")]


def headings(notebook):
    markdown = "\n".join(cell.source for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "markdown")
    return re.findall(r"^#+ (.*)$", markdown, re.MULTILINE)


def test_no_cell_is_empty_or_left_open():
    assert len(rows()) > 50
    for row in rows():
        assert all(row), row
        assert not [cell for cell in row if re.search(r"@@|TODO|\?\?", cell)], row


def test_every_notebook_is_on_it():
    text = MAP.read_text()
    assert not [path.name for path in FOLDER.glob("*.ipynb") if f"({path.name})" not in text]


@pytest.mark.parametrize("row", [row for row in rows() if len(row) == 4 and row[2] != "notebook, section"], ids=str)
def test_the_place_exists(row):
    for place in row[2].split(";"):
        if "benchmarks/" in place:
            assert (FOLDER.parent / place.strip().strip("`")).exists()
            continue
        named = re.match(r"\s*(\d\d[a-c]?)(?: to (\d\d[a-c]))?(?:, \*(.*)\*)?", place)
        assert named, place
        (notebook,) = FOLDER.glob(f"{named[1]}_*.ipynb")
        if named[3]:
            start = named[3].rstrip("… ").rstrip()
            assert [each for each in headings(notebook) if each.startswith(start)], (place, headings(notebook))
