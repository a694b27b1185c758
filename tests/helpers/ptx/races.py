"""Who accessed a cell of memory last, and whether anything orders that before another access.

Two accesses to one cell, one of them a write, are a race unless something orders them: the same thread, a
barrier of the block in between, or a ``bar.warp.sync`` between threads of a warp. Nothing orders two blocks.
"""

from typing import NamedTuple

import numpy as np

from ptx.fault import Fault

NONE, SEVERAL = -1, -2
EPOCHS = 24  # bits for the number of barriers that a block has passed, below the block's number


class Stamp(NamedTuple):
    """Threads and what they have passed; arrays of int64, one element per access."""

    thread: np.ndarray
    warp: np.ndarray
    block_epoch: np.ndarray
    """The block's number and, in the lowest bits, how many barriers it has passed."""
    warp_epoch: np.ndarray
    """How many barriers of its warp the thread has passed."""
    proxy_fences: np.ndarray
    """How many ``fence.proxy.async`` it has executed."""

    def at(self, index):
        """Return the stamps of some cells."""
        return Stamp(*(part[index] for part in self))


def unordered(before, now):
    """Return where nothing orders an earlier access before this one."""
    other_block = before.block_epoch >> EPOCHS != now.block_epoch >> EPOCHS
    other_warp = before.warp != now.warp
    same_time = (before.block_epoch == now.block_epoch) & (other_warp | (before.warp_epoch == now.warp_epoch))
    return (before.thread != NONE) & (before.thread != now.thread) & (other_block | same_time)


class Shadow:
    """The last writer and the readers of each cell.

    Of readers that nothing orders only one stamp is kept, in which the thread, the warp or even the block is
    SEVERAL.
    """

    def __init__(self, cells, name):
        self.name = name
        self.writers, self.readers = (Stamp(*np.full((len(Stamp._fields), cells), NONE)) for _ in range(2))
        self.copier = np.full(cells, NONE)  # the thread whose asynchronous copy is on its way
        self.copies = False  # whether there was any

    def read(self, cells, now):
        """Note reads, or raise a Fault."""
        self._check(cells, now, self.writers, "which thread {} wrote")
        before = self.readers.at(cells)
        kept = unordered(before, now)
        thread, warp, block_epoch, warp_epoch, _ = self.readers
        thread[cells] = mine = np.where(kept, SEVERAL, now.thread)
        warp[cells] = my_warp = np.where(kept & (before.warp != now.warp), SEVERAL, now.warp)
        other_block = before.block_epoch >> EPOCHS != now.block_epoch >> EPOCHS
        block_epoch[cells] = my_epoch = np.where(kept & other_block, SEVERAL, now.block_epoch)
        warp_epoch[cells] = now.warp_epoch
        for part, written in ((thread, mine), (warp, my_warp), (block_epoch, my_epoch)):
            lost = part[cells] != written  # overwritten by another lane that reads the same cell
            part[cells[lost]] = SEVERAL

    def write(self, cells, now):
        """Note writes, or raise a Fault."""
        self._check(cells, now, self.writers, "which thread {} wrote")
        self._check(cells, now, self.readers, "which thread {} read")
        self._set_writers(cells, now)
        lost = self.writers.thread[cells] != now.thread
        if lost.any():
            self._fail(cells, now, lost, "which another thread writes at once")

    def _set_writers(self, cells, now):
        for part, value in zip(self.writers, now, strict=True):
            part[cells] = value

    def check_written(self, cells, now):
        """Raise a Fault where nobody has written."""
        unwritten = self.writers.thread[cells] == NONE
        if unwritten.any():
            self._fail(cells, now, unwritten, "which nobody has written")

    def check_fenced(self, cells, now, fences_known):
        """Raise a Fault where a product does not see yet what was written.

        It reads through another path than threads do, the async proxy. It sees what a thread wrote after that
        thread's next ``fence.proxy.async``, and of another thread's fence it knows after a barrier. A fence
        by the thread that multiplies would do, too, but is not accepted here.
        """
        writers = self.writers.at(cells)
        behind = fences_known(writers.thread, now.thread) <= writers.proxy_fences
        if behind.any():
            self._fail(cells, now, behind, "with no fence.proxy.async since it was written")

    def begin_copy(self, cells, now):
        """Note asynchronous copies to cells, which may write at any time from now on, or raise a Fault."""
        self._check(cells, now, self.writers, "which thread {} wrote")
        self._check(cells, now, self.readers, "which thread {} read")
        self.copier[cells] = now.thread
        self.copies = True
        lost = self.copier[cells] != now.thread
        if lost.any():
            self._fail(cells, now, lost, "to which another thread copies at once")

    def end_copy(self, cells, now):
        """Note that copies have arrived: from now on they are writes of the threads that waited."""
        self.copier[cells] = NONE
        self._set_writers(cells, now)

    def _check(self, cells, now, before, did):
        if self.copies:
            pending = self.copier[cells] != NONE
            if pending.any():
                self._fail(cells, now, pending, "an asynchronous copy to which nobody has waited for")
        stamps = before.at(cells)
        bad = unordered(stamps, now)
        if bad.any():
            other = int(stamps.thread[bad][0])
            name = "several" if other == SEVERAL else str(other)
            self._fail(cells, now, bad, did.format(name) + ", with no barrier in between")

    def _fail(self, cells, now, bad, what):
        kind = "race" if "thread" in what else "not ready"
        raise Fault(
            f"{kind}: thread {now.thread[bad][0]} accesses cell {cells[bad][0]} of {self.name}, {what}"
        )
