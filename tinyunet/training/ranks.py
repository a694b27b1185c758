"""The processes that share the steps of a training, its ranks: one, or those that mpiexec has started.

All make the same steps and keep the same weights. What else has to be the same on all of them comes from the
first one, which alone writes files and prints. Here is what a training asks of them, and the answers of a
process alone; those of several are in `tinyunet.training.mpi_ranks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)
Add = Callable[[Sequence[Any]], Any]


class Sum:
    """A sum over the ranks that is under way; here over one rank, whose array is the sum.

    Parameters
    ----------
    array : array, shape (n,), contiguous
        This rank's summand; it becomes the sum.
    """

    def __init__(self, array: Any):
        self._array = array

    def extend(self, stop: int) -> None:
        """Say that the values before `stop` are final: they must be left alone until the end."""

    def finish(self) -> Any:
        """Say that all values are final; returns the sum once it is complete."""
        return self._array


class Ranks:
    """One process, alone; and what several have in common.

    Attributes
    ----------
    size : int
        How many there are.
    number : int
        This one's, from 0.
    gpu, transport : str
        After `take_gpu`: the GPU of this process, and what carries data between the GPUs.
    """

    size: int = 1
    number: int = 0
    gpu: str = ""
    transport: str = ""

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

    def take_gpu(self) -> None:
        """Compute on a GPU of this process's own, where the backend is "cuda".

        All ranks call it, before any array is made.
        """

    def begin_sum(self, array: Any, add: Add) -> Sum:
        """Begin to sum arrays of the ranks, of one shape and dtype.

        Parameters
        ----------
        array : array, shape (n,), contiguous
            This rank's, of the backend; it may become the sum. In host memory, its values may come later: see
            `Sum.extend`.
        add : callable
            Sums one slice: gets those of all ranks, in their order, and may overwrite them. It may be called
            in another thread.
        """
        return Sum(array)


ALONE = Ranks()
