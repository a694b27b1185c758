"""The stand-in for CuPy that records launches and computes nothing."""

import numpy as np
from oracle import random_arrays

import tinyunet as tu
from benchmarks import dry_run, gpu
from tinyunet.backend import to_backend
from tinyunet.backend.cuda import KERNEL_FOLDER
from tinyunet.backend.cuda_log import launch_log


def test_it_launches_what_the_emulator_does(emulated):
    """Kernels, how often, and their operations; the emulator's sums and zeros are NumPy's."""

    def make():
        model = tu.UNet(base_channels=4, depth=1)
        (image,) = random_arrays([(1, 28, 28, 1)], np.float32)
        target, weight = np.zeros((1, 12, 12), np.int32), np.ones((1, 12, 12), np.float32)
        arrays = [to_backend(array) for array in (image, target, weight)]
        optimiser = tu.SGD(model.parameters(), lr=0.01)

        def step():
            model.loss(tu.Tensor(arrays[0]), *arrays[1:]).backward()
            optimiser.step()

        return step

    run = make()
    with launch_log() as log:
        run()
    dry = [each for each in dry_run.launches(make) if each.stem]
    names = [each.kernel for each in dry]
    assert {name: each.launches for name, each in log.totals.items()} == {n: names.count(n) for n in names}
    assert sum(each.flops for each in log.totals.values()) == sum(each.flops for each in dry)


def test_the_multiplications_of_a_forward_pass():
    """Those of its convolutions, twice: a multiplication and an addition."""
    task = dry_run.launches(lambda: gpu.our_tasks(64, 572, None)["prediction"], "tf32")
    flops = sum(each.flops for each in task if each.kernel.startswith("conv2d_forward"))
    assert flops == 2 * tu.UNet(base_channels=64).multiplications(572, 572)


def test_which_arrays_a_kernel_writes():
    """The products of Winograd's algorithm are written by one kernel of the file, and read by another."""
    source = KERNEL_FOLDER / "conv2d_winograd.cu"
    assert dry_run.constant_arrays(source, "conv2d_winograd_multiply") == {"v", "u"}
    assert dry_run.constant_arrays(source, "conv2d_winograd_outputs") == {"m", "bias"}


def test_the_reached_arrays_of_an_optimiser():
    """It reads weights, gradients and velocities, and writes all but the gradients."""
    step = dry_run.launches(lambda: gpu.our_tasks(4, 188, None)["step"])
    (sgd,) = (each for each in step if each.kernel == "sgd_step")
    parameters = list(tu.UNet(base_channels=4).parameters())
    size = sum(parameter.data.nbytes for parameter in parameters)
    read = sum(each for _, each in sgd.read)
    table_and_rate = 8 * 5 * len(parameters) + 4
    assert (read - table_and_rate, sum(each for _, each in sgd.written)) == (3 * size, 2 * size)
