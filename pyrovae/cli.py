"""The ``pyrovae`` command: parses, calls, prints."""

from __future__ import annotations

import argparse
import re
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import pyrovae
from pyrovae import data, output
from pyrovae.data import DataSet
from pyrovae.fit import FitWarning
from pyrovae.scoreboard import compare
from pyrovae.suite import standard_fits

OPTIONS = {  # what the library calls them, and what the command does
    "name": "DATA",
    "dataset": "DATA",
    "observations": "--observations",
    "transform": "--transform",
    "latent_dim": "--latent-dim",
    "num_components": "--components",
    "num_epochs": "--epochs",
    "num_particles": "--particles",
    "folder": "--out",
}


SMALL = 1_000_000  # numbers in the training data, N × D, below which one thread is used


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command."""
    parser = argparse.ArgumentParser(prog="pyrovae", description=pyrovae.__doc__)
    parser.add_argument("--version", action="version", version=f"pyrovae {pyrovae.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = [_data_options(), _run_options()]
    board = commands.add_parser(
        "compare",
        parents=shared,
        help="fit a Gaussian, a mixture, PPCA and VAEs, and rank them in nats per datum on test data",
        description="Fit one Gaussian, a Gaussian mixture, probabilistic PCA and variational autoencoders, each every "
        "way it can be, and rank them by log p(x) on test data, in nats per datum.  The exact models are chosen on "
        "validation data.",
    )
    board.add_argument(
        "--latent-dim", type=_positive, metavar="L", help="latent dimension; default: chosen for PPCA, 8 or 16 for VAEs"
    )
    board.add_argument("--components", type=_positive, metavar="K", help="mixture components; default: chosen")
    board.add_argument("--epochs", type=_positive, metavar="E", help="passes over the training data for the VAEs")
    board.add_argument(
        "--particles",
        type=_positive,
        default=1000,
        metavar="S",
        help="importance samples for each datum (default 1000)",
    )
    board.add_argument(
        "--seeds",
        type=_positive,
        default=1,
        metavar="N",
        help="fit everything with N seeds and show the spread (default 1)",
    )
    board.add_argument(
        "--out",
        metavar="FOLDER",
        help="write table, pictures, ArviZ files and fitted models there, whole or not at all",
    )
    board.set_defaults(run=_compare)
    return parser


def _data_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    group = options.add_argument_group("data")
    group.add_argument(
        "data",
        nargs="?",
        default="digits",
        metavar="DATA",
        help="digits (default), mnist, fashion_mnist, kmnist, binarized_mnist, frey, or a .csv, .npy or .npz file",
    )
    group.add_argument(
        "--observations",
        choices=("continuous", "binary"),
        help="grey pixels dequantised with uniform noise (a density) or binarized (a mass); default: the natural one",
    )
    group.add_argument(
        "--transform",
        choices=("none", "logit", "standardize"),
        help="what models see; densities are brought back by log|det J|; default: standardize for tables, else none",
    )
    return options


def _run_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    group = options.add_argument_group("run")
    group.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    group.add_argument("--threads", type=_positive, metavar="T", help="default: 1 for small data, else all cores")
    group.add_argument("--seed", type=_seed, default=0, help="of splits, noise, starts and draws (default 0)")
    group.add_argument("--quiet", action="store_true", help="print the result only")
    return options


def _compare(options: argparse.Namespace) -> None:
    began = time.perf_counter()
    say = (lambda line: None) if options.quiet else (lambda line: print(line, file=sys.stderr, flush=True))
    progress = False if options.quiet else None
    device = _device(options.device)
    if options.out is not None:
        output.check_folder(options.out)
    dataset = _load(options)
    train, valid, test = dataset
    sizes = f"{len(train):,} train, {len(valid or ()):,} validation, {len(test):,} test"
    say(f"{dataset.name}: {sizes}, D = {train.num_dims}; view: {train.space.transform_name}")
    # On small tensors a second thread gains nothing, and waits long for a core that somebody else has.
    torch.set_num_threads(options.threads or (1 if train.x.numel() < SMALL else torch.get_num_threads()))
    suite = standard_fits(
        dataset,
        latent_dim=options.latent_dim,
        num_components=options.components,
        num_epochs=options.epochs,
        device=device,
        seed=options.seed,
        progress=progress,
        report=say,
    )
    say("scoreboard: log p(x) of the test data")
    board = compare(
        suite.fits, test, num_particles=options.particles, seeds=options.seeds, seed=options.seed, progress=progress
    )
    print(board)
    if suite.chosen:
        print("\n".join(["Chosen on validation data:", *(f"  {line}" for line in suite.chosen)]))
    if options.out is not None:
        print(f"Written to {board.save(options.out)}")
    say(f"{time.perf_counter() - began:.0f} s in all")


def _load(options: Any) -> DataSet:
    """The data set asked for; tables are standardised unless told otherwise, because their columns have units."""
    table = Path(options.data).suffix.lower() == ".csv" and options.observations != "binary"
    transform: Any = options.transform or ("standardize" if table else "none")
    return data.load(
        options.data,
        observations=options.observations,
        transform=None if transform == "none" else transform,
        seed=options.seed,
        dtype=torch.float64,
    )


def _device(name: str) -> torch.device:
    """The device, if there is one.

    Raises:
        ValueError: If the name means nothing to torch, or no such device is here.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"`--device` must be a device of this machine, got {name!r}, which torch cannot use; try cpu."
        ) from error
    return device


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2**32 - 1, got {text!r}")
    return int(text)


def _one_line(message: object) -> str:
    """The library's message on one line, its arguments called as the command's options are."""
    return re.sub(r"`(\w+)`", lambda name: f"`{OPTIONS.get(name[1], name[1])}`", " ".join(str(message).split()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 if it did what was asked, 2 after one sentence on standard error if not."""
    options = build_parser().parse_args(arguments)
    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", FitWarning)
            options.run(options)
        for note in dict.fromkeys(_one_line(each.message) for each in caught):
            print(f"pyrovae: note: {note}", file=sys.stderr)
    except (ValueError, TypeError, OSError, FloatingPointError, torch.linalg.LinAlgError) as error:
        print(f"pyrovae: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except (MemoryError, torch.OutOfMemoryError):
        print("pyrovae: error: there is not enough memory for these data and `--particles`.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pyrovae: stopped; nothing was written.", file=sys.stderr)
        return 130
    finally:
        torch.set_num_threads(threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
