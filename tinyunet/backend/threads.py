"""Calls of a function on all cores, where most of the time is spent in code that releases the GIL."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numba

from tinyunet.backend.dispatch import in_this_context

_numba_config: Any = numba.config

T = TypeVar("T")
U = TypeVar("U")


def on_all_cores(function: Callable[[T], U], items: Iterable[T]) -> list[U]:
    """Call a function for each item, in as many threads as kernels have; return the results in order.

    More threads than cores would be slower: each waits for the GIL between two calls that release it. All
    items are taken before the first result is: of arrays that are read as needed, let them be the numbers.

    Raises
    ------
    Exception
        The first item's, in their order, for which the function raised one.
    """
    with ThreadPoolExecutor(_numba_config.NUMBA_NUM_THREADS) as pool:
        futures = [pool.submit(in_this_context(function), item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
