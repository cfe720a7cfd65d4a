"""``pyrovae sample``: what a fitted model generates."""

import argparse
import math
from typing import Any

from pyrovae.cli import options as shared
from pyrovae.cli.options import add
from pyrovae.io import model_file
from pyrovae.scoreboard import results_folder
from pyrovae.scoreboard.generated import FORMATS, generate


def add_to(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "sample",
        help="write what a model in a file generates",
        description="Ancestral samples of a model that pyrovae fit or pyrovae compare has written: z from the prior, "
        "then x from p(x|z), in the reference space of the data, which are not needed.  No code of the file is "
        "run.",
    )
    shared.add_run(parser, "draws")
    parser.add_argument("file", metavar="FILE", help="the model")
    add(parser, "num_samples", "how many (default 64)", type=shared.positive, default=64, metavar="N")
    help = "E[x|z] in their place: smoother, and no samples of the model"
    add(parser, "means", help, action="store_true")
    help = "the class, for a model of p(x|y); default: the classes in turn"
    add(parser, "labels", help, type=shared.seed, metavar="Y")
    help = (
        ".png, a picture of images; .npz, an array called samples (or means), with z and labels; or .csv, with the "
        "columns of the data after one called pyrovae_sample (or pyrovae_mean); earlier output is replaced"
    )
    add(parser, "out", help, required=True, metavar="FILE")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Do what was asked."""
    out = results_folder.check_file(options.out, *FORMATS)
    model = model_file.load(options.file, device=options.device)
    provenance = shared.saved_provenance(options.file)
    if out.suffix.lower() == ".png" and (provenance.image_shape or (0,))[0] not in (1, 3):
        raise ValueError(
            f"`out` must be a .npz or .csv file for data that are no images to be shown, got {out.name!r}."
        )
    number = options.num_samples
    shared.set_threads(options.threads, number * math.prod(model.data_shape or ()))
    generated = generate(model, provenance, number, label=options.labels, means=options.means, seed=options.seed)
    generated.write(out)
    what = "means E[x|z], no samples," if options.means else "samples"
    print(f"{number:,} {what} in the space {provenance.space.reference!r} written to {out}")
