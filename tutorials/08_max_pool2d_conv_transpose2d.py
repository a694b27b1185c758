# %% [markdown]
"""
08. Pooling and up-convolution: down by two, and up again
=========================================================

**You will build** the two ops that change the size of a map: max-pooling, which halves it, and the
up-convolution, which doubles it, with their gradients. The engine's are in
``tinyunet/ops/max_pool2d.py`` and ``tinyunet/ops/conv_transpose2d.py``.

**You will learn** what has to be remembered of a maximum, what a tie does to a gradient, and why the
up-convolution is also called a *transposed* convolution.

Needed: chapters 02 and 03. About 40 minutes. Eight exercises.
"""

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
from lesson import exercise, show

from tinyunet.data import synthetic_cells

# %% [markdown]
# The largest of four
# -------------------
# On its way down the U-Net halves the height and the width of its map four times (section 2 of the
# paper). After each halving a 3×3 window covers twice as much of the image along each axis. The input
# ``x`` has shape ``(N, H, W, C)``, with ``H`` and ``W`` even. Of each 2×2 window, channel by channel,
# the largest value is kept:
#
# ::
#
#     y[n,i,j,c] = max over p,q in {0,1} of x[n,2i+p,2j+q,c]
#
# For the way back we also need to know *where* the maximum was. One number says it: ``2 p + q``, from
# 0 (top left) to 3 (bottom right). If several are equally large, the first of them counts.


# %%
@exercise("08.1")
def max_pool(x):
    """Return y and place, both (N, H/2, W/2, C); place is 2 p + q of the first maximum."""
    return ...


# %%
rng = np.random.default_rng(0)
x = rng.standard_normal((2, 4, 6, 3))
y, place = max_pool(x)
assert y.shape == place.shape == (2, 2, 3, 3)
n, i, j, c = 1, 0, 2, 1
p, q = divmod(place[n, i, j, c], 2)
assert y[n, i, j, c] == x[n, 2 * i + p, 2 * j + q, c] == x[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c].max()

# %% [markdown]
# Here it is four times in a row, beside the mean of each window. **Predict** what happens to the thin
# dark gaps between touching cells, which the network has to find.

# %%
image = synthetic_cells(1, 128, seed=9).images[0][np.newaxis] / 255.0
largest, means = [image], [image]
for _ in range(4):
    largest.append(max_pool(largest[-1])[0])
    rows = means[-1][:, ::2] + means[-1][:, 1::2]
    means.append((rows[:, :, ::2] + rows[:, :, 1::2]) / 4)
assert [m.shape[1] for m in largest] == [128, 64, 32, 16, 8]

fig, axes = plt.subplots(2, 5, figsize=(11, 4.6), layout="constrained")
for row, maps, name in ((0, largest, "maximum"), (1, means, "mean")):
    for ax, pooled in zip(axes[row], maps, strict=True):
        ax.imshow(pooled[0, ..., 0], cmap="gray", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[], title=f"{pooled.shape[1]} × {pooled.shape[2]}")
    axes[row, 0].set_ylabel(name)
show("08-pooled")

# %% [markdown]
# They close: a thin dark gap has brighter neighbours, and these win. The mean is no better: it mixes
# gap and cell to one gray, and small cells fade. The network does not pool the image itself, but
# maps of features, and a filter can turn dark into bright. Still, details thinner than a window are
# gone at the bottom. This is why the U-Net keeps a copy of each map from before the pooling, and uses
# it on the way up.
#
# The way back
# ------------
# Where is a pixel of ``x`` used? In one window, because windows do not overlap, and only if it was the
# largest there. Then ``y`` changes by as much as the pixel: the factor is 1. So ``grad_y`` goes to the
# place of the maximum, and the other three get 0. If several are equally large, the first gets all of
# it: the one that ``place`` names.


# %%
@exercise("08.2")
def max_pool_backward(grad_y, x):
    """Return grad_x, of the shape of x; grad_y has the shape of max_pool(x)."""
    return ...


# %%
grad_y, v = rng.standard_normal(y.shape), rng.standard_normal(x.shape)
grad_x = max_pool_backward(grad_y, x)
step = 1e-6  # chapter 02: the slope along a random direction, twice
slope = np.vdot(max_pool(x + step * v)[0] - max_pool(x - step * v)[0], grad_y) / (2 * step)
assert np.isclose(np.vdot(grad_x, v), slope, rtol=1e-6)
assert np.count_nonzero(grad_x) == y.size

# %% [markdown]
# The backward needs only ``place``, which the forward knew already. So the engine keeps ``place`` for
# the way back, one byte per output, and not ``x``. **Predict** how much less memory that
# is, with ``x`` in float32.

# %%
assert x.astype(np.float32).nbytes == 16 * place.astype(np.uint8).nbytes
print("place takes a sixteenth of the memory of x")

# %% [markdown]
# A tie
# -----
# A shorter backward comes to mind: compare ``x`` with the maximum, and give the gradient to all
# pixels that are equal to it. Perhaps you wrote this, and the check refused it. **Predict** the sum of
# ``grad_x`` for the window ``5 5 / 1 5`` and ``grad_y = 1``.


# %%
def doubled(a):
    """Repeat each pixel as a square of 2 × 2."""
    return np.repeat(np.repeat(a, 2, axis=1), 2, axis=2)


def backward_by_comparing(grad_y, x, y):
    return np.where(x == doubled(y), doubled(grad_y), 0)


window = np.array([[5.0, 5.0], [1.0, 5.0]])[np.newaxis, :, :, np.newaxis]
y, _ = max_pool(window)
compared = backward_by_comparing(np.ones_like(y), window, y)
chosen = max_pool_backward(np.ones_like(y), window)
print(f"compared: {compared.ravel()}, sum {compared.sum()}; one chosen: {chosen.ravel()}, sum {chosen.sum()}")
assert (compared.sum(), chosen.sum()) == (3, 1)

# %% [markdown]
# Which is right? Add ``h`` to all four pixels: the maximum grows by ``h``, smoothly, without a
# kink. So the slope along ``v = 1`` is 1. Comparing gives 3. Single elements would not reveal it: moved
# alone, each of the three has the slope 1 ahead and 0 behind, and ``judge`` of chapter 02 accepts
# both.
#
# How often are there ties? An image of 8 bits has many equal neighbours. A map of real numbers has
# hardly any, with one exception: after a ReLU, windows in which all four are 0.


# %%
def tied(x):
    """Return the share of windows whose largest value occurs more than once."""
    y, _ = max_pool(x)
    largest = (x == doubled(y)).reshape(*y.shape[:2], 2, y.shape[2], 2, -1)
    return np.mean(largest.sum(axis=(2, 4)) > 1)


noise = rng.standard_normal((1, 256, 256, 4))
shares = [tied(np.round(255 * image)), tied(noise), tied(np.maximum(noise, 0))]
names = ("8-bit image", "noise", "noise after a ReLU")
print(", ".join(f"{name} {share:.1%}" for name, share in zip(names, shares, strict=True)))
assert shares[0] > 0.1
assert shares[1] == 0
assert abs(shares[2] - 1 / 16) < 0.003

# %% [markdown]
# After a ReLU of noise each pixel is 0 with probability 1/2, and all four with 1/16. There the
# gradient goes to the first pixel, and ends at the ReLU, whose own gradient at 0 is 0. So ties do no
# harm where they are common, but a checker has to know of them.
#
# One more number, for the next chapter. Of several random values the largest is on average larger
# than one of them. **Predict** by what factor pooling raises the mean square of noise after a ReLU.

# %%
rectified = np.maximum(noise, 0)
before, after = np.mean(rectified**2), np.mean(max_pool(rectified)[0] ** 2)
print(f"mean square {before:.2f} before pooling, {after:.2f} after: {after / before:.1f} times as much")
assert abs(before - 0.5) < 0.02
assert 2.9 < after / before < 3.3

# %% [markdown]
# About three times for independent pixels. Neighbours in a real map are alike, and gain less.
#
# Up: scattering into squares
# ---------------------------
# On the way up each pixel becomes four. The paper's up-convolution (section 2) lets the network
# learn how: ``weight`` has shape ``(2, 2, C, F)``, and each input pixel, times ``weight``, is
# scattered into a 2×2 square of output pixels. The squares do not overlap.
#
# ::
#
#     y[n,2i+p,2j+q,f] = bias[f] + sum over c of weight[p,q,c,f] x[n,i,j,c]


# %%
@exercise("08.3")
def up_conv(x, weight, bias):
    """Return y, shape (N, 2H, 2W, F), for x (N, H, W, C), weight (2, 2, C, F) and bias (F,)."""
    return ...


# %% [markdown]
# In the paper each up-convolution halves the channels. At the bottom of the network there is one
# map of 28 × 28 pixels with 1024 channels. **Predict** the shape that the first up-convolution
# makes of it, and how many numbers its ``weight`` and ``bias`` hold.

# %%
assert up_conv(np.zeros((1, 7, 7, 8)), np.zeros((2, 2, 8, 4)), np.zeros(4)).shape == (1, 14, 14, 4)
shape, parameters = (1, 2 * 28, 2 * 28, 1024 // 2), 2 * 2 * 1024 * 512 + 512
print(f"{shape}, {parameters:,} parameters")
assert shape == (1, 56, 56, 512)
assert parameters == 2_097_664

# %% [markdown]
# Three windows with one channel each, on a part of the image that was halved twice by the mean. The
# upper row shows the taps ``weight[p, q]``, the lower row the result.

# %%
small = means[2]  # 32 × 32
by_hand = {
    "all 1: each pixel four times": np.ones((2, 2)),
    "one tap only": np.array([[1.0, 0.0], [0.0, 0.0]]),
    "unequal: a chessboard": np.array([[1.1, 0.5], [0.7, 1.3]]),
}
fig, axes = plt.subplots(2, 4, figsize=(11, 4.6), height_ratios=[1, 4], layout="constrained")
for column, (title, taps) in enumerate(by_hand.items(), 1):
    scattered = up_conv(small, taps[:, :, np.newaxis, np.newaxis], np.zeros(1))
    axes[0, column].imshow(taps, cmap="cividis", vmin=0, vmax=1.4)
    for p, q in np.ndindex(2, 2):
        colour = "k" if taps[p, q] > 0.7 else "w"
        axes[0, column].text(q, p, f"{taps[p, q]:g}", ha="center", va="center", color=colour, fontsize=8)
    axes[1, column].imshow(scattered[0, 14:54, 14:54, 0], cmap="gray", vmin=0, vmax=1)
    axes[0, column].set_title(title, fontsize=10)
    axes[1, column].set_title("y: 40 × 40", fontsize=10)
axes[1, 0].imshow(small[0, 7:27, 7:27, 0], cmap="gray", vmin=0, vmax=1)
axes[1, 0].set_title("x: 20 × 20", fontsize=10)
axes[0, 0].axis("off")
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
show("08-scattered")

# %% [markdown]
# Squares do not influence one another: up-convolution alone makes blocks, and unequal taps make a
# chessboard. The two 3×3 convolutions that follow in the network mix the squares again.
#
# The transpose
# -------------
# Every linear op is a matrix (chapter 03). The matrix of ``up_conv`` without bias has one row per
# output and one column per input. Its transpose goes the other way, from the large map to the small
# one. Call that op ``down``. It can be defined without matrices: it is the only op with
#
# ::
#
#     <up(x), y> = <x, down(y)>      for all x and y
#
# Here ``x`` is any small map and ``y`` any large one, and ``<a, b>`` is the sum of the products
# element by element, as in chapter 02. Such an op is called the *adjoint*. Write out the left side
# as a sum, factor out ``x[n,i,j,c]``, and read off the rest.


# %%
@exercise("08.4")
def down_conv(y, weight):
    """Return the adjoint of up_conv without bias: (N, H, W, C) for y (N, 2H, 2W, F)."""
    return ...


# %%
for n, height, width, channels, filters in [(1, 3, 5, 2, 4), (2, 4, 1, 3, 3), (3, 2, 2, 5, 1)]:
    x = rng.standard_normal((n, height, width, channels))
    y = rng.standard_normal((n, 2 * height, 2 * width, filters))
    weight = rng.standard_normal((2, 2, channels, filters))
    left, right = np.vdot(up_conv(x, weight, np.zeros(filters)), y), np.vdot(x, down_conv(y, weight))
    print(f"<up(x), y> = {left:+.12f}, <x, down(y)> = {right:+.12f}")
    assert np.isclose(left, right, rtol=1e-9)

# %% [markdown]
# ``down`` lays a 2×2 window on the large map, multiplies and adds, and moves on by two: a
# convolution of *stride* 2. So the up-convolution is the transpose of a convolution, hence
# ``conv_transpose2d`` in PyTorch and here. And the backward of every linear op has to satisfy this
# equation (chapter 03): ``down`` is the backward of ``up`` for its input, and ``up`` is the backward
# of ``down``.
#
# The adjoint is not the inverse. **Predict** ``down(up(x))`` for one channel and the taps 0.5, 0.5,
# 0.5, 0.5; and for the taps 1, 1, 1, 1.

# %%
x = rng.standard_normal((1, 3, 3, 1))
for tap, factor in ((0.5, 1), (1.0, 4)):
    weight = np.full((2, 2, 1, 1), tap)
    assert np.allclose(down_conv(up_conv(x, weight, np.zeros(1)), weight), factor * x)

# %% [markdown]
# Each pixel goes out and comes back through the same four taps: the factor is the sum of their
# squares.
#
# Pooling has a transpose too. As long as no place changes, it is linear: it *picks* one of four. Its
# backward *scatters*, and is the transpose. So the backward of a single 1 is a row of the picking
# matrix; the last ``assert`` multiplies by that matrix, and gets the pooled map.
#
# Here are the matrices for one channel, a small map of 4×4 and a large one of 8×8 pixels. Pixels
# are counted row by row.

# %%
weight = np.array([[1.0, 2.0], [3.0, 4.0]])[:, :, np.newaxis, np.newaxis]
up_matrix = up_conv(np.eye(16).reshape(16, 4, 4, 1), weight, np.zeros(1)).reshape(16, 64).T
down_matrix = down_conv(np.eye(64).reshape(64, 8, 8, 1), weight).reshape(64, 16).T
large = rng.standard_normal((1, 8, 8, 1))
same = np.broadcast_to(large, (16, 8, 8, 1))
pick_matrix = max_pool_backward(np.eye(16).reshape(16, 4, 4, 1), same).reshape(16, 64)
assert np.array_equal(down_matrix, up_matrix.T)
assert np.array_equal(np.count_nonzero(pick_matrix, axis=1), np.ones(16))
assert np.array_equal(pick_matrix @ large.ravel(), max_pool(large)[0].ravel())

places = [["up", "down"], ["up", "pick"]]
fig, axes = plt.subplot_mosaic(places, figsize=(10, 5.4), layout="constrained", width_ratios=[1, 3])
for ax, array, xlabel, ylabel, title in (
    (axes["up"], up_matrix, "small map", "large map", "Up-convolution"),
    (axes["down"], down_matrix, "large map", "small map", "Its transpose: stride 2"),
    (axes["pick"], pick_matrix, "large map", "small map", "Pooling picks one of four"),
):
    taps = ax.imshow(np.where(array == 0, np.nan, array), cmap="viridis", vmin=1, vmax=4)
    ax.set(xlabel=f"{xlabel}, pixel", ylabel=f"{ylabel}, pixel", title=title)
fig.colorbar(taps, ax=list(axes.values()), label="tap", ticks=[1, 2, 3, 4], shrink=0.7)
show("08-matrix")

# %% [markdown]
# How fast
# --------
# A convolution multiplies each number hundreds of times. Pooling touches each number once: memory is
# its limit. So we count bytes, those read of ``x`` and those written of ``y`` and ``place``. The
# worked answer first copies ``x``, window by window, and then walks over the copy twice, four numbers
# at a time. The engine reads each window once, without a copy.

# %%
import tinyunet as tu

x = rng.standard_normal((1, 284, 284, 64), dtype=np.float32)
traffic = x.nbytes + x.nbytes / 4 + x.size / 4
for name, pool in (("ours", max_pool), ("the engine", lambda x: tu.max_pool2d(tu.Tensor(x)))):
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        pool(x)
        seconds.append(time.perf_counter() - start)
    print(f"{name:<11}{1000 * min(seconds):8.1f} ms {traffic / min(seconds) / 1e9:8.2f} GB/s")

# %% [markdown]
# The same in the engine
# ----------------------
# The weight's gradient is still missing. Ask where ``weight[p,q,c,f]`` is used: at every ``n, i,
# j``, multiplied by ``x[n,i,j,c]``, for the output ``2i+p, 2j+q``.


# %%
def up_conv_backward_weight(x, grad_y):
    taps = [np.einsum("nijc,nijf->cf", x, grad_y[:, p::2, q::2]) for p, q in np.ndindex(2, 2)]
    return np.reshape(taps, (2, 2, x.shape[3], grad_y.shape[3]))


arrays = [rng.standard_normal(shape) for shape in ((2, 3, 5, 4), (2, 2, 4, 3), (3,))]
grad_y = rng.standard_normal((2, 6, 10, 3))
ours = (down_conv(grad_y, arrays[1]), up_conv_backward_weight(arrays[0], grad_y), grad_y.sum(axis=(0, 1, 2)))
tensors = [tu.Tensor(array, requires_grad=True) for array in arrays]
output = tu.conv_transpose2d(*tensors)
output.backward(grad_y)
assert np.allclose(output.data, up_conv(*arrays), rtol=1e-10)
for tensor, mine in zip(tensors, ours, strict=True):
    assert np.allclose(tensor.grad, mine, rtol=1e-10)

x = tu.Tensor(rng.integers(0, 3, (2, 6, 4, 3)).astype(float), requires_grad=True)  # with ties
y, _ = max_pool(x.data)
output, grad_y = tu.max_pool2d(x), rng.standard_normal(y.shape)
output.backward(grad_y)
assert np.array_equal(output.data, y)
assert np.array_equal(x.grad, max_pool_backward(grad_y, x.data))
print("The engine agrees, at ties too.")

# %% [markdown]
# On your own
# -----------
# Up-sampling without weights: between the pixels, interpolate. Along an axis, output ``2 i`` lies a
# quarter of a pixel before input ``i``, and output ``2 i + 1`` a quarter after it, so they are
# ``3/4 x[i] + 1/4 x[i - 1]`` and ``3/4 x[i] + 1/4 x[i + 1]``. Beyond the edge, the edge pixel is
# repeated. Do this along both axes. Then write the way back, its transpose; you know how to check
# one.


# %%
@exercise("08.5")
def double_bilinear(x):
    """Return x (N, H, W, C) interpolated to (N, 2 H, 2 W, C)."""
    return ...


@exercise("08.6")
def double_bilinear_backward(grad_y):
    """Return grad_x (N, H, W, C), given grad_y (N, 2 H, 2 W, C)."""
    return ...


x, grad_y = rng.standard_normal((2, 5, 4, 3)), rng.standard_normal((2, 10, 8, 3))
forward, transposed = np.vdot(double_bilinear(x), grad_y), np.vdot(x, double_bilinear_backward(grad_y))
print(f"<up(x), y> = {forward:.6f}, <x, down(y)> = {transposed:.6f}")
assert np.isclose(forward, transposed)
assert np.allclose(double_bilinear(np.ones((1, 3, 3, 1))), 1)  # no chessboard

# %% [markdown]
# And a pooling whose windows overlap: 3×3 windows, two pixels apart, as the sliding-window networks
# of 2012 had them. A pixel can be the largest of up to four windows, so its gradient is a sum. Of
# equal values in a window the first one wins, in reading order, as before.


# %%
@exercise("08.7")
def pool3(x):
    """Return the largest of each 3×3 window: x (N, H, W, C) to (N, (H - 3) // 2 + 1, (W - 3) // 2 + 1, C)."""
    return ...


@exercise("08.8")
def pool3_backward(grad_y, x):
    """Return grad_x for y = pool3(x)."""
    return ...


x = rng.standard_normal((2, 7, 9, 3))
grad_y, v = rng.standard_normal(pool3(x).shape), rng.standard_normal(x.shape)
quotient = np.vdot(pool3(x + 1e-7 * v) - pool3(x - 1e-7 * v), grad_y) / 2e-7
print(f"slope {quotient:.5f} by the quotient, {np.vdot(pool3_backward(grad_y, x), v):.5f} by backward")
assert np.isclose(quotient, np.vdot(pool3_backward(grad_y, x), v), rtol=1e-5)

# %% [markdown]
# Summary
# -------
# - Max-pooling keeps the largest of four, and its place in one byte.
# - Its gradient goes to that place only. At a tie one place is chosen, or the gradient counts twice.
# - The up-convolution scatters each pixel into a learned square. It is the transpose of a convolution
#   of stride 2: ``<up(x), y> = <x, down(y)>``.
# - Pooling raises the mean square of a map, and closes thin dark gaps.
#
# Next: ``09_unet.py`` puts the ops together.
