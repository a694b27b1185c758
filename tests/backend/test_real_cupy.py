"""The tests that need a GPU, on the real CuPy with a pretended CUDA: where CuPy is installed, but no GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.timeout(1200)  # 200 tests in one
def test_the_gpu_tests_run_on_the_real_cupy(emulated):
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed: nothing was run on it")
    if cupy.cuda.is_available():
        pytest.skip("a GPU is present: the tests run on it")
    options = ["-q", "-s", "-p", "pretended_cuda", "-p", "no:cacheprovider", "-m", "gpu"]
    finished = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *options,
            "--ignore",
            TESTS / "kernels" / "test_sanitizer.py",
            "--ignore",
            TESTS / "napari",
            "--ignore",
            TESTS / "test_notebooks.py",
            TESTS,
        ],
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS / "helpers"), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, (finished.stdout + finished.stderr)[-4000:]
    assert re.fullmatch(r"\d{3} passed, \d+ deselected in .*", finished.stdout.splitlines()[-1])
