"""``pyrovae sample``: what a fitted model generates."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pyrovae.cli import options as shared
from pyrovae.cli.options import add
from pyrovae.data.observations import MASSES
from pyrovae.data.provenance import Provenance, in_reference
from pyrovae.engine.files import written_whole
from pyrovae.io import model_file
from pyrovae.models.base import LatentVariableModel
from pyrovae.plots.images import Row, caption, grey_limits, image_rows
from pyrovae.scoreboard import results_folder

COLUMNS = 8  # of pictures, if there are no classes
MOST_COLUMNS = 20


def add_to(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "sample",
        parents=[shared.run_options("draws")],
        help="write what a model in a file generates",
        description="Ancestral samples of a model that pyrovae fit or pyrovae compare has written: z from the prior, "
        "then x from p(x|z), in the reference space of the data, which are not needed.  No code of the file is "
        "run.",
    )
    parser.add_argument("file", metavar="FILE", help="the model")
    add(parser, "num_samples", "how many (default 64)", type=shared.positive, default=64, metavar="N")
    help = "E[x|z] in their place: smoother, and no samples of the model"
    add(parser, "means", help, action="store_true")
    help = "the class, for a model of p(x|y); default: the classes in turn"
    add(parser, "labels", help, type=shared.seed, metavar="Y")
    help = (
        ".png, a picture of images; .npz, an array called samples (or means), with z and labels; or .csv, with "
        "columns sample_1, … (or mean_1, …); earlier output is replaced"
    )
    add(parser, "out", help, required=True, metavar="FILE")
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Generated:
    """What a model generated, in the reference space of its data.

    Args:
        x: Shape (N, D), float64.
        z: What they came from, shape (N, ...).
        labels: Their classes, shape (N,), or None.
        means: Whether they are means of p(x|z), and no samples.
        model: The model.
        provenance: Its data.
    """

    x: Tensor
    z: Tensor
    labels: Tensor | None
    means: bool
    model: LatentVariableModel
    provenance: Provenance


def run(options: argparse.Namespace) -> None:
    """Do what was asked."""
    device = shared.device_of(options.device)
    out = results_folder.check_file(options.out, *WRITERS)
    model = model_file.load(options.file, device=device)
    provenance = shared.saved_provenance(options.file)
    if out.suffix.lower() == ".png" and (provenance.image_shape or (0,))[0] not in (1, 3):
        raise ValueError(
            f"`out` must be a .npz or .csv file for data that are no images to be shown, got {out.name!r}."
        )
    if options.labels is not None and model.num_classes is not None and options.labels >= model.num_classes:
        raise ValueError(f"`labels` must be a class of the model, 0, …, {model.num_classes - 1}, got {options.labels}.")
    shared.set_threads(options.threads, options.num_samples * math.prod(model.data_shape or ()))
    generate = model.sample_means if options.means else model.sample
    x, z = generate(options.num_samples, labels=options.labels, seed=options.seed)
    x = in_reference(x.flatten(1), provenance.space)
    generated = Generated(x, z.cpu(), _labels(model, options), options.means, model, provenance)
    with written_whole(out) as temporary:
        WRITERS[out.suffix.lower()](generated, temporary)
    what = "means E[x|z], no samples," if options.means else "samples"
    print(f"{options.num_samples:,} {what} in the space {provenance.space.reference!r} written to {out}")


def _labels(model: LatentVariableModel, options: argparse.Namespace) -> Tensor | None:
    """The classes that were generated."""
    if model.num_classes is None:
        return None
    if options.labels is not None:
        return torch.full((options.num_samples,), options.labels)
    return torch.arange(options.num_samples) % model.num_classes


def _write_arrays(generated: Generated, path: Path) -> None:
    x = generated.x.reshape(-1, *(generated.provenance.image_shape or generated.x.shape[1:]))
    arrays = {
        "pyrovae_space": np.array(generated.provenance.space.reference),  # first: check_file knows it by this
        "means" if generated.means else "samples": x.numpy(),
        "z": generated.z.numpy(),
    }
    if generated.labels is not None:
        arrays["labels"] = generated.labels.numpy()
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _write_table(generated: Generated, path: Path) -> None:
    import pandas as pd

    stem = "mean" if generated.means else "sample"
    table = pd.DataFrame(generated.x.numpy(), columns=[f"{stem}_{d + 1}" for d in range(generated.x.shape[1])])
    if generated.labels is not None:
        table["label"] = generated.labels.numpy()
    table.to_csv(path, index=False)


def _write_picture(generated: Generated, path: Path) -> None:
    provenance, kind = generated.provenance, type(generated.model).__name__
    shape = cast(tuple[int, ...], provenance.image_shape)
    x, columns = generated.x, COLUMNS
    if generated.labels is not None and (generated.labels != generated.labels[0]).any():
        columns = min(cast(int, generated.model.num_classes), MOST_COLUMNS)  # a column is a class
    pixels = provenance.space.levels is not None or provenance.space.support in MASSES
    limits = (0.0, 1.0) if pixels else grey_limits(x)
    what = "means E[x|z], not samples" if generated.means else "ancestral samples x ~ p(x|z)"
    title = f"{kind} of {provenance.space.reference}: {what}"
    said = caption(limits, shape, {kind: x}, {kind: (generated.model, provenance.space)})
    rows = [Row("", part) for part in x.split(columns)]
    figure, panels = image_rows(rows, shape, limits, title, said)
    for axes in panels:
        axes.set_anchor("C")  # there is no label beside it
    figure.savefig(path, dpi=150, format="png", metadata={"Software": "pyrovae", "Title": title})


WRITERS = {".png": _write_picture, ".npz": _write_arrays, ".csv": _write_table}
