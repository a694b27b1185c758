"""An iterator whose next element can be made beforehand: on a GPU, a tile during the training on another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Iterator[T], Generic[T]):
    """Yields elements in order, each made when it is asked for, or before that by `begin`.

    Parameters
    ----------
    elements : iterable

    Examples
    --------
    >>> numbers = Ahead(map(abs, [-1, -2]))
    >>> next(numbers)
    1
    >>> numbers.begin()  # computes abs(-2)
    >>> next(numbers)
    2
    """

    def __init__(self, elements: Iterable[T]):
        self._elements = iter(elements)
        self._begun: Future[T] | None = None

    @property
    def begun(self) -> bool:
        """Whether the next element has been made already."""
        return self._begun is not None

    def begin(self) -> None:
        """Make the next element now, if there is one. An error is raised when that is asked for."""
        if self._begun is not None:
            return
        made = Future[T]()
        try:
            for element in islice(self._elements, 1):
                made.set_result(element)
        except Exception as error:
            made.set_exception(error)
        if made.done():
            self._begun = made
        del made  # an error holds this frame

    def __next__(self) -> T:
        begun, self._begun = self._begun, None
        try:
            return begun.result() if begun else next(self._elements)
        finally:
            del begun  # an error would hold this frame, too, and with it itself and what it has seen
