"""The last layer and the loss in one pass: a 1×1 convolution into `softmax_cross_entropy`.

    z[n,i,j,k] = bias[k] + sum over c of weight[0,0,c,k] · x[n,i,j,c]
    p[n,i,j,k] = exp(z[n,i,j,k]) / sum over k' of exp(z[n,i,j,k'])
    E = sum over n,i,j of w[n,i,j] · -log p[n,i,j,target[n,i,j]]                              ("sum")
    E / sum over n,i,j of w[n,i,j]                                                           ("mean")

    grad_z[n,i,j,k]      = w[n,i,j] · (p[n,i,j,k] - [k = target[n,i,j]])     ("sum"; "mean": divided)
    grad_x[n,i,j,c]      = sum over k of weight[0,0,c,k] · grad_z[n,i,j,k]
    grad_weight[0,0,c,k] = sum over n,i,j of x[n,i,j,c] · grad_z[n,i,j,k]
    grad_bias[k]         = sum over n,i,j of grad_z[n,i,j,k]

With few classes, memory limits the speed. Two separate ops read x twice (for z and for grad_weight), and
write and read z and grad_z. Here a pixel's features are read once, and z and grad_z never leave the cache
(CUDA: the registers). So the forward pass computes the gradients too. It can: the sum of the weights is known
beforehand, and what is computed from the loss only scales them, in training by 1.

References
----------
.. [1] Hsu et al. 2024, Liger Kernel, section 3.2, FusedLinearCrossEntropy: there for many classes, to save
   the memory of z. https://arxiv.org/abs/2410.10989
.. [2] PyTorch's `torch.nn.functional.linear_cross_entropy`, which has per-class, not per-pixel, weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from tinyunet.autograd import Function, Tensor
from tinyunet.backend import Dispatch, allocator, array_library, cuda, to_backend
from tinyunet.backend.jit import kernel, parallel_kernel
from tinyunet.errors import ShapeError, describe
from tinyunet.ops import conv2d_cuda
from tinyunet.ops.checks import AXES, require_axes, require_channels, require_one_dtype
from tinyunet.ops.linear_cross_entropy_softmax import SCRATCH_ROWS, series, softmax
from tinyunet.ops.softmax_cross_entropy import backward_numba as scaled_numba
from tinyunet.ops.softmax_cross_entropy import backward_numpy as scaled_numpy
from tinyunet.ops.softmax_cross_entropy import forward_cuda as unfused_forward_cuda
from tinyunet.ops.softmax_cross_entropy import forward_numpy as unfused_forward_numpy
from tinyunet.ops.targets import checked_pixels, pixels_on_backend

# NumPy: the reference


def forward_numpy(x, weight, bias, target, pixel_weight, with_gradient):
    scores = x @ weight[0, 0] + bias
    energy, grad = unfused_forward_numpy(scores, target, pixel_weight, with_gradient)
    if not with_gradient:
        return energy, None, None, None
    grad_weight = np.tensordot(x, grad, axes=((0, 1, 2), (0, 1, 2))).reshape(weight.shape)
    return energy, grad @ weight[0, 0].T, grad_weight, grad.sum(axis=(0, 1, 2))


def backward_numpy(grad_x, grad_weight, grad_bias, grad_output):
    return tuple(scaled_numpy(g, grad_output) for g in (grad_x, grad_weight, grad_bias))


# The op: its checks, and its place in the graph


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: NDArray[Any],
    pixel_weight: NDArray[Any] | None = None,
    reduction: str = "mean",
    ignore_label: int | None = None,
) -> Tensor:
    """Compute softmax_cross_entropy(conv2d(x, weight, bias), target, pixel_weight, …) in one pass.

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C), float32 or float64
        Features.
    weight : Tensor, shape (1, 1, C, K), dtype of x
        The weight of the layer that scores the K classes.
    bias : Tensor, shape (K,), or None
    target, pixel_weight, reduction, ignore_label
        As in `softmax_cross_entropy`, where pixel_weight is called weight.

    Returns
    -------
    Tensor, shape (), dtype of x

    Raises
    ------
    ShapeError
        Channel counts differ, the window is not 1×1, or target or pixel_weight do not have the N, H, W of x.
    OptionError, DtypeError, DataError
        As in `softmax_cross_entropy`; the dtypes of x, weight and bias differ.

    Examples
    --------
    >>> import numpy as np, tinyunet as tu
    >>> x, weight = tu.Tensor(np.ones((1, 2, 2, 8))), tu.Tensor(np.zeros((1, 1, 8, 2)))
    >>> round(tu.linear_cross_entropy(x, weight, None, np.zeros((1, 2, 2), int)).item(), 4)  # log 2
    0.6931
    """
    require_axes("linear_cross_entropy", x=x, weight=weight)
    checked = checked_pixels(
        "linear_cross_entropy",
        target,
        pixel_weight,
        weight.shape[3],
        reduction=reduction,
        ignore_label=ignore_label,
        dtype=x.dtype,
    )
    return loss_of_checked(x, weight, bias, *checked)


def loss_of_checked(
    x: Tensor, weight: Tensor, bias: Tensor | None, target: NDArray[Any], pixel_weight: NDArray[Any]
) -> Tensor:
    """Compute the energy of checked pixels. The call can be captured in a CUDA graph.

    Parameters
    ----------
    x, weight, bias
        As in `linear_cross_entropy`.
    target, pixel_weight : array, shape (N, H, W)
        From `checked_pixels`. If they are on the GPU, nothing is copied or read back.

    Raises
    ------
    ShapeError, DtypeError
        As in `linear_cross_entropy`.
    """
    require_one_dtype("linear_cross_entropy", x=x, weight=weight, bias=bias)
    require_channels("linear_cross_entropy", x, weight, bias)
    if weight.shape[:2] != (1, 1):
        raise ShapeError(
            f"linear_cross_entropy: the window is {weight.shape[0]}×{weight.shape[1]}, expected 1×1",
            {"weight": describe(weight, AXES["weight"])},
            "use conv2d and softmax_cross_entropy",
        )
    target, pixel_weight = pixels_on_backend("linear_cross_entropy", target, pixel_weight, x=x)
    if bias is None:
        bias = Tensor(array_library().zeros(weight.shape[3:], x.dtype))
    return LinearCrossEntropy.apply(x, weight, bias, target=target, pixel_weight=pixel_weight)


class LinearCrossEntropy(Function):
    """The op in the graph. Forward computes the gradients, and backward only scales them."""

    name = "linear_cross_entropy"
    returns_new = True

    def forward(self, x, weight, bias, *, target, pixel_weight):
        energy, *gradients = forward(x, weight, bias, target, pixel_weight, any(self.needs_grad))
        self.save(*gradients)
        return to_backend(energy, x.dtype)

    def backward(self, grad_output):
        return backward(*self.take_saved(), grad_output)


# Numba: each block of pixels stays in the cache and goes through all steps. The loops run along channels, in
# the softmax along pixels. Two classes share each number of x or grad_x that is loaded or stored; an odd
# number of classes is made even by one whose weight and gradient are 0. For 16 and 64 channels and two
# classes, BLAS took 1.3 to 4.5 times as long for each of the three products.

BLOCK_PIXELS = 256  # with 64 channels, 64 kB of x and as much of grad_x; fewer make short loops
PART_PIXELS = 8 * BLOCK_PIXELS  # summed by one thread


def forward_numba(x, weight, bias, target, pixel_weight, with_gradient):
    channels, classes = weight.shape[2:]
    even, parts = classes + classes % 2, -(-target.size // PART_PIXELS)
    weights, biases = np.zeros((even, channels), x.dtype), np.zeros(even, x.dtype)
    weights[:classes], biases[:classes] = weight[0, 0].T, bias
    grad_x = allocator.empty_like(x if with_gradient else x[:0])
    energy, grad_bias = np.zeros(parts), np.zeros((parts, even))
    grad_weight = allocator.empty((parts, even, channels), x.dtype)
    grad_weight[:] = 0
    _forward(
        *(x.reshape(-1, channels), weights, biases, classes, target.reshape(-1), pixel_weight.reshape(-1)),
        *(series(x.dtype), energy, grad_x.reshape(-1, channels), grad_weight, grad_bias),
    )
    if not with_gradient:
        return energy.sum(), None, None, None
    grad_weight = grad_weight.sum(axis=0, dtype=np.float64)[:classes].T.reshape(weight.shape)
    return (
        energy.sum(),
        grad_x,
        grad_weight.astype(x.dtype, order="C"),
        grad_bias.sum(axis=0)[:classes].astype(x.dtype),
    )


@parallel_kernel
def _forward(x, weight, bias, classes, target, pixel_weight, series, energy, grad_x, grad_weight, grad_bias):
    pixels, even = len(x), len(weight)
    height = SCRATCH_ROWS + 2 * even
    for part in prange(len(energy)):
        memory = np.empty(height * BLOCK_PIXELS, x.dtype)
        integers = memory.view(series[2].dtype)
        for first in range(part * PART_PIXELS, min(pixels, (part + 1) * PART_PIXELS), BLOCK_PIXELS):
            last = min(pixels, first + BLOCK_PIXELS)
            size = last - first
            rows = memory[: height * size].reshape(height, size)
            bits = integers[(SCRATCH_ROWS - 1) * size : SCRATCH_ROWS * size]
            scores, grad = rows[SCRATCH_ROWS : SCRATCH_ROWS + even], rows[SCRATCH_ROWS + even :]
            _score(x[first:last], weight, bias, scores)
            labels, weights = target[first:last], pixel_weight[first:last]
            energy[part] += softmax(
                scores[:classes], labels, weights, series, rows[:SCRATCH_ROWS], bits, grad[:classes]
            )
            if len(grad_x):
                grad[classes:] = 0
                _write_grad_x(grad, weight, grad_x[first:last])
                _add_products(grad, x[first:last], grad_weight[part])
                _add_rows(grad, grad_bias[part])


@kernel
def _score(x, weight, bias, scores):
    """scores[k, j] = bias[k] + sum over c of weight[k, c] · x[j, c]."""
    for k in range(0, len(weight), 2):
        first_class, second_class = weight[k], weight[k + 1]
        for j in range(len(x)):
            pixel = x[j]
            first_sum = second_sum = x.dtype.type(0)
            for c in range(pixel.size):
                first_sum += first_class[c] * pixel[c]
                second_sum += second_class[c] * pixel[c]
            scores[k, j], scores[k + 1, j] = bias[k] + first_sum, bias[k + 1] + second_sum


@kernel
def _write_grad_x(grad, weight, grad_x):
    """grad_x[j, c] = sum over k of grad[k, j] · weight[k, c]."""
    for k in range(0, len(weight), 2):
        first_class, second_class = weight[k], weight[k + 1]
        for j in range(len(grad_x)):
            pixel, first_grad, second_grad = grad_x[j], grad[k, j], grad[k + 1, j]
            if k == 0:
                for c in range(pixel.size):
                    pixel[c] = first_grad * first_class[c] + second_grad * second_class[c]
            else:
                for c in range(pixel.size):
                    pixel[c] += first_grad * first_class[c] + second_grad * second_class[c]


@kernel
def _add_products(grad, x, grad_weight):
    """grad_weight[k, c] += sum over j of grad[k, j] · x[j, c]."""
    for k in range(0, len(grad_weight), 2):
        first_class, second_class = grad_weight[k], grad_weight[k + 1]
        for j in range(len(x)):
            pixel, first_grad, second_grad = x[j], grad[k, j], grad[k + 1, j]
            for c in range(pixel.size):
                first_class[c] += first_grad * pixel[c]
                second_class[c] += second_grad * pixel[c]


@kernel
def _add_rows(grad, grad_bias):
    """grad_bias[k] += sum over j of grad[k, j]."""
    for k in range(len(grad)):
        row, total = grad[k], 0.0
        for j in range(row.size):
            total += row[j]
        grad_bias[k] += total


def backward_numba(grad_x, grad_weight, grad_bias, grad_output):
    return tuple(scaled_numba(g, grad_output) for g in (grad_x, grad_weight, grad_bias))


# CUDA: kernels/linear_cross_entropy.cu, or the two ops one after the other for sizes that it does not take

PIXELS_PER_PART = 256  # summed by one block: 589 blocks for 388 × 388 pixels, a few per multiprocessor
MAX_CLASSES, MAX_CHANNELS = 4, 128


def forward_cuda(x, weight, bias, target, pixel_weight, with_gradient):
    channels, classes = weight.shape[2:]
    if channels % 4 or channels > MAX_CHANNELS or classes > MAX_CLASSES:
        return unfused_cuda(x, weight, bias, target, pixel_weight, with_gradient)
    lanes = 1 << (channels // 4 - 1).bit_length()  # each with four channels
    grad_x = cuda.empty(x.shape if with_gradient else (0,))
    products = channels * classes
    parts = cuda.empty((cuda.blocks(target.size, PIXELS_PER_PART), products + MAX_CLASSES + 1), float)
    cuda.launch(
        "linear_cross_entropy",
        "forward",
        (parts.shape[0],),
        (cuda.THREADS_PER_BLOCK,),
        *(x, weight, bias, target, pixel_weight, grad_x, parts),
        *(channels, classes, lanes, int(with_gradient), PIXELS_PER_PART, target.size),
        flops=(6 * products + 7 * classes) * target.size,
    )
    sums = conv2d_cuda.sum_rows(parts)
    energy = sums[products + MAX_CLASSES]
    if not with_gradient:
        return energy, None, None, None
    grad_weight, grad_bias = sums[:products].reshape(*weight.shape), sums[products : products + classes]
    return energy, grad_x, grad_weight, grad_bias


def unfused_cuda(x, weight, bias, target, pixel_weight, with_gradient):
    scores = conv2d_cuda.forward(x, weight, bias, 0, False)
    energy, grad = unfused_forward_cuda(scores, target, pixel_weight, with_gradient)
    if not with_gradient:
        return energy, None, None, None
    grad_x = conv2d_cuda.backward_input(grad, weight, 0)
    return energy, grad_x, conv2d_cuda.backward_weight(x, grad, 0, 1), conv2d_cuda.backward_bias(grad)


def backward_cuda(grad_x, grad_weight, grad_bias, grad_output):
    # In place: only the GPU knows whether there is anything to do, and reading that would wait for it.
    gradients = grad_x, grad_weight, grad_bias
    blocks = min(1024, cuda.blocks(grad_x.size, cuda.THREADS_PER_BLOCK))
    counts = [gradient.size for gradient in gradients]
    cuda.launch(
        "linear_cross_entropy",
        "backward",
        (blocks,),
        (cuda.THREADS_PER_BLOCK,),
        grad_output,
        *gradients,
        *counts,
    )
    return gradients


forward = Dispatch(
    "linear_cross_entropy", "forward", numpy=forward_numpy, numba=forward_numba, cuda=forward_cuda
)
backward = Dispatch(
    "linear_cross_entropy", "backward", numpy=backward_numpy, numba=backward_numba, cuda=backward_cuda
)
