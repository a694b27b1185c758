"""What of `benchmarks/gpu.py` can be run without a GPU: all but the times."""

import json
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracle import assert_close, random_arrays

from benchmarks import gpu
from benchmarks.layers import Layer, layers
from tinyunet.cuda_log import launch_log
from tinyunet.errors import BackendError
from tinyunet.ops.conv2d import forward_numpy


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match=r"needs a GPU and a PyTorch that was built for CUDA\n +torch +2"):
        gpu.main(gpu.Options())


class Event(SimpleNamespace):
    """Each is recorded a millisecond later than the one before."""

    now = count()

    def record(self):
        self.at = next(self.now)

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return end.at - self.at


def test_tasks_take_turns_and_the_first_ones_do_not_count():
    done = []
    tasks = {name: lambda name=name: done.append(name) for name in "ab"}
    assert gpu.milliseconds(tasks, Event, turns=4) == {"a": 1, "b": 1}
    assert done == ["a", "b"] * (gpu.WARM_UP + 4)


def test_rates():
    """10 ms for 1e12 operations are 100 TFLOP/s."""
    peaks = {"float32": 200e12, "tf32": 400e12, "bf16": 800e12}
    for rung, share in (("blocked", 0.5), ("tensor", 0.25), ("tensor_bf16", 0.125)):
        assert gpu.with_rates(10, 1e12, rung, peaks) == {"ms": 10, "tflops": 100, "share": share}


def test_the_rungs_of_each_layer():
    all_rungs = gpu.Options().rungs
    chosen = [gpu.rungs_for(layer, all_rungs) for layer in layers(64, 572)]
    assert chosen == [["naive", "tiled"], *[list(all_rungs)] * 17, ["naive", "tiled"]]


def test_the_tasks_compute_a_convolution(emulated):
    x, weight, grad = random_arrays([(1, 6, 7, 4), (3, 3, 4, 8), (1, 4, 5, 8)], np.float32)
    results = {name: task() for name, task in gpu.tasks_of("blocked", 3, x, weight, grad).items()}
    assert_close(results["forward"], forward_numpy(x, weight, None, 0, True))
    assert results["input gradient"].shape == x.shape
    assert results["weight gradient"].shape == weight.shape


def test_our_step_runs_on_the_stand_in(on_stand_in, monkeypatch):
    (image,) = random_arrays([(1, 188, 188, 1)], np.float32)
    small = image, np.zeros((1, 4, 4), int), np.ones((1, 4, 4), np.float32)
    monkeypatch.setattr(gpu, "random_tile", lambda: small)
    tasks = gpu.our_tasks(base=1)
    tasks["step"]()
    tasks["captured step"]()
    with launch_log() as log:
        tasks["captured step"]()
    assert log.totals["sgd_momentum_step"].launches == 1
    tasks["prediction"]()


def test_the_picture(tmp_path):
    rungs = {"blocked": {"forward": {"tflops": 3.0}}, "naive": {"forward": {"tflops": 0.2}}}
    layer = {"size": 572, "channels": 64, "filters": 64, "rungs": rungs}
    results = {"gpu": "a GPU", "date": "2026-01-01", "layers": [layer, layer]}
    gpu.draw_ladder(json.loads(json.dumps(results)), tmp_path / "ladder.png")
    assert (tmp_path / "ladder.png").stat().st_size > 5000
    assert Layer(572, 64, 64).flop == 2 * 9 * 64 * 64 * 570**2
