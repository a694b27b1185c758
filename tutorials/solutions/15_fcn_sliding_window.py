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
