# %% [markdown]
"""
07. Convolution on a GPU
========================

**You will build** three CUDA kernels for the convolution, each with fewer trips to memory than the one
before, and see what tensor cores add. They are the rungs of ``kernels/conv2d*.cu``, which
``tinyunet/ops/conv2d_cuda.py`` launches.

**You will learn** how thousands of threads share a convolution, which thread owns which outputs, how tiles in
shared memory and blocks in registers save trips to memory, and why a kernel becomes fast by *counting*.

Needed: chapter 06, and a C++ compiler (g++, on Linux). No GPU: the emulator runs the kernels and counts
every access. That is slow and says nothing about speed, so there are no times here. About 60 minutes. Five
exercises.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import exercise, load_solutions, show
from numpy.lib.stride_tricks import sliding_window_view

from tinyunet.backend.cuda import run_checked
from tinyunet.backend.cuda_emulator import compiler
from tinyunet.errors import BackendError, KernelError

try:
    compiler()
except BackendError as error:
    print(error)
    print("This chapter ends here, because without a compiler no kernel can run. Read on in the file.")
    raise SystemExit(0) from None

# %% [markdown]
# One thread per output
# ---------------------
# The simplest share of a thread is one number of the output. ``x[i,j,c]`` of an array with ``width``
# columns is ``x[(i * width + j) * channels + c]``, and ``weight[p,q,c,f]`` is
# ``weight[((p * 3 + q) * channels + c) * filters + f]``. A *row* is an output pixel here: row 0, 1, 2, ...
# of a matrix with one column per filter ``f``. The loops of chapter 03 are left to you: three of them, over
# ``p``, ``q`` and ``c``.

# %%
NAIVE = """
extern "C" __global__ void naive(const float* x, const float* weight, float* y, int width, int channels,
                                 int filters, int rows) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= rows * filters) return;
    int row = index / filters, f = index % filters;
    int i = row / (width - 2), j = row % (width - 2);
    float sum = 0;
    // your lines
    y[row * filters + f] = sum;
}"""


@exercise("07.1")
def naive_sum():
    """Return the missing lines of NAIVE, in C++: the sum over p, q and c."""
    return ...


puzzles = load_solutions("07").PUZZLES
naive = puzzles["naive_sum"].source(naive_sum())

rng = np.random.default_rng(0)


def layer(height, width, channels, filters):
    """Return the arguments of a kernel, and the right output: rows × filters."""
    x = rng.standard_normal((height, width, channels), dtype=np.float32)
    weight = rng.standard_normal((3, 3, channels, filters), dtype=np.float32)
    right = np.einsum("ijcpq,pqcf->ijf", sliding_window_view(x, (3, 3), axis=(0, 1)), weight)
    right = right.reshape(-1, filters)
    return (x, weight, np.empty_like(right), width, channels, filters, len(right)), right


def run(source, kernel, grid, block, arguments, right):
    """Run a kernel, check its output, and return the report of its accesses."""
    arguments[2][:] = np.nan
    report = run_checked(source, kernel, grid, block, *arguments)
    assert np.abs(arguments[2] - right).max() < 1e-5 * np.abs(right).max()
    return report


odd = layer(7, 8, 5, 6)  # sizes that are no multiples of a block
run(naive, "naive", (1,), (256,), *odd)
even = layer(10, 10, 16, 64)  # 64 output pixels, 64 filters: 4096 outputs
report = run(naive, "naive", (16,), (256,), *even)
for number, traffic in report.lines.items():
    print(f"{traffic.global_wavefronts:>6,}  {naive.splitlines()[number - 1].strip()}")

# %% [markdown]
# The cost of a warp's access
# ---------------------------
# The numbers above are printed beside the lines that read or write *global* memory, where the arrays are.
# They are the wavefronts of chapter 06: for each access of a warp, how many different segments of 128 bytes
# it touches. Segments follow one another from address 0 on.


# %%
@exercise("07.2")
def count_segments(addresses):
    """Return how many segments of 128 bytes hold float32 numbers at these byte addresses (multiples of 4)."""
    return ...


# %% [markdown]
# In the naive kernel neighbouring threads have neighbouring filters. All threads of a warp read the
# *same* ``pixel`` and 32 neighbouring weights. **Predict**: how many wavefronts would a warp need for each
# if neighbouring threads had neighbouring *pixels*, and the same filter? (16 channels, 8 pixels in
# an output row, 10 in an input row.)

# %%
lanes = np.arange(32)
pixel_of = {"neighbouring filters": 0 * lanes, "neighbouring pixels": lanes}
filter_of = {"neighbouring filters": lanes, "neighbouring pixels": 0 * lanes}
fig, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
asked = {}
for axes, name in zip(panels, pixel_of, strict=True):
    row = pixel_of[name]
    addresses = 4 * ((row // 8 * 10 + row % 8) * 16)  # of x[i, j, 0]
    asked[name] = count_segments(addresses), count_segments(4 * filter_of[name])
    memory = np.zeros((20, 32))
    memory[addresses // 128, addresses % 128 // 4] = 1
    memory[np.unique(addresses // 128)] += 0.25
    axes.pcolormesh(memory, cmap="Blues", edgecolors="0.9", linewidth=0.3)
    axes.set(xlabel="float32 in the segment", title=f"{name}: {asked[name][0]} segment(s) of x")
panels[0].set(ylabel="segment of 128 bytes", ylim=(20, 0), yticks=range(0, 21, 5))
fig.suptitle("The numbers of x that one warp reads at once (dark), and those that memory delivers (light)")
show("07-segments")
assert asked == {"neighbouring filters": (1, 1), "neighbouring pixels": (16, 1)}

# %% [markdown]
# The emulator counts the same while the kernel runs (``print(report)`` shows all its counts). We
# exchange the two in the kernel and compare.

# %%
exchanged = naive.replace(
    "row = index / filters, f = index % filters", "row = index % rows, f = index / rows"
)


def wavefronts(report):
    """Return the wavefronts of global and of shared memory, all lines together."""
    total = np.sum(list(report.lines.values()), axis=0)
    return int(total[0]), int(total[2])


counted = {"naive": wavefronts(report)}
bad = wavefronts(run(exchanged, "naive", (16,), (256,), *even))
print(f"global wavefronts: {counted['naive'][0]:,}, and {bad[0]:,} with neighbouring pixels")
assert counted["naive"][0] >= 128 * 144  # 128 warps, 144 steps, 2 reads if none is saved
assert bad[0] > 5 * counted["naive"][0]

# %% [markdown]
# That is more than 17 per step instead of 2. Where ``q = 1``, in 48 of the 144 steps, the pixels begin in
# the middle of a segment, and there are 20 segments instead of 16. And the 32 writes of a warp to ``y``
# go to 32 segments.
#
# Tiles in shared memory
# ----------------------
# Each output needs 9 C numbers of ``x`` and as many weights, and the naive kernel reads all of them
# anew for every output. But in a matrix product outputs can share them. Let a block compute a *tile*
# of r rows and s filters: it needs r rows of windows and s columns of weights, for r · s outputs.


# %%
@exercise("07.3")
def bytes_per_output(r, s, size, channels):
    """Return the bytes that a block of r × s outputs reads, per output, with a size × size window."""
    return ...


print([bytes_per_output(r, s, 3, 64) for r, s in [(1, 1), (16, 16), (128, 64)]])
assert [bytes_per_output(r, s, 3, 64) for r, s in [(1, 1), (16, 16), (128, 64)]] == [4608, 288, 54]

# %% [markdown]
# In shared memory they can. All threads of a block together fetch both tiles, 16 columns of the windows
# and 16 rows of the weights at a time. Then each thread multiplies numbers that other threads have
# fetched. Blocks and threads have two axes now, ``x`` and ``y``. Who owns what:

# %%
four = [(5 + 16 * m, 3 + 16 * n) for m in range(4) for n in range(4)]
fig, panels = plt.subplots(1, 2, figsize=(9, 4.6), layout="constrained")
for axes, side, owned in zip(panels, (16, 64), ([(5, 3)], four), strict=True):
    axes.add_patch(plt.Rectangle((0, 0), side, side, fc="#d6e8f7", ec="0.3"))
    axes.add_patch(plt.Rectangle((-0.45 * side, 0), 0.35 * side, side, fc="#d9efdc", ec="0.3"))
    axes.add_patch(plt.Rectangle((0, -0.45 * side), side, 0.35 * side, fc="#efdcee", ec="0.3"))
    for row, column in owned:
        axes.add_patch(plt.Rectangle((column, row), 1, 1, fc="#D55E00"))
        axes.add_patch(plt.Rectangle((-0.45 * side, row), 0.35 * side, 1, fc="#D55E00", alpha=0.5))
        axes.add_patch(plt.Rectangle((column, -0.45 * side), 1, 0.35 * side, fc="#D55E00", alpha=0.5))
    axes.text(-0.27 * side, 0.5 * side, "windows", ha="center", va="center", fontsize=8)
    axes.text(0.5 * side, -0.27 * side, "weights", ha="center", va="center", fontsize=8)
    axes.set(xlim=(-0.5 * side, 1.05 * side), ylim=(1.05 * side, -0.5 * side), aspect="equal")
    axes.set_xticks([0, side], ["filter 0", side])
    axes.set_yticks([0, side], ["row 0", side])
    axes.set_title("tiled: one output" if side == 16 else "registers: 16 outputs")
fig.suptitle("What thread (u, v) = (5, 3) of a block owns, and what it needs for that")
show("07-owners")

# %% [markdown]
# The left block is ours for now: thread ``(u, v)`` owns the output in row ``u`` and column ``v`` of the
# block, and needs row ``u`` of one tile and column ``v`` of the other. Two functions are given.
# ``window_at(x, l, row, k)`` is an element of the matrix of windows, and ``weight_at(weight, l, k, f)``
# one of the weights; both are 0 outside. In each step of the loop, thread ``(u, v)`` fetches
# ``windows[u][v]``, which belongs to ``row`` and ``k + v``, and ``weights[u][v]``, which belongs to ``k +
# u`` and ``f``; then it adds 16 products to ``sum``. Where do the barriers go?

# %%
HELPERS = """
struct Layer { int width, channels, filters, rows; };

// An element of the matrix of windows. row: the output pixel; k: (p, q, c) as one number. 0 outside.
__device__ __forceinline__ float window_at(const float* x, Layer l, int row, int k) {
    if (row >= l.rows || k >= 9 * l.channels) return 0;
    int tap = k / l.channels, i = row / (l.width - 2) + tap / 3, j = row % (l.width - 2) + tap % 3;
    return x[(i * l.width + j) * l.channels + k % l.channels];
}
__device__ __forceinline__ float weight_at(const float* weight, Layer l, int k, int f) {
    return k < 9 * l.channels && f < l.filters ? weight[k * l.filters + f] : 0;
}
"""
TILED = (
    HELPERS
    + """
extern "C" __global__ void tiled(const float* x, const float* weight, float* y, int width, int channels,
                                 int filters, int rows) {
    __shared__ float windows[16][16], weights[16][16];
    Layer l = {width, channels, filters, rows};
    int u = threadIdx.y, v = threadIdx.x, row = blockIdx.x * 16 + u, f = blockIdx.y * 16 + v;
    float sum = 0;
    for (int k = 0; k < 9 * channels; k += 16) {
        // your lines
    }
    if (row < rows && f < filters) y[row * filters + f] = sum;
}"""
)


@exercise("07.4")
def tiled_step():
    """Return the missing lines of TILED: fetch both tiles, and add 16 products to sum."""
    return ...


tiled = puzzles["tiled_step"].source(tiled_step())
run(tiled, "tiled", (2, 1), (16, 16), *odd)
counted["tiled"] = wavefronts(run(tiled, "tiled", (4, 4), (16, 16), *even))

# %% [markdown]
# Delete a barrier of the worked answer. On a GPU the result would be wrong, or right by luck. The emulator
# finds the race whatever the result. **Predict** for each of the two barriers what the report says.

# %%
worked = puzzles["tiled_step"].source(load_solutions("07").tiled_step())
for comment in ("// both tiles are complete", "// both tiles have been used"):
    try:
        run_checked(worked.replace(f"__syncthreads();  {comment}", ""), "tiled", (4, 4), (16, 16), *even[0])
    except KernelError as error:
        print(f"without the barrier {comment}:\n{error}\n")
    else:
        raise AssertionError("the race was not found")
for number, line in enumerate(worked.splitlines(), 1):
    if "windows[u]" in line:
        print(f"kernels.cu:{number}  {line.strip()}")

# %% [markdown]
# Without the first, a thread reads a word that may not have been written yet. Without the second, a
# quick thread writes the next tile while another thread still reads this one.
#
# Blocks in registers
# -------------------
# Global memory has less to do now, but shared memory has more: two reads per multiplication, as many as
# the naive kernel makes from global memory. The same idea helps again, one level further in. Each thread
# computes 4×4 outputs in its *registers*, which no other thread sees (right in the picture): it reads 4 +
# 4 numbers into ``left`` and ``right``, for 16 multiplications that are added to ``sum``. Thread ``(u,
# v)`` has the rows ``u``, ``u + 16``, ``u + 32``, ``u + 48`` and the filters ``v``, ``v + 16``, ...: so
# neighbouring threads read neighbouring words. **Predict** how many times fewer shared wavefronts that
# makes.

# %%
REGISTERS = (
    HELPERS
    + """
extern "C" __global__ void registers(const float* x, const float* weight, float* y, int width, int channels,
                                     int filters, int rows) {
    __shared__ float windows[64][16], weights[16][64];
    Layer l = {width, channels, filters, rows};
    int u = threadIdx.y, v = threadIdx.x, row = blockIdx.x * 64 + u, f = blockIdx.y * 64 + v;
    float sum[4][4] = {}, left[4], right[4];
    for (int k = 0; k < 9 * channels; k += 16) {
        for (int m = 0; m < 4; m++) {
            windows[u + 16 * m][v] = window_at(x, l, row + 16 * m, k + v);
            weights[u][v + 16 * m] = weight_at(weight, l, k + u, f + 16 * m);
        }
        __syncthreads();
        for (int e = 0; e < 16; e++) {
            // your lines
        }
        __syncthreads();
    }
    for (int m = 0; m < 16; m++)
        if (row + m / 4 * 16 < rows && f + m % 4 * 16 < filters)
            y[(row + m / 4 * 16) * filters + f + m % 4 * 16] = sum[m / 4][m % 4];
}"""
)


@exercise("07.5")
def register_step():
    """Return the missing lines of REGISTERS: read 4 + 4 numbers, and add 16 products to sum[4][4]."""
    return ...


registers = puzzles["register_step"].source(register_step())
run(registers, "registers", (1, 1), (16, 16), *odd)
counted["registers"] = wavefronts(run(registers, "registers", (1, 1), (16, 16), *even))
for name, (far, near) in counted.items():
    print(f"{name:<10} {far:>7,} global and {near:>7,} shared wavefronts")
tiled_reads, register_reads = 128 * 144 * 2, 8 * 144 * 8  # warps, steps, reads per step
assert (tiled_reads, register_reads) == (36_864, 9_216)
assert counted["tiled"][1] < 1.2 * tiled_reads
assert counted["registers"][1] < 1.2 * register_reads
assert counted["naive"][0] > 4 * counted["tiled"][0]

# %% [markdown]
# The sum of an output takes 9 · 16 = 144 steps. In ``tiled`` 128 warps take them, with 2 reads each:
# 36,864 shared wavefronts. In ``registers`` 8 warps take them, with 8 reads each: 9,216, four times
# fewer. The rest are the writes of the tiles.
#
# Tensor cores
# ------------
# The last rung has an instruction of its own: a whole warp multiplies a 16×8 by an 8×8 matrix, 16 ·
# 8 · 8 multiplications at once. The matrices are spread over the registers of its 32 threads, in an
# order that the manual of PTX (the GPU's assembly language) defines.

# %%
i, j = np.mgrid[:16, :8]
fragments = {
    "A, 16×8": (i % 8 * 4 + j % 4),
    "B, 8×8": (j * 4 + i % 4)[:8],
    "D += A B, 16×8": (i % 8 * 4 + j // 2),
}
fig, panels = plt.subplots(1, 3, figsize=(9, 5), layout="constrained")
for axes, (name, lane) in zip(panels, fragments.items(), strict=True):
    assert (np.bincount(lane.ravel()) == lane.size // 32).all()  # as many in every thread
    axes.imshow(lane, cmap="viridis", vmin=0, vmax=31)
    for (row, column), number in np.ndenumerate(lane):
        axes.text(column, row, number, ha="center", va="center", color="white" if number < 20 else "black")
    axes.set(title=name, xticks=[], yticks=[])
fig.suptitle("The thread of the warp, 0 to 31, that holds each number")
show("07-fragments")

# %% [markdown]
# The factors are rounded to TF32 first, with 10 bits after the point. So this rung computes a
# slightly different number, and the engine runs it only if it is told to.
#
# The same in the engine
# ----------------------
# ``kernels/conv2d*.cu`` has these rungs: ``naive``, ``tiled``, ``few_channels`` (8×4 outputs per thread,
# for images), ``blocked`` (8×8 outputs per thread, four numbers per load, the next tiles fetched while
# these are multiplied) and ``tensor``, the last also with factors of 16 bits (bfloat16, 7 after the
# point), rounded on their way into the tensor cores or beforehand, in copies. They agree with our
# kernels up to their rounding. A launch log adds up their accesses to memory.

# %%
import tinyunet as tu
from tinyunet.backend.cuda_emulator import checks
from tinyunet.backend.cuda_log import launch_log
from tinyunet.ops import conv2d_cuda

(x, weight, *_), right = even
for rung in conv2d_cuda.RUNGS:
    with tu.use_backend("cuda-emulated"), checks(), launch_log() as log:  # no bias, padding 0, no ReLU
        y = conv2d_cuda.forward(x[None], weight, None, 0, False, rung)
    traffic = log.totals[f"conv2d_forward_{rung}"].traffic
    counted[f"engine: {rung}"] = traffic.global_wavefronts, traffic.shared_wavefronts
    error = np.abs(y.reshape(right.shape) - right).max() / np.abs(right).max()
    print(f"{rung:<13} largest error {error:.1e} of the largest value")
    assert (1e-5 < error < 1e-2) if rung.startswith(("tensor", "wgmma")) else error < 1e-6

fig, axes = plt.subplots(figsize=(8, 3.4), layout="constrained")
for offset, memory, column in ((-0.2, "global", 0), (0.2, "shared", 1)):
    bars = axes.bar(
        np.arange(len(counted)) + offset, [pair[column] for pair in counted.values()], 0.4, label=memory
    )
    axes.bar_label(bars, fmt="{:,.0f}", fontsize=8)
axes.set_xticks(range(len(counted)), [name.replace(": ", ":\n").replace("_", "\n") for name in counted])
axes.set(ylabel="wavefronts", title="3×3, 16 to 64 channels, 64 pixels: wavefronts of the memory")
axes.legend()
show("07-wavefronts")

# %% [markdown]
# The blocks of the engine's ``blocked`` and ``tensor``, 128×64 outputs, are larger than this small
# layer, and half empty here. These numbers count the work of the memory. They do not say how fast a
# rung is on a GPU: that also depends on caches, and on how much one warp computes while another one
# waits.
#
# Summary
# -------
# - One thread per output is a correct kernel; neighbouring threads should read neighbours in memory.
# - A block that computes r × s outputs reads r + s numbers for every r · s multiplications: tiles
#   in shared memory, then blocks in registers.
# - Between writing and reading shared memory there is a barrier. Races are found by checking, not by
#   luck.
# - Tensor cores multiply small matrices in one instruction, with rounded factors.
#
# Next: ``08_max_pool2d_conv_transpose2d.py``, the other ops of the network.
