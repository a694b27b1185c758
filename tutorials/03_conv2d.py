# %% [markdown]
"""
03. Convolution: loops, windows, one matrix product
===================================================

**You will build** the convolution of the U-Net in four ways, from plain loops to matrix products, and
its three gradients. The engine's is ``tinyunet/ops/conv2d.py``.

**You will learn** why all four ways are the same sum, how to read a gradient off an equation by asking
where a number is used, why the window is flipped on the way back, and how a linear op can be checked
without any difference quotient.

Needed: chapters 01 and 02. About 50 minutes. Seven exercises.
"""

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
from lesson import animate, exercise, show
from numpy.lib.stride_tricks import sliding_window_view

from tinyunet.data import synthetic_cells

# %% [markdown]
# What it computes
# ----------------
# The input ``x`` has shape ``(N, H, W, C)``: ``N`` images of ``H`` rows and ``W`` columns, each
# pixel with ``C`` channels. ``weight`` has shape ``(K, K, C, F)``: for each of ``F`` filters a
# window of ``K`` × ``K`` pixels with ``C`` channels. ``bias`` has shape ``(F,)``. A filter is laid
# on the image, each of its weights is multiplied by the number under it, and all products are added
# up:
#
# ::
#
#     y[n,i,j,f] = bias[f] + sum over p,q,c of weight[p,q,c,f] x[n,i+p,j+q,c]
#
# The letters mean the same in all chapters: ``n`` image, ``i j`` row and column, ``p q`` place in
# the window, ``c`` input channel, ``f`` filter. Mathematicians call this a cross-correlation; in
# their convolution the window is flipped first, that is, rotated by 180 degrees. Because weights are
# learned, it does not matter which of the two a network uses, as long as the backward fits.
#
# The window has to lie inside the image. **Predict** the shape of ``y`` for two images of 7 × 9
# pixels with 3 channels and four 3×3 filters. And the image that enters the paper's network has a
# side of 572 pixels: how long is it after two 3×3 convolutions?


# %%
def conv_loops(x, weight, bias):
    images, height, width, channels = x.shape
    size, _, _, filters = weight.shape
    y = np.empty((images, height - size + 1, width - size + 1, filters))
    for n, i, j, f in np.ndindex(y.shape):
        y[n, i, j, f] = bias[f]
        for p, q, c in np.ndindex(size, size, channels):
            y[n, i, j, f] += weight[p, q, c, f] * x[n, i + p, j + q, c]
    return y


rng = np.random.default_rng(0)
x, weight, bias = rng.standard_normal((2, 7, 9, 3)), rng.standard_normal((3, 3, 3, 4)), rng.standard_normal(4)
y = conv_loops(x, weight, bias)
print(f"x {x.shape} with weight {weight.shape} gives y {y.shape}")
assert y.shape == (2, 5, 7, 4)
assert 572 - 2 - 2 == 568

# %% [markdown]
# So ``y`` has the shape ``(N, H', W', F)`` with ``H' = H - K + 1`` and ``W' = W - K + 1``. The
# paper (section 2) calls these *unpadded* convolutions. Each shortens a side by two pixels, and in
# exchange each output pixel depends on pixels of the image only. The common alternative puts a border
# of zeros around ``x`` first, ``padding=1``, and keeps the size.
#
# Windows, without copying
# ------------------------
# Seven loops, and every single product costs time in Python. NumPy can present all windows of an
# array at once. It copies nothing: the result is another way to step through the same memory.

# %%
windows = sliding_window_view(x, (3, 3), axis=(1, 2))
print(f"windows {windows.shape}: n, i, j, c, p, q")
assert windows.shape == (2, 5, 7, 3, 3, 3)
assert windows[1, 2, 4, 0, 1, 2] == x[1, 2 + 1, 4 + 2, 0]
assert np.shares_memory(windows, x)

# %% [markdown]
# ``np.einsum`` takes an equation in letters. It sums over the letters that occur on the left only. So
# the equation above becomes one line, letter by letter.


# %%
def conv_einsum(x, weight, bias):
    windows = sliding_window_view(x, weight.shape[:2], axis=(1, 2))
    return np.einsum("nijcpq,pqcf->nijf", windows, weight) + bias


assert np.allclose(conv_einsum(x, weight, bias), y)

# %% [markdown]
# That is fast enough for a picture: four filters written by hand, on a synthetic micrograph of cells.

# %%
image = synthetic_cells(1, 128, seed=9).images[0][np.newaxis] / 255.0
blur, edge = np.full((3, 3), 1 / 9), np.outer([1, 2, 1], [-1, 0, 1]) / 4
slanted = np.array([[-2, -1, 0], [-1, 0, 1], [0, 1, 2]]) / 4
by_hand = np.stack([blur, edge, edge.T, slanted], axis=-1)[:, :, np.newaxis]  # (3, 3, 1, 4)
maps = conv_einsum(image, by_hand, np.zeros(4))
assert by_hand.shape == (3, 3, 1, 4)
assert maps.shape == (1, 126, 126, 4)

fig, axes = plt.subplots(2, 5, figsize=(11, 4), height_ratios=[1, 2], layout="constrained")
axes[1, 0].imshow(image[0, ..., 0], cmap="gray")
axes[0, 0].axis("off")
titles = ("blur", "left to right", "top to bottom", "slanted")
for f in range(4):
    axes[0, f + 1].imshow(by_hand[:, :, 0, f], cmap="RdBu_r", vmin=-1, vmax=1)
    for p, q in np.ndindex(3, 3):
        axes[0, f + 1].text(q, p, f"{by_hand[p, q, 0, f]:.2g}", ha="center", va="center", fontsize=7)
    limit = abs(maps[..., f]).max()
    style = {"cmap": "gray"} if f == 0 else {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    axes[1, f + 1].imshow(maps[0, ..., f], **style)
for ax, title in zip(axes[1], ("image", *titles), strict=True):
    ax.set_title(title)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
fig.suptitle("Four filters of 3×3 weights and their outputs (red positive, blue negative)")
show("03-filters")

# %% [markdown]
# A network has many such filters, and learns their weights.
#
# One matrix product
# ------------------
# Write each window as a row of a matrix, in the order ``p, q, c``, and each filter as a column, in
# the same order. Then ``y`` is one matrix product, and machines are best at matrix products.


# %%
@exercise("03.1")
def window_rows(x, size):
    """Return all windows of x as rows: shape (N H' W', K K C), columns in the order p, q, c."""
    return ...


# %%
def conv_matrix(x, weight, bias):
    size, _, _, filters = weight.shape
    y = window_rows(x, size) @ weight.reshape(-1, filters) + bias
    return y.reshape(len(x), x.shape[1] - size + 1, x.shape[2] - size + 1, filters)


assert np.allclose(conv_matrix(x, weight, bias), y)

# %% [markdown]
# The price is memory: each pixel is copied into all windows that contain it. **Predict** how many
# megabytes (10**6 bytes) the rows take for the second convolution of the paper's network: 570 × 570
# pixels, 64 channels, float32 (4 bytes).

# %%
before, after = 4 * 570 * 570 * 64 / 1e6, 4 * 568 * 568 * 9 * 64 / 1e6
print(f"x: {before:.0f} MB; its windows as rows: {after:.0f} MB")
assert (round(before), round(after)) == (83, 743)

# %% [markdown]
# So the engine makes the windows of one row of the image at a time. Another way needs no copy at all:
# take one place ``p, q`` of the window, a *tap*. The pixels under this tap, in all windows, are the
# shifted image, and they are multiplied by one small matrix, ``weight[p, q]`` of shape ``(C, F)``.
# A window of 3×3 takes nine such products, added up; a 1×1 convolution takes a single one.


# %%
def conv_taps(x, weight, bias):
    size = weight.shape[0]
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    return bias + sum(x[:, p : p + height, q : q + width] @ weight[p, q] for p, q in np.ndindex(size, size))


assert np.allclose(conv_taps(x, weight, bias), y)

# %% [markdown]
# The gradient of the weight
# --------------------------
# Now backward. Given is ``grad_y``, of the shape of ``y``: the derivative of the loss with respect to
# each output. To find the derivative with respect to some number, ask *where that number is used*.
# ``bias[f]`` is added to ``y[n,i,j,f]`` at every ``n, i, j``, with the factor 1. So its gradient is
# the sum of ``grad_y`` over all images and pixels.
#
# Now take one weight, ``weight[p,q,c,f]``. In which outputs is it used, and by which number is it
# multiplied there? Write the sum down before you go on.


# %%
@exercise("03.2")
def backward_weight_and_bias(x, grad_y, size):
    """Return grad_weight, shape (K, K, C, F), and grad_bias, shape (F,)."""
    return ...


# %% [markdown]
# The check needs no step ``h``. A convolution without bias is *linear* in its weight, and the slope
# of a linear function along a direction is its value at that direction. So the comparison of chapter
# 02 is exact: ``<grad_weight, v>`` has to equal ``<grad_y, conv(x, v)>`` for every ``v``.
# ``grad_bias`` is checked in the same way, along ``bias``.

# %%
grad_y, v = rng.standard_normal(y.shape), rng.standard_normal(weight.shape)
grad_weight, grad_bias = backward_weight_and_bias(x, grad_y, 3)
assert np.isclose(np.vdot(grad_weight, v), np.vdot(grad_y, conv_taps(x, v, np.zeros(4))), rtol=1e-10)
assert np.isclose(grad_bias @ bias, np.vdot(grad_y, np.broadcast_to(bias, y.shape)), rtol=1e-10)

# %% [markdown]
# The gradient of the input
# -------------------------
# The same question for a pixel: where is ``x[n,r,s,c]`` used? In the windows that contain it. It is
# under the tap ``p, q`` of the window at ``i, j`` if ``i + p = r`` and ``j + q = s``. There, in every
# filter ``f``, it is multiplied by ``weight[p,q,c,f]``:
#
# ::
#
#     grad_x[n,r,s,c] = sum over p,q,f of weight[p,q,c,f] grad_y[n,r-p,s-q,f]
#
# where ``r-p, s-q`` is a pixel of ``grad_y``; near the border there are fewer of them. In other words,
# every output pixel *scatters* its gradient into a window of the input, and where windows overlap,
# the gradients add up. ``conv_taps`` reads from a shifted image; this adds *into* a shifted image.


# %%
@exercise("03.3")
def backward_input(grad_y, weight):
    """Return grad_x, shape (N, H, W, C), where grad_y has shape (N, H - K + 1, W - K + 1, F)."""
    return ...


# %%
grad_x, v = backward_input(grad_y, weight), rng.standard_normal(x.shape)
assert np.isclose(np.vdot(grad_x, v), np.vdot(grad_y, conv_taps(v, weight, np.zeros(4))), rtol=1e-10)

# %% [markdown]
# Both directions side by side. Above, a window *gathers*: nine pixels of ``x`` become one of ``y``.
# Below, one pixel of ``grad_y`` *paints* nine of ``grad_x``, where they add up. (Outside of a notebook:
# ``figures/03-window.html``.)

# %%
picture = rng.integers(0, 5, (5, 5)).astype(float)
taps = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]])
gathered, painted = np.full((3, 3), np.nan), np.zeros((5, 5))
scattered = rng.integers(-2, 3, (3, 3)).astype(float)
fig, panels = plt.subplots(2, 2, figsize=(6, 6), dpi=70)
moving = []  # for each panel: the array, its image, its numbers, the frame that moves
for panel, array, title, side in zip(
    panels.flat,
    (picture, gathered, scattered, painted),
    ("x: gathered from", "y", "grad_y", "grad_x: painted into"),
    (3, 1, 1, 3),
    strict=True,
):
    image = panel.imshow(array, cmap="RdBu_r", vmin=-12, vmax=12)
    numbers = {(i, j): panel.text(j, i, "", ha="center", va="center") for i, j in np.ndindex(array.shape)}
    frame = panel.add_patch(plt.Rectangle((0, 0), side, side, fill=False, ec="#009E73", lw=3))
    panel.set(title=title, xticks=[], yticks=[])
    moving.append((array, image, numbers, frame))


def draw_window(number):
    if number == 0:
        gathered[:], painted[:] = np.nan, 0
    i, j = divmod(number, 3)
    gathered[i, j] = np.sum(picture[i : i + 3, j : j + 3] * taps)
    painted[i : i + 3, j : j + 3] += scattered[i, j] * taps
    for array, image, numbers, frame in moving:
        image.set_data(array)
        frame.set_xy((j - 0.5, i - 0.5))
        for place, text in numbers.items():
            text.set_text(f"{array[place]:.0f}" if np.isfinite(array[place]) else "")


window_moves = animate("03-window", fig, draw_window, 9, interval=800)
for number in range(9):
    draw_window(number)
assert np.array_equal(
    gathered, conv_taps(picture[np.newaxis, ..., np.newaxis], taps[..., None, None], 0)[0, ..., 0]
)
assert np.array_equal(
    painted, backward_input(scattered[np.newaxis, ..., np.newaxis], taps[..., None, None])[0, ..., 0]
)

# %% [markdown]
# How often is a pixel used? With all weights and all ``grad_y`` set to 1, ``grad_x`` counts.
# **Predict** three numbers for a 3×3 window.


# %%
@exercise("03.4")
def corner_edge_middle():
    """Return how many windows contain a pixel in a corner, in the middle of an edge, in the middle."""
    return ...


# %%
count = backward_input(np.ones((1, 10, 10, 1)), np.ones((3, 3, 1, 1)))[0, :, :, 0]
assert (count[0, 0], count[0, 6], count[6, 6]) == corner_edge_middle()

# %% [markdown]
# Pixels at the border are used less. In an unpadded network this is as it should be: the border is
# there as context for the pixels further inside.
#
# There and back as a matrix
# --------------------------
# Any linear op is a matrix, if image and output are written as long columns. Let us look at it: an
# 8×8 image, 64 numbers, becomes 36. Convolve the 64 images that have a single 1: each gives a
# column. **Predict** how many of the 36 × 64 numbers of the matrix are not zero.

# %%
window = np.arange(1.0, 10).reshape(3, 3, 1, 1)
matrix = conv_taps(np.eye(64).reshape(64, 8, 8, 1), window, np.zeros(1)).reshape(64, 36).T
backward_matrix = backward_input(np.eye(36).reshape(36, 6, 6, 1), window).reshape(36, 64).T
assert np.count_nonzero(matrix) == 36 * 9 == 324
assert np.array_equal(backward_matrix, matrix.T)

fig, axes = plt.subplots(1, 3, figsize=(11, 4), layout="constrained", width_ratios=[1.6, 1, 1])
for ax, array, xlabel, ylabel, title in (
    (axes[0], matrix, "pixel of x", "pixel of y", "The convolution: 36 × 64"),
    (axes[1], backward_matrix, "pixel of grad_y", "pixel of grad_x", "Its backward: the transpose"),
):
    weights = ax.imshow(np.where(array == 0, np.nan, array), cmap="viridis")
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
fig.colorbar(weights, ax=axes[:2], label="weight, 1 to 9", shrink=0.8)
axes[2].imshow(count, cmap="cividis")
for i, j in np.ndindex(count.shape):
    axes[2].text(j, i, f"{count[i, j]:.0f}", ha="center", va="center", color="w" if count[i, j] < 6 else "k")
axes[2].set(xlabel="column", ylabel="row", title="Windows that use a pixel", xticks=range(0, 12, 2))
show("03-matrix")

# %% [markdown]
# Each row has the same nine weights, one step further each time. The backward is the transposed
# matrix: that is what ``<conv(x), g> = <x, backward(g)>`` says. And the transpose of such a matrix
# is again a convolution: of ``grad_y`` with ``K - 1`` zeros around it, with the window *flipped*
# (rotated by 180°) and ``c`` and ``f`` exchanged. In the left picture the nine colours of a row run
# from dark to bright, in the middle one from bright to dark. The engine's fast version computes the
# gradient in this way. Forgetting to flip the window is the classical mistake.

# %%
padded = np.pad(grad_y, ((0, 0), (2, 2), (2, 2), (0, 0)))
flipped = weight[::-1, ::-1].transpose(0, 1, 3, 2)
assert np.allclose(conv_taps(padded, flipped, np.zeros(3)), grad_x)
unflipped = conv_taps(padded, weight.transpose(0, 1, 3, 2), np.zeros(3))
assert not np.allclose(unflipped, grad_x)

# %% [markdown]
# How fast
# --------
# The work is counted in multiplications with an addition: ``N H' W' F`` outputs, ``K K C`` for
# each. Our four versions all do this work. The engine needs fewer multiplications (chapter 05), and
# is counted as if it did them all. The slow versions get smaller images, because we compare the work
# per second. **Predict** the ratio between the slowest and the fastest.

# %%
import tinyunet as tu


def engine(x, weight, bias):
    with tu.no_grad():
        return tu.conv2d(tu.Tensor(x), tu.Tensor(weight), tu.Tensor(bias)).data


def rate(convolve, side, channels):
    """Return millions of multiplications with an addition per second, the best of three runs."""
    arrays = [(1, side, side, channels), (3, 3, channels, channels), (channels,)]
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in arrays]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        y = convolve(*arrays)
        seconds.append(time.perf_counter() - start)
    return y.size * 9 * channels / min(seconds) / 1e6


versions = {"loops": (conv_loops, 12, 8), "einsum": (conv_einsum, 66, 32), "rows": (conv_matrix, 130, 32)}
versions |= {"taps": (conv_taps, 130, 32), "the engine": (engine, 130, 32)}
rates = {name: rate(*version) for name, version in versions.items()}
for name, value in rates.items():
    print(f"{name:<12}{value:12,.1f} million per second")

fig, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
bars = axes.barh(list(rates), list(rates.values()), color=["#D55E00"] + ["#0072B2"] * 3 + ["#009E73"])
axes.bar_label(bars, fmt="{:,.1f}", padding=3)
axes.set(xscale="log", xlabel="multiplications with addition, millions per second", xlim=(0.1, 1e6))
axes.invert_yaxis()
show("03-speed")

# %% [markdown]
# The same in the engine
# ----------------------
# ``tinyunet/ops/conv2d.py`` has the taps as its NumPy reference, and below it the fast version: the
# windows of one image row as a matrix, row after row, compiled (chapter 04). For many channels it
# takes another way with fewer multiplications (chapter 05). All must agree with ours.

# %%
for backend in ("numpy", "numba"):
    tensors = [tu.Tensor(array, requires_grad=True) for array in (x, weight, bias)]
    with tu.use_backend(backend):
        output = tu.conv2d(*tensors)
        output.backward(grad_y)
    assert np.allclose(output.data, y, rtol=1e-10)
    for tensor, ours in zip(tensors, (grad_x, grad_weight, grad_bias), strict=True):
        assert np.allclose(tensor.grad, ours, rtol=1e-10)
print("The engine agrees, forward and in all three gradients.")

# %% [markdown]
# On your own
# -----------
# A convolution of *stride 2* computes every second output, along both axes: output ``(i, j)`` reads
# the window at ``(2 i, 2 j)``. Many networks shrink their maps with it in place of max-pooling.
# Write it by taps, and then its three gradients.


# %%
@exercise("03.5")
def strided_conv(x, weight, bias):
    """Return every second output of the valid convolution, shape (N, (H - K) // 2 + 1, ..., F)."""
    return ...


strided = strided_conv(x, weight, bias)
assert np.allclose(strided, conv_taps(x, weight, bias)[:, ::2, ::2])


@exercise("03.6")
def strided_conv_backward(grad_y, x, weight):
    """Return grad_x, grad_weight and grad_bias."""
    return ...


g = rng.standard_normal(strided.shape)
gradients, spread = strided_conv_backward(g, x, weight), np.zeros(y.shape)
spread[:, ::2, ::2] = g  # the outputs in between have no effect on the loss
assert np.allclose(gradients[0], backward_input(spread, weight))
assert np.allclose(gradients[1], backward_weight_and_bias(x, spread, 3)[0])

# %% [markdown]
# So the gradients are those of the full convolution, with zeros for the outputs that were left out.
# By taps no zero is multiplied. The gradient of the input paints windows that lie two pixels apart
# onto a map twice as large. You will meet it again in chapter 08, as an op of its own.

# %% [markdown]
# One more way to the same numbers. The Fourier transform turns a convolution into a product at each
# frequency. What networks call convolution is a *correlation* (the window is not flipped), and for
# that the transform of the filter is conjugated. Transform ``x`` along rows and columns, and the
# filter too, filled up with zeros to the size of ``x``; multiply, sum over the channels, and
# transform back. The first ``H - K + 1`` rows and ``W - K + 1`` columns are right; the others have
# wrapped round the edge.


# %%
@exercise("03.7")
def conv_fft(x, weight, bias):
    """Return the valid convolution by np.fft.fft2 and np.fft.ifft2; shapes as in conv_loops."""
    return ...


assert np.allclose(conv_fft(x, weight, bias), y)
print("Fourier agrees. It pays for large windows; for 3×3 the engine has something better (chapter 05).")

# %% [markdown]
# Summary
# -------
# - A convolution is one sum over ``p, q, c``. Loops, windows and matrix products order it differently.
# - To find a gradient, ask where a number is used, and by what it is multiplied there.
# - The weight's gradient pairs windows of ``x`` with ``grad_y``. The input's gradient is the
#   transpose of the forward: a convolution with the window flipped and the channels exchanged.
# - A linear op is checked exactly, by ``<conv(x), g> = <x, backward(g)>``.
#
# Next: ``04_conv2d_numba.py``, the same sum at the speed of the machine.
