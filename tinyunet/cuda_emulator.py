"""CUDA kernels on the CPU: an unchanged .cu file, compiled by g++ and launched on NumPy arrays.

Slow, and no measure of speed; but the source is the same, and so are the blocks, threads, barriers and
shared memory. `kernels/emulate.hpp` has the words of CUDA; in `kernels/emulate.cpp` the threads take turns.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.errors import BackendError, KernelError

_inside = Path(__file__).parent / "kernels"  # of an installed package; of a checkout: at its top
KERNEL_FOLDER = _inside if _inside.is_dir() else Path(__file__).parent.parent / "kernels"
FLAGS = ["-std=c++17", "-fPIC", "-fno-strict-aliasing", "-fno-gnu-unique", "-U_FORTIFY_SOURCE"]
_lock = threading.Lock()  # a module has one place where its kernels run


def compiler() -> str:
    """The C++ compiler.

    Raises
    ------
    BackendError
        There is none, or this is not Linux: how the emulator finds shared memory is particular to it.
    """
    if platform.system() != "Linux":
        raise BackendError(
            f"the backend 'cuda-emulated' runs on Linux, this is {platform.system()}",
            remedy="use the backend 'numba', or a container with Linux",
        )
    path = shutil.which("g++")
    if path is None:
        raise BackendError(
            "the backend 'cuda-emulated' compiles the CUDA kernels with g++, which is not there",
            {"PATH": os.environ.get("PATH", "not set")},
            "install g++ (Debian, Ubuntu: apt install g++), or use the backend 'numba'",
        )
    return path


@contextmanager
def checks() -> Iterator[None]:
    """Check every access to memory of the kernels that are launched inside the ``with`` block.

    A race, an access outside an array or at an address that is not a multiple of its size, and a read of
    shared memory that was not written become a KernelError, with the line of the source.
    """
    global _checked
    before, _checked = _checked, True
    try:
        yield
    finally:
        _checked = before


_checked = False


def function(
    source: Path, name: str, parameters: tuple[str, ...], kernels: tuple[str, ...]
) -> Callable[..., None]:
    """A kernel of a .cu file, to be called like CuPy's: ``kernel(grid, block, arguments)``.

    Parameters
    ----------
    source : Path
    name : str
    parameters : tuple of str
        The names of the kernel's parameters.
    kernels : tuple of str
        All kernels in the file.

    Raises
    ------
    KernelError
        The compiler refuses the file: its words. When the kernel runs: a barrier that not all threads come to
        and, under `checks`, what these find.
    """
    library = _library(source, kernels, _checked)
    entry = getattr(library, f"launch_{name}")
    entry.restype = ctypes.c_char_p

    def run(grid: tuple[int, int, int], block: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
        arrays = {p: a for p, a in zip(parameters, arguments, strict=True) if isinstance(a, np.ndarray)}
        # What the kernel's parameters are, one after the other: addresses of arrays, scalars.
        boxes = [np.array(a.ctypes.data if isinstance(a, np.ndarray) else a) for a in arguments]
        places = (ctypes.c_void_p * len(boxes))(*(box.ctypes.data for box in boxes))
        with _lock:
            if library.checked:
                _tell_arrays(library, arrays)
            problem = entry((ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), places)
        if problem is not None:
            raise KernelError(f"{name}: {_with_lines(problem.decode(), source, library)}")

    return run


def _tell_arrays(library: _Library, arrays: dict[str, NDArray[Any]]) -> None:
    number = len(arrays)
    library.check_arrays(
        number,
        (ctypes.c_void_p * number)(*(a.ctypes.data for a in arrays.values())),
        (ctypes.c_long * number)(*(a.nbytes for a in arrays.values())),
        (ctypes.c_int * number)(*(a.itemsize for a in arrays.values())),
        (ctypes.c_char_p * number)(*(name.encode() for name in arrays)),
    )


def _with_lines(problem: str, source: Path, library: _Library) -> str:
    """Replace places in the program, ``@12f4``, by lines of the source."""

    def line(match: re.Match[str]) -> str:
        command = ["addr2line", "--inlines", "--basenames", "-e", library._name, f"0x{match[1]}"]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
        # From the innermost function to the one that it is inlined into.
        lines = [place for place in found if place.startswith(source.name)]
        return " from ".join(lines) or match[0]

    return re.sub(r"@([0-9a-f]+)", line, problem.replace("line ", f"{source.name}:"))


class _Library(ctypes.CDLL):
    """A .cu file, compiled."""

    checked: bool


@cache
def _library(source: Path, kernels: tuple[str, ...], checked: bool) -> _Library:
    """Compile a .cu file, or find it compiled in the user's cache folder."""
    program = f'#include "emulate.hpp"\n#include "{source.name}"\n'
    program += "".join(f"EMULATED_KERNEL({name})\n" for name in kernels)
    steps = CHECKED if checked else PLAIN
    key = hashlib.sha256("".join([program, _version(), *FLAGS, *map(str, steps)]).encode())
    for path in (source, *sorted(KERNEL_FOLDER.glob("emulate*"))):
        key.update(path.read_bytes())
    path = _cache_folder() / f"{source.stem}-{key.hexdigest()[:16]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            Path(folder, "kernels.cpp").write_text(program, encoding="utf-8")
            for step in steps:
                _run([compiler(), *FLAGS, *step.split()], source, folder)
            os.replace(Path(folder, "kernels.so"), path)  # whole or not at all: two may compile it at once
    library = _Library(str(path))
    library.checked = checked
    return library


# What g++ is asked for. In the checking build only the kernels are instrumented, and the last step links
# without the sanitizer's own library. -fno-tree-sra: otherwise four numbers loaded at once become four loads,
# of which no alignment is asked. -gdwarf-4: addr2line of 2023 mistakes the files of version 5.
PLAIN = ["-O2 -shared kernels.cpp emulate.cpp -o kernels.so"]
CHECKED = [
    "-O1 -gdwarf-4 -fno-tree-sra -fsanitize=thread,bounds -c kernels.cpp -o kernels.o",
    "-O2 -shared kernels.o emulate.cpp emulate_check.cpp -o kernels.so",
]


def _run(command: list[str], source: Path, folder: str) -> None:
    folders = [f"-I{source.parent}", f"-I{KERNEL_FOLDER}"]
    command = [str(KERNEL_FOLDER / word) if word.startswith("emulate") else word for word in command]
    result = subprocess.run([*command, *folders], cwd=folder, capture_output=True, text=True, check=False)
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
            "the backend 'cuda-emulated' has no place for its compiled kernels",
            {str(folder): error},
            "set the environment variable XDG_CACHE_HOME to a folder that can be written",
        ) from None
    return folder
