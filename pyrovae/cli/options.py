"""What the commands share: options, their names in messages, and what is done with them."""

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
from pyrovae.data.table_form import is_table
from pyrovae.data.tables import TableOptions
from pyrovae.evaluate import AISOptions
from pyrovae.io import model_file

FLAGS = {  # the command's names for the library's, where they differ by more than dashes
    **dict.fromkeys(("name", "data", "dataset"), "DATA"),
    **dict.fromkeys(("path", "file"), "FILE"),
    "folder": "--out",
    "num_components": "--components",
    "num_epochs": "--epochs",
    "num_steps": "--steps",
    "num_particles": "--particles",
    "num_chains": "--chains",
    "num_temperatures": "--temperatures",
    "num_restarts": "--restarts",
    "num_samples": "--number",
    "num_classes": "--conditional",
    "labels": "--label",
}
SMALL = 1_000_000  # numbers in the training data, N × D, below which one thread is used


def flag(name: str) -> str:
    """What an argument of the library is called on the command line."""
    return FLAGS.get(name, f"--{name.replace('_', '-')}")


def add(group: Any, name: str, help: str, **keywords: Any) -> None:
    """Add the option for an argument of the library; the other arguments are those of ``add_argument``."""
    group.add_argument(flag(name), dest=name, help=help, **keywords)


def add_data(parser: argparse.ArgumentParser) -> None:
    """DATA and how it is read."""
    group = parser.add_argument_group("data")
    help = (
        "digits (default), mnist, fashion_mnist, kmnist, binarized_mnist, frey, celeba, or a file: a table (.csv, "
        ".tsv, .txt, compressed or not), .npy or .npz"
    )
    group.add_argument("data", nargs="?", default="digits", metavar="DATA", help=help)
    help = (
        "grey pixels dequantised with uniform noise (a density), binarized or as the integers that they are (a mass); "
        "default: the natural one of the first two"
    )
    add(group, "observations", help, choices=("continuous", "binary", "integer"))
    help = "what models see; densities are brought back by log|det J|; default: standardize for tables, else none"
    add(group, "transform", help, choices=("none", "logit", "standardize"))
    add(
        group,
        "label",
        "of a table, the column of labels; default: one called label, class, target or y",
        metavar="COLUMN",
    )
    add(group, "drop", "of a table, columns to leave out", nargs="+", default=(), metavar="COLUMN")
    help = "of a table, what to do about missing cells: refuse, keep them (for gmm, ppca and fa), or drop their rows"
    add(group, "missing", help, choices=("error", "nan", "drop"), default="error")
    add(group, "max_images", "of celeba, whose whole set takes 20 GB", type=positive, metavar="N")


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """How large the models are, and how long SVI trains."""
    group = parser.add_argument_group("models")
    help = "latent dimension; default: 8, 16 from 256 dimensions on; for PPCA, compare chooses it"
    add(group, "latent_dim", help, type=positive, metavar="L")
    add(group, "num_components", "mixture components; default: 10; compare chooses them", type=positive, metavar="K")
    help = "passes of SVI over the training data; by default 60, but 1,700 steps at least and 12,000 at most for a VAE"
    add(group, "num_epochs", help, type=positive, metavar="E")


def add_bound(parser: argparse.ArgumentParser) -> None:
    """How log p(x) is bounded where it is not exact."""
    group = parser.add_argument_group("log p(x), where it is not exact")
    help = "importance sampling (default), or annealed importance sampling: a tighter bound for more time"
    add(group, "method", help, choices=("importance", "ais"), default="importance")
    for name, default, metavar, what in (
        ("num_particles", 1000, "S", "importance samples for each datum"),
        ("num_chains", 16, "S", "annealed chains for each datum"),
        ("num_temperatures", 1000, "T", "temperatures of each chain"),
    ):
        add(group, name, f"{what} (default {default})", type=positive, default=default, metavar=metavar)


def picked(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Some of the options, by their names in the library."""
    return {name: getattr(options, name) for name in names}


def bound_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Those options as ``pyrovae.compare`` takes them."""
    ais = AISOptions(num_chains=options.num_chains, num_temperatures=options.num_temperatures)
    return {**picked(options, "method", "num_particles"), "ais": ais}


def add_run(parser: argparse.ArgumentParser, seed_of: str = "splits, noise, starts and draws") -> None:
    """Where and how a command runs."""
    group = parser.add_argument_group("run")
    add(group, "device", "cpu (default), cuda or cuda:N", default="cpu")
    add(group, "threads", "default: 1 for small data, else all cores", type=positive, metavar="T")
    add(group, "seed", f"of {seed_of} (default 0)", type=seed, default=0)
    group.add_argument("--quiet", dest="progress", action="store_const", const=False, help="print the result only")
    # without --quiet, `progress` is None: shown where there is a terminal


def reporter(options: argparse.Namespace) -> Callable[[str], None]:
    """Prints a line on standard error, or nothing if that was asked for."""
    quiet = options.progress is False
    return (lambda line: None) if quiet else (lambda line: print(line, file=sys.stderr, flush=True))


def load(options: argparse.Namespace, **more: Any) -> DataSet:
    """The data set asked for; tables are standardised unless told otherwise, because their columns have units."""
    table = is_table(Path(options.data)) and options.observations != "binary"
    transform: Any = options.transform or ("standardize" if table else "none")
    given = picked(options, "observations", "max_images", "seed", "label", "drop", "missing")
    return data.load(options.data, transform=None if transform == "none" else transform, **given, **more)


def provenance_of(options: argparse.Namespace, dataset: DataSet) -> Provenance:
    """What is written beside a model that was fitted to these data."""
    table = TableOptions(options.label, tuple(options.drop), options.missing)
    return Provenance.of(dataset, options.data, seed=options.seed, max_images=options.max_images, table=table)


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
    view = train.space.transform_name
    bars = "" if view == "as it is" else " (progress bars show nats in this view)"
    about = f"{dataset.name}: {dataset.about}\n" if dataset.about else ""
    return f"{about}{dataset.name}: {sizes}, D = {train.num_dims}; view: {view}{bars}"


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


def _checked(convert: Callable[[str], Any], holds: Callable[[Any], bool], said: str) -> Callable[[str], Any]:
    """What argparse calls with the text of an option."""

    def parse(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            value = math.nan
        if not holds(value):
            raise argparse.ArgumentTypeError(f"must be {said}, got {text!r}")
        return value

    return parse


positive = _checked(int, lambda value: value >= 1, "a whole number of at least 1")
seed = _checked(int, lambda value: 0 <= value < 2**32, "a whole number from 0 to 2**32 - 1")
positive_number = _checked(float, lambda value: 0 < value < math.inf, "a positive number")


def one_line(message: object, options: argparse.Namespace) -> str:
    """The library's message on one line, its arguments called as the command's options are."""

    def called(name: re.Match[str]) -> str:
        known = name[1] in FLAGS or name[1] in vars(options)
        return f"`{flag(name[1])}`" if known else name[0]

    return re.sub(r"`(\w+)`", called, " ".join(str(message).split()))
