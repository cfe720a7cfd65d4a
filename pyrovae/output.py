"""A scoreboard as a folder of files, written whole or not at all."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pyrovae import checkpoint, interchange, plots
from pyrovae.fit import FitResult

if TYPE_CHECKING:
    from pyrovae.scoreboard import Scoreboard

DRAWN_NUMBERS = 4_000_000  # of a model's draws of z in its ArviZ file, about
MARK = "scoreboard.json"  # a folder that holds it is earlier output, and may be replaced


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


def save(board: Scoreboard, folder: str | Path) -> Path:
    """Write everything that a scoreboard knows to a folder.

    ``scoreboard.json``, ``.csv`` and ``.png``; ``training.png``, ``samples.png`` and ``latents.png``; for every model
    ``models/NAME.pt`` (read by :func:`pyrovae.checkpoint.load`) and ``arviz/NAME.nc`` (read by ArviZ).  All of it is
    written beside the folder under a temporary name, which is then renamed.

    Args:
        board: The scoreboard.
        folder: New, empty, or earlier output, which is replaced.

    Returns:
        The folder.

    Raises:
        ValueError, PermissionError: If the folder cannot be written; see :func:`check_folder`.
    """
    folder = check_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(board, scratch)
        scratch.chmod(0o755)
        if folder.is_dir():
            shutil.rmtree(folder)
        os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _write(board: Scoreboard, folder: Path) -> None:
    table = board.to_dataframe()
    table.to_csv(folder / "scoreboard.csv")
    content = {
        "space": board.data.space.reference,
        "num_data": len(board.data),
        "units": "nats per datum",
        "rows": json.loads(table.reset_index().to_json(orient="records")),
    }
    (folder / MARK).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    models = board.models
    entries = {name: board.fits[name] for name in models}  # best first; a fit knows the space it saw
    figures = {
        "scoreboard": plots.scoreboard(board),
        "samples": plots.samples(entries, board.data),
        "latents": plots.latents(entries, board.data),
    }
    results = {name: fit for name, fit in board.fits.items() if isinstance(fit, FitResult)}
    if results:
        figures["training"] = plots.training_curves(results)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)

    (folder / "models").mkdir()
    (folder / "arviz").mkdir()
    largest = len(board.data) * max(getattr(model, "latent_dim", 1) for model in models.values())
    draws = board.to_inference_data(num_draws=max(4, min(100, DRAWN_NUMBERS // largest)))
    for name, file in file_names(models).items():
        checkpoint.save(models[name], folder / "models" / f"{file}.pt")
        interchange.to_netcdf(draws[name], folder / "arviz" / f"{file}.nc")


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
