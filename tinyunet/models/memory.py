"""Explains why a GPU ran out of memory: how much a tile needs, and which tile fits.

Maps grow with the square of the input's side, less the borders that valid convolutions lose: bytes = a + b ·
side + c · side². Once memory has run out, smaller tiles are tried, which gives a, b and c for any network.
Three would be enough if pools had no gaps: with them, the smaller of two similar tiles may need more.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from tinyunet.autograd import Tensor, no_grad
from tinyunet.backend import active_backend, array_library
from tinyunet.errors import OutOfMemoryError
from tinyunet.models import Network
from tinyunet.nn.module import evaluating
from tinyunet.sampling import Sample

USABLE_SHARE = 0.9  # of the free memory: a pool has gaps
MAX_TRIALS = 15  # tiles to try


@contextmanager
def explained(model: Network, side: int, *, training: bool) -> Iterator[None]:
    """Say how much memory was needed if the ``with`` block runs out of GPU memory.

    Parameters
    ----------
    model : Network
    side : int
        The input's side, in pixels.
    training : bool
        True if the block makes a training step, False if it makes a prediction.

    Raises
    ------
    OutOfMemoryError
        Replaces CuPy's error.
    """
    try:
        yield
    except MemoryError as error:
        if active_backend() != "cuda":
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the arrays of the failed step
    else:
        return
    raise _out_of_memory(model, side, training)


def _out_of_memory(model: Network, side: int, training: bool) -> OutOfMemoryError:
    geometry = model.geometry
    largest, _ = geometry.nearest_inputs(max(side // 2, geometry.smallest + 4 * geometry.step))
    assert largest is not None
    trials = np.linspace(geometry.smallest, largest, MAX_TRIALS).astype(int).tolist()
    sides = sorted({geometry.nearest_inputs(trial)[1] for trial in trials})
    free, total = _free_memory()
    details = {"GPU": f"{free / 1e6:.1f} MB free of {total / 1e6:.1f} MB"}
    what = "a training step" if training else "a prediction"
    lost = geometry.shrink if training else 2 * geometry.halo  # from the input to the tile that is kept
    try:
        bytes_of = [_bytes_of_trial(model, trial, training) for trial in sides]
    except MemoryError:
        return OutOfMemoryError(
            f"out of memory: {what} on an input of {side} pixels; one of {largest} does not fit either",
            details,
            "make the network with fewer channels, or use another GPU or the backend 'numba'",
        )
    needed = np.poly1d(np.polyfit(sides, bytes_of, 2))
    smaller = range(side - geometry.step, largest, -geometry.step)
    fitting = next((s for s in smaller if needed(s) <= USABLE_SHARE * free), largest)
    return OutOfMemoryError(
        f"out of memory: {what} on an input of {side} pixels needs about {needed(side) / 1e6:.1f} MB",
        details,
        f"a tile of {fitting - lost} fits, which is an input of {fitting} pixels",
    )


def _free_memory() -> tuple[int, int]:
    """Return the free bytes, once the pool has released what is not in use, and all bytes of the GPU."""
    cupy = array_library()
    cupy.get_default_memory_pool().free_all_blocks()
    free, total = cupy.cuda.runtime.memGetInfo()
    return free, total


def _bytes_of_trial(model: Network, side: int, training: bool) -> int:
    """Run a tile of zeros in a pool of its own, because it may fit into gaps of the common pool."""
    cupy = array_library()
    pool = cupy.cuda.MemoryPool()
    try:
        with cupy.cuda.using_allocator(pool.malloc):
            _run_zeros(model, side, training)
        return int(pool.total_bytes())
    except MemoryError as error:
        traceback.clear_frames(error.__traceback__)  # they hold arrays in the pool
        raise
    finally:
        pool.free_all_blocks()  # a pool of CuPy 14.2 keeps its memory when it is deleted


def _run_zeros(model: Network, side: int, training: bool) -> None:
    x = np.zeros((1, side, side, model.in_channels), np.float32)
    if training:
        target = np.zeros((1, *[model.geometry.output_size(side)] * 2), np.int32)
        sample = Sample(x, target, np.ones(target.shape, np.float32), "zeros", 0)
        sample = model.training_batch(sample, np.random.default_rng(0))
        try:
            model.loss(Tensor(sample.image), sample.target, sample.weight).backward()
        finally:  # a training that continues must not find them
            for parameter in model.parameters():
                parameter.grad = None
    else:
        with no_grad(), evaluating():
            model(Tensor(x))
