"""The ``pyrovae`` command: parses, calls, prints; one file a command."""

from pyrovae.cli.command import build_parser as build_parser, main as main
