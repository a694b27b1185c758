"""Memory for large results, kept and used again.

A training step needs the same large arrays as the step before. Fresh memory is slow: at the first access to
each page of 4 kB the operating system finds a free page and fills it with zeros. That was 7 % of a training
step. So the memory of an array that is gone is kept for later arrays.

**When an array is gone.** Nothing is returned by hand. An array from `empty` does not own its memory; its
base is a `_Lease`. In NumPy every view holds the array, and the array holds its base, so that Python deletes
the lease with the last of them. Only then is the memory free: while an array or a view of it is held, its
memory is never used for another.

**Which memory.** Arrays lie one after the other in *segments*, large pieces of the operating system's memory.
An array takes the smallest gap that is large enough, and what it leaves of that becomes a gap for others.
Gaps that touch become one. So a map of 80 MB leaves room for two of 40 MB, and the other way round. Large
arrays begin where a gap begins, small ones end where it ends, which keeps the two apart.

**How much is kept.** What was ever in use at once, and gaps between it. A page that no array has touched does
not exist yet, so that a segment may be far larger than what is used of it: each is as large as all before it.
"""

from __future__ import annotations

import bisect
import math
import mmap
import threading
from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

SMALL = 2**16  # bytes; below it NumPy is as fast
CACHE_LINE = 64  # bytes; arrays begin at one, so that few vectors lie across two
SEGMENT = 2**30  # bytes of the first segment, of which only what is touched exists
LARGE = 2**24  # bytes; smaller arrays go to the end of their gap
LARGEST_KEPT_BY_GLIBC = 2**25 - 2**16  # bytes; a little less than M_MMAP_THRESHOLD can be
PAGE = max(mmap.PAGESIZE, 4096)  # two arrays never share one, so that free memory can be given back


class _Segment:
    """A large piece of the operating system's memory, and the gaps in it: their begins, and their ends."""

    def __init__(self, size: int):
        self.memory = _map(size)
        self.begins, self.ends = [0], [size]

    @property
    def size(self) -> int:
        return len(self.memory)

    def take(self, size: int) -> int | None:
        """Take a part of the smallest gap that is large enough, and return where the part begins."""
        gaps = zip(self.begins, self.ends, strict=True)
        fitting = [(end - begin, i) for i, (begin, end) in enumerate(gaps) if end - begin >= size]
        if not fitting:
            return None
        room, i = min(fitting)
        begin, end = self.begins[i], self.ends[i]
        if room == size:
            del self.begins[i], self.ends[i]
        elif size < LARGE and end < self.size:
            self.ends[i] = begin = end - size
        else:
            self.begins[i] += size
        return begin

    def give_back(self, begin: int, end: int) -> None:
        """Make a gap, and one of it and those that it touches."""
        i = bisect.bisect(self.begins, begin)
        if i < len(self.begins) and self.begins[i] == end:
            end = self.ends.pop(i)
            del self.begins[i]
        if i and self.ends[i - 1] == begin:
            self.ends[i - 1] = end
        else:
            self.begins.insert(i, begin)
            self.ends.insert(i, end)

    def forget_gaps(self) -> None:
        """Give the pages of all gaps back to the operating system, where it takes them."""
        if hasattr(self.memory, "madvise"):
            for begin, end in zip(self.begins, self.ends, strict=True):
                self.memory.madvise(mmap.MADV_DONTNEED, begin, end - begin)


def _map(size: int) -> mmap.mmap:
    """Ask the operating system for memory of this process alone, whose pages exist once they are touched."""
    try:
        if not hasattr(mmap, "MAP_ANONYMOUS"):  # Windows
            return mmap.mmap(-1, size)
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no {size / 1e6:.0f} MB more for arrays: {error}") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):  # as NumPy does it: 512 times fewer pages to find
        with suppress(OSError):  # a system without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _keep_freed_memory() -> None:
    """Make glibc keep what other arrays free, too: it takes this size, freed at once, for an example.

    It gives larger memory back to the operating system, and at first everything from 128 kB on: labels and
    weights of pixels would meet 1300 new pages in each step.
    """
    np.empty(LARGEST_KEPT_BY_GLIBC, np.uint8)


class _Block(NamedTuple):
    """The memory of one array: bytes `begin` to `end` - 1 of a segment."""

    segment: _Segment
    begin: int
    end: int


_returned: deque[_Block] = deque()


class _Lease:
    """The base of an array: it tells NumPy where the memory is, and returns the memory when it is deleted."""

    __slots__ = ("__array_interface__", "_block")

    def __init__(self, block: _Block, shape: tuple[int, ...], dtype: np.dtype[Any]):
        self._block = block
        memory = np.frombuffer(block.segment.memory, np.uint8)[block.begin : block.end]
        self.__array_interface__ = {**memory.__array_interface__, "shape": shape, "typestr": dtype.str}
        del self.__array_interface__["descr"]  # the type of single bytes

    def __del__(self, give_back: Any = _returned.append) -> None:
        # Python may run this at any moment, in any thread: hence no lock, but a single atomic operation.
        give_back(self._block)


class _Pool:
    """The segments, in the order in which they were made."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.segments: list[_Segment] = []
        self.in_use = self.most_in_use = 0  # bytes
        _keep_freed_memory()

    def take(self, size: int) -> _Block:
        with self.lock:
            self._collect()
            block = self._fitting(size) or self._in_new_segment(size)
            self.in_use += size
            self.most_in_use = max(self.most_in_use, self.in_use)
            return block

    def _fitting(self, size: int) -> _Block | None:
        for segment in self.segments:
            begin = segment.take(size)
            if begin is not None:
                return _Block(segment, begin, begin + size)
        return None

    def _in_new_segment(self, size: int) -> _Block:
        usual = max(size, SEGMENT, sum(segment.size for segment in self.segments))
        try:
            segment = _Segment(usual)
        except MemoryError:  # where memory counts before it is touched
            segment = _Segment(size)
        self.segments.append(segment)
        segment.take(size)
        return _Block(segment, 0, size)

    def _collect(self) -> None:
        while _returned:
            block = _returned.popleft()
            block.segment.give_back(block.begin, block.end)
            self.in_use -= block.end - block.begin

    def clear(self) -> None:
        with self.lock:
            self._collect()
            self.segments = [s for s in self.segments if (s.begins, s.ends) != ([0], [s.size])]
            for segment in self.segments:
                segment.forget_gaps()

    def forget_most(self) -> int:
        """Begin to look for the most anew; returns how much it was more than what is in use now."""
        with self.lock:
            self._collect()
            most, self.most_in_use = self.most_in_use, self.in_use
            return most - self.in_use


_pool = _Pool()


def empty(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Make an array with any contents, as `numpy.empty`, whose memory is used again when it is gone.

    The memory of a small array is not, but it begins at a cache line too: adding every pixel to a row of 64
    sums took twice as long where vectors lay across two lines.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < SMALL:
        memory = np.empty(size + CACHE_LINE, np.uint8)
        begin = -memory.ctypes.data % CACHE_LINE
        return memory[begin : begin + size].view(dtype).reshape(shape)
    return np.asarray(_Lease(_pool.take(_whole_pages(size)), shape, dtype))


def release_free() -> None:
    """Release the memory that is kept for later arrays; that of arrays in use stays."""
    _pool.clear()


def peak() -> int:
    """Return the most bytes that were in use at once since the last call, beyond those in use now."""
    return _pool.forget_most()


def empty_like(array: NDArray[Any]) -> NDArray[Any]:
    """Make an array of this one's shape and dtype, with any contents."""
    return empty(array.shape, array.dtype)


def copy(view: NDArray[Any]) -> NDArray[Any]:
    """Make a C-contiguous copy."""
    array = empty_like(view)
    array[...] = view
    return array


def _whole_pages(size: int) -> int:
    return -(-size // PAGE) * PAGE
