"""A fork server: run a command in a child that starts with everything imported, and find how it ended.

Forking takes milliseconds where starting Python and importing the packages takes seconds. It is safe because
this process has one thread: Numba gets one and the workqueue layer, BLAS gets one, and tqdm no monitor.
"""

from __future__ import annotations

import os

# NumPy, Numba and Matplotlib read these at import.
os.environ |= {"NUMBA_NUM_THREADS": "1", "NUMBA_THREADING_LAYER": "workqueue", "MPLBACKEND": "Agg"}
os.environ |= {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL")}

import contextlib
import faulthandler
import gc
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tqdm

from tinyunet import compare, doctor, evaluate, export, predict, report, train
from tinyunet.reporting import watch_page
from tinyunet.reporting.follow import Follower


def _print_page(arguments: Sequence[str]) -> None:
    """Print what `python -m tinyunet.watch` serves."""
    paths = [Path(argument) for argument in arguments]
    print(watch_page.render(Follower(paths).snapshots(time.time()), paths))


COMMANDS: dict[str, Callable[[list[str]], object]] = {
    "compare": compare.main,
    "train": train.main,
    "predict": predict.main,
    "evaluate": evaluate.main,
    "doctor": doctor.main,
    "report": report.main,
    "export": export.main,
    "page of watch": _print_page,
}
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # memory, which no fsync waits for
SECONDS = 20  # of its own computing, after which a command hangs
WAITING = 300  # the same, whatever it waits for
MOST_BYTES = 2 * 2**30  # that a command may need
CEILING = 6 * 2**30  # at which the system refuses more, to protect the machine
OUT_OF_MEMORY = ("too little memory", "the memory of this machine does not suffice", "out of memory")
TRACEBACK = 70  # exit status of a child whose command raised an error


@dataclass(frozen=True)
class Ending:
    """How a child ended.

    Attributes
    ----------
    fault : str
        "" or what it did that no command may do.
    status : int
        The exit status, or the signal's number, negative.
    output : str
        What it printed to stdout and stderr.
    peak : int
        The most memory that it had, in bytes; 300 MB are Python and its modules.
    """

    fault: str
    status: int
    output: str
    peak: int


def warm_up(folder: Path, calls: Sequence[Sequence[str]]) -> None:
    """Run commands here, so that children find modules imported and kernels compiled."""
    tqdm.tqdm.monitor_interval = 0
    # tqdm's own lock is shared by all children: one that is killed in it would stop all that follow.
    tqdm.tqdm.set_lock(threading.RLock())
    repeat(folder, calls)
    gc.collect()
    gc.freeze()  # a child's collection would otherwise copy every page


def repeat(folder: Path, calls: Sequence[Sequence[str]]) -> None:
    """Run commands in this process, in a folder and in silence."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        for name, *arguments in calls:
            with (
                open(os.devnull, "w") as nowhere,
                contextlib.redirect_stdout(nowhere),
                contextlib.redirect_stderr(nowhere),
            ):
                COMMANDS[name](arguments)
    finally:
        os.chdir(before)


def run(
    folder: Path, log: Path, name: str, arguments: Sequence[str], prepare: Callable[[], None] | None = None
) -> Ending:
    """Run a command in a child, in a folder.

    Parameters
    ----------
    folder : Path
    log : Path
        File for what it prints.
    name : str
        One of `COMMANDS`.
    arguments : sequence of str
    prepare : callable, optional
        Called in the child before the command.
    """
    pid = os.fork()
    if pid == 0:
        _child(folder, log, name, arguments, prepare)
    _, result, usage = os.wait4(pid, 0)
    output = log.read_text(encoding="utf-8", errors="replace")
    status = os.waitstatus_to_exitcode(result)
    peak = usage.ru_maxrss * 1024
    return Ending(_fault(status, output, peak), status, output, peak)


def _fault(status: int, output: str, peak: int) -> str:
    """Name what no command may do, however strange its input is."""
    if status in (-signal.SIGPROF, -signal.SIGALRM):
        return "hang"
    if status < 0:
        return f"signal {-status}"
    if status == TRACEBACK or "Traceback (most recent call last)" in output:
        return "traceback"
    if status not in (0, 1, 2):
        return f"status {status}"
    if status and not output.strip():
        return "no message"
    if peak > MOST_BYTES or any(text in output for text in OUT_OF_MEMORY):
        return "memory"
    return ""


def _child(
    folder: Path, log: Path, name: str, arguments: Sequence[str], prepare: Callable[[], None] | None
) -> None:
    """Run the command and end the process; never returns."""
    status = TRACEBACK
    try:
        os.chdir(folder)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        for number in (signal.SIGPROF, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WAITING)
        faulthandler.dump_traceback_later(WAITING - 1)  # where each thread waits
        limit = _addresses() + CEILING
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if prepare:
            prepare()
        COMMANDS[name](list(arguments))
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _addresses() -> int:
    """Return the bytes of addresses that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
