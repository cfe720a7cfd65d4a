"""The ``pyrovae`` command: parses, calls, prints; one file a command."""

from pyrovae.cli.command import build_parser, main

__all__ = ["build_parser", "main"]
