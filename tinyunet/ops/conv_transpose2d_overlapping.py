"""Up-convolution with a window of 4×4: each output pixel gets from 2×2 input pixels, and can interpolate.

    y[n,u,v,f] = bias[f] + sum over c and all i,j,r,s with 2i+r-1 = u, 2j+s-1 = v
                           of weight[r,s,c,f] · x[n,i,j,c]

The outermost rows and columns of what the windows give are cut off: y has twice the height and width.

With r = 2a + p and s = 2b + q this is the 2×2 up-convolution of an image whose pixels carry their neighbours
as further channels: z[n,i,j,(a,b,c)] = x[n,i-a,j-b,c], with weight_z[p,q,(a,b,c),f] = weight[2a+p,2b+q,c,f].
So the kernels of `conv_transpose2d` do the work, on every backend.
"""

from __future__ import annotations

from tinyunet.backend import array_library

NEIGHBOURS = [(a, b) for a in (0, 1) for b in (0, 1)]  # the pixel itself, left, upper, upper left


def with_neighbours(x):
    """(N, H, W, C) -> (N, H + 1, W + 1, 4C): each pixel and its neighbours; 0 outside."""
    n, height, width, channels = x.shape
    z = array_library().zeros((n, height + 1, width + 1, 4 * channels), x.dtype)
    for k, (a, b) in enumerate(NEIGHBOURS):
        z[:, a : a + height, b : b + width, k * channels : (k + 1) * channels] = x
    return z


def sum_of_neighbours(grad_z):
    """The gradient of x from that of `with_neighbours(x)`: the sum over the four copies of each pixel."""
    height, width, channels = grad_z.shape[1] - 1, grad_z.shape[2] - 1, grad_z.shape[3] // 4
    itself, left, upper, upper_left = (
        grad_z[:, a : a + height, b : b + width, k * channels : (k + 1) * channels]
        for k, (a, b) in enumerate(NEIGHBOURS)
    )
    return itself + left + upper + upper_left


def cut_border(y):
    """Cut off the outermost rows and columns."""
    return array_library().ascontiguousarray(y[:, 1:-1, 1:-1])


def with_border(grad_y):
    """Put back the outermost rows and columns, as zeros."""
    n, height, width, filters = grad_y.shape
    padded = array_library().zeros((n, height + 2, width + 2, filters), grad_y.dtype)
    padded[:, 1:-1, 1:-1] = grad_y
    return padded


def by_neighbour(weight):
    """(4, 4, C, F) -> (2, 2, 4C, F): the weight for `with_neighbours(x)`."""
    _, _, channels, filters = weight.shape
    parts = weight.reshape(2, 2, 2, 2, channels, filters).transpose(1, 3, 0, 2, 4, 5)  # apbqcf -> pqabcf
    return array_library().ascontiguousarray(parts).reshape(2, 2, 4 * channels, filters)


def by_tap(grad_weight):
    """(2, 2, 4C, F) -> (4, 4, C, F): the inverse of `by_neighbour`."""
    _, _, channels, filters = grad_weight.shape
    parts = grad_weight.reshape(2, 2, 2, 2, channels // 4, filters).transpose(2, 0, 3, 1, 4, 5)
    return array_library().ascontiguousarray(parts).reshape(4, 4, channels // 4, filters)
