"""Worked answers of chapter 03, the cases they are checked on, and answers known to be wrong."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

SHAPES = [(1, 5, 7, 2, 3, 3), (2, 6, 4, 3, 2, 3), (3, 5, 5, 1, 4, 1), (1, 7, 6, 2, 2, 5)]  # N, H, W, C, F, K

# 03.1


def window_rows(x, size):
    windows = sliding_window_view(x, (size, size), axis=(1, 2))
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, size * size * x.shape[3])


hints_window_rows = (
    "NumPy can show all windows of an array without a copy; then only the order of the axes is wrong.",
    "sliding_window_view, then .transpose to n, i, j, p, q, c, then .reshape.",
)


def cases_window_rows(rng):
    for *shape, _, size in SHAPES:
        yield rng.standard_normal(shape), size


def _windows_in_order(*axes):
    def rows(x, size):
        windows = sliding_window_view(x, (size, size), axis=(1, 2))
        return windows.transpose(axes).reshape(-1, size * size * x.shape[3])

    return rows


wrong_window_rows = {
    "the axes as they come: c, p, q": _windows_in_order(0, 1, 2, 3, 4, 5),
    "p and q exchanged": _windows_in_order(0, 1, 2, 5, 4, 3),
    "i and j exchanged": _windows_in_order(0, 2, 1, 4, 5, 3),
    "columns for rows": lambda x, size: window_rows(x, size).T,
    "windows that do not overlap": lambda x, size: window_rows(x, size)[::size],
}

# 03.2


def backward_weight_and_bias(x, grad_y, size):
    windows = sliding_window_view(x, (size, size), axis=(1, 2))
    grad_weight = np.einsum("nijcpq,nijf->pqcf", windows, grad_y)
    return grad_weight, grad_y.sum(axis=(0, 1, 2))


hints_backward_weight_and_bias = (
    "Each weight is used once in every window of every image. By which pixel is it multiplied there?",
    'One einsum of the windows "nijcpq" and grad_y "nijf". Which letters remain?',
)


returns_backward_weight_and_bias = "grad_weight", "grad_bias"


def cases_backward_weight_and_bias(rng):
    for n, height, width, channels, filters, size in SHAPES:
        grad_y = rng.standard_normal((n, height - size + 1, width - size + 1, filters))
        yield rng.standard_normal((n, height, width, channels)), grad_y, size


def _changed(weight=lambda w: w, bias=lambda b, grad_y: b):
    def answer(x, grad_y, size):
        grad_weight, grad_bias = backward_weight_and_bias(x, grad_y, size)
        return weight(grad_weight), bias(grad_bias, grad_y)

    return answer


wrong_backward_weight_and_bias = {
    "the window flipped": _changed(weight=lambda w: w[::-1, ::-1]),
    "the window transposed": _changed(weight=lambda w: w.transpose(1, 0, 2, 3)),
    "the channels exchanged": _changed(weight=lambda w: w.transpose(0, 1, 3, 2)),
    "the first image only": lambda x, grad_y, size: backward_weight_and_bias(x[:1], grad_y[:1], size),
    "grad_bias is not summed": _changed(bias=lambda b, grad_y: grad_y),
    "grad_bias is a mean": _changed(bias=lambda b, grad_y: grad_y.mean(axis=(0, 1, 2))),
    "grad_bias is summed over the images only": _changed(bias=lambda b, grad_y: grad_y.sum(axis=0)),
}

# 03.3


def backward_input(grad_y, weight):
    n, height, width, _ = grad_y.shape
    size, _, channels, _ = weight.shape
    grad_x = np.zeros((n, height + size - 1, width + size - 1, channels), grad_y.dtype)
    for p, q in np.ndindex(size, size):
        grad_x[:, p : p + height, q : q + width] += grad_y @ weight[p, q].T
    return grad_x


hints_backward_input = (
    "The forward by taps reads from a shifted image. The backward adds into a shifted image.",
    "Start with zeros, larger by K - 1. Each tap adds grad_y @ weight[p, q].T.",
)


def cases_backward_input(rng):
    for n, height, width, channels, filters, size in SHAPES:
        grad_y = rng.standard_normal((n, height - size + 1, width - size + 1, filters))
        yield grad_y, rng.standard_normal((size, size, channels, filters))


def _cut(grad_y, weight):
    margin = (weight.shape[0] - 1) // 2
    whole = backward_input(grad_y, weight)
    return whole[:, margin : whole.shape[1] - margin, margin : whole.shape[2] - margin]


wrong_backward_input = {
    "the window flipped": lambda grad_y, weight: backward_input(grad_y, weight[::-1, ::-1]),
    "the window transposed": lambda grad_y, weight: backward_input(grad_y, weight.transpose(1, 0, 2, 3)),
    "the channels not exchanged": lambda grad_y, weight: backward_input(grad_y, weight.transpose(0, 1, 3, 2)),
    "as large as the output": _cut,
    "each pixel used once": lambda grad_y, weight: (
        backward_input(grad_y, weight) / np.maximum(backward_input(grad_y * 0 + 1, weight * 0 + 1), 1)
    ),
}

# 03.4


def corner_edge_middle():
    return 1, 3, 9


hints_corner_edge_middle = (
    "Draw a 3×3 window in the corner of a page of squared paper.",
    "In how many places can the window be laid so that it covers the pixel? The corner has one.",
)


returns_corner_edge_middle = "corner", "edge", "middle"


def cases_corner_edge_middle(rng):
    yield ()


wrong_corner_edge_middle = {
    "every pixel alike": lambda: (9, 9, 9),
    "as with a padding of zeros": lambda: (4, 6, 9),
    "an edge counted as the pixel beside a corner": lambda: (1, 2, 9),
}
