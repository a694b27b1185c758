"""The tests of the CUDA kernels run them on the CPU, as compiled plainly and with every access checked."""

import shutil
from contextlib import nullcontext

import pytest

import tinyunet as tu
from tinyunet import cuda_emulator


@pytest.fixture
def emulated():
    """Launch on the CPU."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not there: the CUDA kernels cannot be compiled for the CPU")
    with tu.use_backend("cuda-emulated"):
        yield


@pytest.fixture(params=["plain", "checked"])
def build(request, emulated):
    """Both builds of the emulator, one after the other."""
    with cuda_emulator.checks() if request.param == "checked" else nullcontext():
        yield request.param
