"""The processes of an MPI job as the ranks of a training. `tinyunet.training.mpi` starts and ends a job.

**Gradients travel while the backward pass goes on**, between machines. The pass ends with the first layers;
the gradients of the deepest ones, which have most of the weights, are ready long before. So a sum over the
ranks takes an array that becomes final from its beginning on, and sends it in parts. MPI moves data only
inside its calls, and hardly any if they are made between two layers. So a thread makes them. It looks for
messages many times, then sleeps: without the pause it would take a core from the backward pass.

Within one machine the cores themselves copy the data. There is nothing to hide, and no thread. Nor is there
on GPUs, where a tile's two passes are one launch: see `tinyunet.training.gpus`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.backend import active_backend, lies_on_gpu, to_host
from tinyunet.errors import TinyUNetError
from tinyunet.training import gpus
from tinyunet.training.ranks import Add, E, Ranks, Sum, T

PART = 2**21  # values that travel together, 8 MB: all 31 million at once took six times the processor's time
LOOKS, PAUSE = 100, 0.0005  # how often to look whether a message has arrived before a pause; its seconds


class MpiRanks(Ranks):
    """The processes of an MPI job.

    Parameters
    ----------
    communicator : mpi4py.MPI.Comm
    background : bool, optional
        Whether a thread exchanges what is summed, while this one goes on. If omitted, it does where the
        processes are on several machines, and the library of MPI may be called from a thread.

    Attributes
    ----------
    agreed_error : BaseException or None
        The one that all ranks raise.
    """

    def __init__(self, communicator: Any, *, background: bool | None = None):
        self._all = communicator
        self._background = _may_help(communicator) if background is None else background
        self.agreed_error: BaseException | None = None
        self._nccl: Any = None
        self.size, self.number = communicator.size, communicator.rank

    def from_first(self, value: T) -> T:
        """Return the first rank's value on all of them."""
        received: T = self._all.bcast(value if self.is_first else None)
        return received

    def from_all(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order, on all of them."""
        received: list[T] = self._all.allgather(value)
        return received

    def on_first(self, function: Callable[[], T]) -> T:
        """Call a function on the first rank; returns its result, or raises its error, on all of them."""
        result: T | None = None
        error: BaseException | None = None
        if self.is_first:
            try:
                result = function()
            except (TinyUNetError, OSError, SystemExit) as raised:
                error = raised
        result, error = self._all.bcast((result, error))
        if error is not None:
            raise self.agreed(error)
        return result

    def agreed(self, error: E) -> E:
        """Return an error that all ranks are about to raise, once all have come here."""
        self._all.Barrier()
        self.agreed_error = error
        return error

    def abort(self, status: int) -> None:
        """End all processes at once, with this exit status."""
        self._all.Abort(status)

    def take_gpu(self) -> None:
        """Compute on a GPU of this process's own, where the backend is "cuda"."""
        if set(self.from_all(active_backend())) == {"cuda"}:
            self.gpu = gpus.take_one(self)
            self._nccl, self.transport = gpus.connect(self, self.gpu)

    def leave_gpu(self) -> None:
        """End the connection of the GPUs: all ranks do it together, once no sum is under way."""
        if self._nccl:
            self._nccl.destroy()
            self._nccl = None

    def begin_sum(self, array: Any, add: Add) -> Sum:
        """Begin to sum arrays of the ranks, of one shape and dtype.

        Until it is finished, no other method may be called.
        """
        if not lies_on_gpu(array):
            return MpiSum(self._all, array, add, background=self._background)
        if self._nccl:
            return gpus.NcclSum(array, add, self._nccl)
        return gpus.SumThroughHost(array, MpiSum(self._all, to_host(array), add, background=False))


def _may_help(communicator: Any) -> bool:
    """Whether a thread can hide an exchange: the same answer on all ranks."""
    from mpi4py import MPI

    here = communicator.Split_type(MPI.COMM_TYPE_SHARED)
    one_machine = here.size == communicator.size
    here.Free()
    return not one_machine and MPI.Query_thread() >= MPI.THREAD_SERIALIZED


class MpiSum(Sum):
    """A sum over the processes of an MPI job, in host memory.

    Of each part, every rank sums a slice, and all get all slices.

    Parameters
    ----------
    communicator : mpi4py.MPI.Comm
    array, add
        As in `Ranks.begin_sum`.
    background : bool
        Whether a thread exchanges parts as soon as they are final, or `finish` all of them.
    """

    def __init__(self, communicator: Any, array: NDArray[Any], add: Add, *, background: bool):
        super().__init__(array)
        self._all, self._add = communicator, add
        self._begun = 0
        self._parts = SimpleQueue[NDArray[Any] | None]()
        self._error: BaseException | None = None
        self._thread = Thread(target=self._work, daemon=True) if background else None
        if self._thread:
            self._thread.start()

    def extend(self, stop: int) -> None:
        """Say that the values before `stop` are final."""
        while stop - self._begun >= PART:
            self._hand_over(self._begun + PART)

    def finish(self) -> NDArray[Any]:
        """Say that all values are final; returns the sum once it is complete."""
        self.extend(len(self._array))
        self._hand_over(len(self._array))
        self._parts.put(None)
        if self._thread:
            self._thread.join()
        else:
            self._work()
        if self._error:
            raise self._error
        return self._array

    def _hand_over(self, stop: int) -> None:
        self._parts.put(self._array[self._begun : stop])
        self._begun = stop

    def _work(self) -> None:
        """Exchange parts until there are no more."""
        try:
            while (part := self._parts.get()) is not None:
                self._exchange(part)
        except BaseException as error:
            self._error = error

    def _exchange(self, part: NDArray[Any]) -> None:
        """Replace the values of a part by their sums over the ranks."""
        size, own = self._all.size, self._all.rank
        ends = [len(part) * (number + 1) // size for number in range(size)]
        starts = [0, *ends[:-1]]
        counts = [end - start for start, end in zip(starts, ends, strict=True)]
        received = np.empty((size, counts[own]), part.dtype)
        offsets = [counts[own] * number for number in range(size)]
        _complete(self._all.Ialltoallv([part, (counts, starts)], [received, ([counts[own]] * size, offsets)]))
        _complete(self._all.Iallgatherv(self._add(list(received)), [part, (counts, starts)]))


def _complete(request: Any) -> None:
    """Wait for the end of an exchange, and leave the core to others in the pauses."""
    while not any(request.Test() for _ in range(LOOKS)):
        time.sleep(PAUSE)
