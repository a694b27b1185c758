"""What all tests share: few threads, the same Hypothesis examples each time, the helpers of `oracle.py`."""

import os
import sys
from pathlib import Path

# Numba's pool gets two threads, so that one and two can be compared; tests run on one, as pytest-xdist may
# run many of them at once. BLAS is read when NumPy is imported, hence before everything else.
os.environ["NUMBA_NUM_THREADS"] = str(max(2, int(os.environ.get("NUMBA_NUM_THREADS", "2"))))
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import numba
import pytest
import torch
from hypothesis import HealthCheck, settings

import tinyunet as tu

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
