"""A whole training step as one CUDA graph: captured once, then launched at once, without Python's share.

Before each kernel of a step Python checks arrays, asks for memory and calls the driver. CUDA can capture a
stream [1]_: what is launched on it is not run but written down, each kernel with its addresses and scalars.
The list, a graph, is then launched by a single call, as often as one likes.

**What changes from step to step** must therefore lie in memory, at the same place each time: image, target
and weights, the learning rate, the seeds of dropout. Kernels read them there. Everything else is as it was
when the step was captured: momentum, weight decay, the addresses of parameters.

**Memory.** A graph writes to its addresses whenever it is launched. So a step is captured in a memory pool of
its own, from which nobody else takes, and which gives nothing back to the GPU while there is the graph.
Within a step the pool hands out again what was freed, and so does the graph. What is written before the
launch must not lie there: an earlier kernel of the graph would write over it.

**What cannot be captured** is whatever waits for the GPU: a copy from the computer's memory, reading back.
The one is done before the launch, the other after it. Inputs that lie on the GPU are copied there as well, to
the place that the graph knows.

References
----------
.. [1] CUDA C++ Programming Guide, "CUDA Graphs", section "Creating a Graph Using Stream Capture".
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.backend import cuda
from tinyunet.backend.cuda_log import captured_launches, record_graph
from tinyunet.backend.dispatch import (
    active_backend,
    active_precision,
    array_library,
    lies_on_gpu,
    to_backend,
)


class CapturedStep:
    """A training step that is a CUDA graph, where the backend is "cuda" and shapes repeat.

    The first step with arrays of some shapes is an ordinary one, for which CuPy compiles and loads the
    kernels. The second is captured and launched, those after it are launched. Other shapes, or another
    precision, begin anew. With graphs or without, the results are the same to the last bit.

    Parameters
    ----------
    enabled : bool
        Whether steps are captured at all.

    Notes
    -----
    What the step makes, gradients included, lies in the graph's memory: the next launch writes over it, and
    when this object is gone, or shapes change, the memory goes back to the GPU. Copy what you want to keep.
    What was there before the step, parameters and velocities, may be read and written between steps, but not
    replaced: the graph would go on with the old arrays.

    Where capturing fails the training goes on kernel by kernel, and a warning says why, once. An error would
    end a training that can do without: while it was captured nothing ran, so nothing is lost but time.
    """

    def __init__(self, *, enabled: bool = True):
        self._enabled = enabled
        self._shapes: tuple[Any, ...] = ()
        self._graph: _Graph | None = None
        self._pool: Any = None

    def __del__(self) -> None:
        self._release()

    def run(self, step: Callable[..., Any], rng: np.random.Generator, **arrays: Any) -> Any:
        """Make one step.

        Parameters
        ----------
        step : callable
            The same in each call: ``step(rng, **arrays)``, with arrays where the backend computes. It returns
            such an array. It reads nothing back, copies nothing to the GPU, and changes in place what was
            there before it. From `rng` dropout draws, and nobody else.
        rng : numpy.random.Generator
            Of this step: gives dropout its seeds.
        **arrays : array
            What else changes from step to step, on the GPU or in the computer's memory.

        Returns
        -------
        What the step returns, valid until the next one.
        """
        if active_backend() == "cuda" and self._enabled:
            shapes = active_precision(), *((name, a.shape, a.dtype) for name, a in arrays.items())
            if shapes != self._shapes:
                self._shapes = shapes
                self._release()
            elif self._graph is None:
                self._graph = self._captured(step, arrays)
            if self._graph is not None:
                return self._graph.launch(rng, arrays)
        return step(rng, **{name: to_backend(array) for name, array in arrays.items()})

    @property
    def bytes(self) -> int:
        """What the graph holds of the GPU's memory, beside the common pool, where its inputs lie."""
        return int(self._pool.total_bytes()) if self._graph else 0

    def drop(self, reason: str) -> bool:
        """Give the graph's memory back, and make all further steps kernel by kernel.

        Parameters
        ----------
        reason : str
            For the warning.

        Returns
        -------
        Whether there was a graph.
        """
        if self._graph is None:
            return False
        self._enabled = False
        self._release()
        warnings.warn(
            f"the training step runs kernel by kernel from now on, its CUDA graph was given up: {reason}",
            stacklevel=3,
        )
        return True

    def _captured(self, step: Callable[..., Any], arrays: Mapping[str, Any]) -> _Graph | None:
        if self._pool is None:
            self._pool = array_library().cuda.MemoryPool(_memory)
        try:
            return _Graph(step, arrays, self._pool)
        except (RuntimeError, MemoryError) as error:  # CuPy's
            traceback.clear_frames(error.__traceback__)  # which hold the arrays of the capture
            self._enabled = False
            self._release()
            warnings.warn(
                "the training step could not be captured as a CUDA graph and runs kernel by kernel: "
                f"{type(error).__name__}: {error}",
                stacklevel=3,
            )
            return None

    def _release(self) -> None:
        """Give the memory of the graph back to the GPU. A pool of CuPy 14.2 does not when it ends."""
        self._graph = None
        if self._pool is not None:
            self._pool.free_all_blocks()


class _Seeds:
    """In place of a random generator while a step is captured: a draw is a place, which each launch fills."""

    def __init__(self, place: Callable[..., Any]):
        self._place, self.places = place, list[Any]()

    def integers(self, high: int, dtype: Any) -> Any:
        """The place of one seed."""
        assert (high, dtype) == (2**64, np.uint64)
        self.places.append(self._place((), dtype))
        return self.places[-1]


def _memory(size: int) -> Any:
    """CUDA's own, for the pool of a graph; or a MemoryError.

    To CUDA's error the pool would answer by giving free memory back to the GPU: captured addresses.
    """
    cupy = array_library()
    try:
        return cupy.cuda.MemoryPointer(cupy.cuda.Memory(size), 0)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise MemoryError(str(error)) from None


def _place(outside: Callable[[int], Any], shape: tuple[int, ...], dtype: Any) -> Any:
    """Memory that the graph only reads, and hence none of its own."""
    cupy = array_library()
    with cupy.cuda.using_allocator(outside):
        return cupy.empty(shape, dtype)


class _Graph:
    """A step that is captured in a pool's memory, and the places where its inputs go."""

    def __init__(self, step: Callable[..., Any], arrays: Mapping[str, Any], pool: Any):
        cupy = array_library()
        common = cupy.get_default_memory_pool()
        common.free_all_blocks()  # of the ordinary step before: the graph needs as much once more
        # No method of this graph: the network may hold the seeds, and the graph would not end before it does.
        self._place = partial(_place, common.malloc)
        self._inputs = {name: self._place(array.shape, array.dtype) for name, array in arrays.items()}
        seeds = _Seeds(self._place)
        self._seeds = seeds.places
        self._constants: list[tuple[Any, NDArray[Any]]] = []
        self._sent: list[Any] = []
        # Non-blocking: otherwise CUDA refuses all work on the default stream meanwhile.
        stream = cupy.cuda.Stream(non_blocking=True)
        with (
            captured_launches() as self._launches,
            cuda.constants_made_by(self._constant),
            stream,
            cupy.cuda.using_allocator(pool.malloc),
        ):
            stream.begin_capture()
            try:
                self._output = step(seeds, **self._inputs)
            except BaseException:
                with suppress(RuntimeError):  # it says that the capture is invalid
                    stream.end_capture()
                raise
            self._graph = stream.end_capture()
        for place, values in self._constants:
            place.set(values)

    def _constant(self, values: NDArray[Any]) -> Any:
        place = self._place(values.shape, values.dtype)
        self._constants.append((place, values))
        return place

    def launch(self, rng: np.random.Generator, arrays: Mapping[str, Any]) -> Any:
        """Run the graph on the current stream: it waits for all work before it, and all work after for it."""
        seeds = [np.array(rng.integers(2**64, dtype=np.uint64)) for _ in self._seeds]  # in the same order
        # Kept until the next launch: CUDA may read them after `set` has returned.
        self._sent = [*arrays.values(), *seeds]
        for place, values in zip([*self._inputs.values(), *self._seeds], self._sent, strict=True):
            if lies_on_gpu(values):
                place[...] = values
            else:
                place.set(values)
        self._graph.launch()
        record_graph(self._launches)
        return self._output
