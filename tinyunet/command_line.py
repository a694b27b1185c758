"""The parts that commands share: plain output, errors and exit status, files to write, words of a command."""

from __future__ import annotations

import codecs
import errno
import io
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tinyunet import startup
from tinyunet.errors import RunError, TinyUNetError

BackendName = Literal["numba", "numpy", "cuda", "cuda-emulated"]

PLAIN = {"↑": "^", "↓": "v", "→": "->", "–": "-", "−": "-", "×": "x", "±": "+-", "…": "...", "²": "2"}


def run(command: Callable[[], None]) -> None:
    """Run a command. A user's mistake is printed to stderr, without a traceback, and the exit status is 2.

    After a signal it is 128 and the signal's number: 130 after Ctrl-C.
    """
    startup.restore()
    print_plainly()
    try:
        command()
    except (TinyUNetError, OSError, MemoryError) as error:
        sys.exit(_print_error(explain(error)))
    except KeyboardInterrupt as interrupt:
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        sys.exit(128 + number)


def explain(error: TinyUNetError | OSError | MemoryError) -> str:
    """The message for an error that a user can do something about."""
    if isinstance(error, TinyUNetError):
        return str(error)
    if isinstance(error, OSError):
        file = error.filename or "a file"
        return f"{file} could not be read or written: {error.strerror or error}"
    explained = RunError(
        "the memory of this machine does not suffice",
        {"reason": error},
        "give a smaller --tile, a smaller network (--base-channels, --depth) or smaller images",
    )
    return str(explained)


def print_plainly() -> None:
    """Let stdout print ASCII for what its encoding lacks, as cp1252 does when Windows redirects it to a file.

    Otherwise the first arrow or foreign file name would end the command with an error.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="tinyunet.plain")


def _as_plain(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that cannot be encoded; what has no equivalent becomes an escape sequence."""
    assert isinstance(error, UnicodeEncodeError)
    unprintable = error.object[error.start : error.end]
    plain = [PLAIN.get(c, c.encode("ascii", "backslashreplace").decode()) for c in unprintable]
    return "".join(plain), error.end


codecs.register_error("tinyunet.plain", _as_plain)


def require_empty(folder: Path, *, overwrite: bool) -> None:
    """Raise a RunError unless `folder` is new, empty, or a folder whose files may be overwritten."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: a file, expected a folder", remedy="choose another --out")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise RunError(
            f"{folder}: the folder holds files, nothing was overwritten",
            remedy="choose another --out, or give --overwrite",
        )


def require_no_file(path: Path, *, overwrite: bool) -> None:
    """Raise a RunError if `path` exists and may not be overwritten."""
    if path.exists() and not overwrite:
        raise RunError(
            f"{path}: exists, nothing was overwritten", remedy="choose another --out, or give --overwrite"
        )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file when writing fails: the system's own error does so only when opening fails."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path}: could not be written",
            {"reason": error.strerror or error},
            "make room on the disk, or choose another --out where you may write",
        ) from error


def is_disk_full(error: BaseException) -> bool:
    """Return whether the cause of an error is a full disk or an exhausted quota."""
    while not isinstance(error, OSError):
        if error.__cause__ is None:
            return False
        error = error.__cause__
    return error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))  # Windows has no quotas


def _print_error(message: str) -> int:
    """Print an error; returns the exit status."""
    print(f"error: {message}", file=sys.stderr)
    return 2


def replaced(command: str, name: str, value: str, name_then: str = "") -> list[str]:
    """Return the words of a command in which an option has another value, and possibly another name."""
    words = shlex.split(command)
    at = [option_of(word) for word in words].index(f"--{name}")
    words[at : at + (1 if "=" in words[at] else 2)] = [f"--{name_then or name}", value]
    return words


def options_of(words: Iterable[str]) -> set[str]:
    """Return the options that are among the words of a command."""
    return {option_of(word) for word in words if word.startswith("--")}


def option_of(word: str) -> str:
    """Return the option that a word of a command names, without its value; tyro takes _ for -."""
    return word.partition("=")[0].replace("_", "-")
