"""The five small transforms of Winograd's convolution F(4×4, 3×3), along one axis and for whole tiles.

One dimension first. Multiplying the polynomials g0 + g1·x + g2·x² and y0 + … + y3·x³ gives six coefficients.
Instead of 12 products, take the values of both polynomials at six points, multiply them value by value (6
products), and interpolate the polynomial of degree 5 through the results (Toom and Cook). In matrices:

    product = C [(G g) ∘ (A y)]      G: values of g, A: values of y, C: interpolation, ∘: element by element

A correlation y_i = Σ_r g_r·d_{i+r} is the transpose of that map with respect to y, and so

    y = Aᵀ [(G g) ∘ (Bᵀ d)]          Aᵀ (4×6), G (6×3), Bᵀ = Cᵀ (6×6)

for six inputs d, three weights g and four outputs y. In two dimensions, on tiles of 6×6 inputs, nest it:

    Y = Aᵀ [(G g Gᵀ) ∘ (Bᵀ d B)] A

`matrices` computes Aᵀ, G and Bᵀ from the points, in fractions. The functions `input_1d` to `weight_grad_1d`
write out the products with these matrices; a test compares both. Pairs of points ±a make pairs of rows with
the same even part and opposite odd parts, which halves the work.

Points. Six are needed; 0, ±a, ±b and ∞ (the leading coefficient) are cheapest. Lavin and Gray take a = 1,
b = 2. In float32, a = 3/4, b = 3/2 are 3.5 times as accurate: 1.3e-6 against 4.6e-6 of the largest output
with 512 channels of random numbers (200 tiles, 8 filters), because the powers up to b³ and 1/a⁴ stay closer
to 1. They are sums of few powers of two, so that Aᵀ and Bᵀ are exact in float32.

References
----------
.. [1] Lavin and Gray 2015, Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308, section 4.
.. [2] Winograd 1980, Arithmetic Complexity of Computations, chapters III and IV.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from tinyunet.backend.jit import inlined_kernel, kernel
from tinyunet.backend.simd import LANES, at_least, load, store, where_positive

POINTS = (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2))  # and ∞
OUTPUTS, TAPS = 4, 3  # per axis: of a tile, of the window
INPUTS = OUTPUTS + TAPS - 1
FREQUENCIES = INPUTS**2  # the elements of a transformed tile

Matrix = list[list[Fraction]]


def matrices(
    points: Sequence[Fraction] = POINTS, outputs: int = OUTPUTS, taps: int = TAPS
) -> tuple[Matrix, Matrix, Matrix]:
    """Compute Aᵀ (outputs × n), G (n × taps), Bᵀ (n × n) from n - 1 points and ∞; n = outputs + taps - 1."""
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


# One axis, for numbers or for registers. Below, the points are 0, a, -a, b, -b, ∞, in this order.

A, B = np.float32(POINTS[1]), np.float32(POINTS[3])
A2, B2 = A * A, B * B
A3, B3 = A2 * A, B2 * B
# One over the denominators of Lagrange's polynomials: the first column of G.
N0, NA, NB = (np.float32(matrices()[1][row][0]) for row in (0, 1, 3))


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


# Both axes of one tile, in as many channels as a register has lanes: everything between loading and storing
# happens in registers. `at` and `to` are places in an array's memory (see tinyunet.backend.simd). The others
# are distances in elements: `row` and `pixel` between two rows and two pixels of a map, `plane` between two
# frequencies of transformed tiles, `tap` between two taps of a window.


@inlined_kernel
def _load3(array, at, step, count):
    return load(array, at, count), load(array, at + step, count), load(array, at + 2 * step, count)


@inlined_kernel
def _load4(array, at, step, count):
    a, b = load(array, at, count), load(array, at + step, count)
    return a, b, load(array, at + 2 * step, count), load(array, at + 3 * step, count)


@inlined_kernel
def _load6(array, at, step, count):
    a, b, c = _load3(array, at, step, count)
    d, e, f = _load3(array, at + 3 * step, step, count)
    return a, b, c, d, e, f


@inlined_kernel
def _positive6(y, d, at, step, count):
    """Load six registers of d, with 0 where y is not positive."""
    return (
        where_positive(load(y, at, count), load(d, at, count)),
        where_positive(load(y, at + step, count), load(d, at + step, count)),
        where_positive(load(y, at + 2 * step, count), load(d, at + 2 * step, count)),
        where_positive(load(y, at + 3 * step, count), load(d, at + 3 * step, count)),
        where_positive(load(y, at + 4 * step, count), load(d, at + 4 * step, count)),
        where_positive(load(y, at + 5 * step, count), load(d, at + 5 * step, count)),
    )


@inlined_kernel
def _store6(array, at, step, count, values):
    a, b, c, d, e, f = values
    store(array, at, count, a)
    store(array, at + step, count, b)
    store(array, at + 2 * step, count, c)
    store(array, at + 3 * step, count, d)
    store(array, at + 4 * step, count, e)
    store(array, at + 5 * step, count, f)


@inlined_kernel
def _input(d, at, row, pixel, v, to, plane, count):
    """Bᵀ d B: first along the six columns, then along the six rows of the result."""
    a = input_1d(*_load6(d, at, row, count))
    b = input_1d(*_load6(d, at + pixel, row, count))
    c = input_1d(*_load6(d, at + 2 * pixel, row, count))
    e = input_1d(*_load6(d, at + 3 * pixel, row, count))
    f = input_1d(*_load6(d, at + 4 * pixel, row, count))
    g = input_1d(*_load6(d, at + 5 * pixel, row, count))
    _input_rows(v, to, plane, count, a, b, c, e, f, g)


@inlined_kernel
def _input_rows(v, to, plane, count, a, b, c, e, f, g):
    _store6(v, to, plane, count, input_1d(a[0], b[0], c[0], e[0], f[0], g[0]))
    _store6(v, to + 6 * plane, plane, count, input_1d(a[1], b[1], c[1], e[1], f[1], g[1]))
    _store6(v, to + 12 * plane, plane, count, input_1d(a[2], b[2], c[2], e[2], f[2], g[2]))
    _store6(v, to + 18 * plane, plane, count, input_1d(a[3], b[3], c[3], e[3], f[3], g[3]))
    _store6(v, to + 24 * plane, plane, count, input_1d(a[4], b[4], c[4], e[4], f[4], g[4]))
    _store6(v, to + 30 * plane, plane, count, input_1d(a[5], b[5], c[5], e[5], f[5], g[5]))


@inlined_kernel
def _input_where_positive(y, d, at, row, pixel, v, to, plane, sums, place, count):
    """Bᵀ d B with 0 in place of d where y is not positive; the 4×4 pixels in the middle are added to sums."""
    pixels = _positive6(y, d, at, row, count)
    a = input_1d(*pixels)
    pixels = _positive6(y, d, at + pixel, row, count)
    total, b = _middle(pixels), input_1d(*pixels)
    pixels = _positive6(y, d, at + 2 * pixel, row, count)
    total, c = total + _middle(pixels), input_1d(*pixels)
    pixels = _positive6(y, d, at + 3 * pixel, row, count)
    total, e = total + _middle(pixels), input_1d(*pixels)
    pixels = _positive6(y, d, at + 4 * pixel, row, count)
    total, f = total + _middle(pixels), input_1d(*pixels)
    g = input_1d(*_positive6(y, d, at + 5 * pixel, row, count))
    store(sums, place, count, load(sums, place, count) + total)
    _input_rows(v, to, plane, count, a, b, c, e, f, g)


@inlined_kernel
def _middle(pixels):
    return (pixels[1] + pixels[2]) + (pixels[3] + pixels[4])


@inlined_kernel
def _output_grad(d, at, row, pixel, z, to, plane, count, stored):
    """A d Aᵀ: first along the four columns, then along the six rows of the result.

    Lanes from `count` to `stored` get 0.
    """
    a = output_grad_1d(*_load4(d, at, row, count))
    b = output_grad_1d(*_load4(d, at + pixel, row, count))
    c = output_grad_1d(*_load4(d, at + 2 * pixel, row, count))
    e = output_grad_1d(*_load4(d, at + 3 * pixel, row, count))
    _store6(z, to, plane, stored, output_grad_1d(a[0], b[0], c[0], e[0]))
    _store6(z, to + 6 * plane, plane, stored, output_grad_1d(a[1], b[1], c[1], e[1]))
    _store6(z, to + 12 * plane, plane, stored, output_grad_1d(a[2], b[2], c[2], e[2]))
    _store6(z, to + 18 * plane, plane, stored, output_grad_1d(a[3], b[3], c[3], e[3]))
    _store6(z, to + 24 * plane, plane, stored, output_grad_1d(a[4], b[4], c[4], e[4]))
    _store6(z, to + 30 * plane, plane, stored, output_grad_1d(a[5], b[5], c[5], e[5]))


@inlined_kernel
def _output(m, at, plane, bias, floor, y, to, row, pixel, count):
    """Aᵀ m A + bias, at least floor: first along the six rows, then along the four columns."""
    a = output_1d(*_load6(m, at, plane, count))
    b = output_1d(*_load6(m, at + 6 * plane, plane, count))
    c = output_1d(*_load6(m, at + 12 * plane, plane, count))
    e = output_1d(*_load6(m, at + 18 * plane, plane, count))
    f = output_1d(*_load6(m, at + 24 * plane, plane, count))
    g = output_1d(*_load6(m, at + 30 * plane, plane, count))
    _store_column(y, to, row, count, output_1d(a[0], b[0], c[0], e[0], f[0], g[0]), bias, floor)
    _store_column(y, to + pixel, row, count, output_1d(a[1], b[1], c[1], e[1], f[1], g[1]), bias, floor)
    _store_column(y, to + 2 * pixel, row, count, output_1d(a[2], b[2], c[2], e[2], f[2], g[2]), bias, floor)
    _store_column(y, to + 3 * pixel, row, count, output_1d(a[3], b[3], c[3], e[3], f[3], g[3]), bias, floor)


@inlined_kernel
def _store_column(y, to, row, count, values, bias, floor):
    a, b, c, d = values
    store(y, to, count, at_least(floor, a + bias))
    store(y, to + row, count, at_least(floor, b + bias))
    store(y, to + 2 * row, count, at_least(floor, c + bias))
    store(y, to + 3 * row, count, at_least(floor, d + bias))


@inlined_kernel
def _weight(weight, at, tap, u, to, plane, count):
    """G g Gᵀ: first along the three columns, then along the six rows of the result. Lanes left over get 0."""
    a = weight_1d(*_load3(weight, at, 3 * tap, count))
    b = weight_1d(*_load3(weight, at + tap, 3 * tap, count))
    c = weight_1d(*_load3(weight, at + 2 * tap, 3 * tap, count))
    _store6(u, to, plane, LANES, weight_1d(a[0], b[0], c[0]))
    _store6(u, to + 6 * plane, plane, LANES, weight_1d(a[1], b[1], c[1]))
    _store6(u, to + 12 * plane, plane, LANES, weight_1d(a[2], b[2], c[2]))
    _store6(u, to + 18 * plane, plane, LANES, weight_1d(a[3], b[3], c[3]))
    _store6(u, to + 24 * plane, plane, LANES, weight_1d(a[4], b[4], c[4]))
    _store6(u, to + 30 * plane, plane, LANES, weight_1d(a[5], b[5], c[5]))


@inlined_kernel
def _weight_grad(u, at, plane, grad_weight, to, tap, count):
    """Add Gᵀ u G: first along the six rows, then along the three columns."""
    a = weight_grad_1d(*_load6(u, at, plane, count))
    b = weight_grad_1d(*_load6(u, at + 6 * plane, plane, count))
    c = weight_grad_1d(*_load6(u, at + 12 * plane, plane, count))
    e = weight_grad_1d(*_load6(u, at + 18 * plane, plane, count))
    f = weight_grad_1d(*_load6(u, at + 24 * plane, plane, count))
    g = weight_grad_1d(*_load6(u, at + 30 * plane, plane, count))
    _add_column(grad_weight, to, tap, count, weight_grad_1d(a[0], b[0], c[0], e[0], f[0], g[0]))
    _add_column(grad_weight, to + tap, tap, count, weight_grad_1d(a[1], b[1], c[1], e[1], f[1], g[1]))
    _add_column(grad_weight, to + 2 * tap, tap, count, weight_grad_1d(a[2], b[2], c[2], e[2], f[2], g[2]))


@inlined_kernel
def _add_column(grad_weight, to, tap, count, values):
    a, b, c = values
    store(grad_weight, to, count, load(grad_weight, to, count) + a)
    store(grad_weight, to + 3 * tap, count, load(grad_weight, to + 3 * tap, count) + b)
    store(grad_weight, to + 6 * tap, count, load(grad_weight, to + 6 * tap, count) + c)


# All channels of a tile. In the first loop the number of lanes is a constant, so that no lane is masked.


@kernel
def transform_input(d, at, row, pixel, v, to, plane, channels):
    """Write Bᵀ d B of the 6×6 pixels at `at` in d to the places to, to + plane, …, to + 35 plane in v."""
    whole = channels // LANES * LANES
    for c in range(0, whole, LANES):
        _input(d, at + c, row, pixel, v, to + c, plane, LANES)
    if whole < channels:
        _input(d, at + whole, row, pixel, v, to + whole, plane, channels - whole)


@kernel
def transform_input_where_positive(y, d, at, row, pixel, v, to, plane, sums, channels):
    """Write Bᵀ d B as `transform_input`, with 0 in place of d where y is not positive.

    y has the shape of d. Of each channel, the 4×4 pixels in the middle are added to sums.
    """
    whole = channels // LANES * LANES
    for c in range(0, whole, LANES):
        _input_where_positive(y, d, at + c, row, pixel, v, to + c, plane, sums, c, LANES)
    if whole < channels:
        rest = channels - whole
        _input_where_positive(y, d, at + whole, row, pixel, v, to + whole, plane, sums, whole, rest)


@kernel
def transform_output_grad(d, at, row, pixel, z, to, plane, filters, room):
    """Write A d Aᵀ of the 4×4 pixels at `at` in d to z, as `transform_input`.

    room : the filters for which z has room, fewer than LANES more than there are; the rest is set to 0.
    """
    whole = filters // LANES * LANES
    for f in range(0, whole, LANES):
        _output_grad(d, at + f, row, pixel, z, to + f, plane, LANES, LANES)
    if whole < filters:
        stored = min(LANES, room - whole)
        _output_grad(d, at + whole, row, pixel, z, to + whole, plane, filters - whole, stored)


@kernel
def transform_output(m, at, plane, bias, floor, y, to, row, pixel):
    """Write Aᵀ m A + bias, at least floor, of the tile at `at` in m to 4×4 pixels of y. bias : (filters,)."""
    filters = bias.size
    whole = filters // LANES * LANES
    for f in range(0, whole, LANES):
        _output(m, at + f, plane, load(bias, f, LANES), floor, y, to + f, row, pixel, LANES)
    if whole < filters:
        rest = filters - whole
        _output(m, at + whole, plane, load(bias, whole, rest), floor, y, to + whole, row, pixel, rest)


@kernel
def transform_weight(weight, at, tap, u, to, plane, filters):
    """Write G g Gᵀ of one channel and some filters to the places to, to + plane, …, to + 35 plane in u."""
    whole = filters // LANES * LANES
    for f in range(0, whole, LANES):
        _weight(weight, at + f, tap, u, to + f, plane, LANES)
    if whole < filters:
        _weight(weight, at + whole, tap, u, to + whole, plane, filters - whole)


@kernel
def transform_weight_grad(u, at, plane, grad_weight, to, tap, filters):
    """Add Gᵀ u G of one channel to grad_weight: the backward direction of `transform_weight`."""
    whole = filters // LANES * LANES
    for f in range(0, whole, LANES):
        _weight_grad(u, at + f, plane, grad_weight, to + f, tap, LANES)
    if whole < filters:
        _weight_grad(u, at + whole, plane, grad_weight, to + whole, tap, filters - whole)
