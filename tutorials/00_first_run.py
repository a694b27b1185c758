# %% [markdown]
"""
00. First run: cells in a minute
================================

**You will build** nothing yet: you train the finished engine on pictures of cells, let it segment
pictures that it has not seen, and look at what it does.

**You will learn** what goes in and what comes out, how to read a loss curve, and which folder of
``tinyunet/`` does what. The other chapters then build each part.

Needed: Python, and NumPy arrays. No GPU and no downloads. About 20 minutes. Three exercises. On the
very first run the engine compiles its kernels and keeps them on disk, which takes about a minute.
"""

# %%
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from lesson import exercise, show

import tinyunet as tu
from tinyunet.data import normalise, split, synthetic_cells
from tinyunet.errors import RunError
from tinyunet.sampling.augment import Augmentation
from tinyunet.training.config import TrainConfig
from tinyunet.training.events import Stepped, Validated
from tinyunet.training.trainer import Trainer

# %% [markdown]
# What goes in
# ------------
# Images and labels go in. These are synthetic, so that nothing needs to be downloaded: nuclei of
# cells, as a fluorescence microscope shows them. An image is an array ``(H, W, C)``: rows, columns,
# channels, here one channel of grey values. Its labels are ``(H, W)``: 0 for background, and a number
# of its own for each cell. Someone has to draw such labels by hand, which is why there are never
# many: the paper had 30 images.
#
# Four of our twenty images are held out: the network is tested on them and never trained on them.

# %%
train, held_out = split(synthetic_cells(n=20, size=180, seed=3), "20%")
print(f"{len(train)} images to train on, {len(held_out)} held out; {train.summary()}")
assert (len(train), len(held_out)) == (16, 4)


def coloured(labels):
    """Give each number a colour, and 0 black."""
    colours = plt.colormaps["tab20"](np.arange(labels.max() + 1) * 7 % 20)
    colours[0] = (0, 0, 0, 1)
    return colours[labels]


fig, axes = plt.subplots(2, 4, figsize=(10, 5.2), layout="constrained")
for column, image, labels in zip(axes.T, train.images, train.labels, strict=False):
    column[0].imshow(image[..., 0], cmap="gray", vmax=np.percentile(image, 99))
    column[1].imshow(coloured(labels))
    for panel in column:
        panel.set_axis_off()
fig.suptitle("Images to train on, and their labels")
show("00-data")

# %% [markdown]
# Train
# -----
# A ``TrainConfig`` holds all options of a training. ``Trainer(...).run()`` runs it, and reports
# each step (``Stepped``) and each test on the held-out images (``Validated``).
#
# The network here is small. It halves the image 3 times, the paper's 4 times (``depth``; chapter
# 08). Its first layers compute 8 numbers per pixel, the paper's 64 (``base_channels``; chapter 09).
# In each of the 200 steps it gets one *tile*: a square piece of an image, randomly rotated and bent.
# It gives each pixel a probability of being in a cell. The *loss* is one number that says how wrong
# these probabilities are. Each step changes the numbers in the network a little, so that the loss
# falls. The *learning rate*, ``lr``, decides how far a step goes. The other options can wait for
# chapters 11 to 13.
#
# The score of the held-out images is the *mean IoU* (intersection over union). For the cells it is
# the number of pixels that are rightly called cell, divided by the number that are called cell or
# should be. The same is done for the background, and the mean of both is taken. 1 is best.
# **Predict** the score after 200 steps.

# %%
config = TrainConfig(
    steps=200,
    base_channels=8,
    depth=3,
    tile=100,
    lr=0.02,
    momentum=0.9,
    validate_every=20,
    augmentation=Augmentation(elastic_sigma=4),
)


def follow(config, train):
    """Train; return the trainer, the loss of each step, and the steps and the scores of the tests."""
    trainer = Trainer(config, train, held_out)
    losses, tested, scores = [], [], []
    try:
        for event in trainer.run():
            if isinstance(event, Stepped):
                losses.append(event.loss)
            elif isinstance(event, Validated):
                tested.append(event.step)
                scores.append(event.scores.mean_iou)
    except RunError as error:  # the loss has become infinite
        print("the training has stopped:", str(error).splitlines()[0])
    return trainer, np.array(losses), tested, scores


start = time.perf_counter()
with np.errstate(all="ignore"):
    trainer, losses, tested, scores = follow(config, train)
print(f"{time.perf_counter() - start:.0f} s; loss {losses[0]:.2f}, at the end {losses[-20:].mean():.2f}")
print(f"mean IoU of the held-out images: {scores[-1]:.2f}")
assert losses[-20:].mean() < 0.5 * losses[0]
assert scores[-1] > 0.8

# %% [markdown]
# Read the curve
# --------------
# The loss of a single step jumps, because each step gets another tile, and some tiles are harder. A
# *running mean* shows the trend. Its first value is the mean of the first ``window`` losses, the next
# one that of ``losses[1 : 1 + window]``, and so on, as long as a full window is left.


# %%
@exercise("00.1")
def running_mean(losses, window):
    """Return the means of all full windows; shape (steps - window + 1,)."""
    return ...


def draw_curves(axes, losses, tested, scores, window=15):
    """Draw the loss with its running mean, and 1 - mean IoU of the held-out images."""
    axes.plot(np.arange(len(losses)) + 1, losses, color="0.8", lw=0.7, label="loss of one step")
    if len(losses) >= window:
        mean = running_mean(losses, window)
        axes.plot(np.arange(len(mean)) + window, mean, color="#0072b2", label="loss, running mean")
    axes.plot(
        tested, 1 - np.array(scores), "o--", color="#d55e00", ms=4, label="held-out images: 1 - mean IoU"
    )
    axes.set(xlabel="step", ylabel="loss; 1 - mean IoU", ylim=(0, 1.1))


fig, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
draw_curves(axes, losses, tested, scores)
axes.set_title("The training above")
axes.legend()
show("00-curve")

# %% [markdown]
# There are two lines. For both, lower is better. The loss shows whether the network learns what it is
# shown. The held-out images show whether it learns something that is true of *other* images.
#
# Here are four more trainings of a smaller network. One is *good*. In one the learning rate is far
# too small: the network learns, but *slow*. In one it is too large, and the training is *lost*. And
# one network sees a single image, never rotated or bent: it learns that image *by heart*.

# %%
small = {"steps": 160, "depth": 2, "tile": 76, "momentum": 0.9, "dropout": 0.0, "schedule": "constant"}
usual = {"base_channels": 4, "validate_every": 20, "augmentation": config.augmentation}
trainings = [
    (
        train.subset([1]),
        {"base_channels": 8, "lr": 0.05, "augmentation": Augmentation.off(), "validate_every": 20},
    ),
    (train, usual | {"lr": 0.0001}),
    (train, usual | {"lr": 0.02}),
    (train, usual | {"lr": 0.15}),
]
fig, axes = plt.subplots(2, 2, figsize=(10, 5.6), layout="constrained", sharey=True, sharex=True)
curves = []
for number, (panel, (images, options)) in enumerate(zip(axes.flat, trainings, strict=True), 1):
    with np.errstate(all="ignore"):
        curves.append(follow(TrainConfig(**small, **options), images)[1:])
    draw_curves(panel, *curves[-1])
    panel.set_title(f"curve {number}")
axes[0, 0].legend(fontsize=8)
show("00-four-curves")

# %% [markdown]
# Look at ``figures/00-four-curves.png`` and decide which is which.


# %%
@exercise("00.2")
def read_curves():
    """Return four words for the curves 1, 2, 3, 4, each of "good", "slow", "lost", "by heart"."""
    return ...


by_name = dict(zip(read_curves(), curves, strict=True))
slow, good, heart, lost = (by_name[name] for name in ("slow", "good", "by heart", "lost"))
assert slow[0][-20:].mean() > 2 * good[0][-20:].mean()
assert good[2][-1] > 0.85
assert heart[0][-20:].mean() < 0.7 * heart[0][:20].mean()
assert heart[2][-1] < good[2][-1]
assert not np.isfinite(lost[0]).all() or len(lost[0]) < 160 or lost[2][-1] < 0.6

# %% [markdown]
# - **Good**: both lines fall and then flatten. More steps bring little.
# - **Slow**: the loss falls evenly, but hardly at all. Use a larger learning rate (chapter 12).
# - **Lost**: the loss leaps, gets stuck, or becomes infinite. Use a smaller learning rate.
# - **By heart**: the loss goes on falling, but the score of the held-out images does not improve. Use
#   more images, or bend those that you have (chapter 11). Without held-out images you would not have
#   noticed.
#
# Predict
# -------
# Now the network of the first training sees the held-out images. ``predict_tiled`` cuts an image of
# any size into tiles that the network can take (chapter 14). Then ``label_instances`` numbers the
# connected groups of pixels with a probability above ½, and cuts groups with a neck in two.

# %%
from tinyunet.prediction.instances import label_instances

fig, axes = plt.subplots(3, 4, figsize=(10, 7.8), layout="constrained")
for row, image, labels in zip(axes, held_out.images, held_out.labels, strict=False):
    probabilities = tu.predict_tiled(trainer.model, normalise(image), tile=180)
    cells = label_instances(probabilities)
    row[0].imshow(image[..., 0], cmap="gray", vmax=np.percentile(image, 99))
    row[1].imshow(probabilities[..., 1], cmap="cividis", vmin=0, vmax=1)
    row[2].imshow(coloured(cells))
    row[3].imshow(coloured(labels))
    score = tu.metrics.seg(cells, labels)
    print(f"{cells.max()} cells found, {len(np.unique(labels)) - 1} in truth; SEG {score:.2f}")
for panel, title in zip(axes[0], ("image", "probability of a cell", "found", "truth"), strict=True):
    panel.set_title(title)
for panel in axes.flat:
    panel.set_axis_off()
show("00-predicted")
assert probabilities.shape == (180, 180, 2)

# %% [markdown]
# Look at the mistakes. Where do two cells become one? Which cells are missed: dim ones, small ones,
# those at the edge? Which "cells" are not there? SEG (chapter 14) is a score per cell, from 0 to 1.
#
# For your own images, do the same from the shell, without any Python: ``python -m tinyunet.train``,
# then ``python -m tinyunet.predict``; ``--help`` lists their options.
#
# A map of the whole
# ------------------
# The folders of ``tinyunet/`` are its rooms. From image files to measured cells, the data goes
# through them in this order. Each box names a folder, its main files, and the chapters that build
# them.

# %%
ROOMS = {
    "Samples": [
        ("data", "image sets, read or made up", "image_set.py readers.py", ""),
        ("sampling", "tiles: cut, bent, weighted", "elastic.py weight_map.py", "10, 11"),
    ],
    "Network": [
        ("ops", "convolution, pooling, loss", "conv2d.py max_pool2d.py", "03 to 08, 10, 16"),
        ("autograd", "derivatives, and their check", "tensor.py gradcheck.py", "01, 02"),
        ("nn", "layers, weights, optimisers", "module.py sgd.py", "09, 12"),
        ("models", "the U-Net and its rivals", "unet.py fcn.py", "09, 15"),
    ],
    "Use": [
        ("training", "the loop and its checkpoints", "trainer.py checkpoint.py", "13, 16"),
        ("prediction", "any size; numbered cells", "tiling.py instances.py", "14"),
    ],
    "Judgement": [
        ("metrics", "how good is it?", "objects.py segments.py", "14"),
        ("diagnosis", "what is wrong with the data?", "images.py labels.py", ""),
        ("reporting", "pictures", "plots.py", ""),
    ],
    "Machinery": [("backend", "which kernels run: CPU or GPU", "dispatch.py jit.py", "")],
}
package = Path(tu.__file__).parent
colours = "#d6e8f7", "#ffe3b8", "#d9efdc", "#efdcee", "#e8e8e8"
fig, axes = plt.subplots(figsize=(11, 6.6), layout="constrained")
for row, (stage, rooms) in enumerate(ROOMS.items()):
    axes.text(-0.55, -row, stage, fontsize=13, weight="bold", ha="right", va="center")
    for x, (room, does, files, chapters) in enumerate(rooms):
        assert all((package / room / file).exists() for file in files.split())
        built_in = f"chapter{'s' * (len(chapters) > 2)} {chapters}" if chapters else ""
        axes.add_patch(plt.Rectangle((x - 0.46, -row - 0.37), 0.92, 0.74, fc=colours[row], ec="0.3"))
        for y, text, style in (
            (0.24, f"{room}/", {"family": "monospace", "weight": "bold", "fontsize": 11}),
            (0.06, does, {"fontsize": 8.5}),
            (-0.09, files, {"family": "monospace", "fontsize": 7}),
            (-0.25, built_in, {"fontsize": 8.5, "color": "0.35"}),
        ):
            axes.text(x, y - row, text, ha="center", va="center", **style)
axes.set(xlim=(-1.4, 3.5), ylim=(-4.4, 0.4))
axes.axis("off")
show("00-map")

# %% [markdown]
# The *ops* come in up to three versions: in NumPy to be read, in Numba to be fast on a CPU, and in
# ``kernels/`` for a GPU. Chapters 03 to 08 build them.
#
# Keep it
# -------
# A checkpoint is one file with the network and all that is needed to continue the training. For each
# number in the network it has a second one, the velocity (chapter 12). Each takes 4 bytes.

# %%
import tempfile

from tinyunet.training.checkpoint import load_model, save_checkpoint

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "first.safetensors"
    save_checkpoint(path, trainer.checkpoint())
    loaded, _ = load_model(path)
    size = path.stat().st_size
again = tu.predict_tiled(loaded, normalise(image), tile=180)
assert np.array_equal(again, tu.predict_tiled(trainer.model, normalise(image), tile=180))
count = sum(parameter.data.size for parameter in trainer.model.parameters())
assert 1 < size / (2 * 4 * count) < 1.05  # the rest are names and shapes
print(f"{count:,} numbers, {size / 1e6:.1f} MB; the loaded network predicts the same, to the last bit")

# %% [markdown]
# On your own
# -----------
# From here on, most chapters end with something to write on your own. Hints are there if you want
# them: ``python -m tutorials.check 00.3 --hint``.
#
# The score of the held-out images was the *mean IoU*. For each class it divides the number of
# pixels that both pictures give this class by the number that at least one of them gives it, and
# then it takes the mean over the classes. Pixels of all images are counted together, before any
# division. A class that no picture has is left out.


# %%
@exercise("00.3")
def mean_iou(predicted, truth, classes):
    """Return the mean IoU of two lists of pictures, which hold the numbers 0 to classes - 1."""
    return ...


predicted, truth = [], []
for image, labels in zip(held_out.images, held_out.labels, strict=True):
    predicted.append(tu.predict_tiled(trainer.model, normalise(image), tile=180).argmax(axis=-1))
    truth.append((labels > 0).astype(int))
found = mean_iou(predicted, truth, 2)
print(f"mean IoU {found:.4f}; the trainer said {scores[-1]:.4f}")
assert np.isclose(found, scores[-1], atol=1e-4)

# %% [markdown]
# Summary
# -------
# - Images ``(H, W, C)`` and labels ``(H, W)`` go in; a probability for each pixel comes out.
# - The loss shows whether a network learns; held-out images show whether it has understood.
# - Good, slow, lost, by heart: a curve shows which.
#
# Next: ``01_autograd.py``, how a computer knows in which direction the loss falls.
