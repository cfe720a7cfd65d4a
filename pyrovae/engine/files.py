"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``, which takes its place if the block ends well, and is removed if not.

    Args:
        path: The file, in a folder that exists.

    Raises:
        FileNotFoundError, IsADirectoryError: As :func:`check_place`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with written_whole(Path(folder) / "note.txt") as temporary:
        ...         _ = temporary.write_text("whole")
        ...     sorted(os.listdir(folder))
        ['note.txt']
    """
    path = check_place(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_place(path: str | Path, name: str = "path") -> Path:
    """Whether a file can have this path.

    Raises:
        FileNotFoundError: If its folder is not there.
        IsADirectoryError: If it is a folder.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"`{name}` must be a file in a folder that exists, got {str(path)!r}, and there is no folder "
            f"{str(path.parent)!r}; make it first."
        )
    if path.is_dir():
        raise IsADirectoryError(f"`{name}` must be a file, got {str(path)!r}, which is a folder; name a file in it.")
    return path
