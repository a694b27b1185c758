"""Memory for large results, kept and used again.

A training step needs the same large arrays as the step before. Fresh memory is slow: at the first access to
each page of 4 kB the operating system finds a free page and fills it with zeros. That was 7 % of a training
step. So the memory of an array that is gone is kept for the next array of about its size.

**When an array is gone.** Nothing is returned by hand. An array from `empty` does not own its memory; its
base is a `_Lease`. In NumPy every view holds the array, and the array holds its base, so that Python deletes
the lease with the last of them. Only then is the memory free: while an array or a view of it is held, its
memory is never used for another.

**Which memory.** The smallest that is large enough, and at most four times too large. Sizes are rounded up to
four steps per power of two, so that maps of 388 and 390 pixels share. What lies beyond the array is not
touched.

**How much is kept.** Before fresh memory is allocated, the memory that was returned first is released, until
the total is little more than the most that was ever in use at once.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

SMALL = 2**16  # bytes; below it NumPy is as fast
CACHE_LINE = 64  # bytes; arrays begin at one, so that few vectors lie across two
# The U-Net's training step needs 791 MB at once at base width 64. With these two limits the pool grows to
# 1060 MB; if only arrays of equal size shared memory, it would be 1340 MB.
LARGEST_RATIO = 4  # of the memory to the array that it is used for
RESERVE = 1.15  # the most that may be kept, in use or free, relative to the most that was ever in use

Memory = NDArray[np.uint8]

_returned: deque[Memory] = deque()


class _Lease:
    """The base of an array: it tells NumPy where the memory is, and returns the memory when it is deleted."""

    __slots__ = ("__array_interface__", "_memory")

    def __init__(self, memory: Memory, shape: tuple[int, ...], dtype: np.dtype[Any]):
        self._memory = memory
        self.__array_interface__ = {**memory.__array_interface__, "shape": shape, "typestr": dtype.str}
        del self.__array_interface__["descr"]  # the type of single bytes

    def __del__(self, return_memory: Any = _returned.append) -> None:
        # Python may run this at any moment, in any thread: hence no lock, but a single atomic operation.
        return_memory(self._memory)


class _Pool:
    """Free memory, in the order in which it was returned."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.free: list[Memory] = []
        self.in_use = self.most_in_use = 0  # bytes

    def take(self, size: int) -> Memory:
        with self.lock:
            self._collect()
            memory = self._fitting(size)
            self.in_use += size if memory is None else memory.size
            self.most_in_use = max(self.most_in_use, self.in_use)
            if memory is None:
                self._release()
        return _fresh(size) if memory is None else memory

    def clear(self) -> None:
        with self.lock:
            self._collect()
            self.free.clear()

    def _collect(self) -> None:
        while _returned:
            self.free.append(_returned.popleft())
            self.in_use -= self.free[-1].size

    def _fitting(self, size: int) -> Memory | None:
        """Take the smallest that is large enough; of equals the last, which a cache may still hold."""
        sizes = [memory.size for memory in self.free]
        fitting = [i for i, kept in enumerate(sizes) if size <= kept <= LARGEST_RATIO * size]
        return self.free.pop(min(fitting, key=lambda i: (sizes[i], -i))) if fitting else None

    def _release(self) -> None:
        excess = self.in_use + sum(memory.size for memory in self.free) - RESERVE * self.most_in_use
        while excess > 0 and self.free:
            excess -= self.free.pop(0).size


def _fresh(size: int) -> Memory:
    memory = np.empty(size + CACHE_LINE, np.uint8)
    begin = -memory.ctypes.data % CACHE_LINE
    return memory[begin : begin + size]


_pool = _Pool()


def empty(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Make an array with any contents, as `numpy.empty`, whose memory is used again when it is gone.

    The memory of a small array is not, but it begins at a cache line too: adding every pixel to a row of 64
    sums took twice as long where vectors lay across two lines.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < SMALL:
        return _fresh(size).view(dtype).reshape(shape)
    return np.asarray(_Lease(_pool.take(_rounded(size)), shape, dtype))


def release_free() -> None:
    """Release the memory that is kept for later arrays; that of arrays in use stays."""
    _pool.clear()


def empty_like(array: NDArray[Any]) -> NDArray[Any]:
    """Make an array of this one's shape and dtype, with any contents."""
    return empty(array.shape, array.dtype)


def copy(view: NDArray[Any]) -> NDArray[Any]:
    """Make a C-contiguous copy."""
    array = empty_like(view)
    array[...] = view
    return array


def _rounded(size: int) -> int:
    """Round up to the next of 4, 5, 6, 7 times a power of two."""
    step = 2 ** (size.bit_length() - 3)
    return -(-size // step) * step
