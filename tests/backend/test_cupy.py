"""The backend "cuda" on a stand-in for CuPy: arrays stay in GPU memory, from sampler to checkpoint.

The kernels of the stand-in are those of "cuda-emulated", so the results are the same to the last bit.
"""

import gc
import re
import sys
import traceback
from dataclasses import replace
from inspect import isfunction, signature
from operator import attrgetter
from types import SimpleNamespace

import fake_cupy
import numpy as np
import pytest
from oracle import random_arrays

import tinyunet as tu
from tinyunet import backend
from tinyunet.backend import cuda, to_backend, to_host
from tinyunet.data import split, synthetic_cells
from tinyunet.errors import BackendError, KernelError, OutOfMemoryError
from tinyunet.training.checkpoint import load_checkpoint, load_model, save_checkpoint
from tinyunet.training.config import TrainConfig
from tinyunet.training.events import Stepped, Validated
from tinyunet.training.trainer import Trainer

CONFIG = TrainConfig(
    steps=3, base_channels=4, depth=1, tile=12, holdout="1", validate_every=2, schedule="constant"
)


def trainer(config=CONFIG):
    return Trainer(config, *split(synthetic_cells(n=2, size=40, seed=0), config.holdout))


def outcome(trainer):
    """Losses, predictions, weights and velocities of a run."""
    return results(list(trainer.run()), trainer)


def results(events, trainer):
    stored = trainer.checkpoint()
    return [
        *(event.loss for event in events if isinstance(event, Stepped)),
        *(
            probabilities
            for event in events
            if isinstance(event, Validated)
            for probabilities in event.examples
        ),
        *map(to_host, stored.weights.values()),
        *(to_host(array) for arrays in stored.optimiser.values() for array in arrays.values()),
    ]


def assert_same_bits(ours, others):
    for our, other in zip(ours, others, strict=True):
        np.testing.assert_array_equal(our, other)


@pytest.mark.parametrize(
    ("model", "depth", "width", "tile", "optimiser"),
    [
        ("unet", 1, 4, 12, "sgd"),
        ("unet", 1, 4, 12, "adam"),
        ("fcn", 3, 1, 40, "sgd"),
        ("sliding-window", 1, 2, 12, "sgd"),
    ],
)
def test_a_training_gives_the_bits_of_cuda_emulated(on_stand_in, model, depth, width, tile, optimiser):
    """Sampler, network, loss, optimiser, overlap-tile, validation and checkpoint."""
    config = replace(CONFIG, model=model, depth=depth, base_channels=width, tile=tile, optimiser=optimiser)
    on_gpu = trainer(config)
    assert all(backend.lies_on_gpu(p.data) for p in on_gpu.model.parameters())
    assert all(backend.lies_on_gpu(array) for arrays in on_gpu.optimiser.state.values() for array in arrays)
    ours = outcome(on_gpu)
    with tu.use_backend("cuda-emulated"):
        assert_same_bits(ours, outcome(trainer(config)))


def test_a_checkpoint_resumes_on_either_side(on_stand_in, tmp_path):
    """Stored on the GPU after two steps, resumed on the GPU and in host memory."""
    path = tmp_path / "last.safetensors"
    first = trainer()
    for event in first.run():
        if isinstance(event, Stepped) and event.step == 2:
            save_checkpoint(path, first.checkpoint())
    for name in ("cuda", "cuda-emulated"):
        with tu.use_backend(name):
            resumed = trainer()
            resumed.restore(load_checkpoint(path))
            list(resumed.run())
            assert_same_bits(outcome(first), outcome(resumed))
            model, _ = load_model(path)
            image = np.ones((20, 20, 1), np.float32)
            assert tu.predict_tiled(model, image, tile=12).shape == (20, 20, 2)


def every_op(*arrays):
    """Each op once, the sum of several gradients in one tensor, and the loss with all options."""
    leaves = [tu.Tensor(a, requires_grad=True) for a in arrays]
    x, y, weight, up_weight, wide_weight, bias, features, last_weight, scale = leaves
    z = tu.relu(tu.add(tu.conv2d(x, weight, bias, padding=1), tu.conv2d(y, weight, padding=1, relu=True)))
    z = tu.batch_norm(z, scale, bias, relu=True)
    z = tu.dropout(
        tu.conv_transpose2d(tu.max_pool2d(z), up_weight, bias, relu=True), 0.3, np.random.default_rng(0)
    )
    z = tu.conv_transpose2d(tu.max_pool2d(z), wide_weight)
    z = tu.crop_concat(z, x)
    target = np.random.default_rng(1).integers(-1, 6, z.shape[:3])
    loss = tu.softmax_cross_entropy(z, target, np.ones(target.shape), "sum", ignore_label=-1)
    loss.backward()
    fused = tu.linear_cross_entropy(features, last_weight, bias, np.zeros((1, 3, 5), int))
    tu.add(fused, fused).backward()
    return [z.numpy(), loss.numpy(), fused.numpy(), *(to_host(t.grad) for t in leaves)]


def test_every_op_gives_the_bits_of_cuda_emulated(on_stand_in):
    shapes = [
        (1, 6, 8, 3),
        (1, 6, 8, 3),
        (3, 3, 3, 3),
        (2, 2, 3, 3),
        (4, 4, 3, 3),
        (3,),
        (1, 3, 5, 4),
        (1, 1, 4, 3),
        (3,),
    ]
    arrays = random_arrays(shapes, np.float32)
    ours = every_op(*arrays)
    with tu.use_backend("cuda-emulated"):
        assert_same_bits(ours, every_op(*arrays))


def test_a_classifier_slid_over_an_image(on_stand_in):
    (image,) = random_arrays([(1, 12, 14, 1)], np.float32)

    def scores():
        model = tu.SlidingWindowClassifier(base_channels=2, depth=1, neurons=3)
        x = tu.Tensor(image)
        return [model(x).numpy(), model.slide(x).numpy()]

    ours = scores()
    with tu.use_backend("cuda-emulated"):
        assert_same_bits(ours, scores())


def test_the_memory_of_a_tensor(on_stand_in):
    x = np.arange(6, dtype=np.float64).reshape(2, 3).T
    tensor = tu.Tensor(x.astype(np.float32), requires_grad=True)
    assert isinstance(tensor.data, fake_cupy.ndarray)
    assert tensor.data.flags.c_contiguous
    assert tu.Tensor(tensor.data).data is tensor.data
    assert isinstance(tensor.numpy(), np.ndarray)
    np.testing.assert_array_equal(tensor.numpy(), x)
    tu.relu(tensor).backward(np.ones((3, 2)))
    assert isinstance(tensor.grad, fake_cupy.ndarray)
    with tu.use_backend("numpy"):
        assert isinstance(to_backend(tensor.data), np.ndarray)
        assert tu.relu(tu.Tensor(tensor.data)).numpy().tolist() == x.tolist()


def test_a_tensor_of_another_backend(on_stand_in):
    """Reported before a kernel reads an address of another memory."""
    on_gpu = tu.Tensor(np.zeros((2, 3), np.float32))
    with tu.use_backend("numpy"):
        in_memory = tu.Tensor(np.zeros((2, 3), np.float32))
        with pytest.raises(BackendError, match=r"relu: .*'numpy'(?s:.)*\(2, 3\)"):
            tu.relu(on_gpu)
    with pytest.raises(BackendError, match=r"add: .*'cuda'"):
        tu.add(on_gpu, in_memory)
    with pytest.raises(KernelError, match=r"numpy\.ndarray.* fake_cupy\.ndarray"):
        cuda.launch("relu", "forward", (1,), (256,), in_memory.data, in_memory.data, 6)


def test_gradcheck_says_that_it_needs_float64(on_stand_in):
    with pytest.raises(KernelError, match=r"float64(?s:.)*'numba'"):
        tu.gradcheck(tu.relu, [tu.Tensor(np.ones((2, 3)), requires_grad=True)])


def test_the_stand_in_refuses_to_be_mixed():
    """Otherwise the other tests would prove nothing."""
    array = fake_cupy.asarray(np.ones(3), blocking=True)
    for mix in (
        np.asarray,
        lambda a: a + np.ones(3),
        lambda a: np.ones(3) + a,
        lambda a: np.ones(3) * a,
        np.sum,
    ):
        with pytest.raises(TypeError):
            mix(array)
    with pytest.raises(TypeError):
        array[...] = np.zeros(3)


def names_in(space, before=""):
    """Yield all names in a namespace and in those inside it, such as "runtime.memGetInfo"."""
    for name, value in vars(space).items():
        yield from names_in(value, f"{name}.") if isinstance(value, SimpleNamespace) else [before + name]


def test_cupy_has_what_the_stand_in_has():
    """Every name, and every option of a function. CuPy can be imported and inspected without a GPU."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed: its names were not compared")
    functions = [f for f in vars(fake_cupy).values() if getattr(f, "__module__", "") == fake_cupy.__name__]
    for function in filter(isfunction, functions):
        name = function.__name__
        if not name.startswith("_"):
            options = {p.name for p in signature(function).parameters.values() if p.default is not p.empty}
            theirs = getattr(cupy.cuda if name in vars(fake_cupy.cuda) else cupy, name)
            assert options <= set(signature(theirs).parameters)
    for name in names_in(fake_cupy.cuda):
        assert attrgetter(name)(cupy.cuda)
    for name in ("Stream.begin_capture", "Stream.end_capture", "Graph.launch", "MemoryPool.malloc"):
        assert attrgetter(name)(cupy.cuda)
    assert issubclass(cupy.cuda.runtime.CUDARuntimeError, RuntimeError)
    assert issubclass(cupy.cuda.driver.CUDADriverError, RuntimeError)
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)
    assert issubclass(cupy.cuda.compiler.CompileException, Exception)
    assert cupy.RawModule(code="", options=cuda.NVRTC_OPTIONS).get_function
    assert {"free_all_blocks", "total_bytes"} <= set(dir(cupy.get_default_memory_pool()))
    assert {name for name in vars(fake_cupy.ndarray) if not name.startswith("_")} - {"hidden"} <= set(
        dir(cupy.ndarray)
    )


@pytest.mark.parametrize(
    ("before", "inside", "after", "position"),
    [
        ("undeclared", 1, 1, r"relu\.cu\(1\)"),
        (1, "undeclared", 1, r"one\.cuh\(2\)"),
        (1, 1, "undeclared", r"relu\.cu\(4\)"),
    ],
)
def test_compiler_errors_name_the_line(on_stand_in, monkeypatch, tmp_path, before, inside, after, position):
    """The right file is named, though NVRTC gets source and header in one piece."""
    source = tmp_path / "relu.cu"
    kernel = f'extern "C" __global__ void relu_forward(float* y) {{\n    y[0] = {after};\n}}\n'
    source.write_text(f'float before = {before};\n#include "one.cuh"\n{kernel}')
    (tmp_path / "one.cuh").write_text(f"\nfloat inside = {inside};\n")
    monkeypatch.setattr(cuda, "source_of", lambda stem, kernel: source)
    with pytest.raises(KernelError, match=rf"{position}: error: .*undeclared"):
        cuda.launch("relu", "forward", (1,), (1,), cuda.empty((1,)))


# Messages of CuPy, and of NVRTC.
NO_NVRTC = 'Failure finding "libnvrtc.so.13": No such file'
NO_HEADERS = "Failed to find CUDA headers. Please install CUDA toolkit headers or specify CUDA_PATH."
OLD_GPU = "nvrtc: error: invalid value for --gpu-architecture (-arch)\n"


def relu_when_compiling_fails(monkeypatch, error):
    def failing(self, name):
        raise error

    monkeypatch.setattr(fake_cupy.RawModule, "get_function", failing)
    tu.relu(tu.Tensor(np.ones((1, 1), np.float32)))


@pytest.mark.parametrize("reason", [NO_NVRTC, NO_HEADERS])
def test_without_nvrtc_or_headers(on_stand_in, monkeypatch, reason):
    with pytest.raises(BackendError, match=r"reason +Fail.*\n.*pip install"):
        relu_when_compiling_fails(monkeypatch, RuntimeError(reason))


def test_a_folder_for_compiled_kernels_that_refuses_them(on_stand_in, monkeypatch):
    with pytest.raises(BackendError, match=r"file +/kept/tmp1\n +reason +No space(?s:.)*CUPY_CACHE_DIR to a"):
        relu_when_compiling_fails(monkeypatch, OSError(28, "No space left on device", "/kept/tmp1"))


@pytest.mark.parametrize("error", [fake_cupy.CUDARuntimeError, fake_cupy.CUDADriverError])
def test_a_fault_at_a_launch_names_the_kernel(on_stand_in, monkeypatch, error):
    """CUDA reports it with any later call, unless CUDA_LAUNCH_BLOCKING makes each launch wait."""

    def faulty(grid, block, arguments):
        raise error("CUDA_ERROR_ILLEGAL_ADDRESS")

    monkeypatch.setattr(fake_cupy.RawModule, "get_function", lambda self, name: faulty)
    with pytest.raises(KernelError, match=r"relu_forward: CUDA_ERROR_ILLEGAL(?s:.)*LAUNCH_BLOCKING=1"):
        tu.relu(tu.Tensor(np.ones((1, 1), np.float32)))


def test_a_gpu_that_the_compiler_does_not_know(on_stand_in, monkeypatch):
    monkeypatch.setattr(fake_cupy.cuda, "Device", lambda: SimpleNamespace(compute_capability="70"))
    with pytest.raises(BackendError, match=r"7\.0\n(?s:.)*cuda12"):
        relu_when_compiling_fails(monkeypatch, fake_cupy.CompileException(OLD_GPU))


@pytest.mark.parametrize(("digits", "version"), [("75", "7.5"), ("80", None), ("120", None)])
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_gpu_without_the_tensor_cores(on_stand_in, monkeypatch, precision, digits, version):
    monkeypatch.setattr(fake_cupy.cuda, "Device", lambda: SimpleNamespace(compute_capability=digits))
    if version is None:
        with tu.use_backend("cuda", precision):
            return
    with pytest.raises(BackendError, match=rf"{precision}(?s:.)*{version}"):
        tu.use_backend("cuda", precision)
    assert tu.use_backend("cuda")


def bytes_needed(run):
    """The growth of the stand-in's pool."""
    pool = fake_cupy.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.total_bytes()
    run()
    return pool.total_bytes() - before


def leave_free(size, monkeypatch):
    """Shrink the GPU to some bytes more than are in use."""
    gc.collect()  # or leftovers of other tests would be freed later
    fake_cupy.get_default_memory_pool().free_all_blocks()
    monkeypatch.setattr(fake_cupy.Device, "total", fake_cupy.Device.held + size)


def train_one_step(tile):
    on_tile = trainer(replace(CONFIG, tile=tile, steps=1, validate_every=100))
    next(event for event in on_tile.run() if isinstance(event, Stepped))


def predict_one_tile(tile):
    model = tu.UNet(base_channels=4, depth=1, padding="same")
    tu.predict_tiled(model, np.zeros((72, 72, 1), np.float32), tile=tile)


@pytest.mark.parametrize(
    ("program", "what", "little"),
    [(train_one_step, "a training step", 100_000), (predict_one_tile, "a prediction", 40_000)],
)
def test_out_of_memory(on_stand_in, monkeypatch, program, what, little):
    """The bytes reported as needed are needed, and the tile suggested fits."""
    needed = bytes_needed(lambda: program(72))
    leave_free(int(0.6 * needed), monkeypatch)
    with pytest.raises(OutOfMemoryError, match=what) as caught:
        program(72)
    reported = re.search(r"needs about (\S+) MB", str(caught.value))[1]
    assert float(reported) * 1e6 == pytest.approx(needed, rel=0.15)
    fits = int(re.search(r"a tile of (\d+) fits", str(caught.value))[1])
    traceback.clear_frames(caught.tb)  # which hold the image and its scores
    assert 30 <= fits < 72
    program(fits)
    leave_free(little, monkeypatch)  # the images to train on fit, no tile does
    with pytest.raises(OutOfMemoryError, match="fewer channels"):
        program(72)


def run_short_of_memory(trainer, step, monkeypatch):
    """Train with no room beside the graph after some step; return the events."""
    events = []
    for event in trainer.run():
        events.append(event)
        if isinstance(event, Stepped) and event.step == step:
            assert trainer._captured.bytes > 1_000_000
            leave_free(20_000, monkeypatch)
    assert trainer._captured.bytes == 0
    return events


@pytest.mark.parametrize("step", [2, 3], ids=["for the next sample", "for predictions"])
def test_memory_that_a_graph_holds(on_stand_in, monkeypatch, step):
    """It is dropped where memory is short, and the training ends with the same bits as with enough memory."""
    config = replace(CONFIG, tile=72, steps=4, validate_every=3)
    right = outcome(trainer(config))
    short = trainer(config)
    with pytest.warns(UserWarning, match="memory") as warnings:
        events = run_short_of_memory(short, step, monkeypatch)
    assert len(warnings) == 1
    assert_same_bits(results(events, short), right)


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (12020, r"CUDA 12\.2\n(?s:.)*CUDA 13\.2\n"),
        (13000, r"CUDA 13\.0\n +CUDA_VISIBLE_DEVICES +-1\n"),
        (0, r"driver +none\n +CUDA_VISIBLE_DEVICES +-1\n"),
    ],
)
def test_no_gpu(monkeypatch, driver, message):
    runtime = SimpleNamespace(driverGetVersion=lambda: driver, runtimeGetVersion=lambda: 13020)
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)
    monkeypatch.setattr(fake_cupy, "cuda", SimpleNamespace(is_available=lambda: False, runtime=runtime))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(BackendError, match=message):
        tu.use_backend("cuda")


def test_out_of_memory_whatever_the_tile(on_stand_in, monkeypatch):
    """The number of windows decides in a training by windows, so that no smaller tile helps."""
    config = TrainConfig(steps=1, model="sliding-window", base_channels=4, depth=1, tile=48)
    images = split(synthetic_cells(n=2, size=60, seed=0), "1")
    by_windows = Trainer(config, *images)
    leave_free(400_000, monkeypatch)
    with pytest.raises(OutOfMemoryError, match="fewer channels"):
        list(by_windows.run())
