"""A scoreboard as one HTML file that needs nothing else: table, sentences, pictures, floors, and the worst data.

What the page says and how it is laid out stands in ``report.html.j2``, which escapes all text; pictures are part of it.
"""

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.image import imsave
from torch import Tensor

from pyrovae import evaluate
from pyrovae.data import Observations
from pyrovae.data.provenance import in_reference
from pyrovae.plots.board import Board
from pyrovae.plots.images import grey_limits, shown
from pyrovae.scoreboard.figures import FLOOR
from pyrovae.scoreboard.rows import Row
from pyrovae.scoreboard.table import Column, cells, notes

GENERATOR = "pyrovae report, version 1"
MOST_NUMBERS = 64  # of one of them that is no image
CAPTIONS = {
    "scoreboard": "Held-out log p(x), with 95% intervals over data.",
    "training": "The objective after every update.",
    "samples": "What the models generate, beside data.",
    "latents": "What the latents hold.",
}
MEANINGS: tuple[Column, ...] = (
    *("log_likelihood", "monte_carlo_standard_error", "data_standard_error"),
    ("what it is", lambda row: row.meaning),
)
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def to_html(
    board: Board,
    pictures: Mapping[str, bytes],
    *,
    title: str = "Models side by side",
    details: Sequence[tuple[str, str]] = (),
) -> str:
    """The whole report as HTML, which refers to nothing outside of itself.

    It holds the table and what its figures are, standard errors in their parts, what floors have made, the pictures,
    and for every bound the ten data with the highest Pareto k̂, by row of the file or index: images as such, other data
    as rows of numbers.

    Args:
        board: Rows, the best first, and the data that they are of.
        pictures: PNG files by name.
        title: Of the page.
        details: Further sections, each a heading and lines of text.

    Returns:
        The content of an ``.html`` file.
    """
    rows, data = board.rows, board.data
    floored = [row for row in rows if row.degeneracy is not None]
    tails = [row for row in rows if row.has_tail]
    are_images = data.image_shape is not None and data.image_shape[0] in (1, 3)  # channels that can be drawn
    return TEMPLATES.get_template("report.html.j2").render(
        generator=GENERATOR,
        title=title,
        data=data,
        scores=cells(rows),
        notes=notes(rows, data),
        meanings=cells(rows, MEANINGS, decimals=3),
        floors=cells(floored, tuple(FLOOR), decimals=3) if floored else [],
        at_floor=[row.name for row in floored if row.at_floor],
        threshold=evaluate.k_hat_threshold(tails[0].num_particles) if tails else None,
        worst=[(row, _worst(row, data, are_images)) for row in tails],
        columns=data.column_names[:MOST_NUMBERS],
        are_images=are_images,
        pictures=[(CAPTIONS.get(name, name), _uri(png)) for name, png in pictures.items()],
        details=details,
    )


def _worst(row: Row, data: Observations, are_images: bool) -> list[tuple[Any, ...]]:
    """The data with the highest k̂: which it is, k̂, log p(x), ESS, and the picture or the numbers of each."""
    if not (worst := row.worst()):
        return []
    x = in_reference(data.x[worst], data.space).flatten(1)
    found = (values[worst].tolist() for values in (row.estimate.k_hat, row.log_prob, row.estimate.ess))
    names = map(data.datum, worst)
    return list(zip(names, *found, _images(x, data) if are_images else x[:, :MOST_NUMBERS].tolist(), strict=True))


def _images(x: Tensor, data: Observations) -> list[str]:
    """Flat images (n, D) as data URIs, on the grey scale of all data."""
    low, high = limits = grey_limits(in_reference(data.x, data.space))
    uris = []
    for picture in shown(x, data.image_shape or (), limits):
        stream = BytesIO()
        imsave(stream, picture, cmap="gray", vmin=low, vmax=high, format="png")
        uris.append(_uri(stream.getvalue()))
    return uris


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
