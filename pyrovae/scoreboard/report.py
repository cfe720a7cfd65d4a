"""A scoreboard as one HTML file that needs nothing else: table, sentences, pictures, floors, and the worst data.

Everything that is text is escaped where it becomes HTML, in :func:`element`; pictures are part of the file.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from torch import Tensor

from pyrovae import evaluate
from pyrovae.plots.images import grey_limits, reference_of, seen_from, shown

if TYPE_CHECKING:
    from pyrovae.data import Observations
    from pyrovae.scoreboard.comparison import Scoreboard
    from pyrovae.scoreboard.rows import Row

GENERATOR = "pyrovae report, version 1"
WORST = 10  # data with the highest k̂, of every bound
MOST_NUMBERS = 64  # of one of them that is no image
VOID = ("img", "meta")
CAPTIONS = {
    "scoreboard": "Held-out log p(x), with 95% intervals over data.",
    "training": "The objective after every update.",
    "samples": "What the models generate, beside data.",
    "latents": "What the latents hold.",
}
STYLE = """
:root { color-scheme: light dark; --line: #d4d4d8; --quiet: #5c5c66; --flag: #9a3412; --back: #fff; --text: #18181b; }
@media (prefers-color-scheme: dark) {
  :root { --line: #3f3f46; --quiet: #a1a1aa; --flag: #fdba74; --back: #18181b; --text: #f4f4f5; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(0.9rem, 3vw, 2rem); max-width: 72rem; background: var(--back);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 0.25rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 0.5rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 0.25rem; }
p, li { max-width: 46rem; }
.quiet, footer, figcaption { color: var(--quiet); font-size: 0.875rem; }
.flag { color: var(--flag); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.84rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.5rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { font-weight: 600; }
tbody th { white-space: normal; min-width: 6.5rem; overflow-wrap: anywhere; }
ul { padding-left: 1.2rem; }
thead th { border-bottom: 2px solid var(--line); }
tr > :first-child { text-align: left; padding-left: 0; }
.sentence { text-align: left; white-space: normal; min-width: 16rem; }
pre { overflow-x: auto; font-size: 0.8rem; line-height: 1.4; margin: 0; }
figure { margin: 1.25rem 0; }
figure img { width: 100%; min-width: 34rem; max-width: 60rem; background: #fff; display: block; }
.worst { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); gap: 1rem; max-width: 46rem; }
.worst figure { margin: 0; }
.worst span { display: block; }
.worst img { width: 7.5rem; min-width: 0; image-rendering: pixelated; border: 1px solid var(--line); }
footer { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 0.75rem; }
"""


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
    board: Scoreboard,
    pictures: Mapping[str, bytes],
    *,
    title: str = "Models side by side",
    details: Sequence[tuple[str, str]] = (),
) -> str:
    """The whole report as HTML, which refers to nothing outside of itself.

    It holds the table and what its figures are, standard errors in their parts, what floors have made, the pictures,
    and for every bound the ten data with the highest Pareto k̂, by index: images as such, other data as rows of numbers.

    Args:
        board: The scoreboard.
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
        element("style", Markup(STYLE)),
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


def _table(header: Iterable[object], rows: Iterable[Iterable[object]], sentences: bool = False) -> Markup:
    """A table in a container of its own that scrolls; the first column names the row, the last may be a sentence."""
    kind = {"class_": "sentence"} if sentences else {}
    *numbers, last = header
    head = element(
        "tr", *(element("th", cell, scope="col") for cell in numbers), element("th", last, scope="col", **kind)
    )
    lines = []
    for first, *cells, last in rows:
        entries = (element("td", cell) for cell in cells)
        lines.append(element("tr", element("th", first, scope="row"), *entries, element("td", last, **kind)))
    return element("div", element("table", element("thead", head), element("tbody", *lines)), class_="scroll")


def _scores(board: Scoreboard) -> list[Markup]:
    header, *rows = board.cells()
    return [
        element("h2", "Scoreboard"),
        _table(header, rows),
        element("ul", *(element("li", note) for note in board.notes())),
    ]


def _meanings(rows: Sequence[Row]) -> list[Markup]:
    header = ("", "log p(x)", "± s.e.", "of it particles", "of it data", "what it is")
    lines = [
        (
            row.name,
            f"{row.mean:.3f}",
            *(f"{e:.3f}" for e in (row.standard_error, row.monte_carlo_standard_error, row.data_standard_error)),
            row.meaning,
        )
        for row in rows
    ]
    parts = (
        "The standard error in two parts, whose squares add up: what other particles would change, and what other "
        "held-out data would."
    )
    return [element("h2", "How sure the figures are"), element("p", parts), _table(header, lines, sentences=True)]


def _floors(rows: Sequence[Row]) -> list[Markup]:
    heading = element("h2", "Floors")
    reports = [(row.name, row.degeneracy) for row in rows if row.degeneracy is not None]
    if not reports:
        return [heading, element("p", "No model here has a floor under its variances.")]
    flagged = [name for name, report in reports if report.flagged]
    said = (
        "A variance may not fall below its floor ε. Where it lies there, the score is a statement about ε, which "
        "somebody chose. The ceiling is the highest log p(x) that ε allows; beside it, the score at ten times ε."
    )
    flag = f"At the floor: {'; '.join(flagged)}." if flagged else "No variance lies at its floor."
    header = ("", "ε", "of the variances", "of the data", "ceiling", "score at 10 ε", "change", "± s.e.")
    lines = [
        (
            name,
            f"{r.floor:.3g}",
            f"{r.share_of_dimensions:.1%}",
            f"{r.share_of_data:.1%}",
            f"{r.ceiling:.2f}",
            f"{r.raised_score:.2f}",
            f"{r.change:+z.2f}",
            f"{r.change_standard_error:.2f}",
        )
        for name, r in reports
    ]
    return [
        heading,
        element("p", said),
        element("p", flag, class_="flag" if flagged else "quiet"),
        _table(header, lines),
    ]


def _worst(board: Scoreboard) -> list[Markup]:
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
        parts.append(element("h3", f"{row.name}: {row.k_hat_share:.0%} of the data above {threshold:.2f}"))
        parts.append(_worst_of(row, board.data))
    return parts


def _worst_of(row: Row, data: Observations) -> Markup:
    """The worst data of one model: pictures, or numbers."""
    worst = row.worst(WORST)
    if not worst:
        return element("p", "All weights of every datum are equal: q is the posterior.")
    k_hat, values, ess = row.estimate.k_hat.tolist(), row.log_prob.tolist(), row.estimate.ess.tolist()
    x = seen_from(data.x[worst], data.space, data, reference_of(data.space))
    if data.image_shape is not None and data.image_shape[0] in (1, 3):
        every = seen_from(data.x, data.space, data, reference_of(data.space))
        pictures = _images(x, data.image_shape, grey_limits(every))
        figures = [
            element(
                "figure",
                element("img", src=picture, alt=f"datum {n}"),
                element(
                    "figcaption",
                    element("b", f"datum {n}"),
                    element("span", f"k̂ {k_hat[n]:.2f}, ESS {ess[n]:.0f}"),
                    element("span", f"log p(x) {values[n]:.1f}"),
                ),
            )
            for n, picture in zip(worst, pictures, strict=True)
        ]
        return element("div", *figures, class_="worst")
    shown_dims = min(MOST_NUMBERS, x.shape[1])
    header = ("datum", "k̂", "log p(x)", "ESS", *(f"x[{d}]" for d in range(shown_dims)))
    lines = [
        (n, f"{k_hat[n]:.2f}", f"{values[n]:.2f}", f"{ess[n]:.0f}", *(f"{v:.4g}" for v in numbers[:shown_dims]))
        for n, numbers in zip(worst, x.tolist(), strict=True)
    ]
    return _table(header, lines)


def _images(x: Tensor, image_shape: tuple[int, ...], limits: tuple[float, float]) -> list[str]:
    """Flat images (n, D) as data URIs."""
    from matplotlib import image

    uris = []
    for picture in shown(x, image_shape, limits):
        stream = BytesIO()
        image.imsave(stream, picture, cmap="gray", vmin=limits[0], vmax=limits[1], format="png")
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
