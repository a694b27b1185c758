"""Worked answers of chapter 15, the cases they are checked on, and answers known to be wrong."""

import itertools

import numpy as np

# 15.1


def redundancy(side, window, taps):
    windows = (side - window + 1) ** 2
    return windows * (window - taps + 1) ** 2 / (side - taps + 1) ** 2


hints_redundancy = (
    "Count the outputs of the first convolution in all windows, and in the whole image.",
    "There are (side - window + 1)**2 windows.",
)


def cases_redundancy(rng):
    yield from [(9, 9, 3), (20, 8, 3), (606, 95, 4), (31, 7, 1)]


wrong_redundancy = {
    "one window too few along each axis": lambda side, window, taps: (
        (side - window) ** 2 * (window - taps + 1) ** 2 / (side - taps + 1) ** 2
    ),
    "along one axis": lambda side, window, taps: (
        (side - window + 1) * (window - taps + 1) / (side - taps + 1)
    ),
    "a window for every pixel of the image": lambda side, window, taps: (
        side**2 * (window - taps + 1) ** 2 / (side - taps + 1) ** 2
    ),
    "pixels of the window": lambda side, window, taps: (
        (side - window + 1) ** 2 * window**2 / (side - taps + 1) ** 2
    ),
    "upside down": lambda *sizes: 1 / redundancy(*sizes),
}

# 15.2


def pool(x):
    return x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2).max(axis=(1, 3))


def pool_at_offsets(x):
    height, width = x.shape[0] - 1, x.shape[1] - 1
    return [pool(x[a : a + height, b : b + width]) for a, b in itertools.product((0, 1), repeat=2)]


hints_pool_at_offsets = (
    "Four starts: (0, 0), (0, 1), (1, 0), (1, 1).",
    "From row a and column b on, cut x to even sides, and call pool.",
)


returns_pool_at_offsets = "(0, 0)", "(0, 1)", "(1, 0)", "(1, 1)"


def cases_pool_at_offsets(rng):
    for shape in [(3, 3), (5, 9), (11, 7)]:
        yield (rng.standard_normal(shape),)


wrong_pool_at_offsets = {
    "always from the first pixel": lambda x: [pool(x[:-1, :-1])] * 4,
    "columns first": lambda x: [pool_at_offsets(x)[k] for k in (0, 2, 1, 3)],
    "two offsets": lambda x: pool_at_offsets(x)[::3],
    "every pixel of its own": lambda x: [x[a:-1:2, b:-1:2] for a in (0, 1) for b in (0, 1)],
}

# 15.3


def weight_that_sums(channels):
    identity = np.eye(channels, dtype=np.float32)
    return np.concatenate([identity, identity])[np.newaxis, np.newaxis]


hints_weight_that_sums = (
    "A 1×1 convolution is a matrix: a row per input channel, a column per output channel.",
    "Output channel c takes 1 times channel c and 1 times channel C + c.",
)


def cases_weight_that_sums(rng):
    yield from [(1,), (3,), (4,)]


wrong_weight_that_sums = {
    "only the first": lambda channels: np.eye(2 * channels, channels, dtype=np.float32)[None, None],
    "all channels mixed": lambda channels: np.ones((1, 1, 2 * channels, channels), np.float32),
    "float64": lambda channels: weight_that_sums(channels).astype(float),
    "axes exchanged": lambda channels: weight_that_sums(channels).swapaxes(2, 3),
    "the mean": lambda channels: weight_that_sums(channels) / 2,
}

# 15.4


def dilated_conv(x, weight, d):
    size = len(weight)
    height, width = x.shape[0] - d * (size - 1), x.shape[1] - d * (size - 1)
    y = np.zeros((height, width, weight.shape[3]))
    for p, q in np.ndindex(size, size):
        y += x[d * p : d * p + height, d * q : d * q + width] @ weight[p, q]
    return y


hints_dilated_conv = (
    "By taps, as in chapter 03: tap (p, q) reads the map shifted by d p rows and d q columns.",
    "The window is d (K - 1) + 1 pixels wide, so H - d (K - 1) rows of outputs are left.",
)


def cases_dilated_conv(rng):
    for height, width, channels, filters, size, d in [
        (7, 8, 2, 3, 3, 2),
        (4, 5, 1, 2, 2, 3),
        (5, 4, 3, 1, 3, 1),
    ]:
        yield (
            rng.standard_normal((height, width, channels)),
            rng.standard_normal((size, size, channels, filters)),
            d,
        )


wrong_dilated_conv = {
    "p and q exchanged": lambda x, weight, d: dilated_conv(x, weight.swapaxes(0, 1), d),
    "d ignored": lambda x, weight, d: dilated_conv(x, weight, 1),
    "every d-th output": lambda x, weight, d: dilated_conv(x, weight, d)[::d, ::d],
    "a stride instead": lambda x, weight, d: dilated_conv(x, weight, 1)[::d, ::d],
    "the window flipped": lambda x, weight, d: dilated_conv(x, weight[::-1, ::-1], d),
}

# 15.5


def view(layers):
    side, jump = 1, 1
    for size, stride, dilation in layers:
        side += (size - 1) * dilation * jump
        jump *= stride
    return side, jump


hints_view = (
    "Begin with a side of 1 and a jump of 1. A layer reads neighbours that are jump pixels apart.",
    "First side += (size - 1) * dilation * jump, then jump *= stride.",
)


returns_view = "the side", "the jump"


def cases_view(rng):
    yield ([(3, 1, 1), (2, 2, 1), (3, 1, 2)],)
    yield ([(2, 2, 1)] * 4,)
    yield ([(5, 3, 2), (1, 1, 1), (3, 2, 1)],)


def _stride_first(layers):
    side, jump = 1, 1
    for size, stride, dilation in layers:
        jump *= stride
        side += (size - 1) * dilation * jump
    return side, jump


wrong_view = {
    "the layer's own stride counts for it": _stride_first,
    "sizes added": lambda layers: (sum(size for size, _, _ in layers), view(layers)[1]),
    "dilation forgotten": lambda layers: view([(size, stride, 1) for size, stride, _ in layers]),
}
