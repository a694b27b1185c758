"""The paper's loss: cross-entropy of the softmax over the classes, weighted pixel by pixel.

    p[n,i,j,k] = exp(logits[n,i,j,k]) / sum over k' of exp(logits[n,i,j,k'])
    E = sum over n,i,j of w[n,i,j] · -log p[n,i,j,target[n,i,j]]             ("sum", the paper's energy)
    E / sum over n,i,j of w[n,i,j]                                         ("mean")

    grad_logits[n,i,j,k] = w[n,i,j] · (p[n,i,j,k] - [k = target[n,i,j]])      ("sum"; "mean": divided)

The paper prints E without the minus sign. The largest logit of a pixel is subtracted first, so that no
exponential overflows. Pixels whose target is `ignore_label` count nothing. The loss is summed in float64, row
by row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from tinyunet import cuda, workspace
from tinyunet.autograd import Function, Tensor
from tinyunet.backend import Kernel, to_backend, to_host
from tinyunet.errors import DataError, DtypeError, OptionError, ShapeError, describe
from tinyunet.jit import parallel_kernel
from tinyunet.ops.checks import AXES, require_axes

NO_LABEL = -1  # what an ignored pixel becomes before a kernel sees it


def softmax_cross_entropy(
    logits: Tensor,
    target: NDArray[Any],
    weight: NDArray[Any] | None = None,
    reduction: str = "mean",
    ignore_label: int | None = None,
) -> Tensor:
    """Per-pixel weighted softmax cross-entropy.

    Parameters
    ----------
    logits : Tensor, shape (N, H, W, K)
        Scores of the K classes, before the softmax.
    target : integer array, shape (N, H, W)
        The true class of each pixel, 0 to K - 1.
    weight : array, shape (N, H, W), optional
        Loss per pixel, as from `weight_map`; 1 where it is left out. It gets no gradient.
    reduction : {"mean", "sum"}
        "sum": the paper's energy. "mean": that divided by the sum of the weights; then a learning rate
        does not depend on the tile's size. 0 where all weights are 0.
    ignore_label : int, optional
        Pixels with this target count nothing.

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
    target, weight = checked_pixels(
        "softmax_cross_entropy",
        logits.shape[3],
        target,
        reduction,
        ignore_label,
        logits=logits,
        weight=weight,
    )
    return SoftmaxCrossEntropy.apply(logits, target=target, weight=weight, mean=reduction == "mean")


def checked_pixels(
    op: str,
    classes: int,
    target: NDArray[Any],
    reduction: str,
    ignore_label: int | None,
    **maps: Any,
) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Target and weight of each pixel as the kernels of a loss take them, or an error.

    Parameters
    ----------
    **maps : Tensor, array
        By the names that the op gives them: the map that is scored, and the weight or None.
    """
    (map_name, scored), (weight_name, weight) = maps.items()
    target, weight = to_host(target), None if weight is None else to_host(weight)
    for name, array in (("target", target), (weight_name, weight)):
        if array is not None and array.shape != scored.shape[:3]:
            raise ShapeError(
                f"{op}: {name} must have the N, H and W of the {map_name}",
                {map_name: describe(scored, AXES[map_name]), name: describe(array, "N H W")},
                f"crop {name} to the network's output: a valid network's is smaller than its input",
            )
    if reduction not in ("mean", "sum"):
        raise OptionError(f"{op}: unknown reduction {reduction!r}", remedy="use 'mean' or 'sum'")
    weight = np.ones(target.shape) if weight is None else weight
    return _checked_target(op, target, classes, ignore_label), np.ascontiguousarray(weight, scored.dtype)


def _checked_target(
    op: str, target: NDArray[Any], classes: int, ignore_label: int | None
) -> NDArray[np.int32]:
    if not np.issubdtype(target.dtype, np.integer):
        raise DtypeError(
            f"{op}: target is {target.dtype}, expected an integer type",
            remedy="give class indices, not probabilities or one-hot vectors",
        )
    ignored = np.zeros(target.shape, bool) if ignore_label is None else target == ignore_label
    wrong = ((target < 0) | (target >= classes)) & ~ignored
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise DataError(
            f"{op}: target {target[place]} at {place} (n, row, column) is not a class",
            {
                "classes": f"0 to {classes - 1}",
                "wrong pixels": int(wrong.sum()),
                "ignore_label": ignore_label,
            },
            "map the labels to class indices, or name the value as ignore_label",
        )
    checked = np.array(target, np.int32, order="C")  # signed before -1 is written: masks are often uint8
    checked[ignored] = NO_LABEL
    return checked


class SoftmaxCrossEntropy(Function):
    """The op in the graph. Forward computes the gradient too: it has the probabilities at hand."""

    name = "softmax_cross_entropy"

    def forward(self, logits, *, target, weight, mean):
        energy, grad_logits = forward(logits, target, weight, any(self.needs_grad))
        total = weight.sum(where=target != NO_LABEL, dtype=np.float64) if mean else 1.0
        scale = 1 / total if total else 0.0
        self.save(grad_logits, scale)
        return to_backend(energy * scale, logits.dtype)

    def backward(self, grad_output):
        grad_logits, scale = self.saved
        return (backward(grad_logits, scale * grad_output.item()),)


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


def backward_numpy(grad_logits, scale):
    return grad_logits * grad_logits.dtype.type(scale)


# Numba: a row at a time, each with a sum of its own


def forward_numba(logits, target, weight, with_gradient):
    n, height, _, _ = logits.shape
    energy = np.zeros(n * height)
    grad_logits = workspace.empty_like(logits if with_gradient else logits[:0])
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
                exponential[k] = np.exp(pixel[k] - largest)
            for k in range(classes):  # not above: see tinyunet.jit
                total += exponential[k]
            if label != NO_LABEL:
                energy[row] += w * (np.log(total) - (pixel[label] - largest))
            if grad_logits.size:
                for k in range(classes):
                    p = exponential[k] / total
                    grad_logits[n, i, j, k] = 0 if label == NO_LABEL else w * (p - (k == label))


def backward_numba(grad_logits, scale):
    grad = workspace.empty_like(grad_logits)
    _backward(grad_logits.reshape(-1), grad_logits.dtype.type(scale), grad.reshape(-1))
    return grad


@parallel_kernel
def _backward(grad_logits, scale, grad):
    for i in prange(grad.size):
        grad[i] = scale * grad_logits[i]


# CUDA: kernels/softmax_cross_entropy.cu


def forward_cuda(logits, target, weight, with_gradient):
    energy = cuda.empty((cuda.blocks(target.size, cuda.WIDTH),), np.float64)
    grad_logits = cuda.empty(logits.shape)
    arrays = (logits, to_backend(target), to_backend(weight), energy, grad_logits)
    flops = 7 * logits.size  # of which two are exponentials
    cuda.launch_elementwise(
        "softmax_cross_entropy", "forward", target.size, *arrays, logits.shape[3], flops=flops
    )
    return energy.sum(), grad_logits


def backward_cuda(grad_logits, scale):
    grad, count = cuda.empty(grad_logits.shape), grad_logits.size
    cuda.launch_elementwise(
        "softmax_cross_entropy", "backward", count, grad_logits, np.float32(scale), grad, flops=count
    )
    return grad


forward = Kernel(
    "softmax_cross_entropy", "forward", numpy=forward_numpy, numba=forward_numba, cuda=forward_cuda
)
backward = Kernel(
    "softmax_cross_entropy", "backward", numpy=backward_numpy, numba=backward_numba, cuda=backward_cuda
)
