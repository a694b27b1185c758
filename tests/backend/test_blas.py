"""Matrix products inside kernels, whole and in pieces, against NumPy; and the threads of BLAS, left alone."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from tinyunet.backend import blas
from tinyunet.backend.jit import kernel


@kernel
def product(routine, a, b, beta, c):
    blas.gemm(routine, a, b, beta, c)


@kernel
def product_tn(routine, a, b, beta, c):
    blas.gemm_tn(routine, a, b, beta, c)


@pytest.mark.parametrize("largest", [1, 10**6, 2**62])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize(("rows", "summands", "columns"), [(50, 300, 130), (1, 1, 1), (24, 256, 128)])
def test_equals_numpy(rows, summands, columns, beta, dtype, largest):
    """Also for views of some columns, whose rows lie apart. Integers: there is nothing to round."""
    rng = np.random.default_rng(0)
    a, b, c = (
        rng.integers(-9, 9, (height, width + 3)).astype(dtype)[:, :width]
        for height, width in ((rows, summands), (summands, columns), (rows, columns))
    )
    expected = a @ b + beta * c
    with blas.gemm_routine(dtype) as (address, _):
        routine = address, largest
    for kind, factor in ((product, a), (product_tn, np.ascontiguousarray(a.T))):
        out = c.copy() if beta else np.full_like(c, np.nan)  # with beta = 0 the contents do not count
        kind(routine, factor, b, beta, out)
        np.testing.assert_array_equal(out, expected)


# Imports the package and takes a training step.
TRAINING_STEP = """
from threadpoolctl import threadpool_info
import numpy as np
import scipy.linalg
import numba

def threads():
    return sorted((i["filepath"], i["num_threads"]) for i in threadpool_info() if i["user_api"] == "blas")

before = threads()
import tinyunet as tu
assert threads() == before
model = tu.UNet(base_channels=8, depth=1, seed=0)
optimiser = tu.SGD(model.parameters(), lr=1e-4)
x = tu.Tensor(np.ones((1, 44, 44, 1), np.float32))
tu.softmax_cross_entropy(model(x), np.zeros((1, 28, 28), int)).backward()
optimiser.step()
assert threads() == before
print(before)
"""


def test_the_threads_of_the_caller_stay():
    """Neither the import nor a training step changes them for the rest of the program."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, "-c", TRAINING_STEP]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ", 2)" in done.stdout, "BLAS has one thread from the start: nothing was tested"


@pytest.fixture
def two_threads():
    """BLAS with two threads; a function that gives the number of SciPy's BLAS."""
    blas._set_threads(2)
    yield blas._get_threads
    blas._set_threads(1)


@pytest.mark.skipif(blas._set_threads is None, reason="the threads of this BLAS cannot be set")
def test_one_thread_while_a_kernel_runs(two_threads):
    """Until the last of several has ended, in whatever order, and after an error."""
    with blas.gemm_routine(np.float32):
        assert two_threads() == 1
        assert any(i["num_threads"] == 1 for i in ThreadpoolController().info() if i["user_api"] == "blas")
        with blas.gemm_routine(np.float64):
            assert two_threads() == 1
        assert two_threads() == 1
    assert two_threads() == 2
    with pytest.raises(ZeroDivisionError), blas.gemm_routine(np.float32):
        raise ZeroDivisionError
    assert two_threads() == 2


@pytest.mark.skipif(blas._set_threads is None, reason="the threads of this BLAS cannot be set")
def test_two_threads_of_the_caller_may_overlap(two_threads):
    entered, leave = threading.Event(), threading.Event()

    def work():
        with blas.gemm_routine(np.float32):
            entered.set()
            leave.wait(60)

    other = threading.Thread(target=work)
    with blas.gemm_routine(np.float32):
        other.start()
        assert entered.wait(60)
    assert two_threads() == 1, "the other kernel is still running"
    leave.set()
    other.join()
    assert two_threads() == 2


@pytest.mark.skipif(blas._set_threads is None, reason="the threads of this BLAS cannot be set")
def test_kernels_of_many_threads_restore_the_number_once(two_threads):
    """Each enters and leaves at any time, some with an error; meanwhile the number is 1."""

    def work(number):
        rng = np.random.default_rng(number)
        for _ in range(200):
            with suppress(ZeroDivisionError), blas.gemm_routine(np.float32):
                time.sleep(rng.random() * 1e-4)
                assert two_threads() == 1
                if rng.random() < 0.5:
                    raise ZeroDivisionError

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert two_threads() == 2
    assert blas._one_thread.inside == 0


@pytest.mark.skipif(blas._set_threads is None, reason="the threads of this BLAS cannot be set")
def test_a_number_that_the_caller_sets_meanwhile_stays(two_threads):
    with blas.gemm_routine(np.float32):
        blas._set_threads(3)
    assert two_threads() == 3
