"""Tests all of `benchmarks/gpu.py` that runs without a GPU: everything but the times."""

import json
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from oracle import assert_close

from benchmarks import gpu, gpu_clock, gpu_layers
from benchmarks.gpu_layers import convolution, up_convolution
from benchmarks.layers import DIRECTIONS, Layer
from tinyunet.errors import BackendError
from tinyunet.ops import conv2d_cuda, conv_transpose2d_cuda


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match=r"torch +2"):
        gpu.main(gpu.Options())


class Event(SimpleNamespace):
    """An event, recorded a millisecond after the one before."""

    now = count()

    def record(self):
        self.at = next(self.now)

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return end.at - self.at


@pytest.fixture
def events(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", lambda *, enable_timing: Event())


def test_tasks_take_turns_and_the_first_ones_do_not_count(events):
    done = []
    tasks = {name: lambda name=name: done.append(name) for name in "ab"}
    assert gpu_clock.milliseconds(tasks, turns=4) == {"a": 1, "b": 1}
    assert done == ["a", "b"] * (gpu_clock.WARM_UP + 4)


def test_short_tasks_are_repeated_in_a_turn(events, monkeypatch):
    """Tasks take no time on this clock, so three of them share the millisecond between two events."""
    monkeypatch.setattr(gpu_clock, "MIN_MILLISECONDS", 3)
    monkeypatch.setattr(gpu_clock, "WARM_UP", 1)
    done = []
    assert gpu_clock.milliseconds({"a": lambda: done.append("a")}, turns=2) == {"a": pytest.approx(1 / 3)}
    assert len(done) == 1 + 2 * 3


def test_rates():
    """10 ms are 100 TFLOP/s for 1e12 operations, and 100 GB/s for 1e9 bytes."""
    peaks = {"float32": 200e12, "tf32": 400e12, "bf16": 800e12, "copy": 1e12}
    shares = {"blocked": 0.5, "tensor": 0.25, "tensor_bf16": 0.125, "PyTorch tf32": 0.25}
    for rung, share in shares.items():
        expected = {"ms": 10, "tflops": 100, "share": share, "gbytes": 100, "share_of_copy": 0.1}
        assert gpu_layers.rates(10, 1e12, 1e9, rung, peaks) == pytest.approx(expected)


def test_the_layers_and_their_rungs():
    all_rungs, pytorch = gpu.Options().rungs, tuple(gpu_layers.PYTORCHS)
    found = {case.name: tuple(case.rungs) for case in gpu_layers.cases(64, 572, all_rungs)}
    assert len(found) == 23
    assert all_rungs == (*conv2d_cuda.RUNGS, "winograd", "winograd_tensor")
    assert found["572: 1→64"] == ("naive", "tiled", "few_channels", *pytorch)
    assert found["388: 64→2"] == ("naive", "tiled", *pytorch)
    assert found["30: 1024→1024"] == (*all_rungs, *pytorch)
    ups = [name for name in found if name.startswith("up")]
    assert ups == ["up 28: 1024→512", "up 52: 512→256", "up 100: 256→128", "up 196: 128→64"]
    assert {found[name] for name in ups} == {(*conv_transpose2d_cuda.RUNGS, *pytorch)}


def test_the_work_of_an_up_convolution():
    """Each input pixel makes four, each by C·F multiplications and additions. Each array is moved once."""
    case = gpu_layers.up_convolution(5, 8)
    assert case.flop == 25 * 4 * 2 * 8 * 4
    assert case.bytes == 4 * (25 * 8 + 4 * 8 * 4 + 100 * 4)


@pytest.mark.parametrize(
    "case",
    [
        convolution(Layer(7, 4, 8), ("tiled",)),
        convolution(Layer(7, 4, 8), ("winograd",)),
        convolution(Layer(7, 4, 8), ("winograd_tensor",)),
        up_convolution(3, 8),
    ],
    ids=["3×3", "winograd", "winograd_tensor", "up"],
)
def test_ours_and_pytorchs_compute_the_same(emulated, monkeypatch, case):
    """In both layouts of PyTorch, and the first of its three precisions."""
    monkeypatch.setattr(gpu_clock, "DEVICE", "cpu")
    rungs = list(case.rungs)
    ((ours,), *others) = case.rungs[rungs[0]](), *case.rungs["PyTorch float32"]()
    for direction in DIRECTIONS:
        result = ours[direction]()
        for theirs in others:
            expected = theirs[direction]()
            expected = expected if direction == "forward" else expected[DIRECTIONS.index(direction) - 1]
            is_up = expected.shape[0] != 1 and case.name.startswith("up")
            order = (2, 3, 0, 1) if is_up else (2, 3, 1, 0) if expected.shape[0] != 1 else (0, 2, 3, 1)
            assert_close(result, expected.permute(order).numpy())


@pytest.fixture
def dynamo():
    """Import what PyTorch's optimiser imports late, which fails on a stand-in after the real CuPy."""
    import torch._dynamo  # noqa: F401


def test_the_whole_benchmark_without_its_times(dynamo, on_stand_in, events, monkeypatch, tmp_path, capsys):
    """Every group, on a narrow network: with a stand-in for CuPy, and PyTorch on the CPU."""
    monkeypatch.setattr(gpu_clock, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_clock, "WARM_UP", 1)
    monkeypatch.setattr(gpu, "peaks", lambda turns: gpu_clock.peaks(turns, size=16))
    for name, value in {
        "is_available": True,
        "get_device_name": "a GPU",
        "empty_cache": None,
        "reset_peak_memory_stats": None,
        "max_memory_allocated": 1,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    options = gpu.Options(
        base=1, tile=188, turns=1, rungs=("tiled",), compiled=False, out=tmp_path / "gpu.json"
    )
    gpu.main(options)
    results = json.loads(options.out.read_text())
    assert {len(results[group]) for group in ("layers", "memory", "networks")} == {23, 11, 3}
    for layer in results["layers"]:
        for rung in layer["rungs"].values():
            assert list(rung) == list(DIRECTIONS)
            assert all(figures["ms"] == 1 for figures in rung.values())
    for network in results["networks"]:
        assert network["tinyunet, CUDA graph"]["bytes"] > network["tinyunet"]["bytes"] / 2
    for picture in ("ladder", "roofline"):
        assert (tmp_path / f"gpu_{picture}.png").stat().st_size > 20_000
    assert "SGD with momentum" in capsys.readouterr().out
