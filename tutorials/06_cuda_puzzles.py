# %% [markdown]
"""
06. Kernels: eight puzzles
==========================

**You will build** eight CUDA kernels, from one line to a convolution, each of which brings one idea. Chapter
07 puts these ideas together into a fast convolution.

**You will learn** how thousands of threads share the work, what the threads of a warp cost together when they
access memory, what shared memory and barriers are for, and how to count instead of guessing.

Needed: chapter 03, and a C++ compiler (g++, on Linux). No GPU: ``kernels/emulator/`` compiles your kernels
for the CPU, runs them there, and checks and counts every access to memory. About 90 minutes. Eight exercises.
"""

# %%
import matplotlib.pyplot as plt
from lesson import exercise, load_solutions, show

from tinyunet.backend.cuda_emulator import compiler
from tinyunet.errors import BackendError

try:
    compiler()
except BackendError as error:
    print(error)
    print("This chapter ends here, because without a compiler no kernel can run. Read on in the file.")
    raise SystemExit(0) from None

puzzles = load_solutions("06").PUZZLES

# %% [markdown]
# What a GPU is made of
# ---------------------
# A GPU has some hundred *processors*, each with a small fast memory of its own, and one large memory for
# all. It runs one function, the *kernel*, in many *threads* at once. Threads come in *blocks*, and all
# blocks together are the *grid*. A block stays on one processor, which runs several blocks side by side.
# 32 threads with neighbouring numbers, a *warp*, run in step: they execute the same instruction at the
# same time, each on its own numbers. The sizes in the drawing are those of an NVIDIA H200.

# %%
fig, axes = plt.subplots(figsize=(9, 4.6), layout="constrained")


def box(x, y, width, height, colour, text, size=9):
    axes.add_patch(plt.Rectangle((x, y), width, height, fc=colour, ec="0.3"))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size)


for x, name in ((0, "processor 0"), (3.4, "processor 1"), (7.6, "processor 131")):
    box(x, 2.2, 3, 3.2, "#f4f4f4", "")
    axes.text(x + 1.5, 5.2, name, ha="center", va="center", fontsize=10)
    for warp in range(2):
        for lane in range(8):
            axes.add_patch(
                plt.Circle((x + 0.35 + 0.23 * lane, 4.75 - 0.4 * warp), 0.09, fc="#ffe3b8", ec="0.4")
            )
        axes.text(x + 2.2, 4.75 - 0.4 * warp, f"… warp {warp}", va="center", fontsize=8)
    box(x + 0.15, 3.2, 2.7, 0.8, "#d9efdc", "registers: 256 kB,\nof each thread its own", 8)
    box(x + 0.15, 2.35, 2.7, 0.7, "#d6e8f7", "shared memory: 228 kB,\nof each block its own", 8)
axes.text(7, 3.8, "…", ha="center", fontsize=16)
box(0, 1.2, 10.6, 0.7, "#efdcee", "cache (L2): 50 MB, for all")
box(0, 0, 10.6, 0.9, "#e8e8e8", "global memory: 141 GB, where the arrays are; 4800 GB/s at most")
axes.set(xlim=(-0.1, 10.7), ylim=(-0.1, 5.6))
axes.axis("off")
show("06-gpu")

# %% [markdown]
# The language is C++ with a few more words: ``__global__`` marks a kernel, and each thread finds out
# which one it is from ``threadIdx`` (its number in the block), ``blockIdx`` (the number of its block) and
# ``blockDim`` (threads per block). Arrays are addresses: ``const float* x`` is read, ``float* y`` is
# written. The rest is what you expect: ``int i = 3;`` and ``float sum = 0;`` make variables, ``/`` of two
# ``int`` drops the fraction, and ``%`` is the remainder, which has the sign of the first number: ``-1 % 64``
# is -1, not 63 as in Python. Lines end with a semicolon, and braces hold a body together::
#
#     if (i < n && j != 0) sum += x[i];
#     for (int k = 0; k < 8; k++) {
#         sum += x[k];
#     }
#
# Each of your answers is the *body* of a kernel, as a string in triple quotation marks. You get its
# parameters, and how many threads run it.
#
# 1. A guard
# ----------
# One thread for each number: its number is ``blockIdx.x * blockDim.x + threadIdx.x``. The grid consists
# of whole blocks. For 100 numbers there are two blocks of 64, so that 28 threads have nothing to do. They
# must not touch memory.
#
# ::
#
#     void kernel(const float* x, float* y, int n)      blocks of 64 threads, at least n threads


# %%
@exercise("06.1")
def double_all():
    """Return the body of a kernel that makes y[i] = 2 x[i] for i = 0 … n - 1."""
    return ...


# %% [markdown]
# The picture shows what the first warp does, and this is how to read all those that follow. A row is a
# *segment*: 128 bytes, or 32 float32, of global memory. Segments follow one another from the beginning of
# the array on. What a thread accesses has its number and colour. Memory serves the 32 threads of a warp
# together, and in one turn, a *wavefront*, it delivers one segment (light gray). So what counts is how
# many *different segments* a warp touches. Here it is one for reading and one for writing: the fewest
# possible.

# %%
puzzles["double_all"].draw(double_all())
show("06-guard")

# %% [markdown]
# 2. Two axes
# -----------
# Blocks and threads have up to three axes, ``x``, ``y`` and ``z``. For an image the first goes along the
# columns, as neighbours in memory: pixel ``[i, j]`` of an image with ``width`` columns is number ``i *
# width + j``. Subtract from each pixel the mean of its row. Both axes need a guard.
#
# ::
#
#     void kernel(const float* x, const float* mean, float* y, int height, int width)
#
#     blocks of 16 × 8 threads (x, then y): at least width threads along x, and height along y


# %%
@exercise("06.2")
def subtract_mean():
    """Return the body of a kernel that makes y[i, j] = x[i, j] - mean[i]."""
    return ...


# %%
puzzles["subtract_mean"].draw(subtract_mean())
show("06-axes")

# %% [markdown]
# A warp is two rows of the block here, because it has 16 columns: threads are numbered along ``x`` first.
# All threads of a row read the same number of ``mean``, which costs no more than one of them would.
#
# 3. Neighbours read neighbours
# -----------------------------
# Fewer threads than numbers: each of the 64 threads of a block doubles four numbers, and the block 256.
# One may give thread ``t`` the numbers ``4 t`` to ``4 t + 3``. **Predict** how many segments a warp
# touches then in one read, and find a distribution of the work by which it touches only one. That is
# called *coalesced* access. ``n`` is a multiple of 256.
#
# ::
#
#     void kernel(const float* x, float* y, int n)      n / 256 blocks of 64 threads


# %%
@exercise("06.3")
def four_each():
    """Return the body of a kernel that makes y[i] = 2 x[i], by four numbers per thread, coalesced."""
    return ...


# %%
consecutive = """int first = blockIdx.x * 256 + 4 * threadIdx.x;
for (int k = 0; k < 4; k++) y[first + k] = 2 * x[first + k];"""
puzzles["four_each"].draw(consecutive)
show("06-consecutive")
puzzles["four_each"].draw(four_each())
show("06-coalesced")

# %% [markdown]
# Four segments with neighbouring numbers in one thread, one segment with neighbouring numbers in
# neighbouring threads. Nothing else has changed.
#
# 4. A tile in shared memory
# --------------------------
# ``__shared__ float tile[64];`` in a kernel is an array that all threads of a block have in common, in
# the fast memory of their processor. So they can fetch numbers together, each once, and then all read all
# of them. In between there must be a *barrier*, ``__syncthreads();``: no thread passes it before all
# threads of the block have arrived. Otherwise a quick thread reads what a slow one has not written yet.
#
# The *rank* of a number is how many numbers of its block are smaller. Each of the 64 threads needs all 64
# numbers. Without a tile these are 64 reads of global memory per thread; with one it is a single read. A
# thread that leaves early, with ``return``, never reaches the barrier: here all have work to do.
#
# ::
#
#     void kernel(const float* x, float* y)      blocks of 64 threads, one thread per number


# %%
@exercise("06.4")
def rank():
    """Return the body of a kernel: y[i] is how many of the block's 64 numbers of x are smaller than x[i]."""
    return ...


# %%
puzzles["rank"].draw(rank())
show("06-tile")

# %% [markdown]
# For shared memory a row of the picture is the 32 *banks*: word ``i`` is in bank ``i % 32``. Every bank
# serves one word per wavefront. In the loop all threads read one word, and share it.
#
# 5. Two barriers
# ---------------
# 64 numbers in a ring. In each step every number becomes the mean of its two neighbours, all at the same
# time. The ring stays in shared memory, and a thread writes to the place from which others read.
# **Predict** how many barriers a step needs. They must be where *all* threads pass: not inside an ``if``.
#
# ::
#
#     void kernel(const float* x, float* y, int steps)      one block of 64 threads


# %%
@exercise("06.5")
def ring():
    """Return the body of a kernel: y is x after `steps` steps, in each tile[t] = (left + right) / 2."""
    return ...


# %% [markdown]
# Two: one between the reading of the old numbers and the writing of the new ones, one between the writing
# and the next reading. A number that was read is kept in a variable, in a *register* of the thread,
# across the first. The emulator finds a missing barrier whatever the result: two threads meet at one
# word, one of them writing, and nothing orders them. Here is what it says without the first.

# %%
from lesson import WrongAnswer

one_barrier = """__shared__ float tile[64];
int t = threadIdx.x;
tile[t] = x[t];
for (int s = 0; s < steps; s++) {
    __syncthreads();
    tile[t] = (tile[(t + 63) % 64] + tile[(t + 1) % 64]) / 2;
}
y[t] = tile[t];"""
try:
    puzzles["ring"].check(lambda: one_barrier, mistakes={})
except WrongAnswer as error:
    print(error)
else:
    raise AssertionError("the race was not found")

# %% [markdown]
# 6. A sum
# --------
# Each block adds up its 128 numbers. One thread alone would take 127 additions in a row, while 127
# threads wait. As a *tree* it takes seven rounds: in the first, thread ``t`` adds number ``t + 64`` to
# number ``t``, in the second number ``t + 32``, and so on; in each round half as many threads work. Where
# do the barriers go?
#
# ::
#
#     void kernel(const float* x, float* y)      blocks of 128 threads; y has one number per block


# %%
@exercise("06.6")
def sum_of_block():
    """Return the body of a kernel: y[b] is the sum of the 128 numbers of x that belong to block b."""
    return ...


# %%
puzzles["sum_of_block"].draw(sum_of_block())
show("06-sum")

# %% [markdown]
# GPUs have instructions that exchange registers within a warp, which need no barrier;
# ``kernels/reduce.cuh`` uses them for the last rounds.
#
# 7. Bank conflicts
# -----------------
# Transpose: row ``i`` of ``x`` becomes column ``i`` of ``y``. Read along rows and write along columns,
# and each of the 32 writes of a warp goes to a segment of its own. So go through a tile of 32 × 32
# numbers: read rows from ``x`` into the tile, and write rows of ``y`` from its columns. Block
# ``(blockIdx.x, blockIdx.y)`` reads the tile in that place of ``x`` and writes to the mirrored place.
#
# Now a column of ``tile[32][32]``: its words are 32 apart, all in one bank. Threads that read *different*
# words of one bank wait for one another, here 32 times: a *bank conflict*. **Predict** what changes if
# the tile is declared one column wider than it needs to be.
#
# ::
#
#     void kernel(const float* x, float* y, int height, int width)      x is height × width
#
#     (width / 32) × (height / 32) blocks of 32 × 32 threads; both sides are multiples of 32


# %%
@exercise("06.7")
def transpose():
    """Return the body of a kernel that makes y[j, i] = x[i, j], with 64 + 64 wavefronts per tile."""
    return ...


# %%
conflicts = """__shared__ float tile[32][32];
int i = threadIdx.y, j = threadIdx.x;
tile[i][j] = x[(blockIdx.y * 32 + i) * width + blockIdx.x * 32 + j];
__syncthreads();
y[(blockIdx.x * 32 + i) * height + blockIdx.y * 32 + j] = tile[j][i];"""
puzzles["transpose"].draw(conflicts)
show("06-conflict")
puzzles["transpose"].draw(transpose())
show("06-transposed")

# %% [markdown]
# 8. A convolution
# ----------------
# All of it together, along one axis: ``y[i] = w[0] x[i] + … + w[4] x[i + 4]``, for ``n`` outputs. A block
# makes 64 outputs, and needs 68 numbers of ``x``: the last four are the *halo*. Read each of them from
# global memory once, into a tile, with 64 threads; guard both ``x``, which has ``n + 4`` numbers, and
# ``y``.
#
# ::
#
#     void kernel(const float* x, const float* w, float* y, int n)      blocks of 64 threads


# %%
@exercise("06.8")
def convolve():
    """Return the body of a kernel that makes y[i] = sum over p < 5 of w[p] x[i + p] for i = 0 … n - 1."""
    return ...


# %%
puzzles["convolve"].draw(convolve())
show("06-convolution")
reports = {name: puzzles[name].score(globals()[name]) for name in puzzles}
for name, score in reports.items():
    print(f"{name:<14} {score}")

# %% [markdown]
# Compare your scores with *par*, the worked answers' wavefronts. They count the work of the memory. They
# do not say how fast a kernel is on a GPU: that also depends on caches, and on how much one warp computes
# while another one waits. ``print(puzzles["rank"].run(rank(), case)[0])`` would show the counts line by
# line, as chapter 07 does.
#
# The same in the engine
# ----------------------
# All of these are in ``kernels/``: the guard in every file, coalesced access along the channels, the tile
# in ``conv2d.cu``, two barriers around each step of its loop, the tree in ``reduce.cuh``, and a layout
# without bank conflicts in ``conv2d_tiles.cuh``. The tests run every kernel in the emulator, as you did.
#
# Summary
# -------
# - One thread per output, and a guard: the grid consists of whole blocks.
# - Neighbouring threads read neighbours in memory; different segments, and different words of one bank, cost
#   a wavefront each.
# - What many threads of a block need is fetched once, into shared memory.
# - Between writing and reading by different threads there is a barrier, for all threads.
#
# Next: ``07_conv2d_cuda.py``, the convolution on a GPU.
