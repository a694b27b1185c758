"""Up-convolution with a window of 4×4: 2×2 input pixels paint each output pixel, which can interpolate.

    y[n,2i+r-1,2j+s-1,f] = bias[f] + sum over i,j,r,s,c of weight[r,s,c,f] · x[n,i,j,c]

The outermost row and column that the windows paint are cut off, so that y has twice the height and width.

With r = 2a + p and s = 2b + q this is the 2×2 up-convolution of an image whose pixels carry their neighbours
as further channels: z[n,i,j,(a,b,c)] = x[n,i-a,j-b,c], and weight[p,q,(a,b,c),f] of it is
weight[2a+p,2b+q,c,f]. So the kernels of `conv_transpose2d` do the work, on every backend.
"""

from __future__ import annotations

import numpy as np


def with_neighbours(x):
    """(N, H, W, C) -> (N, H + 1, W + 1, 4C): pixel, left, upper and upper left neighbour; 0 outside."""
    n, height, width, channels = x.shape
    z = np.zeros((n, height + 1, width + 1, 4, channels), x.dtype)
    for a in (0, 1):
        for b in (0, 1):
            z[:, a : a + height, b : b + width, 2 * a + b] = x
    return z.reshape(n, height + 1, width + 1, 4 * channels)


def sum_of_neighbours(grad_z):
    """The gradient of x from that of `with_neighbours(x)`: what each of the four copies got."""
    n, height, width, channels = grad_z.shape
    parts = grad_z.reshape(n, height, width, 4, channels // 4)
    return sum(parts[:, a : a + height - 1, b : b + width - 1, 2 * a + b] for a in (0, 1) for b in (0, 1))


def by_neighbour(weight):
    """(4, 4, C, F) -> (2, 2, 4C, F): the weight for `with_neighbours(x)`."""
    _, _, channels, filters = weight.shape
    parts = weight.reshape(2, 2, 2, 2, channels, filters)  # a p b q c f
    return np.ascontiguousarray(parts.transpose(1, 3, 0, 2, 4, 5)).reshape(2, 2, 4 * channels, filters)


def by_tap(grad_weight):
    """(2, 2, 4C, F) -> (4, 4, C, F): `by_neighbour` undone."""
    _, _, channels, filters = grad_weight.shape
    parts = grad_weight.reshape(2, 2, 2, 2, channels // 4, filters)  # p q a b c f
    return np.ascontiguousarray(parts.transpose(2, 0, 3, 1, 4, 5)).reshape(4, 4, channels // 4, filters)
