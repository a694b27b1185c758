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


def _mean_over_images(x, grad_y, size):
    weight, bias = backward_weight_and_bias(x, grad_y, size)
    return weight / len(x), bias / len(x)


wrong_backward_weight_and_bias = {
    "the mean over the images": _mean_over_images,
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


def _overwritten(grad_y, weight):
    (_, height, width, _), size = grad_y.shape, len(weight)
    grad_x = np.zeros_like(backward_input(grad_y, weight))
    for p, q in np.ndindex(size, size):
        grad_x[:, p : p + height, q : q + width] = grad_y @ weight[p, q].T
    return grad_x


wrong_backward_input = {
    "each tap overwrites what earlier taps wrote: add with +=": _overwritten,
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

# 03.5


def strided_conv(x, weight, bias):
    size = len(weight)
    height, width = (x.shape[1] - size) // 2 + 1, (x.shape[2] - size) // 2 + 1
    y = np.zeros((len(x), height, width, weight.shape[3])) + bias
    for p, q in np.ndindex(size, size):
        y += x[:, p : p + 2 * height : 2, q : q + 2 * width : 2] @ weight[p, q]
    return y


hints_strided_conv = (
    "As conv_taps: a sum over p and q. Which rows of x does tap p read, for all outputs together?",
    "Rows p, p + 2, ...: as many as there are outputs, x[:, p : p + 2 * height : 2].",
)


def cases_strided_conv(rng):
    for n, height, width, channels, filters, size in [
        (1, 5, 6, 2, 3, 3),
        (2, 8, 3, 1, 2, 3),
        (1, 4, 7, 3, 1, 2),
    ]:
        x, weight = (
            rng.standard_normal(shape)
            for shape in [(n, height, width, channels), (size, size, channels, filters)]
        )
        yield x, weight, rng.standard_normal(filters)


def _from_the_second(x, weight, bias):
    return strided_conv(np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:], weight, bias)


def _rows_only(x, weight, bias):
    full = sum(
        x[:, p : x.shape[1] - len(weight) + 1 + p, q : x.shape[2] - len(weight) + 1 + q] @ weight[p, q]
        for p, q in np.ndindex(*weight.shape[:2])
    )
    return full[:, ::2] + bias


def _every_second_pixel(x, weight, bias):
    windows = sliding_window_view(x[:, ::2, ::2], weight.shape[:2], axis=(1, 2))
    return np.einsum("nijcpq,pqcf->nijf", windows, weight) + bias


wrong_strided_conv = {
    "windows of every second pixel, not every second window": _every_second_pixel,
    "the bias added for each tap": lambda x, weight, bias: strided_conv(
        x, weight, weight[..., 0, 0].size * bias
    ),
    "begun with the second output": _from_the_second,
    "along the rows only": _rows_only,
    "a stride of 1 inside the window, of every second pixel": lambda x, weight, bias: strided_conv(
        np.repeat(np.repeat(x[:, ::2, ::2], 2, axis=1), 2, axis=2)[:, : x.shape[1], : x.shape[2]],
        weight,
        bias,
    ),
    "the bias forgotten": lambda x, weight, bias: strided_conv(x, weight, 0 * bias),
}

# 03.6


def strided_conv_backward(grad_y, x, weight):
    grad_x, grad_weight = np.zeros(x.shape), np.zeros(weight.shape)
    height, width = grad_y.shape[1:3]
    for p, q in np.ndindex(*weight.shape[:2]):
        read = np.s_[:, p : p + 2 * height : 2, q : q + 2 * width : 2]
        grad_x[read] += grad_y @ weight[p, q].T
        grad_weight[p, q] = np.einsum("nijc,nijf->cf", x[read], grad_y)
    return grad_x, grad_weight, grad_y.sum(axis=(0, 1, 2))


hints_strided_conv_backward = (
    "Per tap: what the forward read from x at some places, the backward adds to grad_x at the same places.",
    "The tap's weight gradient is a sum over all outputs: np.einsum('nijc,nijf->cf', x[...], grad_y).",
)


returns_strided_conv_backward = "grad_x", "grad_weight", "grad_bias"


def cases_strided_conv_backward(rng):
    for x, weight, bias in cases_strided_conv(rng):
        yield rng.standard_normal(strided_conv(x, weight, bias).shape), x, weight


def _the_last_tap_wins(grad_y, x, weight):
    _, grad_weight, grad_bias = strided_conv_backward(grad_y, x, weight)
    grad_x, (height, width) = np.zeros(x.shape), grad_y.shape[1:3]
    for p, q in np.ndindex(*weight.shape[:2]):
        grad_x[:, p : p + 2 * height : 2, q : q + 2 * width : 2] = grad_y @ weight[p, q].T
    return grad_x, grad_weight, grad_bias


def _window_flipped(grad_y, x, weight):
    grad_x, grad_weight, grad_bias = strided_conv_backward(grad_y, x, weight[::-1, ::-1])
    return grad_x, grad_weight, grad_bias


wrong_strided_conv_backward = {
    "the last tap wins": _the_last_tap_wins,
    "the window flipped": _window_flipped,
    "the gradient of the bias is a mean": lambda grad_y, x, weight: (
        *strided_conv_backward(grad_y, x, weight)[:2],
        grad_y.mean(axis=(0, 1, 2)),
    ),
}

# 03.7


def conv_fft(x, weight, bias):
    height, width = x.shape[1:3]
    frequencies = np.fft.fft2(x, axes=(1, 2))
    filters = np.conj(np.fft.fft2(weight, s=(height, width), axes=(0, 1)))
    product = np.einsum("nijc,ijcf->nijf", frequencies, filters)
    y = np.fft.ifft2(product, axes=(1, 2)).real
    return y[:, : height - len(weight) + 1, : width - len(weight) + 1] + bias


hints_conv_fft = (
    "np.fft.fft2(weight, s=(H, W), axes=(0, 1)) fills up with zeros. np.conj conjugates.",
    "np.einsum('nijc,ijcf->nijf', ...) is the product, summed over c. Take the real part at the end.",
)


def cases_conv_fft(rng):
    for n, height, width, channels, filters, size in [
        (1, 5, 6, 2, 3, 3),
        (2, 4, 7, 1, 2, 2),
        (1, 6, 5, 3, 1, 5),
    ]:
        x, weight = (
            rng.standard_normal(shape)
            for shape in [(n, height, width, channels), (size, size, channels, filters)]
        )
        yield x, weight, rng.standard_normal(filters)


def _fft(
    of_x=lambda values: values, of_weight=np.conj, axes=(1, 2), axes_back=(1, 2), real=np.real, last=False
):
    """Make a convolution by the Fourier transform with a part of it replaced."""

    def answer(x, weight, bias):
        height, width = x.shape[1:3]
        frequencies = of_x(np.fft.fft2(x, axes=axes))
        filters = of_weight(np.fft.fft2(weight, s=(height, width), axes=(0, 1)))
        y = real(np.fft.ifft2(np.einsum("nijc,ijcf->nijf", frequencies, filters), axes=axes_back))
        first = len(weight) - 1 if last else 0
        return y[:, first : first + height - len(weight) + 1, first : first + width - len(weight) + 1] + bias

    return answer


_not_conjugated = {"of_weight": lambda values: values}

wrong_conv_fft = {
    "the filter's transform is not conjugated, so the window is flipped": _fft(**_not_conjugated),
    "the filter's transform is not conjugated, so the window is flipped; the first rows and columns are cut "
    "off, which are the right ones once it is conjugated": _fft(**_not_conjugated, last=True),
    "the transform of x is conjugated in place of the filter's": _fft(of_x=np.conj, **_not_conjugated),
    "both transforms are conjugated": _fft(of_x=np.conj),
    "the last rows and columns are kept, not the first": _fft(last=True),
    "fft2 and ifft2 without axes, which transform the last two: columns and channels": _fft(
        axes=(-2, -1), axes_back=(-2, -1)
    ),
    "fft2 of x without axes, which transforms the last two: columns and channels": _fft(axes=(-2, -1)),
    "ifft2 without axes, which transforms the last two: columns and filters": _fft(axes_back=(-2, -1)),
    "the absolute value in place of the real part": _fft(real=np.abs),
    "the bias forgotten": lambda x, weight, bias: conv_fft(x, weight, 0),
}
