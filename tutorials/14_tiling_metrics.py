# %% [markdown]
"""
14. Overlap-tile and metrics: any size, and how good
====================================================

**You will build** the paper's overlap-tile prediction, for images of any size
(``tinyunet/prediction/tiling.py``), and two metrics that show whether touching cells were separated
(``tinyunet/metrics/``).

**You will learn** what a tile must see beyond its edge, where seams come from, how probabilities
become numbered cells, and why the share of wrong pixels says little about cells.

Needed: chapters 09 (sizes) and 10. About 45 minutes. Nine exercises. A small network is trained
first.
"""

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
from lesson import exercise, show
from scipy import ndimage

import tinyunet as tu
from tinyunet.data import normalise, split, synthetic_cells
from tinyunet.sampling import Sampler, WeightMap
from tinyunet.sampling.augment import Augmentation
from tinyunet.sampling.weight_map import separate_touching

# %% [markdown]
# The network of this chapter has depth 3. It is trained on synthetic cells, with the weight map of
# chapter 10, the deformation of chapter 11 and the loop of chapter 13. A quarter of the images is held
# out.

# %%
train, held_out = split(synthetic_cells(n=24, size=180, seed=1), "25%")
sampler = Sampler(
    train,
    input_size=188,
    output_size=100,
    augmentation=Augmentation(elastic_sigma=4),
    weights=WeightMap(),
    seed=0,
)
model = tu.UNet(base_channels=8, depth=3, dropout=0)
optimiser = tu.SGD(model.parameters(), lr=0.02, momentum=0.9)
for sample in sampler.stream(0, 250):
    loss = tu.softmax_cross_entropy(model(tu.Tensor(sample.image)), sample.target, sample.weight)
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()
print(f"a network of depth 3, final loss {loss.item():.3f}")

# %% [markdown]
# A tile needs a halo
# -------------------
# Without padding, each convolution removes the rim of the tile. With depth 3 the output is smaller than
# the input by 44 pixels on each side: the *halo*. An output pixel depends on nothing further away.
# ``predict(window)`` takes a grey image of shape ``(n, n)`` and returns the probability of a cell,
# ``(n - 88, n - 88)``. Sides of windows that fit (chapter 09) are 8 pixels apart; those for outputs of
# 20, 68, 100 and 180 pixels are among them.


# %%
def predict(window):
    with tu.no_grad():
        scores = model(tu.Tensor(window[np.newaxis, ..., np.newaxis].astype(np.float32))).data[0]
    return 1 / (1 + np.exp(scores[..., 0] - scores[..., 1]))


halo = model.geometry.halo
print("window (188, 188) ->", predict(np.zeros((188, 188))).shape, "halo", halo)
assert predict(np.zeros((188, 188))).shape == (100, 100)
assert halo == 44

# %% [markdown]
# To predict the pixels at the edge of the image, the network must see 44 pixels beyond it. There
# are none, so the paper continues the image by *mirroring* (section 2, figure 2). The edge pixel
# itself is not repeated: a row of pixels ``a b c d`` is continued to the left as ``… c b [a] b c``.
# Further out, the mirror image is mirrored again. So pixel ``k`` of the endless row is one of the
# ``size`` pixels that exist. **Predict** which pixel is ``k = -2`` and which is ``k = 7``, for ``size
# = 4``.


# %%
@exercise("14.1")
def mirror(k, size):
    """Return the places in 0 … size - 1 of the pixels `k` of the endless row, an integer array; size > 1."""
    return ...


print("k = -2 and k = 7 are pixels", mirror(np.array([-2, 7]), 4))
assert mirror(np.array([-2, 7]), 4).tolist() == [2, 1]

# %% [markdown]
# Now the tiles. For an ``image`` of any ``(H, W)``:
#
# - continue it by mirroring, by ``halo`` pixels before the image and by as many as the last tile may
#   need after it;
# - for each tile, one every ``step`` pixels, cut the window of ``output + 2 halo`` pixels whose output
#   begins at the tile's first pixel;
# - predict it, and keep the first ``step`` by ``step`` pixels, or fewer at the far edges.
#
# With ``step = output`` the tiles touch. With a smaller step they overlap, and the overlap is
# discarded.


# %%
@exercise("14.2")
def predict_in_tiles(predict, image, output, halo, step):
    """Return predictions (H, W); predict: (output + 2 halo, same) -> (output, output)."""
    return ...


image, labels = normalise(held_out.images[4])[..., 0], held_out.labels[4]
whole = predict_in_tiles(predict, image, 180, halo, 180)  # one tile: the image has 180 × 180 pixels
tiled = predict_in_tiles(predict, image, 68, halo, 64)
print(f"whole {whole.shape}; tiles of 68 every 64: largest difference {np.abs(whole - tiled).max():.1g}")
assert np.abs(whole - tiled).max() < 1e-5

# %% [markdown]
# Make the seam appear
# --------------------
# Nine tiles give the same result up to rounding. Now make two common mistakes.
#
# The first: each tile is mirrored *at its own edge*, as if there were nothing beyond. The second: the
# halo is right, but a tile starts every 68 pixels instead of 64. **Predict** whether the second
# mistake makes a difference. Every output pixel still sees its whole surroundings.


# %%
def own_mirror(image, output):
    result = np.zeros(image.shape)
    for i in range(0, image.shape[0], output):
        for j in range(0, image.shape[1], output):
            rows, columns = (start + mirror(np.arange(-halo, output + halo), output) for start in (i, j))
            window = image[np.ix_(mirror(rows, image.shape[0]), mirror(columns, image.shape[1]))]
            here = result[i : i + output, j : j + output]
            here[...] = predict(window)[: here.shape[0], : here.shape[1]]
    return result


attempts = {
    "each tile its own mirror": own_mirror(image, 68),
    "halo, a tile every 68 px": predict_in_tiles(predict, image, 68, halo, 68),
    "halo, a tile every 64 px": tiled,
}
fig, axes = plt.subplots(1, 4, figsize=(13, 3.5), layout="constrained")
axes[0].imshow(whole, cmap="cividis", vmin=0, vmax=1)
axes[0].set_title("whole image at once")
worst = {}
for panel, (name, result) in zip(axes[1:], attempts.items(), strict=True):
    difference = np.abs(result - whole)
    worst[name] = difference.max()
    shown = panel.imshow(np.log10(difference.clip(1e-8)), cmap="magma", vmin=-8, vmax=0)
    panel.set_title(f"{name}\nlargest difference {worst[name]:.1g}", fontsize=10)
fig.colorbar(shown, ax=axes, shrink=0.8, label="log10 of the difference")
for panel in axes:
    panel.set_axis_off()
show("14-seams")
own, off_grid, on_grid = worst.values()
assert own > 0.1
assert off_grid > 1e-3
assert on_grid < 1e-5

# %% [markdown]
# The second result is wrong too. The reason is the pooling: its 2 × 2 windows form a grid, and three
# poolings make a grid of ``2³ = 8`` pixels. 68 is no multiple of 8, so the pooling windows of a tile
# that starts there differ from those of the whole image. The tiles in the corners are right, because
# they start at 0 and at ``136 = 17 · 8``. All multiples of 64 are on the grid.
#
# For the paper's network the grid has 16 pixels, and its tile of 388 is no multiple of it: ``388 =
# 24 · 16 + 4``. So a tile must start every 384 pixels, and neighbours overlap by 4.

# %%
assert (68 % 8, 136 % 8, 64 % 8) == (4, 0, 0)
assert 388 == 24 * 16 + 4
assert 384 % 16 == 0

# %% [markdown]
# What does a small tile cost? Of a tile of 68 pixels the first 64 are kept, of a tile of 20 the first
# 16, and both have the same halo. **Predict** how many times as many input pixels the network
# processes with tiles of 20.

# %%
sides, work, cost = [20, 36, 68, 100, 180], [], []
for output in sides:
    step = output - 4 if output < 180 else 180  # one tile needs no grid
    # -(-a // b) is a / b, rounded up
    work.append((-(-180 // step) * (output + 2 * halo)) ** 2 / 180**2)
    start = time.perf_counter()
    predict_in_tiles(predict, image, output, halo, step)
    cost.append(time.perf_counter() - start)
print(f"input pixels per pixel of the image: {work[0]:.1f} with tiles of 20, {work[2]:.1f} with 68")
assert round(work[0] / work[2], 1) == 7.7

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.plot(sides, work, "o-")
left.set(ylabel="input pixels per pixel of the image", title="Small tiles repeat work")
right.plot(sides, cost, "o-")
right.set(ylabel="time for the image, s", title="Time")
for panel in (left, right):
    panel.set_xlabel("side of the output tile, px")
    panel.set_ylim(bottom=0)
show("14-cost")

# %% [markdown]
# 7.7 times as many. The tile's size changes time and memory, but never the result. Beyond some size
# little is gained, and the part of a tile that extends beyond the image is wasted.
#
# From probabilities to cells
# ---------------------------
# The network says which pixels are in cells. Which pixels belong *together*? Above a threshold of
# ½, pixels that are connected by their edges form one piece. ``ndimage.label`` numbers the pieces.
# For the metrics below, touching cells of the truth are separated by a gap of background (``truth``),
# as in training.

# %%
found, count = ndimage.label(tiled > 0.5)
truth = separate_touching(labels)


def coloured(numbers):
    """Give each number a colour, and 0 black."""
    colours = plt.colormaps["tab20"](np.random.default_rng(1).permutation(numbers.max() + 1) % 20)
    colours[0] = (0, 0, 0, 1)
    return colours[numbers]


fig, axes = plt.subplots(1, 4, figsize=(13, 3.4), layout="constrained")
axes[0].imshow(image, cmap="gray", vmax=np.percentile(image, 99))
axes[0].set_title("image")
axes[1].imshow(tiled, cmap="cividis", vmin=0, vmax=1)
axes[1].set_title("probability of a cell")
axes[2].imshow(coloured(found))
axes[2].set_title(f"{count} pieces")
axes[3].imshow(coloured(labels))
axes[3].set_title(f"truth: {len(np.unique(labels)) - 1} cells")
for panel in axes:
    panel.set_axis_off()
show("14-cells")

# %% [markdown]
# Where a gap was filled in, two cells have become one piece. How bad is that? Measured by pixels, it is
# next to nothing. We need metrics that count *pairs* of pixels, or cells.
#
# **The Rand score.** Take two pixels of the truth's cells. Are they in one cell? Does the
# segmentation agree? Let ``n[i, j]`` be the number of pixels that are in piece ``i`` of the
# segmentation and in cell ``j`` of the truth, for ``j > 0``; ``s[i]`` is its sum over all cells
# ``j``, ``t[j]`` its sum over all pieces ``i``. ``m`` pixels make ``m²`` ordered pairs, counting each
# pixel with itself. So the number of pairs that are together in both is the sum of ``n[i, j]²``.
# In the segmentation it is the sum of ``s[i]²``, in the truth the sum of ``t[j]²``. The score
# divides the first by the mean of the others::
#
#     score = (sum of n²) / (½ sum of s² + ½ sum of t²)
#
# It is 1 if both group the pixels alike, whatever the numbers of the pieces. One minus the score is the
# *Rand error* of the paper's first table. Piece 0, the background, counts like any piece.


# %%
@exercise("14.3")
def rand_score(segmentation, labels):
    """Return the Rand score of two label images (H, W); pixels with label 0 are left out."""
    return ...


# %% [markdown]
# **SEG** is a metric of the Cell Tracking Challenge; the paper reports it as "IoU" in its second table.
# For each true cell take the piece that covers *more than half* of it. There is at most one. The score
# of the cell is their intersection over union, in pixels; without such a piece it is 0. SEG is the
# mean over the true cells. The background is no piece.


# %%
@exercise("14.4")
def seg(segmentation, labels):
    """Return SEG of two label images (H, W), a float."""
    return ...


# %% [markdown]
# Four more come from the engine. The *pixel error* is the share of wrong pixels. *IoU* is the
# intersection over union of all cell pixels together, in whatever cell. *V_Rand* is the Rand score
# after all pieces have grown until they meet. *AP* (average precision) counts cells: a piece and a
# cell match if their IoU is at least ½, and AP is the number of matched cells divided by the number
# of matched, missed and invented ones.
#
# Which metric notices which mistake? We spoil the truth in three ways: a bridge of a few pixels
# between two cells; every cell thinner by one pixel; one cell left out. All metrics are shown as
# errors, so 0 is best. **Predict** which of them stay near 0 for the bridge.

# %%
pairs = [(a, b) for a in np.unique(labels)[1:] for b in np.unique(labels)[1:] if a < b]


def contact(a, b):
    """Return the pixels of the gap that was opened between two cells."""
    near = ndimage.binary_dilation(labels == a, iterations=2) & ndimage.binary_dilation(
        labels == b, iterations=2
    )
    return near & (truth == 0)


a, b = max(pairs, key=lambda pair: contact(*pair).sum())
middle = np.argwhere(contact(a, b))[contact(a, b).sum() // 2]
bridge = truth > 0
bridge[middle[0] - 1 : middle[0] + 2, middle[1] - 1 : middle[1] + 2] = True
largest = np.bincount(truth[truth > 0]).argmax()
spoilt = {
    "bridge": bridge,
    "thinner": ndimage.binary_erosion(truth > 0),
    "one lost": (truth > 0) & (truth != largest),
    "network": tiled > 0.5,
}
table = {}
for name, mask in spoilt.items():
    pieces = ndimage.label(mask)[0]
    table[name] = {
        "pixel error": tu.metrics.pixel_error(mask, truth > 0),
        "1 - IoU": 1 - tu.metrics.iou(mask.astype(int), (truth > 0).astype(int), 2)[1],
        "Rand error": 1 - rand_score(pieces, truth),
        "1 - V_Rand": 1 - tu.metrics.v_rand(mask.astype(float), truth > 0),
        "1 - SEG": 1 - seg(pieces, truth),
        "1 - AP at ½": 1 - tu.metrics.average_precision(pieces, truth, 0.5)[0],
    }

# %%
grid = np.array([list(row.values()) for row in table.values()])
fig = plt.figure(figsize=(11, 6.2), layout="constrained")
above, below = fig.subfigures(2, 1, height_ratios=[1.1, 1])
for panel, (name, mask) in zip(above.subplots(1, 4), spoilt.items(), strict=True):
    panel.imshow(np.where(mask == (truth > 0), 0.75 * mask, np.nan), cmap="gray", vmin=0, vmax=1)
    panel.set_facecolor("#e69f00")
    panel.set(title=name, xticks=[], yticks=[])
    if name == "bridge":
        panel.add_patch(plt.Circle(middle[::-1], 10, fill=False, color="#e69f00"))
above.suptitle("Grey: cells; orange: wrong pixels; in the circle: the bridge")
panel = below.subplots()
panel.imshow(grid, cmap="cividis", vmin=0, vmax=0.4, aspect="auto")
panel.set_xticks(range(grid.shape[1]), list(table["bridge"]))
panel.set_yticks(range(len(table)), list(table))
for (i, j), value in np.ndenumerate(grid):
    panel.text(j, i, f"{value:.3f}", ha="center", va="center", color="k" if value > 0.2 else "w")
panel.set_title("Errors: 0 is best")
show("14-metrics")
for name, row in table.items():
    print(name, {metric: round(float(error), 3) for metric, error in row.items()})
assert table["bridge"]["pixel error"] < 0.001
assert table["bridge"]["1 - SEG"] > 20 * table["bridge"]["pixel error"]
assert table["thinner"]["pixel error"] > 10 * table["bridge"]["pixel error"]
assert table["thinner"]["1 - V_Rand"] < 0.2 * table["bridge"]["1 - V_Rand"]
assert table["thinner"]["1 - AP at ½"] < table["bridge"]["1 - AP at ½"]
assert max(table["thinner"], key=table["thinner"].get) == "Rand error"
assert abs(table["one lost"]["Rand error"]) < 1e-12 < table["one lost"]["1 - SEG"]
assert table["network"]["1 - SEG"] > 3 * table["network"]["pixel error"]

# %% [markdown]
# The bridge is less than a thousandth of the pixels, and two cells have become one: SEG, AP and the
# Rand metrics notice it, the pixel error does not. Thinner cells are the opposite: many wrong pixels,
# but all cells are separate. V_Rand hardly changes, because the pieces grow again. For this reason the
# organisers of the paper's first challenge changed to V_Rand: where exactly an annotator draws the
# edge is no error of grouping. The plain Rand error changes most: the rims of all cells fall into
# piece 0, which groups pixels of different cells. The network has few wrong pixels too, but many wrong
# cells.
#
# The lost cell is a surprise: its Rand error is 0. All its pixels are together in piece 0, so the pairs
# are right. The plain Rand error measures how pixels are grouped, not whether they were found.
#
# No metric is right for everything. Choose one that measures what you want to know, *before* you train.
#
# The same in the engine
# ----------------------
# ``tinyunet/prediction/tiling.py`` predicts in tiles, and ``tinyunet/metrics/`` has the metrics.
# ``tinyunet/prediction/instances.py`` numbers cells. It also fills small holes, drops specks, and cuts
# pieces at their necks, which separates many of the merged cells.

# %%
from tinyunet.prediction.instances import label_instances
from tinyunet.prediction.tiling import mirror_indices

assert np.array_equal(mirror_indices(-50, 90, 7), mirror(np.arange(-50, 90), 7))
engine = tu.predict_tiled(model, image[..., np.newaxis], tile=68)
assert np.abs(engine[..., 1] - tiled).max() < 1e-5
assert np.isclose(tu.metrics.rand_error(found, truth), 1 - rand_score(found, truth))
assert np.isclose(tu.metrics.seg(found, truth), seg(found, truth))
for name, depth in [("not cut", None), ("cut at necks", 1.0)]:
    cut = label_instances(engine, split_depth=depth)
    print(f"{name}: {cut.max()} cells of {len(np.unique(labels)) - 1}, SEG {tu.metrics.seg(cut, truth):.3f}")
assert tu.metrics.seg(cut, truth) > seg(found, truth)

# %% [markdown]
# On your own
# -----------
# The pieces were numbered by ``ndimage.label``. Write it: go through the pixels row by row. A pixel
# of the mask takes the number of the pixel above or to the left, or a new one. Where both have
# numbers that differ, these mean the same piece: note it, by letting the root of one number point
# to the root of the other (*union-find*). In a second pass replace each number by its root, and
# number the roots by their first pixel.


# %%
@exercise("14.5")
def label_pieces(mask):
    """Return the pieces of a mask (H, W), by the four neighbours, numbered 1, 2, ... by their first pixel."""
    return ...


own_pieces = label_pieces(tiled > 0.5)
assert np.array_equal(own_pieces, ndimage.label(tiled > 0.5)[0])
print(own_pieces.max(), "pieces, with the numbers that SciPy gives them")

# %% [markdown]
# *Average precision* at 0.5: a piece and a cell match if their intersection over union is larger
# than ½. (The engine also takes exactly ½, and then has to choose.) There is at most one match for
# each. The score is the number of matches, divided by the number of matches, missed cells and
# invented pieces together.


# %%
@exercise("14.6")
def average_precision(pieces, cells):
    """Return the average precision at 0.5 of two label images (H, W); 1 if both are empty."""
    return ...


print(f"average precision {average_precision(found, truth):.3f}")
assert np.isclose(average_precision(found, truth), tu.metrics.average_precision(found, truth)[0])

# %% [markdown]
# Many programs do not discard the overlap of their tiles: they *blend* it, with weights that are
# largest in the middle of a tile. Write this with one weight per pixel of a tile's output, for
# ``tiles``, pairs of a corner ``(i, j)`` and an output. Where tiles reach beyond the image, they
# are cut.


# %%
@exercise("14.7")
def blend(tiles, height, width, weight):
    """Return the weighted mean (H, W) of overlapping outputs, each of the shape of `weight`."""
    return ...


padded = np.pad(image, ((halo, halo + 68), (halo, halo + 68)), mode="reflect")
corners = [(i, j) for i in range(0, 180, 40) for j in range(0, 180, 40)]
outputs = [
    (corner, predict(padded[corner[0] :, corner[1] :][: 68 + 2 * halo, : 68 + 2 * halo]))
    for corner in corners
]
middle = 1 - np.abs(np.linspace(-0.9, 0.9, 68))
blended = blend(outputs, 180, 180, np.outer(middle, middle))
print(f"blended and not: the largest difference is {np.abs(blended - whole).max():.1g}")
assert np.abs(blended - whole).max() < 1e-5

# %% [markdown]
# There was nothing to blend: on the grid the outputs are equal. Blending hides the seams of tiles
# that disagree, which those of a network without padding do not.

# %% [markdown]
# Touching cells are cut by a *watershed*. Let water rise from markers, one per cell, on the
# negative distance to the background. All pixels at the rim of the flood wait in a heap, the lowest
# first, and of equally low ones the one that came first. The lowest is taken out; each of its four
# neighbours in the mask that has no number yet gets the same number, and goes into the heap. Begin
# with the markers, in reading order.


# %%
@exercise("14.8")
def flood(height, markers, mask):
    """Return the markers' numbers spread over the mask; all (H, W). Markers outside the mask do not count."""
    return ...


disc = np.hypot(*(np.indices((40, 60)) - np.array([20, 20]).reshape(2, 1, 1))) < 15
disc |= np.hypot(*(np.indices((40, 60)) - np.array([20, 40]).reshape(2, 1, 1))) < 15
inside = ndimage.distance_transform_edt(disc)
seeds = np.zeros((40, 60), int)
seeds[20, 20], seeds[20, 40] = 1, 2
halves = flood(-inside, seeds, disc)
print("two discs of", *np.bincount(halves.ravel())[1:], "pixels, cut at the neck")
assert np.array_equal(halves > 0, disc)
assert np.all(halves[:, :29][disc[:, :29]] == 1)

# %% [markdown]
# The last score is *V_Info*, which the challenge of 2012 turned to after the Rand error: how much
# one grouping tells about the other, in bits. With ``p`` the share of the pixels in piece ``i`` and
# cell ``j``, and ``s``, ``t`` the shares of the piece and of the cell: ``I = Σ p log₂(p / (s t))``,
# ``H(s) = -Σ s log₂ s``, ``H(t)`` likewise, and the score is ``2 I / (H(s) + H(t))``. As in the
# Rand score, pixels with label 0 are left out.


# %%
@exercise("14.9")
def information_score(segmentation, labels):
    """Return 2 I / (H(s) + H(t)) of two label images (H, W); 1 if both groupings are one piece."""
    return ...


print(
    f"V_Info {information_score(found, truth):.4f}, of the truth itself {information_score(truth, truth):.1f}"
)
assert np.isclose(information_score(truth, truth), 1)

# %% [markdown]
# Summary
# -------
# - A tile needs a halo: everything that its pixels can see. Beyond the image the halo is its mirror.
# - Tiles must start on the grid of the poolings, or a seam remains.
# - Then tiles give the same prediction as the whole image, and their size is a matter of memory.
# - Pixels, pairs of pixels, cells: each metric counts something else. A bridge of a few pixels merges
#   two cells.
#
# Next: ``15_fcn_sliding_window.py``, the networks that U-Net is compared with.
