"""What all tests share: few threads, the same Hypothesis examples each time, where kernels run, helpers."""

import gc
import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

# Numba's pool gets two threads, so that one and two can be compared; tests run on one, as pytest-xdist may
# run many of them at once. BLAS is read when NumPy is imported, hence before everything else.
os.environ["NUMBA_NUM_THREADS"] = str(max(2, int(os.environ.get("NUMBA_NUM_THREADS", "2"))))
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent / "helpers"))

import fake_cupy
import numba
import pytest
import torch
from hypothesis import HealthCheck, settings

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
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # `backend` need not be set anew for each
)
settings.load_profile("suite")


@pytest.fixture(params=["numpy", "numba"])
def backend(request):
    """Run the test on each backend."""
    with tu.use_backend(request.param):
        yield request.param


@pytest.fixture
def emulated():
    """Launch on the CPU."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not there: the CUDA kernels cannot be compiled for the CPU")
    with tu.use_backend("cuda-emulated"):
        yield


@pytest.fixture(params=["plain", "checked", pytest.param("gpu", marks=pytest.mark.gpu)])
def build(request):
    """Both builds of the emulator, one after the other; and a GPU, where there is one."""
    if request.param == "gpu":
        with _gpu():
            yield "gpu"
        return
    request.getfixturevalue("emulated")
    with cuda_emulator.checks() if request.param == "checked" else nullcontext():
        yield request.param


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def emulated_or_gpu(request):
    """The plain build of the emulator; and a GPU, where there is one."""
    if request.param == "emulated":
        request.getfixturevalue("emulated")
        yield
    else:
        with _gpu():
            yield


@pytest.fixture
def gpu():
    """The backend "cuda" on a GPU."""
    with _gpu():
        yield


def _gpu():
    """The backend "cuda", or a skip that says why not."""
    try:
        return tu.use_backend("cuda")
    except BackendError as error:
        pytest.skip(f"no kernel was run on a GPU: {str(error).splitlines()[0]}")


@pytest.fixture
def on_stand_in(emulated, monkeypatch):
    """The backend "cuda" with a stand-in for CuPy, whose kernels run on the CPU."""
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)
    cuda._gpu_function.cache_clear()
    cuda._raw_module.cache_clear()
    gc.collect()  # what other tests have left would be freed at any time, which tests of memory would notice
    with tu.use_backend("cuda"):
        yield fake_cupy
    cuda._gpu_function.cache_clear()
    cuda._raw_module.cache_clear()
