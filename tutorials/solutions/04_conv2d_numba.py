"""Worked answers of chapter 04, the cases they are checked on, and answers known to be wrong."""

import numpy as np
from lesson import WrongAnswer, attempt, compare, describe, is_open, parameters
from numba import prange
from race import find_race

# 04.1


def count(height, width, channels, filters):
    outputs = height * width * filters
    numbers = (height + 2) * (width + 2) * channels + 9 * channels * filters + outputs
    return 2 * 9 * channels * outputs, 4 * numbers


hints_count = (
    "First the number of outputs. Then the numbers that must be read and written at least once.",
    "An output takes 9 C multiplications, and as many additions.",
)


returns_count = "operations", "bytes"


def cases_count(rng):
    yield from [(1, 1, 1, 1), (5, 7, 3, 2), (30, 11, 8, 16)]


wrong_count = {
    "additions forgotten": lambda *sizes: (count(*sizes)[0] // 2, count(*sizes)[1]),
    "numbers, not bytes": lambda *sizes: (count(*sizes)[0], count(*sizes)[1] // 4),
    "the input as large as the output": lambda h, w, c, f: (
        18 * h * w * c * f,
        4 * (h * w * (c + f) + 9 * c * f),
    ),
    "one channel": lambda h, w, c, f: (18 * h * w * f, count(h, w, c, f)[1]),
}

# 04.2


def weight_gradient(x, grad_y, grad_weight):
    height, width, filters = grad_y.shape
    for c in prange(x.shape[2]):
        for i in range(height):
            for j in range(width):
                for p in range(3):
                    for q in range(3):
                        for f in range(filters):
                            grad_weight[p, q, c, f] += x[i + p, j + q, c] * grad_y[i, j, f]
    return grad_weight


hints_weight_gradient = (
    "Two passes of the parallel loop must never write the same element. Which letters number grad_weight?",
    "One pass per channel c writes grad_weight[:, :, c, :] and nothing else.",
)


def check_weight_gradient(function):
    rng = np.random.default_rng(0)
    for height, width, channels, filters in [(1, 1, 1, 1), (3, 4, 2, 3), (5, 2, 3, 1)]:
        x = rng.standard_normal((height + 2, width + 2, channels))
        grad_y = rng.standard_normal((height, width, filters))
        zeros = np.zeros((3, 3, channels, filters))
        given = zeros.copy()
        found = attempt(getattr(function, "py_func", function), x, grad_y, given)
        if is_open(found) and not given.any():
            return False
        if found is not given:
            raise WrongAnswer("return grad_weight, the array that was passed in")
        where = f"for {describe((x, grad_y), ('x', 'grad_y'))}"
        compare(found, weight_gradient(x, grad_y, zeros.copy()), where)
        race = find_race(function, x, grad_y, zeros.copy())
        if race is not None:
            raise WrongAnswer(f"{race}, {where}")
    return True


def _rows_in_parallel(x, grad_y, grad_weight):
    for i in prange(len(grad_y)):
        grad_weight += weight_gradient(x[i : i + 3], grad_y[i : i + 1], np.zeros(grad_weight.shape))
    return grad_weight


def _columns_in_parallel(x, grad_y, grad_weight):
    for j in prange(grad_y.shape[1]):
        for p in range(3):
            for q in range(3):
                for i in range(len(grad_y)):
                    grad_weight[p, q] += np.outer(x[i + p, j + q], grad_y[i, j])
    return grad_weight


def _shared_parts(x, grad_y, grad_weight):
    parts = np.zeros((2, *grad_weight.shape))
    for i in prange(len(grad_y)):
        parts[i % 2] += weight_gradient(x[i : i + 3], grad_y[i : i + 1], np.zeros(grad_weight.shape))
    grad_weight[:] = parts.sum(axis=0)
    return grad_weight


def _on_one_core(x, grad_y, grad_weight):
    for i in range(len(grad_y)):
        grad_weight += weight_gradient(x[i : i + 3], grad_y[i : i + 1], np.zeros(grad_weight.shape))
    return grad_weight


wrong_weight_gradient = {
    "the race itself": _rows_in_parallel,
    "another loop with the same fault": _columns_in_parallel,
    "two parts for any number of rows": _shared_parts,
    "not parallel at all": _on_one_core,
    "window flipped": lambda x, grad_y, w: weight_gradient(x[::-1, ::-1], grad_y, w),
}

# 04.3


def input_gradient(grad_y, weight, grad_x):
    height, width, filters = grad_y.shape
    for i in prange(height + 2):
        for j in range(width + 2):
            for p in range(3):
                for q in range(3):
                    if 0 <= i - p < height and 0 <= j - q < width:
                        for c in range(grad_x.shape[2]):
                            for f in range(filters):
                                grad_x[i, j, c] += grad_y[i - p, j - q, f] * weight[p, q, c, f]
    return grad_x


hints_input_gradient = (
    "Pixel (i, j) was read as x[i' + p, j' + q]. Which output (i', j') did that with tap (p, q)?",
    "It is (i - p, j - q): add its grad_y times weight[p, q] if 0 <= i - p < height, and the same for j.",
)


def _check_loop(function, right, cases, name, before=0.0):
    """Compare a parallel loop that writes into its last argument, full of `before`, and look for races."""
    for *arrays, shape in cases:
        given = np.full(shape, before)
        found = attempt(getattr(function, "py_func", function), *arrays, given)
        if is_open(found) and np.all(given == before):
            return False
        if found is not given:
            raise WrongAnswer(f"return {name}, the array that was passed in")
        where = f"for {describe(arrays, parameters(right))}"
        compare(found, right(*arrays, np.zeros(shape)), where)
        race = find_race(function, *arrays, np.full(shape, before))
        if race is not None:
            raise WrongAnswer(f"{race}, {where}")
    return True


def check_input_gradient(function):
    rng = np.random.default_rng(0)
    cases = []
    for height, width, channels, filters in [(1, 1, 1, 1), (3, 4, 2, 3), (5, 2, 3, 1)]:
        grad_y = rng.standard_normal((height, width, filters))
        weight = rng.standard_normal((3, 3, channels, filters))
        cases.append((grad_y, weight, (height + 2, width + 2, channels)))
    return _check_loop(function, input_gradient, cases, "grad_x")


def _painted(grad_y, weight, grad_x):
    height, width, _ = grad_y.shape
    for i in prange(height):
        for j in range(width):
            for p in range(3):
                for q in range(3):
                    grad_x[i + p, j + q] += weight[p, q] @ grad_y[i, j]
    return grad_x


def _wrapped(grad_y, weight, grad_x):
    height, width, _ = grad_y.shape
    for i in prange(height + 2):
        for j in range(width + 2):
            for p in range(3):
                for q in range(3):
                    if i - p < height and j - q < width:
                        grad_x[i, j] += weight[p, q] @ grad_y[i - p, j - q]
    return grad_x


def _flipped(grad_y, weight, grad_x):
    return input_gradient(grad_y, weight[::-1, ::-1], grad_x)


wrong_input_gradient = {
    "the window flipped: (i, j) was read by the outputs (i - p, j - q)": _flipped,
    "windows painted: a race": _painted,
    "negative indices count from the end": _wrapped,
    "window flipped": lambda grad_y, weight, grad_x: input_gradient(grad_y, weight[::-1, ::-1], grad_x),
}

# 04.4


def conv_bias_relu(x, weight, bias, y):
    height, width, filters = y.shape
    for i in prange(height):
        for j in range(width):
            for f in range(filters):
                y[i, j, f] = bias[f]
            for p in range(3):
                for q in range(3):
                    for c in range(x.shape[2]):
                        for f in range(filters):
                            y[i, j, f] += x[i + p, j + q, c] * weight[p, q, c, f]
            for f in range(filters):
                y[i, j, f] = max(y[i, j, f], 0)
    return y


hints_conv_bias_relu = (
    "One pass per row of y. A pixel begins with the bias, and the ReLU comes after its last product.",
    "Per pixel: a loop over f that writes bias[f], the loops over p, q, c, f, and one more for the ReLU.",
)


def check_conv_bias_relu(function):
    rng = np.random.default_rng(1)
    cases = []
    for height, width, channels, filters in [(1, 1, 1, 2), (3, 4, 2, 3), (5, 2, 3, 1)]:
        x, weight = (
            rng.standard_normal(shape)
            for shape in [(height + 2, width + 2, channels), (3, 3, channels, filters)]
        )
        cases.append((x, weight, rng.standard_normal(filters), (height, width, filters)))
    return _check_loop(function, conv_bias_relu, cases, "y", before=7.0)


def _bias_after_the_relu(x, weight, bias, y):
    return np.add(conv_bias_relu(x, weight, 0 * bias, y), bias, out=y)


def _relu_of_each_product(x, weight, bias, y):
    y += bias
    for i in prange(len(y)):
        for j in range(y.shape[1]):
            for p in range(3):
                for q in range(3):
                    y[i, j] = np.maximum(y[i, j] + x[i + p, j + q] @ weight[p, q], 0)
    return y


def _begun_with_what_is_in_y(x, weight, bias, y):
    for i in prange(len(y)):
        for j in range(y.shape[1]):
            for p in range(3):
                for q in range(3):
                    y[i, j] += x[i + p, j + q] @ weight[p, q]
            y[i, j] = np.maximum(y[i, j] + bias, 0)
    return y


def _channels_in_parallel(x, weight, bias, y):
    y += bias
    for c in prange(x.shape[2]):
        for i in range(len(y)):
            for j in range(y.shape[1]):
                for p in range(3):
                    for q in range(3):
                        y[i, j] += x[i + p, j + q, c] * weight[p, q, c]
    np.maximum(y, 0, out=y)
    return y


wrong_conv_bias_relu = {
    "added to what is in y at the start; it has to be overwritten": _begun_with_what_is_in_y,
    "the bias after the ReLU": _bias_after_the_relu,
    "a ReLU of every partial sum": _relu_of_each_product,
    "channels in parallel: a race": _channels_in_parallel,
    "no ReLU": lambda x, weight, bias, y: np.add(
        y,
        sum(x[p : p + len(y), q : q + y.shape[1]] @ weight[p, q] for p, q in np.ndindex(3, 3)) + bias,
        out=y,
    ),
}
