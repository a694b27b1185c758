"""Logs the kernels' launches, bytes, operations, and the wavefronts that the checking build counts."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyunet.backend.cuda_emulator import Traffic


@dataclass
class Totals:
    """The counts of one kernel, over all its launches."""

    launches: int = 0
    bytes: int = 0
    """The size of its arrays, each counted whole once per launch: what has to move at least."""
    flops: int = 0
    traffic: Traffic = field(default_factory=Traffic)
    """The accesses of its warps, where it ran in the checking build."""


class LaunchLog:
    """The launches while the log was active; ``print`` it to read it.

    ========== =====================================================================================
    kB         size of a launch's arrays, each counted whole: what has to move at least once. A kernel
               that reads a number again and again moves more, unless a cache has it.
    flop/byte  operations per byte: below about ten, a GPU waits for its memory
    global     wavefronts: segments of 128 bytes that global memory served, one warp at a time
    shared     wavefronts: turns that the banks of shared memory took, one warp at a time
    at best    the fewest wavefronts in which the same bytes could have been served
    ========== =====================================================================================

    Only the checking build of the emulator counts wavefronts (`kernels/emulator/counts.cpp`).

    A kernel in a CUDA graph counts each time the graph runs. Capturing it is no launch.

    Attributes
    ----------
    totals : dict of str to Totals
        By name of the kernel.
    """

    def __init__(self) -> None:
        self.totals: dict[str, Totals] = {}
        self._lock = threading.Lock()  # all threads add to the program's log

    def add(self, name: str, arguments: tuple[Any, ...], flops: int, traffic: Traffic) -> None:
        """Count one launch."""
        size = sum(a.nbytes for a in arguments if not isinstance(a, np.generic))
        self._add(name, Totals(1, size, flops, traffic))

    def include(self, other: LaunchLog) -> None:
        """Add the counts of another log."""
        for name, total in other.totals.items():
            self._add(name, total)

    def _add(self, name: str, more: Totals) -> None:
        with self._lock:
            total = self.totals.setdefault(name, Totals())
            total.launches += more.launches
            total.bytes += more.bytes
            total.flops += more.flops
            total.traffic = total.traffic.plus(more.traffic)

    def __str__(self) -> str:
        counted = any(total.traffic != Traffic() for total in self.totals.values())
        columns = ["launches", "kB", "kflop", "flop/byte"]
        columns += ["global", "at best", "shared", "at best"] if counted else []
        lines = [f"{'kernel':<32}" + "".join(f"{column:>10}" for column in columns)]
        for name, total in sorted(self.totals.items()):
            intensity = total.flops / total.bytes if total.bytes else 0
            line = f"{name:<32}{total.launches:>10}{total.bytes / 1e3:>10.1f}{total.flops / 1e3:>10.1f}"
            line += f"{intensity:>10.2f}"
            if counted:
                line += "".join(f"{number:>10}" for number in total.traffic)
            lines.append(line)
        return "\n".join(lines)


# The log of the whole program, if there is one, and those of this thread.
_program_log = (LaunchLog(),) if os.environ.get("TINYUNET_LAUNCH_LOG") == "1" else ()
_logs: ContextVar[tuple[LaunchLog, ...]] = ContextVar("logs", default=_program_log)


def record(name: str, arguments: tuple[Any, ...], flops: int, traffic: Traffic) -> None:
    """Add one launch to the active logs."""
    for log in _logs.get():
        log.add(name, arguments, flops, traffic)


@contextmanager
def captured_launches() -> Iterator[LaunchLog]:
    """Log launches inside the ``with`` block separately, because they are captured and do not run."""
    log = LaunchLog()
    token = _logs.set((log,))
    try:
        yield log
    finally:
        _logs.reset(token)


def record_graph(launches: LaunchLog) -> None:
    """Add one run of a graph, with all its kernels, to the active logs."""
    for log in _logs.get():
        log.include(launches)


@contextmanager
def launch_log() -> Iterator[LaunchLog]:
    """Log this thread's launches inside the ``with`` block.

    With the environment variable TINYUNET_LAUNCH_LOG=1 a program logs the launches of all its threads and
    prints them on stderr at its end, and "cuda-emulated" runs in the checking build, for the wavefronts.
    """
    log = LaunchLog()
    token = _logs.set((*_logs.get(), log))
    try:
        yield log
    finally:
        _logs.reset(token)


if _program_log:
    atexit.register(lambda: print(*_program_log, file=sys.stderr))
