"""Find a data race in a `prange` loop without waiting for bad luck.

The function is run in plain Python, one pass of its loop after the other. For each element of each array it
is noted which pass wrote it and which read it. Two passes that meet at one element, one of them writing, are
a race: on several cores nothing orders them. The order in which they ran here does not matter.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

NOBODY, SEVERAL = -1, -2  # instead of the number of a pass
CREATORS = ("empty", "zeros", "ones", "full", "empty_like", "zeros_like", "ones_like", "full_like")


def find_race(function: Callable[..., Any], *arguments: Any) -> str | None:
    """Run a function that has a `prange` loop, and describe the first race in it.

    Parameters
    ----------
    function : callable
        Plain, or compiled by Numba. It calls its parallel range `prange` and NumPy `np`.
    *arguments
        Small arrays, and numbers. The arrays are written to.

    Returns
    -------
    str or None
        None if no two passes of the loop meet.
    """
    plain = getattr(function, "py_func", function)
    loop = Loop()
    names = plain.__code__.co_varnames
    watched = [
        loop.watch(a, n) if isinstance(a, np.ndarray) else a for a, n in zip(arguments, names, strict=False)
    ]
    namespace = {**plain.__globals__, "prange": loop.passes, "np": _WatchingNumPy(loop)}
    closure = plain.__closure__
    try:
        types.FunctionType(plain.__code__, namespace, plain.__name__, plain.__defaults__, closure)(*watched)
    except Race as race:
        return str(race)
    return None if loop.entered else "there is no prange loop: one core does all the work"


class Race(Exception):
    """Two passes that meet at one element."""


class Loop:
    """A stand-in for `prange` that knows which pass is running."""

    def __init__(self) -> None:
        self.now = NOBODY
        self.entered = False
        self.notes: list[np.ndarray] = []

    def passes(self, *bounds: int) -> Iterator[int]:
        """Count like `range`. A loop inside another one runs on one core, as in Numba."""
        if self.now != NOBODY:
            yield from range(*bounds)
            return
        self.entered = True
        for self.now in range(*bounds):
            yield self.now
        self.now = NOBODY
        for note in self.notes:  # all passes are done: what follows is ordered after them
            note[:] = NOBODY

    def watch(self, array: np.ndarray, name: str) -> Watched:
        """Return a view of the array that notes its accesses."""
        watched = array.view(Watched)
        watched.loop, watched.name = self, name
        watched.notes = np.full((2, *array.shape), NOBODY)  # the passes that wrote, those that read
        self.notes.append(watched.notes)
        return watched


class Watched(np.ndarray):
    """An array that notes which pass reads and writes each element. Computed results are not watched."""

    loop: Loop
    name: str
    notes: np.ndarray | None = None

    def __array_finalize__(self, source: Any) -> None:
        self.notes = None

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if self.notes is None:
            return found
        notes = self.notes[(slice(None), *(index if isinstance(index, tuple) else (index,)))]
        if isinstance(found, Watched):  # a view, which is read or written later
            found.loop, found.name, found.notes = self.loop, self.name, notes
        else:
            self._read(notes)
        return found

    def __setitem__(self, index: Any, value: Any) -> None:
        if self.notes is not None:
            self._write(self.notes[(slice(None), *(index if isinstance(index, tuple) else (index,)))])
        super().__setitem__(index, value)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = (), **options: Any) -> Any:
        for array in inputs:
            if isinstance(array, Watched) and array.notes is not None:
                array._read(array.notes)
        for array in out:
            if isinstance(array, Watched) and array.notes is not None:
                array._write(array.notes)
        if out:
            options["out"] = tuple(map(np.asarray, out))
        result = getattr(ufunc, method)(*map(_unwatched, inputs), **options)
        return out[0] if out else result

    def _read(self, notes: np.ndarray) -> None:
        if self.loop.now != NOBODY:
            self._meet(notes[0], "reads", "wrote")
            readers = notes[1:2]  # a view, even of a single number
            readers[(readers != NOBODY) & (readers != self.loop.now)] = SEVERAL
            readers[readers == NOBODY] = self.loop.now

    def _write(self, notes: np.ndarray) -> None:
        if self.loop.now != NOBODY:
            self._meet(notes[0], "writes", "wrote")
            self._meet(notes[1], "writes", "read")
            notes[0:1] = self.loop.now

    def _meet(self, notes: np.ndarray, does: str, did: str) -> None:
        others = np.asarray(notes)[(notes != NOBODY) & (notes != self.loop.now)]
        if others.size:
            who = f"pass {others.flat[0]}" if others.flat[0] != SEVERAL else "more than one other pass"
            raise Race(f"pass {self.loop.now} of the loop {does} an element of {self.name} that {who} {did}")


def _unwatched(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, Watched) else value


class _WatchingNumPy:
    """A stand-in for NumPy whose new arrays are watched too."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if name not in CREATORS:
            return found
        return lambda *given, **named: self._loop.watch(found(*given, **named), "an array made here")
