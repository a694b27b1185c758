"""The choice of a backend, the errors of those that cannot run, and the message on the first compilation."""

import os
import subprocess
import sys

import pytest

import tinyunet as tu
from tinyunet.backend import dispatch
from tinyunet.errors import BackendError


@pytest.fixture(autouse=True)
def _same_backend_afterwards():
    with tu.use_backend(tu.active_backend()):
        yield


def test_as_a_context_manager():
    before = tu.active_backend()
    with tu.use_backend("numpy"):
        assert tu.active_backend() == "numpy"
        with tu.use_backend("numba"):
            assert tu.active_backend() == "numba"
        assert tu.active_backend() == "numpy"
    assert tu.active_backend() == before


def test_an_error_ends_the_context_too():
    before = tu.active_backend()
    with pytest.raises(ZeroDivisionError), tu.use_backend("numpy"):
        raise ZeroDivisionError
    assert tu.active_backend() == before


def test_as_a_plain_call():
    tu.use_backend("numpy")
    assert tu.active_backend() == "numpy"
    tu.use_backend("numba")
    assert tu.active_backend() == "numba"


def test_the_kernels_of_the_backend_are_called(monkeypatch):
    called = []
    for name in ("numpy", "numba"):
        monkeypatch.setitem(
            dispatch.DISPATCH_TABLE["relu", "forward"].implementations,
            name,
            lambda x, name=name: called.append(name) or x,
        )
    for name in ("numpy", "numba"):
        with tu.use_backend(name):
            tu.relu(tu.Tensor([1.0]))
    assert called == ["numpy", "numba"]


def test_an_unknown_name():
    tu.use_backend("numpy")
    with pytest.raises(BackendError, match="'torch'"):
        tu.use_backend("torch")
    assert tu.active_backend() == "numpy"


def test_a_precision_that_the_backend_lacks():
    with pytest.raises(BackendError, match="tf32"):
        tu.use_backend("numba", precision="tf32")
    with pytest.raises(BackendError, match="'half'"):
        tu.use_backend("numba", precision="half")


def test_the_precision_goes_with_the_backend():
    with tu.use_backend("cuda-emulated", precision="bf16"):
        assert dispatch.active_precision() == "bf16"
        with tu.use_backend("numpy"):
            assert dispatch.active_precision() == "float32"
        assert dispatch.active_precision() == "bf16"
    assert dispatch.active_precision() == "float32"


def test_cuda_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # Python's mark for a module that cannot be imported
    with pytest.raises(BackendError, match="CuPy"):
        tu.use_backend("cuda")


def test_a_kernel_that_the_backend_lacks(monkeypatch):
    monkeypatch.delitem(dispatch.DISPATCH_TABLE["relu", "forward"].implementations, "numpy")
    with tu.use_backend("numpy"), pytest.raises(BackendError, match=r"relu\.forward"):
        tu.relu(tu.Tensor([1.0]))


def run(code, **environment):
    """Run Python code in its own process: what it printed, and its stderr."""
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return process.stdout.strip(), process.stderr


def test_cuda_without_a_folder_for_compiled_kernels():
    """CuPy makes it when it is imported; nothing can be made below a file."""
    pytest.importorskip("cupy", reason="CuPy is not installed: its folder was not refused")
    folder = f"{__file__}/cupy"
    _, errors = run("import tinyunet as tu; tu.use_backend('cuda')", CUPY_CACHE_DIR=folder)
    assert f"file            {folder}\n" in errors
    assert "set CUPY_CACHE_DIR to a folder" in errors.splitlines()[-1]


PRINT_BACKEND = "import tinyunet as tu; print(tu.active_backend())"


def test_the_environment_variable():
    assert run(PRINT_BACKEND, TINYUNET_BACKEND="numpy")[0] == "numpy"
    assert "unknown backend 'jax'" in run(PRINT_BACKEND, TINYUNET_BACKEND="jax")[1]
    # The program's choice takes precedence, also over a wrong variable.
    chosen = "import tinyunet as tu; tu.use_backend('numba'); print(tu.active_backend())"
    assert run(chosen, TINYUNET_BACKEND="jax")[0] == "numba"


def test_numba_is_the_default(monkeypatch):
    monkeypatch.delenv("TINYUNET_BACKEND", raising=False)
    assert run(PRINT_BACKEND)[0] == "numba"


def test_the_first_compilation_is_announced_once(tmp_path):
    """Two kernels are compiled and announced once on stderr; from disk, not at all."""
    code = "import tinyunet as tu; x = tu.Tensor([-1.0, 2.0]); print(tu.relu(tu.add(x, x)).numpy())"
    for announcements in (1, 0):
        output, errors = run(code, NUMBA_CACHE_DIR=str(tmp_path), TINYUNET_BACKEND="numba")
        assert output == "[0. 4.]"
        assert errors.count("compiling kernels") == announcements
    assert "tinyunet.compile" not in errors
