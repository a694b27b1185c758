"""The options of Numba, once for every kernel of the package.

`kernel` compiles a function to machine code and keeps it on disk; `parallel_kernel` also spreads its `prange`
loops over the cores, whose threads may take tasks one by one (`Tasks`); `inlined_kernel` is for a part of a
kernel whose values must stay in registers. All release the GIL.

Rules that keep the results the same to the last bit for any number of threads:

- a `prange` loop, or the tasks in it, runs over what is *written*: no two touch the same element, and a sum
  over pixels is split into a fixed number of parts that are added in order;
- no full `fastmath`: it assumes that no NaN occurs and would hide a diverged training;
- nothing may depend on where arrays lie. The compiler makes a vector and a scalar form of a loop that stores,
  and the program chooses between them when it runs: the scalar form if two arrays are close neighbours. Both
  must round in the same way. Hence no `arcp`, which multiplies by 1 / x in one form and divides by x in the
  other; and, because `reassoc` lets the vector form sum in another order, a loop that sums does not store;
- a kernel does not call a method that adds, such as `x.sum()`: with one, the process that compiled a kernel
  got other bits than those that read it from disk. Probably Numba compiles the method into a function of its
  own, of which each kernel on disk has a copy that is optimised on its own.

**Threads of the caller.** Several may run kernels at once, with a team of threads for each of them (OpenMP,
TBB). Numba's own pool, "workqueue", has one team: there the callers take turns. A forked child of a process
that has used GNU's OpenMP cannot use it again, and says so.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

import numba
import numpy as np
from llvmlite import ir
from numba import extending, types
from numba.core import event
from numba.core.registry import CPUDispatcher
from numpy.typing import NDArray

from tinyunet.errors import BackendError

# How often a thread of GNU's OpenMP looks whether the others are done before it sleeps. By default that lasts
# some milliseconds, in which its core is not free for them: where another program took the other core of two,
# a training step took 2.0 s in place of 0.55. Read when the library is loaded, by the first parallel kernel.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"

SAFE_MATH = {"contract", "reassoc", "nsz"}

_numba_config: Any = numba.config


def kernel(function: Callable[..., Any], *, parallel: bool = False, forceinline: bool = False) -> Any:
    """Compile a function when it is first called, and keep the machine code on disk."""
    compiled: Any = numba.njit(
        cache=True,
        nogil=True,
        fastmath=SAFE_MATH,
        error_model="numpy",
        parallel=parallel,
        forceinline=forceinline,
    )(function)
    # Numba compiles again if the file of the function has changed, but not if that of a kernel that it calls
    # has. Here both count.
    compiled.source_files = _source_files(function)
    compiled._cache._cache_file._source_stamp = [
        (file, os.stat(file).st_mtime_ns, os.stat(file).st_size) for file in compiled.source_files
    ]
    return compiled


def parallel_kernel(function: Callable[..., Any]) -> Any:
    """Compile a `kernel` whose `prange` loops are spread over the cores."""
    compiled = kernel(function, parallel=True)
    if _numba_config.THREADING_LAYER in ("workqueue", "forksafe"):  # "forksafe" may become "workqueue"
        compiled.__class__ = _TakesTurns
    _parallel_kernels.append(compiled)
    return compiled


class Tasks(NamedTuple):
    """Tasks that threads take one by one: how many threads there are, and how many tasks they have taken.

    A `prange` loop gives each thread an equal share, and lasts as long as the slowest core takes: one that
    waits for memory, or of a processor whose cores differ. Here that core does fewer tasks. Each task writes
    to places of its own, so that no result depends on who does it:

        for worker in prange(tasks.workers):
            task = next_task(tasks.taken)
            while task < count:
                ...
                task = next_task(tasks.taken)
    """

    workers: int
    taken: NDArray[np.int64]
    """(1,)"""


def new_tasks() -> Tasks:
    """Make the `Tasks` of one call of a kernel, for as many threads as Numba uses."""
    return Tasks(numba.get_num_threads(), np.zeros(1, np.int64))


def _next_task(context: Any, taken: Any) -> Any:
    """Return the number of the next task, 0, 1, …, for whichever thread asks first."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        memory = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", memory, ir.IntType(64)(1), "monotonic")

    return types.int64(taken), generate


next_task: Any = extending.intrinsic(_next_task)

_parallel_kernels: list[Any] = []
_turn = threading.Lock()


class _TakesTurns(CPUDispatcher):
    """A parallel kernel for a pool that only one thread may enter: Numba would abort the process."""

    def __call__(self, *arguments: Any) -> Any:
        with _turn:
            return super().__call__(*arguments)


class _CannotRun(CPUDispatcher):
    """A parallel kernel in a forked process whose pool of threads stayed in its parent."""

    def __call__(self, *arguments: Any) -> NoReturn:
        raise BackendError(
            f"{self.py_func.__name__}: this process was forked from one that had run a parallel kernel, and "
            "GNU's OpenMP does not survive that",
            {"process": os.getpid(), "forked from": os.getppid()},
            'start processes by multiprocessing.get_context("spawn"), or set the environment variable '
            "NUMBA_THREADING_LAYER=workqueue before the parent starts",
        )


def _after_fork_in_child() -> None:
    """Replace the parallel kernels where Numba would end this process without a Python error, or hang.

    A change of class rather than a question in each call: kernels of a process that never forks stay as fast.
    """
    global _turn
    _turn = threading.Lock()  # a thread of the parent may have held it
    if _has_gnu_openmp():
        for compiled in _parallel_kernels:
            compiled.__class__ = _CannotRun


def _has_gnu_openmp() -> bool:
    """Return whether Numba has started GNU's OpenMP in this process or, before a fork, in its parent."""
    try:
        if numba.threading_layer() != "omp":
            return False
    except ValueError:  # no parallel kernel has been loaded
        return False
    return import_module("numba.np.ufunc.omppool").openmp_vendor == "GNU"


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)


def inlined_kernel(function: Callable[..., Any]) -> Any:
    """Compile a `kernel` that becomes a part of its callers."""
    return kernel(function, forceinline=True)


def _source_files(function: Callable[..., Any]) -> list[str]:
    """List the files of this module, of a function, and of all kernels that it calls.

    The operators of registers belong to no name that a function mentions, so their file is in every list.
    """
    files = {__file__, str(Path(__file__).with_name("simd.py")), function.__code__.co_filename}
    names = function.__code__.co_names
    mentioned = [function.__globals__.get(name) for name in names]
    modules = [value for value in mentioned if isinstance(value, ModuleType)]
    mentioned += [getattr(module, name, None) for module in modules for name in names]
    for value in mentioned:
        files.update(getattr(value, "source_files", ()))
    return sorted(files)


class _AnnounceCompilation(event.Listener):
    """Says on stderr, once per process, that kernels are being compiled."""

    def __init__(self) -> None:
        self.announced = False

    def on_start(self, event: Any) -> None:
        function = event.data["dispatcher"].py_func
        if self.announced or not function.__module__.startswith("tinyunet"):
            return
        self.announced = True
        print(
            "compiling kernels, once: about a minute, then kept on disk "
            "(python -m tinyunet.compile does it ahead)",
            file=sys.stderr,
            flush=True,
        )

    def on_end(self, event: Any) -> None:
        pass


# Numba sends this event only if the code was not found on disk.
event.register("numba:compile", _AnnounceCompilation())
