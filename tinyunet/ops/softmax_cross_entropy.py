"""The paper's loss: the cross-entropy of the softmax over the classes, with per-pixel weights.

    p[n,i,j,k] = exp(logits[n,i,j,k]) / sum over k' of exp(logits[n,i,j,k'])
    E = sum over n,i,j of w[n,i,j] · -log p[n,i,j,target[n,i,j]]             ("sum", the paper's energy)
    E / sum over n,i,j of w[n,i,j]                                         ("mean")

    grad_logits[n,i,j,k] = w[n,i,j] · (p[n,i,j,k] - [k = target[n,i,j]])      ("sum"; "mean": divided)

The paper prints E without the minus sign. The largest logit of a pixel is subtracted first, so that no
exponential overflows. Pixels whose target is `ignore_label` do not count. The loss is summed in float64, row
by row.

Tutorial: `tutorials/10_cross_entropy_weight_map.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from tinyunet.autograd import Function, Tensor
from tinyunet.backend import Dispatch, allocator, cuda, to_backend
from tinyunet.backend.jit import parallel_kernel
from tinyunet.ops.checks import require_axes
from tinyunet.ops.targets import NO_LABEL, checked_pixels, pixels_on_backend

# NumPy: the reference


def forward_numpy(logits, target, weight, with_gradient):
    shifted = logits - logits.max(axis=3, keepdims=True)
    exponential = np.exp(shifted)
    total = exponential.sum(axis=3, keepdims=True)
    counted = target != NO_LABEL
    index = np.where(counted, target, 0)[..., np.newaxis]
    minus_log_p = np.log(total) - np.take_along_axis(shifted, index, axis=3)
    pixel_weight = np.where(counted, weight, 0)[..., np.newaxis]
    energy = np.where(counted[..., np.newaxis], pixel_weight * minus_log_p, 0).sum(dtype=np.float64)
    if not with_gradient:
        return energy, None
    grad_logits = exponential / total
    np.put_along_axis(grad_logits, index, np.take_along_axis(grad_logits, index, axis=3) - 1, axis=3)
    return energy, np.where(counted[..., np.newaxis], pixel_weight * grad_logits, 0)


def backward_numpy(grad_logits, grad_loss):
    return grad_logits * grad_loss


# The op: its checks, and its place in the graph


def softmax_cross_entropy(
    logits: Tensor,
    target: NDArray[Any],
    weight: NDArray[Any] | None = None,
    reduction: str = "mean",
    ignore_label: int | None = None,
) -> Tensor:
    """Compute the softmax cross-entropy with per-pixel weights.

    Parameters
    ----------
    logits : Tensor, shape (N, H, W, K)
        Scores of the K classes, before the softmax.
    target : integer array, shape (N, H, W)
        The true class of each pixel, 0 to K - 1.
    weight : array, shape (N, H, W), optional
        The factor of each pixel's loss, for instance from `weight_map`; 1 by default. It gets no gradient.
    reduction : {"mean", "sum"}
        "sum": the paper's energy. "mean": that divided by the sum of the weights; then a learning rate
        does not depend on the tile's size. 0 where all weights are 0.
    ignore_label : int, optional
        Pixels with this target do not count.

    Returns
    -------
    Tensor, shape (), dtype of logits

    Raises
    ------
    ShapeError
        Target or weight do not have the logits' N, H, W.
    OptionError
        The reduction is unknown.
    DtypeError
        The target is not of an integer type.
    DataError
        A target is not a class: the first such pixel is named.

    References
    ----------
    .. [1] Ronneberger et al. 2015, section 3, equation 1.
    """
    require_axes("softmax_cross_entropy", logits=logits)
    checked = checked_pixels(
        "softmax_cross_entropy",
        target,
        weight,
        logits.shape[3],
        reduction=reduction,
        ignore_label=ignore_label,
        dtype=logits.dtype,
    )
    return loss_of_checked(logits, *checked)


def loss_of_checked(logits: Tensor, target: NDArray[Any], weight: NDArray[Any]) -> Tensor:
    """Compute the energy of checked pixels. The call can be captured in a CUDA graph.

    Parameters
    ----------
    logits : Tensor, shape (N, H, W, K)
    target, weight : array, shape (N, H, W)
        From `checked_pixels`. If they are on the GPU, nothing is copied or read back.

    Raises
    ------
    ShapeError
        Target or weight do not have the logits' N, H, W.
    """
    target, weight = pixels_on_backend("softmax_cross_entropy", target, weight, logits=logits)
    return SoftmaxCrossEntropy.apply(logits, target=target, weight=weight)


class SoftmaxCrossEntropy(Function):
    """The op in the graph. Forward also computes the gradient: it has the probabilities."""

    name = "softmax_cross_entropy"

    def forward(self, logits, *, target, weight):
        energy, grad_logits = forward(logits, target, weight, any(self.needs_grad))
        self.save(grad_logits)
        return to_backend(energy, logits.dtype)

    def backward(self, grad_output):
        return (backward(*self.saved, grad_output),)


# Numba: one row at a time, each with a sum of its own


def forward_numba(logits, target, weight, with_gradient):
    n, height, _, _ = logits.shape
    energy = np.zeros(n * height)
    grad_logits = allocator.empty_like(logits if with_gradient else logits[:0])
    _forward(logits, target, weight, energy, grad_logits)
    return energy.sum(), grad_logits if with_gradient else None


@parallel_kernel
def _forward(logits, target, weight, energy, grad_logits):
    batch, height, width, classes = logits.shape
    for row in prange(batch * height):
        n, i = row // height, row % height
        exponential = np.empty(classes, logits.dtype)
        for j in range(width):
            pixel, label, w = logits[n, i, j], target[n, i, j], weight[n, i, j]
            largest = pixel.max()
            total = logits.dtype.type(0)
            for k in range(classes):
                exponential[k] = pixel[k] - largest
            # From memory: log(total) - (score - largest) might be computed as (log(total) - score) + largest.
            shifted = exponential[0 if label == NO_LABEL else label]
            for k in range(classes):
                exponential[k] = np.exp(exponential[k])
            for k in range(classes):  # not above: see tinyunet.backend.jit
                total += exponential[k]
            if label != NO_LABEL:
                energy[row] += w * (np.log(total) - shifted)
            if grad_logits.size:
                for k in range(classes):
                    p = exponential[k] / total
                    grad_logits[n, i, j, k] = 0 if label == NO_LABEL else w * (p - (k == label))


def backward_numba(grad_logits, grad_loss):
    if grad_loss == 1:  # as in training: nothing is read or written
        return grad_logits
    grad = allocator.empty_like(grad_logits)
    _backward(grad_logits.reshape(-1), grad_logits.dtype.type(grad_loss), grad.reshape(-1))
    return grad


@parallel_kernel
def _backward(grad_logits, factor, grad):
    for i in prange(grad.size):
        grad[i] = factor * grad_logits[i]


# CUDA: kernels/softmax_cross_entropy.cu


def forward_cuda(logits, target, weight, with_gradient):
    blocks = cuda.blocks(target.size, cuda.THREADS_PER_BLOCK)
    parts, energy, grad_logits = cuda.empty((blocks,), np.float64), cuda.empty(()), cuda.empty(logits.shape)
    arrays = (logits, target, weight, parts, grad_logits)
    flops = 7 * logits.size  # of which two are exponentials
    cuda.launch_elementwise(
        "softmax_cross_entropy", "forward", target.size, *arrays, logits.shape[3], flops=flops
    )
    cuda.launch(
        "softmax_cross_entropy", "forward_end", (1,), (cuda.THREADS_PER_BLOCK,), parts, energy, blocks
    )
    return energy, grad_logits


def backward_cuda(grad_logits, grad_loss):
    grad, count = cuda.empty(grad_logits.shape), grad_logits.size
    arrays = (grad_logits, grad_loss, grad)
    cuda.launch_elementwise("softmax_cross_entropy", "backward", count, *arrays, flops=count)
    return grad


forward = Dispatch(
    "softmax_cross_entropy", "forward", numpy=forward_numpy, numba=forward_numba, cuda=forward_cuda
)
backward = Dispatch(
    "softmax_cross_entropy", "backward", numpy=backward_numpy, numba=backward_numba, cuda=backward_cuda
)
