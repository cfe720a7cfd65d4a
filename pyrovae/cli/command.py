"""The whole command: its parser, and one sentence on standard error for whatever cannot be done."""

import argparse
import sys
import warnings
from collections.abc import Sequence

import torch

import pyrovae
from pyrovae.cli import compare, evaluate, fit, sample, score
from pyrovae.cli.options import device_of, one_line
from pyrovae.data.new_rows import NewRowsWarning
from pyrovae.data.tables import TableWarning
from pyrovae.fit import FitWarning


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command."""
    parser = argparse.ArgumentParser(prog="pyrovae", description=pyrovae.__doc__)
    parser.add_argument("--version", action="version", version=f"pyrovae {pyrovae.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (compare, fit, evaluate, score, sample):
        command.add_to(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 if it did what was asked, 2 after one sentence on standard error if not."""
    options = build_parser().parse_args(arguments)
    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings(record=True) as caught:
            for category in (FitWarning, NewRowsWarning, TableWarning):
                warnings.simplefilter("always", category)
            options.device = device_of(options.device)
            options.run(options)
        for note in dict.fromkeys(one_line(each.message, options) for each in caught):
            print(f"pyrovae: note: {note}", file=sys.stderr)
    except (ValueError, TypeError, OSError, FloatingPointError, torch.linalg.LinAlgError) as error:
        print(f"pyrovae: error: {one_line(error, options)}", file=sys.stderr)
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
