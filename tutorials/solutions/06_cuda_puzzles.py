"""Worked answers of chapter 06, the cases they are checked on, and answers known to be wrong."""

from functools import partial

import numpy as np
from puzzle import Puzzle

# 06.1


def double_all():
    return """int i = blockIdx.x * blockDim.x + threadIdx.x;
if (i < n) y[i] = 2 * x[i];"""


def cases_of_double(rng):
    for n, blocks in [(64, 1), (1, 1), (100, 2)]:
        x = rng.standard_normal(n, np.float32)
        yield (blocks,), (64,), (x, None, n), 2 * x


hints_double_all = (
    "The last block has more threads than there are numbers left.",
    "The number of a thread is in the text; then: if (i < n) …",
)
wrong_double_all = {
    "no guard": lambda: "int i = blockIdx.x * blockDim.x + threadIdx.x; y[i] = 2 * x[i];",
    "one too many": lambda: "int i = blockIdx.x * blockDim.x + threadIdx.x; if (i <= n) y[i] = 2 * x[i];",
    "the place in the block": lambda: "int i = threadIdx.x; if (i < n) y[i] = 2 * x[i];",
    "not C++": lambda: "y[:] = 2 * x",
}

# 06.2


def subtract_mean():
    return """int j = blockIdx.x * blockDim.x + threadIdx.x;
int i = blockIdx.y * blockDim.y + threadIdx.y;
if (i < height && j < width) y[i * width + j] = x[i * width + j] - mean[i];"""


def cases_of_mean(rng):
    for height, width in [(8, 16), (3, 5), (10, 20)]:
        x = rng.standard_normal((height, width), np.float32)
        mean = x.mean(axis=1)
        grid = -(-width // 16), -(-height // 8)
        yield grid, (16, 8), (x, mean, None, height, width), x - mean[:, np.newaxis]


hints_subtract_mean = (
    "Two numbers of a thread, as in the first puzzle: the column j along x, the row i along y.",
    "if (i < height && j < width): the pixel is number i * width + j of x and of y.",
)
wrong_subtract_mean = {
    "the axes exchanged": lambda: (
        """int i = blockIdx.x * blockDim.x + threadIdx.x;
int j = blockIdx.y * blockDim.y + threadIdx.y;
if (i < height && j < width) y[i * width + j] = x[i * width + j] - mean[i];"""
    ),
    "one guard": lambda: subtract_mean().replace("i < height && j < width", "i * width + j < height * width"),
    "the mean of the column": lambda: subtract_mean().replace("mean[i]", "mean[j % height]"),
}

# 06.3


def four_each():
    return """int first = blockIdx.x * 256 + threadIdx.x;
for (int k = 0; k < 4; k++) y[first + 64 * k] = 2 * x[first + 64 * k];"""


def cases_of_four(rng):
    for n in (256, 512):
        x = rng.standard_normal(n, np.float32)
        yield (n // 256,), (64,), (x, None, n), 2 * x


hints_four_each = (
    "In each pass of the loop, thread t + 1 should read the number after that of thread t.",
    "Thread t takes the numbers t, t + 64, t + 128 and t + 192 of its block.",
)
wrong_four_each = {
    "four in a row": lambda: (
        """int first = blockIdx.x * 256 + 4 * threadIdx.x;
for (int k = 0; k < 4; k++) y[first + k] = 2 * x[first + k];"""
    ),
    "the block forgotten": lambda: (
        """int first = threadIdx.x;
for (int k = 0; k < 4; k++) y[first + 64 * k] = 2 * x[first + 64 * k];"""
    ),
    "one each": lambda: "int i = blockIdx.x * 256 + threadIdx.x; y[i] = 2 * x[i];",
}

# 06.4


def rank():
    return """__shared__ float tile[64];
int i = blockIdx.x * 64 + threadIdx.x;
tile[threadIdx.x] = x[i];
__syncthreads();
int smaller = 0;
for (int k = 0; k < 64; k++) smaller += tile[k] < tile[threadIdx.x];
y[i] = smaller;"""


def cases_of_rank(rng):
    for blocks in (1, 3):
        x = rng.standard_normal(64 * blocks, np.float32)
        x[5] = x[9]
        of_block = x.reshape(-1, 64)
        smaller = (of_block[:, np.newaxis] < of_block[:, :, np.newaxis]).sum(axis=2)
        yield (blocks,), (64,), (x, None), smaller.astype(np.float32).ravel()


hints_rank = (
    "Each thread writes one number into the tile. Then a barrier. Then each thread reads all 64.",
    "A comparison is 1 or 0: smaller += tile[k] < tile[threadIdx.x];",
)
wrong_rank = {
    "no barrier": lambda: rank().replace("__syncthreads();", ""),
    "without a tile": lambda: (
        """int first = blockIdx.x * 64, smaller = 0;
for (int k = 0; k < 64; k++) smaller += x[first + k] < x[first + threadIdx.x];
y[first + threadIdx.x] = smaller;"""
    ),
    "equal numbers counted": lambda: rank().replace("tile[k] <", "tile[k] <="),
    "a part of the tile": lambda: rank().replace("k < 64", "k < 32"),
}

# 06.5


def ring():
    return """__shared__ float tile[64];
int t = threadIdx.x;
tile[t] = x[t];
for (int s = 0; s < steps; s++) {
    __syncthreads();
    float mean = (tile[(t + 63) % 64] + tile[(t + 1) % 64]) / 2;
    __syncthreads();
    tile[t] = mean;
}
y[t] = tile[t];"""


def cases_of_ring(rng):
    for steps in (0, 1, 5):
        x = y = rng.standard_normal(64, np.float32)
        for _ in range(steps):
            y = (np.roll(y, 1) + np.roll(y, -1)) / 2
        yield (1,), (64,), (x, None, steps), y


hints_ring = (
    "In a step: all have written; read both neighbours; all have read; write.",
    "The neighbours are tile[(t + 63) % 64] and tile[(t + 1) % 64]; keep their mean in a float.",
)
wrong_ring = {
    "the barrier before reading is missing": lambda: ring().replace(
        "    __syncthreads();\n    float", "    float"
    ),
    "the barrier before writing is missing": lambda: ring().replace(
        "    __syncthreads();\n    tile", "    tile"
    ),
    "a barrier that half of the threads reach": lambda: ring().replace(
        "    __syncthreads();\n    tile", "    if (t < 32) __syncthreads();\n    tile"
    ),
    "no ring": lambda: ring().replace("(t + 63) % 64", "(t > 0 ? t - 1 : 0)"),
}

# 06.6


def sum_of_block():
    return """__shared__ float parts[128];
parts[threadIdx.x] = x[blockIdx.x * 128 + threadIdx.x];
for (int half = 64; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
}
if (threadIdx.x == 0) y[blockIdx.x] = parts[0];"""


def cases_of_sum(rng):
    for blocks in (1, 3):
        x = rng.standard_normal((blocks, 128), np.float32)
        yield (blocks,), (128,), (x, None), x.sum(axis=1)


hints_sum_of_block = (
    "A loop over half = 64, 32, …, 1. In every round a thread reads what another one has just written.",
    "for (int half = 64; half > 0; half /= 2): a barrier for all, then if (threadIdx.x < half) …",
)
wrong_sum_of_block = {
    "a barrier before the loop only": lambda: (
        sum_of_block().replace("    __syncthreads();\n", "").replace("for", "__syncthreads();\nfor")
    ),
    "a barrier inside the if": lambda: (
        sum_of_block()
        .replace("    __syncthreads();\n", "")
        .replace("half) parts", "half) __syncthreads(), parts")
    ),
    "one thread adds all": lambda: (
        """__shared__ float parts[128];
parts[threadIdx.x] = x[blockIdx.x * 128 + threadIdx.x];
__syncthreads();
float sum = 0;
for (int k = 0; k < 128; k++) sum += parts[k];
if (threadIdx.x == 0) y[blockIdx.x] = sum;"""
    ),
    "a round is missing": lambda: sum_of_block().replace("half > 0", "half > 1"),
}

# 06.7


def transpose():
    return """__shared__ float tile[32][33];
int i = threadIdx.y, j = threadIdx.x;
tile[i][j] = x[(blockIdx.y * 32 + i) * width + blockIdx.x * 32 + j];
__syncthreads();
y[(blockIdx.x * 32 + i) * height + blockIdx.y * 32 + j] = tile[j][i];"""


def cases_of_transpose(rng):
    for height, width in [(32, 32), (32, 64)]:
        x = rng.standard_normal((height, width), np.float32)
        yield (width // 32, height // 32), (32, 32), (x, None, height, width), x.T.copy()


hints_transpose = (
    "Thread (i, j) writes tile[i][j] and reads tile[j][i]; j, along x, is the column in both arrays.",
    "y has height columns. Its tile begins in row blockIdx.x * 32 and column blockIdx.y * 32. tile[32][33].",
)
wrong_transpose = {
    "the tile read by rows, too: each tile as it was": lambda: transpose().replace(
        "= tile[j][i]", "= tile[i][j]"
    ),
    "bank conflicts": lambda: transpose().replace("[33]", "[32]"),
    "without a tile": lambda: (
        """int i = blockIdx.y * 32 + threadIdx.y, j = blockIdx.x * 32 + threadIdx.x;
y[j * height + i] = x[i * width + j];"""
    ),
    "no barrier": lambda: transpose().replace("__syncthreads();", ""),
    "the tile stays in its place": lambda: transpose().replace(
        "(blockIdx.x * 32 + i) * height + blockIdx.y * 32 + j",
        "(blockIdx.y * 32 + i) * width + blockIdx.x * 32 + j",
    ),
}

# 06.8


def convolve():
    return """__shared__ float tile[68];
int t = threadIdx.x, i = blockIdx.x * 64 + t;
if (i < n + 4) tile[t] = x[i];
if (t < 4 && i + 64 < n + 4) tile[t + 64] = x[i + 64];
__syncthreads();
if (i < n) {
    float sum = 0;
    for (int p = 0; p < 5; p++) sum += w[p] * tile[t + p];
    y[i] = sum;
}"""


def cases_of_convolution(rng):
    for n in (64, 3, 100, 62, 128):
        x, w = rng.standard_normal(n + 4, np.float32), rng.standard_normal(5, np.float32)
        yield (-(-n // 64),), (64,), (x, w, None, n), np.correlate(x, w, "valid")


hints_convolve = (
    "Each thread fetches one number into the tile; four of them fetch one more, number t + 64 of the block.",
    "x[i] exists for i < n + 4. No return before the barrier: put the rest into if (i < n) { … }.",
)
wrong_convolve = {
    "without a tile": lambda: (
        """int i = blockIdx.x * 64 + threadIdx.x;
if (i >= n) return;
float sum = 0;
for (int p = 0; p < 5; p++) sum += w[p] * x[i + p];
y[i] = sum;"""
    ),
    "no halo": lambda: convolve().replace("if (t < 4 && i + 64 < n + 4) tile[t + 64] = x[i + 64];", ""),
    "the window flipped": lambda: convolve().replace("w[p]", "w[4 - p]"),
    "the halo without a guard": lambda: convolve().replace("t < 4 && i + 64 < n + 4", "t < 4"),
    "the guard of y for x": lambda: convolve().replace("if (i < n + 4)", "if (i < n)"),
}

PUZZLES = {
    "double_all": Puzzle("const float* x, float* y, int n", cases_of_double, par=(8, 0)),
    "subtract_mean": Puzzle(
        "const float* x, const float* mean, float* y, int height, int width", cases_of_mean, par=(46, 0)
    ),
    "four_each": Puzzle(
        "const float* x, float* y, int n",
        cases_of_four,
        par=(32, 0),
        limit=(32, 0),
        too_many="neighbouring threads should access neighbouring numbers",
    ),
    "rank": Puzzle(
        "const float* x, float* y",
        cases_of_rank,
        par=(12, 774),
        limit=(12, np.inf),
        too_many="each number should be read from global memory once, into a tile",
    ),
    "ring": Puzzle("const float* x, float* y, int steps", cases_of_ring, par=(4, 34)),
    "sum_of_block": Puzzle(
        "const float* x, float* y",
        cases_of_sum,
        par=(15, 87),
        limit=(15, 150),
        too_many="in each round half of the threads should add one number",
    ),
    "transpose": Puzzle(
        "const float* x, float* y, int height, int width",
        cases_of_transpose,
        par=(128, 128),
        limit=(128, 128),
        too_many="in global memory rows should be read and written, and a column of the tile be in 32 banks",
    ),
    "convolve": Puzzle(
        "const float* x, const float* w, float* y, int n",
        cases_of_convolution,
        par=(30, 26),
        limit=(40, np.inf),
        too_many="each number of x should be read from global memory once, into a tile",
    ),
}
for _name, _puzzle in PUZZLES.items():
    globals()[f"check_{_name}"] = partial(_puzzle.check, mistakes=globals()[f"wrong_{_name}"])
    globals()[f"score_{_name}"] = _puzzle.score
