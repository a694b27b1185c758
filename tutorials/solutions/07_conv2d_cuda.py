"""Worked answers of chapter 07, the cases they are checked on, and answers known to be wrong."""

from functools import partial

import numpy as np
from lesson import constants
from numpy.lib.stride_tricks import sliding_window_view
from puzzle import Puzzle

HELPERS, NAIVE, TILED, REGISTERS = constants("07", "HELPERS", "NAIVE", "TILED", "REGISTERS")


def layers(rng, grid_of, block):
    """Yield two layers, of odd and of even sizes, as cases of a puzzle."""
    for height, width, channels, filters in [(5, 6, 3, 5), (6, 6, 16, 64)]:
        x = rng.standard_normal((height, width, channels), np.float32)
        weight = rng.standard_normal((3, 3, channels, filters), np.float32)
        y = np.einsum("ijcpq,pqcf->ijf", sliding_window_view(x, (3, 3), axis=(0, 1)), weight)
        y = y.reshape(-1, filters)
        arguments = x, weight, None, width, channels, filters, len(y)
        yield grid_of(len(y), filters), block, arguments, y


# 07.1


def naive_sum():
    return """for (int p = 0; p < 3; p++)
    for (int q = 0; q < 3; q++)
        for (int c = 0; c < channels; c++) {
            float pixel = x[((i + p) * width + j + q) * channels + c];
            float w = weight[((p * 3 + q) * channels + c) * filters + f];
            sum += pixel * w;
        }"""


hints_naive_sum = (
    "The pixel is x[i + p, j + q, c]. Put these three into the formula of the text.",
    "for (int p = 0; p < 3; p++) …, and inside of three loops: sum += x[…] * weight[…];",
)
wrong_naive_sum = {
    "the window flipped": lambda: naive_sum().replace("(p * 3 + q)", "((2 - p) * 3 + 2 - q)"),
    "the width of the output": lambda: naive_sum().replace("* width", "* (width - 2)"),
    "one tap too few": lambda: naive_sum().replace("q < 3", "q < 2"),
    "not C++": lambda: "for p in range(3): sum += x[p]",
}

# 07.2


def count_segments(addresses):
    return len(np.unique(addresses // 128))


hints_count_segments = (
    "Number the segments of 128 bytes. Which number belongs to an address?",
    "addresses // 128 numbers the segments; np.unique leaves each once.",
)


def cases_count_segments(rng):
    lanes = np.arange(32)
    for addresses in (4 * lanes, 0 * lanes, 64 + 4 * lanes, 128 * lanes, 4 * lanes[::-1]):
        yield (addresses,)
    yield (4 * rng.integers(0, 500, 32),)


wrong_count_segments = {
    "bytes over 128": lambda addresses: -(-4 * len(addresses) // 128),
    "from the first to the last": lambda addresses: (addresses.max() - addresses.min()) // 128 + 1,
    "a segment of 32 bytes": lambda addresses: len(np.unique(addresses // 32)),
    "one segment per thread": lambda addresses: len(np.unique(addresses)),
}

# 07.3


def bytes_per_output(r, s, size, channels):
    return 4 * size * size * channels * (r + s) / (r * s)


hints_bytes_per_output = (
    "What does one thread read in all, and how many outputs does it make of it?",
    "r windows and s columns of weights, each of size * size * channels float32.",
)


def cases_bytes_per_output(rng):
    yield from [(1, 1, 1, 1), (1, 1, 3, 64), (8, 2, 3, 5), (128, 64, 5, 7)]


wrong_bytes_per_output = {
    "numbers, not bytes": lambda *sizes: bytes_per_output(*sizes) / 4,
    "of the whole block": lambda r, s, *window: bytes_per_output(r, s, *window) * r * s,
    "one factor only": lambda r, s, size, channels: 4 * size * size * channels * r / (r * s),
    "a window of one row": lambda r, s, size, channels: 4 * size * channels * (r + s) / (r * s),
}

# 07.4


def tiled_step():
    return """windows[u][v] = window_at(x, l, row, k + v);
weights[u][v] = weight_at(weight, l, k + u, f);
__syncthreads();  // both tiles are complete
for (int e = 0; e < 16; e++) sum += windows[u][e] * weights[e][v];
__syncthreads();  // both tiles have been used"""


hints_tiled_step = (
    "Fetch two numbers; all wait; add 16 products of row u of one tile and column v of the other.",
    "sum += windows[u][e] * weights[e][v]; and before the next step all wait once more.",
)
wrong_tiled_step = {
    "no barrier before the products": lambda: tiled_step().replace(
        "__syncthreads();  // both tiles are", "// are"
    ),
    "no barrier after the products": lambda: tiled_step().replace(
        "__syncthreads();  // both tiles have", "// have"
    ),
    "the second tile transposed": lambda: tiled_step().replace("weights[e][v]", "weights[v][e]"),
    "without tiles": lambda: (
        "for (int e = 0; e < 16; e++) sum += window_at(x, l, row, k + e) * weight_at(weight, l, k + e, f);"
    ),
}

# 07.5


def register_step():
    return """for (int m = 0; m < 4; m++) left[m] = windows[u + 16 * m][e];
for (int m = 0; m < 4; m++) right[m] = weights[e][v + 16 * m];
for (int m = 0; m < 16; m++) sum[m / 4][m % 4] += left[m / 4] * right[m % 4];"""


hints_register_step = (
    "The rows of a thread are u, u + 16, … of windows, its filters v, v + 16, … of weights, both at e.",
    "Two loops that read four numbers each, then two nested loops: sum[m][n] += left[m] * right[n];",
)
wrong_register_step = {
    "neighbouring rows": lambda: register_step().replace("u + 16 * m", "4 * u + m"),
    "the outputs transposed": lambda: register_step().replace("sum[m / 4][m % 4]", "sum[m % 4][m / 4]"),
    "read again for each product": lambda: (
        "for (int m = 0; m < 16; m++)\n"
        "    sum[m / 4][m % 4] += windows[u + m / 4 * 16][e] * weights[e][v + m % 4 * 16];"
    ),
}

PUZZLES = {
    "naive_sum": Puzzle(
        NAIVE,
        lambda rng: layers(rng, lambda rows, filters: (-(-rows * filters // 256),), (256,)),
        par=(9248, 0),
    ),
    "tiled_step": Puzzle(
        TILED,
        lambda rng: layers(rng, lambda rows, filters: (-(-rows // 16), -(-filters // 16)), (16, 16)),
        par=(1024, 9792),
        limit=(3000, 12000),
        too_many="each number of both tiles should be fetched once",
    ),
    "register_step": Puzzle(
        REGISTERS,
        lambda rng: layers(rng, lambda rows, filters: (-(-rows // 64), -(-filters // 64)), (16, 16)),
        par=(736, 10080),
        limit=(np.inf, 12000),
        too_many="each number should be read once into left or right, for four products",
    ),
}
for _name, _puzzle in PUZZLES.items():
    globals()[f"check_{_name}"] = partial(_puzzle.check, mistakes=globals()[f"wrong_{_name}"])
    globals()[f"score_{_name}"] = _puzzle.score
