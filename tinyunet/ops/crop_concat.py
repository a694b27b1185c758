"""The skip connection: the up-sampled channels, and then the centre of the contracting path's map.

    y[n,i,j] = [upsampled[n,i,j], skip[n,i+top,j+left]],   top = (H_skip - H) // 2, left = (W_skip - W) // 2

    grad_upsampled = the first channels of grad_y
    grad_skip      = the other channels in the centre, 0 around them

Valid convolutions lose pixels at the border, so the skip is larger than what has come back up: it is cropped.

Tutorial: `tutorials/09_unet.py`.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinyunet.autograd import Function, Tensor
from tinyunet.backend import Dispatch, allocator, cuda
from tinyunet.backend.jit import parallel_kernel
from tinyunet.errors import ShapeError, describe
from tinyunet.ops.checks import AXES, require_axes, require_one_dtype

# NumPy: the reference


def forward_numpy(upsampled, skip):
    top, left = corner(upsampled.shape, skip.shape)
    _, height, width, _ = upsampled.shape
    return np.concatenate([upsampled, skip[:, top : top + height, left : left + width]], axis=3)


def backward_numpy(grad_output, upsampled_shape, skip_shape):
    top, left = corner(upsampled_shape, skip_shape)
    _, height, width, channels = upsampled_shape
    grad_skip = np.zeros(skip_shape, grad_output.dtype)
    grad_skip[:, top : top + height, left : left + width] = grad_output[..., channels:]
    return grad_output[..., :channels].copy(), grad_skip


def corner(small, large):
    """The row and column of the large map at which the centre crop begins."""
    return (large[1] - small[1]) // 2, (large[2] - small[2]) // 2


# The op: its checks, and its place in the graph


def crop_concat(upsampled: Tensor, skip: Tensor) -> Tensor:
    """Concatenate along the channels: `upsampled`, then the centre of `skip`.

    Where the sizes differ by an odd number, the crop lies half a pixel up and left of the centre.

    Parameters
    ----------
    upsampled : Tensor, shape (N, H, W, C1)
    skip : Tensor, shape (N, H', W', C2), H' >= H, W' >= W, dtype of upsampled

    Returns
    -------
    Tensor, shape (N, H, W, C1 + C2)

    Raises
    ------
    ShapeError
        The skip is smaller, or the batch sizes differ.
    DtypeError
        The dtypes differ.

    References
    ----------
    .. [1] Ronneberger et al. 2015, section 2 and figure 1.
    """
    require_fit(upsampled, skip)
    return CropConcat.apply(upsampled, skip)


def require_fit(upsampled: Tensor, skip: Tensor) -> None:
    """Raise a ShapeError or a DtypeError unless the two can be concatenated."""
    require_axes("crop_concat", upsampled=upsampled, skip=skip)
    require_one_dtype("crop_concat", upsampled=upsampled, skip=skip)
    details = {"upsampled": describe(upsampled, AXES["x"]), "skip": describe(skip, AXES["x"])}
    if skip.shape[0] != upsampled.shape[0]:
        raise ShapeError("crop_concat: the batch sizes differ", details, "make shape[0] the same in both")
    if skip.shape[1] < upsampled.shape[1] or skip.shape[2] < upsampled.shape[2]:
        raise ShapeError(
            "crop_concat: skip is smaller than upsampled",
            details,
            "give the arguments in the order (upsampled, skip)",
        )


class CropConcat(Function):
    """The op in the graph. Only shapes need saving."""

    name = "crop_concat"
    returns_new = True

    def forward(self, upsampled, skip):
        self.save(upsampled.shape, skip.shape)
        return forward(upsampled, skip)

    def backward(self, grad_output):
        return backward(grad_output, *self.saved)


# Numba


def forward_numba(upsampled, skip):
    n, height, width, channels = upsampled.shape
    y = allocator.empty((n, height, width, channels + skip.shape[3]), upsampled.dtype)
    _forward(upsampled, skip, *corner(upsampled.shape, skip.shape), y)
    return y


@parallel_kernel
def _forward(upsampled, skip, top, left, y):
    batch, height, width, channels = upsampled.shape
    for row in prange(batch * height):
        n, i = row // height, row % height
        for j in range(width):
            for c in range(channels):
                y[n, i, j, c] = upsampled[n, i, j, c]
            for c in range(skip.shape[3]):
                y[n, i, j, channels + c] = skip[n, i + top, j + left, c]


def backward_numba(grad_output, upsampled_shape, skip_shape):
    grad_upsampled = allocator.empty(upsampled_shape, grad_output.dtype)
    grad_skip = allocator.empty(skip_shape, grad_output.dtype)
    _backward(grad_output, *corner(upsampled_shape, skip_shape), grad_upsampled, grad_skip)
    return grad_upsampled, grad_skip


@parallel_kernel
def _backward(grad_output, top, left, grad_upsampled, grad_skip):
    _, height, width, channels = grad_upsampled.shape
    batch, skip_height, _, _ = grad_skip.shape
    for row in prange(batch * skip_height):
        n, i = row // skip_height, row % skip_height - top
        line = grad_skip[n, i + top]
        if not 0 <= i < height:
            line[:] = 0
            continue
        line[:left] = 0
        line[left + width :] = 0
        for j in range(width):
            for c in range(channels):
                grad_upsampled[n, i, j, c] = grad_output[n, i, j, c]
            for c in range(line.shape[1]):
                line[j + left, c] = grad_output[n, i, j, channels + c]


# CUDA: kernels/crop_concat.cu


def forward_cuda(upsampled, skip):
    n, height, width, channels = upsampled.shape
    y = cuda.empty((n, height, width, channels + skip.shape[3]))
    _launch("forward", y.size, (upsampled, skip, y), upsampled.shape, skip.shape)
    return y


def backward_cuda(grad_output, upsampled_shape, skip_shape):
    grad_upsampled, grad_skip = cuda.empty(upsampled_shape), cuda.empty(skip_shape)
    arrays, count = (grad_output, grad_upsampled, grad_skip), grad_skip.size + grad_upsampled.size
    _launch("backward", count, arrays, upsampled_shape, skip_shape, grad_skip.size)
    return grad_upsampled, grad_skip


def _launch(direction, count, arrays, upsampled_shape, skip_shape, *counts):
    """Run a kernel, the one that moves four channels at once where it can."""
    at_once = 1 if upsampled_shape[3] % 4 or skip_shape[3] % 4 else 4
    sizes = [(*shape[1:3], shape[3] // at_once) for shape in (upsampled_shape, skip_shape)]
    cuda.launch_elementwise(
        "crop_concat",
        direction if at_once == 1 else f"{direction}_by_four",
        count // at_once,
        *(*arrays, *sizes[0], *sizes[1], *(each // at_once for each in counts)),
    )


forward = Dispatch("crop_concat", "forward", numpy=forward_numpy, numba=forward_numba, cuda=forward_cuda)
backward = Dispatch("crop_concat", "backward", numpy=backward_numpy, numba=backward_numba, cuda=backward_cuda)
