"""Worked answers of chapter 05, the cases they are checked on, and answers known to be wrong."""

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
