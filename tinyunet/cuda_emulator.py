"""CUDA kernels on the CPU: an unchanged .cu file, compiled by g++ and launched on NumPy arrays.

Slow, and no measure of speed; but the same source with the same blocks, threads, barriers and shared memory
as on a GPU. `kernels/emulate.hpp` supplies the words of CUDA; in `kernels/emulate.cpp` the threads take turns.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tinyunet.errors import BackendError, KernelError

FLAGS = ["-std=c++17", "-fPIC", "-g1", "-fno-strict-aliasing", "-fno-gnu-unique", "-U_FORTIFY_SOURCE"]
_lock = threading.Lock()  # a module has one place where its kernels run


def compiler() -> str:
    """The C++ compiler.

    Raises
    ------
    BackendError
        There is none.
    """
    path = shutil.which("g++")
    if path is None:
        raise BackendError(
            "the backend 'cuda-emulated' compiles the CUDA kernels with g++, which is not there",
            {"PATH": os.environ.get("PATH", "not set")},
            "install g++ (Debian, Ubuntu: apt install g++), or use the backend 'numba'",
        )
    return path


class Module:
    """A compiled .cu file."""

    def __init__(self, library: Path, source: Path):
        self.source = source
        self._library = ctypes.CDLL(str(library))

    def function(self, name: str) -> Any:
        """A kernel, to be called like CuPy's: ``kernel(grid, block, arguments)``."""
        entry = self._library[f"launch_{name}"]
        entry.restype = ctypes.c_char_p

        def run(grid: tuple[int, int, int], block: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
            # What the kernel's parameters are, one after the other: addresses of arrays, scalars.
            values = [np.uintp(a.ctypes.data) if isinstance(a, np.ndarray) else a for a in arguments]
            boxes = [np.array(value) for value in values]
            places = (ctypes.c_void_p * len(boxes))(*(box.ctypes.data for box in boxes))
            with _lock:
                problem = entry((ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), places)
            if problem is not None:
                raise KernelError(f"{name}: {self.source.name}, {problem.decode()}")

        return run


@cache
def module(source: Path, kernels: tuple[str, ...]) -> Module:
    """Compile a .cu file, or find it compiled in the user's cache folder.

    Raises
    ------
    KernelError
        The compiler refuses it: its words.
    """
    here = source.parent
    program = f'#include "{here / "emulate.hpp"}"\n#include "{source}"\n'
    program += "".join(f"EMULATED_KERNEL({name})\n" for name in kernels)
    key = hashlib.sha256("".join([program, _version(), *FLAGS]).encode())
    for path in (source, *sorted(here.glob("emulate*"))):
        key.update(path.read_bytes())
    library = _cache_folder() / f"{source.stem}-{key.hexdigest()[:16]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            built = _compile(program, here, Path(folder))
            os.replace(built, library)  # whole or not at all, also when two processes compile it
    return Module(library, source)


def _compile(program: str, here: Path, folder: Path) -> Path:
    wrapper, library = folder / "kernels.cpp", folder / "kernels.so"
    wrapper.write_text(program, encoding="utf-8")
    _run([compiler(), *FLAGS, "-O2", "-shared", str(wrapper), str(here / "emulate.cpp"), "-o", str(library)])
    return library


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
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
    folder.mkdir(parents=True, exist_ok=True)
    return folder
