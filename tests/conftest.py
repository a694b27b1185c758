"""Shared by all tests: few threads, the same Hypothesis examples each time, backends, helpers."""

import gc
import os
import shutil
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

# Numba's pool gets two threads, so that one and two can be compared. Tests run on one, because pytest-xdist
# may run many at once. NumPy reads the setting of BLAS at import, hence this comes first.
os.environ["NUMBA_NUM_THREADS"] = str(max(2, int(os.environ.get("NUMBA_NUM_THREADS", "2"))))
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent / "helpers"))

import fake_cupy
import numba
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from oracle import DTYPES

import tinyunet as tu
from tinyunet.backend import cuda, cuda_emulator
from tinyunet.errors import BackendError

numba.set_num_threads(1)
torch.set_num_threads(1)

settings.register_profile(
    "suite",
    max_examples=12,
    deadline=None,  # the first example may compile a kernel
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # `backend` may stay set between examples
)
settings.load_profile("suite")


CPU = ["numpy", "numba"]


@pytest.fixture(params=CPU)
def backend(request):
    """Run the test on each backend of the CPU."""
    with tu.use_backend(request.param):
        yield request.param


CUDA_BUILDS = ["plain", "checked", pytest.param("gpu", marks=pytest.mark.gpu)]


@pytest.fixture
def emulated():
    """Launch on the CPU."""
    with _cuda("plain"):
        yield


@pytest.fixture(params=CUDA_BUILDS)
def build(request):
    """Run the test on both builds of the emulator, and on a GPU where there is one."""
    with _cuda(request.param):
        yield request.param


@pytest.fixture(params=["plain", pytest.param("gpu", marks=pytest.mark.gpu)])
def emulated_or_gpu(request):
    """Run the test on the plain build of the emulator, and on a GPU where there is one."""
    with _cuda(request.param):
        yield


@pytest.fixture(
    params=[
        *(pytest.param((name, dtype), id=f"{name}-{dtype.__name__}") for name in CPU for dtype in DTYPES),
        *(pytest.param((name, np.float32), id=name) for name in ("plain", "checked")),
        pytest.param(("gpu", np.float32), id="gpu", marks=pytest.mark.gpu),
    ]
)
def kernel_dtype(request):
    """Run the test on every backend and build, with each dtype that its kernels take: this dtype."""
    name, dtype = request.param
    with tu.use_backend(name) if name in CPU else _cuda(name):
        yield dtype


@pytest.fixture
def gpu():
    """Use the backend "cuda" on a GPU."""
    with _gpu():
        yield


@contextmanager
def _cuda(build):
    """Launch CUDA kernels on one of the builds, or skip and say why not."""
    if build == "gpu":
        with _gpu():
            yield
        return
    if shutil.which("g++") is None:
        pytest.skip("g++ is missing: the CUDA kernels cannot be compiled for the CPU")
    with tu.use_backend("cuda-emulated"), cuda_emulator.checks() if build == "checked" else nullcontext():
        yield


def _gpu():
    """Use the backend "cuda", or skip with the reason."""
    try:
        return tu.use_backend("cuda")
    except BackendError as error:
        pytest.skip(f"no kernel was run on a GPU: {str(error).splitlines()[0]}")


@pytest.fixture
def on_stand_in(emulated, monkeypatch):
    """Use the backend "cuda" on a stand-in for CuPy, whose kernels run on the CPU."""
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)
    cuda._gpu_function.cache_clear()
    cuda._raw_module.cache_clear()
    gc.collect()  # leftovers of other tests would be freed at any time, which disturbs tests of memory
    with tu.use_backend("cuda"):
        yield fake_cupy
    cuda._gpu_function.cache_clear()
    cuda._raw_module.cache_clear()
