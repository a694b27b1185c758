"""The model of a training step's time on a GPU, and what it is made of."""

import dataclasses
import math
from unittest import mock

import numpy as np
import pytest

from benchmarks import dry_run, gpu, gpu_model
from benchmarks.gpu_model import Cache, code_of, passes, predicted, resident, total
from benchmarks.layers import Layer
from tinyunet.ops import conv2d_cuda

H200 = gpu_model.MACHINES[0]


@pytest.fixture(scope="module")
def step():
    """A step at base 64 on a tile of 188 pixels, the smallest: with all kinds of layers."""
    return dry_run.launches(lambda: gpu.our_tasks(64, 188, None)["step"])


@pytest.mark.parametrize("rung", [*conv2d_cuda.TILES, *conv2d_cuda.WINOGRADS])
@pytest.mark.parametrize("direction", ["forward", "backward_weight"])
def test_the_code_multiplies_as_often_as_the_op_says(rung, direction):
    """With sizes that fill all blocks, and depths that fill all passes."""

    def make():
        x, y = dry_run.Array((1, 66, 66, 128), np.float32), dry_run.Array((1, 64, 64, 128), np.float32)
        if direction == "forward":
            weight = dry_run.Array((3, 3, 128, 128), np.float32)
            return lambda: conv2d_cuda.forward(x, weight, None, 0, False, rung)
        return lambda: conv2d_cuda.backward_weight(x, y, 0, 3, rung)

    (product,) = [each for each in dry_run.launches(make) if gpu_model.depth(each) is not None]
    loop = code_of(product.stem, "sm_90")[product.kernel].loop
    in_a_warp = passes(product, loop) * sum(loop.multiplications.values())
    times = 3 if rung == conv2d_cuda.WINOGRAD_TENSOR else 1  # products of halves
    assert 2 * in_a_warp * product.blocks * product.threads // 32 == times * product.flops


@pytest.mark.parametrize("rounded", [False, True])
def test_the_code_between_two_convolutions_multiplies_as_often(rounded):
    """The ReLU counts once for each number, and multiplies none."""

    def make():
        x, y = dry_run.Array((1, 66, 64, 128), np.uint16), dry_run.Array((1, 64, 62, 128), np.float32)
        weight = dry_run.Array((3, 3, 128, 128), np.float32)
        return lambda: conv2d_cuda.backward_input_and_relu(y, weight, 0, x, rounded)

    (product,) = [each for each in dry_run.launches(make) if gpu_model.depth(each) is not None]
    loop = code_of(product.stem, "sm_90")[product.kernel].loop
    in_a_warp = passes(product, loop) * sum(loop.multiplications.values())
    products = product.flops - 66 * 64 * 128
    assert 2 * in_a_warp * product.blocks * product.threads // 32 == products


@pytest.mark.parametrize("rung", [*conv2d_cuda.TILES])
def test_the_layers_of_the_ladder(rung):
    """Their rate counts the operations of the direct algorithm, which the launches of these rungs are."""
    layer = Layer(30, 64, 64)
    found = gpu_model.launches_of(layer, rung)
    assert sum(each.flops for each in found if gpu_model.depth(each)) == layer.flop


@pytest.mark.parametrize(("precision", "goal"), [("float32", 9e-3), ("bf16", 5e-3)])
def test_the_training_step_meets_its_goal(precision, goal):
    """On an H200 at base 64, by the rungs that are chosen there, at best."""
    assert total(predicted(H200, gpu_model.recorded(64, "step", precision, H200.architecture))) < goal


@pytest.mark.parametrize("machine", gpu_model.MACHINES, ids=lambda machine: machine.name)
def test_the_engine_chooses_the_faster_of_winograds_rungs(machine):
    """For a layer in the middle of the U-Net at base 64, forward and backward, by the model."""

    def make():
        x, y = (dry_run.Array((1, side, side, 256), np.float32) for side in (138, 136))
        weight = dry_run.Array((3, 3, 256, 256), np.float32)

        def layer():
            conv2d_cuda.forward(x, weight, None, 0, False)
            conv2d_cuda.backward_input(y, weight, 0)
            conv2d_cuda.backward_weight(x, y, 0, 3)

        return layer

    def took(task):
        return total(predicted(machine, task))

    chosen = dry_run.launches(make, architecture=machine.architecture)
    by_rung = {}
    for rung in conv2d_cuda.WINOGRADS:
        with gpu_model.winograd_by(rung):
            by_rung[rung] = dry_run.launches(make, architecture=machine.architecture)
    fastest = min(by_rung.values(), key=took)
    assert took(chosen) == took(fastest) < took(max(by_rung.values(), key=took))
    assert [each.kernel for each in chosen] == [each.kernel for each in fastest]


@pytest.mark.parametrize("filters", [64, 128, 256])
def test_the_engine_chooses_warpgroups_where_they_are_faster(filters):
    """On GPUs of compute capability 9.0: for 64 filters half of their products would be idle."""

    def make():
        x, y = (dry_run.Array((1, 138, 138, size), np.uint16) for size in (256, filters))
        weight = dry_run.Array((3, 3, 256, filters), np.uint16)

        def layer():
            conv2d_cuda.forward(x, weight, None, 1, False)
            conv2d_cuda.backward_weight(x, y, 1, 3)

        return layer

    found = dry_run.launches(make, "bf16", H200.architecture)
    products = {each.kernel for each in found if gpu_model.depth(each)}
    rung = "wgmma" if filters >= conv2d_cuda.MIN_FOR_WGMMA else "tensor_copies"
    assert products == {f"conv2d_forward_{rung}", f"conv2d_backward_weight_{rung}"}
    with mock.patch.object(conv2d_cuda, "MIN_FOR_WGMMA", math.inf):
        without = dry_run.launches(make, "bf16", H200.architecture)
    assert total(predicted(H200, found)) <= total(predicted(H200, without))
    for architecture in ("sm_80", "sm_89", "sm_120"):
        kernels = [each.kernel for each in dry_run.launches(make, "bf16", architecture)]
        assert not any("wgmma" in kernel for kernel in kernels)


@pytest.mark.parametrize("faster", ["memory_speed", "cache_speed", "clock", "cache"])
def test_a_better_machine_is_never_slower(step, faster):
    better = dataclasses.replace(H200, **{faster: 2 * getattr(H200, faster)})
    pairs = [*zip(predicted(H200, step), predicted(better, step), strict=True)]
    assert all(after.seconds <= before.seconds for before, after in pairs)
    assert any(after.seconds < before.seconds for before, after in pairs)


def test_a_step_takes_the_sum_of_its_launches(step):
    found = predicted(H200, step)
    assert [each.launch for each in found] == step
    by_kernel = gpu_model.by_kernel(found)
    assert total(found) == pytest.approx(sum(total(each) for each in by_kernel.values()))
    assert total(found) > gpu_model.OVERHEAD * len(step)


def test_what_a_copy_takes():
    """Arrays larger than L2 move through DRAM, read and written; others stay in L2 after a first turn."""
    for size, limit in (10**9, "DRAM"), (2 * 10**7, "L2"):
        copy = dry_run.Launch("cupy_copy", "", 1, 1, read=((0, size),), written=((1, size),))
        (found,) = predicted(H200, [copy])
        speed = H200.memory_speed if limit == "DRAM" else H200.cache_speed
        assert found.times[limit] == pytest.approx(2 * size / speed)
        assert found.limit == limit


def test_the_cache_keeps_what_was_used_last():
    kept = Cache(10)
    assert kept.missed([(0, 4), (1, 4), (0, 4), (2, 4)]) == 12
    assert kept.missed([(0, 4), (1, 4)]) == 4
    assert kept.missed([(3, 11), (3, 11)]) == 22


@pytest.mark.parametrize(
    ("registers", "shared", "threads", "blocks"),
    [
        (128, 0, 128, 4),
        (129, 0, 128, 3),
        (32, 0, 256, 8),
        (16, 0, 64, 32),
        (16, 100 * 1024, 64, 2),
        (255, 0, 1024, 0),  # more than there are: no such kernel can be launched
    ],
)
def test_blocks_that_a_multiprocessor_holds(registers, shared, threads, blocks):
    """65,536 registers, 2,048 threads, 228 KiB of shared memory, of which each block takes one more."""
    code = gpu_model.Code(registers, shared, None, None)
    assert resident(H200, code, threads) == blocks


def test_ratios_are_of_the_code_that_was_measured(monkeypatch, step):
    """Without kernels that were rewritten since, or whose launches are more or fewer."""
    found = gpu_model.by_kernel(predicted(H200, step))
    took = {name: gpu_model.Measured(len(each), 2 * total(each)) for name, each in found.items()}
    took["relu_backward"] = dataclasses.replace(took["relu_backward"], launches=1)
    monkeypatch.setattr(gpu_model, "measured", lambda precision: took)
    monkeypatch.setattr(gpu_model, "recorded_as_measured", lambda precision: step)
    monkeypatch.setattr(gpu_model, "REWRITTEN", {"sgd_step"})
    known = gpu_model.ratios.__wrapped__("float32")
    assert set(known) == {*found, ""} - {"relu_backward", "sgd_step"}
    assert known == pytest.approx(dict.fromkeys(known, 2))
