"""How much memory a prediction may take, and the tile that fits into it."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tinyunet.autograd import Tensor, no_grad
from tinyunet.backend import allocator
from tinyunet.errors import OptionError, OutOfMemoryError
from tinyunet.models import Network
from tinyunet.nn.module import evaluating

UNITS = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
SHARE_OF_FREE = 0.5
PROGRAM = 400e6  # bytes: Python, its libraries and the compiled kernels
USABLE_SHARE = 0.6  # of the rest: arrays of a tile before them are kept, and Zarr holds what it packs
LARGEST_TILE = 2048
TRIAL = 256  # pixels beyond the smallest input
UNKNOWN = 4e9  # bytes that are taken to be free on a system that does not say


def memory_bytes(text: str | None) -> int:
    """Read an amount of memory, such as 2GB or 500MiB; None is half of what is free.

    >>> memory_bytes("2GB"), memory_bytes("1.5 GiB")
    (2000000000, 1610612736)

    Raises
    ------
    OptionError
        It is no amount, or too little to start with.
    """
    if text is None:
        return int(SHARE_OF_FREE * _free())
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([kmgt]i?b)\s*", text.lower())
    if not found:
        raise OptionError(f"memory {text!r}: expected a number and a unit, such as 2GB or 800MiB")
    amount = int(float(found[1]) * UNITS[found[2]])
    if amount < 1.25 * PROGRAM:
        raise OptionError(
            f"memory {text}: the program itself takes about {PROGRAM / 1e6:.0f} MB",
            remedy=f"give at least {1.25 * PROGRAM / 1e6:.0f}MB",
        )
    return amount


def _free() -> float:
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:  # not Linux
        return UNKNOWN
    return 1024 * float(found[1]) if found else UNKNOWN


def usable(memory: int) -> int:
    """Return the bytes that are left for arrays."""
    return int(USABLE_SHARE * (memory - PROGRAM))


def largest_tile(networks: Sequence[Network], memory: int) -> int:
    """Find the largest tile whose prediction fits into memory, at most `LARGEST_TILE`.

    The maps of a network grow with the area of its input; how fast, a small input shows.

    Raises
    ------
    OutOfMemoryError
        Not even the smallest fits.
    """
    network = max(networks, key=_bytes_per_pixel) if len(networks) > 1 else networks[0]
    per_pixel, geometry = _bytes_per_pixel(network), network.geometry
    available = usable(memory)
    for tile in range(LARGEST_TILE, 0, -geometry.step):
        input_side = geometry.nearest_inputs(tile + 2 * geometry.halo)[1]
        if needed(per_pixel, network, input_side, tile) <= available:
            return tile
    raise OutOfMemoryError(
        "not even the smallest tile of this network fits",
        {"needed": f"{needed(per_pixel, network, geometry.smallest, 1) / 1e6:.0f} MB", "given": available},
        "give more --memory",
    )


def needed(per_pixel: float, network: Network, input_side: int, tile: int) -> float:
    """Estimate the bytes that a tile takes: maps, grey values, and scores twice with a class and a mask."""
    grey = 16 * network.in_channels  # as read, mirrored and normalised
    return (per_pixel + grey) * input_side**2 + (8 * network.num_classes + 8) * tile**2


def _bytes_per_pixel(network: Network) -> float:
    side = network.geometry.nearest_inputs(network.geometry.smallest + TRIAL)[1]
    x = np.zeros((1, side, side, network.in_channels), np.float32)
    running = tracemalloc.is_tracing()
    if not running:
        tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    allocator.peak()
    try:
        with no_grad(), evaluating():
            network(Tensor(x))
        # Large arrays, and the others: NumPy's own memory is traced, the allocator's is not.
        return (allocator.peak() + tracemalloc.get_traced_memory()[1] - before) / side**2
    finally:
        if not running:
            tracemalloc.stop()
