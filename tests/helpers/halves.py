"""The products of kernels/conv2d_winograd_tensor.cu in NumPy: three products of halves for each product."""

import numpy as np
from ptx.tensor_cores import multiply_add, tensor_core

STAGE = 16  # the depth that tensor cores add up, before an addition that rounds
# A step multiplies eight numbers: of the four that each lane reads at once, the first two or the last two. An
# instruction begins with one of each lane.
STEPS = [[4 * lane + 2 * step + e for e in range(2) for lane in range(4)] for step in range(2)]


def halves(values):
    """Split into two numbers of TF32: the first rounded, of the second what tensor cores ignore cut off."""
    high = ((values.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    low = ((values - high).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    return high.astype(float), low.astype(float)


def by_halves(v, u, architecture, stage=STAGE):
    """Multiply as the kernel does on tensor cores of this generation.

    Parameters
    ----------
    v, u : array of float32, shapes (..., rows, depth) and (..., depth, columns)
        The depth is a multiple of 16.
    architecture : int
        80 for compute capability 8.0.
    stage : int
        The depth that stays in the tensor cores, a multiple of 16.

    Returns
    -------
    array of float32, shape (..., rows, columns)
    """
    fraction_bits, width = tensor_core(architecture)
    (v_high, v_low), (u_high, u_low) = halves(v), halves(u)
    total = np.zeros((*v.shape[:-1], u.shape[-1]), np.float32)
    for first in range(0, v.shape[-1], stage):
        last = min(first + stage, v.shape[-1])
        steps = [begin + np.array(step) for begin in range(first, last, STAGE) for step in STEPS]
        small = [pair for step in steps for pair in ((v_low, u_high, step), (v_high, u_low, step))]
        sums = np.zeros_like(total)
        for left, right, step in [*small, *((v_high, u_high, step) for step in steps)]:
            sums = multiply_add(left[..., step], right[..., step, :], sums, fraction_bits, width // 4)
        total += sums
    return total


def by_fma(v, u):
    """Multiply with one chain of float32 FMAs for each result; float64 holds their exact products."""
    total = np.zeros((*v.shape[:-1], u.shape[-1]), np.float32)
    for k in range(v.shape[-1]):
        total = (total + v[..., k, None].astype(float) * u[..., k, None, :]).astype(np.float32)
    return total
