"""The machine and the versions that a result was made with, for its record."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import numba

import tinyunet

PACKAGES = ("numpy", "scipy", "numba", "scikit-image")  # those that a result's last bits may depend on


def machine() -> dict[str, str | int]:
    """Processor, cores that this process may use, threads that the kernels use, operating system.

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
    """Versions of tinyunet, Python and the packages that compute."""
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
