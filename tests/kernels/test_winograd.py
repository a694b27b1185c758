"""The transforms of kernels/conv2d_winograd.cu, held against the matrices that Python derives."""

import numpy as np
import pytest
from oracle import random_arrays

from tinyunet.backend import cuda, to_backend, to_host
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
