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


class Counts:
    """The counts of one launch in the checking build; empty in the plain build.

    Attributes
    ----------
    by_offset : dict of int to Traffic
        By the offset of the instruction in the compiled library.
    """

    def __init__(self, library: _Library, source: Path):
        self.library, self.source = library, source
        self.by_offset = _read_counts(library) if library.checked else {}

    def total(self) -> Traffic:
        """Add the counts of all instructions."""
        return reduce(Traffic.plus, self.by_offset.values(), Traffic())

    def by_line(self) -> dict[int, Traffic]:
        """Add the counts by line of the source; those of a header count for the line that calls it."""
        positions = _lines(self.by_offset, self.library)
        total: dict[int, Traffic] = {}
        for lines, traffic in zip(positions, self.by_offset.values(), strict=True):
            own = [line for file, line in lines if file == self.source.name]
            if own:
                total[own[0]] = total.get(own[0], Traffic()).plus(traffic)
        return dict(sorted(total.items()))


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
            counts = Counts(library, source)
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


def _read_counts(library: _Library) -> dict[int, Traffic]:
    counts = (_InstructionCount * library.take_counts(None, 0))()
    library.take_counts(counts, len(counts))
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


@cache
def _library(source: Path, kernels: tuple[str, ...], checked: bool) -> _Library:
    """Compile a .cu file, or find it in the user's cache folder."""
    entries = "".join(f"EMULATED_KERNEL({name})\n" for name in kernels)
    program = f'#include "cuda.hpp"\n{text_of(source)}#line 1 "kernels.cpp"\n{entries}'
    steps = CHECKED if checked else PLAIN
    key = hashlib.sha256("".join([program, _version(), *FLAGS, *map(str, steps)]).encode())
    for path in sorted(EMULATOR_FOLDER.iterdir()):
        key.update(path.read_bytes())
    path = _cache_folder() / f"{source.stem}-{key.hexdigest()[:16]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            Path(folder, "kernels.cpp").write_text(program, encoding="utf-8")
            for step in steps:
                _run([compiler(), *FLAGS, f"-I{EMULATOR_FOLDER}", *step.split()], folder)
            os.replace(
                Path(folder, "kernels.so"), path
            )  # atomic, because two processes may compile it at once
    library = _Library(str(path))
    library.checked = checked
    return library


# The arguments of g++. In the checking build only the kernels are instrumented, and the last step links
# without the sanitizer's own library. -fno-tree-sra: otherwise four numbers loaded at once become four loads,
# whose alignment is not checked. -gdwarf-4: addr2line of 2023 confuses the files of version 5. -Bsymbolic: a
# kernel may have the name of a function of the C library, such as read.
PLAIN = ["-O2 -shared -Wl,-Bsymbolic kernels.cpp scheduler.cpp -o kernels.so"]
CHECKED = [
    "-O1 -gdwarf-4 -fno-tree-sra -fsanitize=thread,bounds -c kernels.cpp -o kernels.o",
    "-O2 -shared -Wl,-Bsymbolic kernels.o scheduler.cpp checks.cpp counts.cpp -o kernels.so",
]


def _run(command: list[str], folder: str) -> None:
    emulator_files = {path.name: str(path) for path in EMULATOR_FOLDER.iterdir()}
    command = [emulator_files.get(word, word) for word in command]
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
