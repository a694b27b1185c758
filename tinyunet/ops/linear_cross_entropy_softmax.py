"""Softmax and cross-entropy of many pixels at once, for Numba, with vector lanes along pixels.

With two classes a pixel takes two exponentials and a logarithm. Called one by one from C's library, they took
more than half of the time of the whole op. So here they are loops over pixels that call no function:

    exp(x), x <= 0:  x = r - n log 2, with n a whole number and |r| at most (log 2) / 2.
                     exp(x) = 2^-n (1 + r + r²/2! + r³/3! + …); 2^-n is written into the bits of the exponent
    log(t), t >= 1:  t is halved until it is at most √2, and log 2 is added for each halving. Then, with
                     s = (t - 1) / (t + 1), |s| at most (√2 - 1) / (√2 + 1), log(t) = 2 (s + s³/3 + s⁵/5 + …)

The series end where the next term is below a quarter of the rounding error of a result around 1. Exponentials
of less than 2^-126 (float64: 2^-1022) are 0. A NaN stays a NaN.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from tinyunet.backend.jit import kernel

SCRATCH_ROWS = 5  # that `softmax` takes


@cache
def series(dtype):
    """Compute what `softmax` needs for a dtype: the coefficients of its series, and the bits of exponents.

    Returns
    -------
    factorials, odd : array
        1/n! and 2/(2n + 1), highest n first.
    exponents : array of integers
        The bits of 1, and the difference between the bits of 2 and those.
    """
    small = np.finfo(dtype).eps / 4
    r, s = math.log(2) / 2, (math.sqrt(2) - 1) / (math.sqrt(2) + 1)
    degree = next(n for n in range(1, 99, 2) if r ** (n + 1) / math.factorial(n + 1) < small)
    terms = next(n for n in range(1, 99) if 2 * s ** (2 * n + 1) / (2 * n + 1) < small)
    one, two = np.array([1, 2], dtype).view(f"i{np.dtype(dtype).itemsize}")
    return (
        np.array([1 / math.factorial(n) for n in range(degree, -1, -1)], dtype),
        np.array([2 / (2 * n + 1) for n in range(terms - 1, -1, -1)], dtype),
        np.array([one, two - one]),
    )


@kernel
def softmax(scores, target, weight, series, memory, bits, grad):
    """Compute the energy of the pixels, and write its gradient with respect to their scores to grad.

    scores, grad : (K, pixels); the scores are changed.   weight : (pixels,).
    target : (pixels,), negative where a pixel does not count.
    memory : (SCRATCH_ROWS, pixels), scratch; its last row is also given as integers, bits.
    """
    factorials, odd, exponents = series
    rest, power, sums, total, loss = memory[0], memory[SCRATCH_ROWS - 1], memory[1], memory[2], memory[3]
    _subtract_largest(scores, rest)
    total[:] = 0
    for k in range(len(scores)):
        row = grad[k]
        _halvings(scores[k], exponents, rest, bits)
        _exponentials(rest, power, factorials, sums, row)
        for j in range(total.size):
            total[j] += row[j]
    _logarithms(total, len(scores), odd, rest, sums, loss)
    for k in range(len(scores)):
        _subtract_target(np.int32(k), scores[k], total, target, weight, loss, grad[k])
    energy = 0.0
    for j in range(loss.size):
        energy += weight[j] * loss[j] if target[j] >= 0 else 0.0
    return energy


@kernel
def _subtract_largest(scores, largest):
    """Subtract in place, before anything else is added: the compiler may reorder additions within a loop."""
    largest[:] = scores[0]
    for k in range(1, len(scores)):
        row = scores[k]
        for j in range(row.size):
            largest[j] = row[j] if row[j] > largest[j] else largest[j]
    for k in range(len(scores)):
        row = scores[k]
        for j in range(row.size):
            row[j] -= largest[j]


@kernel
def _halvings(scores, exponents, rest, bits):
    """Write scores as rest - n log 2, n whole, with the bits of 2^-n, or of 0 where n is too large."""
    real, integer = rest.dtype.type, bits.dtype.type
    one, step = real(exponents[0]), real(exponents[1])  # few bits set: exact
    most, log_2 = one / step, real(np.log(2))
    lowest, halvings_of = -most * log_2, real(-1 / np.log(2))
    for j in range(rest.size):
        x = lowest if scores[j] < lowest else scores[j]
        halvings = x * halvings_of + real(0.5)
        n = np.floor(halvings if halvings < most else most)  # for a NaN, the most
        rest[j] = x + n * log_2
        bits[j] = integer(one - n * step)


@kernel
def _exponentials(rest, power, factorials, sums, y):
    """Write power · exp(rest) to y."""
    for j in range(y.size):
        sums[j] = factorials[0] * rest[j] + factorials[1]
    for i in range(2, factorials.size, 2):
        high, low = factorials[i], factorials[i + 1]
        for j in range(y.size):
            sums[j] = (sums[j] * rest[j] + high) * rest[j] + low
    for j in range(y.size):
        y[j] = sums[j] * power[j]


@kernel
def _logarithms(t, most, odd, halved, sums, y):
    """Write log(t) to y, for t from 1 to most."""
    real = y.dtype.type
    halved[:] = t
    y[:] = 0
    while most > 1:
        most = (most + 1) // 2
        for j in range(y.size):
            large = halved[j] > real(np.sqrt(2))
            halved[j] *= real(0.5) if large else real(1)
            y[j] += real(np.log(2)) if large else real(0)
    for j in range(y.size):
        halved[j] = (halved[j] - real(1)) / (halved[j] + real(1))
        sums[j] = odd[0]
    for i in range(1, odd.size):
        for j in range(y.size):
            sums[j] = sums[j] * (halved[j] * halved[j]) + odd[i]
    for j in range(y.size):
        y[j] += sums[j] * halved[j]


@kernel
def _subtract_target(k, scores, total, target, weight, loss, y):
    """Turn exp(scores) in y into the gradient of a class, and log(total) in loss into -log p."""
    real = y.dtype.type
    for j in range(y.size):
        p, here = y[j] / total[j], target[j] == k
        gradient = weight[j] * (p - (real(1) if here else real(0)))
        y[j] = gradient if target[j] >= 0 else real(0)
        loss[j] -= scores[j] if here else real(0)
