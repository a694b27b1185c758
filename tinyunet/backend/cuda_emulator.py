"""Runs CUDA kernels on the CPU: an unchanged .cu file is compiled by g++ and launched on NumPy arrays.

This is slow and says nothing about speed on a GPU, but source, blocks, threads, barriers and shared memory
are the same. `kernels/emulator/cuda.hpp` defines the keywords of CUDA; in `kernels/emulator/scheduler.cpp`
the threads take turns.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, reduce
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyunet.errors import BackendError, KernelError

_package = Path(__file__).parents[1]
_installed = _package / "kernels"  # a checkout has the folder at its top instead
KERNEL_FOLDER = _installed if _installed.is_dir() else _package.parent / "kernels"
EMULATOR_FOLDER = KERNEL_FOLDER / "emulator"
FLAGS = ["-std=c++17", "-fPIC", "-fno-strict-aliasing", "-fno-gnu-unique", "-U_FORTIFY_SOURCE"]
_lock = threading.Lock()  # for all threads: the kernels of a library share one scheduler


def compiler() -> str:
    """Find the C++ compiler.

    Raises
    ------
    BackendError
        It is missing, or this is not Linux, on which the emulator's search for shared memory depends.
    """
    if platform.system() != "Linux":
        raise BackendError(
            f"the backend 'cuda-emulated' runs on Linux, this is {platform.system()}",
            remedy="use the backend 'numba', or a container with Linux",
        )
    path = shutil.which("g++")
    if path is None:
        raise BackendError(
            "the backend 'cuda-emulated' compiles the CUDA kernels with g++, which is not installed",
            {"PATH": os.environ.get("PATH", "not set")},
            "install g++ (Debian, Ubuntu: apt install g++), or use the backend 'numba'",
        )
    return path


@contextmanager
def checks() -> Iterator[None]:
    """Check every access to memory by kernels that this thread launches inside the ``with`` block.

    A race, an access outside an array or at an address that is not a multiple of its size, and a read of
    shared memory that was not written raise a KernelError that names the line of the source. The accesses of
    warps are counted: see `Traffic`.
    """
    token = _checked.set(True)
    try:
        yield
    finally:
        _checked.reset(token)


# The default for the log, which shows what the checking build counts.
_checked = ContextVar("checked", default=os.environ.get("TINYUNET_LAUNCH_LOG") == "1")


class Traffic(NamedTuple):
    """Wavefronts: turns in which memory serves warps (explained in `kernels/emulator/counts.cpp`)."""

    global_wavefronts: int = 0
    """Segments of 128 bytes of global memory."""
    global_at_best: int = 0
    """The fewest that could hold as many bytes."""
    shared_wavefronts: int = 0
    """Turns of the 32 banks of shared memory."""
    shared_at_best: int = 0
    """The fewest that could serve as many words."""

    def plus(self, other: Traffic) -> Traffic:
        """Add, number by number."""
        return Traffic(*(a + b for a, b in zip(self, other, strict=True)))


class Access(NamedTuple):
    """An instruction that accesses memory, executed once by the 32 threads of a warp."""

    line: int
    """In the source."""
    array: str
    """The kernel's name for it, or ``""`` for shared memory."""
    writes: bool
    time: int
    """How often the warp has executed this instruction before."""
    elements: tuple[int, ...]
    """The element, or the word of shared memory, that each thread accesses; -1: it makes no access."""


class Counts:
    """The counts of one launch in the checking build; empty in the plain build.

    Attributes
    ----------
    by_offset : dict of int to Traffic
        By the offset of the instruction in the compiled library.
    """

    def __init__(self, library: _Library, source: Path, arrays: Mapping[str, NDArray[Any]]):
        self.library, self.source, self.arrays = library, source, arrays
        self._first_warp = _take(library.take_first_warp, _WarpAccess) if library.checked else []
        self.by_offset = _read_counts(library) if library.checked else {}

    def total(self) -> Traffic:
        """Add the counts of all instructions."""
        return reduce(Traffic.plus, self.by_offset.values(), Traffic())

    def by_line(self) -> dict[int, Traffic]:
        """Add the counts by line of the source; those of a header count for the line that calls it."""
        total: dict[int, Traffic] = {}
        for offset, line in self._own_lines(self.by_offset).items():
            total[line] = total.get(line, Traffic()).plus(self.by_offset[offset])
        return dict(sorted(total.items()))

    def first_warp(self) -> list[Access]:
        """List what the first warp of the first block accesses, by line: 64 times per instruction at most."""
        names = list(self.arrays)
        lines = self._own_lines({access.offset for access in self._first_warp})
        found = []
        for access in self._first_warp:
            if access.offset not in lines:
                continue
            places = [at for at in access.of_lane if at]
            array = "" if access.shared else names[(places[0] >> 40) - 1]
            size = self.arrays[array].itemsize if array else 4
            elements = tuple((at & (1 << 40) - 1) // size if at else -1 for at in access.of_lane)
            found.append(Access(lines[access.offset], array, bool(access.writes), access.time, elements))
        return sorted(found)

    def _own_lines(self, offsets: Iterable[int]) -> dict[int, int]:
        """Find the line of this launch's source at each offset; other files are left out."""
        offsets = list(offsets)
        positions = (
            [n for file, n in lines if file == self.source.name] for lines in _lines(offsets, self.library)
        )
        return {offset: own[0] for offset, own in zip(offsets, positions, strict=True) if own}


def text_of(source: Path) -> str:
    """Read a .cu file as compilers get it: in one piece with its headers, each line known by file and number.

    Compiled kernels are cached by their text, by CuPy as well as here, so a changed header is noticed.
    """
    lines = [f'#line 1 "{source.name}"']
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
        include = re.fullmatch(r'#include "(.+)"', line)
        if include and (header := source.parent / include[1]).is_file():
            text = header.read_text(encoding="utf-8").splitlines()
            lines += [f'#line 1 "{header.name}"', *text, f'#line {number + 1} "{source.name}"']
        else:
            lines.append(line)
    return "\n".join([*lines, ""])


def function(
    source: Path,
    name: str,
    parameters: tuple[str, ...],
    kernels: tuple[str, ...],
    reached: Mapping[str, NDArray[Any]] = MappingProxyType({}),
) -> Callable[..., Counts]:
    """Compile a kernel of a .cu file, to be called like CuPy's: ``kernel(grid, block, arguments)``.

    Parameters
    ----------
    source : Path
    name : str
    parameters : tuple of str
        The names of the kernel's parameters.
    kernels : tuple of str
        All kernels in the file.
    reached : mapping of str to array
        Arrays whose addresses are in an argument.

    Raises
    ------
    KernelError
        The compiler rejects the file. When the kernel runs: not all threads reach a barrier or, under
        `checks`, a check fails.
    """
    library = _library(source, kernels, _checked.get())
    entry = getattr(library, f"launch_{name}")
    entry.restype = ctypes.c_char_p

    def run(grid: tuple[int, int, int], block: tuple[int, int, int], arguments: tuple[Any, ...]) -> Counts:
        arrays = {p: a for p, a in zip(parameters, arguments, strict=True) if isinstance(a, np.ndarray)}
        # The kernel's arguments in order: addresses of arrays, scalars.
        boxes = [np.array(a.ctypes.data if isinstance(a, np.ndarray) else a) for a in arguments]
        places = (ctypes.c_void_p * len(boxes))(*(box.ctypes.data for box in boxes))
        with _lock:
            if library.checked:
                _register_arrays(library, {**arrays, **reached})
            problem = entry((ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), places)
            counts = Counts(library, source, {**arrays, **reached})
        if problem is not None:
            raise KernelError(f"{name}: {_with_lines(problem.decode(), library)}")
        return counts

    return run


def _register_arrays(library: _Library, arrays: Mapping[str, NDArray[Any]]) -> None:
    number = len(arrays)
    library.check_arrays(
        number,
        (ctypes.c_void_p * number)(*(a.ctypes.data for a in arrays.values())),
        (ctypes.c_long * number)(*(a.nbytes for a in arrays.values())),
        (ctypes.c_int * number)(*(a.itemsize for a in arrays.values())),
        (ctypes.c_char_p * number)(*(name.encode() for name in arrays)),
    )


class _InstructionCount(ctypes.Structure):
    """The counts of one instruction, as in `kernels/emulator/counts.cpp`."""

    _fields_ = [(name, ctypes.c_long) for name in ("offset", "shared", "wavefronts", "at_best")]


class _WarpAccess(ctypes.Structure):
    """An access of the first warp, as in `kernels/emulator/counts.cpp`."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("offset", "shared", "writes", "size", "time")),
        ("of_lane", 32 * ctypes.c_long),
    ]


def _take(function: Any, kind: Any) -> Any:
    """Take an array of structures from a function of the library, which returns their number first."""
    taken = (kind * function(None, 0))()
    function(taken, len(taken))
    return taken


def _read_counts(library: _Library) -> dict[int, Traffic]:
    counts = _take(library.take_counts, _InstructionCount)
    return {
        count.offset: Traffic(0, 0, count.wavefronts, count.at_best)
        if count.shared
        else Traffic(count.wavefronts, count.at_best)
        for count in counts
    }


def _with_lines(problem: str, library: _Library) -> str:
    """Replace offsets in the library, ``@12f4``, by lines of the sources."""

    def line(match: re.Match[str]) -> str:
        (lines,) = _lines([int(match[1], 16)], library)
        return " from ".join(f"{file}:{line}" for file, line in lines) or match[0]

    return re.sub(r"@([0-9a-f]+)", line, problem)


def _lines(offsets: Iterable[int], library: _Library) -> list[list[tuple[str, int]]]:
    """Find file and line of the sources at these offsets in the library.

    Where functions are inlined an offset has several, from the innermost function outwards.
    """
    command = [
        "addr2line",
        "--addresses",
        "--inlines",
        "--basenames",
        "-e",
        library._name,
        *map(hex, offsets),
    ]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # The answer for an offset begins with it.
    answers = re.split(r"^0x[0-9a-f]+\n", output, flags=re.MULTILINE)[1:]
    line = re.compile(r"^(.+\.cuh?):(\d+)", re.MULTILINE)
    return [[(file, int(number)) for file, number in line.findall(answer)] for answer in answers]


class _Library(ctypes.CDLL):
    """A compiled .cu file."""

    checked: bool


class _Build(NamedTuple):
    """How g++ compiles the kernels, and the files of the emulator that they are linked to."""

    flags: tuple[str, ...]
    parts: tuple[str, ...]


# In the checking build only the kernels are instrumented, and the last step links without the sanitizer's own
# library. -fno-tree-sra: otherwise four numbers loaded at once become four loads, whose alignment is not
# checked. -gdwarf-4: addr2line of 2023 confuses the files of version 5.
PLAIN = _Build(("-O2",), ("scheduler", "warpgroups"))
CHECKED = _Build(
    ("-O1", "-gdwarf-4", "-fno-tree-sra", "-fsanitize=thread,bounds"),
    ("scheduler", "warpgroups", "checks", "counts"),
)
LINK = ("-shared", "-Wl,-Bsymbolic")  # -Bsymbolic: a kernel may have the name of a function of the C library


@cache
def _library(source: Path, kernels: tuple[str, ...], checked: bool) -> _Library:
    """Compile a .cu file, or find it in the user's cache folder."""
    entries = "".join(f"EMULATED_KERNEL({name})\n" for name in kernels)
    program = f'#include "cuda.hpp"\n{text_of(source)}#line 1 "kernels.cpp"\n{entries}'
    build = CHECKED if checked else PLAIN

    def compile_into(folder: Path, target: str) -> None:
        (folder / "kernels.cpp").write_text(program, encoding="utf-8")
        headers = f"-I{EMULATOR_FOLDER}"
        _run([compiler(), *FLAGS, headers, *build.flags, "-c", "kernels.cpp", "-o", "kernels.o"], folder)
        parts = [str(_part(name)) for name in build.parts]
        _run([compiler(), *LINK, "kernels.o", *parts, "-o", target], folder)

    library = _Library(str(_cached(f"{source.stem}.so", program + str(build), compile_into)))
    library.checked = checked
    return library


@cache
def _part(name: str) -> Path:
    """Compile a file of the emulator, once for all kernels, or find it in the cache folder."""

    def compile_into(folder: Path, target: str) -> None:
        _run([compiler(), *FLAGS, "-O2", "-c", str(EMULATOR_FOLDER / f"{name}.cpp"), "-o", target], folder)

    return _cached(f"{name}.o", "", compile_into)


def _cached(name: str, text: str, compile_into: Callable[[Path, str], None]) -> Path:
    """Find a compiled file in the cache folder, by the text of its sources, or compile it."""
    key = hashlib.sha256("".join([text, _version(), *FLAGS, *LINK]).encode())
    for file in sorted(EMULATOR_FOLDER.iterdir()):
        key.update(file.read_bytes())
    stem, _, suffix = name.rpartition(".")
    path = _cache_folder() / f"{stem}-{key.hexdigest()[:16]}.{suffix}"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            compile_into(Path(folder), name)
            os.replace(Path(folder, name), path)  # atomic, because two processes may compile it at once
    return path


def _run(command: list[str], folder: Path) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        raise KernelError(
            "the CUDA kernels do not compile", {"command": " ".join(command)}, result.stderr.strip()
        )


@cache
def _version() -> str:
    return subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=True).stdout


def _cache_folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "tinyunet" / "cuda-emulated"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BackendError(
            "the backend 'cuda-emulated' cannot make a folder for its compiled kernels",
            {str(folder): error},
            "set the environment variable XDG_CACHE_HOME to a writable folder",
        ) from None
    return folder
