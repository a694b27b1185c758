"""Sequences whose items are made when they are needed, so that a set may be larger than memory.

The arrays used last are kept, up to a number of bytes that all sequences of a set share. What is made from
the items of such a sequence (`mapped`) is such a sequence again, so that most code need not know of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from threading import Lock
from typing import Any, TypeVar, overload

T = TypeVar("T")
U = TypeVar("U")
KEPT = 512 * 2**20  # bytes of the items of a set that are kept


class Cache:
    """The items used last, up to a number of bytes; several threads may use it.

    Parameters
    ----------
    most : int
        Bytes. The item used last is kept even if it alone is larger.
    """

    def __init__(self, most: int = KEPT):
        self._most, self._held = most, 0
        self._items: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the item of a key, which is made unless it is kept."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                item: T = self._items[key][0]
                return item
        made = make()  # without the lock: it may need other items, and takes long
        with self._lock:
            if key not in self._items:  # another thread may have been faster
                self._items[key] = made, _bytes(made)
                self._held += self._items[key][1]
            while self._held > self._most and len(self._items) > 1:
                self._held -= self._items.popitem(last=False)[1][1]
        return made

    @property
    def held(self) -> int:
        """The bytes of the items that are kept."""
        return self._held


def _bytes(item: Any) -> int:
    """The size of an array, or of the arrays of a tuple."""
    return sum(map(_bytes, item)) if isinstance(item, tuple) else int(getattr(item, "nbytes", 64))


class AsNeeded(Sequence[T]):
    """A sequence that makes an item when it is asked for, and keeps those used last.

    Parameters
    ----------
    make : callable
        Makes the item of an index, the same whenever it is called.
    indices : sequence of int
        What `make` is given for each item.
    cache : Cache
    """

    def __init__(self, make: Callable[[int], T], indices: Sequence[int], cache: Cache):
        self._make, self._indices, self.cache = make, indices, cache

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> AsNeeded[T]: ...

    def __getitem__(self, index: int | slice) -> T | AsNeeded[T]:
        """Make an item; a slice makes none."""
        if isinstance(index, slice):
            return AsNeeded(self._make, self._indices[index], self.cache)
        number = self._indices[index]
        return self.cache.get((self._make, number), lambda: self._make(number))

    def keep(self, index: int, item: T) -> None:
        """Keep an item that was made already."""
        self.cache.get((self._make, self._indices[index]), lambda: item)

    def select(self, indices: Sequence[int]) -> AsNeeded[T]:
        """Select items in this order, of which none is made."""
        return AsNeeded(self._make, [self._indices[index] for index in indices], self.cache)

    def map(self, function: Callable[[T], U]) -> AsNeeded[U]:
        """Return the sequence of what a function makes of the items, when it is needed."""
        return AsNeeded(lambda index: function(self[index]), range(len(self)), self.cache)


def select(items: Sequence[T], indices: Sequence[int]) -> Sequence[T]:
    """Select items of a sequence, in this order; of one that makes them as needed, none is made."""
    return items.select(indices) if isinstance(items, AsNeeded) else [items[index] for index in indices]


def mapped(function: Callable[[T], U], items: Sequence[T]) -> Sequence[U]:
    """Apply a function to all items: now, or when they are needed if the items are made so."""
    return items.map(function) if isinstance(items, AsNeeded) else [function(item) for item in items]
