"""The part of a prediction that workers of dask.distributed do: see `cluster`, which runs them.

A worker reads the network and the windows of the image itself, once per command, and does one task at a time.
"""

from __future__ import annotations

import hashlib
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numba
from numba.core import registry

import tinyunet
from tinyunet.backend import simd, use_backend
from tinyunet.command_line import explain
from tinyunet.data.class_table import ClassTable
from tinyunet.data.pixel_sizes import AS_IT_IS, Size
from tinyunet.data.planes import NO_CHOICE, PlaneChoice
from tinyunet.data.scaled_windows import scaled_windows
from tinyunet.data.windows import open_windows
from tinyunet.errors import RunError, TinyUNetError
from tinyunet.models import Network
from tinyunet.prediction.budget import memory_bytes
from tinyunet.prediction.slides import SlideOptions, SlideWriter

PACKAGES = ("numpy", "scipy", "numba", "scikit-image", "zarr", "numcodecs")


@dataclass(frozen=True)
class Job:
    """What a worker must know of a command.

    Parameters
    ----------
    load : callable
        Loads the networks; a worker unpickles it and calls it once.
    image, out : Path
        Absolute, and the same on every machine.
    options : SlideOptions
    classes : ClassTable, optional
    backend, precision : str
    memory : int
        Bytes that each worker may take; 0 if that is to be found out.
    choice : PlaneChoice
        The channel and the plane of the image.
    factors : (float, float)
        By which the image's height and width are scaled.
    computer : dict
        What every worker must be like: see `computer`.
    name : str
        Another one for each command, by which a worker knows that it has opened the files.
    """

    load: Callable[[], Sequence[Network]]
    image: Path
    out: Path
    options: SlideOptions
    classes: ClassTable | None
    backend: str
    precision: str
    memory: int = 0
    choice: PlaneChoice = NO_CHOICE
    factors: Size = AS_IT_IS
    computer: dict[str, str] = field(default_factory=dict)
    name: str = field(default_factory=lambda: uuid.uuid4().hex)


class Worker(NamedTuple):
    """What a worker says of itself."""

    machine: str
    memory: int
    """Half of what is free there, in bytes."""
    computer: dict[str, str]


def most_threads() -> int:
    """Return how many threads the kernels of this process may have."""
    config: Any = numba.config
    return config.NUMBA_NUM_THREADS


def computer(backend: str) -> dict[str, str]:
    """Describe what the last bits of a result and the bytes of its files depend on.

    Numba compiles for one kind of processor.
    """
    _, name, features = registry.cpu_target.target_context.codegen().magic_tuple()
    described = {
        "tinyunet": f"{tinyunet.__version__}, source {_source()[:8]}",
        "Python": ".".join(map(str, sys.version_info[:3])),
        **{package: _version(package) for package in PACKAGES},
        "processor": name,
        "instructions": f"{simd.LANES} lanes, {_digest(features.encode())[:8]}",
    }
    if backend == "cuda":
        import cupy

        described["GPU"] = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    return described


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _source() -> str:
    """Return a digest of tinyunet's own files: a checkout may have changed without its version."""
    folder = Path(tinyunet.__file__).parent
    files = sorted(folder.rglob("*.py"))
    return _digest(
        *(part for file in files for part in (str(file.relative_to(folder)).encode(), file.read_bytes()))
    )


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


_opened: dict[str, SlideWriter] = {}  # of the last command
_turn = threading.Lock()


def look(job: Job) -> Worker:
    """Find out whether a worker sees the files of a command, and what the worker is like."""
    with use_backend(job.backend, job.precision):
        job.load()
    open_windows(job.image, job.choice)
    if not job.out.parent.is_dir():
        raise RunError(f"{job.out.parent}: there is no such folder")
    return Worker(socket.gethostname(), memory_bytes(None), computer(job.backend))


def work(job: Job, step: Callable[[SlideWriter, Any], Any], task: Any) -> Any:
    """Do one task; an error names the worker."""
    from distributed import get_worker

    worker = get_worker()
    try:
        with _turn, use_backend(job.backend, job.precision):
            numba.set_num_threads(min(worker.state.nthreads, most_threads()))
            return step(_writer(job), task)
    except (TinyUNetError, OSError, MemoryError) as error:
        raise RunError(f"worker {worker.address} on {socket.gethostname()}: {explain(error)}") from error


def _writer(job: Job) -> SlideWriter:
    """Open network, image and results once per command."""
    if job.name not in _opened:
        if differing := differing_of({"begun with": job.computer, "this worker": computer(job.backend)}):
            raise RunError("computes other bits than the workers that began", differing)
        image = scaled_windows(open_windows(job.image, job.choice), job.factors)
        writer = SlideWriter(job.load(), image, job.out, job.options, job.classes, job.memory)
        writer.begin(create=False)
        _opened.clear()
        _opened[job.name] = writer
    return _opened[job.name]


def differing_of(described: Mapping[str, dict[str, str]]) -> dict[str, str]:
    """Find what the first and another have in different ways, with both values."""
    (first, expected), *others = described.items()
    for name, found in others:
        if differing := [key for key in expected if found.get(key) != expected[key]]:
            return {
                f"{who}": ", ".join(f"{key} {what.get(key)}" for key in differing)
                for who, what in ((first, expected), (name, found))
            }
    return {}
