# %% [markdown]
"""
05. Winograd's convolution: fewer multiplications
=================================================

**You will build** Winograd's algorithm, which computes the convolution of chapter 03 with a quarter of
the multiplications: by hand for two outputs, then from polynomials for any number, then for whole
images. The engine's is ``tinyunet/ops/conv2d_winograd.py``, and its matrices are in
``tinyunet/ops/conv2d_winograd_transforms.py``.

**You will learn** how a filter of three taps gives two outputs by four products, what polynomials have
to do with it, why the engine computes 4×4 outputs at a time, and what the saving costs in accuracy.

Needed: chapters 03 and 04. About 40 minutes. Five exercises.
"""

# %%
from fractions import Fraction

import matplotlib.pyplot as plt
import numba
import numpy as np
from lesson import animate, exercise, measure, show
from numpy.lib.stride_tricks import sliding_window_view
from threadpoolctl import threadpool_limits

# %% [markdown]
# Two outputs by four products
# ----------------------------
# Chapter 04 ended at the roof: all cores multiply all the time. To be faster still, we have to do
# less arithmetic. Take one row, and a filter of three taps ``g``. Two outputs depend on four inputs
# ``d``::
#
#     y0 = d0 g0 + d1 g1 + d2 g2
#     y1 = d1 g0 + d2 g1 + d3 g2
#
# These are six products. Winograd (1980) needs four. Let ``m1 = (d0 - d2) g0`` and ``m4 = (d1 - d3)
# g2``. See what is missing, with ``s = g0 + g2``::
#
#     y0 - m1 = d2 s + d1 g1
#     y1 + m4 = d1 s + d2 g1
#
# The sum of these two lines is ``(d2 + d1) (s + g1)``, their difference ``(d2 - d1) (s - g1)``. Let
# ``m2`` be half the sum and ``m3`` half the difference: two products that give both lines back. That
# makes four. Sums of taps alone do not count, because they are computed once for all pixels; sums of
# inputs do not count, because they are computed once for all filters.


# %%
@exercise("05.1")
def two_outputs(d, g):
    """Return y0, y1 for four inputs d and three taps g, by four products of a d term and a g term."""
    return ...


rng = np.random.default_rng(0)
d, g = rng.standard_normal(4), rng.standard_normal(3)
assert np.allclose(two_outputs(d, g), np.correlate(d, g, mode="valid"))

# %% [markdown]
# In matrices: ``B_T`` makes the four d terms, ``G`` the four g terms and ``A_T`` the outputs, ``y =
# A_T ((G g) * (B_T d))``, where ``*`` goes element by element.

# %%
B_T = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
A_T = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
assert np.allclose(A_T @ ((G @ g) * (B_T @ d)), two_outputs(d, g))

# %% [markdown]
# Values of polynomials at points
# -------------------------------
# Where does such a trick come from, and how would one find it for more outputs? From products of
# polynomials. Take ``g(x) = g0 + g1 x + g2 x²`` and ``h(x) = h0 + h1 x``. Multiplied out, their
# product ``s(x)`` takes six products of numbers and has four coefficients. But a polynomial of
# degree 3 is known as soon as four of its *values* are known, and a value costs one product: ``s(x)
# = g(x) h(x)`` at any point ``x``. So evaluate both at four points, multiply value by value, and
# find the polynomial through the four results (Toom and Cook). With the points 0, 1 and -1 the
# evaluations are sums: ``g(0) = g0``, ``g(1) = g0 + g1 + g2``, ``g(-1) = g0 - g1 + g2``. As the
# fourth value take the *leading coefficient*, which obeys the same rule, ``s3 = g2 h1``. It is
# called the value at infinity, since it decides how the polynomial grows there.


# %%
@exercise("05.2")
def values_at(points, length):
    """Return the matrix that turns `length` coefficients, lowest power first, into values at all points.

    Its shape is (len(points) + 1, length); the last row gives the leading coefficient.
    """
    return ...


points = np.array([0.0, 1.0, -1.0])
h = rng.standard_normal(2)
values = (values_at(points, 3) @ g) * (values_at(points, 2) @ h)
assert np.allclose(np.linalg.solve(values_at(points, 4), values), np.convolve(g, h))

# %% [markdown]
# For a fixed ``g`` this map from ``h`` to the coefficients of ``s`` is linear: a 4×2 matrix whose
# columns hold ``g`` and, one step further down, ``g`` again. Our filter is its transpose, a 2×4
# matrix whose *rows* hold ``g`` (chapter 03 drew it). And the transpose of a product of matrices is
# the product of the transposes in reverse order. So the same points serve the filter: evaluating
# ``h`` becomes ``A_T``, finding the coefficients becomes ``B_T``, and ``G`` stays. This works for
# any number of outputs and taps, with ``outputs + taps - 1`` products.


# %%
def winograd_matrices(points, taps=3):
    """A_T, G and B_T from n - 1 points and infinity: n products, n + 1 - taps outputs."""
    size = len(points) + 1
    return (
        values_at(points, size + 1 - taps).T,
        values_at(points, taps),
        np.linalg.inv(values_at(points, size)).T,
    )


for points in ([0, 1, -1], [0, 1, -1, 2, -2]):
    a_t, g_matrix, b_t = winograd_matrices(points)
    row = rng.standard_normal(len(points) + 1)
    assert np.allclose(a_t @ ((g_matrix @ g) * (b_t @ row)), np.correlate(row, g, mode="valid"))
    print(f"{len(a_t)} outputs by {len(b_t)} products instead of {3 * len(a_t)}")

# %% [markdown]
# With 0, 1, -1 and infinity these are the matrices above, up to factors: a row of ``G`` may be
# multiplied by a number if the same row of ``B_T``, or the same column of ``A_T``, is divided by it.
#
# Both axes, all channels
# -----------------------
# Along both axes, a tile of 4×4 inputs gives 2×2 outputs with 4 · 4 products: F(2×2, 3×3) (Lavin
# and Gray 2015). A tile of m×m outputs takes ``(m + 2)**2`` products, for every channel and every
# filter. Where an image is no multiple of m, the last tiles reach beyond it. **Predict**: how many
# products per *output* and channel for m = 2 and m = 4? The direct sum takes 9.


# %%
@exercise("05.3")
def products(height, width, channels, filters, m):
    """Return the number of products of a 3×3 layer with height × width outputs, by F(m×m, 3×3)."""
    return ...


HEIGHT, WIDTH, C, F = 96, 96, 64, 64  # the layer of chapter 04
per_output = {m: products(HEIGHT, WIDTH, C, F, m) / (HEIGHT * WIDTH * C * F) for m in (1, 2, 4, 6, 8)}
print("products per output:", {m: round(number, 2) for m, number in per_output.items()})
assert (per_output[1], per_output[2], per_output[4]) == (9, 4, 2.25)

# %% [markdown]
# In the moving picture (``figures/05-tiles.html``) the direct sum takes four windows in each frame, and
# Winograd one tile, which steps by two: tiles overlap, outputs do not.

# %%
fig, panels = plt.subplots(1, 2, figsize=(7, 3.8), dpi=80, layout="constrained")


def draw_tile(number):
    top, left = 2 * (number // 3), 2 * (number % 3)
    for panel in panels:
        panel.clear()
        panel.add_patch(plt.Rectangle((0, 0), 8, 8, fc="#f4f4f4", ec="0.3"))
        for before in range(number + 1):
            place = 2 * (before % 3) + 1, 2 * (before // 3) + 1
            panel.add_patch(
                plt.Rectangle(place, 2, 2, fc="#009E73", alpha=0.25 + 0.4 * (before == number), ec="w")
            )
        panel.set(xlim=(-0.2, 8.2), ylim=(8.2, -0.2), xticks=range(9), yticks=range(9), aspect="equal")
        panel.tick_params(labelbottom=False, labelleft=False)
        panel.grid(alpha=0.3)
    for i, j in np.ndindex(2, 2):
        panels[0].add_patch(plt.Rectangle((left + j, top + i), 3, 3, fill=False, ec="#D55E00", lw=1.5))
    panels[1].add_patch(plt.Rectangle((left, top), 4, 4, fill=False, ec="#0072B2", lw=3))
    panels[0].set_title(f"four windows of 3×3: {36 * (number + 1)} products")
    panels[1].set_title(f"one tile of 4×4: {16 * (number + 1)} products")


tiles_move = animate("05-tiles", fig, draw_tile, 9, interval=800)

# %% [markdown]
# Now the channels. The sum over ``c`` can be done *before* ``A_T``, because ``A_T`` is linear. So
# each of the ``(m + 2)**2`` places in a tile becomes one matrix product: the d terms ``v`` (tiles ×
# C) by the g terms ``u`` (C × F).


# %%
def winograd(x, weight, a_t, g, b_t):
    """A tile's outputs divide H - 2 and W - 2. Letters: u v tile, a b input, k l product, r s output."""
    outputs, size = a_t.shape
    tiles = sliding_window_view(x, (size, size), axis=(0, 1))[::outputs, ::outputs]
    down, across, channels = tiles.shape[:3]
    v = np.einsum("ka,uvcab,lb->kluvc", b_t, tiles, b_t, optimize=True)
    u = np.einsum("kp,pqcf,lq->klcf", g, weight, g, optimize=True)
    m = v.reshape(size, size, down * across, channels) @ u
    y = np.einsum("rk,kluvf,sl->urvsf", a_t, m.reshape(size, size, down, across, -1), a_t, optimize=True)
    return y.reshape(down * outputs, across * outputs, -1)


x = rng.standard_normal((HEIGHT + 2, WIDTH + 2, C), dtype=np.float32)
weight = rng.standard_normal((3, 3, C, F), dtype=np.float32)
windows = sliding_window_view(x.astype(float), (3, 3), axis=(0, 1))
expected = np.einsum("ijcpq,pqcf->ijf", windows, weight.astype(float), optimize=True)


def largest_error(y):
    return np.abs(y - expected).max() / np.abs(expected).max()


two = [matrix.astype(np.float32) for matrix in (A_T, G, B_T)]
assert largest_error(winograd(x, weight, *two)) < 1e-5

# %% [markdown]
# Why not larger tiles?
# ---------------------
# F(8×8) would take 1.56 products per output. But more points are needed, and their powers are far
# from 1: large numbers that cancel lose digits. **Predict** how many digits are left in float32
# with m = 8. (float32 has about seven.)

# %%
more = [0, 1, -1, 1 / 2, -1 / 2, 2, -2, 1 / 4, -1 / 4]
errors = {}
for m in (2, 4, 6, 8):
    constants = [matrix.astype(np.float32) for matrix in winograd_matrices(more[: m + 1])]
    errors[m] = largest_error(winograd(x, weight, *constants))
print("error / largest value:", {m: f"{error:.0e}" for m, error in errors.items()})
assert errors[2] < 1e-5 < errors[8]

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.plot(list(per_output), list(per_output.values()), "o-")
left.set(xlabel="m, outputs of a tile along an axis", ylabel="products per output", ylim=(0, 9.5))
left.set_title("What is saved")
right.semilogy(list(errors), list(errors.values()), "o-", color="#D55E00")
right.set(xlabel="m, outputs of a tile along an axis", ylabel="error / largest value", xlim=left.get_xlim())
right.set_title("What it costs, in float32")
for axes in (left, right):
    axes.set_xticks([1, 2, 4, 6, 8])
show("05-tiles")

# %% [markdown]
# From 4 on little is saved, and digits go on being lost. So the engine takes F(4×4, 3×3). Its
# points are 0, ±3/4 and ±3/2: their powers stay nearer to 1, and they are sums of few powers of two,
# so that the constants of ``A_T`` and ``B_T`` are exact in float32.

# %%
from tinyunet.ops.conv2d_winograd_transforms import POINTS

constants = [matrix.astype(np.float32) for matrix in winograd_matrices([float(point) for point in POINTS])]
chosen = largest_error(winograd(x, weight, *constants))
print(f"m = 4: error {errors[4]:.1e} with 0, ±1, ±1/2; {chosen:.1e} with {', '.join(map(str, POINTS))}")

# %% [markdown]
# The same in the engine
# ----------------------
# Fewer products do not mean less time by themselves. Our version writes ``v`` and ``m`` to memory as
# a whole: ``(m + 2)**2 / m**2`` times as much as ``x`` and ``y``. ``tinyunet/ops/conv2d_winograd.py`` takes
# a block of tiles through all three steps while it is in the cache (chapter 04), and computes the
# transforms in vector registers (``tinyunet/backend/simd.py``). The direct version here is the one
# matrix product of chapter 03. **Predict** which of ours is faster.

# %%
import tinyunet as tu


def direct(x, weight):
    rows = sliding_window_view(x, (3, 3), axis=(0, 1)).transpose(0, 1, 3, 4, 2).reshape(HEIGHT * WIDTH, 9 * C)
    return (rows @ weight.reshape(9 * C, F)).reshape(HEIGHT, WIDTH, F)


def engine(x, weight):
    return tu.conv2d(tu.Tensor(x[None]), tu.Tensor(weight)).data[0]


operations = 2 * 9 * HEIGHT * WIDTH * C * F  # of the direct sum
with threadpool_limits(numba.get_num_threads()):
    for name, convolve in {
        "direct": direct,
        "ours, F(4×4, 3×3)": lambda x, weight: winograd(x, weight, *constants),
        "the engine": engine,
    }.items():
        error, seconds = largest_error(convolve(x, weight)), measure(convolve, x, weight)
        assert error < 1e-5
        speed = operations / seconds / 1e9
        print(f"{name:<18} {1000 * seconds:7.1f} ms, {speed:6.1f} GFLOP/s, error {error:.0e}")

# %% [markdown]
# GFLOP/s count the operations of the direct sum, so that a version which needs fewer of them may
# stand above the roof of chapter 04. The gradients have the same form (the file of the engine writes
# them down): that of ``x`` is a convolution with the window flipped, that of ``weight`` the
# transpose.

# %% [markdown]
# On your own
# -----------
# ``winograd_matrices`` inverted a matrix in floating point. Derive the matrices with fractions,
# from the formula of Lagrange: the polynomial through given values at the points is a sum over the
# points, of the value there times the product of ``x - q`` over all other points ``q``, divided by
# the same product at the point. Point ``p`` gives row ``p⁰, p¹, …`` of ``G``, divided by the
# product of ``p - q``; a column ``p⁰, p¹, …`` of ``A_T``; and the coefficients of the product of
# ``x - q``, lowest power first and with a 0 at the end, as a row of ``B_T``. For the point infinity
# the row of ``G`` and the column of ``A_T`` are 0, …, 0, 1, and the row of ``B_T`` is the product
# of ``x - q`` over *all* points.


# %%
@exercise("05.4")
def exact_matrices(points, taps):
    """Return A_T, G and B_T as lists of rows of Fraction, for len(points) + 1 products."""
    return ...


a_t, g_exact, b_t = (np.array(matrix) for matrix in exact_matrices([0, 1, -1, 2, -2], 3))
numbers, filter_ = (np.array([Fraction(int(k)) for k in rng.integers(-9, 10, n)]) for n in (6, 3))
assert list(a_t @ ((g_exact @ filter_) * (b_t @ numbers))) == list(
    np.convolve(numbers, filter_[::-1], "valid")
)
print("F(4, 3) is exact; the second row of G is", *(str(number) for number in g_exact[1]))

# %% [markdown]
# Training needs the gradient of the filter, too. For one tile along one axis, ``y = A_T ((G g) *
# (B_T d))``. So the gradient goes back through ``A_T``, through the product, and through ``G``:
# three matrix products, and the ``d`` terms are those of the forward. Sum over many tiles *before*
# going back through ``G``: then it costs nearly nothing.


# %%
@exercise("05.5")
def filter_gradient(tiles, grad_y, a_t, g_matrix, b_t):
    """Return the gradient of g (taps,) for tiles (T, n), whose outputs have the gradients grad_y (T, m)."""
    return ...


a_t, g_matrix, b_t = winograd_matrices([0, 1, -1, 2, -2])
tiles, grad_y = rng.standard_normal((50, 6)), rng.standard_normal((50, 4))
directly = [np.sum(tiles[:, tap : tap + 4] * grad_y) for tap in range(3)]
assert np.allclose(filter_gradient(tiles, grad_y, a_t, g_matrix, b_t), directly)
print("The gradient by 6 products per tile agrees with the one by 12.")

# %% [markdown]
# Summary
# -------
# - Two outputs of a filter with three taps take four products, not six.
# - The rule behind it: polynomials are multiplied value by value, at points; the filter is the
#   transpose of such a product.
# - F(4×4, 3×3) takes 2.25 products per output instead of 9. Larger tiles save little more and lose
#   digits.
# - Less arithmetic helps only as long as memory keeps up: blocks stay in the cache here too.
#
# Next: ``06_cuda_puzzles.py``, kernels for thousands of threads.
