"""Records which kernels a task would launch on a GPU, and computes nothing.

`launches` runs a task on the backend "cuda" with a stand-in for CuPy, whose arrays have a shape and no
memory, and with a `tinyunet.backend.cuda.launch` that notes its arguments. So the layers' shapes, the rungs
chosen for them and the sizes of the grids are those of the engine itself. A step of the paper's size takes
seconds.

CuPy's own kernels are noted under the names that they have in a profile: a sum of two arrays, the filling of
one, and the memset that makes zeros.
"""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import numpy as np

import tinyunet as tu
from tinyunet.backend import cuda

ADD, FILL, ZERO = "cupy_add", "cupy_fill", "Memset (Device)"
CUPY_THREADS = 128  # per block of CuPy's own kernels, each thread with one element


@dataclass(frozen=True)
class Launch:
    """A kernel, and what it would have been launched with.

    Attributes
    ----------
    kernel : str
    stem : str
        Of the file in `kernels/`, empty for CuPy's own kernels.
    blocks : int
    threads : int
        Per block.
    scalars : mapping of str to int or float
        The arguments that are no arrays, by the names of the kernel's parameters.
    read, written : tuple of (int, int)
        The address and the bytes of each array that it may read, and that it may write.
    flops : int
        Additions and multiplications, as the op counts them.
    """

    kernel: str
    stem: str
    blocks: int
    threads: int
    scalars: Mapping[str, Any] = field(default_factory=dict)
    read: tuple[tuple[int, int], ...] = ()
    written: tuple[tuple[int, int], ...] = ()
    flops: int = 0


class Array:
    """An array without memory: what `tinyunet` asks of CuPy's arrays, except values."""

    __array_ufunc__ = None  # NumPy's operators refuse it
    __cuda_array_interface__: ClassVar[Mapping[str, Any]] = {}
    _addresses = itertools.count(2**40, 2**40)  # further apart than any array is large

    def __init__(self, shape: Any, dtype: Any = float, address: int | None = None):
        # NumPy's of one element, repeated: it knows the rules of shapes.
        self._numpy = np.broadcast_to(np.empty((), dtype), shape)
        self.shape, self.dtype, self.ndim = self._numpy.shape, self._numpy.dtype, self._numpy.ndim
        self.size, self.nbytes = self._numpy.size, self._numpy.nbytes
        self.flags = SimpleNamespace(c_contiguous=True)
        self.data = SimpleNamespace(ptr=next(self._addresses) if address is None else address)

    def __add__(self, other: Array) -> Array:
        total = Array(self.shape, self.dtype)
        _note_cupys(ADD, total, self, other)
        return total

    def __getitem__(self, key: Any) -> Array:
        return Array(self._numpy[key].shape, self.dtype, self.data.ptr)

    def reshape(self, *shape: int) -> Array:
        """Return a view."""
        return Array(np.empty(self.size, "V0").reshape(*shape).shape, self.dtype, self.data.ptr)


_noted: list[Launch] = []


def _note(
    stem: str,
    direction: str,
    grid: Sequence[int],
    block: Sequence[int],
    *arguments: Any,
    reached: Mapping[str, Sequence[Any]] | None = None,
    flops: int = 0,
) -> None:
    """Take the place of `tinyunet.backend.cuda.launch`."""
    if 0 in grid:
        return
    kernel = f"{stem}_{direction}"
    source = cuda.source_of(stem, kernel)
    parameters = cuda.kernels_in(source)[kernel]
    named = list(zip(parameters, arguments, strict=True))
    arrays = [(p.name, a) for p, a in named if p.is_array]
    constant = constant_arrays(source, kernel)
    reached = reached or {}
    places = [(name, array) for name, members in reached.items() for array in members] + arrays
    _noted.append(
        Launch(
            kernel,
            source.stem,
            math.prod(grid),
            math.prod(block),
            {p.name: a for p, a in named if not p.is_array} | {"grid": tuple(grid)},
            tuple(_place(array) for name, array in places if name in constant or name in reached),
            tuple(_place(array) for name, array in places if name not in constant),
            flops,
        )
    )


def constant_arrays(source: Path, kernel: str) -> set[str]:
    """Return the names of the arrays that a kernel only reads: it, or the struct before it, says const."""
    before, _, after = source.read_text(encoding="utf-8").partition(f"{kernel}(")
    structs = re.findall(r"struct \w+ \{.*?\n\};", before, re.DOTALL)
    declared = "".join(structs[-1:]) + after.partition("{")[0]
    return set(re.findall(r"const [\w ]+\* (\w+)[,;)]", declared))


def _place(array: Any) -> tuple[int, int]:
    return array.data.ptr, array.nbytes


def _note_cupys(kernel: str, total: Array, *summands: Array) -> None:
    blocks = cuda.blocks(total.size, CUPY_THREADS)
    read = tuple(map(_place, summands))
    flops = total.size if summands else 0
    _noted.append(Launch(kernel, "", blocks, CUPY_THREADS, {}, read, (_place(total),), flops))


def _filled(shape: Any, dtype: Any = float, kernel: str = FILL) -> Array:
    array = Array(shape, dtype)
    _note_cupys(kernel, array)
    return array


def _asarray(a: Any, dtype: Any = None, order: Any = None, *, blocking: bool = False) -> Array:
    """Copy from host memory, which is no kernel, but for a single number, which CuPy fills in."""
    if isinstance(a, Array):
        return a
    array = np.asarray(a, dtype)
    return Array(array.shape, array.dtype) if array.ndim else _filled((), array.dtype)


def _library(capability: str) -> ModuleType:
    """Make the stand-in for CuPy."""
    library = ModuleType("cupy")
    library.__dict__.update(
        ndarray=Array,
        asarray=_asarray,
        empty=Array,
        zeros=partial(_filled, kernel=ZERO),
        zeros_like=lambda a: _filled(a.shape, a.dtype, ZERO),
        ones_like=lambda a: _filled(a.shape, a.dtype),
        cuda=SimpleNamespace(
            is_available=lambda: True, Device=lambda: SimpleNamespace(compute_capability=capability)
        ),
    )
    return library


def launches(
    make_task: Callable[[], Callable[[], Any]], precision: str = "float32", architecture: str = "sm_90"
) -> list[Launch]:
    """Record the launches of a task.

    Parameters
    ----------
    make_task : callable
        Makes the task: networks and arrays on the backend "cuda". Its own launches are not recorded.
    precision : {"float32", "tf32", "bf16"}
    architecture : str
        Of the GPU, by which the engine chooses rungs.

    Returns
    -------
    list of Launch
        In order.
    """
    with (
        mock.patch.dict(sys.modules, cupy=_library(architecture.removeprefix("sm_"))),
        mock.patch.object(cuda, "launch", _note),
        tu.use_backend("cuda", precision),
    ):
        task = make_task()
        _noted.clear()
        task()
        recorded = list(_noted)
        _noted.clear()
    return recorded
