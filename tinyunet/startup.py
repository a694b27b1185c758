"""What a command does before it imports NumPy, Numba and SciPy, which takes seconds.

**Ctrl-C** ends it with exit status 130, as later, and not with a traceback: Python turns a Ctrl-C during an
import into that or, inside compiled modules, into some other error. A program that imports tinyunet keeps its
own handling.

**Cores** are divided among the processes of a training that a launcher of MPI has started on one machine:
Numba reads the number of its threads when it is imported.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
# What launchers of MPI tell each process: the variables of its number, and of how many there are.
LAUNCHERS = {"PMI_RANK": "PMI_SIZE", "OMPI_COMM_WORLD_RANK": "OMPI_COMM_WORLD_SIZE", "PMIX_RANK": ""}


def quit_on_interrupt() -> None:
    """End the process on Ctrl-C, if it was started as a command of tinyunet, until `restore` is called."""
    if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _quit)


def restore() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _quit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def launched() -> str | None:
    """Return the variable by which a launcher of MPI numbers this process; None if none has started it."""
    return next((name for name in LAUNCHERS if name in os.environ), None)


def share_cores() -> None:
    """Divide the cores among the processes of this machine that train together.

    A process that waits for a message keeps its core busy: with more threads than cores, others starve.
    NUMBA_NUM_THREADS can ask for fewer threads.
    """
    if not (launched() and _is_command() and {"train", "tinyunet.train"} & set(sys.orig_argv)):
        return
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):  # `tinyunet.training.mpi` says so
        return
    own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    node = MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)
    # A launcher may bind each process to cores of its own.
    sharing = sum(not own.isdisjoint(other) for other in node.allgather(own))
    threads = max(1, len(own) // sharing)
    fewer = os.environ.get("NUMBA_NUM_THREADS", "")
    os.environ["NUMBA_NUM_THREADS"] = str(min(threads, int(fewer)) if fewer.isdigit() else threads)


def _quit(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _is_command() -> bool:
    """Find out whether this runs as ``python -m tinyunet.train`` or ``tinyunet train`` or the like."""
    started = getattr(sys, "argv", [""])[0]
    if started != "-m":
        return Path(started).stem == "tinyunet"
    words = sys.orig_argv  # sys.argv has no name yet while Python looks for the module
    return words[words.index("-m") + 1].partition(".")[0] == "tinyunet" if "-m" in words[:-1] else False
