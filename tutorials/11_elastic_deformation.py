# %% [markdown]
"""
11. Elastic deformation: many images out of few
===============================================

**You will build** the paper's augmenter: random vectors on a coarse grid, a smooth field between
them, and an image that is bent together with its labels. The engine's is
``tinyunet/sampling/elastic.py``.

**You will learn** why a deformation looks up where a pixel comes from, how a spline interpolates
between pixels, how labels are bent without inventing cells, when a deformation folds, and how the
paper's augmenter differs from the older one of Simard.

Needed: NumPy arrays, and the idea of a partial derivative. About 40 minutes. Seven exercises.
"""

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
from lesson import animate, exercise, show
from scipy import ndimage

# %% [markdown]
# Why bend images
# ---------------
# The paper trains on 30 images, and says that random deformations were the key to it (section 3.1).
# Tissue is soft: a cell that is bent a little is still a cell, and its label is bent in the same way.
# So a bent image with bent labels is a new image that nobody has to draw.
#
# A deformation says for each pixel ``(i, j)`` of the output where in the input to look. The difference
# from the pixel's own place is the *displacement* ``u``, in pixels, an array of shape ``(2, H, W)``:
# first along rows, then along columns::
#
#     output[i, j] = input[i + u[0, i, j], j + u[1, i, j]]
#
# Why not the other way round, sending each input pixel to a new place? Because two might arrive at one
# place and none at another. If each output pixel looks up its value, it gets exactly one.
#
# **Predict** what the constant displacement ``(0, 5)`` does to a picture, then do the exercise.


# %%
@exercise("11.1")
def to_the_right():
    """Return two numbers, u along rows and along columns: the picture moves 5 pixels to the right."""
    return ...


picture = np.zeros((9, 21))
picture[4, 8] = 1.0
u = np.zeros((2, 9, 21)) + np.reshape(to_the_right(), (2, 1, 1))
moved = ndimage.map_coordinates(picture, np.indices(picture.shape) + u, order=0)
print("the bright pixel was in column 8, it is in column", moved.argmax() % 21)
assert moved[4, 13] == 1

# %% [markdown]
# So ``(0, 5)`` moves the picture to the *left*: each pixel shows what lies 5 columns to its right.
#
# ``ndimage.map_coordinates(image, points)`` does the looking up: ``points`` has the shape ``(2, H,
# W)`` and holds the row and the column for each output pixel. ``np.indices((H, W))`` is each
# pixel's own place.
#
# Between the pixels
# ------------------
# A point to look up is seldom a pixel. ``order=0`` takes the nearest pixel. ``order=1`` joins
# neighbours by straight lines. ``order=3`` is a *cubic spline*, the smooth curve of a thin strip of
# wood that is held at the pixels' values. It passes through all of them, and its slope never jumps.
# Beyond its edge the image is mirrored, ``mode="mirror"``, as in the paper's prediction.

# %%
values = np.array([0.0, 0.2, 1.0, 0.9, 0.1, 0.0, 0.4])
x = np.linspace(-1.5, 7.5, 500)
fig, axes = plt.subplots(figsize=(8, 3), layout="constrained")
for order, name, style in [(0, "nearest", ":"), (1, "linear", "--"), (3, "cubic spline", "-")]:
    axes.plot(x, ndimage.map_coordinates(values, [x], order=order, mode="mirror"), style, label=name)
axes.plot(values, "ko", label="pixels")
axes.axvspan(-1.5, 0, color="0.9")
axes.axvspan(6, 7.5, color="0.9", label="mirrored")
axes.set(xlabel="column, px", ylabel="grey value", title="Between the pixels")
axes.legend(fontsize=8, loc="upper right")
show("11-spline")
between = ndimage.map_coordinates(values, [x], order=3, mode="mirror")
assert between.max() > values.max()

# %% [markdown]
# The spline goes higher than any pixel. It is no average, and at a sharp edge it overshoots.
#
# A coarse grid
# -------------
# If every pixel got a random displacement of its own, the picture would become dust. Neighbours
# must move together. The paper draws random vectors on a grid of 3 by 3 points only. Each component
# is drawn from a normal distribution with a standard deviation ``sigma`` of 10 pixels. Between the
# grid points the paper uses "bicubic" interpolation; we take the cubic spline along both axes. The
# paper does not say where the grid is placed. Ours spans the tile from corner to corner.
#
# So the grid is itself a small image, in which we look up points between its pixels. The tile's row 0
# is at the grid's row 0, and its last row at the grid's last row.


# %%
@exercise("11.2")
def displacement(grid, height, width):
    """Return u, shape (2, height, width): cubic splines, mode "mirror", through grid, shape (2, P, Q)."""
    return ...


rng = np.random.default_rng(3)
grid = rng.normal(0.0, 10.0, (2, 3, 3))
u = displacement(grid, 200, 260)
print(f"{grid.size} random numbers determine {u.size:,} displacements")
assert grid.size == 18
assert np.allclose(u[:, [0, 0, -1, -1], [0, -1, 0, -1]], grid[:, [0, 0, -1, -1], [0, -1, 0, -1]])


# %%
def checkers(height, width, step=20):
    """Return a picture that makes a deformation visible: squares of `step` pixels."""
    i, j = np.indices((height, width))
    return ((i // step + j // step) % 2).astype(float)


fig, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
shown = axes[0].imshow(np.hypot(*u), cmap="cividis")
i, j = np.meshgrid(np.linspace(0, 199, 13), np.linspace(0, 259, 17), indexing="ij")
arrows = u[:, i.astype(int), j.astype(int)]
axes[0].quiver(j, i, arrows[1], arrows[0], angles="xy", scale_units="xy", scale=1, color="w", width=0.004)
i, j = np.meshgrid([0, 99.5, 199], [0, 129.5, 259], indexing="ij")
axes[0].quiver(j, i, grid[1], grid[0], angles="xy", scale_units="xy", scale=1, color="#e69f00", width=0.01)
axes[0].plot(j.ravel(), i.ravel(), "o", color="#e69f00", clip_on=False)
axes[0].set_title("u, where to look: 9 vectors, splines between")
fig.colorbar(shown, ax=axes[0], label="length of u, px", location="left", shrink=0.8)
before = checkers(200, 260)
after = ndimage.map_coordinates(before, np.indices(before.shape) + u, order=1, mode="mirror")
axes[1].imshow(before, cmap="gray")
axes[1].set_title("before")
axes[2].imshow(after, cmap="gray")
axes[2].set_title("after")
for panel in axes:
    panel.axis((-8, 268, 208, -28))
    panel.set_axis_off()
show("11-grid")

# %% [markdown]
# An arrow points to the place where a pixel looks, so the picture moves *against* the arrows. At the
# top left they point down and to the right: the picture there has moved up and to the left.
#
# Image and labels
# ----------------
# The labels must be bent by the *same* field, or the network learns nonsense. And they must not be
# interpolated. **Predict** the value in the middle of a straight line from label 1 to label 3.

# %%
invented = ndimage.map_coordinates(np.array([1, 3]), [[0.5]], order=1)
print("between label 1 and label 3:", invented[0])
assert invented[0] == 2

# %% [markdown]
# Label 2: a cell that does not exist, or a different one. So labels take the nearest pixel.


# %%
@exercise("11.3")
def deform_both(image, labels, field):
    """Return image and labels, both (H, W), deformed by field (2, H, W): the spline, the nearest pixel."""
    return ...


from tinyunet.data import synthetic_cells

cells = synthetic_cells(n=3, size=200, seed=4)
image, labels = cells.images[0][..., 0].astype(float), cells.labels[0]
fig, axes = plt.subplots(1, 4, figsize=(12, 3.4), layout="constrained")
for panel, seed in zip(axes, [None, 1, 2, 7], strict=True):
    field = np.zeros((2, 200, 200))
    if seed is not None:
        field = displacement(np.random.default_rng(seed).normal(0, 10, (2, 3, 3)), 200, 200)
    bent, bent_labels = deform_both(image, labels, field)
    assert set(np.unique(bent_labels)) <= set(np.unique(labels))
    panel.imshow(bent, cmap="gray", vmax=np.percentile(image, 99.5))
    panel.contour(bent_labels > 0, [0.5], colors="#e69f00", linewidths=0.8)
    panel.set_title("as it was" if seed is None else f"deformed, seed {seed}")
    panel.set_axis_off()
show("11-cells")

# %% [markdown]
# The outlines stay on their cells. That is the check to make by eye with any augmenter, before a
# training and not after.
#
# Folds
# -----
# Vectors that are long compared with the spacing of the grid make the picture fold over itself: some
# part of it appears mirrored, or twice. Tissue does not do that. How can a fold be found?
#
# Follow a small square of the output to the places where it looks: it becomes a parallelogram. The
# *Jacobian determinant* is the factor by which its area changes, and it is negative if the square is
# turned over. A factor of 2 means that 2 px² of the input are shown in 1 px² of the output: there the
# picture is shrunk. With ``u_y = u[0]`` and ``u_x = u[1]``, the map is ``(i + u_y, j + u_x)``, and
# the determinant of its four slopes is::
#
#     (1 + du_y/di) (1 + du_x/dj) - (du_y/dj) (du_x/di)
#
# Where it is 0 or less, there is a fold. ``np.gradient(a)`` of an image ``a`` returns its slopes
# along rows and along columns, per pixel.


# %%
@exercise("11.4")
def area_factor(field):
    """Return the Jacobian determinant at each pixel, shape (H, W), of the map with displacement `field`."""
    return ...


fig, axes = plt.subplots(2, 3, figsize=(9, 6.2), layout="constrained")
for column, sigma in zip(axes.T, [10, 25, 50], strict=True):
    field = displacement(np.random.default_rng(5).normal(0, sigma, (2, 3, 3)), 200, 200)
    factor = area_factor(field)
    after = ndimage.map_coordinates(
        checkers(200, 200), np.indices((200, 200)) + field, order=1, mode="mirror"
    )
    column[0].imshow(after, cmap="gray")
    column[0].set_title(f"sigma = {sigma} px")
    shown = column[1].imshow(factor, cmap="PuOr", vmin=-3, vmax=3)
    column[1].contour(factor, [0], colors="k", linewidths=1.5)
    column[1].set_title(f"{(factor <= 0).mean():.0%} folded")
    print(f"sigma {sigma}: area factors from {factor.min():.2f} to {factor.max():.2f}")
fig.colorbar(shown, ax=axes[1], label="area factor; black line: 0")
fig.suptitle("The same 9 vectors, longer and longer; grid points 99.5 px apart")
for panel in axes.flat:
    panel.set_axis_off()
show("11-folds")
assert (area_factor(np.zeros((2, 5, 7))) == 1).all()

# %% [markdown]
# Pull the slider of ``figures/11-sigma.html`` (in the notebook or on the site, the one below) to see
# where the first fold appears.

# %%
sigmas = range(0, 61, 6)
vectors = np.random.default_rng(5).normal(0, 1, (2, 3, 3))
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3.8), dpi=70)
squares = left.imshow(checkers(100, 100, 10), cmap="gray")
areas = right.imshow(np.ones((100, 100)), cmap="PuOr", vmin=-3, vmax=3)
for panel in (left, right):
    panel.set_axis_off()


def draw_sigma(number):
    field = displacement(sigmas[number] / 2 * vectors, 100, 100)  # half as long on half the side
    points = np.indices((100, 100)) + field
    squares.set_data(ndimage.map_coordinates(checkers(100, 100, 10), points, order=1, mode="mirror"))
    areas.set_data(area_factor(field))
    left.set_title(f"sigma = {sigmas[number]} px on 200 px")
    right.set_title(f"area factor: {(area_factor(field) <= 0).mean():.0%} folded")


sigma_slides = animate("11-sigma", fig, draw_sigma, len(sigmas), interval=700)

# %% [markdown]
# Only the ratio of ``sigma`` to the *spacing* of the grid points matters: if both double, the bent
# picture is the same, twice as large. With the paper's tile of 572 pixels the spacing is ``571 / 2 =
# 285.5`` pixels, and ``sigma / spacing`` is 0.035. A small tile with the same 10 pixels is bent far
# more. **Predict** the ratio at which half of all random grids fold somewhere. Here 100 grids are
# drawn for each ratio, on a tile of 33 pixels.

# %%
ratios = np.array([0.035, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5])
side, folded = 33, []
for ratio in ratios:
    draws = rng.normal(0.0, ratio * (side - 1) / 2, (100, 2, 3, 3))
    folded.append(np.mean([(area_factor(displacement(draw, side, side)) <= 0).any() for draw in draws]))
fig, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
axes.plot(ratios, 100 * np.array(folded), "o-")
for tile in (100, 200, 572):
    ratio = 10 / ((tile - 1) / 2)
    axes.axvline(ratio, color="0.6", ls=":")
    axes.text(ratio, 60, f"tile {tile} px", rotation=90, va="center", ha="right")
axes.set(xlabel="sigma / spacing", ylabel="grids with a fold, %")
axes.set_title("Dotted: sigma = 10 px on tiles of three sizes, 3 × 3 points")
show("11-fold-rate")
assert round(10 / 285.5, 3) == ratios[0]
assert folded[0] == 0
assert 0 < folded[3] < 0.2
assert folded[5] < 0.5 < folded[6]
assert folded[-1] > 0.9

# %% [markdown]
# At the paper's ratio none of the 100 grids folds; between 0.3 and 0.4 half of them do, and at 0.5 more
# than nine of ten. With 10 pixels on a tile of 100 the ratio is 0.2, and the first folds appear:
# choose a smaller ``sigma`` for small tiles. The engine counts the folded pixels of each sample,
# and each step of a training reports them.
#
# Simard's field
# --------------
# The older augmenter (Simard and others, 2003, for handwritten digits) draws a vector for *every*
# pixel, smooths this dense field with a Gaussian of some width, and scales it up again. Many
# libraries offer this one under the name "elastic". Let both fields have the same mean displacement.
# **Predict** which of them changes shapes more.
#
# Our measure is the area factor: by how much areas grow *or* shrink, averaged over the pixels. The
# average is that of the logarithms, so that a factor of 2 and one of ½ count alike.


# %%
def simard(height, width, smoothing, rng):
    """Return a dense field of uniform random vectors, smoothed by a Gaussian of `smoothing` pixels."""
    noise = rng.uniform(-1, 1, (2, height, width))
    return np.stack([ndimage.gaussian_filter(part, smoothing) for part in noise])


fields = {"grid of 3 × 3 (paper)": displacement(np.random.default_rng(5).normal(0, 10, (2, 3, 3)), 200, 200)}
length = np.hypot(*fields["grid of 3 × 3 (paper)"]).mean()
for smoothing in (20, 8):
    dense = simard(200, 200, smoothing, np.random.default_rng(0))
    fields[f"dense, smoothed by {smoothing} px"] = dense * length / np.hypot(*dense).mean()

fig, axes = plt.subplots(1, 3, figsize=(10, 3.7), layout="constrained")
changes = {}
for panel, (name, field) in zip(axes, fields.items(), strict=True):
    changes[name] = np.abs(np.log2(area_factor(field).clip(0.01))).mean()
    panel.imshow(deform_both(image, labels, field)[0], cmap="gray", vmax=np.percentile(image, 99.5))
    i, j = np.indices((200, 200)) - field  # about where the straight lines have gone
    for line in range(0, 200, 20):
        panel.plot(j[line], i[line], color="#e69f00", lw=0.6)
        panel.plot(j[:, line], i[:, line], color="#e69f00", lw=0.6)
    panel.set(xlim=(0, 199), ylim=(199, 0))
    panel.set_title(f"{name}\nmean displacement {np.hypot(*field).mean():.1f} px", fontsize=10)
    panel.set_axis_off()
    folds = (area_factor(field) <= 0).mean()
    print(f"{name}: {folds:.1%} folded; areas change by a factor of {2 ** changes[name]:.2f}")
show("11-simard")
paper, wide, narrow = changes.values()
assert paper < wide < narrow

# %% [markdown]
# The lines were straight and 20 pixels apart. The grid moves whole regions and hardly changes the shape
# of a cell; the dense field wrinkles each cell, and more so the less it is smoothed. Neither is right
# or wrong. The question is always whether the microscope could have shown this image.
#
# The same in the engine
# ----------------------
# ``tinyunet/sampling/elastic.py`` computes the field as two small matrix products, and
# ``tinyunet/sampling/spline.py`` the splines. Both are compiled. With the same random numbers they
# must agree with ours.

# %%
import tinyunet as tu
from tinyunet.data import normalise
from tinyunet.sampling.augment import Augmentation, Augmenter
from tinyunet.sampling.elastic import count_folded, displacement_field

grid = np.random.default_rng(2).normal(0.0, 10.0, (2, 3, 3))
field = displacement(grid, 200, 200)
assert np.allclose(displacement_field(grid, 200, 200), field, atol=1e-9)
bent, bent_labels = deform_both(image, labels, field)
engine, engine_labels = tu.elastic_deform(
    [image, labels], sigma=10, order=[3, 0], rng=np.random.default_rng(2)
)
assert np.allclose(engine, bent, atol=1e-6 * image.max())
assert (engine_labels != bent_labels).mean() < 1e-3  # halfway between two pixels either may be taken
assert count_folded(grid, 200, 200) == (area_factor(field) <= 0).sum() == 0

start = time.perf_counter()
deform_both(image, labels, field)
middle = time.perf_counter()
tu.elastic_deform([image, labels], sigma=10, order=[3, 0], rng=np.random.default_rng(2))
print(f"ours, {1000 * (middle - start):.0f} ms; engine, {1000 * (time.perf_counter() - middle):.0f} ms")

# %% [markdown]
# In training (``tinyunet/sampling/augment.py``), shift, rotation, flips and the elastic field are
# combined into *one* map before anything is looked up: every interpolation blurs a little, so there is
# only one. Then the grey values change a little. The paper names shift, rotation and grey values, but
# gives no numbers; ours are our choice, and so are the flips.

# %%
augmenter = Augmenter(
    [normalise(one) for one in cells.images],
    [one.astype(np.int64) for one in cells.labels],
    input_size=188,
    output_size=148,
    augmentation=Augmentation(elastic_sigma=8),
)
fig, axes = plt.subplots(2, 4, figsize=(10, 5.3), layout="constrained")
for step, panel in enumerate(axes.flat):
    tile = augmenter.sample(step % 3, np.random.default_rng([0, step]))
    panel.imshow(tile.image[20:-20, 20:-20, 0], cmap="gray", vmin=-1, vmax=4)
    panel.contour(tile.labels > 0, [0.5], colors="#e69f00", linewidths=0.8)
    panel.set_axis_off()
fig.suptitle("Eight samples from three images, as the network sees them")
show("11-samples")

# %% [markdown]
# On your own
# -----------
# A field that is too strong folds the image. There is a way to make one that never does: take the
# field for a *velocity*, and let the pixels flow along it for a while. Begin with a tiny
# displacement, the field divided by ``2**n``, which does not fold. Then do it twice, and the result
# twice, ``n`` times in all ("scaling and squaring"): to do ``u`` twice is ``u(k) + u(k + u(k))``.
# Read between the pixels with ``ndimage.map_coordinates(part, places, order=1, mode="nearest")``.


# %%
@exercise("11.5")
def flow(velocity, doublings):
    """Return the displacement (2, H, W) after following the velocity (2, H, W): rows, then columns."""
    return ...


strong = displacement(np.random.default_rng(3).normal(0, 45, (2, 3, 3)), 160, 160)
folded, flowed = area_factor(strong).min(), area_factor(flow(strong, 8)).min()
print(f"the smallest area factor: {folded:.2f} as a displacement, {flowed:.2f} as a flow")
assert folded < 0 < flowed

# %% [markdown]
# Between the points of a coarse grid, ``displacement`` draws a smooth curve. The best known one is
# the *natural cubic spline*, which bends as little as possible. Let ``m[i]`` be its second
# derivative at point ``i``, and ``v[i]`` its value. The slopes on both sides of each inner point
# agree if ``m[i - 1] + 4 m[i] + m[i + 1] = 6 (v[i - 1] - 2 v[i] + v[i + 1])``; at both ends ``m``
# is 0. In between, at ``i + u`` with ``0 ≤ u ≤ 1`` and ``w = 1 - u``, it is ``w v[i] + u v[i + 1] +
# ((w³ - w) m[i] + (u³ - u) m[i + 1]) / 6``.


# %%
@exercise("11.6")
def natural_spline(values, t):
    """Return the spline through `values` at 0, 1, ..., n - 1, evaluated at the places t in [0, n - 1]."""
    return ...


from scipy.interpolate import CubicSpline

t = np.linspace(0, 5, 41)
values = rng.standard_normal(6)
assert np.allclose(natural_spline(values, t), CubicSpline(range(6), values, bc_type="natural")(t))
print("The spline is that of SciPy.")

# %% [markdown]
# SciPy read between the pixels. Do it yourself: a place ``(r, c)`` lies between four pixels, and
# takes each of them in proportion to how near it is, along both axes. Beyond the edge the image is
# mirrored, as in the paper's figure 2: ``k`` and ``-k`` are one pixel, and the row repeats after
# ``2 (n - 1)`` of them.


# %%
@exercise("11.7")
def read_between(image, rows, columns):
    """Return the image (H, W) at real places `rows` and `columns`, arrays of one shape; H and W exceed 1."""
    return ...


rows, columns = rng.uniform(-30, 60, (2, 1000))
picture = rng.standard_normal((12, 17))
expected = ndimage.map_coordinates(picture, [rows, columns], order=1, mode="mirror")
assert np.allclose(read_between(picture, rows, columns), expected)
print("Read between the pixels, as SciPy does.")

# %% [markdown]
# Summary
# -------
# - A deformation says for each output pixel where to look in the input.
# - Image and labels share one field; images are interpolated by a spline, labels never.
# - The paper draws 18 numbers per tile; a spline extends them smoothly to all its pixels.
# - Whether a field folds depends on the ratio of sigma to the grid's spacing; the Jacobian determinant
#   finds the folds.
#
# Next: ``12_sgd_adam.py``, a way down with a momentum of 0.99.
