"""Out of memory on a GPU: how much a tile takes, and which tile fits.

Maps grow with the square of the input's side, less the borders that valid convolutions lose: bytes = a + b ·
side + c · side². Smaller tiles, tried out when memory has run out, give a, b and c for any network. Three
would be enough but for the gaps in a pool: of two neighbours the smaller one may take more.
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

SPARE = 0.9  # of the memory that is free: pieces of a pool do not fit without gaps
TRIED = 15  # tiles, at most


@contextmanager
def explained(model: Network, side: int, *, training: bool) -> Iterator[None]:
    """Say how much memory was needed, if the ``with`` block runs out of a GPU's.

    Parameters
    ----------
    model : Network
    side : int
        Of the input, in pixels.
    training : bool
        Whether the block makes a training step, or only a prediction.

    Raises
    ------
    OutOfMemoryError
        In place of CuPy's.
    """
    try:
        yield
    except MemoryError as error:
        if active_backend() != "cuda":
            raise
        traceback.clear_frames(error.__traceback__)  # which hold the arrays of the step that has failed
    else:
        return
    raise _out_of_memory(model, side, training)


def _out_of_memory(model: Network, side: int, training: bool) -> OutOfMemoryError:
    geometry = model.geometry
    middle, _ = geometry.nearest_inputs(max(side // 2, geometry.smallest + 4 * geometry.step))
    assert middle is not None
    evenly = np.linspace(geometry.smallest, middle, TRIED).astype(int).tolist()
    sides = sorted({geometry.nearest_inputs(tried)[1] for tried in evenly})
    free, total = _free_memory()
    details = {"GPU": f"{free / 1e6:.1f} MB free of {total / 1e6:.1f} MB"}
    what = "a training step" if training else "a prediction"
    lost = geometry.shrink if training else 2 * geometry.halo  # from the input to the tile that is kept
    try:
        bytes_of = [_tried(model, tried, training) for tried in sides]
    except MemoryError:
        return OutOfMemoryError(
            f"out of memory: {what} on an input of {side} pixels; one of {middle} does not fit either",
            details,
            "make the network with fewer channels, or use another GPU or the backend 'numba'",
        )
    needed = np.poly1d(np.polyfit(sides, bytes_of, 2))
    smaller = range(side - geometry.step, middle, -geometry.step)
    fitting = next((s for s in smaller if needed(s) <= SPARE * free), middle)
    return OutOfMemoryError(
        f"out of memory: {what} on an input of {side} pixels needs about {needed(side) / 1e6:.1f} MB",
        details,
        f"a tile of {fitting - lost} fits, which is an input of {fitting} pixels",
    )


def _free_memory() -> tuple[int, int]:
    """Bytes that are free once the pool has given back what no one uses, and all bytes of the GPU."""
    cupy = array_library()
    cupy.get_default_memory_pool().free_all_blocks()
    free, total = cupy.cuda.runtime.memGetInfo()
    return free, total


def _tried(model: Network, side: int, training: bool) -> int:
    """The bytes that a tile of zeros takes, in a pool of its own: it may fit into gaps of the common one."""
    cupy = array_library()
    pool = cupy.cuda.MemoryPool()
    try:
        with cupy.cuda.using_allocator(pool.malloc):
            _try(model, side, training)
        return int(pool.total_bytes())
    except MemoryError as error:
        traceback.clear_frames(error.__traceback__)  # which hold arrays in the pool
        raise
    finally:
        pool.free_all_blocks()  # a pool of CuPy 14.2 does not give its memory back when it ends


def _try(model: Network, side: int, training: bool) -> None:
    x = np.zeros((1, side, side, model.in_channels), np.float32)
    if training:
        target = np.zeros((1, *[model.geometry.output_size(side)] * 2), np.int32)
        sample = Sample(x, target, np.ones(target.shape, np.float32), "zeros", 0)
        sample = model.training_batch(sample, np.random.default_rng(0))
        try:
            model.loss(Tensor(sample.image), sample.target, sample.weight).backward()
        finally:  # a training that goes on must not find them
            for parameter in model.parameters():
                parameter.grad = None
    else:
        with no_grad(), evaluating():
            model(Tensor(x))
