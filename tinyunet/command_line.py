"""What the commands share: how an error ends them, which folder they may fill, which file failed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tinyunet.errors import RunError, TinyUNetError


def run(command: Callable[[], None]) -> None:
    """Run a command. A user's mistake is printed to stderr, without a traceback, and the exit status is 2."""
    try:
        command()
    except TinyUNetError as error:
        sys.exit(_told(str(error)))
    except OSError as error:
        sys.exit(
            _told(f"{error.filename or 'a file'} could not be read or written: {error.strerror or error}")
        )
    except MemoryError as error:
        told = RunError(
            "the memory of this machine does not suffice",
            {"reason": error},
            "give a smaller --tile, a smaller network (--base-channels, --depth) or smaller images",
        )
        sys.exit(_told(str(told)))
    except KeyboardInterrupt:
        sys.exit(130)


def require_empty(folder: Path, *, overwrite: bool) -> None:
    """Raise a RunError unless `folder` is new, empty, or a folder whose files may be overwritten."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: a file, expected a folder", remedy="choose another --out")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise RunError(
            f"{folder}: the folder holds files, nothing was overwritten",
            remedy="choose another --out, or give --overwrite",
        )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file when writing fails: the system's own error does so only for opening it."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path}: could not be written",
            {"reason": error.strerror or error},
            "make room on the disk, or choose another --out where you may write",
        ) from error


def _told(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
