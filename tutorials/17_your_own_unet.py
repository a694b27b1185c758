# %% [markdown]
"""
17. Your own U-Net, from your own answers
=========================================

**You will build** a U-Net that trains, from the functions that you wrote in chapters 00 to 14, and the
lines that put them together. The engine is needed once, to compare.

**You will learn** how little is missing between the parts and the whole, how to check a whole network
before it is trained, and that it agrees with the engine in every number.

Needed: chapters 01, 03, 08 to 10, 12 and 14, or their worked answers. About 120 minutes. Eleven
exercises, with nothing given but the parts.
"""

# %%
import functools
import time

import matplotlib.pyplot as plt
import numpy as np
from lesson import chapters, exercise, exercises, own, show
from scipy import ndimage
from tape import Tensor, record

from tinyunet.data import normalise, read_images, synthetic_cells

MY_IMAGE, ZOOM = "", 1.0  # the path of an image of yours, and a factor for its size: see the end

# %% [markdown]
# ``own`` has your answers as attributes: ``own.max_pool`` is the function that you wrote in chapter 08,
# in ``answers/08.py`` or in the chapter itself. It is checked when it is first used. Where you have
# written nothing, it is the worked answer. The end of this chapter lists those. This is what is used:
#
# - 00: ``running_mean``, for the curve of the loss;
# - 01: ``newest_first`` and ``accumulate``, for the walk back;
# - 02: ``two_sides``, for the check of the whole gradient;
# - 03: ``window_rows``, ``backward_weight_and_bias`` and ``backward_input``: the convolution;
# - 08: ``max_pool``, ``max_pool_backward``, ``up_conv`` and ``down_conv``;
# - 09: ``output_side``, ``crop_concat``, ``count_parameters`` and ``he_std``;
# - 10: ``log_softmax``, ``gradient_of_energy`` and ``border_weight``;
# - 11: ``displacement`` and ``deform_both``, for new images out of six;
# - 12: ``sgd_step``;
# - 14: ``mirror``, ``predict_in_tiles``, ``label_pieces`` and ``seg``.
#
# Chapters 04 to 07 compute the convolution of chapter 03 faster, and chapters 15 and 16 are about
# networks that are not the paper's; the slow parts are enough for a small one.
#
# Convolution, with its ReLU
# --------------------------
# Forward it is the matrix product of chapter 03. The last layer of the network has no ReLU, so
# ``relu`` is an option.


# %%
def conv(x, weight, bias, relu):
    size, _, _, filters = weight.shape
    y = own.window_rows(x, size) @ weight.reshape(-1, filters) + bias
    y = y.reshape(len(x), x.shape[1] - size + 1, x.shape[2] - size + 1, filters)
    return np.maximum(y, 0) if relu else y


# %% [markdown]
# For the way back you have all parts: the ReLU's from chapter 02, and two functions of chapter 03. Put
# them together.


# %%
@exercise("17.1")
def conv_backward(grad_y, x, weight, bias, relu):
    """Return grad_x, grad_weight and grad_bias for y = conv(x, weight, bias, relu)."""
    return ...


# %% [markdown]
# The skip
# --------
# ``crop_concat`` of chapter 09 had no backward. A number of ``skip`` that was cut off is used nowhere:
# what is its gradient?


# %%
@exercise("17.2")
def crop_concat_backward(grad_y, upsampled, skip):
    """Return grad_upsampled and grad_skip for y = crop_concat(upsampled, skip), shaped like the inputs."""
    return ...


# %% [markdown]
# The tape
# --------
# ``Tensor``, ``Op`` and ``record`` are those of chapter 01, and stand in ``tape.py``. The walk back
# was given there, and now it is your turn: write it with ``own.newest_first(output)`` and
# ``own.accumulate(pending, tensor, grad)``. ``op.backward(grad_y, *arrays)`` returns one gradient
# per input, where ``arrays`` are the data of ``op.inputs``. An op does not know the tensor that it
# made.


# %%
@exercise("17.3")
def walk_back(output, grad):
    """Return a dict with the gradient of each leaf before `output`, whose own gradient is `grad`."""
    return ...


# %% [markdown]
# The network
# -----------
# The up-convolution has three gradients as well. You wrote that of its input: ``own.down_conv``.
# The one of a tap is a sum over the pixels, of each number of ``x`` with each number of ``grad_y``
# under that tap.


# %%
@exercise("17.4")
def up_backward(grad_y, x, weight, bias):
    """Return grad_x, grad_weight and grad_bias for y = own.up_conv(x, weight, bias); weight (2, 2, C, F)."""
    return ...


# %% [markdown]
# Now all ops can go onto the tape. Each of these takes tensors, and returns one.


# %%
def conv_layer(x, weight, bias, relu=True):
    return record(
        functools.partial(conv, relu=relu), functools.partial(conv_backward, relu=relu), x, weight, bias
    )


def pool_layer(x):
    return record(lambda x: own.max_pool(x)[0], lambda grad_y, x: (own.max_pool_backward(grad_y, x),), x)


def up_layer(x, weight, bias):
    return record(own.up_conv, up_backward, x, weight, bias)


def concat_layer(upsampled, skip):
    return record(own.crop_concat, crop_concat_backward, upsampled, skip)


# %% [markdown]
# The U itself: go down and keep the maps, come up and use them, newest first. ``layers`` are the four
# functions above. The weights have the names that the engine uses, for each layer ``.weight`` and
# ``.bias``:
#
# - ``contracting.0.first`` and ``contracting.0.second``, up to the number of poolings;
# - ``up.0``, then ``expansive.0.first`` and ``expansive.0.second``, from the bottom upwards;
# - ``scores``, the layer without a ReLU at the end.


# %%
@exercise("17.5")
def unet(x, weights, depth, layers):
    """Return the scores, a tensor; x is a tensor, `weights` a dict of tensors, `layers` four functions."""
    return ...


LAYERS = conv_layer, pool_layer, up_layer, concat_layer

# %% [markdown]
# Convolutions are 3×3, up-convolutions 2×2, and ``scores`` is 1×1. The first weights are drawn from
# a normal distribution with mean 0 and the standard deviation ``own.he_std(size, channels)``, where
# ``size`` is the window's side. An up-convolution is the exception: each of its outputs is under
# one tap, so ``size`` is 1. Biases begin with 0. The first map has ``base`` channels, each one
# below twice as many, and on the way up they are halved again; the image has one channel, and there
# are two scores.


# %%
@exercise("17.6")
def first_weights(base, depth, rng):
    """Return a dict of arrays, with the names of 17.5: weights (K, K, C, F) and biases (F,)."""
    return ...


# %% [markdown]
# Two poolings and eight channels: **predict** the side of the output for a tile of 84 pixels, and the
# number of parameters. You wrote both formulas in chapter 09.

# %%
BASE, DEPTH, SIDE = 8, 2, 84
OUTPUT = own.output_side(SIDE, DEPTH)
HALO = (SIDE - OUTPUT) // 2
rng = np.random.default_rng(1)
weights = first_weights(BASE, DEPTH, rng)
total = sum(array.size for array in weights.values())
print(f"{SIDE} -> {OUTPUT}, {total:,} parameters")
assert OUTPUT == 44
assert total == own.count_parameters(1, 2, BASE, DEPTH) == 29_330

# %% [markdown]
# Loss and gradients
# ------------------
# The paper's energy, divided by the sum of the weights, so that the step does not depend on the tile.


# %%
@exercise("17.7")
def energy_and_gradient(scores, target, weight):
    """Return the loss and its gradient by the scores (10.2), both divided by the sum of the weights."""
    return ...


def loss_and_gradients(weights, image, target, weight):
    leaves = {name: Tensor(array) for name, array in weights.items()}
    scores = unet(Tensor(image), leaves, DEPTH, LAYERS)
    loss, grad = energy_and_gradient(scores.data, target, weight)
    grads = walk_back(scores, grad)
    return loss, {name: grads[leaf] for name, leaf in leaves.items()}


# %% [markdown]
# Tiles out of six images
# -----------------------
# A tile is a window of a deformed image (chapter 11), continued by mirroring (chapter 14). Touching
# cells are separated first, and the gap gets its border weight (chapter 10). The images are halved, so
# that a small tile has several cells.
#
# Where cells touch, both lose the pixels at the border: a pixel of a cell is set to 0 if there is
# another *cell* among its eight neighbours. The largest number in a 3×3 window shows a neighbour
# with a larger number. The smallest shows one with a smaller number, if the background first gets a
# number larger than all.


# %%
@exercise("17.8")
def separate(labels):
    """Return the labels (H, W) with pixels that touch another cell set to 0."""
    return ...


cells = synthetic_cells(n=7, size=320, seed=5)
halved = [image.astype(float).reshape(160, 2, 160, 2, 1).mean(axis=(1, 3)) for image in cells.images]
images = [normalise(image)[..., 0].astype(float) for image in halved]
labels = [label[::2, ::2] for label in cells.labels]

# %% [markdown]
# The window: its output begins at ``(top, left)`` of the image, and it reaches ``halo`` pixels
# beyond the output on each side, over the edge of the image too. The target and the weights belong
# to the output alone. The border weights need the cells around it, so compute them for the whole
# window, with ``w0 = 5`` and ``sigma = 3``, and cut them afterwards.


# %%
@exercise("17.9")
def window(image, labels, top, left, output, halo):
    """Return the image (n, n), n = output + 2 halo, and target and weight (output, output).

    After `separate` the target is 1 in a cell and 0 elsewhere. A weight is 1 plus the border weight.
    """
    return ...


def tile(step):
    """Return an image, a target and the weights of its pixels for a step: the same for the same step."""
    rng = np.random.default_rng([1, step])
    chosen = rng.integers(6)
    field = own.displacement(rng.normal(0, 4, (2, 3, 3)), *images[chosen].shape)
    image, cell = own.deform_both(images[chosen], labels[chosen], field)
    top, left = (rng.integers(side - OUTPUT + 1) for side in image.shape)
    image, target, weight = window(image, cell, top, left, OUTPUT, HALO)
    return image[np.newaxis, ..., np.newaxis], target[np.newaxis], weight[np.newaxis]


fig, axes = plt.subplots(2, 5, figsize=(11, 4.6), layout="constrained")
for step, column in enumerate(axes.T):
    image, target, weight = tile(step)
    column[0].imshow(image[0, HALO:-HALO, HALO:-HALO, 0], cmap="gray")
    column[0].contour(target[0], [0.5], colors="#e69f00", linewidths=0.8)
    shown = column[1].imshow(weight[0], cmap="magma", vmin=1, vmax=6)
    for panel in column:
        panel.set(xticks=[], yticks=[])
axes[0, 0].set_ylabel("image and target")
axes[1, 0].set_ylabel("weight")
fig.colorbar(shown, ax=axes[1], shrink=0.9)
show("17-tiles")

# %% [markdown]
# Check before you train
# ----------------------
# As in chapter 02: move all parameters along a random direction, and compare the slope by the quotient
# with the slope by the walk back. ``two_sides`` knows nothing of networks, so it gets one long vector.
# **Predict** which step ``h`` is better, 1e-5 or 1e-8.

# %%
image, target, weight = tile(0)


def unpack(vector):
    parts = np.split(vector, np.cumsum([array.size for array in weights.values()])[:-1])
    return {name: part.reshape(weights[name].shape) for name, part in zip(weights, parts, strict=True)}


def forward(vector):
    leaves = {name: Tensor(array) for name, array in unpack(vector).items()}
    return unet(Tensor(image), leaves, DEPTH, LAYERS).data


def backward(g, vector):
    leaves = {name: Tensor(array) for name, array in unpack(vector).items()}
    grads = walk_back(unet(Tensor(image), leaves, DEPTH, LAYERS), g)
    return np.concatenate([grads[leaf].ravel() for leaf in leaves.values()])


vector = np.concatenate([array.ravel() for array in weights.values()])
g, v = rng.standard_normal((1, OUTPUT, OUTPUT, 2)), rng.standard_normal(vector.size)
for h in (1e-5, 1e-8):
    by_backward, by_difference = own.two_sides(forward, backward, vector, g, v, h)
    print(f"h = {h:g}: slope {by_backward:.5f} by backward, {by_difference:.5f} by the quotient")
assert np.isclose(by_backward, by_difference, rtol=1e-6)

# %% [markdown]
# Chapter 02 again: with the longer step some of the many numbers cross the corner of their ReLU, or
# another one becomes the largest of its four. The shorter step crosses none, and seven digits agree.
#
# The same in the engine
# ----------------------
# The engine's U-Net gets the same weights, in float64. One step of training: **predict** how large the
# largest difference is, of the scores, the loss, the gradients and the weights after the step.

# %%
import tinyunet as tu

LR, MOMENTUM = 0.04, 0.9
model = tu.UNet(base_channels=BASE, depth=DEPTH, dropout=0)
parameters = dict(model.named_parameters())
assert parameters.keys() == weights.keys()
for name, parameter in parameters.items():
    parameter.data = weights[name].copy()
optimiser = tu.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
scores = model(tu.Tensor(image))
engine_loss = tu.softmax_cross_entropy(scores, target, weight)
engine_loss.backward()
engine_grads = {name: parameter.grad.copy() for name, parameter in parameters.items()}
optimiser.step()


@exercise("17.10")
def step_all(weights, grads, velocity, lr, momentum):
    """Return two dicts, the new weights and the new velocities: `own.sgd_step` for every name."""
    return ...


loss, grads = loss_and_gradients(weights, image, target, weight)
velocity = {name: np.zeros(array.shape) for name, array in weights.items()}
after, _ = step_all(weights, grads, velocity, LR, MOMENTUM)
differences = {
    "scores": np.abs(forward(vector) - scores.data).max(),
    "loss": abs(loss - engine_loss.item()),
    "gradients": max(np.abs(grads[name] - engine_grads[name]).max() for name in grads),
    "weights after a step": max(np.abs(after[name] - parameters[name].data).max() for name in after),
}
for name, difference in differences.items():
    print(f"{name:<21} differ by at most {difference:.0e}")
assert max(differences.values()) < 1e-6

# %% [markdown]
# Only the rounding of float64 is left. What you wrote *is* the engine, only slower.
#
# Train
# -----
# Six images, a deformed tile per step. **Predict** the share of pixels that will be right in an image
# that is in no tile.

# %%
STEPS = 300
start, losses = time.perf_counter(), []
for step in range(STEPS):
    loss, grads = loss_and_gradients(weights, *tile(step))
    weights, velocity = step_all(weights, grads, velocity, LR, MOMENTUM)
    losses.append(loss)
print(
    f"{STEPS} steps in {time.perf_counter() - start:.0f} s, loss {np.mean(losses[:20]):.2f} -> "
    f"{np.mean(losses[-20:]):.2f}"
)
assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:20])

# %% [markdown]
# Predict
# -------
# The seventh image was in no tile. It is predicted in tiles that touch, and its pieces are numbered
# by ``own.label_pieces``. Then it is compared with the truth. ``scores_of`` takes and returns arrays,
# (N, H, W, 1) and (N, H', W', 2).


# %%
@exercise("17.11")
def segment(image, scores_of, output, halo):
    """Return the probability of a cell (H, W), and the pieces where it is above ½; the image is (H, W)."""
    return ...


def scores_of(x):
    leaves = {name: Tensor(array) for name, array in weights.items()}
    return unet(Tensor(x), leaves, DEPTH, LAYERS).data


probability, found = segment(images[6], scores_of, OUTPUT, HALO)
truth = separate(labels[6])
score = own.seg(found, truth)
right = np.mean((probability > 0.5) == (truth > 0))
print(f"{right:.1%} of the pixels are right, SEG {score:.2f}")
assert right > 0.9

# %% [markdown]
# That is a training of half a minute: nearly all pixels are right, but where cells touch they are often
# one piece, and SEG sees it (chapter 14). The engine trains longer, on more images.
#
# Whose numbers are these?

# %%
smooth = own.running_mean(losses, 20)
for _, name in exercises(chapters()[-1]):
    getattr(own, name)  # those of this chapter count too
theirs = [number for number in sorted(own.used) if number not in own.yours]
print(f"{len(own.yours)} of {len(own.used)} functions are yours")
print("worked answers:", ", ".join(theirs) or "none")
whose = " and ".join(["you"] * bool(own.yours) + ["the worked answers"] * bool(theirs))


def coloured(numbers):
    colours = plt.colormaps["tab20"](np.random.default_rng(1).permutation(numbers.max() + 1) % 20)
    colours[0] = (0, 0, 0, 1)
    return colours[numbers]


fig, axes = plt.subplots(1, 4, figsize=(13, 3.8), layout="constrained", width_ratios=[1.3, 1, 1, 1])
axes[0].plot(losses, color="0.8", label="each step")
axes[0].plot(np.arange(10, STEPS - 9), smooth, label="mean of 20")
axes[0].set(xlabel="step", ylabel="loss", title="Training", ylim=(0, 1))
axes[0].legend()
axes[1].imshow(images[6], cmap="gray", vmax=np.percentile(images[6], 99))
axes[1].set_title("an image it has not seen")
axes[2].imshow(probability, cmap="cividis", vmin=0, vmax=1)
axes[2].set_title("probability of a cell")
axes[3].imshow(coloured(found))
axes[3].contour(truth > 0, [0.5], colors="w", linewidths=0.6)
axes[3].set_title(f"{found.max()} pieces, SEG {score:.2f}; white: truth")
for panel in axes[1:]:
    panel.set_axis_off()
fig.suptitle(f"Every number in this picture was computed by {whose}", fontsize=14)
show("17-yours")

# %% [markdown]
# Your own image
# --------------
# Write the path of an image into ``MY_IMAGE`` at the top, and run the chapter again. The network knows
# bright cells of about 15 pixels on a dark ground. Where yours are larger or smaller, ``ZOOM`` is 15
# divided by their diameter in pixels.

# %%
if MY_IMAGE:
    mine = read_images(MY_IMAGE, labels=False).images[0].mean(axis=2, keepdims=True)
    mine = ndimage.zoom(normalise(mine)[..., 0].astype(float), ZOOM, order=1)
    probability, found = segment(mine, scores_of, OUTPUT, HALO)
    fig, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
    for panel, picture, title in zip(
        axes,
        (
            plt.colormaps["gray"](plt.Normalize()(mine)),
            plt.colormaps["cividis"](probability),
            coloured(found),
        ),
        ("your image", "probability of a cell", f"{found.max()} pieces"),
        strict=True,
    ):
        panel.imshow(picture)
        panel.set(title=title, xticks=[], yticks=[])
    fig.suptitle(f"Every number in this picture was computed by {whose}", fontsize=14)
    show("17-your-image")

# %% [markdown]
# Summary
# -------
# - A hundred lines make a network of the parts: four ops on a tape, the U, the first weights, one step.
# - Check the whole before you train it: once against a quotient, once against other people's code.
# - It agrees with the engine to the rounding of float64. The engine adds speed, errors and choice.
#
# This was the last chapter. Read ``tinyunet/`` now: you know all of it.
