"""Ctrl-C while a command starts: end with exit status 130, as later, and not with a traceback.

Importing NumPy, Numba and SciPy takes seconds, and Python turns a Ctrl-C there into a traceback or, inside
compiled modules, into some other error. A program that imports tinyunet keeps its own handling.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT


def quit_on_interrupt() -> None:
    """End the process on Ctrl-C, if it was started as a command of tinyunet, until `restore` is called."""
    if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _quit)


def restore() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _quit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _quit(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _is_command() -> bool:
    """Find out whether this runs as ``python -m tinyunet.train`` or ``tinyunet train`` or the like."""
    started = getattr(sys, "argv", [""])[0]
    if started != "-m":
        return Path(started).stem == "tinyunet"
    words = sys.orig_argv  # sys.argv has no name yet while Python looks for the module
    return words[words.index("-m") + 1].partition(".")[0] == "tinyunet" if "-m" in words[:-1] else False
