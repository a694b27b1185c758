"""Worked answers of chapter 05, the cases they are checked on, and answers known to be wrong."""

from fractions import Fraction

import numpy as np
from lesson import WrongAnswer, attempt, compare, is_open

# 05.1


def two_outputs(d, g):
    m1 = (d[0] - d[2]) * g[0]
    m2 = (d[1] + d[2]) * ((g[0] + g[1] + g[2]) / 2)
    m3 = (d[2] - d[1]) * ((g[0] - g[1] + g[2]) / 2)
    m4 = (d[1] - d[3]) * g[2]
    y0, y1 = m1 + m2 + m3, m2 - m3 - m4
    return y0, y1


hints_two_outputs = (
    "Four products m1 … m4, each of a sum of d and a sum of g. m1 and m4 are in the text.",
    "y0 - m1 = m2 + m3 and y1 + m4 = m2 - m3. Put the halves on the side of g.",
)


class Term:
    """A number of the d side, the g side, or of both, that counts the products of two such numbers."""

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
    "the filter flipped": lambda d, g: two_outputs(d, g[::-1]),
    "one output": lambda d, g: two_outputs(d, g)[:1],
}

# 05.2


def values_at(points, length):
    powers = np.vander(points, length, increasing=True)
    return np.vstack([powers, np.eye(length)[-1]])


hints_values_at = (
    "The value of a polynomial at a point is a row of the point's powers times the coefficients.",
    "np.vander(points, length, increasing=True) has the powers; add one row below.",
)


def cases_values_at(rng):
    for count, length in [(3, 2), (3, 3), (2, 4), (5, 1)]:
        yield rng.standard_normal(count), length
    yield np.array([0.0, 1.0, -1.0]), 3


wrong_values_at = {
    "without the leading coefficient": lambda points, length: np.vander(points, length, increasing=True),
    "the highest power first": lambda points, length: np.vstack(
        [np.vander(points, length), np.eye(length)[0]]
    ),
    "the constant in the last row": lambda points, length: np.vstack(
        [np.vander(points, length, increasing=True), np.eye(length)[0]]
    ),
    "one power too many": lambda points, length: values_at(points, length + 1),
}

# 05.3


def products(height, width, channels, filters, m):
    tiles = -(-height // m) * -(-width // m)
    return tiles * (m + 2) ** 2 * channels * filters


hints_products = (
    "Each tile takes (m + 2)² products, for each pair of a channel and a filter.",
    "-(-a // b) is a / b, rounded up: the tiles along an axis.",
)


def cases_products(rng):
    yield from [(8, 8, 1, 1, 1), (8, 8, 3, 5, 2), (7, 9, 2, 3, 4), (5, 13, 1, 2, 4), (3, 2, 4, 1, 6)]


wrong_products = {
    "the last tiles left out": lambda h, w, c, f, m: (h // m) * (w // m) * (m + 2) ** 2 * c * f,
    "parts of tiles": lambda h, w, c, f, m: h * w / m**2 * (m + 2) ** 2 * c * f,
    "one channel": lambda h, w, c, f, m: products(h, w, 1, f, m),
    "along one axis": lambda h, w, c, f, m: -(-h // m) * w * (m + 2) * c * f,
}

# 05.4


def exact_matrices(points, taps):
    def product(roots):
        coefficients = [Fraction(1)]
        for root in roots:
            pairs = zip([Fraction(0), *coefficients], [*coefficients, Fraction(0)], strict=True)
            coefficients = [lower - root * same for lower, same in pairs]
        return coefficients

    points = [Fraction(point) for point in points]
    outputs = len(points) + 2 - taps
    a_t = [[*(p**i for p in points), Fraction(i == outputs - 1)] for i in range(outputs)]
    g, b_t = [], []
    for p in points:
        others = [q for q in points if q != p]
        divisor = Fraction(1)
        for q in others:
            divisor *= p - q
        g.append([p**j / divisor for j in range(taps)])
        b_t.append([*product(others), Fraction(0)])
    g.append([Fraction(j == taps - 1) for j in range(taps)])
    return a_t, g, [*b_t, product(points)]


hints_exact_matrices = (
    "You need the coefficients of a product of (x - q). Begin with [1]; multiplying by x moves all "
    "coefficients up by one place.",
    "New coefficients: lower - q * same, where lower are the old ones behind a 0, and same those before a 0.",
    "outputs = len(points) + 2 - taps. The rows of B_T for points have a 0 at the end.",
)


returns_exact_matrices = "A_T", "G", "B_T"


def check_exact_matrices(function):
    rng = np.random.default_rng(0)
    half = Fraction(1, 2)
    for points, taps in [([0, 1, -1], 3), ([0, 1, -1, 2, -2], 3), ([0, 1, half, -half], 2), ([3, 5], 3)]:
        found = attempt(function, points, taps)
        if is_open(found):
            return False
        where, size = f"for points = {', '.join(map(str, points))} and taps = {taps}", len(points) + 1
        if not isinstance(found, tuple | list) or len(found) != 3:
            raise WrongAnswer(f"3 lists are expected (A_T, G, B_T), not {found!r:.80}, {where}")
        a_t, g, b_t = (np.array(matrix, object) for matrix in found)
        shapes = (size + 1 - taps, size), (size, taps), (size, size)
        for name, matrix, shape in zip(returns_exact_matrices, (a_t, g, b_t), shapes, strict=True):
            if matrix.shape != shape:
                raise WrongAnswer(f"{name} has the shape {matrix.shape} where {shape} is expected, {where}")
            if not all(isinstance(number, Fraction | int) for number in matrix.flat):
                raise WrongAnswer(f"{name} has numbers that are no Fraction, {where}")
        row, filter_ = (
            np.array([Fraction(int(n)) for n in rng.integers(-9, 10, length)]) for length in (size, taps)
        )
        outputs = list(a_t @ ((g @ filter_) * (b_t @ row)))
        expected = [sum(row[i : i + taps] * filter_) for i in range(size + 1 - taps)]
        if outputs != expected:
            raise WrongAnswer(
                f"the outputs are {', '.join(map(str, outputs))} where {', '.join(map(str, expected))} are "
                f"expected, {where}"
            )
    return True


def _never_divided(points, taps):
    a_t, g, b_t = exact_matrices(points, taps)
    return a_t, [[Fraction(p) ** j for j in range(taps)] for p in points] + [g[-1]], b_t


def _zero_first(points, taps):
    a_t, g, b_t = exact_matrices(points, taps)
    return a_t, g, [[row[-1], *row[:-1]] for row in b_t[:-1]] + [b_t[-1]]


def _turned_sign(points, taps):
    a_t, g, b_t = exact_matrices(points, taps)
    sign = (-1) ** (len(points) - 1)
    return a_t, [[sign * number for number in row] for row in g[:-1]] + [g[-1]], b_t


def _highest_first(points, taps):
    a_t, g, b_t = exact_matrices(points, taps)
    return a_t, g, [row[::-1] for row in b_t]


def _in_floating_point(points, taps):
    return tuple(
        [[float(number) for number in row] for row in matrix] for matrix in exact_matrices(points, taps)
    )


wrong_exact_matrices = {
    "the 0 at the beginning of a row of B_T": _zero_first,
    "divided by the products of q - p, not of p - q": _turned_sign,
    "G not divided": _never_divided,
    "the highest power first": _highest_first,
    "infinity forgotten in A_T": lambda points, taps: (
        [[*row[:-1], Fraction(0)] for row in exact_matrices(points, taps)[0]],
        *exact_matrices(points, taps)[1:],
    ),
    "rounded": _in_floating_point,
}

# 05.5


def filter_gradient(tiles, grad_y, a_t, g_matrix, b_t):
    d_terms = tiles @ b_t.T
    grad_products = grad_y @ a_t
    grad_g_terms = np.sum(grad_products * d_terms, axis=0)
    return g_matrix.T @ grad_g_terms


hints_filter_gradient = (
    "The d terms of all tiles are tiles @ b_t.T. What comes back through y = a_t @ products?",
    "grad_y @ a_t is the gradient of the products. Times the d terms, summed over tiles, then g_matrix.T.",
)


def cases_filter_gradient(rng):
    for tiles, outputs, taps in [(1, 2, 3), (4, 4, 3), (3, 3, 2)]:
        n = outputs + taps - 1
        yield (
            rng.standard_normal((tiles, n)),
            rng.standard_normal((tiles, outputs)),
            rng.standard_normal((outputs, n)),
            rng.standard_normal((n, taps)),
            rng.standard_normal((n, n)),
        )


wrong_filter_gradient = {
    "the mean over the tiles": lambda tiles, *others: (
        filter_gradient(tiles, *others) / len(tiles) if len(tiles) > 1 else 0 * others[2][0]
    ),
    "the terms of the tiles forgotten": lambda tiles, grad_y, a_t, g_matrix, b_t: (
        g_matrix.T @ np.sum(grad_y @ a_t, axis=0)
    ),
    "B not transposed": lambda tiles, grad_y, a_t, g_matrix, b_t: filter_gradient(
        tiles, grad_y, a_t, g_matrix, b_t.T
    ),
}
