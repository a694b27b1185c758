# %% [markdown]
"""
04. Convolution, fast on a CPU
==============================

**You will build** a convolution that keeps all cores busy: loops in the right order, threads, blocks
that stay in the cache, and Winograd's algorithm, which needs fewer multiplications. It is the way to
``tinyunet/ops/conv2d.py`` and ``tinyunet/ops/conv2d_winograd.py``.

**You will learn** what your CPU can do at most, why the order of loops matters, how to find a data
race without bad luck, and how a filter of three taps gives two outputs by four multiplications.

Needed: chapter 03. About 60 minutes. Three exercises. All times are measured on your computer.
"""

# %%
from fractions import Fraction

import matplotlib.pyplot as plt
import numba
import numpy as np
from lesson import exercise, measure, show
from numba import njit, prange
from numpy.lib.stride_tricks import sliding_window_view
from race import find_race
from threadpoolctl import threadpool_limits

threads = numba.get_num_threads()

# %% [markdown]
# How much work is it?
# --------------------
# We take one layer of the U-Net's kind and make it fast. Its input ``x`` has the shape ``(H, W,
# C)``: rows, columns and channels of one image. There are ``F`` filters in ``weight``, of shape
# ``(3, 3, C, F)``; we leave out the bias. The output ``y`` has the shape ``(H - 2, W - 2, F)``::
#
#     y[i,j,f] = sum over p,q,c of weight[p,q,c,f] x[i+p,j+q,c]
#
# All arrays are float32: 4 bytes a number. Two counts decide how fast this can be. *Operations*:
# each multiplication and each addition is one. *Bytes*: at the least, ``x`` and ``weight`` are read
# once and ``y`` is written once. Their quotient is the *intensity* of the layer.


# %%
@exercise("04.1", lines=3, hint="An output takes 9 C multiplications, and as many additions.")
def count(height, width, channels, filters):
    """Return (operations, bytes) of a 3×3 layer whose *output* has height × width pixels."""
    return ...


HEIGHT, WIDTH, C, F = 96, 96, 64, 64
operations, moved = count(HEIGHT, WIDTH, C, F)
print(f"{operations:,} operations, {moved:,} bytes: {operations / moved:.0f} operations a byte")
assert (operations, moved) == (679_477_248, 4_965_376)

# %% [markdown]
# How fast can it be?
# -------------------
# A CPU has two limits: the operations that it can do in a second, and the bytes that its memory
# delivers in a second. We measure both. For the first we take a large product of matrices by BLAS,
# the library behind NumPy, tuned by many people (another library may do better). For the second we
# add two arrays that are too large for any cache. GFLOP/s are thousand millions of operations a
# second. A layer whose intensity is below the quotient of the two limits waits for the memory.
#
# Numba's ``njit`` translates Python loops into machine code. ``prange`` is its parallel ``range``:
# each core gets some of the passes. ``measure`` (in ``lesson.py``) calls a function once to compile
# it and to warm up, and returns the shortest of the next five times, in seconds.


# %%
@njit(parallel=True)
def add_arrays(a, b, out):
    for i in prange(a.size):
        out[i] = a[i] + b[i]


rng = np.random.default_rng(0)
square = rng.standard_normal((1500, 1500), dtype=np.float32)
long = np.ones((3, 2**24), np.float32)
with threadpool_limits(threads):
    peak = 2 * 1500**3 / measure(np.matmul, square, square)
bandwidth = long.nbytes / measure(add_arrays, *long)
print(f"{peak / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s: {peak / bandwidth:.0f} operations a byte")

# %% [markdown]
# The order of the loops
# ----------------------
# Memory is one long row of numbers. In an array the elements along the *last* axis are neighbours.
# A CPU fetches 64 bytes at a time (16 neighbours, a *cache line*) and multiplies 4 to 16 neighbours
# in one instruction (a *vector*).
#
# Here are two orders of the same six loops. The first has ``c`` innermost: in ``weight[p, q, c,
# f]`` the next ``c`` lies ``F`` numbers further on. The second has ``f`` innermost. **Predict**:
# which is faster, and by what factor? (``fastmath`` here allows sums in another order, as vectors
# need it, but does not assume that there are no NaNs: a training that fails should show it.)


# %%
@njit(fastmath={"contract", "reassoc"})
def channels_innermost(x, weight, y):
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            for f in range(y.shape[2]):
                total = np.float32(0)
                for p, q in np.ndindex(3, 3):
                    for c in range(x.shape[2]):
                        total += weight[p, q, c, f] * x[i + p, j + q, c]
                y[i, j, f] = total


@njit(fastmath={"contract", "reassoc"})
def one_pixel(x, weight, i, j, out):
    out[:] = 0
    for p, q in np.ndindex(3, 3):
        for c in range(x.shape[2]):
            for f in range(out.size):
                out[f] += weight[p, q, c, f] * x[i + p, j + q, c]


def filters_innermost(x, weight, y):
    for i in prange(y.shape[0]):
        for j in range(y.shape[1]):
            one_pixel(x, weight, i, j, y[i, j])


x = rng.standard_normal((HEIGHT + 2, WIDTH + 2, C), dtype=np.float32)
weight = rng.standard_normal((3, 3, C, F), dtype=np.float32)
y = np.empty((HEIGHT, WIDTH, F), np.float32)
speeds = {}  # operations a second, by name
expected = np.einsum("ijcpq,pqcf->ijf", sliding_window_view(x, (3, 3), axis=(0, 1)), weight, optimize=True)


def largest_error(found):
    return np.abs(found - expected).max() / np.abs(expected).max()


def time_it(name, function, *arguments, turns=3):
    y[:] = np.nan
    found = function(*arguments)
    assert largest_error(y if found is None else found) < 1e-5, name  # first right, then fast
    speeds[name] = operations / measure(function, *arguments, turns=turns)
    print(f"{name:<24} {speeds[name] / 1e9:7.2f} GFLOP/s")


time_it("c innermost", channels_innermost, x, weight, y, turns=1)
time_it("f innermost", njit(filters_innermost), x, weight, y)

# %% [markdown]
# Threads, and a race
# -------------------
# Without ``parallel=True``, ``prange`` is a plain ``range``. With it, the rows of ``y`` above can
# be computed on all cores: no two passes of the loop over ``i`` write the same number. The weight
# gradient of chapter 03 sums over pixels::
#
#     grad_weight[p,q,c,f] = sum over i,j of x[i+p,j+q,c] grad_y[i,j,f]
#
# Let us make its loop over rows parallel as well. ``grad_weight`` is passed in, all zeros.

# %%
time_it("f innermost, all cores", njit(parallel=True)(filters_innermost), x, weight, y)


def racy(x, grad_y, grad_weight):
    height, width, filters = grad_y.shape
    for i in prange(height):
        for j in range(width):
            for p in range(3):
                for q in range(3):
                    for c in range(x.shape[2]):
                        for f in range(filters):
                            grad_weight[p, q, c, f] += x[i + p, j + q, c] * grad_y[i, j, f]
    return grad_weight


small_x, grad_y = rng.standard_normal((130, 130, 4)), rng.standard_normal((128, 128, 5))
right = np.einsum("ijcpq,ijf->pqcf", sliding_window_view(small_x, (3, 3), axis=(0, 1)), grad_y)
compiled = njit(parallel=True)(racy)
wrong = [not np.allclose(compiled(small_x, grad_y, np.zeros((3, 3, 4, 5))), right) for _ in range(20)]
print(f"wrong in {sum(wrong)} of 20 runs with {threads} thread(s)")

# %% [markdown]
# With more than one thread some runs can be wrong, perhaps not today. This is a *data race*. ``+=``
# is three steps: read, add, write. In this order of events 8 stays where 10 is right::
#
#     in memory   5        5        5        7        8
#     core 1      read 5   add 2             write 7
#     core 2               read 5   add 3             write 8
#
# A test that runs and compares may pass a hundred times. Better to ask the program itself: do two
# passes of the loop meet at one element, one of them writing? ``find_race`` (in ``race.py``, beside
# this file) runs the function in plain Python, notes who touches what, and says.

# %%
report = find_race(racy, small_x[:5, :6], grad_y[:3, :4], np.zeros((3, 3, 4, 5)))
assert report == "pass 1 of the loop reads an element of grad_weight that pass 0 wrote"

# %% [markdown]
# Mend it. The rule: *parallelise over what is written*. Choose a loop whose passes write different
# elements of ``grad_weight``, move it to the outside, and make that one the ``prange``. Your answer
# is checked with ``find_race`` and against the right values.


# %%
@exercise("04.2", lines=9, hint="A pass for each channel c writes grad_weight[:, :, c, :] and nothing else.")
def weight_gradient(x, grad_y, grad_weight):
    """Add the weight gradient to grad_weight, without a race, and return grad_weight."""
    return ...


compiled = njit(parallel=True)(weight_gradient)
assert all(np.allclose(compiled(small_x, grad_y, np.zeros((3, 3, 4, 5))), right) for _ in range(20))

# %% [markdown]
# Blocks that stay in the cache
# -----------------------------
# For each multiplication ``one_pixel`` loads a weight and a sum, and stores the sum again. A good
# product of matrices keeps a block of sums in *registers*, the few numbers that a core works on
# (chapter 06 builds such a block). BLAS does this, and chapter 03 showed how to use it: the windows
# of all pixels become the rows of a matrix ``patches`` of 9 C columns.
#
# But ``patches`` is nearly nine times as large as ``x``, and would go to memory and back. So make
# it for a few rows of ``y`` at a time: then it is still in the cache (0.5 to 2 MB a core, often)
# when the product reads it. **Predict**: how many rows are best? ``gemm(routine, a, b, beta,
# out)``, the engine's way to call BLAS in Numba code, sets ``out = a b + beta out``.

# %%
from tinyunet.backend.blas import gemm, gemm_routine


@njit
def write_windows(x, first, patches):
    channels, width = x.shape[2], x.shape[1] - 2
    for row in range(len(patches)):
        i, j = first + row // width, row % width
        for p, q in np.ndindex(3, 3):
            k = (3 * p + q) * channels
            patches[row, k : k + channels] = x[i + p, j + q]


@njit(parallel=True)
def in_blocks(routine, x, matrix, rows, y):
    height, width, filters = y.shape
    for block in prange((height + rows - 1) // rows):
        first, last = block * rows, min(height, (block + 1) * rows)
        patches = np.empty(((last - first) * width, len(matrix)), x.dtype)
        write_windows(x, first, patches)
        gemm(routine, patches, matrix, 0.0, y[first:last].reshape(len(patches), filters))


matrix = weight.reshape(9 * C, F)
rows = [1, 2, 4, 8, 16, 48]
with gemm_routine(x.dtype) as routine:  # BLAS has one thread here, for each of ours
    times = np.array([measure(in_blocks, routine, x, matrix, r, y) for r in rows])
    time_it("blocks in the cache", in_blocks, routine, x, matrix, rows[times.argmin()], y)

fig, axes = plt.subplots(figsize=(6.5, 3), layout="constrained")
axes.semilogx(rows, 1e3 * times, "o-", base=2)
axes.set_xticks(rows, [f"{r}\n{r * WIDTH * 9 * C * 4 / 1e6:.1f} MB" for r in rows])
axes.set(xlabel="rows of y in a block, size of patches", ylabel="time (ms)", ylim=(0, 1.1e3 * times.max()))
show("04-blocks")

# %% [markdown]
# Compare the lowest point with your cache. A larger block does not fit, and leaves fewer to share
# out; a very small one gives BLAS little to do.
#
# Fewer multiplications
# ---------------------
# What is left is arithmetic. To go on we have to do less of it. Take one row, and a filter of three
# taps ``g``. Two outputs depend on four inputs ``d``::
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
# ``m2`` be half the sum, ``m3`` half the difference: two products that give both lines back. That
# makes four. Terms of ``g`` alone do not count: they serve all pixels, those of ``d`` all filters.


# %%
@exercise("04.3", lines=6, hint="y0 - m1 = m2 + m3 and y1 + m4 = m2 - m3. Put the halves on the side of g.")
def two_outputs(d, g):
    """Return y0, y1 for four inputs d and three taps g, by four products of a d term and a g term."""
    return ...


d, g = rng.standard_normal(4), rng.standard_normal(3)
assert np.allclose(two_outputs(d, g), np.correlate(d, g, mode="valid"))

# %% [markdown]
# In matrices: ``B_T`` makes the four d terms, ``G`` the four g terms and ``A_T`` the outputs, ``y =
# A_T ((G g) * (B_T d))``, where ``*`` goes element by element.
#
# Along both axes, a tile of 4×4 inputs gives 2×2 outputs with 4 · 4 products: F(2×2, 3×3) (Lavin
# and Gray 2015). A tile of m×m outputs takes ``(m + 2)**2`` products. **Predict**: how many an
# *output* for m = 2 and m = 4? The direct way takes 9.

# %%
B_T = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32)
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
A_T = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32)
assert np.allclose(A_T @ ((G @ g) * (B_T @ d)), two_outputs(d, g))
assert [(m + 2) ** 2 / m**2 for m in (1, 2, 4)] == [9, 4, 2.25]

# %% [markdown]
# Now the channels. The sum over ``c`` can be done *before* ``A_T``, which is linear. So each of the
# 16 places in a tile becomes one product: d terms ``v`` (tiles × C) by g terms ``u`` (C × F).


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


assert largest_error(winograd(x, weight, A_T, G, B_T)) < 1e-5

# %% [markdown]
# Why not tiles of 8×8 outputs? Their matrices have constants far from 1, and large numbers that
# cancel lose digits. The engine makes the matrices for any tile from some points (its file tells
# how), and measurements say which are best: ``POINTS`` for m = 4. Here is the error in float32.

# %%
from tinyunet.ops.conv2d_winograd_transforms import POINTS, matrices

more = [Fraction(0), *(sign * n for n in (1, Fraction(1, 2), 2, Fraction(1, 4)) for sign in (1, -1))]
errors = {}
for m, points in {2: more[:3], 4: POINTS, 6: more[:7], 8: more[:9]}.items():
    constants = [np.array(matrix, dtype=np.float32) for matrix in matrices(points, outputs=m)]
    errors[m] = largest_error(winograd(x, weight, *constants))
assert errors[2] < 1e-5 < errors[8]

fig, axes = plt.subplots(figsize=(6.5, 3), layout="constrained")
axes.semilogy(list(errors), list(errors.values()), "o-")
axes.set_xticks(list(errors), [f"m = {m}\n{(m + 2) ** 2 / m**2:.2f}" for m in errors])
axes.set(xlabel="outputs of a tile along an axis; products for one output", ylabel="error / largest value")
show("04-winograd")

# %% [markdown]
# The same in the engine
# ----------------------
# ``ops/conv2d.py`` multiplies blocks of windows, one row each, as ``in_blocks`` does. Layers like ours
# go to ``ops/conv2d_winograd.py``, F(4×4, 3×3): blocks that stay in the cache, transforms in vector
# registers (``lanes.py``). It agrees with our loops. PyTorch, if installed: in our order and its own.

# %%
import tinyunet as tu

time_it("the engine", lambda: tu.conv2d(tu.Tensor(x[None]), tu.Tensor(weight)).data[0])
try:
    import torch
except ImportError:
    print("PyTorch is not installed: nothing to compare with")
else:
    torch.set_num_threads(threads)
    last = torch.from_numpy(x[None]).permute(0, 3, 1, 2), torch.from_numpy(weight).permute(3, 2, 0, 1)
    first = [array.contiguous() for array in last]
    time_it("PyTorch, channels last", lambda: torch.conv2d(*last)[0].permute(1, 2, 0).numpy())
    time_it("PyTorch, channels first", lambda: torch.conv2d(*first)[0].permute(1, 2, 0).numpy())

# %% [markdown]
# The *roofline* (Williams, Waterman and Patterson 2009): under the slanted line the memory is the
# limit, under the flat one the arithmetic. GFLOP/s count the operations of the *direct* way; a way
# that needs fewer may stand above the roof. The dotted lines are other layers. A ReLU does one
# operation for 8 bytes: no arithmetic makes it fast, only leaving out its pass over memory does.
# Hence ``relu=True`` in the engine's ``conv2d``.

# %%
fig, axes = plt.subplots(figsize=(9, 4), layout="constrained")
intensities = np.logspace(-1.5, 3, 100)
axes.loglog(intensities, np.minimum(peak, bandwidth * intensities) / 1e9, color="black")
for (name, speed), marker in zip(speeds.items(), "osD^v*P", strict=False):
    axes.plot(operations / moved, speed / 1e9, marker, ms=9, label=f"{name}: {speed / 1e9:.3g}")
for name, (work, size) in {"first layer, C = 1": count(HEIGHT, WIDTH, 1, F), "ReLU": (1, 8)}.items():
    axes.axvline(work / size, color="0.5", linestyle=":")
    axes.text(work / size * 0.93, 0.12, name, rotation=90, va="bottom", ha="right", color="0.35")
axes.set(xlabel="operations a byte", ylabel="GFLOP/s", ylim=(0.1, None), title="Roofline of this computer")
axes.legend(title="3×3, 64 to 64 channels, GFLOP/s", loc="upper left", bbox_to_anchor=(1, 1))
show("04-roofline")

# %% [markdown]
# Summary
# -------
# - Count operations and bytes, measure the machine's two limits, then optimise.
# - The innermost loop runs along neighbours in memory; blocks of work stay in the cache.
# - Parallelise over what is written; to find a race, ask who touches what.
# - Where arithmetic is the limit, do less of it: F(4×4, 3×3) takes 2.25 products for 9.
#
# Next: ``06_conv2d_cuda.py``, the same convolution with thousands of threads.
