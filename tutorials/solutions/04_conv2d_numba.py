"""Worked answers of chapter 04, the cases they are checked on, and answers known to be wrong."""

import numpy as np
from lesson import WrongAnswer, attempt, compare, describe, is_open
from numba import prange
from race import find_race

# 04.1


def count(height, width, channels, filters):
    outputs = height * width * filters
    numbers = (height + 2) * (width + 2) * channels + 9 * channels * filters + outputs
    return 2 * 9 * channels * outputs, 4 * numbers


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
        compare(found, weight_gradient(x, grad_y, zeros.copy()), f"for {describe((x, grad_y))}")
        race = find_race(function, x, grad_y, zeros.copy())
        if race is not None:
            raise WrongAnswer(f"{race}, for {describe((x, grad_y))}")
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
    "window turned": lambda x, grad_y, w: weight_gradient(x[::-1, ::-1], grad_y, w),
}

# 04.3


def two_outputs(d, g):
    m1 = (d[0] - d[2]) * g[0]
    m2 = (d[1] + d[2]) * ((g[0] + g[1] + g[2]) / 2)
    m3 = (d[2] - d[1]) * ((g[0] - g[1] + g[2]) / 2)
    m4 = (d[1] - d[3]) * g[2]
    y0, y1 = m1 + m2 + m3, m2 - m3 - m4
    return y0, y1


class Term:
    """A number of the d side or the g side, or of neither, that counts the products of the two sides."""

    products = 0

    def __init__(self, value, side):
        self.value, self.side = value, side

    def __add__(self, other):
        other = other if isinstance(other, Term) else Term(other, self.side)
        return Term(self.value + other.value, self.side if self.side == other.side else "both")

    def __neg__(self):
        return Term(-self.value, self.side)

    def __sub__(self, other):
        return self + -other

    def __mul__(self, other):
        if not isinstance(other, Term):
            return Term(self.value * other, self.side)
        Term.products += 1
        return Term(self.value * other.value, "both")

    def __truediv__(self, other):
        return self * (1 / other)

    __radd__, __rmul__ = __add__, __mul__


def check_two_outputs(function):
    rng = np.random.default_rng(0)
    for _ in range(3):
        d, g = rng.standard_normal(4), rng.standard_normal(3)
        Term.products = 0
        found = attempt(function, [Term(value, "d") for value in d], [Term(value, "g") for value in g])
        if is_open(found):
            return False
        if len(found) != 2:
            raise WrongAnswer(f"{len(found)} outputs where 2 are expected")
        expected = np.correlate(d, g, mode="valid")
        compare(np.array([term.value for term in found]), expected, f"for d = {d}, g = {g}")
        if Term.products != 4:
            raise WrongAnswer(f"{Term.products} products where 4 are expected")
    return True


def _without_halves(d, g):
    m1, m4 = (d[0] - d[2]) * g[0], (d[1] - d[3]) * g[2]
    m2, m3 = (d[1] + d[2]) * (g[0] + g[1] + g[2]), (d[2] - d[1]) * (g[0] - g[1] + g[2])
    return m1 + m2 + m3, m2 - m3 - m4


def _wrong_sign(d, g):
    y0, y1 = two_outputs(d, g)
    return y0, y1 + 2 * ((d[1] - d[3]) * g[2])


wrong_two_outputs = {
    "six products": lambda d, g: [sum(d[i + p] * g[p] for p in range(3)) for i in range(2)],
    "the halves forgotten": _without_halves,
    "m4 added": _wrong_sign,
    "the filter turned": lambda d, g: two_outputs(d, g[::-1]),
    "one output": lambda d, g: two_outputs(d, g)[:1],
}
