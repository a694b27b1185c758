"""The sum of two arrays, where the active backend computes: gradients that arrive by two paths add up."""

from __future__ import annotations

from typing import Any

from numba import prange

from tinyunet.backend import allocator
from tinyunet.backend.dispatch import active_backend, to_backend
from tinyunet.backend.jit import parallel_kernel


def add_arrays(a: Any, b: Any) -> Any:
    """Return a + b, of one shape and dtype, as a new array: a summand may be shared with another tensor."""
    if active_backend() == "numba":
        return add_numba(a, b)
    return to_backend(a + b)  # NumPy returns a scalar, not an array, for two arrays without axes


def add_into(total: Any, other: Any) -> None:
    """Add an array to another of its shape and dtype, in place; the bits are those of `add_arrays`."""
    if active_backend() == "numba":
        _add(total.reshape(-1), other.reshape(-1), total.reshape(-1))
    else:
        total += other


def add_numba(a: Any, b: Any) -> Any:
    """`add_arrays` in host memory, on all cores."""
    total = allocator.empty_like(a)
    _add(a.reshape(-1), b.reshape(-1), total.reshape(-1))
    return total


@parallel_kernel
def _add(a, b, total):
    for i in prange(total.size):
        total[i] = a[i] + b[i]
