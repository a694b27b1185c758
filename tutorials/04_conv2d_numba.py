# %% [markdown]
"""
04. Convolution on a CPU: loops, threads, blocks
================================================

**You will build** a convolution that keeps all cores busy: loops in the right order, threads, and
blocks that stay in the cache. It is the fast part of ``tinyunet/ops/conv2d.py``.

**You will learn** what your CPU can do at most, why the order of loops matters, how to find a data
race without bad luck, and how to read from a roofline which of two limits a layer meets.

Needed: chapter 03. About 40 minutes. Four exercises. All times are measured on your computer.
"""

# %%
import os

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
# All arrays are float32, 4 bytes per number. Two counts decide how fast this can be. *Operations*:
# each multiplication and each addition is one. *Bytes*: at least, ``x`` and ``weight`` are read once
# and ``y`` is written once. Operations per byte are the *intensity* of the layer.


# %%
@exercise("04.1")
def count(height, width, channels, filters):
    """Return (operations, bytes) of a 3×3 layer whose *output* has height × width pixels."""
    return ...


HEIGHT, WIDTH, C, F = 96, 96, 64, 64
operations, moved = count(HEIGHT, WIDTH, C, F)
print(f"{operations:,} operations, {moved:,} bytes: {operations / moved:.0f} operations per byte")
assert (operations, moved) == (679_477_248, 4_965_376)

# %% [markdown]
# How fast can it be?
# -------------------
# A CPU has two limits: its operations per second, and the bytes per second that its memory
# delivers. We measure both. For the first we take a large matrix product by BLAS, the library
# behind NumPy, tuned by many people (another library may do better). For the second we add two
# arrays that are too large for any cache. One GFLOP/s is 10**9 operations per second. A layer whose
# intensity is below the quotient of the two limits waits for the memory.
#
# Numba's ``njit`` translates Python loops into machine code. ``prange`` is its parallel ``range``:
# the passes of the loop are shared among the cores. ``measure`` (in ``lesson.py``) calls a function
# once to compile it and to warm up, then five times, and returns the shortest time in seconds.


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
print(f"{peak / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s: {peak / bandwidth:.0f} operations per byte")

# %% [markdown]
# The order of the loops
# ----------------------
# Memory is one long row of numbers. In an array the elements along the *last* axis are neighbours.
# A CPU fetches 64 bytes at a time (16 neighbours, a *cache line*) and multiplies 4 to 16 neighbours
# in one instruction (a *vector*).
#
# Here are two orders of the same six loops. The first has ``c`` innermost: in ``weight[p, q, c,
# f]`` the next ``c`` lies ``F`` numbers further on. The second has ``f`` innermost. **Predict**:
# which is faster, and by what factor? (``fastmath`` here allows sums in another order, which
# vectors need, but does not assume that there are no NaNs: a training that fails should show it.)


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
speeds = {}  # operations per second, by name
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
# With more than one thread some runs can be wrong, though perhaps not today. This is a *data race*. ``+=``
# is three steps: read, add, write. In this order of events 8 stays where 10 is right::
#
#     in memory   5        5        5        7        8
#     core 1      read 5   add 2             write 7
#     core 2               read 5   add 3             write 8
#
# A test that runs and compares may pass a hundred times. Better to examine the program itself: do
# two passes of the loop meet at one element, one of them writing? ``find_race`` (in ``race.py``,
# beside this file) runs the function in plain Python, notes which pass reads or writes which
# element, and reports the first such pair.

# %%
report = find_race(racy, small_x[:5, :6], grad_y[:3, :4], np.zeros((3, 3, 4, 5)))
assert report == "pass 1 of the loop reads an element of grad_weight that pass 0 wrote"

# %% [markdown]
# Mend it. The rule is: *parallelise over what is written*. Choose a loop whose passes write different
# elements of ``grad_weight``, move it to the outside, and make that one the ``prange``. Your answer
# is checked with ``find_race`` and against the right values.


# %%
@exercise("04.2")
def weight_gradient(x, grad_y, grad_weight):
    """Add the weight gradient to grad_weight, without a race, and return grad_weight."""
    return ...


compiled = njit(parallel=True)(weight_gradient)
assert all(np.allclose(compiled(small_x, grad_y, np.zeros((3, 3, 4, 5))), right) for _ in range(20))

# %% [markdown]
# Blocks that stay in the cache
# -----------------------------
# For each multiplication ``one_pixel`` loads a weight and a sum, and stores the sum again. A good
# matrix product keeps a block of sums in *registers*, the few numbers that a core works on (chapter
# 07 builds such a block). Chapter 03 showed how to use one: the windows of all pixels become the
# rows of a matrix ``patches`` with 9 C columns.
#
# But ``patches`` is nearly nine times as large as ``x``, and would go to memory and back. So make
# it for a few rows of ``y`` at a time: then it is still in the cache (often 0.5 to 2 MB per core)
# when the product reads it. **Predict**: how many rows are best? ``multiply(a, b, False, out)``, the
# engine's product for Numba code, sets ``out = a b``. It reads ``b`` in *panels*, groups of columns
# one after the other in memory, because that is the order in which registers need them.

# %%
from tinyunet.backend.products import in_panels, multiply


@njit
def write_windows(x, first, patches):
    channels, width = x.shape[2], x.shape[1] - 2
    for row in range(len(patches)):
        i, j = first + row // width, row % width
        for p, q in np.ndindex(3, 3):
            k = (3 * p + q) * channels
            patches[row, k : k + channels] = x[i + p, j + q]


@njit(parallel=True)
def in_blocks(x, panels, rows, y):
    height, width, filters = y.shape
    for block in prange((height + rows - 1) // rows):
        first, last = block * rows, min(height, (block + 1) * rows)
        patches = np.empty(((last - first) * width, 9 * x.shape[2]), x.dtype)
        write_windows(x, first, patches)
        multiply(patches, panels, False, y[first:last].reshape(len(patches), filters))


(panels,) = in_panels(weight.reshape(1, 9 * C, F))
rows = [1, 2, 4, 8, 16, 48]
times = np.array([measure(in_blocks, x, panels, r, y) for r in rows])
time_it("blocks in the cache", in_blocks, x, panels, rows[times.argmin()], y)

fig, axes = plt.subplots(figsize=(6.5, 3), layout="constrained")
axes.semilogx(rows, 1e3 * times, "o-", base=2)
axes.set_xticks(rows, [f"{r}\n{r * WIDTH * 9 * C * 4 / 1e6:.1f} MB" for r in rows])
axes.set(xlabel="rows of y in a block, size of patches", ylabel="time (ms)", ylim=(0, 1.1e3 * times.max()))
show("04-blocks")

# %% [markdown]
# Compare the lowest point with your cache. A larger block does not fit, and leaves fewer blocks to
# share among the cores; for a very small one, the weights are fetched often for little work.
#
# The same in the engine
# ----------------------
# ``tinyunet/ops/conv2d.py`` takes one row of ``y`` at a time, and copies no window. Under *one* row
# of the window, each output needs a piece of one line of ``x``, and the next output's piece begins a
# pixel later. So these pieces are the rows of a matrix as they lie, only that they overlap, and a row
# of ``y`` is the sum of three products. The environment variable ``TINYUNET_CONV=direct`` asks for
# this version: by itself, the engine computes a layer like ours in the way of chapter 05. Both agree
# with our loops. PyTorch, if it is installed, gets the arrays in our order (channels last) and in its
# own (channels first).

# %%
import tinyunet as tu


def engine(way):
    os.environ["TINYUNET_CONV"] = way
    return tu.conv2d(tu.Tensor(x[None]), tu.Tensor(weight)).data[0]


time_it("the engine, direct", engine, "direct")
time_it("the engine, chapter 05", engine, "auto")
del os.environ["TINYUNET_CONV"]
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
# limit, under the flat one the arithmetic. The dotted lines are other layers. A ReLU does one
# operation per 8 bytes: no arithmetic makes it fast, only leaving out its pass over memory does.
# Hence ``relu=True`` in the engine's ``conv2d``. GFLOP/s count the operations of the *direct* sum
# above. So a version that needs fewer of them can stand above the roof: chapter 05 shows how.

# %%
fig, axes = plt.subplots(figsize=(9, 4), layout="constrained")
intensities = np.logspace(-1.5, 3, 100)
axes.loglog(intensities, np.minimum(peak, bandwidth * intensities) / 1e9, color="black")
for (name, speed), marker in zip(speeds.items(), "osD^v*Ph", strict=False):
    axes.plot(operations / moved, speed / 1e9, marker, ms=9, label=f"{name}: {speed / 1e9:.3g}")
for name, (work, size) in {"first layer, C = 1": count(HEIGHT, WIDTH, 1, F), "ReLU": (1, 8)}.items():
    axes.axvline(work / size, color="0.5", linestyle=":")
    axes.text(work / size * 0.93, 0.12, name, rotation=90, va="bottom", ha="right", color="0.35")
axes.set(xlabel="operations per byte", ylabel="GFLOP/s", ylim=(0.1, None), title="Roofline of this computer")
axes.legend(title="3×3, 64 to 64 channels, GFLOP/s", loc="upper left", bbox_to_anchor=(1, 1))
show("04-roofline")

# %% [markdown]
# On your own
# -----------
# Two more loops, in parallel and without a race. The first is the gradient of the input. As a loop
# over the outputs it *paints* windows that overlap, so that two passes add to the same element.
# Turn it round: a pass for each row of ``grad_x``, which *gathers* what belongs there. At the
# border some of these outputs do not exist. Numba has to compile what you write.


# %%
@exercise("04.3")
def input_gradient(grad_y, weight, grad_x):
    """Add to grad_x (H + 2, W + 2, C), full of zeros; return it. grad_y (H, W, F), weight (3, 3, C, F)."""
    return ...


# %% [markdown]
# The second is a convolution that adds the bias and applies the ReLU while a pixel is still in
# cache, instead of in two more passes over all of ``y``.


# %%
@exercise("04.4")
def conv_bias_relu(x, weight, bias, y):
    """Write max(conv(x, weight) + bias, 0) into y (H, W, F), for x (H + 2, W + 2, C); return y."""
    return ...


rng = np.random.default_rng(0)
small, taps, shifts = (rng.standard_normal(shape) for shape in [(8, 9, 2), (3, 3, 2, 4), (4,)])
painted, found = np.zeros(small.shape), np.zeros(small.shape)
g = rng.standard_normal((6, 7, 4))
for p, q in np.ndindex(3, 3):
    painted[p : p + 6, q : q + 7] += g @ taps[p, q].T
assert np.allclose(njit(parallel=True)(input_gradient)(g, taps, found), painted)
scores = sum(small[p : p + 6, q : q + 7] @ taps[p, q] for p, q in np.ndindex(3, 3)) + shifts
fused = njit(parallel=True)(conv_bias_relu)(small, taps, shifts, np.zeros(scores.shape))
assert np.allclose(fused, np.maximum(scores, 0))
print("Both loops agree with NumPy.")

# %% [markdown]
# Summary
# -------
# - Count operations and bytes, measure the machine's two limits, then optimise.
# - The innermost loop runs along neighbours in memory; blocks of work stay in the cache.
# - Parallelise over what is written; to find a race, record which pass touches which element.
# - The roofline says whether memory or arithmetic is the limit.
#
# Next: ``05_conv2d_winograd.py``, the same layer with fewer multiplications.
