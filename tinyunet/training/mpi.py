"""The start and the end of a training that mpiexec, srun or the like runs as several processes.

    mpiexec -n 4 python -m tinyunet.train --batch 8

mpi4py is imported only if the environment says that a launcher of MPI has started this process. Before, cores
were divided among the processes: see `tinyunet.startup`.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
import traceback
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from typing import Any, TextIO

import numba
from llvmlite import binding

from tinyunet import startup
from tinyunet.backend import active_backend
from tinyunet.command_line import explain
from tinyunet.data.fingerprint import Fingerprints
from tinyunet.errors import OptionError, RunError, TinyUNetError
from tinyunet.training import gpus
from tinyunet.training.mpi_ranks import MpiRanks
from tinyunet.training.ranks import ALONE, Ranks

PATIENCE = 2.0  # seconds in which a mistake that all ranks meet is reported by the first one
PACKAGES = ("numpy", "scipy", "numba", "llvmlite")  # they decide the machine code, and so the rounding


@contextmanager
def job() -> Iterator[Ranks]:
    """Join the other processes of an MPI job, if this is one; only the first rank prints.

    An error on one rank ends the job with its number and machine; one that all ranks have agreed on is
    reported by the first.

    Yields
    ------
    Ranks

    Raises
    ------
    OptionError
        mpi4py is missing, or belongs to another MPI than the launcher.
    """
    ranks = _join()
    if ranks is None:
        yield ALONE
        return
    stderr = sys.stderr
    try:
        with _silence(unless=ranks.is_first):
            yield ranks
        ranks.leave_gpu()
    except BaseException as error:
        if error is not ranks.agreed_error:
            _abort(ranks, error, stderr)
        if ranks.is_first:
            raise
        sys.exit(_status(error))


def _join() -> MpiRanks | None:
    number = startup.launched()
    if number is None:
        return None
    count = os.environ.get(startup.LAUNCHERS[number], "?")
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # the latter where it finds no library of MPI
        if count == "1":
            return None
        raise OptionError(
            "a launcher of MPI has started this process, and mpi4py cannot be imported",
            {number: os.environ[number], "import mpi4py": error},
            "pip install -e '.[mpi]', or start it without mpiexec",
        ) from None
    if MPI.COMM_WORLD.size == 1:
        if count not in ("1", "?"):
            raise OptionError(
                f"the launcher has started {count} processes, and mpi4py finds this one alone",
                {"mpi4py's MPI": MPI.Get_library_version().splitlines()[0]},
                "use the mpiexec of the same MPI: of MPICH from pip, it lies beside python",
            )
        return None
    return MpiRanks(MPI.COMM_WORLD)


@contextmanager
def _silence(*, unless: bool) -> Iterator[None]:
    if unless:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _status(error: BaseException) -> int:
    """The exit status of a process, as `command_line.run` chooses it."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + (error.args[0] if error.args else 2)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 2 if isinstance(error, TinyUNetError | OSError | MemoryError) else 1


def _abort(ranks: MpiRanks, error: BaseException, stderr: TextIO) -> None:
    """Name this rank and its error, and end all processes: the others wait for this one."""
    if not ranks.is_first:
        time.sleep(PATIENCE)
    name = f"rank {ranks.number} of {ranks.size} on {platform.node()}"
    if isinstance(error, TinyUNetError | OSError | MemoryError):
        print(f"error: {name}: {explain(error)}", file=stderr, flush=True)
    elif not isinstance(error, KeyboardInterrupt):
        print(f"error: {name}:", file=stderr)
        traceback.print_exception(error, file=stderr)
        stderr.flush()
    ranks.abort(_status(error))


def describe(ranks: Ranks) -> str:
    """One line: the processes, as a launcher names one that is killed, their threads, and their GPUs."""
    own = f"PID {os.getpid()} on {platform.node()}" + (f" with GPU {ranks.gpu}" if ranks.gpu else "")
    processes = [f"rank {number} is {each}" for number, each in enumerate(ranks.from_all(own))]
    threads = ranks.from_all(numba.get_num_threads())
    last = f"; between GPUs: {ranks.transport}" if ranks.transport else ""
    return f"{ranks.size} processes: {', '.join(processes)}; threads: {' '.join(map(str, threads))}{last}"


def facts(images: Mapping[str, Fingerprints]) -> dict[str, object]:
    """What has to be the same on all ranks for the same bits.

    Parameters
    ----------
    images : mapping of str to dict
        The checksums of the images of each part.
    """
    from tinyunet import __version__

    features = binding.get_host_cpu_features().flatten().split(",")
    return {
        "backend": active_backend(),  # first: the GPU's are facts of one backend
        **(gpus.facts() if active_backend() == "cuda" else {}),
        "tinyunet": __version__,
        **{name: version(name) for name in PACKAGES},
        "Python": platform.python_version(),
        "processor": binding.get_host_cpu_name(),
        "its instruction sets": frozenset(name[1:] for name in features if name.startswith("+")),
        "images and labels": f"checksum {zlib.crc32(json.dumps(images).encode()):08x}",
    }


def require_alike(ranks: Ranks, own: Mapping[str, object]) -> None:
    """Raise a RunError, on all ranks, if any has other `facts` than the first.

    Parameters
    ----------
    ranks : Ranks
    own : mapping of str to object
        Of this rank. Of sets, what they do not have in common is named.
    """
    everyone = ranks.from_all((platform.node(), own))
    for name in own:
        values: list[Any] = [theirs[name] for _, theirs in everyone]
        other = next((number for number, value in enumerate(values) if value != values[0]), None)
        if other is None:
            continue
        if isinstance(values[0], frozenset):
            common = values[0] & values[other]
            values = [", ".join(sorted(value - common)) or "none besides the common ones" for value in values]
        shown = {f"rank {number} on {everyone[number][0]}": values[number] for number in (0, other)}
        raise ranks.agreed(
            RunError(
                f"the processes differ in {name}: their weights would not have the same bits",
                shown,
                "start them on machines of one kind, with the same installation and the same data",
            )
        )
