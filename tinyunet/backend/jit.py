"""The options of Numba, once for every kernel of the package.

`kernel` compiles a function to machine code and keeps it on disk; `parallel_kernel` also spreads its `prange`
loops over the cores; `inlined_kernel` is for a part of a kernel whose values must stay in registers. All
release the GIL.

Rules that keep the results the same to the last bit for any number of threads:

- a `prange` loop runs over what is *written*: no two iterations touch the same output element, and a sum
  over pixels is split into a fixed number of parts that are added in order;
- no full `fastmath`: it assumes that no NaN occurs and would hide a diverged training;
- nothing may depend on where arrays lie. The compiler makes a vector and a scalar form of a loop that stores,
  and the program chooses between them when it runs: the scalar form if two arrays are close neighbours. Both
  must round in the same way. Hence no `arcp`, which multiplies by 1 / x in one form and divides by x in the
  other; and, because `reassoc` lets the vector form sum in another order, a loop that sums does not store.

A background thread must call only `kernel`s: on some platforms, two threads must not enter Numba's pool at
once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numba
from numba.core import event

SAFE_MATH = {"contract", "reassoc", "nsz"}


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
    return kernel(function, parallel=True)


def inlined_kernel(function: Callable[..., Any]) -> Any:
    """Compile a `kernel` that becomes a part of its callers."""
    return kernel(function, forceinline=True)


def _source_files(function: Callable[..., Any]) -> list[str]:
    """List the files of this module, of a function, and of all kernels that it calls."""
    files = {__file__, function.__code__.co_filename}
    for name in function.__code__.co_names:
        files.update(getattr(function.__globals__.get(name), "source_files", ()))
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
