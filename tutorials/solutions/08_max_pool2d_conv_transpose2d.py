"""Worked answers of chapter 08, the cases they are checked on, and answers known to be wrong."""

import numpy as np

SHAPES = [
    (1, 2, 3, 1, 2),
    (2, 3, 2, 3, 1),
    (1, 4, 1, 2, 3),
    (2, 1, 5, 2, 2),
]  # N, H, W, C, F, small map

# 08.1


def max_pool(x):
    n, height, width, channels = x.shape
    windows = x.reshape(n, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 5, 2, 4)
    windows = windows.reshape(n, height // 2, width // 2, channels, 4)
    return windows.max(axis=-1), windows.argmax(axis=-1)


hints_max_pool = (
    "Make an axis of length four that holds the four numbers of each window.",
    "Reshape H to (H/2, 2), W to (W/2, 2); move both 2s to the end; make them one 4.",
)


returns_max_pool = "y", "place"


def cases_max_pool(rng):
    for n, height, width, channels, _ in SHAPES:
        yield (rng.standard_normal((n, 2 * height, 2 * width, channels)),)
        yield (rng.integers(0, 3, (n, 2 * height, 2 * width, channels)).astype(float),)  # with ties


def _last_of_equals(x):
    y, place = max_pool(x[:, ::-1, ::-1])
    return y[:, ::-1, ::-1], 3 - place[:, ::-1, ::-1]


def _halves(x):
    """Cut the image into quarters instead of windows."""
    n, height, width, channels = x.shape
    windows = x.reshape(n, 2, height // 2, 2, width // 2, channels).transpose(0, 2, 4, 5, 1, 3)
    windows = windows.reshape(n, height // 2, width // 2, channels, 4)
    return windows.max(axis=-1), windows.argmax(axis=-1)


wrong_max_pool = {
    "the last of equals": _last_of_equals,
    "p and q exchanged": lambda x: (max_pool(x)[0], np.array([0, 2, 1, 3])[max_pool(x)[1]]),
    "quarters of the image": _halves,
    "the largest absolute value": lambda x: max_pool(np.abs(x)),
}

# 08.2


def max_pool_backward(grad_y, x):
    _, place = max_pool(x)
    grad_x = np.zeros(x.shape)
    for p, q in np.ndindex(2, 2):
        grad_x[:, p::2, q::2] = np.where(place == 2 * p + q, grad_y, 0)
    return grad_x


hints_max_pool_backward = (
    "Only the largest of a window takes part in y. The other three get zero.",
    "For each p, q: grad_x[:, p::2, q::2] gets grad_y where place == 2 p + q.",
)


def cases_max_pool_backward(rng):
    for n, height, width, channels, _ in SHAPES:
        large = (n, 2 * height, 2 * width, channels)
        for x in (
            rng.standard_normal(large),
            rng.integers(0, 3, large).astype(float),
        ):  # without ties, and with
            yield rng.standard_normal((n, height, width, channels)), x


def _doubled(a):
    return np.repeat(np.repeat(a, 2, axis=1), 2, axis=2)


def _ties_counted_twice(grad_y, x):
    return np.where(x == _doubled(max_pool(x)[0]), _doubled(grad_y), 0)


def _shared_among_ties(grad_y, x):
    n, height, width, channels = grad_y.shape
    equal = (x == _doubled(max_pool(x)[0])).reshape(n, height, 2, width, 2, channels)
    return _ties_counted_twice(grad_y / equal.sum(axis=(2, 4)), x)


wrong_max_pool_backward = {
    "ties counted twice": _ties_counted_twice,
    "shared among ties": _shared_among_ties,
    "to the whole window": lambda grad_y, x: _doubled(grad_y),
    "always to the first": lambda grad_y, x: max_pool_backward(grad_y, 0 * x),
    "p and q exchanged": lambda grad_y, x: max_pool_backward(
        grad_y.transpose(0, 2, 1, 3), x.transpose(0, 2, 1, 3)
    ),
    "the same place for all channels": lambda grad_y, x: max_pool_backward(
        grad_y, np.broadcast_to(x[..., :1], x.shape)
    ),
}

# 08.3


def up_conv(x, weight, bias):
    n, height, width, _ = x.shape
    y = np.empty((n, 2 * height, 2 * width, weight.shape[3]))
    for p, q in np.ndindex(2, 2):
        y[:, p::2, q::2] = x @ weight[p, q] + bias
    return y


hints_up_conv = (
    "The squares do not overlap: each output pixel comes from one input pixel and one tap.",
    "Four matrix products: x @ weight[p, q] goes to y[:, p::2, q::2].",
)


def cases_up_conv(rng):
    for n, height, width, channels, filters in SHAPES:
        weight = rng.standard_normal((2, 2, channels, filters))
        yield rng.standard_normal((n, height, width, channels)), weight, rng.standard_normal(filters)


def _tiled(x, weight, bias):
    """Put the four products beside each other as whole maps."""
    rows = [np.concatenate([x @ weight[p, q] for q in (0, 1)], axis=2) for p in (0, 1)]
    return np.concatenate(rows, axis=1) + bias


wrong_up_conv = {
    "the window flipped": lambda x, weight, bias: up_conv(x, weight[::-1, ::-1], bias),
    "p and q exchanged": lambda x, weight, bias: up_conv(x, weight.transpose(1, 0, 2, 3), bias),
    "four maps beside each other": _tiled,
    "the bias forgotten": lambda x, weight, bias: up_conv(x, weight, 0 * bias),
    "nearest neighbour": lambda x, weight, bias: np.repeat(np.repeat(x @ weight[0, 0], 2, 1), 2, 2) + bias,
}

# 08.4


def down_conv(y, weight):
    return sum(y[:, p::2, q::2] @ weight[p, q].T for p, q in np.ndindex(2, 2))


hints_down_conv = (
    "Which outputs of up does x[n,i,j,c] reach, and by which weights?",
    "Sum over p, q, f of weight[p,q,c,f] y[n,2i+p,2j+q,f]; y[:, p::2, q::2].",
)


def cases_down_conv(rng):
    for n, height, width, channels, filters in SHAPES:
        weight = rng.standard_normal((2, 2, channels, filters))
        yield rng.standard_normal((n, 2 * height, 2 * width, filters)), weight


wrong_down_conv = {
    "the window flipped": lambda y, weight: down_conv(y, weight[::-1, ::-1]),
    "the mean, not the sum": lambda y, weight: down_conv(y, weight) / 4,
    "the channels not exchanged": lambda y, weight: sum(
        y[:, p::2, q::2] @ weight[p, q] for p, q in np.ndindex(2, 2)
    ),
    "the first tap only": lambda y, weight: y[:, ::2, ::2] @ weight[0, 0].T,
    "the inverse": lambda y, weight: down_conv(y, weight) / np.square(weight).sum(),
}
