"""The transforms of kernels/conv2d_winograd.cu, held against the matrices that Python derives."""

import numpy as np
import pytest
from oracle import assert_equals_torch, random_arrays

from tinyunet.backend import cuda, to_backend, to_host
from tinyunet.backend.cuda_log import launch_log
from tinyunet.ops import conv2d_winograd_cuda
from tinyunet.ops.conv2d_winograd_cuda import FREQUENCIES
from tinyunet.ops.conv2d_winograd_transforms import matrices

A_T, G, B_T = (np.array(matrix, np.float64) for matrix in matrices())
ZERO_BIAS = np.zeros(1, np.float32)

# For one tile in one channel: the shape transformed, the matrix on its left and right, and the kernel's
# scalars (sizes of the map, padding or ReLU, tiles down and across).
TRANSFORMS = {
    "inputs": ((6, 6), B_T, (6, 6, 1, 0, 1, 1)),
    "weights": ((3, 3), G, ()),
    "outputs": ((6, 6), A_T, (4, 4, 1, 0, 1, 1)),
    "output_grads": ((4, 4), A_T.T, (4, 4, 1, 1, 1)),
    "weight_grad": ((6, 6), G.T, (1,)),
}


@pytest.mark.parametrize("direction", TRANSFORMS)
def test_transforms_are_those_of_python(emulated_or_gpu, direction):
    """The points and denominators stand in both languages."""
    shape, matrix, scalars = TRANSFORMS[direction]
    (values,) = random_arrays([shape], np.float32)
    transformed = cuda.empty((len(matrix), len(matrix)))
    between = [to_backend(ZERO_BIAS)] if direction == "outputs" else []
    arrays = (to_backend(values), *between, transformed)
    cuda.launch_elementwise("conv2d", f"winograd_{direction}", 1, *arrays, *scalars)
    assert B_T.size == FREQUENCIES
    np.testing.assert_allclose(to_host(transformed), matrix @ values @ matrix.T, rtol=0, atol=1e-5)


def test_arrays_too_large_to_index(emulated, monkeypatch):
    """Winograd's are 36/16 times as large as the maps: where only they are too large, another rung runs."""
    arrays = random_arrays([(1, 18, 18, 32), (3, 3, 32, 32), (32,)], np.float32)
    monkeypatch.setattr(cuda, "INDEX_LIMIT", arrays[0].size)
    with launch_log() as log:
        assert_equals_torch("conv2d", arrays)
    assert not [name for name in log.totals if "winograd" in name]


@pytest.mark.parametrize(
    ("shape", "channels", "forward", "backward"),
    [
        ((1, 2900, 2900, 64), 64, True, True),
        ((1, 2900, 2900, 64), 128, False, False),
        ((1, 4000, 4000, 32), 32, True, False),  # more blocks along z than a GPU takes
        ((1, 800, 800, 1024), 1024, True, False),  # parts of the weight gradient
    ],
)
def test_sizes_that_fit(shape, channels, forward, backward):
    sizes = (shape, channels, shape[3])
    assert conv2d_winograd_cuda.forward_fits(*sizes) == forward
    assert conv2d_winograd_cuda.backward_weight_fits(*sizes) == backward
