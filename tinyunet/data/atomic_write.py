"""Write files whole or not at all.

Content goes into a file beside the old one, NAME.part, which is renamed once it is complete: a reader finds
the old file or the new one, never half of one. A file left there by a process that was killed is replaced. So
is a link, because to write through it would change a file elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """Yield a file to write to, which becomes `path` when the ``with`` block ends without an error.

    Parameters
    ----------
    path : Path
    durable : bool
        Wait until content and name are on the disk, so that they survive a power failure.

    Raises
    ------
    OSError
        The file cannot be written. The old one is untouched, and nothing is left beside it.
    """
    part = path.with_name(path.name + ".part")
    with suppress(FileNotFoundError):
        part.unlink()
    opened = part.open("xb")  # x: a file or a link that has appeared since is an error
    try:
        with opened as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(part, path)
        if durable:
            _sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write a text file in UTF-8, as `replacing` does. Bytes of names that are no text become "?"."""
    with replacing(path, durable=durable) as file:
        file.write(text.encode(errors="replace"))


def make_folder(path: Path) -> None:
    """Make a folder and those above it. `Path.mkdir` recurses, which ends at a thousand levels."""
    for folder in [*reversed(path.parents), path]:
        folder.mkdir(exist_ok=True)


def _sync_folder(folder: Path) -> None:
    """Write a folder's list of names to the disk, where the system can: Windows cannot open a folder."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
