"""Runs notebooks in full and writes their outputs in place: ``python notebooks/run.py [NOTEBOOK ...]``, all by default.

A notebook is replaced only when every cell ran and no output names a path of this machine.  ``--fast`` is for the
tests: it sets PYROVAE_FAST=1, works in a temporary folder and writes nothing.  ``--workers 2`` runs two at a time, each
with its share of the processors: networks this small gain more from that than from further threads.  The figure of a
cell tagged ``picture:NAME`` is written to ``pictures/NAME.png`` as well, for the README.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError

HERE = Path(__file__).resolve().parent
PICTURES = ("image/png", "image/jpeg", "application/pdf")  # encoded, so that a slash in them means nothing
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/<~-])/[\w.+-]+/[\w.+-]+")


def main() -> None:
    parser = argparse.ArgumentParser(description="Run notebooks in full, in place.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="by default every notebook of this folder")
    parser.add_argument("--fast", action="store_true", help="run with PYROVAE_FAST=1 and write nothing")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="how many to run at a time")
    arguments = parser.parse_args()
    if arguments.workers < 1:
        parser.error(f"--workers must be at least 1, got {arguments.workers}.")
    os.environ["PYROVAE_FAST"] = str(int(arguments.fast))
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm's word on widgets, at the import of Pyro
    if arguments.workers > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // arguments.workers)))
    with ProcessPoolExecutor(arguments.workers) as pool:
        paths = arguments.notebooks or sorted(HERE.glob("*.ipynb"))
        runs = [pool.submit(run, path, arguments.fast) for path in paths]
        for finished in as_completed(runs):
            if error := finished.exception():
                for other in runs:
                    other.cancel()  # those that have begun go on to their end
                raise error
            print(finished.result(), flush=True)


def run(path: Path, fast: bool) -> str:
    """Run one notebook in a fresh kernel; unless ``fast``, in its own folder, and keep the outputs.  Gives its time."""
    began = time.perf_counter()
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as scratch:
        execute(notebook, path.name, folder=Path(scratch) if fast else path.resolve().parent)
    seconds = f"{path.name}: {time.perf_counter() - began:.1f} s"
    if fast:
        return seconds
    normalise(notebook)
    for number, found in absolute_paths(notebook):
        raise SystemExit(f"{path.name}, cell {number}: its output names {found!r}, a path of this machine.")
    finished = path.with_name(path.name + ".tmp")
    nbformat.write(notebook, finished)
    finished.replace(path)
    for name, png in pictures(notebook):
        (path.parent / "pictures").mkdir(exist_ok=True)
        (path.parent / "pictures" / f"{name}.png").write_bytes(png)
    return seconds


def execute(notebook: nbformat.NotebookNode, name: str, *, folder: Path) -> None:
    """Run every cell in order; an error stops the command with the notebook and the cell, counted from 1."""
    at = 0

    def started(cell: nbformat.NotebookNode, cell_index: int) -> None:
        nonlocal at
        at = cell_index + 1

    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
        on_cell_start=started,
    )
    try:
        client.execute()
    except (CellControlSignal, DeadKernelError) as error:
        raise SystemExit(f"{name}, cell {at}: {error}") from None


def normalise(notebook: nbformat.NotebookNode) -> None:
    """Keep of the metadata what does not change from run to run, and take the machine's folders out of the outputs."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({key: value for key, value in cell.metadata.items() if key == "tags"})
    for _, holder, key in texts(notebook):
        holder[key] = without_folders(holder[key])


def pictures(notebook: nbformat.NotebookNode) -> Iterator[tuple[str, bytes]]:
    """The figures of the cells that are tagged as pictures, with their names."""
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            for output in cell.get("outputs", []) if tag.startswith("picture:") else []:
                if "image/png" in output.get("data", {}):
                    yield tag.removeprefix("picture:"), base64.b64decode(output["data"]["image/png"])


def texts(notebook: nbformat.NotebookNode) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Every text of the outputs, as the number of its cell, the dict that holds it, and its key there."""
    for number, cell in enumerate(notebook.cells, start=1):
        for output in cell.get("outputs", []):
            if "text" in output:
                yield number, output, "text"
            data = output.get("data", {})
            yield from ((number, data, key) for key in data if key not in PICTURES and isinstance(data[key], str))


def without_folders(text: str) -> str:
    """The text with paths relative to the repository, the installed packages, the data folder or the home folder."""
    text = re.sub(r"\S*/ipykernel_\d+/\d+\.py", "<cell>", text)
    text = re.sub(r"[^\s'\"(]*/site-packages/", "", text)
    text = text.replace(f"{HERE.parent}/", "")
    if folder := os.environ.get("PYROVAE_DATA"):
        text = text.replace(folder.rstrip("/"), "$PYROVAE_DATA")
    return text.replace(f"{Path.home()}/", "~/")


def absolute_paths(notebook: nbformat.NotebookNode) -> list[tuple[int, str]]:
    """Absolute paths in the outputs, each with the number of its cell."""
    return [(number, found) for number, holder, key in texts(notebook) for found in ABSOLUTE_PATH.findall(holder[key])]


if __name__ == "__main__":
    main()
