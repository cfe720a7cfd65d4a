"""What the commands write: a scoreboard as a folder of files, and where files may go; whole or not at all."""

import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pyrovae import plots
from pyrovae.engine.files import check_place
from pyrovae.fit import FitResult
from pyrovae.io import arviz, model_file
from pyrovae.plots.board import Board
from pyrovae.scoreboard import report
from pyrovae.scoreboard.table import to_dataframe

DRAWN_NUMBERS = 4_000_000  # of a model's draws of z in its ArviZ file, about
MARK = "scoreboard.json"  # a folder that holds it is earlier output, and may be replaced
EVALUATION, SCORES = "pyrovae evaluation, version 1", "pyrovae scores, version 1"
MARKS = {  # a file that has one of these in its beginning is earlier output, and may be replaced
    ".pt": (model_file.FORMAT.encode(),),
    ".json": tuple(f'"format": "{each}"'.encode() for each in (EVALUATION, SCORES)),
    ".html": (f'content="{report.GENERATOR}"'.encode(),),
    ".png": (b"Software\0pyrovae",),
    ".npz": (b"pyrovae_space.npy",),
    ".csv": (b"pyrovae_sample,", b"pyrovae_mean,", b"row,log_p", b"sample_1,", b"mean_1,"),  # the first cells
}
BEGINNING = 2**16  # bytes


def check_folder(folder: str | Path) -> Path:
    """Whether output can be written to a folder, asked before the work is done rather than after.

    Raises:
        ValueError: If it is a file, or holds files that are not earlier output.
        PermissionError: If nothing can be written beside it.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`folder` must be a folder, got {str(folder)!r}, which is a file; name another.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise ValueError(
            f"`folder` must be new, empty or earlier output, got {str(folder)!r}, which holds other files; "
            "name another."
        )
    parent = next(p for p in folder.parents if p.exists())
    try:
        with tempfile.TemporaryDirectory(dir=parent):
            pass
    except OSError as error:
        raise PermissionError(
            f"`folder` must be a folder that can be written, got {str(folder)!r} ({error.strerror}); name another."
        ) from error
    return folder


def check_file(out: str | Path, *suffixes: str) -> Path:
    """Whether a file can be written, asked before the work is done rather than after.

    Args:
        out: The file, in a folder that exists; new, or earlier output, which is to be replaced.
        suffixes: How its name may end.

    Raises:
        ValueError: If its name ends otherwise, or it is there and no earlier output.
        OSError: If its folder is not there or cannot be written, or it is a folder itself.
    """
    out = Path(out)
    suffix = out.suffix.lower()
    if suffix not in suffixes:
        raise ValueError(f"`out` must be a file with a name in {' or '.join(suffixes)}, got {str(out)!r}.")
    check_place(out, "out")
    if not os.access(out.parent, os.W_OK):
        raise PermissionError(f"`out` must be in a folder that can be written, got {str(out)!r}; name another.")
    if out.exists():
        with out.open("rb") as file:
            beginning = file.read(BEGINNING)
        marked = beginning.startswith if suffix == ".csv" else beginning.__contains__
        if not any(map(marked, MARKS[suffix])):
            raise ValueError(
                f"`out` must be new or earlier output, got {str(out)!r}, which is another file; name another."
            )
    return out


def save(
    board: Board,
    folder: str | Path,
    *,
    description: Mapping[str, Any] | None = None,
    details: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write everything that the rows of a scoreboard know to a folder.

    ``report.html``, all that is to be read and looked at in one file; ``scoreboard.json``, ``.csv`` and ``.png``;
    ``training.png``, ``samples.png`` and ``latents.png``; for every model ``models/NAME.pt`` (read by
    :func:`pyrovae.io.model_file.load`) and ``arviz/NAME.nc`` (read by ArviZ).  All of it is written beside the folder
    under a temporary name, which is then renamed.

    Args:
        board: Rows, the best first, and the data that they are of.
        folder: New, empty, or earlier output, which is replaced.
        description: Written beside every model; see :func:`pyrovae.io.model_file.save`.
        details: Further sections of the report; see :func:`pyrovae.scoreboard.report.to_html`.

    Returns:
        The folder.

    Raises:
        ValueError, PermissionError: If the folder cannot be written; see :func:`check_folder`.
    """
    folder = check_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(board, scratch, description, details)
        scratch.chmod(0o755)
        if folder.is_dir():
            shutil.rmtree(folder)
        os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _write(
    board: Board, folder: Path, description: Mapping[str, Any] | None, details: Sequence[tuple[str, str]]
) -> None:
    table = to_dataframe(board.rows)
    table.to_csv(folder / "scoreboard.csv")
    content = {
        "space": board.data.space.reference,
        "num_data": len(board.data),
        "units": "nats per datum",
        "rows": json.loads(table.reset_index().to_json(orient="records")),
    }
    (folder / MARK).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    drawn = pictures(board)
    for name, png in drawn.items():
        (folder / f"{name}.png").write_bytes(png)
    (folder / "report.html").write_text(report.to_html(board, drawn, details=details), encoding="utf-8")

    (folder / "models").mkdir()
    (folder / "arviz").mkdir()
    largest = len(board.data) * max(getattr(row.model, "latent_dim", 1) for row in board.rows)
    num_draws = max(4, min(100, DRAWN_NUMBERS // largest))
    files = file_names(row.name for row in board.rows)
    for row in board.rows:
        model_file.save(row.model, folder / "models" / f"{files[row.name]}.pt", description=description)
        arviz.to_netcdf(row.inference_data(board.data, num_draws), folder / "arviz" / f"{files[row.name]}.nc")


def pictures(board: Board) -> dict[str, bytes]:
    """What is drawn of a scoreboard: PNG files by name.  Data are drawn of which no value is missing, if there are."""
    entries = {row.name: row.entry for row in board.rows}  # a fit knows the space it saw
    results = {name: entry for name, entry in entries.items() if isinstance(entry, FitResult)}
    complete = board.data[~board.data.x.isnan().flatten(1).any(1)]
    figures = {
        "scoreboard": plots.scoreboard(board),
        **({"training": plots.training_curves(results)} if results else {}),
    }
    if len(complete):
        figures |= {"samples": plots.samples(entries, complete), "latents": plots.latents(entries, complete)}
    return {name: _png(figure) for name, figure in figures.items()}


def _png(figure: Figure) -> bytes:
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


def file_names(names: Iterable[str]) -> dict[str, str]:
    """A file name of its own for every row's name, on file systems that ignore case too.

    Example:
        >>> file_names(["VAE 8", "vae-8", "?"])
        {'VAE 8': 'VAE-8', 'vae-8': 'vae-8-2', '?': 'model'}
    """
    files: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        base = slug(name) or "model"
        numbered = (f"{base}-{number}" for number in itertools.count(2))
        files[name] = next(file for file in itertools.chain([base], numbered) if file.casefold() not in taken)
        taken.add(files[name].casefold())
    return files


def slug(name: str) -> str:
    """A file name for a row's name.

    Example:
        >>> slug("VAE-8, σ(z)")
        'VAE-8-σ-z'
    """
    return re.sub(r"[^\w.]+", "-", name)[:80].strip("-.")
