"""Stop a process at its n-th operation on files: by SIGKILL, or with the error of a full disk.

Operations are opening a file for writing, each write, fsync, rename, removal and making a folder; those on
files elsewhere are not counted. A write is stopped before it, in its middle or after it.
"""

from __future__ import annotations

import builtins
import errno
import io
import mmap
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Operations:
    """Counts operations below a folder, and stops at one of them.

    Parameters
    ----------
    folder : Path
    target : int
        Which operation to stop at, counted from 1; 0 only counts.
    full : bool
        The disk is full from there on: operations that need room raise OSError. Otherwise SIGKILL.
    shared : mmap, optional
        Memory that a parent shares, for the number of operations so far.
    """

    def __init__(self, folder: Path, target: int, *, full: bool = False, shared: mmap.mmap | None = None):
        self.folder, self.target, self.full, self.shared = str(folder), target, full, shared
        self.count = 0

    def install(self) -> None:
        """Watch this process from now on."""
        io.open = builtins.open = self._opening(io.open)
        os.open = self._around(os.open, needs_room=False)
        os.replace = self._around(os.replace)
        os.rename = self._around(os.rename, needs_room=False)
        os.unlink = os.remove = self._around(os.unlink, needs_room=False)
        os.mkdir = self._around(os.mkdir)
        fsync = os.fsync
        os.fsync = lambda descriptor: self.at(lambda: fsync(descriptor))

    def at(self, operation: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Make an operation, unless this is the one to stop at: before, amidst or after it."""
        self.count += 1
        if self.shared:
            self.shared[:8] = self.count.to_bytes(8)
        if self.full and 0 < self.target <= self.count:
            if half and self.count == self.target:
                half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.full or self.count != self.target:
            return operation()
        if self.target % 3 == 1 and half:
            half()
        elif self.target % 3 == 2:
            operation()
        os.kill(os.getpid(), signal.SIGKILL)

    def concerns(self, path: Any) -> bool:
        """Return whether a path lies below the folder."""
        return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(self.folder)

    def _around(self, function: Callable[..., Any], *, needs_room: bool = True) -> Callable[..., Any]:
        def watched(path: Any, *arguments: Any, **options: Any) -> Any:
            if not self.concerns(path) or (self.full and not needs_room):
                return function(path, *arguments, **options)
            return self.at(lambda: function(path, *arguments, **options))

        return watched

    def _opening(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if mode in ("r", "rb") or not (isinstance(file, int) or self.concerns(file)):
                return function(file, mode, *arguments, **options)
            return _Watched(self.at(lambda: function(file, mode, *arguments, **options)), self)

        return opened


class _Watched:
    """A file whose writes are operations."""

    def __init__(self, file: Any, operations: Operations):
        self._file, self._operations = file, operations

    def write(self, content: Any) -> Any:
        def half() -> None:
            self._file.write(content[: len(content) // 2])
            self._file.flush()

        return self._operations.at(lambda: self._file.write(content), half)

    def writelines(self, parts: Any) -> None:
        for part in parts:
            self.write(part)

    def __enter__(self) -> _Watched:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
