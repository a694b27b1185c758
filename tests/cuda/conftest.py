"""The tests of the CUDA kernels run them on the CPU, as compiled plainly and with every access checked."""

import gc
import shutil
import sys
from contextlib import nullcontext

import fake_cupy
import pytest

import tinyunet as tu
from tinyunet.backend import cuda, cuda_emulator
from tinyunet.errors import BackendError


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
