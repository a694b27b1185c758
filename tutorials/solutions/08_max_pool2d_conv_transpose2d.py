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

# 08.5


def double_bilinear(x):
    for axis in (1, 2):
        x = np.moveaxis(x, axis, 0)
        before, after = np.concatenate([x[:1], x[:-1]]), np.concatenate([x[1:], x[-1:]])
        y = np.empty((2 * len(x), *x.shape[1:]))
        y[0::2], y[1::2] = 0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after
        x = np.moveaxis(y, 0, axis)
    return x


hints_double_bilinear = (
    "One axis after the other. Make the array of all pixels before, and that of all pixels after, with the "
    "edge repeated.",
    "np.moveaxis(x, axis, 0); before = np.concatenate([x[:1], x[:-1]]); y[0::2] = 0.75 * x + 0.25 * before.",
)


def cases_double_bilinear(rng):
    yield from [(rng.standard_normal(shape),) for shape in [(1, 2, 3, 1), (2, 4, 1, 2), (1, 1, 5, 3)]]


def _along(x, rule):
    for axis in (1, 2):
        x = np.moveaxis(x, axis, 0)
        before, after = np.concatenate([x[:1], x[:-1]]), np.concatenate([x[1:], x[-1:]])
        y = np.empty((2 * len(x), *x.shape[1:]))
        y[0::2], y[1::2] = rule(before, x, after)
        x = np.moveaxis(y, 0, axis)
    return x


def _wrapped_round(x):
    for axis in (1, 2):
        x = np.moveaxis(x, axis, 0)
        y = np.empty((2 * len(x), *x.shape[1:]))
        y[0::2] = 0.75 * x + 0.25 * np.roll(x, 1, axis=0)
        y[1::2] = 0.75 * x + 0.25 * np.roll(x, -1, axis=0)
        x = np.moveaxis(y, 0, axis)
    return x


def _zeros_beyond(x):
    def along(x, axis):
        padded = np.pad(x, [(int(a == axis), int(a == axis)) for a in range(4)])
        n = x.shape[axis]
        before, after = (padded.take(range(k, k + n), axis) for k in (0, 2))
        pair = np.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        return pair.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])

    return along(along(x, 1), 2)


wrong_double_bilinear = {
    "zeros beyond the edge": _zeros_beyond,
    "the opposite edge in place of the edge": _wrapped_round,
    "pixels repeated": lambda x: np.repeat(np.repeat(x, 2, axis=1), 2, axis=2),
    "every second output is an input": lambda x: _along(x, lambda b, x, a: (x, (x + a) / 2)),
    "before and after exchanged": lambda x: _along(
        x, lambda b, x, a: (0.75 * x + 0.25 * a, 0.75 * x + 0.25 * b)
    ),
    "along one axis": lambda x: double_bilinear(x)[:, :, ::2],
}

# 08.6


def double_bilinear_backward(grad_y):
    for axis in (2, 1):
        even, odd = np.moveaxis(grad_y, axis, 0)[0::2], np.moveaxis(grad_y, axis, 0)[1::2]
        grad_x = 0.75 * (even + odd)
        grad_x[:-1] += 0.25 * even[1:]
        grad_x[1:] += 0.25 * odd[:-1]
        grad_x[0] += 0.25 * even[0]
        grad_x[-1] += 0.25 * odd[-1]
        grad_y = np.moveaxis(grad_x, 0, axis)
    return grad_y


hints_double_bilinear_backward = (
    "Which outputs did input i go to, and with which factors? Four, along one axis. The edge went to its own "
    "twice.",
    "0.75 of outputs 2 i and 2 i + 1, 0.25 of 2 i + 2 and 2 i - 1; grad_x[0] also gets 0.25 of output 0.",
)


def cases_double_bilinear_backward(rng):
    yield from [(rng.standard_normal(shape),) for shape in [(1, 4, 6, 1), (2, 8, 2, 2), (1, 2, 10, 3)]]


def _edge_lost(grad_y):
    wide = np.pad(grad_y, ((0, 0), (2, 2), (2, 2), (0, 0)))
    return double_bilinear_backward(wide)[:, 1:-1, 1:-1]


wrong_double_bilinear_backward = {
    "the sum of the four pixels of a square, as if each were repeated": lambda g: (
        g[:, ::2, ::2] + g[:, 1::2, ::2] + g[:, ::2, 1::2] + g[:, 1::2, 1::2]
    ),
    "what the edge gets a second time is lost": _edge_lost,
    "the mean of four": lambda g: (g[:, ::2, ::2] + g[:, 1::2, ::2] + g[:, ::2, 1::2] + g[:, 1::2, 1::2]) / 4,
    "divided by 4: weights that sum to 1": lambda g: double_bilinear_backward(g) / 4,
}

# 08.7


def pool3(x):
    height, width = (x.shape[1] - 3) // 2 + 1, (x.shape[2] - 3) // 2 + 1
    y = np.full((len(x), height, width, x.shape[3]), -np.inf)
    for p, q in np.ndindex(3, 3):
        y = np.maximum(y, x[:, p : p + 2 * height : 2, q : q + 2 * width : 2])
    return y


hints_pool3 = (
    "By taps: the largest of nine maps, each of them x shifted and every second pixel taken.",
    "x[:, p : p + 2 * height : 2, q : q + 2 * width : 2] for p, q in np.ndindex(3, 3), and np.maximum.",
)


def cases_pool3(rng):
    for shape in [(1, 3, 5, 1), (2, 6, 7, 2), (1, 4, 4, 3)]:
        yield (rng.standard_normal(shape),)
    yield (-1 - rng.random((1, 5, 5, 1)),)


def _two_by_two(x):
    height, width = (x.shape[1] - 3) // 2 + 1, (x.shape[2] - 3) // 2 + 1
    parts = [x[:, p : p + 2 * height : 2, q : q + 2 * width : 2] for p, q in np.ndindex(2, 2)]
    return np.max(parts, axis=0)


def _one_pixel_apart(x):
    height, width = (x.shape[1] - 3) // 2 + 1, (x.shape[2] - 3) // 2 + 1
    return np.max([x[:, p : p + height, q : q + width] for p, q in np.ndindex(3, 3)], axis=0)


wrong_pool3 = {
    "windows of 2×2": _two_by_two,
    "windows one pixel apart, not two": _one_pixel_apart,
    "one maximum for all channels": lambda x: np.repeat(
        pool3(x).max(axis=3, keepdims=True), x.shape[3], axis=3
    ),
    "begun with 0": lambda x: np.maximum(pool3(x), 0),
    "the smallest": lambda x: -pool3(-x),
}

# 08.8


def pool3_backward(grad_y, x):
    y, grad_x = pool3(x), np.zeros(x.shape)
    height, width = y.shape[1:3]
    left = grad_y.copy()
    for p, q in np.ndindex(3, 3):
        read = np.s_[:, p : p + 2 * height : 2, q : q + 2 * width : 2]
        wins = x[read] == y
        grad_x[read] += np.where(wins, left, 0)
        left[wins] = 0
    return grad_x


hints_pool3_backward = (
    "By taps in reading order: where the tap's pixel equals y, it gets the gradient, and later taps do not.",
    "In a copy of grad_y, set to 0 what has been given away; grad_x[...] += np.where(wins, left, 0).",
)


def cases_pool3_backward(rng):
    for (x,) in cases_pool3(rng):
        yield rng.standard_normal(pool3(x).shape), x
    x = rng.integers(0, 3, (1, 7, 7, 2)).astype(float)  # with ties
    yield rng.standard_normal(pool3(x).shape), x


def _by_taps(add, stride=2):
    """Make a backward in which `add` puts what a tap gets, 0 where it does not win, into grad_x."""

    def answer(grad_y, x):
        y, grad_x = pool3(x), np.zeros(x.shape)
        height, width = y.shape[1:3]
        for p, q in np.ndindex(3, 3):
            read = np.s_[:, p : p + stride * height : stride, q : q + stride * width : stride]
            wins = x[read] == y
            add(grad_x, read, np.where(wins, grad_y, 0), wins)
        return grad_x

    return answer


def _sum_up(grad_x, read, share, wins):
    grad_x[read] += share


def _overwrite(grad_x, read, share, wins):
    grad_x[read] = share


def _overwrite_where_it_wins(grad_x, read, share, wins):
    grad_x[read] = np.where(wins, share, grad_x[read])


def _by_windows(add):
    """Make a backward in which `add` puts each window's gradient into grad_x, by the maximum's places."""

    def answer(grad_y, x):
        grad_x = np.zeros(x.shape)
        for n, i, j, c in np.ndindex(grad_y.shape):
            window = np.s_[n, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, c]
            add(grad_x[window], np.argwhere(x[window] == x[window].max()), grad_y[n, i, j, c])
        return grad_x

    return answer


def _put_first(grad_window, places, grad):
    grad_window[tuple(places[0])] = grad


def _add_last(grad_window, places, grad):
    grad_window[tuple(places[-1])] += grad


def _share(grad_window, places, grad):
    grad_window[tuple(places.T)] += grad / len(places)


wrong_pool3_backward = {
    "each tap overwrites what earlier taps wrote, with zeros too: add with +=": _by_taps(_overwrite),
    "a pixel that is the largest of several windows gets the gradient of the last one, not the sum of all; "
    "with arrays of indices += adds once for each place, and np.add.at adds all": _by_windows(_put_first),
    "a pixel that is the largest of several windows gets the gradient of the first one, not the sum of all": (
        _by_taps(_overwrite_where_it_wins)
    ),
    "windows one pixel apart, not two": _by_taps(_sum_up, stride=1),
    "all equal values get the gradient": _by_taps(_sum_up),
    "of equal values the last one gets the gradient, not the first": _by_windows(_add_last),
    "equal values share the gradient": _by_windows(_share),
}
