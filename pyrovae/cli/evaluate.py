"""``pyrovae evaluate``: how good a fitted model is, in nats per datum of held-out data."""

import argparse
import json
from pathlib import Path
from typing import Any

from pyrovae.cli import options as shared
from pyrovae.cli.options import add
from pyrovae.data import DataSet, Observations
from pyrovae.data.new_rows import about_rows, same_or_new
from pyrovae.engine.files import written_whole
from pyrovae.io import model_file
from pyrovae.scoreboard import report, results_folder
from pyrovae.scoreboard.evaluation import evaluate_model
from pyrovae.scoreboard.figures import aligned


def add_to(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "evaluate",
        help="say how good a model in a file is",
        description="log p(x) of a model that pyrovae fit or pyrovae compare has written, with its standard error, in "
        "nats per datum, and what else there is to say of it.  The data are read and split as they were for the fit, "
        "and no code of the file is run.",
    )
    shared.add_bound(parser)
    shared.add_run(parser, "draws")
    parser.add_argument("file", metavar="FILE", help="the model")
    help = "the data it was fitted to, or new rows in their columns; default: the first, where they were"
    parser.add_argument("data", nargs="?", metavar="DATA", help=help)
    add(parser, "split", "the part of the data (default test)", choices=("test", "valid", "train"), default="test")
    help = "split log p(x) - ELBO into what a Gaussian q of that covariance costs, and what one encoder for all data"
    add(parser, "gaps", help, choices=("diag", "full"))
    help = "how much z tells of x, and which of its units a linear model of the same noise would use"
    add(parser, "latents", help, action="store_true")
    help = "write the result there, and FILE.html beside it; earlier output is replaced"
    add(parser, "out", help, metavar="FILE.json")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Do what was asked."""
    say = shared.reporter(options)
    outs = [] if options.out is None else [Path(options.out), Path(options.out).with_suffix(".html")]
    for out, suffix in zip(outs, (".json", ".html"), strict=False):
        results_folder.check_file(out, suffix)
    model = model_file.load(options.file, device=options.device)
    held_out, train, split, said = _data(options, say)
    shared.set_threads(options.threads, held_out.x.numel())
    name = Path(options.file).stem
    asked = {**shared.bound_arguments(options), **shared.picked(options, "gaps", "latents", "seed", "progress")}
    found = evaluate_model(name, model, held_out, train, **asked)
    found.sentences.extend(said)
    title = f"{name}: {type(model).__name__}, {len(held_out):,} {split} data, {held_out.space.reference}"
    lines = [(each.meaning, each.text(4), each.error_text(4)) for each in found.figures]
    table = "\n".join([title, *(line.rstrip() for line in aligned([("", "value", "± s.e."), *lines]))])
    print("\n".join([table, "", *found.sentences]))
    for heading, text in found.details:
        print(f"\n{heading}\n{text}")
    if outs:
        head = {"format": results_folder.EVALUATION, "model": Path(options.file).name}
        content = {**head, "split": split, "seed": options.seed, **found.to_plain()}
        details = [("Every figure", table), *found.details]
        page = report.to_html(found, results_folder.pictures(found), title=title, details=details)
        with written_whole(outs[0]) as json_file, written_whole(outs[1]) as html_file:
            json_file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            html_file.write_text(page, encoding="utf-8")
        print(f"Written to {outs[0]} and {outs[1]}")


def _data(options: argparse.Namespace, say: Any) -> tuple[Observations, Observations | None, str, list[str]]:
    """What the model is measured on, its training data if they are at hand, which part it is, and what to say."""
    provenance = shared.saved_provenance(options.file)
    found = provenance.load() if options.data is None else same_or_new(provenance, options.data)
    if isinstance(found, DataSet):
        say(shared.describe(found))
        part = getattr(found, options.split)
        if part is None:
            raise ValueError(
                f"`split` must be train or test for {found.name}, which has no validation data, got valid."
            )
        return part, found.train, options.split, []
    if options.split != "test":
        raise ValueError(f"`split` must be left out for {options.data!r}, which are not the data of the fit, got one.")
    try:
        train = provenance.load().train
    except (OSError, ValueError):
        train = None
    return found, train, "new", [f"All rows of {Path(options.data).name}.", *about_rows(provenance, found)]
