"""The processes that share the steps of a training, its ranks: one, or those that mpiexec has started.

All make the same steps and keep the same weights. What else has to be the same on all of them comes from the
first one, which alone writes files and prints. `tinyunet.training.mpi` starts and ends a job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinyunet.errors import TinyUNetError

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)


class Ranks:
    """One process, alone; and what several have in common.

    Attributes
    ----------
    size : int
        How many there are.
    number : int
        This one's, from 0.
    """

    size: int = 1
    number: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.number == 0

    def from_first(self, value: T) -> T:
        """Return the first rank's value on all of them."""
        return value

    def from_all(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order, on all of them."""
        return [value]

    def on_first(self, function: Callable[[], T]) -> T:
        """Call a function on the first rank; returns its result, or raises its error, on all of them."""
        return function()

    def agreed(self, error: E) -> E:
        """Return an error that all ranks are about to raise, once all have come here."""
        return error

    def sum_in_slices(
        self, array: NDArray[Any], add: Callable[[Sequence[NDArray[Any]]], NDArray[Any]]
    ) -> NDArray[Any]:
        """Sum arrays of the ranks, of one shape (n,): each rank sums a slice, and all get all slices.

        Parameters
        ----------
        array : ndarray, shape (n,), contiguous
            This rank's; it may be overwritten.
        add : callable
            Sums one slice: gets those of all ranks, in their order, and may overwrite them.
        """
        return add([array])


ALONE = Ranks()


class MpiRanks(Ranks):
    """The processes of an MPI job.

    Parameters
    ----------
    communicator : mpi4py.MPI.Comm

    Attributes
    ----------
    agreed_error : BaseException or None
        The one that all ranks raise.
    """

    def __init__(self, communicator: Any):
        self._all = communicator
        self.agreed_error: BaseException | None = None
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

    def sum_in_slices(
        self, array: NDArray[Any], add: Callable[[Sequence[NDArray[Any]]], NDArray[Any]]
    ) -> NDArray[Any]:
        """Sum arrays of the ranks, of one shape (n,): each rank sums a slice, and all get all slices."""
        ends = [len(array) * (number + 1) // self.size for number in range(self.size)]
        starts = [0, *ends[:-1]]
        counts = [end - start for start, end in zip(starts, ends, strict=True)]
        own = counts[self.number]
        received = np.empty((self.size, own), array.dtype)
        offsets = [own * number for number in range(self.size)]
        self._all.Alltoallv([array, (counts, starts)], [received, ([own] * self.size, offsets)])
        total = add(list(received))
        self._all.Allgatherv(total, [array, (counts, starts)])
        return array
