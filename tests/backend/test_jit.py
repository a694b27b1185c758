"""Compiled kernels are found on disk unless a kernel that they call has changed; their bits never change."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import tinyunet
from tinyunet.backend import jit
from tinyunet.ops import conv2d_winograd, conv2d_winograd_transforms

CALLEE = "from tinyunet.backend.jit import kernel\n@kernel\ndef one(): return {}\n"
CALLER = (
    "from tinyunet.backend.jit import kernel\nfrom callee import one\n@kernel\ndef two(): return 2 * one()\n"
)
SCRIPT = "from caller import two; print(two(), sum(two.stats.cache_hits.values()))"


def test_a_changed_callee_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "caller.py").write_text(CALLER)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}

    def run() -> list[str]:
        command = [sys.executable, "-B", "-c", SCRIPT]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    (tmp_path / "callee.py").write_text(CALLEE.format(1))
    assert run() == ["2", "0"]
    (tmp_path / "callee.py").write_text(CALLEE.format(5))
    assert run() == ["10", "0"]  # without the callee's stamp: 2, from disk
    assert run() == ["10", "1"]


def test_files_of_called_kernels_count() -> None:
    names = {Path(file).name for file in conv2d_winograd._convolve_narrow.source_files}
    parts = {"conv2d_winograd.py", "conv2d_winograd_tiles.py", "conv2d_winograd_transforms.py"}
    assert names == {"products.py", "jit.py", "simd.py"} | parts
    assert "simd.py" in {
        Path(file).name for file in conv2d_winograd_transforms.input_1d.source_files
    }  # operators


def _through_a_module(x):
    return conv2d_winograd_transforms.input_1d(x, x, x, x, x, x)


def test_files_of_kernels_called_through_their_module_count() -> None:
    names = {Path(file).name for file in jit.kernel(_through_a_module).source_files}
    assert "conv2d_winograd_transforms.py" in names


def _divide(x, divisor, y):
    for i in range(x.size):
        y[i] = x[i] / divisor


def test_where_arrays_lie_does_not_matter() -> None:
    # Close neighbours take the scalar form of the loop, distant arrays the vector form. With `arcp` among the
    # flags, which was there once, the two differ in the last bit.
    divide = jit.kernel(_divide)
    values = np.random.default_rng(0).random(37)
    memory = np.empty(4096)
    close, far = memory[37:74], memory[2048 : 2048 + 37]
    memory[:37] = values
    divide(memory[:37], 3.7, close)
    divide(memory[:37], 3.7, far)
    np.testing.assert_array_equal(close, far)
    np.testing.assert_array_equal(far, values / 3.7)


def _count(tasks, done):
    for worker in numba.prange(tasks.workers):
        task = jit.next_task(tasks.taken)
        while task < done.shape[1]:
            done[worker, task] += 1
            task = jit.next_task(tasks.taken)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="Numba has one thread")
def test_each_task_is_done_once_whichever_thread_takes_it() -> None:
    count = jit.parallel_kernel(_count)
    for tasks in (jit.Tasks(1, np.zeros(1, np.int64)), jit.Tasks(2, np.zeros(1, np.int64)), jit.new_tasks()):
        done = np.zeros((tasks.workers, 100_000), np.int64)
        count(tasks, done)
        assert (done.sum(axis=0) == 1).all()


def _run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "NUMBA_NUM_THREADS": "2"}
    environment = {**os.environ, **paths, **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("given", "then"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_how_long_threads_spin_is_the_users_choice(
    given: dict[str, str], then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)  # set when tinyunet was imported here
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    done = _run("import os, tinyunet; print(os.environ.get('GOMP_SPINCOUNT'))", **given)
    assert done.stdout.split() == [then]


# One relu here, then two in a forked pool. Numba ends a child that would hang in GNU's OpenMP; the pool then
# starts another, for ever.
FORKED = """
import multiprocessing
import numpy as np
import tinyunet as tu

def total(number):
    return float(tu.relu(tu.Tensor(np.full(1000, number, np.float32))).numpy().sum())

{first}
with multiprocessing.get_context("fork").Pool(1) as pool:
    try:
        print(pool.map_async(total, [1, 2]).get(60))
    except tu.errors.BackendError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_pool_after_first_use_is_an_error() -> None:
    done = _run(FORKED.format(first="total(1)"), NUMBA_THREADING_LAYER="omp")
    assert "spawn" in done.stdout, done.stderr
    assert "NUMBA_THREADING_LAYER=workqueue" in done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(("first", "layer"), [("", "omp"), ("total(1)", "workqueue")])
def test_a_forked_pool_that_works(first: str, layer: str) -> None:
    done = _run(FORKED.format(first=first), NUMBA_THREADING_LAYER=layer)
    assert done.stdout == "[1000.0, 2000.0]\n", done.stderr


# Four threads, each with many parallel kernels.
AT_ONCE = """
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import tinyunet as tu

def total(number):
    x = tu.Tensor(np.full(100_000, number, np.float32))
    return {float(tu.relu(x).numpy().sum()) for _ in range(300)}

with ThreadPoolExecutor(4) as pool:
    print(list(pool.map(total, range(4))))
"""


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_threads_may_run_parallel_kernels_at_once(layer: str) -> None:
    done = _run(AT_ONCE, NUMBA_THREADING_LAYER=layer, OMP_WAIT_POLICY="passive")
    assert done.stdout == "[{0.0}, {100000.0}, {200000.0}, {300000.0}]\n", done.stderr


KERNELS = [file for file in Path(tinyunet.__file__).parent.rglob("*.py") if "kernel" in file.read_text()]


@pytest.mark.parametrize("file", KERNELS, ids=lambda file: file.stem)
def test_no_kernel_calls_a_method_that_adds(file):
    """Otherwise the process that compiles it may get other bits than those that read it from disk."""
    for function in ast.walk(ast.parse(file.read_text())):
        decorators = map(ast.unparse, getattr(function, "decorator_list", ()))
        if any(name.endswith("kernel") for name in decorators):
            calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
            names = {func.attr for func in calls if isinstance(func, ast.Attribute)}
            assert not names & {"sum", "mean", "var", "std", "prod", "dot", "cumsum"}, function.name
