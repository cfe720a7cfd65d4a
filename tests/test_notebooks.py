"""The notebooks: each poses a question, asserts the claim that answers it, and is committed with one clean full run.

Conventions: the first cell is markdown and asks; the first code cell reads ``FAST``; one code cell, tagged "claim",
asserts the claim on exact or bounded values; the last code cell prints hardware, versions and wall time.  The code is
formatted by ruff like all code, and has at most 150 lines as ruff formats it, without blank lines and comments.
"""

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
FAST = 'FAST = bool(int(os.environ.get("PYROVAE_FAST", "0")))'
LAST_CELL = ("platform.", "torch.__version__", "pyro.__version__", "time.")

pytestmark = pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def test_begins_with_a_question(path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert "?" in first.source
    assert FAST in code_cells(path)[0].source


def test_has_one_claim_and_asserts_it(path):
    cells = code_cells(path)
    (claim,) = [cell for cell in cells if "claim" in tags(cell)]
    asserts = [node.test for node in ast.walk(ast.parse(claim.source)) if isinstance(node, ast.Assert)]
    assert asserts
    assert not [test for test in asserts if isinstance(test, ast.Constant | ast.Tuple)]  # always true
    others = {tag for cell in cells for tag in tags(cell) if not tag.startswith("picture:")}
    assert others == {"claim"}  # others yet skip cells or let them fail


@pytest.fixture
def formatted(path):
    """Code cells as ruff formats them by the project's configuration."""
    command = [sys.executable, "-m", "ruff", "format", "--no-cache", "--stdin-filename", str(path), "-"]
    done = subprocess.run(command, input=path.read_bytes(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    cells = nbformat.reads(done.stdout.decode(), as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def test_is_formatted_like_all_code(path, formatted):
    assert [cell.source for cell in code_cells(path)] == formatted


def test_is_short_as_formatted(formatted):
    lines = [line.strip() for source in formatted for line in source.splitlines()]
    assert len([line for line in lines if line and not line.startswith("#")]) <= 150


def test_was_run_once_in_order(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]


def test_ends_with_hardware_versions_and_wall_time(path):
    last = code_cells(path)[-1]
    assert not [name for name in LAST_CELL if name not in last.source]
    printed = "".join(output.get("text", "") for output in last.outputs)
    assert re.search(r"torch \d+\.\d+", printed)
    assert re.search(r"\d s\b", printed)


def test_names_no_path_of_a_machine(path):
    absolute_paths = runpy.run_path(str(FOLDER / "run.py"))["absolute_paths"]
    assert not absolute_paths(nbformat.read(path, as_version=4))


def test_claim_holds(path, request):
    sources = [cell.source for cell in nbformat.read(path, as_version=4).cells]
    if any("evaluate.FID(" in source for source in sources):
        pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: pip install 'pyrovae[fid]'")
    if any("PYROVAE_DATA" in source for source in sources):
        request.getfixturevalue("data_folder")  # skips where there is none
    done = subprocess.run([sys.executable, str(FOLDER / "run.py"), "--fast", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
