"""``pyrovae evaluate``: how good a fitted model is, in nats per datum of held-out data."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyrovae import evaluate
from pyrovae.cli import findings
from pyrovae.cli import options as shared
from pyrovae.cli.findings import Finding
from pyrovae.data import DataSet, Observations
from pyrovae.engine.files import written_whole
from pyrovae.evaluate import CollapseReport, ELBOGap, LatentInformation, LatentReport
from pyrovae.evaluate.latents.encoding import is_continuous, posteriors
from pyrovae.io import model_file
from pyrovae.models import VAE
from pyrovae.models.base import LatentVariableModel
from pyrovae.scoreboard import report, results_folder
from pyrovae.scoreboard.comparison import Row, Scoreboard, compare


def add_to(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "evaluate",
        parents=[shared.bound_options(), shared.run_options("draws")],
        help="say how good a model in a file is",
        description="log p(x) of a model that pyrovae fit or pyrovae compare has written, with its standard error, in "
        "nats per datum, and what else there is to say of it.  The data are read and split as they were for the fit, "
        "and no code of the file is run.",
    )
    parser.add_argument("file", metavar="FILE", help="the model")
    parser.add_argument("data", nargs="?", metavar="DATA", help="the data it was fitted to; default: where they were")
    parser.add_argument(
        "--split", choices=("test", "valid", "train"), default="test", help="the part of the data (default test)"
    )
    parser.add_argument(
        "--gaps",
        choices=("diag", "full"),
        help="split log p(x) - ELBO into what a Gaussian q of that covariance costs, and what one encoder for all data",
    )
    parser.add_argument(
        "--latents",
        action="store_true",
        help="how much z tells of x, and which of its units a linear model of the same noise would use",
    )
    parser.add_argument(
        "--out", metavar="FILE.json", help="write the result there, and FILE.html beside it; earlier output is replaced"
    )
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class _Evaluation:
    """Everything that was found; what was not asked for, or has no meaning for the model, is None."""

    row: Row
    units: LatentReport | None
    gaps: ELBOGap | None
    information: LatentInformation | None
    collapse: CollapseReport | None

    @property
    def findings(self) -> list[Finding]:
        """Every figure."""
        parts: tuple[tuple[Callable[[Any], list[Finding]], Any], ...] = (
            (findings.of_units, self.units),
            (findings.of_gaps, self.gaps),
            (findings.of_information, self.information),
            (findings.of_collapse, self.collapse),
        )
        found = [each for of, part in parts if part is not None for each in of(part)]
        size = Finding("num_free_parameters", "parameters of p(x)", self.row.num_free_parameters)
        return [*findings.of_row(self.row), *found, size]

    @property
    def sentences(self) -> list[str]:
        """What the figures are."""
        said = [self.row.meaning]
        if self.row.at_floor is not None:
            said.append(self.row.at_floor.meaning)
        if self.gaps is not None and self.row.kind == "bound":
            said.append("The approximation gap is as much of a lower bound in expectation as log p(x) is.")
        return said

    @property
    def details(self) -> list[tuple[str, str]]:
        """What has a table of its own."""
        every = (
            ("ELBO gap", self.gaps),
            ("What z tells of x", self.information),
            ("Units of z, beside those of a linear model, on training data", self.collapse),
        )
        return [(heading, str(each)) for heading, each in every if each is not None]


def run(options: argparse.Namespace) -> None:
    """Do what was asked."""
    say = shared.reporter(options)
    device = shared.device_of(options.device)
    out = None if options.out is None else results_folder.check_file(options.out, ".json")
    page = None if out is None else results_folder.check_file(out.with_suffix(".html"), ".html")
    model = model_file.load(options.file, device=device)
    dataset = shared.saved_provenance(options.file).load(options.data)
    say(shared.describe(dataset))
    held_out = getattr(dataset, options.split)
    if held_out is None:
        raise ValueError(f"`split` must be train or test for {dataset.name}, which has no validation data, got valid.")
    shared.set_threads(options.threads, held_out.x.numel())
    name = Path(options.file).stem
    progress = False if options.quiet else None
    board = compare({name: model}, held_out, **shared.bound_arguments(options), seed=options.seed, progress=progress)
    found = _evaluation(model, board, dataset, options, progress)
    title = f"{name}: {type(model).__name__}, {len(held_out):,} {options.split} data, {held_out.space.reference}"
    table = _table(found.findings, title)
    print("\n".join([table, "", *found.sentences]))
    for heading, text in found.details:
        print(f"\n{heading}\n{text}")
    if out is not None and page is not None:
        content = json.dumps(_content(found, board.data, options), indent=2, ensure_ascii=False) + "\n"
        details = [("Every figure", table), *found.details]
        with written_whole(out) as json_file, written_whole(page) as html_file:
            json_file.write_text(content, encoding="utf-8")
            html_file.write_text(
                report.to_html(board, results_folder.pictures(board), title=title, details=details), encoding="utf-8"
            )
        print(f"Written to {out} and {page}")


def _evaluation(
    model: LatentVariableModel,
    board: Scoreboard,
    dataset: DataSet,
    options: argparse.Namespace,
    progress: bool | None,
) -> _Evaluation:
    row, held_out = board.rows[0], board.data
    gaps = information = collapse = None
    if options.gaps is not None:
        gaps = evaluate.elbo_gap(
            model, held_out, options.gaps, log_prob=row.estimate, seed=options.seed, progress=progress
        )
    if options.latents:
        information = evaluate.latent_information(model, held_out, seed=options.seed)
        if all(is_continuous(q) for q in posteriors(model, held_out[:1])):
            collapse = evaluate.collapse_report(model, dataset.train)
    return _Evaluation(row, _units(model, held_out), gaps, information, collapse)


def _content(found: _Evaluation, held_out: Observations, options: argparse.Namespace) -> dict[str, Any]:
    """The result as a file."""
    row = found.row
    content = {
        "format": results_folder.EVALUATION,
        "model": Path(options.file).name,
        "space": held_out.space.reference,
        "split": options.split,
        "num_data": len(held_out),
        "units": "nats per datum",
        "how": row.kind,
        "meaning": row.meaning,
        "conditional": row.conditional,
        "num_particles": row.num_particles,
        "seed": options.seed,
        "values": {each.key: each.value for each in found.findings},
        "standard_errors": {each.key: each.error for each in found.findings if each.error is not None},
        "worst_k_hat": row.worst(report.WORST),
    }
    return content if found.units is None else {**content, "kl_per_unit": found.units.kl.tolist()}


def _table(entries: list[Finding], title: str) -> str:
    import pandas as pd

    cells = [
        (
            each.what,
            f"{each.value:,}" if isinstance(each.value, int) else f"{each.value:z,.4f}",
            "" if each.error is None else f"{each.error:.4f}",
        )
        for each in entries
    ]
    table = pd.DataFrame(cells, columns=["", "value", "± s.e."]).set_index("")
    lines = table.to_string(index_names=False).splitlines()
    return "\n".join([title, *(line.rstrip() for line in lines)])


def _units(model: LatentVariableModel, held_out: Observations) -> LatentReport | None:
    """What the units of an autoencoder's z carry."""
    if not isinstance(model, VAE) or len(held_out) < 2:
        return None
    return evaluate.latent_report(evaluate.encode(model, held_out.fixed()))
