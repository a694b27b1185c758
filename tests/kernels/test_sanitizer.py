"""All kernels under NVIDIA's compute-sanitizer, where it and a GPU are present.

Each of its tools first has to find a planted bug. CuPy's memory pool is switched off, because nothing is out
of bounds inside its large pieces.

Where the GPU is lent for a short time, TINYUNET_SANITIZER_TESTS selects tests as pytest's -k does, and
TINYUNET_SANITIZER_SECONDS limits each tool. Select tools by -k on the outside.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOUND = 9  # exit status for findings; those of pytest are smaller
SECONDS = int(os.environ.get("TINYUNET_SANITIZER_SECONDS", "1800"))  # kernels run 10 to 100 times as long

RUN_TESTS = """
import sys, cupy, pytest
cupy.cuda.set_allocator(None)
sys.exit(pytest.main(sys.argv[1:]))
"""
OPTIONS = ["-q", "-x", "-m", "gpu", "-p", "no:cacheprovider", "-o", "timeout=0"]
FOLDERS = ["--ignore", "tests/kernels/test_sanitizer.py", "tests/kernels", "tests/ops", "tests/nn"]

RUN_KERNEL = """
import sys, cupy
cupy.cuda.set_allocator(None)
y = cupy.empty(64, cupy.float32)
text = 'extern "C" __global__ void broken(float* y) { __shared__ float s[64]; int i = threadIdx.x; %s }'
cupy.RawKernel(text % sys.argv[1], "broken")((1,), (64,), (y,))
cupy.cuda.get_current_stream().synchronize()
"""
BUGS = {
    "memcheck": "y[i + 1] = i;",
    "racecheck": "s[i] = i; y[i] = s[63 - i];",
    "initcheck": "y[i] = y[63 - i] + 1;",
    "synccheck": "if (i < 16) __syncthreads(); y[i] = i;",
}


def selection():
    """Return the options of pytest that select tests."""
    expression = os.environ.get("TINYUNET_SANITIZER_TESTS")
    return ["-k", expression] if expression else []


def sanitize(tool, program, *arguments):
    """Run Python text under one of the tools; return the exit status and the end of the output."""
    command = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(command).exists():
        pytest.skip("no kernel was run under compute-sanitizer, which comes with the CUDA toolkit: not found")
    finished = subprocess.run(
        [command, "--tool", tool, "--error-exitcode", str(FOUND), sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    return finished.returncode, finished.stdout[-4000:] + finished.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("tool", BUGS)
def test_the_kernels_are_clean(gpu, tool):
    assert_clean(*sanitize(tool, RUN_KERNEL, "y[i] = i;"))
    status, output = sanitize(tool, RUN_KERNEL, BUGS[tool])
    assert status != 0, f"{tool} did not find the planted bug:\n{output}"
    assert_clean(*sanitize(tool, RUN_TESTS, *OPTIONS, *selection(), *FOLDERS))


def assert_clean(status, output):
    assert status == 0, output


@pytest.mark.parametrize("status", [0, FOUND])
def test_status_and_output_are_returned(monkeypatch, tmp_path, status):
    """With a program in place of the tool, which prints its arguments."""
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f'#!/bin/sh\necho "$@"\necho words >&2\nexit {status}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    returned, output = sanitize("racecheck", "pass", "one", "two")
    assert returned == status
    assert output.split() == [
        *("--tool", "racecheck", "--error-exitcode", str(FOUND)),
        *(sys.executable, "-c", "pass", "one", "two", "words"),
    ]


def test_a_selection(monkeypatch):
    monkeypatch.delenv("TINYUNET_SANITIZER_TESTS", raising=False)
    assert selection() == []
    monkeypatch.setenv("TINYUNET_SANITIZER_TESTS", "relu or sgd")
    assert selection() == ["-k", "relu or sgd"]


def test_without_the_tool(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="compute-sanitizer"):
        sanitize("memcheck", "pass")
