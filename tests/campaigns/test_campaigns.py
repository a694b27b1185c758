"""The campaigns in short: a few cases of each pass, and faults that are put in on purpose are found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from nvrtc import nvrtc

ROOT = Path(__file__).parents[2]
SHORT = {
    "inputs": ("--count", "40", "--seed", "7"),
    "kills": ("--count", "6", "--seed", "7"),
    "soak": ("--count", "4"),
    "slides": ("--count", "2"),
    "broken": (),
    "kernels": ("--kernel", "relu_", "--count", "60", "--tolerated", "0.02"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="the campaigns fork, and read /proc")
@pytest.mark.parametrize("name", SHORT)
def test_short_form(name):
    """Each in a process of its own, because forking is safe with one thread only."""
    if name == "kernels":
        nvrtc()  # or skip
    done = subprocess.run(
        [sys.executable, "-m", f"tests.campaigns.{name}", *SHORT[name]],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
