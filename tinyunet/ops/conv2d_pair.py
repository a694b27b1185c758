"""Two convolutions with a ReLU after each, in one op, for a GPU that multiplies in bfloat16.

    middle = max(0, conv2d(x, first.weight, first.bias))                  x, or by `crop_concat` x and a skip
    y      = max(0, conv2d(middle, second.weight, second.bias))

    grad_second = grad_y where y > 0, else 0
    grad_middle = grad_x of `conv2d` from grad_second, with middle as its x
    grad_first  = grad_middle where middle > 0, else 0
    all others  = those of `conv2d` from grad_first and grad_second

The bits are those of the two ops. But only products take middle and grad_first, and they round them to
bfloat16. So both are kept rounded. The gradient of the second convolution writes grad_first so, applies the
ReLU on the way, and leaves the sums for the bias. Where the first is by `tensor_copies`, it writes middle so;
after other rungs a pass of its own rounds it. Besides what products read, two ops move 24 bytes for each
number of middle: 4 written and 6 for its copy, 4 of its gradient written and 10 for its ReLU and its copy.
This op moves 6: 2 written of each, and 2 of middle read for the ReLU; with that pass, 14.

That ReLU sees rounded numbers, of which those of at most 2^-134 are 0.

Other backends and precisions run the two ops, and so does this one where there are few products to compute.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.autograd import Function, Tensor
from tinyunet.backend import active_precision
from tinyunet.ops import conv2d as conv2d_op
from tinyunet.ops import conv2d_cuda
from tinyunet.ops import crop_concat as crop_concat_op
from tinyunet.ops.crop_concat_conv2d import crop_concat_conv2d

Layer = tuple[Tensor, Tensor]  # weight and bias of a convolution


def conv2d_pair(
    x: Tensor,
    skip: Tensor | None,
    first: Layer,
    second: Layer,
    *,
    padding: int = 0,
) -> Tensor:
    """Compute conv2d(conv2d(x, *first, relu=True), *second, relu=True).

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C), float32 or float64
    skip : Tensor or None
        Concatenated to x first, as by `crop_concat`.
    first, second : tuple of Tensor
        Weight and bias of each, of shapes (K, K, C, F) and (F,).
    padding : int
        Of both.

    Returns
    -------
    Tensor
        y of the second.

    Raises
    ------
    ShapeError, DtypeError, OptionError
        As in `crop_concat` and `conv2d`.
    """
    if active_precision() == "bf16" and _second_by_copies(x, skip, first, second, padding):
        return Conv2dPair.apply(x, skip, *first, *second, padding=padding)
    options: dict[str, Any] = {"padding": padding, "relu": True}
    if skip is None:
        middle = conv2d_op.conv2d(x, *first, **options)
    else:
        middle = crop_concat_conv2d(x, skip, *first, **options)
    return conv2d_op.conv2d(middle, *second, **options)


def _second_by_copies(x: Tensor, skip: Tensor | None, first: Layer, second: Layer, padding: int) -> bool:
    """Raise the errors of both convolutions, then tell whether a rung of copies is chosen for the second."""
    channels = x.shape[3]
    if skip is not None:
        crop_concat_op.require_fit(x, skip)
        channels += skip.shape[3]
    joined = _without_memory((*x.shape[:3], channels), x.dtype)
    conv2d_op.require_fit(joined, *first, padding)
    size, _, _, filters = first[0].shape
    middle = _without_memory(conv2d_cuda.output_shape(joined, filters, size, padding), x.dtype)
    conv2d_op.require_fit(middle, *second, padding)
    return conv2d_cuda.multiplies_copies(middle, second[0].shape, padding)


def _without_memory(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.broadcast_to(dtype.type(0), shape)


class Conv2dPair(Function):
    """The op in the graph."""

    name = "conv2d_pair"

    def forward(self, x, skip, weight, bias, second_weight, second_bias, *, padding):
        shapes = None if skip is None else (x.shape, skip.shape)
        if skip is not None:
            x = crop_concat_op.forward(x, skip)
        x = conv2d_cuda.as_multiplied(x, weight.shape, padding)
        middle = conv2d_cuda.forward(x, weight, bias, padding, True, rounded=True)
        y = conv2d_cuda.forward(middle, second_weight, second_bias, padding, True)
        self.save(x, shapes, weight, second_weight, middle, y, padding)
        return y

    def backward(self, grad_output):
        x, shapes, weight, second_weight, middle, y, padding = self.take_saved()
        needs_x, needs_skip, *_ = self.needs_grad
        size, is_copy = weight.shape[0], x.dtype == np.uint16
        grad_output, grad_second_bias = conv2d_cuda.backward_relu(grad_output, y, second_weight.shape)
        del y
        grad_second = conv2d_cuda.backward_weight(middle, grad_output, padding, second_weight.shape[0])
        grad_first, grad_bias = conv2d_cuda.backward_input_and_relu(
            grad_output, second_weight, padding, middle, rounded=is_copy
        )
        del grad_output, middle
        grad_weight = conv2d_cuda.backward_weight(x, grad_first, padding, size)
        del x
        grads = (grad_weight, grad_bias, grad_second, grad_second_bias)
        if not (needs_x or needs_skip):
            return None, None, *grads
        grad_x = conv2d_cuda.backward_input(grad_first, weight, padding)
        return *((grad_x, None) if shapes is None else crop_concat_op.backward(grad_x, *shapes)), *grads
