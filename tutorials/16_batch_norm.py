# %% [markdown]
"""
16. Batch normalisation: off the plateau
========================================

**You will build** batch normalisation and its gradient (``tinyunet/ops/batch_norm.py``), the statistics
by which a normalised network predicts (``tinyunet/training/population.py``), and the folding after which
it costs nothing.

**You will learn** why a gradient can need all pixels, what normalisation does to a network that gives
one answer for all pixels, why the statistics of a tile must not be used in prediction, and which
normalisations a network that is used in tiles cannot have.

Needed: chapters 02, 03 and 12 to 14. About 50 minutes. Six exercises.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import exercise, show

# %% [markdown]
# A mean and a variance that are learned
# --------------------------------------
# Batch normalisation (Ioffe and Szegedy, 2015) is of the same year as the U-Net, which has none; most
# later U-Nets do. The paper wants maps of unit variance and gets them, more or less, from the
# first weights (chapter 09). After some steps the weights are others. Batch normalisation *makes* each
# channel ``c`` of a map have a given mean and variance, in every step. With ``M = N · H · W`` pixels::
#
#     mean[c]     = 1/M · sum over n,i,j of x[n,i,j,c]
#     variance[c] = 1/M · sum over n,i,j of (x[n,i,j,c] - mean[c])²
#     normal      = (x - mean) / sqrt(variance + 1e-5)
#     y           = scale · normal + shift
#
# ``scale`` and ``shift``, one number per channel, are parameters like weights: the standard deviation
# and the mean that training prefers. ``1e-5`` keeps a constant channel from being divided by 0.


# %%
@exercise("16.1")
def batch_norm(x, scale, shift):
    """Return y, shape (N, H, W, C), and the mean and the variance of x, both (C,), as scale and shift."""
    return ...


# %% [markdown]
# **Predict** how ``y`` changes when all of ``x`` is multiplied by 10, and then 3 is added.

# %%
rng = np.random.default_rng(0)
x = rng.standard_normal((1, 6, 5, 4)) * [0.5, 1, 2, 4] + [0, 1, -1, 5]
scale, shift = np.array([1.0, 2.0, 0.5, 1.0]), np.array([0.0, 0.0, 1.0, -1.0])
y, mean, variance = batch_norm(x, scale, shift)
changed = np.abs(batch_norm(10 * x + 3, scale, shift)[0] - y).max()
print(f"means {y.mean(axis=(0, 1, 2)).round(3)}, deviations {y.std(axis=(0, 1, 2)).round(3)}")
print(f"after 10 x + 3, y differs by at most {changed:.0e}")
assert np.allclose(y.mean(axis=(0, 1, 2)), shift)
assert np.allclose(y.std(axis=(0, 1, 2)), scale, rtol=1e-4)
assert changed < 1e-3

# %% [markdown]
# Not at all, but for the ``1e-5``. So it does not matter how large the weights of the convolution
# before it are, nor what its bias is: ``mean`` takes it away again. Convolutions before a normalisation
# have no bias.
#
# The way back, step by step
# --------------------------
# Take one channel, with ``s = sqrt(variance + 1e-5)``. ``scale`` and ``shift`` are easy: each is used
# once per pixel, so ``grad_shift = sum(grad_y)`` and ``grad_scale = sum(grad_y · normal)``. And
# ``normal`` has the gradient ``h = scale · grad_y``. A pixel ``x[k]`` reaches ``normal`` in three ways:
#
# 1. *Directly.* ``normal[k] = (x[k] - mean) / s``. This gives ``h[k] / s``.
# 2. *Through the mean.* ``mean`` is subtracted from all pixels: its gradient is ``-sum(h) / s``. A pixel
#    is ``1/M`` of the mean, and gets ``-sum(h) / (M s)``. (The variance uses the mean too; but its slope
#    there is ``-2/M · sum(x - mean)``, which is 0.)
# 3. *Through the variance.* All pixels are divided by ``s``: its gradient is ``-sum(h · (x - mean)) / s²``,
#    or ``-sum(h · normal) / s``. The slope of ``s`` by the variance is ``1 / (2 s)``, and that of the
#    variance by the pixel ``2 (x[k] - mean) / M``; their product is ``normal[k] / M``. So this way gives
#    ``-normal[k] · sum(h · normal) / (M s)``.
#
# Added up, with means for ``sum / M``::
#
#     grad_x = (h - mean(h) - normal · mean(h · normal)) / s


# %%
@exercise("16.2")
def batch_norm_backward(grad_y, x, scale):
    """Return grad_x, shape (N, H, W, C), grad_scale and grad_shift, both (C,)."""
    return ...


# %% [markdown]
# Check it as in chapter 02, along a random direction. Then leave out what is easily forgotten, the ways
# through mean and variance. **Predict** for which ``grad_y`` the error is largest.

# %%
grad_y, v = rng.standard_normal((2, *x.shape))
grad_x, grad_scale, grad_shift = batch_norm_backward(grad_y, x, scale)
step = 1e-6
moved = batch_norm(x + step * v, scale, shift)[0] - batch_norm(x - step * v, scale, shift)[0]
assert np.isclose(np.vdot(grad_x, v), np.vdot(moved, grad_y) / (2 * step), rtol=1e-6)

normal = batch_norm(x, np.ones(4), np.zeros(4))[0]
kept = {}
for name, g in {"random": grad_y, "all the same": np.ones(x.shape), "normal": normal}.items():
    direct = scale * g / np.sqrt(variance + 1e-5)
    kept[name] = np.abs(batch_norm_backward(g, x, scale)[0]).sum() / np.abs(direct).sum()
    print(f"grad_y {name:<13}: grad_x is {kept[name]:.5f} times what the direct way alone gives")
assert kept["random"] > 0.5
assert max(kept["all the same"], kept["normal"]) < 1e-3
assert np.abs(grad_x.sum(axis=(0, 1, 2))).max() < 1e-12
assert np.abs((grad_x * normal).sum(axis=(0, 1, 2))).max() < 1e-3

# %% [markdown]
# For two of them nothing is right. A ``grad_y`` that is the same for all pixels wants a higher mean, one like
# ``normal`` wants a larger spread, and normalisation takes both away again: nothing of them comes back.
# What does come back is what a straight line through the points ``(normal, h)`` leaves: its residuals,
# divided by ``s``. NumPy's ``polyfit`` finds the same line.

# %%
across, up = normal[..., 0].ravel(), (scale * grad_y)[..., 0].ravel()
line = np.polyval(np.polyfit(across, up, 1), across)
assert np.allclose((up - line) / np.sqrt(variance[0] + 1e-5), grad_x[..., 0].ravel(), atol=1e-4)

fig, axes = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
axes.plot(across, up, "o", color="#0072B2", label="h = scale · grad_y")
axes.plot(np.sort(across), line[np.argsort(across)], color="0.5", label="mean(h) + normal · mean(h · normal)")
axes.vlines(across, line, up, color="#D55E00", lw=1, label="what comes back, times s")
axes.set(xlabel="normal", ylabel="h", title="One channel, a point for each pixel")
axes.legend(fontsize=8)
show("16-line")

# %% [markdown]
# Off the plateau
# ---------------
# Touching cells in interference contrast (DIC), the paper's second task, are hard: no gray value tells
# cell from background, only the relief of the rims does. The engine makes such images up
# (``synthetic_dic``). Nearly nine of ten pixels are cell, and "cell" everywhere is a good answer at
# first. The images are halved, so that a small network sees enough of a cell; the fifth is held out. A
# tile of 92 pixels gives 52 (chapter 09); images are continued by mirroring (chapter 14).

# %%
import tinyunet as tu
from tinyunet.data import normalise, synthetic_dic

made = synthetic_dic(5, 320, seed=1)
halved = [image.astype(float).reshape(160, 2, 160, 2, 1).mean(axis=(1, 3)) for image in made.images]
images = [normalise(image).astype(np.float32) for image in halved]
labels = [(label[::2, ::2] > 0).astype(int) for label in made.labels]
HALO, OUTPUT = 20, 52
padded = [np.pad(image, ((HALO, HALO), (HALO, HALO), (0, 0)), "reflect") for image in images]
SIDE = OUTPUT + 2 * HALO


def tile(step):
    """Return a tile of one of the first four images and its labels: the same for the same step."""
    rng = np.random.default_rng([0, step])
    n, (top, left) = rng.integers(4), rng.integers(160 - OUTPUT + 1, size=2)
    label = labels[n][top : top + OUTPUT, left : left + OUTPUT]
    return padded[n][np.newaxis, top : top + SIDE, left : left + SIDE], label[np.newaxis]


def heavy_ball(parameters):
    return tu.SGD(parameters, lr=0.02, momentum=0.9)


def train(normalisation, optimiser_of=heavy_ball, steps=150):
    model = tu.UNet(base_channels=8, depth=2, dropout=0, normalisation=normalisation)
    optimiser, losses = optimiser_of(model.parameters()), []
    for step in range(steps):
        image, target = tile(step)
        loss = tu.softmax_cross_entropy(model(tu.Tensor(image)), target)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return model, np.array(losses)


# %% [markdown]
# Three networks with the same first weights see the same tiles. The first is plain, and trained with
# momentum 0.9. The second is trained by Adam. The third is trained like the first, but a normalisation
# stands between each 3×3 convolution and its ReLU. **Predict** the share of pixels that the first calls
# background in the held-out image.

# %%
runs = {
    "plain": train("none"),
    "plain, Adam": train("none", lambda parameters: tu.AdamW(parameters, lr=0.003)),
    "normalised": train("batch"),
}
share = np.mean(labels[:4])
constant = -share * np.log(share) - (1 - share) * np.log(1 - share)
smooth = {name: np.convolve(losses, np.ones(25) / 25, "valid") for name, (_, losses) in runs.items()}
fig, axes = plt.subplots(1, 6, figsize=(14, 2.8), layout="constrained", width_ratios=[1.8, 1, 1, 1, 1, 1])
predicted = {}
for (name, (model, _)), style, panel in zip(runs.items(), ("--", "-.", "-"), axes[3:], strict=True):
    with tu.no_grad():
        predicted[name] = model(tu.Tensor(padded[4][np.newaxis])).data[0].argmax(axis=2)
    axes[0].plot(smooth[name], style, label=name)
    panel.imshow(predicted[name], cmap="cividis", vmin=0, vmax=1)
    panel.set_title(name)
axes[0].axhline(constant, color="0.6", ls=":", label="the best constant answer")
axes[0].set(xlabel="step", ylabel="loss, mean of 25 steps", ylim=(0, 0.7))
axes[0].legend(fontsize=8)
axes[1].imshow(images[4], cmap="gray")
axes[1].set_title("held-out image")
axes[2].imshow(labels[4], cmap="cividis", vmin=0, vmax=1)
axes[2].set_title("labels")
for panel in axes[1:]:
    panel.set_axis_off()
show("16-plateau")
for name, classes in predicted.items():
    true = np.mean(labels[4] == 0)
    print(
        f"{name:<12}{np.mean(classes == 0):6.1%} background, in truth {true:.1%}; loss {smooth[name][-1]:.2f}"
    )
assert np.mean(predicted["plain"] == 0) < 0.02
assert np.mean((predicted["normalised"] == 0)[labels[4] == 0]) > 0.3
assert smooth["normalised"][-1] < 0.8 * smooth["plain"][-1]
assert smooth["plain, Adam"][-1] < 0.9 * smooth["plain"][-1]

# %% [markdown]
# Next to none: the first says "cell" nearly everywhere, with a loss not far below that of the best
# constant answer. That is the *plateau*. Normalisation takes away, in every layer, what all pixels of a
# channel have in common, and brings their differences to the size ``scale``, whatever they were. Adam
# helps too: it makes steps of one length out of small gradients (chapter 12). The engine's default recipe
# has both.
#
# Statistics for prediction
# -------------------------
# In the picture above the normalised network used the mean and the variance of the image that it
# predicted, as in training. This engine takes one tile per step (chapter 13), so that ``M`` counts the
# pixels of a single tile. In training this does no harm. In prediction it does: an image that is
# predicted in tiles (chapter 14) is normalised differently in each. **Predict** how many pixels of the
# held-out image change their class when it is predicted in tiles of 40 pixels, instead of as a whole.


# %%
def in_tiles(model, image, output):
    """Return the scores of an image in tiles of this output side, on the grid of the poolings."""
    scores = np.empty((160, 160, 2))
    with tu.no_grad():
        for top, left in np.ndindex(160 // output, 160 // output):
            top, left = top * output, left * output
            window = image[top : top + output + 2 * HALO, left : left + output + 2 * HALO]
            found = model(tu.Tensor(window[np.newaxis])).data[0]
            scores[top : top + output, left : left + output] = found
    return scores


whole = in_tiles(model, padded[4], 160)
tiled = in_tiles(model, padded[4], 40)
changed = np.mean(whole.argmax(axis=2) != tiled.argmax(axis=2))
print(f"{changed:.1%} of the pixels have another class in tiles")
assert changed > 0.01

# %% [markdown]
# The seams are back. This is no matter of batch normalisation alone. *Instance* normalisation uses the
# statistics of each image and channel; with one tile per step it is what we have just done. *Group*
# normalisation takes some channels together. They are popular where batches are small. But both need
# the statistics of what is predicted, always: what a network says of a pixel then depends on what else
# is in its tile, and a tile with little in it is stretched until it looks full (``10 x + 3`` above).
# Tiled would no longer equal whole, as it did in chapter 14.
#
# Batch normalisation has a way out: in prediction ``mean`` and ``variance`` are constants, the same for
# all tiles. Usually they are averages that run along with the training. Those mix the statistics of
# older weights, and with one tile per step they tremble. Better are those of the *population*: of many
# training tiles, with the weights as they are now ("PreciseBN", Wu and Johnson, 2021). Each of ``T``
# tiles of equal size gives a mean and a variance. What are those of all their pixels together?


# %%
@exercise("16.3")
def population(means, variances):
    """Return the mean and the variance, both (C,), of all pixels of T tiles; both arguments are (T, C)."""
    return ...


# %% [markdown]
# For the first layer, whose input is the image: **predict** how well this agrees with the mean and the
# variance of all pixels of the tiles, laid side by side.

# %%
from tinyunet.training.population import estimate

first = model.contracting[0].first
tiles = [tile(1000 + i)[0] for i in range(20)]
with tu.no_grad():
    maps = np.array([tu.conv2d(tu.Tensor(image), first.weight).data[0] for image in tiles], float)
mean, variance = population(maps.mean(axis=(1, 2)), maps.var(axis=(1, 2)))
assert np.allclose(mean, maps.mean(axis=(0, 1, 2)), rtol=1e-12)
assert np.allclose(variance, maps.var(axis=(0, 1, 2)), rtol=1e-12)

estimate(model, tiles)  # the same for all layers; the deeper ones see maps that are normalised by their tile
assert np.allclose(first.mean.data, mean, atol=1e-5)
assert np.allclose(first.variance.data, variance, rtol=1e-4)

# %% [markdown]
# Exactly, to the rounding. Now the network predicts with constants, ``model.eval()``. How many tiles
# are enough? For each number, statistics from five different draws: the share of right pixels in the
# held-out image.


# %%
def right(scores):
    return np.mean(scores.argmax(axis=2) == labels[4])


model.eval()
spread = {}
for count in (1, 5, 20):
    found = []
    for draw in range(5):
        estimate(model, [tile(1000 * (draw + 1) + i)[0] for i in range(count)])
        found.append(right(in_tiles(model, padded[4], 160)))
    spread[count] = max(found) - min(found)
    print(f"{count:>2} tiles: {min(found):.1%} to {max(found):.1%} of the pixels are right")
assert spread[20] < spread[1] / 2

whole, tiled = in_tiles(model, padded[4], 160), in_tiles(model, padded[4], 40)
print(f"in tiles the scores differ by at most {np.abs(whole - tiled).max():.0e}")
assert np.allclose(whole, tiled, atol=1e-4)

# %% [markdown]
# With one tile it is a matter of luck. With 20, which the engine takes, it hardly matters which they
# are. And tiled equals whole again, to the rounding of float32.
#
# Folding
# -------
# With constants, normalisation is an affine map of each channel, ``y = factor · x + something``. And
# ``x`` is what a convolution without a bias has made, which is linear in its weights. So the
# convolution can do both at once, with other weights ``(K, K, C, F)`` and a bias ``(F,)``.


# %%
@exercise("16.4")
def fold_batch_norm(weight, scale, shift, mean, variance):
    """Return the weight and the bias of a convolution that includes the normalisation of its F filters."""
    return ...


# %% [markdown]
# First a single layer, a 1×1 convolution, which is ``x @ weight``. Then the whole network: fold all its
# layers, and put the weights into a U-Net **without** normalisation. To compare them, the constants are
# those of the held-out image itself, which the op finds as well. **Predict** how many parameters the new
# network has more or less.

# %%
weight, (scale, shift, mean) = rng.standard_normal((1, 1, 4, 6)), rng.standard_normal((3, 6))
x, variance = rng.standard_normal((1, 9, 9, 4)), rng.uniform(0.5, 2, 6)
apart = scale * (x @ weight[0, 0] - mean) / np.sqrt(variance + 1e-5) + shift
folded, bias = fold_batch_norm(weight, scale, shift, mean, variance)
largest = np.abs(x @ folded[0, 0] + bias - apart).max()
print(f"one layer: the largest difference is {largest:.0e}")
assert largest < 1e-12

estimate(model, [padded[4][np.newaxis]])
unfolded = in_tiles(model.train(), padded[4], 160)  # by the op
plain = tu.UNet(base_channels=8, depth=2, dropout=0)
layers = dict(model.named_modules())
for name, layer in plain.named_modules():
    if not hasattr(layer, "bias"):
        continue
    source = layers[name]
    if hasattr(source, "scale"):
        tensors = source.weight, source.scale, source.shift, source.mean, source.variance
        layer.weight.data[...], layer.bias.data[...] = fold_batch_norm(*(tensor.data for tensor in tensors))
    else:
        layer.weight.data[...], layer.bias.data[...] = source.weight.data, source.bias.data
difference = np.abs(in_tiles(plain, padded[4], 160) - unfolded).max()
counts = [sum(p.data.size for p in network.parameters()) for network in (model, plain)]
print(f"whole network: {difference:.0e}; parameters {counts[0]:,}, folded {counts[1]:,}")
assert difference < 1e-3
assert counts[0] - counts[1] == 8 + 8 + 16 + 16 + 32 + 32 + 16 + 16 + 8 + 8

# %% [markdown]
# It is the same network to the rounding of float32, with one number less per filter: ``scale`` and
# ``shift`` have become a bias. So normalisation adds nothing to what a U-Net *can* compute, and prediction
# takes no more time. It changes what training *finds*: the plain network on the plateau could have had
# these weights.
#
# The last steps
# --------------
# Training and prediction still differ in one thing. In training each tile is normalised by its own
# statistics, so the weights have never met the constants by which the network will predict. But a
# training can use constants, too, once the network has learned enough for them to mean something
# ("FrozenBN", Wu and Johnson 2021). They are folded as above, and gradients pass through the folding to
# ``weight``, ``scale`` and ``shift``.
#
# Two copies of the network are trained for 100 more steps. The first one is normalised as before, and its
# statistics are estimated afterwards. Those of the second are estimated now and stay as they are: its
# normalised layers are in ``eval()`` mode while it learns. **Predict** which of the two has more right
# pixels in the held-out image.

# %%
from copy import deepcopy

from tinyunet.training.population import normalised_layers


def more(network, fixed, begin=150, steps=100):
    optimiser = heavy_ball(network.train().parameters())
    if fixed:
        estimate(network, tiles)
        for layer in normalised_layers(network):
            layer.eval()
    for step in range(begin, begin + steps):
        optimiser.lr = 0.02 * (1 - (step - begin) / steps)
        image, target = tile(step)
        tu.softmax_cross_entropy(network(tu.Tensor(image)), target).backward()
        optimiser.step()
        optimiser.zero_grad()
    if not fixed:
        estimate(network, tiles)
    return right(in_tiles(network.eval(), padded[4], 160))


own, fixed = more(deepcopy(model), fixed=False), more(deepcopy(model), fixed=True)
print(f"right pixels: {own:.1%} with each tile's own statistics, {fixed:.1%} with fixed ones")
assert fixed > own

# %% [markdown]
# With ``--fixed-statistics 0.1`` the engine fixes them for the last tenth of the steps. ``docs/peers.md`` has
# scores with the option and without it on eight sets: it helps on most, and most of all on thin membranes,
# where single pixels decide.
#
# The same in the engine
# ----------------------
# ``tinyunet/ops/batch_norm.py`` has the op, and ``folded``, both with their gradients. The op computes
# ``normal`` again on the way back instead of keeping it. ``tinyunet/nn/layers.py`` folds when statistics
# are fixed, as in prediction. With the default recipe ``python -m tinyunet.train`` normalises, and
# ``--recipe paper`` does not.

# %%
x, grad_y = rng.standard_normal((2, 2, 5, 4, 3), dtype=np.float32)
scale, shift = rng.standard_normal((2, 3), dtype=np.float32)
tensors = [tu.Tensor(array, requires_grad=True) for array in (x, scale, shift)]
y = tu.batch_norm(*tensors)
y.backward(grad_y)
assert np.allclose(y.data, batch_norm(x, scale, shift)[0], rtol=0, atol=1e-5)
for tensor, ours in zip(tensors, batch_norm_backward(grad_y, x, scale), strict=True):
    assert np.allclose(tensor.grad, ours, rtol=0, atol=1e-4)
print("The engine agrees.")

# %% [markdown]
# On your own
# -----------
# *Group normalisation* (Wu and He 2018) takes mean and variance over all pixels and a group of
# channels of *one* image. Write it and its gradients. You may use ``batch_norm_backward``'s idea
# again: here each image and group has a mean and a variance of its own, and ``scale`` and ``shift``
# have one number per channel as before.


# %%
@exercise("16.5")
def group_norm(x, scale, shift, groups):
    """Return y for x (N, H, W, C), with 1e-5 as in 16.1; `groups` divides C, a group's channels adjoin."""
    return ...


@exercise("16.6")
def group_norm_backward(grad_y, x, scale, groups):
    """Return grad_x, grad_scale and grad_shift."""
    return ...


x, grad_y, v = rng.standard_normal((3, 2, 5, 4, 6))
scale, shift = rng.standard_normal((2, 6))
ends = [group_norm(x + h * v, scale, shift, 3) for h in (1e-5, -1e-5)]
slope = np.vdot(ends[0] - ends[1], grad_y) / 2e-5
by_backward = np.vdot(group_norm_backward(grad_y, x, scale, 3)[0], v)
print(f"slope {slope:.6f} by the quotient, {by_backward:.6f} by backward")
assert np.isclose(slope, by_backward, rtol=1e-6)

# %% [markdown]
# The mean of a *tile* is not the mean of the image. So with this one a prediction in tiles depends
# on where the tiles lie, whatever halo they have; which is why the engine does not have it.

# %% [markdown]
# Summary
# -------
# - Each channel gets a mean and a variance that are learned. All pixels take part, so three ways lead back.
# - What comes back is what a straight line through ``(normal, h)`` leaves.
# - A plain network may give one answer for all pixels for long; with normalisation, or Adam, it does not.
# - Predict by statistics of the population, never of the tile: else tiled is not whole.
# - Constants fold into the convolution: normalisation is for training only.
#
# Next: ``17_your_own_unet.py`` puts your parts together.
