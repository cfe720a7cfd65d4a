"""When a fit shows its progress bar."""

from __future__ import annotations


def hidden(progress: bool | None) -> bool | None:
    """tqdm's ``disable``: by default (None) the bar is hidden only where the output is not a terminal."""
    return None if progress is None else not progress
