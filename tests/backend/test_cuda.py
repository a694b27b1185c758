"""Arguments that the launcher refuses: a raw kernel would silently read something else."""

import platform
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import tinyunet as tu
from tinyunet import backend
from tinyunet.backend import cuda, cuda_emulator
from tinyunet.errors import BackendError, KernelError
from tinyunet.ops.linear_cross_entropy import backward_cuda


def launch_relu(x, y, count=6):
    cuda.launch("relu", "forward", (1,), (256,), x, y, count)


def arrays(*shapes):
    return [np.zeros(shape, np.float32) for shape in shapes]


def test_arrays_that_a_kernel_cannot_take(emulated):
    x, y = arrays((2, 3), (2, 3))
    launch_relu(x, y)
    with pytest.raises(KernelError, match=r"relu_forward: x .*float64"):
        launch_relu(x.astype(np.float64), y)
    for other, kind in (([1.0, 2.0], "list"), (np.float32(1), r"numpy\.float32")):
        with pytest.raises(KernelError, match=rf"y is {kind},.* numpy\.ndarray"):
            launch_relu(x, other)
    with pytest.raises(KernelError, match=r"strides \(4, 12\)"):
        launch_relu(x.T, y)
    with pytest.raises(KernelError, match="16 bytes"):
        launch_relu(np.zeros(7, np.float32)[1:], y)
    with pytest.raises(KernelError, match="float64"):
        tu.relu(tu.Tensor(np.zeros((2, 3))))


def test_more_elements_than_the_kernel_counts(emulated, monkeypatch):
    monkeypatch.setattr(cuda, "INDEX_LIMIT", 5)
    with pytest.raises(KernelError, match=r"x has 6 .*counts to 5\n.*\(2, 3\)"):
        launch_relu(*arrays((2, 3), (2, 3)))


def test_more_threads_than_the_kernel_counts(emulated, monkeypatch):
    """The gradient of a concatenation has a thread for each element of two arrays."""
    monkeypatch.setattr(cuda, "INDEX_LIMIT", 8)
    first, second = (tu.Tensor(a, requires_grad=True) for a in arrays((1, 2, 2, 1), (1, 2, 2, 1)))
    joined = tu.crop_concat(first, second)
    joined.backward(np.ones(joined.shape))
    wide = tu.Tensor(np.zeros((1, 3, 2, 1), np.float32), requires_grad=True)
    joined = tu.crop_concat(first, wide)
    with pytest.raises(KernelError, match=r"crop_concat_backward: 10 .* 8"):
        joined.backward(np.ones(joined.shape))


def test_an_index_past_the_end_is_an_int(monkeypatch):
    """In the kernel whose threads loop over the arrays, and in those with one thread per element."""
    launched = []
    monkeypatch.setattr(cuda, "launch", lambda *arguments: launched.append(arguments))
    largest = SimpleNamespace(size=cuda.INDEX_LIMIT)
    backward_cuda(largest, largest, largest, None)
    ((_, _, (blocks,), (threads,), *_),) = launched
    for stride in (blocks * threads, cuda.THREADS_PER_BLOCK):
        assert cuda.INDEX_LIMIT - 1 + stride < 2**31


def test_more_blocks_than_a_gpu_takes(emulated):
    x, y = arrays((2, 3), (2, 3))
    with pytest.raises(KernelError, match=r"65535(?s:.)*\(1, 65536\)"):
        cuda.launch("relu", "forward", (1, 65536), (256,), x, y, 6)


@pytest.mark.parametrize("count", [6.0, 2**31, -(2**31) - 1, np.int64(6), np.float32(6)])
def test_scalars_of_another_type(emulated, count):
    """Eight bytes for a kernel that takes four; CuPy would pass a Python float as a double."""
    with pytest.raises(KernelError, match=r"count .* int32"):
        launch_relu(*arrays((2, 3), (2, 3)), count)


def test_no_elements_need_no_launch(emulated):
    assert tu.relu(tu.Tensor(np.zeros((0, 3), np.float32))).shape == (0, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int32])
def test_an_element_that_a_kernel_does_not_write_shows(emulated, dtype):
    for shape in ((3,), (), (0, 2)):
        unwritten = cuda.empty(shape, dtype)
        assert unwritten.shape == shape
        shows = {"f": np.isnan(unwritten), "u": unwritten == 255, "i": unwritten == -1}
        assert shows[unwritten.dtype.kind].all()


def test_compiler_errors_name_the_line(emulated, tmp_path):
    source = tmp_path / "wrong.cu"
    source.write_text('extern "C" __global__ void wrong(float* y) {\n    y[0] = undeclared;\n}\n')
    with pytest.raises(KernelError, match=r"wrong\.cu:2:(?s:.)*undeclared"):
        cuda_emulator.function(source, "wrong", ("y",), ("wrong",))


def test_a_changed_header(emulated, tmp_path):
    """The same source beside another header is another program, for the cache of compiled kernels too."""
    for value in ("1", "2"):
        source = tmp_path / value / "number.cu"
        source.parent.mkdir()
        source.with_name("number.cuh").write_text(f"constexpr int NUMBER = {value};\n")
        source.write_text(
            '#include "number.cuh"\nextern "C" __global__ void number(int* y) { y[0] = NUMBER; }\n'
        )
        y = np.zeros(1, np.int32)
        cuda_emulator.function(source, "number", ("y",), ("number",))((1, 1, 1), (1, 1, 1), (y,))
        assert y.item() == int(value)


def test_a_cache_folder_that_cannot_be_made(emulated, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    source = tmp_path / "nothing.cu"
    source.write_text('extern "C" __global__ void nothing(float* y) {}\n')
    with pytest.raises(BackendError, match="XDG_CACHE_HOME"):
        cuda_emulator.function(source, "nothing", ("y",), ("nothing",))


def test_another_system(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with pytest.raises(BackendError, match="Darwin"):
        tu.use_backend("cuda-emulated")


def test_the_backend_calls_the_cuda_kernels(emulated, monkeypatch):
    called = []
    dispatch = backend.DISPATCH_TABLE["relu", "forward"]
    monkeypatch.setitem(dispatch.implementations, "cuda", lambda x: called.append("cuda") or x)
    tu.relu(tu.Tensor([1.0]))
    assert called == ["cuda"]


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BackendError, match=r"g\+\+"):
        tu.use_backend("cuda-emulated")
