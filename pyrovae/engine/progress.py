"""The one progress bar of the library."""

from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def progress_bar(
    iterable: Iterable[Any] | None = None,
    *,
    desc: str,
    unit: str,
    progress: bool | None,
    total: int | None = None,
    rank: int = 0,
) -> tqdm:
    """A bar that appears after a second: by default where the output is a terminal, else as ``progress`` says.

    Args:
        iterable: What to go through; without it, call ``update``.
        desc, unit, total: As for tqdm.
        progress: True, False, or None for the default.
        rank: Only the process of rank 0 shows a bar.
    """
    disable = True if rank > 0 else None if progress is None else not progress
    return tqdm(iterable, total=total, desc=desc, unit=unit, delay=1.0, leave=False, disable=disable)
