# %% [markdown]
"""
13. The training loop: one tile, one image, stop and resume
===========================================================

**You will build** one step of training, and a snapshot from which a training goes on exactly. The
engine's loop is ``tinyunet/training/trainer.py``.

**You will learn** why the paper takes one large tile instead of a batch, how to find out in seconds
whether a network can learn at all, and what a checkpoint must contain.

Needed: chapters 09 and 12; chapter 10 helps. About 30 minutes. Five exercises.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import exercise, show

# %% [markdown]
# One large tile, or a batch of small ones?
# -----------------------------------------
# Without padding, a network of depth 4 turns a tile of ``n`` pixels a side into ``n - 184``
# (chapter 09). The rim costs time and memory and gives no prediction. Compare one tile of 572 with
# four tiles of 284, which have about as many input pixels. **Predict** how many times as many output
# pixels the one tile has, from which the network learns.

# %%
one, four = (572 - 184) ** 2, 4 * (284 - 184) ** 2
print(f"input {572**2:,} and {4 * 284**2:,} pixels; output {one:,} and {four:,}: {one / four:.2f} times")
assert round(one / four, 2) == 3.76
assert abs(572**2 / (4 * 284**2) - 1) < 0.02

sides = np.arange(188, 1021, 16)
fig, axes = plt.subplots(figsize=(6.5, 3), layout="constrained")
axes.plot(sides, 100 * (sides - 184) ** 2 / sides**2)
axes.plot([284, 572], [100 * 100**2 / 284**2, 100 * 388**2 / 572**2], "ko")
axes.annotate("284 → 100", (284, 13.2), (305, 8))
axes.annotate("572 → 388", (572, 46), (590, 41))
axes.set(xlabel="side of the input tile, px", ylabel="output pixels, % of the input", title="Large tiles")
show("13-tiles")

# %% [markdown]
# 3.76 times as many. This is why the paper says to "favor large input tiles over a large batch
# size" and uses a batch of one.
#
# The loop
# --------
# Now a network. A ``sample`` is one tile, in NumPy arrays: ``image`` (1, H, W, 1), ``target``, the
# class of each pixel, and ``weight``, how much it counts (both 1, H', W': the smaller output). One
# step of training:
#
# - predict: ``model(x)``, where ``x = tu.Tensor(image)``, gives the logits;
# - compare: ``tu.softmax_cross_entropy(logits, target, weight)`` gives the loss;
# - walk back: ``loss.backward()`` puts a gradient beside each parameter;
# - move: ``optimiser.step()`` is ``sgd_step`` of chapter 12 for all parameters;
# - reset: ``optimiser.zero_grad()``. Without it the next gradients would be *added* to these.

# %%
import tinyunet as tu
from tinyunet.data import synthetic_cells
from tinyunet.sampling import Sampler, WeightMap
from tinyunet.sampling.augment import Augmentation


@exercise("13.1")
def train_step(model, optimiser, sample):
    """Make one step on `sample`; return the loss before the step, as a float: loss.item()."""
    return ...


# %% [markdown]
# For each step the engine's ``Sampler`` cuts a tile out of a random image, and can bend it (chapter
# 11). Here it does not, and all pixels count alike (without the weight map of chapter 10).

# %%
cells = synthetic_cells(n=6, size=160, seed=1)
plain = WeightMap(w0=0, class_balance=False)  # weight 1 everywhere
sampler = Sampler(
    cells, input_size=140, output_size=100, augmentation=Augmentation.off(), weights=plain, seed=0
)
sample = sampler.sample(0)
print("image", sample.image.shape, "target", sample.target.shape)

# %% [markdown]
# Before a long training, **overfit one image**. If a network cannot learn a single image by heart,
# there is a fault: in a gradient, in the labels, in the learning rate. This test does not take long.
# We try Adam, and SGD in four settings. Three of these have the same pace, 0.2; the last one has momentum
# 0.99, but the learning rate was not reduced. **Predict** its fate.


# %%
def heavy_ball(lr, momentum):
    return lambda parameters: tu.SGD(parameters, lr=lr, momentum=momentum)


fig, axes = plt.subplots(figsize=(9, 3.4), layout="constrained")
final = {}
for name, style, optimiser_of in [
    ("Adam, lr 0.003", "--", lambda parameters: tu.AdamW(parameters, lr=0.003)),
    ("lr 0.2, momentum 0", "-", heavy_ball(0.2, 0.0)),
    ("lr 0.02, momentum 0.9", "--", heavy_ball(0.02, 0.9)),
    ("lr 0.002, momentum 0.99", ":", heavy_ball(0.002, 0.99)),
    ("lr 0.2, momentum 0.99", "-.", heavy_ball(0.2, 0.99)),
]:
    model = tu.UNet(base_channels=8, depth=2, dropout=0)
    optimiser = optimiser_of(model.parameters())
    losses = []
    with np.errstate(all="ignore"):
        while len(losses) < 120 and (not losses or np.isfinite(losses[-1])):
            losses.append(train_step(model, optimiser, sample))
    final[name] = losses[-1]
    axes.semilogy(losses, style, label=f"{name}: {losses[-1]:.3f}")
axes.set(xlabel="step", ylabel="loss", title="One image by heart", ylim=(0.01, 10))
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="last loss")
show("13-one-image")
adam, plain_descent, short, long, lost = final.values()
assert not lost < 0.4  # infinite, not a number, or stuck at one answer for all pixels
assert max(adam, plain_descent, short, long) < 0.15
assert long > max(plain_descent, short)

# %% [markdown]
# The last one is lost: its learning rate is a hundred times that of the one before. (``nan`` is
# *not a number*.) The others learn. Momentum 0.99 is slower than less momentum: it needs 69 steps
# to reach half of its speed, and it swings. In a training as short as this one it gains nothing.
#
# Now a new network, with momentum 0.9 and a larger learning rate. We look at its predictions, from
# blue for a probability of 0 to yellow for 1.

# %%
model = tu.UNet(base_channels=8, depth=2, dropout=0)
optimiser = tu.SGD(model.parameters(), lr=0.05, momentum=0.9)
fig, axes = plt.subplots(1, 5, figsize=(12, 2.9), layout="constrained")
axes[0].imshow(sample.image[0, 20:-20, 20:-20, 0], cmap="gray")
axes[0].set_title("image")
axes[1].imshow(sample.target[0], cmap="cividis")
axes[1].set_title("labels")
panels = iter(axes[2:])
for step in range(251):
    loss = train_step(model, optimiser, sample)
    if step in (5, 50, 250):
        with tu.no_grad():
            scores = model(tu.Tensor(sample.image)).data[0]
        panel = next(panels)
        panel.imshow(1 / (1 + np.exp(scores[..., 0] - scores[..., 1])), cmap="cividis", vmin=0, vmax=1)
        panel.set_title(f"step {step}: loss {loss:.4f}")
for panel in axes:
    panel.set_axis_off()
show("13-by-heart")
right = (scores.argmax(axis=-1) == sample.target[0]).mean()
print(f"{right:.2%} of the pixels are right")
assert right > 0.99
assert loss < 0.02

# %% [markdown]
# The network knows this image by heart. This says nothing about other images; chapter 14 measures on
# held-out images.
#
# Stop and resume
# ---------------
# A training that is stopped and resumed should end with the same weights as one that is not, *to the
# last bit*. Otherwise a result cannot be repeated. What must be kept? First the weights. Then the
# velocities: at 0.99 they contain the last hundred gradients. ``optimiser.velocity`` is the list of
# them, one array per parameter. And the number of the step: everything random in a step is drawn from
# ``(seed, step)``, so nothing else has to be remembered.
#
# A trap: unlike your ``sgd_step``, the optimiser changes arrays in place. A list of the same arrays
# is no snapshot.


# %%
@exercise("13.2")
def snapshot(model, optimiser, step):
    """Return {"weights": [arrays], "velocity": [arrays], "step": step}; training on must not change them."""
    return ...


def restore(model, optimiser, state):
    for parameter, weight in zip(model.parameters(), state["weights"], strict=True):
        parameter.data[...] = weight
    for velocity, kept in zip(optimiser.velocity, state["velocity"], strict=True):
        velocity[...] = kept
    return state["step"]


def start():
    model = tu.UNet(base_channels=4, depth=2, dropout=0, seed=7)
    return model, tu.SGD(model.parameters(), lr=0.002, momentum=0.99)


# %% [markdown]
# Twenty steps without a stop, with a snapshot after twelve. Then three times from that snapshot to the
# end: with all of it, without the velocities, and without the number of the step. **Predict** which
# of these end with other weights.

# %%
sampler = Sampler(
    cells, input_size=84, output_size=44, augmentation=Augmentation(), weights=WeightMap(), seed=7
)
model, optimiser = start()
losses = []
for step in range(20):
    if step == 12:
        state = snapshot(model, optimiser, step)
    losses.append(train_step(model, optimiser, sampler.sample(step)))
straight = model.state_dict()

ends = {}
for name, change in {
    "all three": {},
    "all but the velocity": {"velocity": [np.zeros_like(v) for v in state["velocity"]]},
    "all but the step": {"step": 0},
}.items():
    model, optimiser = start()
    for step in range(restore(model, optimiser, state | change), 20):
        train_step(model, optimiser, sampler.sample(step))
    ends[name] = max(np.abs(model.state_dict()[key] - straight[key]).max() for key in straight)
    print(f"resumed with {name}: the largest difference of a weight is {ends[name]:.2g}")
assert ends["all three"] == 0
assert min(ends["all but the velocity"], ends["all but the step"]) > 1e-4

# %% [markdown]
# With all three the difference is 0: not small, but none. Without the velocities, or with a count of
# steps that begins again, it is another training.

# %% [markdown]
# The same in the engine
# ----------------------
# ``tinyunet/training/trainer.py`` is the loop with validation, and ``tinyunet/training/checkpoint.py``
# the file. The same configuration must give our losses, up to rounding: there the last layer and the loss
# are one op (``linear_cross_entropy``). A run that is stopped and resumed must end with the weights of
# one that was not, bit by bit.

# %%
from tinyunet.training.config import TrainConfig
from tinyunet.training.events import Stepped
from tinyunet.training.trainer import Trainer

config = TrainConfig(
    steps=20, base_channels=4, depth=2, dropout=0, tile=44, lr=0.002, schedule="constant", seed=7
)
whole = Trainer(config, cells, cells.subset([0]))
engine = [event.loss for event in whole.run() if isinstance(event, Stepped)]
print(f"largest relative difference of a loss: {np.abs(np.divide(engine, losses) - 1).max():.1g}")
assert np.allclose(engine, losses, rtol=1e-5, atol=0)

first = Trainer(config, cells, cells.subset([0]))
for event in first.run():
    if event.step == 12:
        break
second = Trainer(config, cells, cells.subset([0]))
second.restore(first.checkpoint())
list(second.run())
resumed, straight = (trainer.model.state_dict() for trainer in (second, whole))
assert all(np.array_equal(resumed[key], straight[key]) for key in straight)

# %% [markdown]
# On your own
# -----------
# A batch that does not fit into memory can be taken tile by tile: walk back from each loss, let the
# gradients add up, and make one step at the end. For the mean of ``n`` losses each walk has to
# begin with ``1 / n`` instead of 1: ``loss.backward(np.float32(1 / n))``.


# %%
@exercise("13.3")
def accumulated_step(model, optimiser, samples):
    """Make one step on the mean loss of all samples; return that mean, as a float."""
    return ...


# %% [markdown]
# Now the whole loop: the steps ``begin``, ``begin + 1``, … up to ``end - 1``, with the sample of each
# step from ``sampler.sample(step)``. Whenever the number of the next step is a multiple of
# ``every``, it makes a snapshot. Return the losses, and the snapshots by the number of the step that
# would come next.


# %%
@exercise("13.4")
def train_loop(model, optimiser, sampler, begin, end, every):
    """Train; return the list of losses and a dict of the snapshots made."""
    return ...


model, optimiser = start()
losses, snapshots = train_loop(model, optimiser, sampler, 0, 12, 5)
print("snapshots before the steps", *snapshots)
model, optimiser = start()
again, _ = train_loop(model, optimiser, sampler, restore(model, optimiser, snapshots[10]), 12, 5)
assert again == losses[10:]

# %% [markdown]
# One score on a few held-out images says little. In *cross-validation* each image is held out once:
# shuffle the images, deal them out into ``folds`` parts whose sizes differ by at most one, and
# train once for each part, on all the others. Images that belong together (frames of one film,
# sections of one animal) must be in the same part, so what is dealt out are the groups, the largest
# first, each to the part that is smallest so far; of equal parts to the first, and of equal groups
# that one first whose image comes first. (The images are shuffled already.)


# %%
@exercise("13.5")
def folds_of(groups, folds):
    """Return a list with the images of each part, ascending; groups[i] is the group of image i."""
    return ...


parts = folds_of(["a", "a", "b", "c", "c", "c", "d", "b"], 2)
print("parts:", parts)
assert sorted(parts[0] + parts[1]) == list(range(8))
assert not {"aabcccdb"[i] for i in parts[0]} & {"aabcccdb"[i] for i in parts[1]}

# %% [markdown]
# Summary
# -------
# - Without padding, one large tile is worth more than a batch of small ones.
# - A step: predict, compare, walk back, move, reset.
# - First learn one image by heart. Then train.
# - A checkpoint holds weights, velocities and the step; randomness comes from ``(seed, step)``.
#
# Next: ``14_tiling_metrics.py``, images of any size, and how good the result is.
