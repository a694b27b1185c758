"""The skip connection and the convolution after it in one op, without the concatenated map.

    joined = [upsampled[n,i,j], skip[n,i+top,j+left]]                             as by `crop_concat`
    y[n,i,j,f] = bias[f] + sum over p,q,c of weight[p,q,c,f] · joined[n,i+p,j+q,c]

    grad_joined                = grad_x of `conv2d`, with joined as its x
    grad_upsampled, grad_skip  = those of `crop_concat`, from grad_joined

The concatenated map repeats what is in memory anyway: the convolution that made the skip keeps it for its
ReLU. In the U-Net on a tile of 572 pixels these copies are a fifth of all maps, and keeping the up-sampled
maps in their place takes half of that. Winograd's convolution gathers small tiles of its input, wherever they
lie, and scatters small tiles of its gradients: so it needs no copy (`conv2d_winograd.Maps`). The bits are
those of the two ops.

A batch normalisation does not keep the map that it makes. Behind it the whole skip would have to be kept,
which is more than the concatenated map: there the U-Net concatenates in training.

A convolution by another algorithm, and one on a GPU, does concatenate.
"""

from __future__ import annotations

import numpy as np

from tinyunet.autograd import Function, Tensor
from tinyunet.backend import Dispatch, active_backend
from tinyunet.ops import conv2d as conv2d_op
from tinyunet.ops import conv2d_winograd, conv2d_winograd_backward
from tinyunet.ops import crop_concat as crop_concat_op

# NumPy: the reference


def forward_numpy(upsampled, skip, weight, bias, padding, relu):
    joined = crop_concat_op.forward_numpy(upsampled, skip)
    return conv2d_op.forward_numpy(joined, weight, bias, padding, relu)


def backward_input_numpy(grad_output, weight, padding, upsampled_shape, skip_shape):
    grad_joined = conv2d_op.backward_input_numpy(grad_output, weight, padding)
    return crop_concat_op.backward_numpy(grad_joined, upsampled_shape, skip_shape)


def backward_weight_numpy(upsampled, skip, grad_output, padding, size):
    joined = crop_concat_op.forward_numpy(upsampled, skip)
    return conv2d_op.backward_weight_numpy(joined, grad_output, padding, size)


def backward_numpy(upsampled, skip, grad_output, rectified, weight, padding, needs_bias):
    joined = crop_concat_op.forward_numpy(upsampled, skip)
    arguments = joined, grad_output, rectified, weight, padding, True, needs_bias
    grad_joined, grad_weight, grad_bias = conv2d_op.backward_numpy(*arguments)
    return *crop_concat_op.backward_numpy(grad_joined, upsampled.shape, skip.shape), grad_weight, grad_bias


# The op: its checks, and its place in the graph


def crop_concat_conv2d(
    upsampled: Tensor,
    skip: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    padding: int = 0,
    relu: bool = False,
) -> Tensor:
    """Compute conv2d(crop_concat(upsampled, skip), weight, bias, …) in one pass.

    Parameters
    ----------
    upsampled : Tensor, shape (N, H, W, C1), float32 or float64
    skip : Tensor, shape (N, H', W', C2), H' >= H, W' >= W, dtype of upsampled
    weight : Tensor, shape (K, K, C1 + C2, F), dtype of upsampled
    bias, padding, relu
        As in `conv2d`.

    Returns
    -------
    Tensor, shape (N, H + 2 padding - K + 1, W + 2 padding - K + 1, F)

    Raises
    ------
    ShapeError, DtypeError, OptionError
        As in `crop_concat` and `conv2d`.

    Examples
    --------
    >>> import numpy as np, tinyunet as tu
    >>> up, skip = tu.Tensor(np.ones((1, 6, 6, 8))), tu.Tensor(np.ones((1, 9, 9, 4)))
    >>> tu.crop_concat_conv2d(up, skip, tu.Tensor(np.ones((3, 3, 12, 2)))).data[0, 0, 0]
    array([108., 108.])
    """
    crop_concat_op.require_fit(upsampled, skip)
    channels = upsampled.shape[3] + skip.shape[3]
    joined = np.broadcast_to(upsampled.dtype.type(0), (*upsampled.shape[:3], channels))  # takes no memory
    conv2d_op.require_fit(joined, weight, bias, padding)
    if active_backend() in ("cuda", "cuda-emulated"):
        x = crop_concat_op.crop_concat(upsampled, skip)
        return conv2d_op.conv2d(x, weight, bias, padding=padding, relu=relu)
    return CropConcatConv2d.apply(upsampled, skip, weight, bias, padding=padding, relu=relu)


class CropConcatConv2d(Function):
    """The op in the graph."""

    name = "crop_concat_conv2d"
    returns_new = True

    def forward(self, upsampled, skip, weight, bias, *, padding, relu):
        y = forward(upsampled, skip, weight, bias, padding, relu)
        self.save(upsampled, skip, weight, padding, y if relu else None)
        return y

    def backward(self, grad_output):
        upsampled, skip, weight, padding, rectified = self.take_saved()
        shapes = upsampled.shape, skip.shape
        needs_upsampled, needs_skip, needs_weight, needs_bias = self.needs_grad
        if all(self.needs_grad[:3]) and conv2d_op.in_one_pass(upsampled, weight, padding):
            return backward(upsampled, skip, grad_output, rectified, weight, padding, needs_bias)
        # Not in place: a gradient that stays where it is splits the memory in which the skip's, twice as
        # large, is to lie. At 64 channels the peak of a step was 45 MB higher.
        grad_output, grad_bias = conv2d_op.backward_bias_and_relu(grad_output, rectified, needs_bias)
        del rectified
        grad_weight = grad_upsampled = grad_skip = None
        if needs_weight:
            grad_weight = backward_weight(upsampled, skip, grad_output, padding, weight.shape[0])
        del upsampled, skip
        if needs_upsampled or needs_skip:
            grad_upsampled, grad_skip = backward_input(grad_output, weight, padding, *shapes)
        return grad_upsampled, grad_skip, grad_weight, grad_bias


# Numba: without a copy by Winograd's algorithm, for which `conv2d_winograd.suits` decides as in `conv2d`


def forward_numba(upsampled, skip, weight, bias, padding, relu):
    size, _, channels, filters = weight.shape
    if conv2d_winograd.suits(weight.dtype, size, channels, filters):
        bias = np.zeros(filters, weight.dtype) if bias is None else bias
        return conv2d_winograd.forward(conv2d_winograd.joined(upsampled, skip), weight, bias, padding, relu)
    x = crop_concat_op.forward_numba(upsampled, skip)
    return conv2d_op.forward_numba(x, weight, bias, padding, relu)


def backward_input_numba(grad_output, weight, padding, upsampled_shape, skip_shape):
    size, _, channels, filters = weight.shape
    if conv2d_winograd.suits(weight.dtype, size, filters, channels):
        shapes = upsampled_shape, skip_shape
        return conv2d_winograd.backward_joined_input(grad_output, weight, padding, *shapes)
    grad_x = conv2d_op.backward_input_numba(grad_output, weight, padding)
    return crop_concat_op.backward_numba(grad_x, upsampled_shape, skip_shape)


def backward_weight_numba(upsampled, skip, grad_output, padding, size):
    channels, filters = upsampled.shape[3] + skip.shape[3], grad_output.shape[3]
    if conv2d_winograd.suits(grad_output.dtype, size, channels, filters):
        x = conv2d_winograd.joined(upsampled, skip)
        return conv2d_winograd.backward_weight(x, grad_output, padding)
    x = crop_concat_op.forward_numba(upsampled, skip)
    return conv2d_op.backward_weight_numba(x, grad_output, padding, size)


def backward_numba(upsampled, skip, grad_output, rectified, weight, padding, needs_bias):
    if conv2d_winograd_backward.suits(upsampled, weight, padding):
        arguments = upsampled, skip, grad_output, rectified, weight, padding
        grads = conv2d_winograd_backward.backward_joined(*arguments)
        return conv2d_op.with_bias(grads, grad_output, rectified, needs_bias)
    grad_output, grad_bias = conv2d_op.backward_bias_and_relu(grad_output, rectified, needs_bias)
    grad_weight = backward_weight_numba(upsampled, skip, grad_output, padding, weight.shape[0])
    grads = backward_input_numba(grad_output, weight, padding, upsampled.shape, skip.shape)
    return *grads, grad_weight, grad_bias


# CUDA: the two ops, one after the other

forward = Dispatch("crop_concat_conv2d", "forward", numpy=forward_numpy, numba=forward_numba)
backward_input = Dispatch(
    "crop_concat_conv2d", "backward_input", numpy=backward_input_numpy, numba=backward_input_numba
)
backward_weight = Dispatch(
    "crop_concat_conv2d", "backward_weight", numpy=backward_weight_numpy, numba=backward_weight_numba
)
backward = Dispatch("crop_concat_conv2d", "backward", numpy=backward_numpy, numba=backward_numba)
