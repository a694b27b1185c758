"""Captures a whole training step as one CUDA graph, which a single call launches.

Before each kernel of a step Python checks arrays, allocates memory and calls the driver. CUDA can capture a
stream [1]_: kernels launched on it do not run but are recorded with their addresses and scalars. The record,
a graph, is then launched by a single call, as often as needed.

**What changes from step to step** must therefore be in memory, at the same address each time: image, target
and weights, the learning rate, the seeds of dropout. Kernels read them there. Everything else stays as
captured: momentum, weight decay, the addresses of parameters.

**Memory.** A graph writes to its addresses whenever it is launched. So each step is captured in its own
memory pool, which nothing else uses and which returns no memory to the GPU while the graph exists. Within a
step the pool reuses freed memory, and so does the graph. Memory that is filled before the launch must be
elsewhere: an earlier kernel of the graph would overwrite it.

**What waits for the GPU cannot be captured**: copies from host memory, which are made before the launch, and
reading back, which follows it. Inputs on the GPU are copied too, to the addresses that the graph knows.

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
from tinyunet.backend.changes import captured_changes, count_changes
from tinyunet.backend.cuda_log import captured_launches, record_graph
from tinyunet.backend.dispatch import (
    active_backend,
    active_precision,
    array_library,
    lies_on_gpu,
    to_backend,
)


class CapturedStep:
    """A training step that runs as a CUDA graph, where the backend is "cuda" and shapes repeat.

    The first step with given shapes is an ordinary one, in which CuPy compiles and loads the kernels. The
    second is captured and launched, later ones are launched. Other shapes or another precision start over.
    Results are the same to the last bit with graphs and without.

    Parameters
    ----------
    enabled : bool
        Whether steps are captured at all.

    Notes
    -----
    All arrays that the step makes, gradients included, are in the graph's memory. The next launch overwrites
    them, and the memory returns to the GPU when this object is deleted or shapes change. Copy what you want
    to keep. Arrays older than the step, parameters and velocities, may be read and written between steps but
    not replaced: the graph would go on with the old ones.

    One thread at a time may run a step. Other threads may compute meanwhile, also during a capture.

    Where capturing fails, the training goes on kernel by kernel after one warning with the reason. An error
    would end a training that needs no graph. Nothing runs during a capture, so only time is lost.
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
            The same in each call: ``step(rng, **arrays)``, with arrays of the backend. It returns such an
            array. It reads nothing back, copies nothing to the GPU, and changes older arrays only in place.
            Only dropout draws from `rng`.
        rng : numpy.random.Generator
            The source of this step's dropout seeds.
        **arrays : array
            Everything else that changes from step to step, on the GPU or in host memory.

        Returns
        -------
        array
            The step's result, valid until the next step.
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

    def start_over(self) -> None:
        """Release the graph, because the next step computes something else."""
        self._release()
        self._shapes = ()

    @property
    def bytes(self) -> int:
        """The GPU memory that the graph holds, without its inputs, which are in the common pool."""
        return int(self._pool.total_bytes()) if self._graph else 0

    def drop(self, reason: str) -> bool:
        """Release the graph's memory, and run all further steps kernel by kernel.

        Parameters
        ----------
        reason : str
            For the warning.

        Returns
        -------
        bool
            True if a graph existed.
        """
        if self._graph is None:
            return False
        self._enabled = False
        self._release()
        warnings.warn(
            f"the training step runs kernel by kernel from now on, its CUDA graph was dropped: {reason}",
            stacklevel=3,
        )
        return True

    def _captured(self, step: Callable[..., Any], arrays: Mapping[str, Any]) -> _Graph | None:
        if self._pool is None:
            self._pool = array_library().cuda.MemoryPool(_allocate)
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
        """Return the graph's memory to the GPU, which a pool of CuPy 14.2 does not do when deleted."""
        self._graph = None
        if self._pool is not None:
            self._pool.free_all_blocks()


class _SeedArrays:
    """Stands in for a random generator during a capture: a draw is an array that each launch fills."""

    def __init__(self, allocate: Callable[..., Any]):
        self._allocate, self.arrays = allocate, list[Any]()

    def integers(self, high: int, dtype: Any) -> Any:
        """Return the array of one seed."""
        assert (high, dtype) == (2**64, np.uint64)
        self.arrays.append(self._allocate((), dtype))
        return self.arrays[-1]


def _allocate(size: int) -> Any:
    """Allocate for the pool of a graph, or raise a MemoryError.

    On CUDA's own error the pool would return its free memory, that is, captured addresses, to the GPU.
    """
    cupy = array_library()
    try:
        return cupy.cuda.MemoryPointer(cupy.cuda.Memory(size), 0)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise MemoryError(str(error)) from None


def _allocate_outside(malloc: Callable[[int], Any], shape: tuple[int, ...], dtype: Any) -> Any:
    """Make an array that the graph only reads, in memory outside its pool."""
    cupy = array_library()
    with cupy.cuda.using_allocator(malloc):
        return cupy.empty(shape, dtype)


class _Graph:
    """A step captured in the memory of a pool, and the arrays that receive its inputs."""

    def __init__(self, step: Callable[..., Any], arrays: Mapping[str, Any], pool: Any):
        cupy = array_library()
        common = cupy.get_default_memory_pool()
        common.free_all_blocks()  # left by the ordinary step: the graph needs as much again
        # Not a method, because the network may hold the seeds, which would then keep this graph alive.
        self._allocate = partial(_allocate_outside, common.malloc)
        self._inputs = {name: self._allocate(array.shape, array.dtype) for name, array in arrays.items()}
        seeds = _SeedArrays(self._allocate)
        self._seeds = seeds.arrays
        self._constants: list[tuple[Any, NDArray[Any]]] = []
        self._sent: list[Any] = []
        # Non-blocking, because a blocking stream makes CUDA refuse work on the default stream meanwhile.
        stream = cupy.cuda.Stream(non_blocking=True)
        with (
            captured_launches() as self._launches,
            captured_changes() as self._changed,
            cuda.constants_made_by(self._constant),
            stream,
            cupy.cuda.using_allocator(pool.malloc),
        ):
            stream.begin_capture()
            try:
                self._output = step(seeds, **self._inputs)
            except BaseException:
                with suppress(RuntimeError):  # because the capture is invalid
                    stream.end_capture()
                raise
            self._graph = stream.end_capture()
        for array, values in self._constants:
            array.set(values)

    def _constant(self, values: NDArray[Any]) -> Any:
        array = self._allocate(values.shape, values.dtype)
        self._constants.append((array, values))
        return array

    def launch(self, rng: np.random.Generator, arrays: Mapping[str, Any]) -> Any:
        """Run the graph on the current stream, after all earlier work on it and before all later work."""
        seeds = [np.array(rng.integers(2**64, dtype=np.uint64)) for _ in self._seeds]  # in the same order
        # Kept until the next launch, because CUDA may read them after `set` has returned.
        self._sent = [*arrays.values(), *seeds]
        for target, values in zip([*self._inputs.values(), *self._seeds], self._sent, strict=True):
            if lies_on_gpu(values):
                target[...] = values
            else:
                target.set(values)
        count_changes(self._changed)
        self._graph.launch()
        record_graph(self._launches)
        return self._output
