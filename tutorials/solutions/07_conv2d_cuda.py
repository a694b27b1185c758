"""Worked answers of chapter 07, the cases they are checked on, and answers known to be wrong."""

import numpy as np
from lesson import WrongAnswer, attempt, compare, is_open

from tinyunet.backend.cuda import run_checked
from tinyunet.errors import KernelError

# 07.1


def twice():
    return "if (i < n) y[i] = 2 * x[i];"


hints_twice = (
    "The last block has more threads than there are numbers left.",
    '"if (...) y[...] = ...;" Which threads have a number?',
)


def check_twice(function):
    """Run the answer on the emulator, with more threads than numbers."""
    line = attempt(function)
    if is_open(line):
        return False
    if not isinstance(line, str):
        raise WrongAnswer(f"{line!r:.60} where a line of C++ in quotation marks is expected")
    source = f"""extern "C" __global__ void twice(const float* x, float* y, int n) {{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    {line}
}}"""
    for count, blocks in [(64, 1), (100, 2), (1, 1)]:
        x = np.random.default_rng(0).standard_normal(count, dtype=np.float32)
        y = np.full(count, np.nan, np.float32)
        try:
            run_checked(source, "twice", (blocks,), (64,), x, y, count)
        except KernelError as error:
            raise WrongAnswer(f"n = {count} with {blocks} block(s) of 64 threads:\n{error}") from None
        compare(y, 2 * x, f"for n = {count} with {blocks} block(s) of 64 threads")
    return True


wrong_twice = {
    "no guard": lambda: "y[i] = 2 * x[i];",
    "the guard lets one too many through": lambda: "if (i <= n) y[i] = 2 * x[i];",
    "the place in the block, not in the array": lambda: "i = threadIdx.x; if (i < n) y[i] = 2 * x[i];",
    "once": lambda: "if (i < n) y[i] = x[i];",
    "not C++": lambda: "y[:] = 2 * x",
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


def barriers():
    return [5]


hints_barriers = (
    "Run it in your head with two threads, one of which is far ahead. What does the other one read?",
    "In every pass a thread reads numbers that another one has just written.",
)


SUM_OF_BLOCK = """extern "C" __global__ void sum_of_block(const float* x, float* y) {
    __shared__ float parts[128];
    parts[threadIdx.x] = x[blockIdx.x * 128 + threadIdx.x];
    for (int half = 64; half > 0; half /= 2) {
        if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    }
    if (threadIdx.x == 0) y[blockIdx.x] = parts[0];
}"""


def check_barriers(function):
    """Accept any place that leaves no race: the kernel is run with the barriers in it."""
    numbers = attempt(function)
    if is_open(numbers):
        return False
    lines = SUM_OF_BLOCK.splitlines()
    for number in numbers:
        if not 2 < number <= len(lines):
            raise WrongAnswer(f"line {number} is no place for a barrier: lines 3 to {len(lines)} are")
    for number in set(numbers):  # in front of the line, so that the numbers in messages stay right
        lines[number - 1] = "__syncthreads(); " + lines[number - 1]
    x = np.random.default_rng(0).standard_normal((2, 128), dtype=np.float32)
    y = np.empty(2, np.float32)
    try:
        run_checked("\n".join(lines), "sum_of_block", (2,), (128,), x, y)
    except KernelError as error:
        raise WrongAnswer(f"with barriers before the lines {numbers}:\n{error}") from None
    if not np.allclose(y, x.sum(axis=1), atol=1e-4):
        raise WrongAnswer(f"sums {y} where {x.sum(axis=1)} are expected")
    if len(numbers) > 1:
        raise WrongAnswer(f"no race with barriers before the lines {numbers}, but one of them is enough")
    return True


wrong_barriers = {
    "none": lambda: [],
    "only before the loop": lambda: [4],
    "only behind the loop": lambda: [7],
    "everywhere": lambda: [3, 4, 5, 6, 7],
    "one that is not needed": lambda: [5, 7],
    "on top": lambda: [1],
}
