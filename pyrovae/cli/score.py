"""``pyrovae score``: what a fitted model says of every row of a file."""

import argparse
import json
from pathlib import Path
from typing import Any

from pyrovae import evaluate
from pyrovae.cli import options as shared
from pyrovae.cli.options import add
from pyrovae.data.new_rows import about_rows, new_rows
from pyrovae.engine.files import written_whole
from pyrovae.io import model_file
from pyrovae.scoreboard import results_folder


def add_to(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "score",
        help="say what a model in a file says of each row of new data",
        description="For each row of a file log p(x), in nats and in the units of the file's columns; the most likely "
        "component of a mixture and its probability, posterior means of the latents; and what is missing, imputed.  "
        "The file has the columns of the data that the model was fitted to: they are found by name.",
    )
    shared.add_bound(parser)
    shared.add_run(parser, "draws")
    parser.add_argument("file", metavar="MODEL", help="the model, of pyrovae fit or pyrovae compare")
    parser.add_argument("data", metavar="NEW", help="the rows")
    add(parser, "out", "where to write the scores; default: as .csv to standard output", metavar="FILE.csv|.json")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Do what was asked."""
    say = shared.reporter(options)
    out = None if options.out is None else results_folder.check_file(options.out, ".csv", ".json")
    model = model_file.load(options.file, device=options.device)
    provenance = shared.saved_provenance(options.file)
    rows = new_rows(provenance, options.data)
    shared.set_threads(options.threads, rows.x.numel())
    asked = {**shared.bound_arguments(options), **shared.picked(options, "seed", "progress")}
    scores = evaluate.score_rows(model, rows, **asked)
    for sentence in (*scores.sentences, *about_rows(provenance, rows)):
        say(sentence)
    if out is None:
        print(scores.table.to_csv(index=False), end="")
        return
    with written_whole(out) as temporary:
        if out.suffix.lower() == ".csv":
            scores.table.to_csv(temporary, index=False)
        else:
            head = {"format": results_folder.SCORES, "model": Path(options.file).name, "data": Path(options.data).name}
            content = {**head, **scores.to_plain()}
            temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(rows):,} rows scored by {Path(options.file).name}, written to {out}")
