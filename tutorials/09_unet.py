# %% [markdown]
"""
09. The network: sizes, skips, and the first weights
====================================================

**You will build** the U-Net from the ops of the earlier chapters: its sizes, its skip connections, its
31 million parameters and their first values. The engine's is ``tinyunet/models/unet.py``.

**You will learn** why 572 pixels go in and 388 come out, where the parameters are and where the work is,
how large the first weights must be so that a signal survives 23 layers, and how far this holds.

Needed: chapters 03 and 08. About 45 minutes. Seven exercises.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import exercise, show

import tinyunet as tu
from tinyunet.data import synthetic_cells

# %% [markdown]
# Down and up
# -----------
# To classify a pixel, a network has to see far around it; to draw a border it has to be exact to the
# pixel. The U-Net (section 2 of the paper) does one after the other. The *contracting path* is two 3×3
# convolutions, then pooling, four times. At the bottom a window covers a large part of the image, but
# the maps are coarse. The *expansive path* is an up-convolution, then two 3×3 convolutions, four
# times. At each level the map of the contracting path is copied across: the *skip connection*. It
# brings the exact places back.
#
# Sizes
# -----
# The *side* of a square map is its height and width in pixels. No convolution is padded: each shortens
# the side by two pixels, two in a row by four. Pooling halves it, the up-convolution doubles it.
# **Predict** the side of the output for 572 pixels: down four levels, two convolutions at the bottom,
# up four levels. And as pooling needs an even number: how far apart are sides that fit?


# %%
@exercise("09.1")
def output_side(side, depth):
    """Return the side of the output of a valid U-Net with `depth` poolings, for a side that fits."""
    return ...


# %%
geometry = tu.UNet(base_channels=1).geometry  # the engine's, which knows the sides that fit
sides = [side for side in range(600) if geometry.takes(side)]
print(f"572 -> {output_side(572, 4)}; sides that fit: {sides[:3]} ... {sides[-2:]}")
assert output_side(572, 4) == 388
assert sides == list(range(188, 600, 16))
assert {side - output_side(side, 4) for side in sides} == {184}

# %% [markdown]
# Sixteen apart, because four poolings divide by 16. And 184 pixels are always lost, 92 at each border.
# There is no prediction for that margin, and every output pixel depends on pixels of the image only.
# Chapter 14 uses this to tile large images.
#
# The U, drawn from the model
# ---------------------------
# ``state`` is a dictionary of the network's parameters, an array per name. ``trace`` goes through it
# and follows the size of the map; level 0 is the top of the U. No number in the picture is written by
# hand: all come from the shapes of the weights.


# %%
def trace(state, side):
    """Return all maps in the order in which they are made: (op, level, side, channels, name of the layer)."""
    maps = [("input", 0, side, state["contracting.0.first.weight"].shape[2], "")]

    def add(op, level, name):
        size, filters = state[f"{name}.weight"].shape[::3]
        side = maps[-1][2]
        maps.append((op, level, 2 * side if op == "up" else side - size + 1, filters, name))

    depth = sum(name.startswith("up.") for name in state) // 2
    for level in range(depth + 1):
        if level:
            maps.append(("pool", level, maps[-1][2] // 2, maps[-1][3], ""))
        add("conv", level, f"contracting.{level}.first")
        add("conv", level, f"contracting.{level}.second")
    for i in range(depth):
        add("up", depth - 1 - i, f"up.{i}")
        add("conv", depth - 1 - i, f"expansive.{i}.first")
        add("conv", depth - 1 - i, f"expansive.{i}.second")
    add("scores", 0, "scores")
    return maps


def draw_u(maps):
    _, axes = plt.subplots(figsize=(10, 5.4), layout="constrained")
    rows, x, copies, leave = -np.cumsum([0, 1.5, 1.2, 0.95, 0.8]), 0.0, {}, (0, 0)
    for (op, level, side, channels, _), following in zip(maps, [*maps[1:], maps[-1]], strict=True):
        width, height, bottom = 0.022 * channels**0.5, (side / maps[0][2]) ** 0.7, rows[level]
        colour, label = {"pool": "#D55E00", "up": "#009E73"}.get(op, "#0072B2"), str(channels)
        axes.add_patch(plt.Rectangle((x, bottom), width, height, fc=colour, ec="k", lw=0.5))
        above, below = bottom + height + 0.13, bottom - 0.15
        if op in ("pool", "up"):
            tip = (x + width / 2, above if op == "pool" else below)
            axes.annotate("", tip, leave, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2})
        if op == "up":
            start, more, extra = copies[level]
            line = {"arrowstyle": "-|>", "color": "0.6", "lw": 2}
            axes.annotate("", (x, bottom + height / 2), (start, bottom + height / 2), arrowprops=line)
            axes.add_patch(plt.Rectangle((x + width, bottom), extra, height, fc="white", ec="k", lw=0.5))
            label, width = f"{channels}+{more}", width + extra
        if following[0] == "pool":
            copies[level] = x + width, channels, width
        axes.text(x + width / 2, bottom + height + 0.03, label, ha="center", fontsize=8)
        axes.text(x + width / 2, bottom - 0.11, side, ha="center", fontsize=8, color="0.3")
        leave = (x + width / 2, below if following[0] == "pool" else above)
        x += width + (0.55 if op in ("input", "up") or following[0] == "scores" else 0.36)
    axes.axis((-0.2, x, rows[-1] - 0.2, 1.15))
    axes.axis("off")


state = tu.UNet().state_dict()  # the paper's
maps = trace(state, 572)
assert [side for _, level, side, _, _ in maps if level == 0] == [572, 570, 568, 392, 390, 388, 388]
draw_u(maps)
plt.title("Channels above, side below; blue: convolved, orange: pooled, green: up-convolved, white: copied")
show("09-u")

# %% [markdown]
# Crop and concatenate
# --------------------
# The copied map is larger than the upsampled one: 568 against 392 in the first level. So its centre is
# cut out, and its channels are put after those of the other map: 64 + 64 channels. Half of the
# difference is cut off at the top and left; if it is odd, the smaller half.


# %%
@exercise("09.2")
def crop_concat(upsampled, skip):
    """Return the channels of upsampled, then those of the centre of skip: (N, H, W, C1 + C2)."""
    return ...


rng = np.random.default_rng(0)
pair = rng.standard_normal((1, 4, 6, 2)), rng.standard_normal((1, 8, 9, 3))
assert np.array_equal(crop_concat(*pair), tu.crop_concat(*map(tu.Tensor, pair)).data)

# %% [markdown]
# Its backward needs nothing new: the first channels of the gradient go to ``upsampled``, the others
# into the centre of an array of zeros with the shape of ``skip``.
#
# The whole network
# -----------------
# That was the last op. ``weights`` is a dictionary of tensors by the names of the layers; ``watch``
# is called with every map. A ReLU follows each 3×3 convolution (``relu=True``), and no other layer.
# The last layer, a 1×1 convolution, gives each pixel one score per class. (The dropout of section
# 3.1, values set to 0 at random in training, is left out here.)


# %%
def unet(x, weights, depth, watch):
    def layer(op, name, x, **options):
        y = op(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **options)
        watch(name, y.data)
        return y

    def two(name, x):
        return layer(tu.conv2d, f"{name}.second", layer(tu.conv2d, f"{name}.first", x, relu=True), relu=True)

    skips = [two("contracting.0", x)]
    for level in range(1, depth + 1):
        skips.append(two(f"contracting.{level}", tu.max_pool2d(skips[-1])))
    x = skips.pop()
    for i in range(depth):
        up = layer(tu.conv_transpose2d, f"up.{i}", x)
        x = two(f"expansive.{i}", tu.crop_concat(up, skips.pop()))
    return layer(tu.conv2d, "scores", x)


# %% [markdown]
# Count
# -----
# A layer with a window of ``K`` × ``K`` has ``K K C F`` weights and ``F`` biases. The channels
# start at ``base`` and double at each level. On the way up an up-convolution (2×2) halves them, and
# the skip doubles the input channels of the first 3×3 convolution again. The scores are a layer too
# (1×1). How many parameters has the paper's network: 1 channel in, 2 classes, base 64, depth 4?


# %%
@exercise("09.3")
def count_parameters(in_channels, num_classes, base, depth):
    """Return the number of weights and biases of the U-Net."""
    return ...


# %%
print(f"{count_parameters(1, 2, 64, 4):,} parameters")
assert count_parameters(1, 2, 64, 4) == sum(array.size for array in state.values()) == 31_030_658

# %% [markdown]
# Where are they, and where is the work? The work is counted in multiplications: each weight of a
# convolution is used once per pixel of its output (for an up-convolution: of its input). An
# up-convolution belongs to the level that it leads to. **Predict** which level has most parameters,
# and which most work.

# %%
parameters, work = np.zeros(5), np.zeros(5)
for op, level, side, _, name in maps:
    if name:
        parameters[level] += state[f"{name}.weight"].size + state[f"{name}.bias"].size
        work[level] += state[f"{name}.weight"].size * (side / 2 if op == "up" else side) ** 2
print(f"{work.sum() / 1e9:.0f} · 10**9 multiplications for one tile of 572 pixels")
parameters, work = (100 * values / values.sum() for values in (parameters, work))
assert np.rint(parameters).tolist() == [1, 3, 10, 41, 46]
assert np.rint(work).tolist() == [20, 24, 24, 24, 8]

fig, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
axes.barh(np.arange(5) - 0.2, parameters, 0.4, color="#0072B2", label="parameters")
axes.barh(np.arange(5) + 0.2, work, 0.4, color="#D55E00", label="multiplications")
axes.set(xlabel="% of the whole", ylabel="level", yticks=range(5), ylim=(4.5, -0.5))
axes.legend()
show("09-levels")

# %% [markdown]
# The bottom has 46 % of the parameters and 8 % of the work. The other four levels share the work
# almost evenly: one level further down there are a quarter of the pixels and four times the weights.
#
# The first weights
# -----------------
# If each layer halved the signal, nothing would be left of it after 23 layers. How large must the first
# weights be? One number before the ReLU is a sum of ``N = K K C`` products, weight times input. (``N``
# is not the number of images here.) Let the weights be random, independent, with mean 0 and variance
# ``s²``. Then the mean of the square of the sum is ``N s² E[x²]``, where ``E[x²]`` is the mean square
# of the inputs: mixed products cancel. The sum is as often negative as positive, so the ReLU keeps
# half: ``N s² E[x²] / 2``. **Predict** the ``s`` that preserves the mean square.


# %%
@exercise("09.4")
def he_std(size, channels):
    """Return the standard deviation of the first weights of a size × size convolution of `channels`."""
    return ...


# %% [markdown]
# This is the initialisation of He et al. (2015), which the paper uses (section 3): for 64 channels and
# 3×3, ``N`` is 576. Of the 23 layers 18 have a ReLU. Here are 18 such layers of 512 channels, with
# that variance and with half of it. As the weights are random, the result is only near 1.

# %%
assert np.isclose(he_std(3, 64) ** 2, 2 / 576)
left = {}
for factor in (1, 1 / 2):
    x = rng.standard_normal((256, 512))
    for _ in range(18):
        x = np.maximum(x @ rng.normal(0, factor**0.5 * he_std(1, 512), (512, 512)), 0)
    left[factor] = np.mean(x**2)
print(f"after 18 layers {left[1]:.2f}, with half of the variance {left[1 / 2]:.1e}")
assert 0.5 < left[1] < 2
assert 0.5 < left[1 / 2] * 2**18 < 2

# %% [markdown]
# Break it, and watch
# -------------------
# Now the real network, with 16 channels at the top and noise as its image. The paper aims at *unit
# variance* in every map. **Predict** whether pooling allows this. And with half of the variance, is
# the mean square at the end smaller by 2 to the 23rd?

# %%
noise = tu.Tensor(rng.standard_normal((1, 188, 188, 1), dtype=np.float32))


def mean_squares(factor, seed):
    weights = dict(tu.UNet(base_channels=16, seed=seed).named_parameters())
    for tensor in weights.values():
        tensor.data *= np.float32(factor**0.5)
    squares = []
    with tu.no_grad():
        unet(noise, weights, 4, lambda name, y: squares.append(np.mean(y**2)))
    return squares


he, half = (np.mean([mean_squares(factor, seed) for seed in range(3)], axis=0) for factor in (1, 1 / 2))
less = he / half
print(f"He: first layer {he[0]:.1f}, bottom {he[9]:.0f}, scores {he[-1]:.0f}")
print(f"half: the bottom is {less[9]:.0f} times smaller, the scores {less[-1]:.0f} times; 2**23 is {2**23:,}")
assert np.allclose(less[:11], 2.0 ** np.arange(1, 12), rtol=1e-3)
assert 8 < he[9] / he[0] < 16
assert 100 < less[-1] < 10_000

_, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
layers = np.arange(1, 24)
axes.semilogy(layers, he, "o-", ms=4, color="#0072B2", label="He et al.")
axes.semilogy(layers, half, "s-", ms=4, color="#D55E00", label="half of the variance")
axes.semilogy(layers, he[0] * 0.5**layers, "k:", label="a half at each layer")
axes.axvspan(9, 10, color="0.9", label="the bottom")
axes.set(xlabel="layer", ylabel="mean square of the map", title="Before training", ylim=(5e-8, 200))
axes.legend()
show("09-variance")

# %% [markdown]
# There are two surprises. First, the mean square grows about tenfold on the way down. Each pooling
# keeps the largest of four (chapter 08: about three times as much, less where neighbours are alike),
# and the derivation above ignores pooling. So the paper aims at *unit variance in every map*, but
# this initialisation does not give it. It is near enough to begin.
#
# Second, with half of the variance the way down loses exactly a factor of 2 in each layer. But the
# scores are far larger than 2 to the minus 23: the skip of the top level reaches them through five
# layers only. So skips preserve the signal, too.
#
# Does it matter? Train a small U-Net, 60 steps on five synthetic images of cells, with the right
# variance, a quarter of it, and a sixteenth. Chapters 10 and 12 explain the loss and the optimiser.

# %%
images = synthetic_cells(6, 172, seed=4)
inputs = [((image - image.mean()) / image.std()).astype(np.float32)[np.newaxis] for image in images.images]
targets = [(label[44:-44, 44:-44] > 0).astype(int)[np.newaxis] for label in images.labels]  # 172 to 84


def train(factor):
    model = tu.UNet(base_channels=8, depth=3, dropout=0)
    for parameter in model.parameters():
        parameter.data *= np.float32(factor**0.5)
    losses, optimiser = [], tu.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for step in range(60):
        loss = tu.softmax_cross_entropy(model(tu.Tensor(inputs[step % 5])), targets[step % 5])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return model, losses


trained = {factor: train(factor) for factor in (1, 1 / 4, 1 / 16)}
last = {factor: np.mean(losses[-10:]) for factor, (_, losses) in trained.items()}
print("loss after 60 steps:", ", ".join(f"variance × {f:g}: {loss:.2f}" for f, loss in last.items()))
assert 3 * last[1] < last[1 / 16]

_, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for factor, style, name in ((1, "-", "1"), (1 / 4, "--", "1/4"), (1 / 16, ":", "1/16")):
    axes.plot(np.convolve(trained[factor][1], np.ones(5) / 5, "valid"), style, label=f"variance × {name}")
axes.set(xlabel="step", ylabel="loss, mean of 5 steps", title="Training", ylim=(0, 0.8))
axes.legend()
show("09-training")

# %% [markdown]
# Weights that start too small learn late. With a sixteenth of the variance each weight is a quarter
# as large. So each layer makes the numbers four times smaller, and on the way back the gradients.
#
# What the maps show
# ------------------
# Here are the maps of the network after 60 steps, for an image that it has not seen: of each level
# the three channels that vary most. From expansive.0 on the maps show only the middle of the image.

# %%
model, seen = trained[1][0].eval(), {}
with tu.no_grad():
    weights = dict(model.named_parameters())
    scores = unet(tu.Tensor(inputs[5]), weights, 3, lambda name, y: seen.update({name: y[0]}))
cells = 1 / (1 + np.exp(scores.data[0, ..., :1] - scores.data[0, ..., 1:]))  # the softmax of two classes
correct = np.mean((cells[..., 0] > 0.5) == targets[5][0])
print(f"{correct:.1%} of the pixels are right; {np.mean(targets[5] == 0):.1%} are background")
assert correct > 0.9

names = [f"contracting.{level}" for level in range(4)] + [f"expansive.{i}" for i in range(3)]
columns = {"image": inputs[5][0]} | {name: seen[f"{name}.second"] for name in names}
columns |= {"probability": cells, "labels": targets[5][0][..., np.newaxis]}
fig, axes = plt.subplots(3, len(columns), figsize=(13, 4.6), layout="constrained")
for axis, (name, stack) in zip(axes.T, columns.items(), strict=True):
    most = np.argsort(-stack.std(axis=(0, 1)))[:3]
    for ax, channel in zip(axis, [*most, None, None], strict=False):
        ax.axis("off")
        if channel is not None:
            ax.imshow(stack[..., channel], cmap="gray" if stack.shape[2] == 1 else "viridis")
    axis[0].set_title(f"{name}\n{stack.shape[0]} × {stack.shape[1]}, of {stack.shape[2]}", fontsize=8)
show("09-maps")

# %% [markdown]
# The maps are fine at the top, coarse at the bottom, and fine again on the way up: the skip has brought
# the places back. The pattern of period 2 is the chessboard of chapter 08.
#
# The same in the engine
# ----------------------
# ``tinyunet/models/unet.py`` is this function as a class, with dropout and with errors that name
# the nearest sides that fit. ``tinyunet/nn/module.py`` draws the weights. Both agree with ours.

# %%
with tu.no_grad():
    assert np.array_equal(model(tu.Tensor(inputs[5])).data, scores.data)
assert all(model.geometry.output_size(side) == output_side(side, 3) for side in range(172, 400, 8))
assert np.isclose(state["contracting.4.second.weight"].std(), he_std(3, 1024), rtol=1e-2)
print("The engine agrees.")

# %% [markdown]
# On your own
# -----------
# An *attention gate* (Oktay et al. 2018) lets the map from below decide which pixels of the skip
# count. Per pixel, with three matrices and no biases here: ``hidden = relu(skip @ w_skip + up @
# w_up)``, ``gate = sigmoid(hidden @ w_gate)`` is one number, and the skip is multiplied by it.
# Write it, and its gradients.


# %%
@exercise("09.5")
def attention_gate(skip, up, w_skip, w_up, w_gate):
    """Return skip (N, H, W, C) times the gate; up (N, H, W, U), w_skip (C, K), w_up (U, K), w_gate (K, 1)."""
    return ...


@exercise("09.6")
def attention_gate_backward(grad_y, skip, up, w_skip, w_up, w_gate):
    """Return the gradients of skip, up, w_skip, w_up and w_gate."""
    return ...


rng = np.random.default_rng(0)
shapes = (1, 4, 3, 5), (1, 4, 3, 6), (5, 2), (6, 2), (2, 1)
arrays, directions = ([rng.standard_normal(shape) for shape in shapes] for _ in range(2))
g = rng.standard_normal(shapes[0])
ends = [attention_gate(*(a + h * v for a, v in zip(arrays, directions, strict=True))) for h in (1e-6, -1e-6)]
slope = np.vdot(ends[0] - ends[1], g) / 2e-6
by_backward = sum(map(np.vdot, attention_gate_backward(g, *arrays), directions))
print(f"slope {slope:.6f} by the quotient, {by_backward:.6f} by backward")
assert np.isclose(slope, by_backward, rtol=1e-6)

# %% [markdown]
# Where does the memory of a training go? All maps are kept for the walk back. List them, for a tile
# of ``side`` pixels without padding: two convolutions on each level going down, a pooling between
# levels; then per level going up the up-convolution, the concatenation and two convolutions; the
# scores at the end.


# %%
@exercise("09.7")
def maps_of(side, depth, base, num_classes):
    """Return a list of (side, channels) of all maps that are made, in the order in which they are made."""
    return ...


maps = maps_of(572, 4, 64, 2)
print(f"{len(maps)} maps, {sum(4 * n * n * channels for n, channels in maps) / 2**20:.0f} MiB in float32")
assert tuple(maps[0]) == (570, 64)
assert tuple(maps[-1]) == (388, 2)

# %% [markdown]
# Summary
# -------
# - Valid convolutions lose 184 pixels at depth 4: 572 becomes 388. Sides that fit are 16 apart.
# - The skip's centre is cut out and concatenated: exact places meet a wide view.
# - 31,030,658 parameters, most of them deep down; the work is spread over all levels.
# - Weights of variance ``2 / N`` preserve the mean square through convolution and ReLU. Pooling raises
#   it; skips carry it past the deep levels.
#
# Next: ``10_cross_entropy_weight_map.py``, how its errors are counted.
