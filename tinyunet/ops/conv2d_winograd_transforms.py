"""The five small transforms of Winograd's convolution F(4×4, 3×3), along one axis and over tiles.

One dimension first. Multiplying the polynomials g0 + g1·x + g2·x² and y0 + … + y3·x³ gives six coefficients.
Instead of 12 products, take the values of both polynomials at six points, multiply them value by value (6
products), and interpolate the polynomial of degree 5 through the results (Toom and Cook). In matrices:

    product = C [(G g) ∘ (A y)]      G: values of g, A: values of y, C: interpolation, ∘: element by element

A correlation y_i = Σ_r g_r·d_{i+r} is the transpose of that map with respect to y, and so

    y = Aᵀ [(G g) ∘ (Bᵀ d)]          Aᵀ (4×6), G (6×3), Bᵀ = Cᵀ (6×6)

for six inputs d, three weights g and four outputs y. In two dimensions, on tiles of 6×6 inputs, nest it:

    Y = Aᵀ [(G g Gᵀ) ∘ (Bᵀ d B)] A

`matrices` computes Aᵀ, G and Bᵀ from the points, in fractions. The functions `input_1d` to `weight_grad_1d`
write the products with them out, and a test holds the ones against the others. Pairs of points ±a make
pairs of rows with the same even part and the opposite odd part, which halves the work.

Points. Six are needed; 0, ±a, ±b and ∞ (the leading coefficient) are cheapest. Lavin and Gray take a = 1,
b = 2. In float32, a = 3/4, b = 3/2 are 3.5 times as accurate: 1.3e-6 against 4.6e-6 of the largest output
with 512 channels of random numbers (200 tiles, 8 filters), because the powers up to b³ and
1/a⁴ stay closer to 1; and as these are sums of few powers of two, Aᵀ and Bᵀ are exact in float32.

References
----------
.. [1] Lavin and Gray 2015, Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308, section 4.
.. [2] Winograd 1980, Arithmetic Complexity of Computations, chapters III and IV.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from tinyunet.jit import kernel

POINTS = (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2))  # and ∞

Matrix = list[list[Fraction]]


def matrices(
    points: Sequence[Fraction] = POINTS, outputs: int = 4, taps: int = 3
) -> tuple[Matrix, Matrix, Matrix]:
    """Aᵀ (outputs × n), G (n × taps) and Bᵀ (n × n), n = outputs + taps - 1, from n - 1 points and ∞."""
    a_t = [[point**i for point in points] + [Fraction(i == outputs - 1)] for i in range(outputs)]
    g, b_t = [], []
    for point in points:
        # Lagrange: the polynomial that is 1 at this point and 0 at the others. Its denominator goes into G.
        numerator = _with_roots([other for other in points if other != point])
        denominator = sum(coefficient * point**i for i, coefficient in enumerate(numerator))
        g.append([point**r / denominator for r in range(taps)])
        b_t.append([*numerator, Fraction(0)])
    g.append([Fraction(r == taps - 1) for r in range(taps)])
    b_t.append(_with_roots(points))
    return a_t, g, b_t


def _with_roots(roots: Sequence[Fraction]) -> list[Fraction]:
    """The coefficients of Π (x - root), lowest power first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *coefficients], [*coefficients, Fraction(0)]
        coefficients = [high - root * low for high, low in zip(shifted, scaled, strict=True)]
    return coefficients


# One axis. Below, the points are 0, a, -a, b, -b, ∞, in this order.

A, B = np.float32(POINTS[1]), np.float32(POINTS[3])
A2, B2 = A * A, B * B
A3, B3 = A2 * A, B2 * B
# One over the denominators of Lagrange's polynomials.
N0, NA, NB = 1 / (A2 * B2), 1 / (2 * A2 * (A2 - B2)), 1 / (2 * B2 * (B2 - A2))


@kernel
def input_1d(d0, d1, d2, d3, d4, d5):
    """Bᵀ d."""
    even_a, odd_a = d4 - B2 * d2, A * (d3 - B2 * d1)
    even_b, odd_b = d4 - A2 * d2, B * (d3 - A2 * d1)
    return (
        A2 * B2 * d0 - (A2 + B2) * d2 + d4,
        even_a + odd_a,
        even_a - odd_a,
        even_b + odd_b,
        even_b - odd_b,
        A2 * B2 * d1 - (A2 + B2) * d3 + d5,
    )


@kernel
def output_1d(m0, m1, m2, m3, m4, m5):
    """Aᵀ m."""
    even_a, odd_a = m1 + m2, m1 - m2
    even_b, odd_b = m3 + m4, m3 - m4
    return (
        m0 + even_a + even_b,
        A * odd_a + B * odd_b,
        A2 * even_a + B2 * even_b,
        A3 * odd_a + B3 * odd_b + m5,
    )


@kernel
def output_grad_1d(y0, y1, y2, y3):
    """A y."""
    even_a, odd_a = y0 + A2 * y2, A * y1 + A3 * y3
    even_b, odd_b = y0 + B2 * y2, B * y1 + B3 * y3
    return y0, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, y3


@kernel
def weight_1d(g0, g1, g2):
    """G g."""
    even_a, odd_a = NA * (g0 + A2 * g2), NA * A * g1
    even_b, odd_b = NB * (g0 + B2 * g2), NB * B * g1
    return N0 * g0, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, g2


@kernel
def weight_grad_1d(u0, u1, u2, u3, u4, u5):
    """Gᵀ u."""
    even_a, odd_a = NA * (u1 + u2), NA * A * (u1 - u2)
    even_b, odd_b = NB * (u3 + u4), NB * B * (u3 - u4)
    return N0 * u0 + even_a + even_b, odd_a + odd_b, A2 * even_a + B2 * even_b + u5


# The first axis of a strip of tiles. Six (or four) image rows lie side by side, and every column of every
# channel is done alike, so the rows of pixels and channels are read as flat arrays: long vector loops.


@kernel
def _input_rows(d0, d1, d2, d3, d4, d5, v0, v1, v2, v3, v4, v5):
    for e in range(v0.size):
        v0[e], v1[e], v2[e], v3[e], v4[e], v5[e] = input_1d(d0[e], d1[e], d2[e], d3[e], d4[e], d5[e])


@kernel
def _output_grad_rows(d0, d1, d2, d3, v0, v1, v2, v3, v4, v5):
    for e in range(v0.size):
        v0[e], v1[e], v2[e], v3[e], v4[e], v5[e] = output_grad_1d(d0[e], d1[e], d2[e], d3[e])


@kernel
def _output_rows(m0, m1, m2, m3, m4, m5, bias, floor, y0, y1, y2, y3):
    for e in range(y0.size):
        a0, a1, a2, a3 = output_1d(m0[e], m1[e], m2[e], m3[e], m4[e], m5[e])
        y0[e], y1[e] = _at_least(floor, a0 + bias[e]), _at_least(floor, a1 + bias[e])
        y2[e], y3[e] = _at_least(floor, a2 + bias[e]), _at_least(floor, a3 + bias[e])


@kernel
def _at_least(floor, value):
    return floor if value < floor else value  # a NaN stays


@kernel
def _weight_rows(g0, g1, g2, u0, u1, u2, u3, u4, u5):
    for e in range(u0.size):
        u0[e], u1[e], u2[e], u3[e], u4[e], u5[e] = weight_1d(g0[e], g1[e], g2[e])


@kernel
def _weight_grad_rows(u0, u1, u2, u3, u4, u5, g0, g1, g2):
    for e in range(g0.size):
        g0[e], g1[e], g2[e] = weight_grad_1d(u0[e], u1[e], u2[e], u3[e], u4[e], u5[e])


# The second axis: tile t has the columns 4t to 4t + 5 of its inputs (two shared with the next tile) and
# the columns 4t to 4t + 3 of its outputs.


@kernel
def _input_columns(d, v0, v1, v2, v3, v4, v5):
    for t in range(v0.shape[0]):
        j = 4 * t
        for c in range(v0.shape[1]):
            v0[t, c], v1[t, c], v2[t, c], v3[t, c], v4[t, c], v5[t, c] = input_1d(
                d[j, c], d[j + 1, c], d[j + 2, c], d[j + 3, c], d[j + 4, c], d[j + 5, c]
            )


@kernel
def _output_grad_columns(d, v0, v1, v2, v3, v4, v5):
    for t in range(v0.shape[0]):
        j = 4 * t
        for c in range(v0.shape[1]):
            v0[t, c], v1[t, c], v2[t, c], v3[t, c], v4[t, c], v5[t, c] = output_grad_1d(
                d[j, c], d[j + 1, c], d[j + 2, c], d[j + 3, c]
            )


@kernel
def _output_columns(m0, m1, m2, m3, m4, m5, y):
    for t in range(m0.shape[0]):
        j = 4 * t
        for c in range(m0.shape[1]):
            y[j, c], y[j + 1, c], y[j + 2, c], y[j + 3, c] = output_1d(
                m0[t, c], m1[t, c], m2[t, c], m3[t, c], m4[t, c], m5[t, c]
            )


# Both axes. Rows first for the inputs, as the columns shared by neighbours are then done once.


@kernel
def transform_input(d, top, begin, strip, v, first, count):
    """Bᵀ d B of `count` tiles side by side, into v[:, first : first + count].

    d : (rows, columns × C); the tiles are in rows top to top + 5, from element `begin` on.
    strip : (6, at least (4 count + 2) × C), scratch.   v : (36, T, C).
    """
    channels = v.shape[2]
    size = (4 * count + 2) * channels
    end, last = begin + size, first + count
    _input_rows(
        d[top, begin:end], d[top + 1, begin:end], d[top + 2, begin:end],
        d[top + 3, begin:end], d[top + 4, begin:end], d[top + 5, begin:end],
        strip[0, :size], strip[1, :size], strip[2, :size], strip[3, :size], strip[4, :size], strip[5, :size],
    )  # fmt: skip
    for p in range(6):
        k = 6 * p
        _input_columns(
            strip[p, :size].reshape(4 * count + 2, channels),
            v[k, first:last], v[k + 1, first:last], v[k + 2, first:last],
            v[k + 3, first:last], v[k + 4, first:last], v[k + 5, first:last],
        )  # fmt: skip


@kernel
def transform_output_grad(d, top, begin, strip, z, first, count):
    """A d Aᵀ of `count` tiles side by side, into z[:, first : first + count]: as `transform_input`."""
    filters = z.shape[2]
    size = 4 * count * filters
    end, last = begin + size, first + count
    _output_grad_rows(
        d[top, begin:end], d[top + 1, begin:end], d[top + 2, begin:end], d[top + 3, begin:end],
        strip[0, :size], strip[1, :size], strip[2, :size], strip[3, :size], strip[4, :size], strip[5, :size],
    )  # fmt: skip
    for p in range(6):
        k = 6 * p
        _output_grad_columns(
            strip[p, :size].reshape(4 * count, filters),
            z[k, first:last], z[k + 1, first:last], z[k + 2, first:last],
            z[k + 3, first:last], z[k + 4, first:last], z[k + 5, first:last],
        )  # fmt: skip


@kernel
def transform_output(m, first, count, bias, floor, strip, y, top, begin):
    """Aᵀ m A + bias, at least floor, of the tiles m[:, first : first + count], side by side.

    m : (36, T, F).   bias : of 4 count pixels, (at least 4 count × F).   strip : (6, as long), scratch.
    y : (rows, columns × F); the outputs go to rows top to top + 3, from element `begin` on.
    """
    filters = m.shape[2]
    size = 4 * count * filters
    end, last = begin + size, first + count
    for p in range(6):
        k = 6 * p
        _output_columns(
            m[k, first:last], m[k + 1, first:last], m[k + 2, first:last],
            m[k + 3, first:last], m[k + 4, first:last], m[k + 5, first:last],
            strip[p, :size].reshape(4 * count, filters),
        )  # fmt: skip
    _output_rows(
        strip[0, :size], strip[1, :size], strip[2, :size], strip[3, :size], strip[4, :size], strip[5, :size],
        bias, floor, y[top, begin:end], y[top + 1, begin:end], y[top + 2, begin:end], y[top + 3, begin:end],
    )  # fmt: skip


@kernel
def transform_weight(weight, channels, filters, strip, u):
    """G g Gᵀ for some channels and filters, into these channels of u (36, all C, these filters).

    weight : (3, 3, all C, all F).   channels, filters : (first, end).   strip : (18, 8 × filters), scratch.
    """
    begin, size = filters[0], filters[1] - filters[0]
    for c in range(channels[0], channels[1], 8):
        end = min(c + 8, channels[1])
        for q in range(3):
            _read_weights(weight, q, c, end, begin, size, strip)
        flat = (end - c) * size
        for p in range(6):
            k = 6 * p
            _weight_rows(
                strip[3 * p, :flat], strip[3 * p + 1, :flat], strip[3 * p + 2, :flat],
                u[k, c:end].reshape(flat), u[k + 1, c:end].reshape(flat),
                u[k + 2, c:end].reshape(flat), u[k + 3, c:end].reshape(flat),
                u[k + 4, c:end].reshape(flat), u[k + 5, c:end].reshape(flat),
            )  # fmt: skip


@kernel
def _read_weights(weight, q, first, last, begin, size, strip):
    """The first axis, for column q of the windows of channels first to last - 1."""
    for c in range(first, last):
        e = (c - first) * size
        for f in range(size):
            u = weight_1d(weight[0, q, c, begin + f], weight[1, q, c, begin + f], weight[2, q, c, begin + f])
            strip[q, e + f], strip[3 + q, e + f], strip[6 + q, e + f] = u[0], u[1], u[2]
            strip[9 + q, e + f], strip[12 + q, e + f], strip[15 + q, e + f] = u[3], u[4], u[5]


@kernel
def transform_weight_grad(u, strip, grad_weight, channels, filters):
    """Gᵀ u G, added to some channels and filters of grad_weight; the opposite of `transform_weight`."""
    begin, size = filters[0], filters[1] - filters[0]
    for c in range(channels[0], channels[1], 8):
        end = min(c + 8, channels[1])
        flat = (end - c) * size
        for p in range(6):
            k = 6 * p
            _weight_grad_rows(
                u[k, c:end].reshape(flat), u[k + 1, c:end].reshape(flat),
                u[k + 2, c:end].reshape(flat), u[k + 3, c:end].reshape(flat),
                u[k + 4, c:end].reshape(flat), u[k + 5, c:end].reshape(flat),
                strip[p, :flat], strip[6 + p, :flat], strip[12 + p, :flat],
            )  # fmt: skip
        for q in range(3):
            _write_weights(strip[6 * q : 6 * q + 6], q, c, end, begin, size, grad_weight)


@kernel
def _write_weights(strip, q, first, last, begin, size, grad_weight):
    """The first axis, for column q of the windows of channels first to last - 1."""
    for c in range(first, last):
        e = (c - first) * size
        for f in range(size):
            u0, u1, u2 = strip[0, e + f], strip[1, e + f], strip[2, e + f]
            u3, u4, u5 = strip[3, e + f], strip[4, e + f], strip[5, e + f]
            g0, g1, g2 = weight_grad_1d(u0, u1, u2, u3, u4, u5)
            grad_weight[0, q, c, begin + f] += g0
            grad_weight[1, q, c, begin + f] += g1
            grad_weight[2, q, c, begin + f] += g2
