"""Launches the kernels of `kernels/*.cu`: on a GPU through CuPy, or on the CPU by `cuda_emulator`.

Launch code and source are the same for both. A raw kernel sees addresses, not arrays, so its arguments are
checked here against the parameters in its source.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.backend import cuda_emulator
from tinyunet.backend.cuda_emulator import KERNEL_FOLDER, Access, Counts, Traffic, text_of
from tinyunet.backend.cuda_log import record
from tinyunet.backend.dispatch import (
    active_backend,
    array_library,
    cache_error,
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
    "unsigned short": np.uint16,
    "unsigned long long": np.uint64,
}
INDEX_LIMIT = 2**31 - 2**18  # an int index may pass the end by all threads of 1024 blocks
MAX_BLOCKS = 65535  # along y and z; along x the index is the limit
ALIGNMENT = 16
THREADS_PER_BLOCK = 256  # where each thread computes one element
NVRTC_OPTIONS = ("-std=c++17",)
# Files that are compiled for one kind of GPU by its name, because no other has their instructions.
COMPILED_FOR = {"conv2d_wgmma": "sm_90a"}

_KERNEL = re.compile(r'extern "C" __global__ void(?: __launch_bounds__\([\w, ]+\))?\s+(\w+)\(([^)]*)\)')
_PARAMETER = re.compile(r"(?:const )?(?P<type>[a-z ]+?)(?P<pointer>\*)? (?P<name>\w+)$")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a kernel, as its source declares it."""

    name: str
    dtype: np.dtype[Any]
    is_array: bool


@cache
def source_of(stem: str, kernel: str) -> Path:
    """Find the .cu file with a kernel: that of its op, or one whose name begins with the op's stem."""
    (source,) = (path for path in KERNEL_FOLDER.glob(f"{stem}*.cu") if kernel in kernels_in(path))
    return source


@cache
def kernels_in(source: Path) -> dict[str, tuple[Parameter, ...]]:
    """Read the kernels of a .cu file: their parameters by name."""
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
        Blocks, and threads per block, along x, y, z. Without blocks nothing runs.
    *arguments : array, int or NumPy scalar
        In the order of the kernel's parameters: arrays C-contiguous, scalars of the exact type. A Python int
        becomes an int32.
    reached : mapping of str to sequence of array, optional
        float32 arrays whose addresses are in one of the arguments.
    flops : int
        Additions and multiplications, for the launch log.

    Raises
    ------
    KernelError
        An argument does not fit its parameter, or the grid exceeds the limits of a GPU.
    """
    name = f"{stem}_{direction}"
    source = source_of(stem, name)
    parameters = kernels_in(source)[name]
    checked = _checked_arguments(name, parameters, arguments)
    others = _checked_reached(name, reached or {})
    if max(grid[1:], default=1) > MAX_BLOCKS:
        raise KernelError(
            f"{name}: more than {MAX_BLOCKS} blocks along y or z", {"blocks": grid}, "use a smaller batch"
        )
    if 0 not in grid:
        counts = _function(source, name, others)(_padded_to_3d(grid), _padded_to_3d(block), checked)
        record(name, (*checked, *others.values()), flops, Traffic() if counts is None else counts.total())


@dataclass(frozen=True)
class Report:
    """A kernel's accesses to memory, line by line; ``print`` shows them beside the source.

    Attributes
    ----------
    source : str
    lines : dict of int to Traffic
        By line number, from 1. Lines that access neither arrays nor shared memory are left out.
    first_warp : list of Access
        What each thread of the first warp accesses, for pictures.
    """

    source: str
    lines: dict[int, Traffic]
    first_warp: list[Access]

    def __str__(self) -> str:
        rows = [f"{'global':>8}{'at best':>8}{'shared':>8}{'at best':>8}"]
        for number, text in enumerate(self.source.splitlines(), 1):
            counts = self.lines.get(number, 4 * ("",))
            rows.append("".join(f"{count:>8}" for count in counts) + f"  {number:>3}  {text}")
        return "\n".join(rows)


def run_checked(
    source: Path | str, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any
) -> Report:
    """Compile CUDA source for the CPU, run a kernel there, check its accesses to memory and count them.

    For trying out kernels without a GPU. The active backend does not matter.

    Parameters
    ----------
    source : Path or str
        A .cu file, which may include headers beside it, or text that includes nothing. Declare kernels as
        ``extern "C" __global__ void name(float* y, int count)``.
    kernel : str
        Its name in the source.
    grid, block : tuple of int
        Blocks, and threads per block, along x, y, z.
    *arguments : ndarray, int or NumPy scalar
        In the order of the kernel's parameters. The kernel writes into these arrays.

    Returns
    -------
    Report

    Raises
    ------
    KernelError
        The source does not compile or has no such kernel; an argument does not fit its parameter; or a check
        fails on a line: a race, an access out of bounds, a barrier that not all threads reach.

    Examples
    --------
    Neighbouring threads read neighbours in a column, each of them from its own segment of memory.

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
    with TemporaryDirectory() as folder:  # a fresh one, so that the present text is compiled
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
            checked = _checked_arguments(kernel, kernels[kernel], arguments)
            counts = _function(path, kernel, {})(_padded_to_3d(grid), _padded_to_3d(block), checked)
        assert counts is not None
        return Report(text, counts.by_line(), counts.first_warp())


def _padded_to_3d(sizes: tuple[int, ...]) -> tuple[int, int, int]:
    x, y, z = (*sizes, 1, 1)[:3]
    return x, y, z


def _checked_arguments(
    name: str, parameters: tuple[Parameter, ...], arguments: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Convert the arguments to what the kernel takes, or raise a KernelError."""
    if len(parameters) != len(arguments):
        raise KernelError(
            f"{name} has {len(parameters)} parameters and was given {len(arguments)} arguments",
            {"parameters": ", ".join(p.name for p in parameters)},
        )
    return tuple(_checked(name, p, a) for p, a in zip(parameters, arguments, strict=True))


def _checked_reached(kernel: str, lists: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Give each array of the lists a name, or raise a KernelError."""
    arrays = {f"{name}[{i}]": array for name, members in lists.items() for i, array in enumerate(members)}
    for name, array in arrays.items():
        _check_array(kernel, Parameter(name, np.dtype(np.float32), True), array)
    return arrays


def _checked(kernel: str, parameter: Parameter, value: Any) -> Any:
    """Convert the argument to what the kernel takes, or raise a KernelError."""
    if parameter.is_array:
        _check_array(kernel, parameter, value)
        return value
    expected = parameter.dtype
    if isinstance(value, int) and -(2**31) <= value < 2**31 and expected == np.int32:
        return np.int32(value)
    if not isinstance(value, np.generic) or value.dtype != expected:
        raise KernelError(
            f"{kernel}: {parameter.name} is {type(value).__name__} {value}, the kernel takes {expected}",
            remedy=f"pass numpy.{expected}(...)",
        )
    return value


def _check_array(kernel: str, parameter: Parameter, value: Any) -> None:
    name, library = parameter.name, array_library()
    if not isinstance(value, library.ndarray):
        raise KernelError(
            f"{kernel}: {name} is {_type_name(type(value))}, the kernel takes {_type_name(library.ndarray)}",
            remedy="pass tinyunet.backend.to_backend(...) of it",
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
            "pass numpy.ascontiguousarray(...)",
        )
    if address(value) % ALIGNMENT:
        raise KernelError(
            f"{kernel}: {name} begins at an address that is no multiple of {ALIGNMENT} bytes",
            {"why": "a thread may load four float32 at once, only from such addresses"},
            "pass a .copy() of this view",
        )
    if value.size > INDEX_LIMIT:
        raise KernelError(
            f"{kernel}: {name} has {value.size} elements, the kernel counts to {INDEX_LIMIT}",
            {name: value.shape},
            "use a smaller tile or batch",
        )


def _type_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def address(array: Any) -> int:
    """Return the address of an array: in device memory or, emulated, in host memory."""
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr


def _function(source: Path, name: str, reached: Mapping[str, Any]) -> Callable[..., Counts | None]:
    if active_backend() == "cuda":
        return _gpu_function(source, name)
    kernels = kernels_in(source)
    names = tuple(p.name for p in kernels[name])
    return cuda_emulator.function(source, name, names, tuple(kernels), reached)


@cache
def _gpu_function(source: Path, name: str) -> Callable[..., None]:
    """Compile a kernel for the present GPU, to be called as `cuda_emulator.function` is."""
    import cupy

    if (kind := COMPILED_FOR.get(source.stem)) and kind != "sm_{}{}a".format(*compute_capability()):
        raise KernelError(
            f"{name} has instructions that this GPU lacks",
            {"compiled for": kind, "GPU": "compute capability {}.{}".format(*compute_capability())},
            "choose another rung",
        )
    kernel = _load_kernel(source, name)

    def run(grid: tuple[int, int, int], block: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
        try:
            kernel(grid, block, arguments)
        except (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError) as error:
            raise KernelError(
                f"{name}: {error}",
                {"CUDA_LAUNCH_BLOCKING": os.environ.get("CUDA_LAUNCH_BLOCKING", "not set")},
                "set CUDA_LAUNCH_BLOCKING=1: otherwise the error may be that of an earlier kernel",
            ) from error

    return run


def _load_kernel(source: Path, name: str) -> Any:
    """Compile a kernel by NVRTC and load it, or raise a KernelError or BackendError."""
    import cupy

    try:
        return _raw_module(source).get_function(name)
    except cupy.cuda.compiler.CompileException as error:
        message = str(error).strip()
        if "--gpu-architecture" in message:
            raise BackendError(
                "the backend 'cuda': the CUDA compiler of this CuPy no longer supports this GPU",
                {"GPU": "compute capability {}.{}".format(*compute_capability()), "compiler": message},
                "install a CuPy for an older CUDA, such as 'tinyunet[cuda12]', or use the backend 'numba'",
            ) from None
        raise KernelError("the CUDA kernels do not compile", remedy=message) from None
    except OSError as error:
        raise cache_error(error) from None
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

    # CuPy adds -arch for the GPU. Of the two NVRTC takes the narrower one.
    of_kind = [f"-arch={COMPILED_FOR[source.stem]}"] if source.stem in COMPILED_FOR else []
    return cupy.RawModule(code=text_of(source), options=(*NVRTC_OPTIONS, *of_kind))


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    """Make an array for a kernel to write.

    Emulated, all its bits are set, which is NaN, 255 or -1: elements left unwritten show in the results.
    """
    array = array_library().empty(shape, dtype)
    if active_backend() != "cuda":
        array.reshape(-1).view(np.uint8).fill(255)
    return array


def zeros(shape: tuple[int, ...]) -> Any:
    """Make an array of zeros."""
    return array_library().zeros(shape, np.float32)


def constant(array: NDArray[Any]) -> Any:
    """Copy an array for a kernel, whose values are the same whenever the kernel runs."""
    return _make_constant.get()(array)


# Per thread: other threads launch kernels while one captures.
_make_constant: ContextVar[Callable[[NDArray[Any]], Any]] = ContextVar("make_constant", default=to_backend)


@contextmanager
def constants_made_by(make: Callable[[NDArray[Any]], Any]) -> Iterator[None]:
    """Let `make` make constants inside the ``with`` block, for this thread: a capture allows no copies."""
    token = _make_constant.set(make)
    try:
        yield
    finally:
        _make_constant.reset(token)


def blocks(count: int, size: int) -> int:
    """Count the blocks of `size` that cover `count`."""
    return -(-count // size)


def launch_elementwise(stem: str, direction: str, count: int, *arguments: Any, flops: int = 0) -> None:
    """Run `launch` with one thread per element; `count` is the kernel's last argument."""
    if count > INDEX_LIMIT:  # though each array may be smaller
        raise KernelError(
            f"{stem}_{direction}: {count} threads, the kernel counts to {INDEX_LIMIT}",
            remedy="use a smaller tile or batch",
        )
    grid, block = (blocks(count, THREADS_PER_BLOCK),), (THREADS_PER_BLOCK,)
    launch(stem, direction, grid, block, *arguments, count, flops=flops)
