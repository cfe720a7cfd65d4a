"""``pyrovae evaluate``: how good a fitted model is, in nats per datum of held-out data."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pyrovae import checkpoint, evaluate, output
from pyrovae.cli import options as shared
from pyrovae.data import Observations
from pyrovae.evaluate import LatentReport
from pyrovae.files import written_whole
from pyrovae.models import VAE
from pyrovae.models.base import LatentVariableModel
from pyrovae.scoreboard import Row, compare


def add_to(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "evaluate",
        parents=[shared.run_options("draws")],
        help="say how good a model in a file is",
        description="log p(x) of a model that pyrovae fit or pyrovae compare has written, with its standard error, in "
        "nats per datum, and what else there is to say of it.  The data are read and split as they were for the fit, "
        "and no code of the file is run.",
    )
    parser.add_argument("file", metavar="FILE", help="the model")
    parser.add_argument("data", nargs="?", metavar="DATA", help="the data it was fitted to; default: where they were")
    parser.add_argument(
        "--particles",
        dest="num_particles",
        type=shared.positive,
        default=1000,
        metavar="S",
        help="importance samples for each datum (default 1000)",
    )
    parser.add_argument(
        "--split", choices=("test", "valid", "train"), default="test", help="the part of the data (default test)"
    )
    parser.add_argument("--out", metavar="FILE.json", help="write the result there; earlier output is replaced")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Do what was asked."""
    say = shared.reporter(options)
    device = shared.device_of(options.device)
    out = None if options.out is None else output.check_file(options.out, ".json")
    model = checkpoint.load(options.file, device=device)
    dataset = shared.saved_origin(options.file).load(options.data)
    say(shared.describe(dataset))
    held_out = getattr(dataset, options.split)
    if held_out is None:
        raise ValueError(f"`split` must be train or test for {dataset.name}, which has no validation data, got valid.")
    shared.set_threads(options.threads, held_out.x.numel())
    name = Path(options.file).stem
    progress = False if options.quiet else None
    board = compare({name: model}, held_out, num_particles=options.num_particles, seed=options.seed, progress=progress)
    report = _latents(model, held_out)
    entries = _entries(board.rows[0], report)
    title = f"{name}: {type(model).__name__}, {len(held_out):,} {options.split} data, {held_out.space.reference}"
    print(_table(entries, title))
    if out is not None:
        content = _content(board.rows[0], report, entries, held_out, options)
        with written_whole(out) as temporary:
            temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"Written to {out}")


Entry = tuple[str, str, float, float | None]  # a key, what it is, its value and its standard error


def _entries(row: Row, report: LatentReport | None) -> list[Entry]:
    """What there is to say of a model."""
    given = " given y" if row.conditional else ""
    how = "exact" if row.kind == "exact" else f"bound, {row.num_particles:,} particles"
    entries: list[Entry] = [
        ("log_likelihood", f"log p(x{given}), nats ({how})", row.mean, row.standard_error),
        ("elbo", "ELBO, nats", row.reconstruction - row.kl, None),
        ("reconstruction", "E log p(x given z), nats", row.reconstruction, None),
        ("kl", "KL(q ‖ prior), nats", row.kl, None),
    ]
    if row.bits_per_dim is not None:
        entries.insert(1, ("bits_per_dim", "bits per dimension", row.bits_per_dim, None))
    if row.kind == "bound" and (threshold := evaluate.k_hat_threshold(row.num_particles)) > 0:
        entries.append(("k_hat_share", f"share of data with Pareto k̂ > {threshold:.2f}", row.k_hat_share, None))
    if report is not None:
        entries.append(("num_active", f"active units of {len(report.kl)}", report.num_active, None))
    return [*entries, ("num_free_parameters", "parameters of p(x)", row.num_free_parameters, None)]


def _content(
    row: Row, report: LatentReport | None, entries: list[Entry], held_out: Observations, options: argparse.Namespace
) -> dict[str, Any]:
    """The result as a file."""
    content = {
        "format": output.EVALUATION,
        "model": Path(options.file).name,
        "space": held_out.space.reference,
        "split": options.split,
        "num_data": len(held_out),
        "units": "nats per datum",
        "how": row.kind,
        "conditional": row.conditional,
        "num_particles": row.num_particles,
        "seed": options.seed,
        "values": {key: value for key, _, value, _ in entries},
        "standard_errors": {key: error for key, _, _, error in entries if error is not None},
    }
    return content if report is None else {**content, "kl_per_unit": report.kl.tolist()}


def _table(entries: list[Entry], title: str) -> str:
    import pandas as pd

    cells = [
        (what, f"{value:,}" if isinstance(value, int) else f"{value:,.4f}", "" if error is None else f"{error:.4f}")
        for _, what, value, error in entries
    ]
    table = pd.DataFrame(cells, columns=["", "value", "± s.e."]).set_index("")
    lines = table.to_string(index_names=False).splitlines()
    return "\n".join([title, *(line.rstrip() for line in lines)])


def _latents(model: LatentVariableModel, held_out: Observations) -> LatentReport | None:
    """What the units of an autoencoder's z carry."""
    if not isinstance(model, VAE) or len(held_out) < 2:
        return None
    return evaluate.latent_report(evaluate.encode(model, held_out.fixed()))
