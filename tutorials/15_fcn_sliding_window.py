# %% [markdown]
"""
15. FCN and the sliding window: what U-Net replaced
===================================================

**You will build** the idea behind each of U-Net's rivals: the pooling at four offsets, with which a
classifier that slides over the image becomes one pass over it, and a decoder that sums instead of
concatenating. The engine's rivals are ``tinyunet/models/sliding_window.py`` and
``tinyunet/models/fcn.py``.

**You will learn** how often a sliding classifier repeats itself, how one pass over the image gives the
same numbers, what concatenation can do that a sum cannot, what padding with zeros does at the edge of
a tile, and how all these networks score on the same images after the same time.

Needed: chapters 03, 09, 13 and 14. About 45 minutes. Five exercises. Scores and times are measured
on your computer, and the text does not anticipate them.
"""

# %%
import itertools
import time

import matplotlib.pyplot as plt
import numba
import numpy as np
from lesson import exercise, show
from numpy.lib.stride_tricks import sliding_window_view

import tinyunet as tu
from tinyunet.data import normalise, split, synthetic_membranes
from tinyunet.training.config import TrainConfig
from tinyunet.training.trainer import Trainer
from tinyunet.training.validation import validate

numba.set_num_threads(1)  # the time of threads that wait would be counted as work

# %% [markdown]
# A classifier that slides
# ------------------------
# Ciresan and others won the challenge of 2012 with a network that sees one window of the image and
# classifies the pixel in its middle. For the next pixel it sees the next window, which is nearly the
# same, and repeats nearly all of its work. The U-Net paper names this as the first of two drawbacks
# (section 1). The second is that a small window shows too little of the surroundings, and a large one
# blurs *where* things are.
#
# Let ``side`` be the side of an image in pixels and ``window`` that of a window. A convolution of
# ``taps`` × ``taps`` weights gives ``(window - taps + 1)**2`` numbers per window, and ``(side - taps
# + 1)**2`` for the whole image. **Predict** the factor between all windows and one pass, for 606,
# 95 and 4: the first layer of the largest network of 2012, on images of 512 pixels with a border of
# 47 around them.


# %%
@exercise("15.1")
def redundancy(side, window, taps):
    """Return how many times more numbers a convolution computes in all windows than in the whole image."""
    return ...


print(f"{redundancy(606, 95, 4):.0f} times")
assert round(redundancy(606, 95, 4)) == 6102

# %% [markdown]
# The same numbers in one pass
# ----------------------------
# So compute the convolution once for the whole image, and let all windows share it. A max-pooling
# makes this harder. The window of the next pixel begins one pixel further, and so do its 2×2 pools:
# they differ from those of the first window. But there are only four ways to begin: at an even or odd
# row, and at an even or odd column. Pool four times, once from each *offset*. No work is wasted,
# because each of the four maps has a quarter of the pixels.


# %%
def convolve(x, weight):
    return np.einsum("ijpq,pq->ij", sliding_window_view(x, weight.shape), weight)


def pool(x):
    return x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2).max(axis=(1, 3))


@exercise("15.2")
def pool_at_offsets(x):
    """Return four pooled maps of x, of odd sides, in a list: from (0, 0), (0, 1), (1, 0) and (1, 1) on."""
    return ...


# %% [markdown]
# Try it on a small classifier: 3×3 weights, a pooling, 3×3 weights. Its window has 8 pixels: 8, 6, 3,
# 1. The four maps stay separate, and are interleaved at the end.

# %%
rng = np.random.default_rng(0)
first, second = rng.standard_normal((2, 3, 3))
x = rng.standard_normal((23, 27))

slid = np.empty((16, 20))
for i, j in np.ndindex(slid.shape):
    slid[i, j] = convolve(pool(convolve(x[i : i + 8, j : j + 8], first)), second).item()

shared = np.empty((16, 20))
for (a, b), part in zip(
    itertools.product((0, 1), repeat=2), pool_at_offsets(convolve(x, first)), strict=True
):
    shared[a::2, b::2] = convolve(part, second)
assert np.allclose(slid, shared)

# %% [markdown]
# The engine's ``SlidingWindowClassifier`` does both: ``slide`` window by window, ``forward`` with
# shared work. They agree. ``redundancy`` of the engine counts all layers of the network of 2012.
# Its factor is less than that of the first layer alone. **Predict** its order of magnitude before
# you run this cell.

# %%
model = tu.SlidingWindowClassifier(base_channels=8, depth=2)
image = tu.Tensor(rng.standard_normal((1, 38, 42, 1), dtype=np.float32))
model.slide(image)  # the first call may compile, and is not timed
start = time.perf_counter()
by_window = model.slide(image).data
middle = time.perf_counter()
at_once = model(image).data
end = time.perf_counter()
print(f"slid {middle - start:.2f} s, shared {end - middle:.2f} s")
assert np.allclose(by_window, at_once, atol=1e-5)

largest = tu.SlidingWindowClassifier()
assert largest.window == 95
assert round(largest.redundancy(606, 606)) == 475

# %% [markdown]
# 475 times. Now take all networks at the size of their papers, and count multiplications per output
# pixel.

# %%
unet, padded, fcn = tu.UNet(), tu.UNet(padding="same"), tu.FCN()
work = {
    "window, slid": largest.multiplications(95, 95),
    "window, shared": largest.multiplications(606, 606) / 512**2,
    "FCN": fcn.multiplications(512, 512) / 512**2,
    "U-Net, padded": padded.multiplications(512, 512) / 512**2,
    "U-Net, valid": unet.multiplications(572, 572) / 388**2,
}
sizes = [sum(p.data.size for p in net.parameters()) for net in (largest, largest, fcn, padded, unet)]
fig, axes = plt.subplots(figsize=(8, 3), layout="constrained")
bars = axes.barh(list(work), work.values(), color=["C1", "C1", "C2", "C0", "C0"])
axes.bar_label(
    bars, [f" {n:,.0f}   ({size / 1e6:.1f} M weights)" for n, size in zip(work.values(), sizes, strict=True)]
)
axes.set(xscale="log", xlim=(1e4, 1e11), xlabel="multiplications per output pixel, at the size of the papers")
axes.invert_yaxis()
show("15-multiplications")
assert sizes[-1] == 31_030_658
assert work["U-Net, valid"] > work["U-Net, padded"]

# %% [markdown]
# With shared work, the classifier is a cheap network: the sliding was wasteful, not the network. And a
# valid U-Net computes its halo again for every tile, so that a pixel costs more than in a padded one.
#
# Sum or concatenation
# --------------------
# FCN (Long and others 2015) looks at the whole image as the U-Net does. Its decoder is light: it
# scores the classes on coarse maps, doubles the scores in size, and *adds* those of a finer map.
# The U-Net doubles features, puts those of the contracting path *beside* them, and convolves both.
# Concatenation includes the sum: a 1×1 convolution of ``[a, b]`` can compute ``a + b``. With which
# weights?


# %%
@exercise("15.3")
def weight_that_sums(channels):
    """Return the weight (1, 1, 2 C, C), float32, with which conv2d of [a, b] gives a + b. C: channels."""
    return ...


a, b = (tu.Tensor(rng.standard_normal((1, 4, 6, 5), dtype=np.float32)) for _ in range(2))
summed = tu.conv2d(tu.crop_concat(a, b), tu.Tensor(weight_that_sums(5)))
assert np.allclose(summed.data, tu.add(a, b).data, atol=1e-6)

# %% [markdown]
# A network need not learn what it can represent, and concatenation costs weights. So measure: a U-Net
# that adds where the other one concatenates, everything else the same. A network of your own takes
# few lines; once it is in ``MODELS`` the trainer knows it. The images are synthetic, like electron
# micrographs of neurites; two of them are held out.

# %%
from tinyunet.models import MODELS
from tinyunet.nn import Conv2d


class SummingUNet(tu.UNet):
    def __init__(
        self, in_channels=1, num_classes=2, base_channels=8, depth=3,
        padding="same", dropout=0.0, variant="paper", seed=0,
    ):  # fmt: skip
        super().__init__(in_channels, num_classes, base_channels, depth, padding, dropout, variant, seed)
        rng = np.random.default_rng(seed)
        for level, block in zip(reversed(range(depth)), self.expansive, strict=True):
            channels = base_channels * 2**level
            block.first = Conv2d(channels, channels, 3, padding=1, relu=True, rng=rng)

    def forward(self, x):
        skips = []
        for level, block in enumerate(self.contracting):
            x = block(x if level == 0 else tu.max_pool2d(x))
            skips.append(x)
        skips.pop()
        for up, block in zip(self.up, self.expansive, strict=True):
            x = block(tu.add(up(x), skips.pop()))
        return self.scores(x)


MODELS["summing"] = SummingUNet
train, held_out = split(synthetic_membranes(10, 192), "20%")


def train_for(seconds=np.inf, steps=10_000, **options):
    """Train for a time or a number of steps; the first step, which may compile, is not timed."""
    common = {"depth": 3, "schedule": "constant", "lr": 0.002, "tile": 92}
    trainer = Trainer(TrainConfig(steps=10_000, validate_every=10_000, **common | options), train, held_out)
    for event in trainer.run():
        if event.step == 1:
            start = time.process_time()
        if event.step >= steps or time.process_time() - start > seconds:
            return trainer


for name, options in {
    "sum": {"model": "summing"},
    "concatenation": {"padding": "same", "dropout": 0.0},
}.items():
    for seed in (0, 1):
        trainer = train_for(steps=60, base_channels=8, seed=seed, **options)
        count = sum(p.data.size for p in trainer.model.parameters())
        scores = validate(trainer.model, held_out, tile=92)
        print(
            f"{name:<14} seed {seed}: mean IoU {scores.mean_iou:.3f}, {count:,} weights, {trainer.step} steps"
        )

# %% [markdown]
# Compare the two seeds of one network first: a difference between networks that is smaller than
# that between seeds means nothing. The paper gives no comparison with a sum.
#
# Valid or padded
# ---------------
# The paper's convolutions are *valid*: they compute nothing that would need pixels outside of the
# image. Most later U-Nets are *padded*: every map gets a border of zeros, and the output is as large
# as the input. We cut a tile out of an image, and compare its scores with those of the whole image,
# with the same random weights in both networks.

# %%
image = rng.standard_normal((1, 172, 172, 1), dtype=np.float32)
differences = {}
for padding, cut in (("same", slice(40, 132)), ("valid", slice(40, 92))):
    model = tu.UNet(base_channels=8, depth=2, padding=padding).eval()
    whole = model(tu.Tensor(image)).data
    tile = model(tu.Tensor(image[:, 40:132, 40:132].copy())).data
    differences[padding] = np.abs(tile - whole[:, cut, cut])[0].max(axis=2) / np.abs(whole).max()
halo = tu.UNet(base_channels=8, depth=2, padding="same").geometry.halo


def by_distance(difference):
    """Return the largest difference at each distance from the edge of the tile."""
    side = len(difference)
    near = np.minimum(np.arange(side), np.arange(side)[::-1])
    distance = np.minimum(near[:, None], near)
    return [difference[distance == d].max() for d in range(side // 2)]


fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
picture = left.imshow(np.log10(differences["same"] + 1e-8), cmap="magma")
fig.colorbar(picture, ax=left, label="log10 of the difference")
left.set(title="padded: tile against whole image", xticks=[], yticks=[])
for padding, name, style in (("same", "padded", "o-"), ("valid", "valid", "s-")):
    right.semilogy(np.array(by_distance(differences[padding])) + 1e-8, style, ms=3, label=name)
right.axvline(halo, color="0.5", linestyle=":", label="halo, padded")
right.set(xlabel="distance from the edge of the output (pixels)", ylabel="difference / largest score")
right.legend(loc="upper right")
show("15-padding")
assert differences["same"].max() > 0.05
assert by_distance(differences["same"])[21] > 1e-4 > 1e-5 > max(by_distance(differences["same"])[22:])
assert differences["valid"].max() < 1e-5
assert halo == 24

# %% [markdown]
# A valid network gives the same scores in any tile: overlap-tile relies on this (chapter 14). A padded
# network invents its edge, and here the effect of the zeros reaches 22 pixels into the tile. So the
# engine gives its tiles a halo too, whose output is discarded: 24 pixels, because tiles of this
# network begin at multiples of 4.
#
# The same time
# -------------
# Four networks are trained on the same eight images, each for the same time, and tested on the two
# that none of them has seen. Processor time on one core is counted, so that other programs do not
# matter. **Predict** their order, and what the pictures will look like.

# %%
SECONDS = 5
contestants = {
    "window": {"model": "sliding-window", "base_channels": 16},
    "FCN": {"model": "fcn", "base_channels": 8, "depth": 4},
    "U-Net, padded": {"padding": "same", "base_channels": 8},
    "U-Net, valid": {"padding": "valid", "base_channels": 8},
}
test_image, labels = held_out.images[0], held_out.labels[0]
pictures = {"image": test_image[..., 0] / 255, "labels": labels}
print(
    f"{'':<14}{'weights':>9}{'steps':>7}{'mean IoU':>10}{'pixel error':>13}{'V_Rand':>8}{'s per image':>13}"
)
for name, options in contestants.items():
    trainer = train_for(seconds=SECONDS, **options)
    scores = validate(trainer.model, held_out, tile=92)
    start = time.perf_counter()
    pictures[name] = tu.predict_tiled(trainer.model, normalise(test_image), tile=92)[..., 1]
    seconds = time.perf_counter() - start
    count = sum(p.data.size for p in trainer.model.parameters())
    v_rand = tu.metrics.v_rand(pictures[name], labels)
    print(
        f"{name:<14}{count:>9,}{trainer.step:>7}{scores.mean_iou:>10.3f}{scores.pixel_error:>13.3f}"
        f"{v_rand:>8.3f}{seconds:>13.3f}"
    )
    assert np.isfinite(pictures[name]).all()

fig, panels = plt.subplots(2, 3, figsize=(9, 6.8), layout="constrained")
for axes, (name, picture) in zip(panels.flat, pictures.items(), strict=True):
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
    axes.set(title=name, xticks=[], yticks=[])
fig.suptitle(f"After {SECONDS} s of training: the probability of a cell, from black (0) to white (1)")
show("15-pictures")

# %% [markdown]
# Look at more than the order. Are borders sharp or blurred? Are thin membranes kept? The training is
# short: change ``SECONDS``, the widths or the learning rate, and the order may change. With one seed
# and two images a small difference means nothing. ``python -m tinyunet.compare`` does the comparison
# on your images, for minutes. The paper's comparison is its table 1: on the membranes of 2012 the
# U-Net had a smaller warping error than the sliding window.

# %% [markdown]
# On your own
# -----------
# There is another way to run the sliding window densely: without pooling to several maps, later
# convolutions read *every d-th* pixel of one map of full size (a *dilated* convolution). After a
# pooling of stride 1, ``d = 2`` reads just what a convolution on one of your maps at offsets reads.


# %%
@exercise("15.4")
def dilated_conv(x, weight, d):
    """Return the valid convolution with taps d pixels apart: x (H, W, C), weight (K, K, C, F)."""
    return ...


rng = np.random.default_rng(0)
picture, filters = rng.standard_normal((9, 9, 1)), rng.standard_normal((2, 2, 1, 3))
pooled = sliding_window_view(picture, (2, 2), axis=(0, 1)).max(axis=(3, 4))  # of stride 1
dilated = dilated_conv(pooled, filters, 2)
assert np.allclose(dilated[::2, ::2], dilated_conv(pooled[::2, ::2], filters, 1))
assert np.allclose(dilated[1::2, ::2], dilated_conv(pooled[1::2, ::2], filters, 1))
print("One dilated map holds all maps at offsets.")

# %% [markdown]
# How much of the image does an output see? Go through the layers from the first on. Each has a
# ``size``, a ``stride`` and a ``dilation``. Neighbours of a map lie ``jump`` pixels of the image
# apart: 1 at first, and each layer multiplies it by its stride. A layer widens the view by ``(size
# - 1) · dilation`` neighbours.


# %%
@exercise("15.5")
def view(layers):
    """Return the side of what an output sees, and the last jump; layers: (size, stride, dilation)."""
    return ...


sliding = [(3, 1, 1), (2, 2, 1), (3, 1, 1), (2, 2, 1), (3, 1, 1)]
dense = [(3, 1, 1), (2, 1, 1), (3, 1, 2), (2, 1, 2), (3, 1, 4)]
print("sees, jump:", view(sliding), "and densely:", view(dense))
assert view(sliding)[0] == view(dense)[0] == 18

# %% [markdown]
# Summary
# -------
# - Sliding repeats nearly all of its work; one convolution of the whole image, pooled at four offsets,
#   gives the same numbers.
# - Concatenation includes the sum, and costs weights. Only a measurement shows whether they pay.
# - A valid network gives the same output in any tile; a padded network invents its edge.
# - Compare on the same images, for the same time, with more than one seed, and report what you found.
#
# Next: ``16_batch_norm.py``, what the paper did not have, and later U-Nets do.
