"""The processes that share the steps of a training, its ranks: one, or those that mpiexec has started.

MPI is imported only under a launcher of it. What has to be the same on all ranks comes from the first one,
which alone writes files and prints; all make the same steps and keep the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


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
    """

    def __init__(self, communicator: Any):
        self._all = communicator
        self.size, self.number = communicator.size, communicator.rank

    def from_first(self, value: T) -> T:
        """Return the first rank's value on all of them."""
        received: T = self._all.bcast(value if self.is_first else None)
        return received

    def from_all(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order, on all of them."""
        received: list[T] = self._all.allgather(value)
        return received

    def sum_in_slices(
        self, array: NDArray[Any], add: Callable[[Sequence[NDArray[Any]]], NDArray[Any]]
    ) -> NDArray[Any]:
        """Sum arrays of the ranks, of one shape (n,): each rank sums a slice, and all get all slices."""
        ends = [len(array) * (number + 1) // self.size for number in range(self.size)]
        starts = [0, *ends[:-1]]
        counts = [end - start for start, end in zip(starts, ends, strict=True)]
        own = counts[self.number]
        received = np.empty((self.size, own), array.dtype)
        self._all.Alltoallv([array, counts, starts], [received, own])
        total = add(list(received))
        self._all.Allgatherv(total, [array, counts, starts])
        return array
