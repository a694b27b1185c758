"""The machine and the versions that made a result, for its record."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import numba

import tinyunet

PACKAGES = ("numpy", "scipy", "numba", "scikit-image")  # the last bits of a result may depend on these


def machine() -> dict[str, str | int]:
    """The processor, the cores of this process, the threads of the kernels, the operating system.

    Examples
    --------
    >>> sorted(machine())
    ['cores', 'processor', 'system', 'threads']
    """
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "threads": numba.get_num_threads(),
        "system": platform.platform(terse=True),
    }


def versions() -> dict[str, str]:
    """The versions of tinyunet, Python and the packages that compute."""
    return {
        "tinyunet": tinyunet.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
