"""Launching the kernels of `kernels/*.cu`: on a GPU through CuPy, or on the CPU by `cuda_emulator`.

Launch code is the same for both, as is the source. A raw kernel sees addresses, not arrays: what it is given
is checked here against the parameters in its source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.backend import cuda_emulator
from tinyunet.backend.cuda_emulator import KERNEL_FOLDER, Counts, Traffic, text_of
from tinyunet.backend.cuda_log import record
from tinyunet.backend.dispatch import (
    active_backend,
    array_library,
    compute_capability,
    to_backend,
    use_backend,
)
from tinyunet.errors import BackendError, KernelError

C_TYPES = {
    "float": np.float32,
    "double": np.float64,
    "int": np.int32,
    "unsigned char": np.uint8,
    "unsigned long long": np.uint64,
}
INDEX_LIMIT = 2**31 - 2**18  # an int also counts past the end: as far as all threads of 1024 blocks
MAX_BLOCKS = 65535  # along y and z; along x the limit is that of the index
ALIGNMENT = 16
WIDTH = 256  # threads a block, where each does one element
NVRTC_OPTIONS = ("-std=c++17",)

_KERNEL = re.compile(r'extern "C" __global__ void(?: __launch_bounds__\(\w+\))?\s+(\w+)\(([^)]*)\)')
_PARAMETER = re.compile(r"(?:const )?(?P<type>[a-z ]+?)(?P<pointer>\*)? (?P<name>\w+)$")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel, as its source declares it."""

    name: str
    dtype: np.dtype[Any]
    is_array: bool


@cache
def source_of(stem: str, kernel: str) -> Path:
    """The .cu file that has a kernel: its op's, or one beside it with the op's stem in front."""
    (source,) = (path for path in KERNEL_FOLDER.glob(f"{stem}*.cu") if kernel in kernels_in(path))
    return source


@cache
def kernels_in(source: Path) -> dict[str, tuple[Parameter, ...]]:
    """The kernels in a .cu file, by name, with their parameters."""
    found = _KERNEL.findall(source.read_text(encoding="utf-8"))
    return {name: tuple(map(_parameter, parameters.split(","))) for name, parameters in found}


def _parameter(text: str) -> Parameter:
    match = _PARAMETER.match(" ".join(text.split()))
    assert match, text
    return Parameter(match["name"], np.dtype(C_TYPES[match["type"]]), match["pointer"] is not None)


def launch(
    stem: str,
    direction: str,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    *arguments: Any,
    reached: Mapping[str, Sequence[Any]] | None = None,
    flops: int = 0,
) -> None:
    """Run kernel ``<stem>_<direction>`` of ``kernels/<stem>*.cu``.

    Parameters
    ----------
    stem, direction : str
    grid, block : tuple of int
        Blocks, and threads of a block, along x, y, z. No block: nothing is run.
    *arguments : array, int or NumPy scalar
        As the kernel's parameters: arrays C-contiguous, scalars of the exact type. A Python int becomes an
        int32.
    reached : mapping of str to sequence of array, optional
        float32 arrays that the kernel finds by addresses in one of its arguments.
    flops : int
        Additions and multiplications, for the launch log.

    Raises
    ------
    KernelError
        An argument does not fit its parameter, or the grid exceeds what a GPU takes.
    """
    name = f"{stem}_{direction}"
    source = source_of(stem, name)
    parameters = kernels_in(source)[name]
    checked = _fitting(name, parameters, arguments)
    others = _reached(name, reached or {})
    if max(grid[1:], default=1) > MAX_BLOCKS:
        raise KernelError(
            f"{name}: more than {MAX_BLOCKS} blocks along y or z", {"blocks": grid}, "use a smaller batch"
        )
    if 0 not in grid:
        counts = _function(source, name, others)(_three(grid), _three(block), checked)
        record(name, (*checked, *others.values()), flops, Traffic() if counts is None else counts.total())


@dataclass(frozen=True)
class Report:
    """What a kernel asked of memory, line by line; ``print`` it to read it beside the source.

    Attributes
    ----------
    source : str
    lines : dict of int to Traffic
        By the number of the line, from 1; lines that access no array and no shared memory are left out.
    """

    source: str
    lines: dict[int, Traffic]

    def __str__(self) -> str:
        rows = [f"{'global':>8}{'at best':>8}{'shared':>8}{'at best':>8}"]
        for number, text in enumerate(self.source.splitlines(), 1):
            found = self.lines.get(number)
            rows.append("".join(f"{count:>8}" for count in found or 4 * ("",)) + f"  {number:>3}  {text}")
        return "\n".join(rows)


def run_checked(
    source: Path | str, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any
) -> Report:
    """Compile CUDA source for the CPU, run one of its kernels there with every access checked, and count.

    For trying out kernels without a GPU; the backend that is active does not matter.

    Parameters
    ----------
    source : Path or str
        A .cu file, which may include headers beside it, or text that includes nothing. A kernel is declared as
        ``extern "C" __global__ void name(float* y, int count)``.
    kernel : str
        The name of the kernel in it.
    grid, block : tuple of int
        Blocks, and threads of a block, along x, y, z.
    *arguments : ndarray, int or NumPy scalar
        As the kernel's parameters. The kernel writes into these arrays.

    Returns
    -------
    Report

    Raises
    ------
    KernelError
        The source does not compile or has no such kernel; an argument does not fit its parameter; or what the
        checks find, with the line: a race, an access out of bounds, a barrier that not all threads come to.

    Examples
    --------
    Neighbouring threads read neighbours in a column: each of them a segment of memory of its own.

    >>> source = '''extern "C" __global__ void transpose(const float* x, float* y) {
    ...     float value = x[threadIdx.x * 32 + threadIdx.y];
    ...     y[threadIdx.y * 32 + threadIdx.x] = value;
    ... }'''
    >>> x = np.arange(1024, dtype=np.float32).reshape(32, 32)
    >>> y = np.empty_like(x)
    >>> print(run_checked(source, "transpose", (1,), (32, 32), x, y))
      global at best  shared at best
                                        1  extern "C" __global__ void transpose(const float* x, float* y) {
        1024      32       0       0    2      float value = x[threadIdx.x * 32 + threadIdx.y];
          32      32       0       0    3      y[threadIdx.y * 32 + threadIdx.x] = value;
                                        4  }
    >>> bool((y == x.T).all())
    True
    """
    text = source if isinstance(source, str) else source.read_text(encoding="utf-8")
    with TemporaryDirectory() as folder:  # of its own, so that the text is compiled that is there now
        path = Path(folder, "kernels.cu" if isinstance(source, str) else source.name)
        path.write_text(text if isinstance(source, str) else text_of(source), encoding="utf-8")
        kernels = kernels_in(path)
        if kernel not in kernels:
            raise KernelError(
                f"{path.name} has no kernel {kernel!r}",
                {"kernels": ", ".join(kernels) or "none"},
                'declare it as: extern "C" __global__ void name(float* y, int count)',
            )
        with use_backend("cuda-emulated"), cuda_emulator.checks():
            checked = _fitting(kernel, kernels[kernel], arguments)
            counts = _function(path, kernel, {})(_three(grid), _three(block), checked)
        assert counts is not None
        return Report(text, counts.by_line())


def _three(sizes: tuple[int, ...]) -> tuple[int, int, int]:
    x, y, z = (*sizes, 1, 1)[:3]
    return x, y, z


def _fitting(name: str, parameters: tuple[Parameter, ...], arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments as the kernel takes them, or a KernelError."""
    if len(parameters) != len(arguments):
        raise KernelError(
            f"{name} has {len(parameters)} parameters and was given {len(arguments)} arguments",
            {"parameters": ", ".join(p.name for p in parameters)},
        )
    return tuple(_checked(name, p, a) for p, a in zip(parameters, arguments, strict=True))


def _reached(kernel: str, lists: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The arrays of all lists by a name of their own, or a KernelError."""
    arrays = {f"{name}[{i}]": array for name, some in lists.items() for i, array in enumerate(some)}
    for name, array in arrays.items():
        _check_array(kernel, Parameter(name, np.dtype(np.float32), True), array)
    return arrays


def _checked(kernel: str, parameter: Parameter, value: Any) -> Any:
    """The argument as the kernel takes it, or a KernelError."""
    if parameter.is_array:
        _check_array(kernel, parameter, value)
        return value
    expected = parameter.dtype
    if isinstance(value, int) and -(2**31) <= value < 2**31 and expected == np.int32:
        return np.int32(value)
    if not isinstance(value, np.generic) or value.dtype != expected:
        raise KernelError(
            f"{kernel}: {parameter.name} is {type(value).__name__} {value}, the kernel takes {expected}",
            remedy=f"give numpy.{expected}(...)",
        )
    return value


def _check_array(kernel: str, parameter: Parameter, value: Any) -> None:
    name, library = parameter.name, array_library()
    if not isinstance(value, library.ndarray):
        raise KernelError(
            f"{kernel}: {name} is {_full_name(type(value))}, the kernel takes {_full_name(library.ndarray)}",
            remedy="give tinyunet.backend.to_backend(...) of it",
        )
    if value.dtype != parameter.dtype:
        raise KernelError(
            f"{kernel}: {name} is an array of {value.dtype}, the kernel takes {parameter.dtype}",
            remedy="the CUDA kernels compute in float32: use float32 arrays, or the backend 'numba'",
        )
    if not value.flags.c_contiguous:
        raise KernelError(
            f"{kernel}: {name} is not C-contiguous: the kernel would read the memory, not the view",
            {name: f"shape {value.shape}, strides {value.strides}"},
            "give numpy.ascontiguousarray(...)",
        )
    if address(value) % ALIGNMENT:
        raise KernelError(
            f"{kernel}: {name} begins at an address that is no multiple of {ALIGNMENT} bytes",
            {"why": "a thread may load four float32 at once, which is only possible from such addresses"},
            "give a .copy() of this view",
        )
    if value.size > INDEX_LIMIT:
        raise KernelError(
            f"{kernel}: {name} has {value.size} elements, the kernel counts to {INDEX_LIMIT}",
            {name: value.shape},
            "use a smaller tile or batch",
        )


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def address(array: Any) -> int:
    """Where an array begins, in the memory of the device or, emulated, of the computer."""
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr


def _function(source: Path, name: str, reached: Mapping[str, Any]) -> Callable[..., Counts | None]:
    if active_backend() == "cuda":
        return _gpu_function(source, name)
    kernels = kernels_in(source)
    names = tuple(p.name for p in kernels[name])
    return cuda_emulator.function(source, name, names, tuple(kernels), reached)


@cache
def _gpu_function(source: Path, name: str) -> Callable[..., None]:
    """A kernel of a .cu file, compiled by NVRTC for the GPU that is there."""
    import cupy

    try:
        return _raw_module(source).get_function(name)
    except cupy.cuda.compiler.CompileException as error:
        words = str(error).strip()
        if "--gpu-architecture" in words:
            raise BackendError(
                "the backend 'cuda': the GPU is older than what the CUDA compiler of this CuPy knows",
                {"GPU": "compute capability {}.{}".format(*compute_capability()), "compiler": words},
                "install a CuPy for an older CUDA, such as 'tinyunet[cuda12]', or use the backend 'numba'",
            ) from None
        raise KernelError("the CUDA kernels do not compile", remedy=words) from None
    except RuntimeError as error:
        if not re.search("nvrtc|CUDA headers", str(error)):
            raise
        raise BackendError(
            "the backend 'cuda' compiles its kernels with NVRTC and CUDA's headers, which CuPy does not find",
            {"reason": str(error).strip().split("\n")[0]},
            "pip install 'tinyunet[cuda13]' (or cuda12), or install the CUDA toolkit",
        ) from None


@cache
def _raw_module(source: Path) -> Any:
    import cupy

    return cupy.RawModule(code=text_of(source), options=NVRTC_OPTIONS)


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    """A new array for a kernel to write. Emulated, it holds NaN: an element that stays unwritten is seen."""
    if active_backend() == "cuda" or dtype is not np.float32:
        return array_library().empty(shape, dtype)
    return np.full(shape, np.nan, np.float32)


def zeros(shape: tuple[int, ...]) -> Any:
    """A new array of zeros."""
    return array_library().zeros(shape, np.float32)


def constant(array: NDArray[Any]) -> Any:
    """A copy for a kernel of an array that is the same whenever the kernel runs."""
    return _make_constant(array)


_make_constant: Callable[[NDArray[Any]], Any] = to_backend


@contextmanager
def constants_made_by(make: Callable[[NDArray[Any]], Any]) -> Iterator[None]:
    """Give `constant` another way inside the ``with`` block: nothing is copied while a graph is captured."""
    global _make_constant
    _make_constant = make
    try:
        yield
    finally:
        _make_constant = to_backend


def blocks(count: int, size: int) -> int:
    """How many blocks of `size` cover `count`."""
    return -(-count // size)


def launch_elementwise(stem: str, direction: str, count: int, *arguments: Any, flops: int = 0) -> None:
    """`launch` with a thread for each of `count` elements; `count` is the kernel's last argument."""
    launch(stem, direction, (blocks(count, WIDTH),), (WIDTH,), *arguments, count, flops=flops)
