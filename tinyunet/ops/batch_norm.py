"""Batch normalisation: each channel of the maps gets a mean and a variance that are learned.

    mean[c]     = 1/M · sum over n,i,j of x[n,i,j,c]                        M = N · H · W pixels
    variance[c] = 1/M · sum over n,i,j of (x[n,i,j,c] - mean[c])²
    normal      = (x - mean) / sqrt(variance + EPSILON)
    y           = scale · normal + shift                                    or max(y, 0)

    grad_shift[c] = sum over n,i,j of g             g = grad_y; with the ReLU: where y > 0, else 0
    grad_scale[c] = sum over n,i,j of g · normal
    grad_x        = scale / sqrt(variance + EPSILON) · (g - grad_shift / M - normal · grad_scale / M)

The last two terms of grad_x are there because every pixel of a channel takes part in its mean and variance:
grad_x is orthogonal to a constant and to x itself.

Backward keeps x, which is what the convolution before it has written, and two numbers per channel. y and
normal follow from them, which takes fewer accesses to memory than to store and to load them.

With a mean and a variance that are fixed, y is an affine map of x, which the convolution before it can make:

    factor = scale / sqrt(variance + EPSILON)
    weight[p,q,c,f] · factor[f], and bias[f] = shift[f] - mean[f] · factor[f]         (`folded`)

whose gradients are, with g_weight and g_bias those of the two,

    grad_weight = g_weight · factor                         grad_shift = g_bias
    grad_scale  = (sum over p,q,c of g_weight · weight - mean · g_bias) / sqrt(variance + EPSILON)

A variance is a small difference of large numbers if it is computed as the mean square less the squared mean.
So the maps are cut into blocks that stay in a cache. Each is read twice: for its mean, which is rounded, then
for the sums of d and of d², where d is the distance from that. The blocks' numbers are added in float64, in
order (Chan, Golub, LeVeque 1983).

Tutorial: `tutorials/16_batch_norm.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange

from tinyunet.autograd import Function, Tensor
from tinyunet.backend import Dispatch, allocator, cuda
from tinyunet.backend.dispatch import array_library
from tinyunet.backend.jit import inlined_kernel, parallel_kernel
from tinyunet.errors import ShapeError, describe
from tinyunet.ops.checks import AXES, require_axes, require_one_dtype

EPSILON = 1e-5  # added to the variance, as by PyTorch: a channel without any variance stays finite

# NumPy: the reference. Whether the gradient may be written over is for Numba.


def forward_numpy(x, scale, shift, relu):
    mean = x.mean(axis=(0, 1, 2), dtype=np.float64).astype(x.dtype)
    variance = x.var(axis=(0, 1, 2), dtype=np.float64).astype(x.dtype)
    y = (x - mean) * (scale / np.sqrt(variance + EPSILON)) + shift
    return np.maximum(y, 0) if relu else y, mean, variance


def backward_numpy(grad_output, x, scale, shift, mean, variance, relu, in_place=False):
    deviation = np.sqrt(variance + EPSILON)
    if relu:
        y = (x - mean) * (scale / deviation) + shift
        grad_output = np.where(y > 0, grad_output, 0)
    normal = (x - mean) / deviation
    grad_shift = grad_output.sum(axis=(0, 1, 2), dtype=np.float64).astype(x.dtype)
    grad_scale = (grad_output * normal).sum(axis=(0, 1, 2), dtype=np.float64).astype(x.dtype)
    pixels = x[..., 0].size
    grad_x = scale / deviation * (grad_output - grad_shift / pixels - normal * (grad_scale / pixels))
    return grad_x, grad_scale, grad_shift


def fold_numpy(weight, scale, shift, mean, variance):
    factor = scale / np.sqrt(variance + EPSILON)
    return weight * factor, shift - mean * factor


def fold_backward_numpy(grad_output, weight, scale, variance):
    deviation = np.sqrt(variance + EPSILON)
    dot = (grad_output * weight).sum(axis=(0, 1, 2), dtype=np.float64)
    return grad_output * (scale / deviation), (dot / deviation).astype(scale.dtype)


# The op: its checks, and its place in the graph


def batch_norm(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    *,
    relu: bool = False,
    on_statistics: Callable[[Any, Any], None] | None = None,
) -> Tensor:
    """Normalise each channel by its mean and variance over all pixels of x, then scale and shift it.

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C), float32 or float64
    scale, shift : Tensor, shape (C,), dtype of x
        The standard deviation and the mean of the output's channels.
    relu : bool
        Whether to return max(y, 0), computed in the same pass.
    on_statistics : callable, optional
        Called with the mean and the variance of x, arrays (C,) of the active backend. They are those of this
        x alone; for prediction, average them over many training tiles.

    Returns
    -------
    Tensor, shape and dtype of x. Where x is a single pixel, or a channel has the same value everywhere, y is
    the shift.

    Raises
    ------
    ShapeError
        Wrong number of axes, x without any pixel, or scale and shift of another length than C.
    DtypeError
        The dtypes differ.

    References
    ----------
    .. [1] Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
       Covariate Shift", ICML 2015, algorithm 1.
    """
    require_axes("batch_norm", x=x, scale=scale, shift=shift)
    require_one_dtype("batch_norm", x=x, scale=scale, shift=shift)
    for name, tensor in (("scale", scale), ("shift", shift)):
        if tensor.shape != x.shape[3:]:
            raise ShapeError(
                f"batch_norm: {name} must have one value for each of the {x.shape[3]} channels of x",
                {"x": describe(x, AXES["x"]), name: describe(tensor, AXES[name])},
                f"make {name}.shape equal x.shape[3:]",
            )
    if 0 in x.shape[:3]:
        raise ShapeError(
            "batch_norm: x has no pixel, so that its channels have neither mean nor variance",
            {"x": describe(x, AXES["x"])},
            "give at least one pixel",
        )
    return BatchNorm.apply(x, scale, shift, relu=relu, on_statistics=on_statistics)


class BatchNorm(Function):
    """The op in the graph. The output need not be kept: see above."""

    name = "batch_norm"
    returns_new = True

    def forward(self, x, scale, shift, *, relu, on_statistics):
        y, mean, variance = forward(x, scale, shift, relu)
        self.save(x, scale, shift, mean, variance, relu)
        if on_statistics:
            on_statistics(mean, variance)
        return y

    def backward(self, grad_output):
        return backward(grad_output, *self.saved, self.may_overwrite)


# Fixed statistics: folded into a convolution


def folded(weight: Tensor, scale: Tensor, shift: Tensor, mean: Any, variance: Any) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that is one by `weight` and a normalisation after it.

    Parameters
    ----------
    weight : Tensor, shape (K, K, C, F)
    scale, shift : Tensor, shape (F,)
        The standard deviation and the mean of the output's channels.
    mean, variance : array, shape (F,)
        The fixed statistics of the convolution's output. They have no gradient.
    """
    arrays = fold(weight.data, scale.data, shift.data, mean, variance)
    return (
        FoldedWeight.apply(weight, scale, folded=arrays[0], variance=variance),
        FoldedBias.apply(scale, shift, folded=arrays[1], mean=mean, variance=variance),
    )


class FoldedWeight(Function):
    """The weight of `folded` in the graph."""

    name = "folded_weight"
    returns_new = True

    def forward(self, weight, scale, *, folded, variance):
        self.save(weight, scale, variance)
        return folded

    def backward(self, grad_output):
        return fold_backward(grad_output, *self.saved)


class FoldedBias(Function):
    """The bias of `folded` in the graph."""

    name = "folded_bias"

    def forward(self, scale, shift, *, folded, mean, variance):
        self.save(mean, variance)
        return folded

    def backward(self, grad_output):
        mean, variance = self.saved
        # -mean · g / sqrt(variance + EPSILON): the bias with the gradient in the scale's place, and no shift.
        none = array_library().zeros_like(grad_output)
        return fold(grad_output.reshape(1, 1, 1, -1), grad_output, none, mean, variance)[1], grad_output


# Numba: x as one line of numbers, and beside it vectors that repeat the channels' numbers, so that the inner
# loops are long for any number of channels.

BLOCK = 8192  # numbers, 32 kB in float32: in a cache when they are read again
LANES = 512  # about the length of the inner loops


def forward_numba(x, scale, shift, relu):
    lanes, length = _lanes_and_block(x)
    mean, variance = _statistics_numba(x, lanes, length)
    factor = scale / np.sqrt(variance + x.dtype.type(EPSILON))
    y = allocator.empty_like(x)
    _forward(x.reshape(-1), length, *_repeated(lanes, mean, factor, shift), relu, y.reshape(-1))
    return y, mean, variance


def backward_numba(grad_output, x, scale, shift, mean, variance, relu, in_place=False):
    grad = grad_output if in_place else allocator.copy(grad_output)
    lanes, length = _lanes_and_block(x)
    line, grad_line = x.reshape(-1), grad.reshape(-1)
    above_0 = variance + x.dtype.type(EPSILON)
    factor = scale / np.sqrt(above_0)
    repeated = _repeated(lanes, mean, factor, shift)
    sums, dots = (np.empty((-(-x.size // length), x.shape[3])) for _ in range(2))
    _backward_sums(grad_line, line, length, *repeated, relu, sums, dots)
    grad_shift, dot = sums.sum(axis=0), dots.sum(axis=0)  # dot: with x - mean
    pixels = x.size // x.shape[3]
    slopes = (numbers.astype(x.dtype) for numbers in (grad_shift / pixels, dot / pixels / above_0))
    _backward(grad_line, line, length, *repeated, *_repeated(lanes, *slopes), relu)
    return grad, (dot / np.sqrt(above_0)).astype(x.dtype), grad_shift.astype(x.dtype)


def _lanes_and_block(x):
    """The lengths of the inner loops, a multiple of the channels, and of a block, a multiple of that.

    They depend on the shape alone, and so does the order of all sums.
    """
    channels = x.shape[3]
    lanes = max(1, LANES // channels) * channels
    return lanes, max(1, BLOCK // lanes) * lanes


def _repeated(lanes, *of_channels):
    return [np.tile(numbers, lanes // len(numbers)) for numbers in of_channels]


def _statistics_numba(x, lanes, length):
    channels = x.shape[3]
    means, squares = (np.empty((-(-x.size // length), channels)) for _ in range(2))
    _statistics(x.reshape(-1), lanes, length, means, squares)
    pixels = np.full((len(means), 1), length // channels)
    pixels[-1] = (x.size - (len(means) - 1) * length) // channels
    mean = (pixels * means).sum(axis=0) / pixels.sum()
    square = (squares + pixels * (means - mean) ** 2).sum(axis=0)
    return mean.astype(x.dtype), (np.maximum(square, 0) / pixels.sum()).astype(x.dtype)


@inlined_kernel
def _total(values, first, step):
    """Sum every step-th value, in order."""
    total = values[first]
    for e in range(first + step, values.size, step):
        total += values[e]
    return total


@parallel_kernel
def _statistics(x, lanes, length, means, squares):
    """For each block and channel: the mean, and the sum of squares of the distances from it."""
    blocks, channels = means.shape
    for block in prange(blocks):
        line = x[block * length : (block + 1) * length]
        pixels = line.size // channels
        sums, centre, distances, products = np.zeros((4, lanes), x.dtype)
        for first in range(0, line.size, lanes):
            piece = line[first : first + lanes]
            for e in range(piece.size):
                sums[e] += piece[e]
        for c in range(channels):
            centre[c::channels] = _total(sums, c, channels) / pixels
        for first in range(0, line.size, lanes):
            piece = line[first : first + lanes]
            for e in range(piece.size):
                distance = piece[e] - centre[e]
                distances[e] += distance
                products[e] += distance * distance
        for c in range(channels):
            # The centre is rounded: what is left of the mean distance is added to it.
            left = np.float64(_total(distances, c, channels))
            means[block, c] = centre[c] + left / pixels
            squares[block, c] = _total(products, c, channels) - left * left / pixels


@parallel_kernel
def _forward(x, length, mean, factor, shift, relu, y):
    lanes = mean.size
    for block in prange(-(-x.size // length)):
        for first in range(block * length, min((block + 1) * length, x.size), lanes):
            piece, out = x[first : first + lanes], y[first : first + lanes]
            for e in range(piece.size):
                value = (piece[e] - mean[e]) * factor[e] + shift[e]
                out[e] = 0 if relu and value < 0 else value  # a NaN stays


@parallel_kernel
def _backward_sums(grad_output, x, length, mean, factor, shift, relu, sums, dots):
    """For each block and channel: the sums of the gradient before the ReLU, and of it times x - mean."""
    lanes, channels = mean.size, sums.shape[1]
    for block in prange(len(sums)):
        grad_sums, products = np.zeros((2, lanes), x.dtype)
        for first in range(block * length, min((block + 1) * length, x.size), lanes):
            piece, grads = x[first : first + lanes], grad_output[first : first + lanes]
            for e in range(piece.size):
                distance = piece[e] - mean[e]
                grad = 0 if relu and not distance * factor[e] + shift[e] > 0 else grads[e]
                grad_sums[e] += grad
                products[e] += grad * distance
        for c in range(channels):
            sums[block, c] = _total(grad_sums, c, channels)
            dots[block, c] = _total(products, c, channels)


@parallel_kernel
def _backward(grad, x, length, mean, factor, shift, mean_grad, slope, relu):
    lanes = mean.size
    for block in prange(-(-x.size // length)):
        for first in range(block * length, min((block + 1) * length, x.size), lanes):
            piece, grads = x[first : first + lanes], grad[first : first + lanes]
            for e in range(piece.size):
                distance = piece[e] - mean[e]
                before = 0 if relu and not distance * factor[e] + shift[e] > 0 else grads[e]
                grads[e] = factor[e] * (before - mean_grad[e] - distance * slope[e])


def fold_backward_numba(grad_output, weight, scale, variance):
    """The sum over a weight is that over a map of as many pixels, whose mean is 0."""
    lanes, length = _lanes_and_block(weight)
    sums, dots = (np.empty((-(-weight.size // length), weight.shape[3])) for _ in range(2))
    of_lanes = _repeated(lanes, *np.zeros((3, weight.shape[3]), weight.dtype))
    lines = np.ascontiguousarray(grad_output).reshape(-1), weight.reshape(-1)
    _backward_sums(*lines, length, *of_lanes, False, sums, dots)
    deviation = np.sqrt(variance + weight.dtype.type(EPSILON))
    return grad_output * (scale / deviation), (dots.sum(axis=0) / deviation).astype(scale.dtype)


# CUDA: kernels/batch_norm.cu

PIXELS_PER_THREAD = 32  # of statistics and sums


def forward_cuda(x, scale, shift, relu):
    mean, variance = _statistics_cuda(x)
    y, channels = cuda.empty(x.shape), x.shape[3]
    arrays = (x, mean, variance, scale, shift, y)
    cuda.launch_elementwise("batch_norm", "forward", x.size, *arrays, channels, int(relu), flops=3 * x.size)
    return y, mean, variance


def backward_cuda(grad_output, x, scale, shift, mean, variance, relu, in_place=False):
    grad_scale, grad_shift = _sums_cuda(grad_output, x, scale, shift, mean, variance, relu)
    grad_x, channels = cuda.empty(x.shape), x.shape[3]
    arrays = (grad_output, x, mean, variance, scale, shift, grad_scale, grad_shift, grad_x)
    numbers = (channels, int(relu), x.size // channels)
    cuda.launch_elementwise("batch_norm", "backward", x.size, *arrays, *numbers, flops=9 * x.size)
    return grad_x, grad_scale, grad_shift


def _sums_cuda(grad_output, x, scale, shift, mean, variance, relu):
    """The gradients of scale and shift."""
    grid, pixels, width = _shares(x)
    channels = x.shape[3]
    sums, dots = (cuda.empty((channels, grid[0]), float) for _ in range(2))
    arrays = (grad_output, x, mean, variance, scale, shift, sums, dots)
    _launch("sums", grid, *arrays, channels, width, int(relu), pixels, flops=6 * x.size)
    grad_scale, grad_shift = (cuda.empty((channels,)) for _ in range(2))
    ends = (sums, dots, variance, grad_scale, grad_shift)
    _launch("sums_end", _a_warp_each(channels), *ends, grid[0], channels, flops=2 * sums.size)
    return grad_scale, grad_shift


def fold_cuda(weight, scale, shift, mean, variance):
    folded, bias = cuda.empty(weight.shape), cuda.empty(shift.shape)
    arrays = (weight, mean, variance, scale, shift, folded, bias)
    cuda.launch_elementwise("batch_norm", "fold", weight.size, *arrays, shift.size, flops=weight.size)
    return folded, bias


def fold_backward_cuda(grad_output, weight, scale, variance):
    zeros = cuda.zeros(scale.shape)
    grad_scale, _ = _sums_cuda(grad_output, weight, scale, zeros, zeros, variance, False)
    return fold_cuda(grad_output, scale, zeros, zeros, variance)[0], grad_scale


def _statistics_cuda(x):
    grid, pixels, width = _shares(x)
    channels = x.shape[3]
    means, squares = (cuda.empty((channels, grid[0]), float) for _ in range(2))
    _launch("statistics", grid, x, means, squares, channels, width, pixels, flops=5 * x.size)
    mean, variance = cuda.empty((channels,)), cuda.empty((channels,))
    numbers = (grid[0], _pixels_of_block(width), pixels, channels)
    arrays = (means, squares, mean, variance)
    _launch("statistics_end", _a_warp_each(channels), *arrays, *numbers, flops=6 * means.size)
    return mean, variance


def _launch(direction, grid, *arguments, flops):
    cuda.launch("batch_norm", direction, grid, (cuda.THREADS_PER_BLOCK,), *arguments, flops=flops)


def _shares(x):
    """The grid of a sum over pixels, their number, and the channels of a block."""
    channels = x.shape[3]
    pixels, width = x.size // channels, min(channels, cuda.THREADS_PER_BLOCK)
    return (cuda.blocks(pixels, _pixels_of_block(width)), cuda.blocks(channels, width)), pixels, width


def _pixels_of_block(width):
    return PIXELS_PER_THREAD * (cuda.THREADS_PER_BLOCK // width)


def _a_warp_each(channels):
    return (cuda.blocks(channels, cuda.THREADS_PER_BLOCK // 32),)


forward = Dispatch("batch_norm", "forward", numpy=forward_numpy, numba=forward_numba, cuda=forward_cuda)
backward = Dispatch("batch_norm", "backward", numpy=backward_numpy, numba=backward_numba, cuda=backward_cuda)
fold = Dispatch("batch_norm", "fold", numpy=fold_numpy, numba=fold_numpy, cuda=fold_cuda)
fold_backward = Dispatch(
    "batch_norm",
    "fold_backward",
    numpy=fold_backward_numpy,
    numba=fold_backward_numba,
    cuda=fold_backward_cuda,
)
