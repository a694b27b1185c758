"""Numba, set up once for every kernel of the package.

`kernel` compiles one function to machine code and keeps it on disk; `parallel_kernel` does the same and
spreads its `prange` loops over the cores. Both release the GIL.

Rules that keep the results the same to the last bit for any number of threads:

- a `prange` loop runs over what is *written*: no two iterations touch the same output element, and a sum
  over pixels is split into a fixed number of parts that are added in order;
- no full `fastmath`: it assumes that no NaN occurs and would hide a diverged training. `contract` (fused
  multiply-add) and `reassoc` (vector sums) are decided when the code is compiled, not when it runs.

A background thread must call only `kernel`s: Numba's threads are not to be entered from two threads at once
on every platform.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numba
from numba.core import event

SAFE_MATH = {"contract", "reassoc", "nsz", "arcp"}

kernel: Callable[..., Any] = partial(
    numba.njit, cache=True, nogil=True, fastmath=SAFE_MATH, error_model="numpy"
)
parallel_kernel: Callable[..., Any] = partial(kernel, parallel=True)


class _AnnounceCompilation(event.Listener):
    """Says on stderr, once a process, that kernels are being compiled, and which ones."""

    def __init__(self) -> None:
        self.announced = False

    def on_start(self, event: Any) -> None:
        function = event.data["dispatcher"].py_func
        if self.announced or not function.__module__.startswith("tinyunet"):
            return
        self.announced = True
        print(
            "compiling kernels, once: about two minutes, then kept on disk "
            "(python -m tinyunet.compile does it ahead)",
            file=sys.stderr,
            flush=True,
        )

    def on_end(self, event: Any) -> None:
        pass


# Numba tells of a compilation only when the code was not found on disk.
event.register("numba:compile", _AnnounceCompilation())
