"""A scoreboard as one HTML file that needs nothing else: table, sentences, pictures, floors, and the worst data.

Everything that is text is escaped where it becomes HTML, in :func:`element`; pictures are part of the file.
"""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.image import imsave
from torch import Tensor

from pyrovae import evaluate
from pyrovae.data import Observations
from pyrovae.plots.board import Board
from pyrovae.plots.images import grey_limits, reference_of, seen_from, shown
from pyrovae.scoreboard.figures import FLOOR
from pyrovae.scoreboard.rows import Row
from pyrovae.scoreboard.table import cells, notes

GENERATOR = "pyrovae report, version 1"
MOST_NUMBERS = 64  # of one of them that is no image
VOID = ("img", "meta")
CAPTIONS = {
    "scoreboard": "Held-out log p(x), with 95% intervals over data.",
    "training": "The objective after every update.",
    "samples": "What the models generate, beside data.",
    "latents": "What the latents hold.",
}
STYLE = Path(__file__).with_name("report.css")


class Markup(str):
    """A string that is HTML already; any other is text, and is escaped."""


def element(tag: str, *content: object, **attributes: str) -> Markup:
    """An HTML element of the content, with text and attributes escaped; ``class_`` stands for ``class``.

    Example:
        >>> print(element("p", "a < b & ", element("b", "c"), class_="note"))
        <p class="note">a &lt; b &amp; <b>c</b></p>
    """
    given = "".join(f' {name.rstrip("_")}="{html.escape(value)}"' for name, value in attributes.items())
    inside = "".join(each if isinstance(each, Markup) else html.escape(str(each)) for each in content)
    return Markup(f"<{tag}{given}>" if tag in VOID else f"<{tag}{given}>{inside}</{tag}>")


def to_html(
    board: Board,
    pictures: Mapping[str, bytes],
    *,
    title: str = "Models side by side",
    details: Sequence[tuple[str, str]] = (),
) -> str:
    """The whole report as HTML, which refers to nothing outside of itself.

    It holds the table and what its figures are, standard errors in their parts, what floors have made, the pictures,
    and for every bound the ten data with the highest Pareto k̂, by index: images as such, other data as rows of numbers.

    Args:
        board: Rows, the best first, and the data that they are of.
        pictures: PNG files by name.
        title: Of the page.
        details: Further sections, each a heading and lines of text.

    Returns:
        The content of an ``.html`` file.
    """
    meta = [
        element("meta", charset="utf-8"),
        element("meta", name="generator", content=GENERATOR),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(f"\n{STYLE.read_text(encoding='utf-8')}")),
    ]
    body = [
        element("h1", title),
        element("p", f"{board.data.space.reference}, {len(board.data):,} held-out data", class_="quiet"),
        *_scores(board),
        *_meanings(board.rows),
        *_floors(board.rows),
        *_worst(board),
        *_pictures(pictures),
        *_details(details),
        element("footer", "Written by pyrovae. This file needs no other."),
    ]
    page = element("html", element("head", *meta), element("body", *body), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _table(lines: Sequence[Sequence[object]], **attributes: str) -> Markup:
    """A header and lines, in a container that scrolls; the first column names the row."""
    header, *rows = lines
    head = element("tr", *(element("th", cell, scope="col") for cell in header))
    body = (
        element("tr", element("th", name, scope="row"), *(element("td", cell) for cell in cells))
        for name, *cells in rows
    )
    table = element("table", element("thead", head), element("tbody", *body), **attributes)
    return element("div", table, class_="scroll")


def _scores(board: Board) -> list[Markup]:
    said = element("ul", *(element("li", note) for note in notes(board.rows, board.data)))
    return [element("h2", "Scoreboard"), _table(cells(board.rows)), said]


def _meanings(rows: Sequence[Row]) -> list[Markup]:
    parts = (
        "The standard error of a bound in two parts, whose squares add up: what other particles would change, and what "
        "other held-out data would."
    )
    figures = ("log_likelihood", "monte_carlo_standard_error", "data_standard_error")
    columns = (*figures, ("what it is", lambda row: row.meaning))
    table = _table(cells(rows, columns, decimals=3), class_="sentences")
    return [element("h2", "How sure the figures are"), element("p", parts), table]


def _floors(rows: Sequence[Row]) -> list[Markup]:
    heading = element("h2", "Floors")
    floored = [row for row in rows if row.degeneracy is not None]
    if not floored:
        return [heading, element("p", "No model here has a floor under its variances.")]
    flagged = [row.name for row in floored if row.at_floor]
    said = (
        "A variance may not fall below its floor ε. Where it lies there, the score depends on ε, which somebody chose. "
        "The ceiling is the highest log p(x) that ε allows; beside it, the score at ten times ε."
    )
    flag = f"At the floor: {'; '.join(flagged)}." if flagged else "No variance lies at its floor."
    verdict = element("p", flag, class_="flag" if flagged else "quiet")
    return [heading, element("p", said), verdict, _table(cells(floored, tuple(FLOOR), decimals=3))]


def _worst(board: Board) -> list[Markup]:
    heading = element("h2", "The data with the worst k̂")
    tails = [row for row in board.rows if row.has_tail]
    if not tails:
        return [heading, element("p", "No figure here comes from importance weights with a tail to look at.")]
    threshold = evaluate.k_hat_threshold(tails[0].num_particles)
    said = (
        f"The higher Pareto k̂, the less is the importance-weighted value of a datum to be trusted; above "
        f"{threshold:.2f} more particles may raise it. Data are numbered from 0, in the order in which they were given."
    )
    parts = [heading, element("p", said)]
    for row in tails:
        share = row.figures["k_hat_share"].text()
        parts.append(element("h3", f"{row.name}: {share} of the data above {threshold:.2f}"))
        parts.append(_worst_of(row, board.data))
    return parts


def _worst_of(row: Row, data: Observations) -> Markup:
    """The worst data of one model: pictures, or numbers."""
    worst = row.worst()
    if not worst:
        return element("p", "All weights of every datum are equal: q is the posterior.")
    k_hat, values, ess = row.estimate.k_hat.tolist(), row.log_prob.tolist(), row.estimate.ess.tolist()
    x = _in_reference(data, worst)
    if data.image_shape is None or data.image_shape[0] not in (1, 3):
        header = ("datum", "k̂", "log p(x)", "ESS", *(f"x[{d}]" for d in range(min(MOST_NUMBERS, x.shape[1]))))
        numbers_of = [
            (n, f"{k_hat[n]:.2f}", f"{values[n]:.2f}", f"{ess[n]:.0f}", *(f"{v:.4g}" for v in numbers[:MOST_NUMBERS]))
            for n, numbers in zip(worst, x.tolist(), strict=True)
        ]
        return _table([header, *numbers_of])
    pictures = _images(x, data.image_shape, grey_limits(_in_reference(data, slice(None))))
    figures = []
    for n, picture in zip(worst, pictures, strict=True):
        told = (f"k̂ {k_hat[n]:.2f}, ESS {ess[n]:.0f}", f"log p(x) {values[n]:.1f}")
        lines = [element("b", f"datum {n}"), *(element("span", line) for line in told)]
        image = element("img", src=picture, alt=f"datum {n}")
        figures.append(element("figure", image, element("figcaption", *lines)))
    return element("div", *figures, class_="worst")


def _in_reference(data: Observations, index: Any) -> Tensor:
    """Some of the data as they are, flat."""
    return seen_from(data.x[index], data.space, data, reference_of(data.space))


def _images(x: Tensor, image_shape: tuple[int, ...], limits: tuple[float, float]) -> list[str]:
    """Flat images (n, D) as data URIs."""
    uris = []
    for picture in shown(x, image_shape, limits):
        stream = BytesIO()
        imsave(stream, picture, cmap="gray", vmin=limits[0], vmax=limits[1], format="png")
        uris.append(_uri(stream.getvalue()))
    return uris


def _pictures(pictures: Mapping[str, bytes]) -> list[Markup]:
    parts = [element("h2", "Pictures")] if pictures else []
    for name, png in pictures.items():
        caption = CAPTIONS.get(name, name)
        picture = element("div", element("img", src=_uri(png), alt=caption), class_="scroll")
        parts.append(element("figure", picture, element("figcaption", caption)))
    return parts


def _details(details: Iterable[tuple[str, str]]) -> list[Markup]:
    return [part for heading, text in details for part in (element("h2", heading), element("pre", text))]


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
