# %% [markdown]
"""
10. Cross-entropy and the weight map: what a pixel costs
========================================================

**You will build** the loss of the U-Net paper: a softmax that does not overflow, the cross-entropy
and its gradient (``tinyunet/ops/softmax_cross_entropy.py``), and the map that says how much each pixel
counts (``tinyunet/sampling/weight_map.py``).

**You will learn** why two cells that touch become one in a prediction, how the paper's weight map
prevents this, and what it costs elsewhere.

Needed: chapter 01. About 45 minutes. Six exercises. The chapter trains four small networks, which
takes most of its time.
"""

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
from lesson import exercise, show
from scipy import ndimage

from tinyunet.data import normalise, split, synthetic_cells

# %% [markdown]
# From scores to probabilities
# ----------------------------
# The network gives each pixel one number per class, its *score* or *logit*. The array of scores is
# ``logits``, of shape ``(N, H, W, K)``: images, rows, columns, classes. A score may be any number.
# The *softmax* turns scores into probabilities, positive and with the sum 1::
#
#     p[k] = exp(logits[k]) / sum over k' of exp(logits[k'])
#
# This is for one pixel; every pixel is treated alike. **Predict** the result that a computer gives for
# the two scores 1000 and 999.

# %%
logits = np.array([1000.0, 999.0])
with np.errstate(all="ignore"):
    naive = np.exp(logits) / np.exp(logits).sum()
print("naive softmax:", naive)
assert np.isnan(naive).all()

# %% [markdown]
# ``exp(1000)`` is larger than the largest float64, so it becomes infinite, and infinity divided by
# infinity is not a number. But adding a constant ``m`` to all scores of a pixel changes nothing,
# because ``exp(m)`` cancels. Let ``m`` be minus the largest score. Then the largest exponential is
# ``exp(0) = 1``.
#
# The loss needs ``log p``, and there is a second trap. A score that is 900 below the largest has a
# probability that rounds to 0, and ``log(0)`` is minus infinity. So do not compute ``p`` on the way:
# ``log p[k] = logits[k] - log(sum over k' of exp(logits[k']))``.


# %%
@exercise("10.1")
def log_softmax(logits):
    """Return log p, of the shape (N, H, W, K) of `logits`, finite for any finite scores."""
    return ...


p = np.exp(log_softmax(logits.reshape(1, 1, 1, 2)))[0, 0, 0]
print(f"stable softmax: {p[0]:.4f} {p[1]:.4f}")
assert np.allclose(p, [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))])

# %% [markdown]
# Cross-entropy
# -------------
# The label of a pixel gives its true class, ``target``, a whole number from 0 to K - 1. The loss of
# the pixel is ``-log p[target]``: 0 if the network is sure of the true class, and without bound if it
# is sure of another. The paper's energy (section 3, equation 1) adds it up over the pixels,
# each with a weight ``w``::
#
#     E = sum over n, i, j of  w[n,i,j] · -log p[n,i,j,target[n,i,j]]
#
# The paper prints it without the minus sign. A network that knows nothing gives both of two classes
# the same probability. **Predict** its loss per pixel.


# %%
def energy(logits, target, weight):
    log_p = np.take_along_axis(log_softmax(logits), target[..., np.newaxis], axis=-1)[..., 0]
    return -(weight * log_p).sum()


no_idea = energy(np.zeros((1, 1, 1, 2)), np.zeros((1, 1, 1), int), np.ones((1, 1, 1)))
print(f"no idea: {no_idea:.4f}")
assert round(no_idea, 4) == 0.6931  # log 2

# %% [markdown]
# If a training starts far above ``log 2 = 0.6931``, its first scores are far too large.
#
# Now the gradient. For one pixel the loss is ``w (log(sum over k of exp(logits[k])) -
# logits[target])``. The derivative of the first term by ``logits[k]`` is ``p[k]``, that of the
# second is 1 for the true class and 0 for the others. The result is as simple as it can be:
# *probability minus truth*, times the weight. The check measures a slope, as in chapter 02.


# %%
@exercise("10.2")
def gradient_of_energy(logits, target, weight):
    """Return dE/d(logits), shape (N, H, W, K); target and weight have the shape (N, H, W)."""
    return ...


rng = np.random.default_rng(0)
logits, target = rng.standard_normal((1, 3, 5, 4)), rng.integers(4, size=(1, 3, 5))
weight, direction, step = rng.uniform(0, 3, (1, 3, 5)), rng.standard_normal((1, 3, 5, 4)), 1e-5
ahead, behind = (energy(logits + sign * step * direction, target, weight) for sign in (1, -1))
measured = (ahead - behind) / (2 * step)
computed = (gradient_of_energy(logits, target, weight) * direction).sum()
print(f"slope measured {measured:.8f}, computed {computed:.8f}")
assert abs(measured - computed) < 1e-7

# %% [markdown]
# The slope is never steeper than the weight: a pixel that is totally wrong pulls with full strength,
# but no more. The squared error of a softmax behaves differently: where the network is sure of the
# wrong class, the pixel hardly pulls.

# %%
score = np.linspace(-8, 8, 200)  # of the true class; the other class has 0
q = 1 / (1 + np.exp(-score))
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.plot(score, -np.log(q), label="cross-entropy, $-\\log p$")
left.plot(score, (1 - q) ** 2, "--", label="squared error, $(1-p)^2$")
left.plot(0, np.log(2), "ko")
left.annotate("no idea: log 2", (0, np.log(2)), (1, 3), arrowprops={"arrowstyle": "->"})
left.set(xlabel="score of the true class minus the other's", ylabel="loss of the pixel", title="Loss")
left.legend()
right.plot(score, q - 1, label="cross-entropy, $p-1$")
right.plot(score, -2 * (1 - q) * q * (1 - q), "--", label="squared error")
right.set(
    xlabel="score of the true class minus the other's",
    ylabel="slope by that score",
    title="Slope: how hard the pixel pulls",
)
right.legend()
show("10-loss")
assert 2 * (1 - q[0]) * q[0] * (1 - q[0]) < 0.001  # squared error, totally wrong: hardly a pull
assert q[0] - 1 < -0.999

# %% [markdown]
# **Sum or mean?** The energy is a sum, so the gradient grows with the tile. The paper's output tile
# has 388 × 388 = 150,544 pixels: a learning rate that is right for it is wrong for another size.
# By default the engine divides by the sum of the weights (``reduction="mean"``). The paper does not
# state its learning rate, so nothing is lost.
#
# A rare class
# ------------
# The images to train on are synthetic nuclei as under a fluorescence microscope. In the label image
# ``labels`` of shape ``(H, W)``, 0 is background, and each cell has a number of its own.

# %%
assert 388 * 388 == 150_544
train, held_out = split(synthetic_cells(n=24, size=160, seed=1), "25%")
image, labels = held_out.images[1], held_out.labels[1]
share = np.mean([(one > 0).mean() for one in train.labels])
print(f"{len(train)} images to train on; {100 * share:.0f} % of their pixels are in cells")
assert 0.1 < share < 0.25

# %% [markdown]
# Less than a quarter of the pixels are in cells, so "background everywhere" is mostly right. Suppose
# that the network ignores the image and gives every pixel the same probability ``q`` of being in a
# cell. With the weight ``w_background`` for each background pixel and ``w_cell`` for each cell pixel,
# the loss per pixel is::
#
#     -(1 - share) w_background log(1 - q) - share w_cell log q
#
# Which ``q`` makes it smallest? Set its derivative by ``q`` to 0.


# %%
@exercise("10.3")
def best_constant(share, w_background, w_cell):
    """Return the q with the smallest loss."""
    return ...


# %% [markdown]
# Now give both classes the same influence, with ``w_c = n / (K n_c)`` for a pixel of class ``c``: of
# ``n`` pixels in all ``n_c`` are of this class, and ``K`` is 2. The paper has such a balance, ``w_c``,
# but gives no formula; this one is the engine's. **Predict** the best ``q`` with it.


# %%
def class_weights(classes, num_classes):
    return classes.size / (num_classes * np.bincount(classes.ravel(), minlength=num_classes))


classes = np.stack(train.labels) > 0
balanced = class_weights(classes.astype(int), 2)
fig, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
q = np.linspace(0.01, 0.99, 200)
for name, style, (w_background, w_cell) in [("weights 1", "-", (1, 1)), ("balanced", "--", balanced)]:
    losses = -(1 - share) * w_background * np.log(1 - q) - share * w_cell * np.log(q)
    best = best_constant(share, w_background, w_cell)
    print(f"{name}: background {w_background:.2f}, cells {w_cell:.2f}, best constant answer {best:.3f}")
    (line,) = axes.plot(q, losses, style, label=f"{name}: smallest at {best:.2f}")
    axes.axvline(best, ls=":", color=line.get_color())
axes.set(xlabel="probability q of a cell, the same everywhere", ylabel="loss per pixel", ylim=(0, 3))
axes.set_title("The answer of a network that ignores the image")
axes.legend()
show("10-balance")
assert np.isclose(best_constant(share, 1, 1), share)
assert np.isclose(best_constant(share, *balanced), 0.5)

# %% [markdown]
# Without weights the lazy answer is the share of the cells, and a threshold of ½ turns everything into
# background. With the balance the lazy answer is ½.
#
# Where two cells meet
# --------------------
# Cells that touch are separated by a line of background, one or two pixels wide. These pixels are few,
# so filling them in costs a network next to nothing, and two cells become one. The paper (equation 2)
# makes them expensive::
#
#     w(x) = w_c(x) + w0 · exp(-(d1(x) + d2(x))² / (2 sigma²))
#
# ``d1`` and ``d2`` are the distances in pixels from pixel x to the nearest and to the second
# nearest cell; ``w0 = 10`` is in units of loss per pixel, and ``sigma = 5`` in pixels. By hand: in
# the row ``1 1 0 0 2`` two cells have a gap of two pixels. For both ``d1 = 1`` and ``d2 = 2``.
# **Predict** their weight, with ``w_c = 1``.

# %%
by_hand = 1 + 10 * np.exp(-((1 + 2) ** 2) / (2 * 5**2))
print(f"weight between the two cells: {by_hand:.2f}")
assert round(by_hand, 2) == 9.35

# %% [markdown]
# ``ndimage.distance_transform_edt(mask)`` gives each pixel where ``mask`` is true its distance to
# the nearest pixel where it is not, and 0 to the others. So ``labels != cell`` as mask gives the
# distances to one cell. Do this for each cell; the smallest two distances of each pixel are ``d1``
# and ``d2``.
#
# The paper leaves two points open. With fewer than two cells there is no ``d2``: then the term is left
# out. And *inside* of a cell ``d1 = 0``, so its rim near a neighbour would get a higher weight than
# the gap itself, although the rim is "cell". The term is meant for the gap, so it is left out in
# cells too.


# %%
@exercise("10.4")
def border_weight(labels, w0, sigma):
    """Return w0 exp(-(d1 + d2)² / (2 sigma²)), shape (H, W), 0 in cells; 0 for fewer than two cells."""
    return ...


print("without w_c:", border_weight(np.array([[1, 1, 0, 0, 2]]), 10.0, 5.0).round(2))
assert np.isclose(1 + border_weight(np.array([[1, 1, 0, 0, 2]]), 10.0, 5.0)[0, 2], by_hand)

# %% [markdown]
# In our labels touching cells have no background between them at all. The paper computes the
# separation border "using morphological operations". We remove from each cell the pixels that have
# the other cell among their eight neighbours.

# %%
largest = ndimage.maximum_filter(labels, 3)
smallest = ndimage.minimum_filter(np.where(labels > 0, labels, labels.max() + 1), 3)
separated = np.where((labels > 0) & ((largest != labels) | (smallest != labels)), 0, labels)
border = border_weight(separated, 10.0, 5.0)
distances = np.sort(
    [ndimage.distance_transform_edt(separated != c) for c in np.unique(separated)[1:]], axis=0
)

fig, axes = plt.subplots(1, 4, figsize=(12, 3.4), layout="constrained")
axes[0].imshow(image[..., 0], cmap="gray", vmax=np.percentile(image, 99))
axes[0].contour(separated > 0, [0.5], colors="#e69f00", linewidths=0.8)
axes[0].set_title("cells, separated")
pictures = {"d1, px": distances[0], "d2, px": distances[1], "border weight": border}
for panel, (title, picture) in zip(axes[1:], pictures.items(), strict=True):
    fig.colorbar(panel.imshow(picture, cmap="magma"), ax=panel, shrink=0.75)
    panel.set_title(title)
for panel in axes:
    panel.set_axis_off()
show("10-weight-map")
gap = border > 5
print(f"{gap.mean():.1%} of the pixels have {border[gap].sum() / border.sum():.0%} of the border's weight")
assert gap.mean() < 0.04
assert border[gap].sum() > 0.5 * border.sum()

# %% [markdown]
# The bright lines are what the map is for. Fewer than 4 % of the pixels have a border weight above 5,
# and they have more than half of all border weight.
#
# With and without
# ----------------
# Does it help? Four small networks (2 poolings, 8 channels in the first level) are trained on the
# same tiles, with parts of the engine that the next chapters explain. Only the weights differ: balance
# off or on, ``w0`` 0 or 10. Then they see images that they were not trained on. A gap is background
# with ``d1 + d2`` of at most 4 pixels. Of the pixels in gaps, how many are called background?
# **Predict** which network finds the most.

# %%
import tinyunet as tu
from tinyunet.sampling import Sampler, WeightMap
from tinyunet.sampling.augment import Augmentation
from tinyunet.sampling.weight_map import nearest_two_cells, separate_touching


def trained(settings, steps=200):
    """Train a network for 200 steps with these weights; 140 pixels in, 100 out."""
    sampler = Sampler(
        train,
        input_size=140,
        output_size=100,
        augmentation=Augmentation(elastic_sigma=0),
        weights=settings,
        seed=0,
    )
    model = tu.UNet(base_channels=8, depth=2, dropout=0)
    optimiser = tu.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for sample in sampler.stream(0, steps):
        loss = tu.softmax_cross_entropy(model(tu.Tensor(sample.image)), sample.target, sample.weight)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model


def judge(model):
    """Return the share of wrong pixels, the share of gap pixels found, and the probabilities of one image."""
    wrong, found, pictures = [], [], []
    for image, labels in zip(held_out.images, held_out.labels, strict=True):
        cells = separate_touching(labels)
        gap = (cells == 0) & (sum(nearest_two_cells(cells)) <= 4)
        pictures.append(tu.predict_tiled(model, normalise(image), tile=160)[..., 1])
        wrong.append((pictures[-1] > 0.5) != (cells > 0))
        found.append(pictures[-1][gap] < 0.5)
    return np.mean(wrong), np.concatenate(found).mean(), pictures[1]


close = slice(75, 145), slice(50, 120)  # the group in the middle of the figure above
fig, axes = plt.subplots(2, 3, figsize=(8, 5.8), layout="constrained")
axes[0, 0].imshow(image[..., 0][close], cmap="gray", vmax=np.percentile(image, 99))
axes[0, 0].set_title("image")
axes[1, 0].imshow(separated[close] > 0, cmap="cividis")
axes[1, 0].set_title("truth")
scores = {}
for panel, (balance, w0) in zip(
    axes[:, 1:].flat, [(False, 0), (False, 10), (True, 0), (True, 10)], strict=True
):
    start = time.perf_counter()
    wrong, found, picture = judge(trained(WeightMap(w0=w0, class_balance=balance)))
    seconds = time.perf_counter() - start
    scores[balance, w0] = wrong, found, picture[separated > 0].mean()
    title = f"balance {'on' if balance else 'off'}, w0 = {w0}"
    print(f"{title}: {wrong:.1%} of pixels wrong, {found:.0%} of gap pixels found, {seconds:.1f} s")
    shown = panel.imshow(picture[close], cmap="cividis", vmin=0, vmax=1)
    panel.set_title(f"{title}\n{found:.0%} of the gaps found", fontsize=10)
for panel in axes.flat:
    panel.set_axis_off()
fig.colorbar(shown, ax=axes, shrink=0.6, label="probability of a cell")
show("10-four-trainings")
for balance in (False, True):
    assert scores[balance, 10][1] > scores[balance, 0][1]
assert scores[True, 0][1] < scores[False, 0][1]
assert scores[False, 10][2] < scores[False, 0][2] - 0.05
assert abs(scores[True, 10][1] - scores[False, 0][1]) < 0.1
assert scores[True, 10][0] == min(wrong for wrong, _, _ in scores.values())

# %% [markdown]
# With the border term more of the gaps are found, with balance and without. Two results may surprise.
# The balance alone finds *fewer* gaps than no weights at all: it makes errors in cells more expensive
# than errors in the background, and a gap is background. And the border term alone (top right) makes
# the network less sure inside of cells: it has learnt that calling a pixel "cell" can be expensive.
# The two parts of the map work against each other, and the paper uses both. Here, after a short
# training, both together find about as many gaps as no weights at all, with the fewest wrong pixels
# of the four. Which mixture is best depends on your data: measure it on held-out images.
#
# The same in the engine
# ----------------------
# ``tinyunet/ops/softmax_cross_entropy.py`` is the loss, forward and backward in one pass over the
# pixels. ``tinyunet/sampling/weight_map.py`` computes the map. It finds ``d1`` and ``d2`` for all cells
# at once, while ours goes over the whole image again for each cell.

# %%
scores = tu.Tensor(logits, requires_grad=True)
loss = tu.softmax_cross_entropy(scores, target, weight, reduction="sum")
loss.backward()
assert np.isclose(loss.item(), energy(logits, target, weight), rtol=1e-12)
assert np.allclose(scores.grad, gradient_of_energy(logits, target, weight), rtol=1e-12)

assert np.array_equal(separate_touching(labels), separated)
ours = class_weights((separated > 0).astype(int), 2)[(separated > 0).astype(int)] + border
assert np.allclose(tu.weight_map(separated, w0=10.0, sigma=5.0), ours, atol=1e-5)
for name, function in [("ours", border_weight), ("the engine", tu.weight_map)]:
    start = time.perf_counter()
    function(separated, w0=10.0, sigma=5.0)
    print(f"{name}: {1000 * (time.perf_counter() - start):.1f} ms for {len(np.unique(separated)) - 1} cells")

# %% [markdown]
# On your own
# -----------
# The *Dice loss* counts overlap in place of pixels: ``1 - (2 Σ p t + 1) / (Σ p + Σ t + 1)``, where
# ``p`` is the probability of a cell (by the softmax of two scores) and ``t`` its target, 0 or 1,
# and Σ goes over all pixels of all images. A large background has no weight in it. Return the loss,
# and its gradient by both scores.


# %%
@exercise("10.5")
def dice_loss(scores, target):
    """Return the loss and its gradient (N, H, W, 2), for scores (N, H, W, 2) and target (N, H, W)."""
    return ...


scores_, mask = rng.standard_normal((1, 6, 6, 2)), rng.integers(0, 2, (1, 6, 6))
v = rng.standard_normal(scores_.shape)
quotient = (dice_loss(scores_ + 1e-6 * v, mask)[0] - dice_loss(scores_ - 1e-6 * v, mask)[0]) / 2e-6
print(f"slope {quotient:.6f} by the quotient, {np.vdot(dice_loss(scores_, mask)[1], v):.6f} by the gradient")
assert np.isclose(quotient, np.vdot(dice_loss(scores_, mask)[1], v), rtol=1e-6)

# %% [markdown]
# ``border_weight`` needs distances, and SciPy computed them. They are easier than they look,
# because a square splits: ``d² = (rows apart)² + (columns apart)²``. First find, for each pixel,
# how far the mask is within its own column, by one pass down and one pass up. Then take the
# smallest sum along the row.


# %%
@exercise("10.6")
def distance_to(mask):
    """Return the distance of each pixel to the nearest pixel of the mask (H, W), which is not empty."""
    return ...


cells = labels > 0
assert np.allclose(distance_to(cells), ndimage.distance_transform_edt(~cells))
print(f"the farthest pixel is {distance_to(cells).max():.2f} pixels from a cell")

# %% [markdown]
# Summary
# -------
# - Subtract the largest score before the exponential, and never take the logarithm of a
#   probability.
# - The gradient of the cross-entropy is probability minus truth, times the weight.
# - A balance of the classes stops a network from ignoring the rare class; it also fills gaps.
# - The border term makes errors in the gap between two cells expensive, so more gaps are found; alone
#   it makes the network less sure of cells.
#
# Next: ``11_elastic_deformation.py``, how thirty images become many thousands.
