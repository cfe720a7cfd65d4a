"""``pyrovae compare``: every model on one data set, ranked in nats."""

import argparse
import time
from typing import Any

import torch

from pyrovae.cli import options as shared
from pyrovae.cli.options import add
from pyrovae.scoreboard import results_folder
from pyrovae.scoreboard.candidates import standard_fits
from pyrovae.scoreboard.comparison import compare


def add_to(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "compare",
        help="fit a Gaussian, a mixture, PPCA and VAEs, and rank them in nats per datum on test data",
        description="Fit one Gaussian, a Gaussian mixture, probabilistic PCA and variational autoencoders, each every "
        "way it can be, and rank them by log p(x) on test data, in nats per datum.  The exact models are chosen on "
        "validation data.",
    )
    for add_group in (shared.add_data, shared.add_sizes, shared.add_bound, shared.add_run):
        add_group(parser)
    help = "fit everything with N seeds and show the spread (default 1)"
    add(parser, "seeds", help, type=shared.positive, default=1, metavar="N")
    help = "write a report, table, pictures, ArviZ files and fitted models there, whole or not at all"
    add(parser, "out", help, metavar="FOLDER")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Do what was asked."""
    began = time.perf_counter()
    say = shared.reporter(options)
    if options.out is not None:
        results_folder.check_folder(options.out)
    dataset = shared.load(options, dtype=torch.float64)
    say(shared.describe(dataset))
    shared.set_threads(options.threads, dataset.train.x.numel())
    common = shared.picked(options, "seed", "progress")
    sizes = shared.picked(options, "latent_dim", "num_components", "num_epochs")
    suite = standard_fits(dataset, **sizes, device=options.device, report=say, **common)
    say("scoreboard: log p(x) of the test data")
    board = compare(suite.fits, dataset.test, seeds=options.seeds, **shared.bound_arguments(options), **common)
    print(board)
    chosen = "Chosen on validation data, floors in units of what the models see"
    details = [(chosen, "\n".join(suite.chosen))] if suite.chosen else []
    for heading, lines in details:
        print("\n  ".join([f"{heading}:", *lines.split("\n")]))
    if options.out is not None:
        description = {"data": shared.provenance_of(options, dataset).to_plain()}
        print(f"Written to {results_folder.save(board, options.out, description=description, details=details)}")
    say(f"{time.perf_counter() - began:.0f} s in all")
