"""What the commands share: options, their names in messages, and what is done with them."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pyrovae import data
from pyrovae.data import DataSet
from pyrovae.data.provenance import Provenance
from pyrovae.evaluate import AISOptions
from pyrovae.io import model_file

SAME = (  # called alike, but for the dashes
    *("observations", "transform", "max_images", "resample", "split", "device", "seed", "latent_dim", "covariance"),
    *("floor", "likelihood", "scale", "network", "hidden", "activation", "posterior", "batch_size", "lr", "objective"),
    *("beta", "warmup", "patience"),
)
NAMES = {  # what the library calls them, and what the command does
    "name": "DATA",
    "data": "DATA",
    "dataset": "DATA",
    "path": "FILE",
    "out": "--out",
    "folder": "--out",
    "num_components": "--components",
    "num_epochs": "--epochs",
    "num_particles": "--particles",
    "num_chains": "--chains",
    "num_temperatures": "--temperatures",
    "num_restarts": "--restarts",
    "num_samples": "--number",
    "num_classes": "--conditional",
    "labels": "--label",
    "method": "--how",
    **{name: f"--{name.replace('_', '-')}" for name in SAME},
}
SMALL = 1_000_000  # numbers in the training data, N × D, below which one thread is used


def data_options() -> argparse.ArgumentParser:
    """DATA and how it is read."""
    options = argparse.ArgumentParser(add_help=False)
    group = options.add_argument_group("data")
    group.add_argument(
        "data",
        nargs="?",
        default="digits",
        metavar="DATA",
        help="digits (default), mnist, fashion_mnist, kmnist, binarized_mnist, frey, celeba, or a .csv, .npy or .npz "
        "file",
    )
    group.add_argument(
        "--observations",
        choices=("continuous", "binary", "integer"),
        help="grey pixels dequantised with uniform noise (a density), binarized or as the integers that they are (a "
        "mass); default: the natural one of the first two",
    )
    group.add_argument(
        "--transform",
        choices=("none", "logit", "standardize"),
        help="what models see; densities are brought back by log|det J|; default: standardize for tables, else none",
    )
    group.add_argument("--max-images", type=positive, metavar="N", help="of celeba, whose whole set takes 20 GB")
    return options


def size_options() -> argparse.ArgumentParser:
    """How large the models are, and how long SVI trains."""
    options = argparse.ArgumentParser(add_help=False)
    group = options.add_argument_group("models")
    group.add_argument(
        "--latent-dim",
        type=positive,
        metavar="L",
        help="latent dimension; default: 8, 16 from 256 dimensions on; for PPCA, compare chooses it",
    )
    group.add_argument(
        "--components",
        dest="num_components",
        type=positive,
        metavar="K",
        help="mixture components; default: 10; compare chooses them",
    )
    group.add_argument(
        "--epochs",
        dest="num_epochs",
        type=positive,
        metavar="E",
        help="passes of SVI over the training data; default: about 1,700 to 5,000 steps for a VAE",
    )
    return options


def bound_options() -> argparse.ArgumentParser:
    """How log p(x) is bounded where it is not exact."""
    options = argparse.ArgumentParser(add_help=False)
    group = options.add_argument_group("log p(x), where it is not exact")
    group.add_argument(
        "--method",
        choices=("importance", "ais"),
        default="importance",
        help="importance sampling (default), or annealed importance sampling: a tighter bound for more time",
    )
    group.add_argument(
        "--particles",
        dest="num_particles",
        type=positive,
        default=1000,
        metavar="S",
        help="importance samples for each datum (default 1000)",
    )
    group.add_argument(
        "--chains",
        dest="num_chains",
        type=positive,
        default=16,
        metavar="S",
        help="annealed chains for each datum (default 16)",
    )
    group.add_argument(
        "--temperatures",
        dest="num_temperatures",
        type=positive,
        default=1000,
        metavar="T",
        help="temperatures of each chain (default 1000)",
    )
    return options


def bound_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Those options as ``pyrovae.compare`` takes them."""
    ais = AISOptions(num_chains=options.num_chains, num_temperatures=options.num_temperatures)
    return {"method": options.method, "num_particles": options.num_particles, "ais": ais}


def run_options(seed_of: str = "splits, noise, starts and draws") -> argparse.ArgumentParser:
    """Where and how a command runs."""
    options = argparse.ArgumentParser(add_help=False)
    group = options.add_argument_group("run")
    group.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    group.add_argument("--threads", type=positive, metavar="T", help="default: 1 for small data, else all cores")
    group.add_argument("--seed", type=seed, default=0, help=f"of {seed_of} (default 0)")
    group.add_argument("--quiet", action="store_true", help="print the result only")
    return options


def reporter(options: argparse.Namespace) -> Callable[[str], None]:
    """Prints a line on standard error, or nothing if that was asked for."""
    return (lambda line: None) if options.quiet else (lambda line: print(line, file=sys.stderr, flush=True))


def load(options: Any, dtype: torch.dtype, *, resample: bool = False) -> DataSet:
    """The data set asked for; tables are standardised unless told otherwise, because their columns have units."""
    table = Path(options.data).suffix.lower() == ".csv" and options.observations != "binary"
    transform: Any = options.transform or ("standardize" if table else "none")
    return data.load(
        options.data,
        observations=options.observations,
        transform=None if transform == "none" else transform,
        resample=resample,
        max_images=options.max_images,
        seed=options.seed,
        dtype=dtype,
    )


def provenance_of(options: argparse.Namespace, dataset: DataSet) -> Provenance:
    """What is written beside a model that was fitted to these data."""
    return Provenance.of(dataset, options.data, seed=options.seed, max_images=options.max_images)


def saved_provenance(path: str) -> Provenance:
    """Where the model in a file comes from.

    Raises:
        ValueError: If the file does not say.
    """
    description = model_file.describe(path)
    try:
        return Provenance.from_plain((description or {})["data"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"`path` must be a model that says which data it was fitted to, got {path!r}, which does not; write it by "
            "pyrovae fit or pyrovae compare."
        ) from error


def describe(dataset: DataSet) -> str:
    """One line on the data."""
    train, valid, test = dataset
    sizes = f"{len(train):,} train, {len(valid or ()):,} validation, {len(test):,} test"
    return f"{dataset.name}: {sizes}, D = {train.num_dims}; view: {train.space.transform_name}"


def set_threads(threads: int | None, num_numbers: int) -> None:
    """As many threads as asked for; on small tensors a second one only waits for a core that somebody else has."""
    torch.set_num_threads(threads or (1 if num_numbers < SMALL else torch.get_num_threads()))


def device_of(name: str) -> torch.device:
    """The device, if there is one.

    Raises:
        ValueError: If the name means nothing to torch, or no such device is here.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"`device` must be a device of this machine, got {name!r}, which torch cannot use; try cpu."
        ) from error
    return device


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def seed(text: str) -> int:
    """A whole number that torch and NumPy take as a seed."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2**32 - 1, got {text!r}")
    return int(text)


def positive_number(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


def one_line(message: object) -> str:
    """The library's message on one line, its arguments called as the command's options are."""
    return re.sub(r"`(\w+)`", lambda name: f"`{NAMES.get(name[1], name[1])}`", " ".join(str(message).split()))
