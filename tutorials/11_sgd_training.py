# %% [markdown]
"""
11. Training: downhill with a heavy ball
========================================

**You will build** the optimiser of the paper, gradient descent with momentum
(``tinyunet/nn/sgd.py``), and a training loop that can be stopped and resumed exactly
(``tinyunet/training/trainer.py``). And you will build Adam (``tinyunet/nn/adam.py``).

**You will learn** what a momentum of 0.99 does and why the learning rate must shrink with it, why
it swings in a short training, why the paper takes one large tile instead of a batch, how to find out
whether a network can learn at all, what a checkpoint must contain, and what Adam does about all this.

Needed: chapter 01; chapter 09 helps. About 55 minutes. Five exercises.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import exercise, show

# %% [markdown]
# A ball with mass
# ----------------
# The gradient points uphill. Plain descent takes each step against it: ``w = w - lr · grad``, with the
# learning rate ``lr``. *Momentum* keeps a velocity ``v`` of the shape of ``w``, which starts at 0. In
# each step the velocity loses a part, and the gradient is added::
#
#     v = momentum · v + grad
#     w = w - lr · v


# %%
@exercise("11.1")
def sgd_step(weight, grad, velocity, lr, momentum):
    """Return the new weight and the new velocity; all arrays have one shape. Change no array."""
    return ...


# %% [markdown]
# Try it in a long valley: ``loss = (w0² + 25 w1²) / 2``. It is steep along ``w1`` and nearly flat
# along ``w0``. Four runs start at ``(-1, 0.6)``: the learning rate 0.02 with momentum 0, 0.9 and
# 0.99, and the rate 0.0002 with momentum 0.99. **Predict** which run comes closest to the bottom in
# 120 steps.


# %%
def descend(lr, momentum, steps=120):
    """Return the way from (-1, 0.6): one row per step, shape (steps + 1, 2)."""
    curvature = np.array([1.0, 25.0])
    weight, velocity = np.array([-1.0, 0.6]), np.zeros(2)
    way = [weight.copy()]
    for _ in range(steps):
        weight, velocity = sgd_step(weight, curvature * weight, velocity, lr, momentum)
        way.append(weight.copy())
    return np.array(way)


runs = {(0.02, 0.0): "o", (0.02, 0.9): "s", (0.02, 0.99): "^", (0.0002, 0.99): "v"}
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
x, y = np.meshgrid(np.linspace(-1.2, 1.2, 100), np.linspace(-0.75, 0.75, 100))
left.contour(x, y, np.sqrt(x**2 + 25 * y**2), 12, colors="0.85")
end = {}
for (lr, momentum), marker in runs.items():
    way = descend(lr, momentum)
    end[lr, momentum] = np.hypot(*way[-1])
    name = f"lr {lr}, momentum {momentum}"
    left.plot(*way[:60].T, marker=marker, ms=3, lw=0.8, label=name)
    right.semilogy(np.hypot(*way.T), marker=marker, ms=3, lw=0.8, label=name)
left.set(xlabel="w0", ylabel="w1", title="The first 60 steps")
right.set(xlabel="step", ylabel="distance to the bottom", title="All steps")
right.legend(fontsize=8)
show("11-valley")
assert min(end, key=end.get) == (0.02, 0.9)
assert end[0.02, 0.99] > end[0.02, 0.0]

# %% [markdown]
# Momentum 0.9 wins: along the valley the gradients add up, across it they cancel. Momentum 0.99 with
# the same learning rate swings from side to side and ends further away than plain descent. The last
# run has a learning rate a hundred times smaller: it no longer swings wildly, but takes long to speed
# up.
#
# How fast is the ball?
# ---------------------
# Let the gradient be 1, always. Then the velocity is ``v = 1`` after the first step, then
# ``momentum + 1``, then ``momentum² + momentum + 1``, and so on: a geometric series. Find its sum.


# %%
@exercise("11.2")
def speed_after(steps, momentum):
    """Return the velocity after `steps` steps with a gradient of 1, starting at rest."""
    return ...


velocity = np.zeros(())
for _ in range(69):
    _, velocity = sgd_step(np.zeros(()), np.ones(()), velocity, 0.0, 0.99)
print(f"after 69 steps {velocity:.1f}, after many {speed_after(10_000, 0.99):.1f}")
assert np.isclose(velocity, speed_after(69, 0.99))
assert round(speed_after(10_000, 0.99)) == 100
assert speed_after(68, 0.99) < 50 < speed_after(69, 0.99)

# %% [markdown]
# With momentum 0.99 the effect of a steady gradient is multiplied by a hundred, ``1 / (1 -
# momentum)``, and half of that speed is reached after 69 steps. So the *pace*, ``lr / (1 -
# momentum)``, decides how fast a training moves. Raising the momentum from 0.9 to 0.99 with the same
# learning rate makes all steps ten times longer. The learning rate must shrink with ``1 -
# momentum``. The paper gives 0.99 and no learning rate.
#
# Why 0.99 swings in a short training
# -----------------------------------
# What starts late also stops late. A gradient acts on its own step with a weight of 1, on the next
# one with ``momentum``, then with ``momentum²``. So a step is made of gradients that are on average
# ``momentum / (1 - momentum)`` steps old: 99 with 0.99, and 9 with 0.9. When the ball reaches the
# bottom, it has the slopes of the last hundred steps in it, and runs past.
#
# Two balls start at 1, in the bowl ``loss = w² / 2``, with the same pace of 0.2. **Predict** where
# each of them is after 70 steps.


# %%
def roll(momentum, steps=400):
    """Return the way of a ball from 1 at a pace of 0.2, shape (steps + 1,)."""
    way, velocity = [np.ones(())], np.zeros(())
    for _ in range(steps):
        weight, velocity = sgd_step(way[-1], way[-1], velocity, 0.2 * (1 - momentum), momentum)
        way.append(weight)
    return np.array(way)


fig, axes = plt.subplots(figsize=(9, 3), layout="constrained")
for momentum, age, half, style in [(0.9, 9, 13, "--"), (0.99, 99, 138, "-")]:
    way, weights = roll(momentum), momentum ** np.arange(10_000)
    assert round(np.arange(10_000) @ weights / weights.sum()) == age
    lr = 0.2 * (1 - momentum)
    one_step = np.array([[1 - lr, -lr * momentum], [1, momentum]])  # of (w, v)
    shrinks = np.abs(np.linalg.eigvals(one_step))
    assert np.allclose(shrinks, np.sqrt(momentum))
    assert np.all(np.round(np.log(0.5) / np.log(shrinks)) == half)
    left = np.abs(way[200:]).max()
    print(f"momentum {momentum}: at {way[70]:+.3f} after 70 steps; from step 200 on up to {left:.5f}")
    axes.plot(way, style, color="#0072B2", label=f"momentum {momentum}")
    axes.plot(np.sqrt(momentum) ** np.arange(len(way)), ":", color="0.6")
axes.set(
    xlabel="step", ylabel="w", title="The same pace; dotted: sqrt(momentum) at each step", ylim=(-1, 1.05)
)
axes.legend()
show("11-swing")
assert abs(roll(0.9)[70]) < 0.03
assert -0.75 < roll(0.99)[70] < -0.65
assert np.abs(roll(0.9)[200:]).max() < 1e-4
assert 0.3 < np.abs(roll(0.99)[200:]).max() < 0.4

# %% [markdown]
# The ball of 0.99 is at -0.70: on the other side, and nearly as far away. A step maps ``(w, v)``
# linearly, and the determinant of that map is ``momentum``. A ball that swings loses the same
# share in both directions, so each step keeps ``sqrt(momentum)`` of the swing, **whatever the learning
# rate and the curvature**. It halves in 13 steps with 0.9, and in 138 steps with 0.99. The paper
# trained for hours, and there it is gone; a training of 200 steps ends while its scores still go up
# and down. For a short training, take 0.9.
#
# Momentum and noise
# ------------------
# The paper's batch is one tile. The gradient of one tile is the gradient of all tiles plus noise. The
# velocity is a weighted sum over about the last hundred gradients, and so the paper's reason for 0.99
# is that "a large number of the previously seen training samples" decides on each step (section 3).
#
# Does momentum remove the noise, then? In a bowl ``loss = w² / 2`` the ball would rest at 0 without
# noise; with noise, it trembles. Without momentum its variance ``V`` is easy to find: a step makes ``(1
# - lr) w - lr · noise`` of ``w``, so for noise of variance 1 it makes ``(1 - lr)² V + lr²`` of ``V``. This
# equals ``V`` if ``V = lr / (2 - lr)``: for small ``lr``, the standard deviation is ``sqrt(lr / 2)``.
# **Predict** what happens to it when ``momentum`` goes from 0 to 0.99 and ``lr / (1 - momentum)``
# stays the same. Here 500 balls are measured for each setting.


# %%
def trembling(lr, momentum, rng):
    """Return the standard deviation of w in a bowl of curvature 1, for gradients with noise of variance 1."""
    weight, velocity, places = np.zeros(500), np.zeros(500), []
    for step in range(2000):
        weight, velocity = sgd_step(weight, weight + rng.standard_normal(500), velocity, lr, momentum)
        if step >= 1500:
            places.append(weight.copy())
    return np.std(places)


rng = np.random.default_rng(0)
paces = np.array([0.02, 0.05, 0.1, 0.2, 0.5])
fig, axes = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
for momentum, style in [(0.0, "o-"), (0.9, "s--"), (0.99, "^:")]:
    found = np.array([trembling(pace * (1 - momentum), momentum, rng) for pace in paces])
    axes.loglog(paces, found, style, label=f"momentum {momentum}")
    assert np.abs(found / np.sqrt(paces / 2) - 1).max() < 0.25
axes.set_xticks(paces, map(str, paces))
axes.set_yticks([0.1, 0.2, 0.5], ["0.1", "0.2", "0.5"])
axes.minorticks_off()
axes.plot(paces, np.sqrt(paces / 2), color="0.8", lw=5, zorder=0, label="sqrt(pace / 2)")
axes.set(xlabel="pace, lr / (1 - momentum)", ylabel="standard deviation of w", title="The noise that remains")
axes.legend()
show("11-noise")

# %% [markdown]
# Hardly anything: the three curves nearly coincide, close to ``sqrt(pace / 2)``. So against noise
# momentum does no more than a smaller learning rate. Its gain is the one seen in the valley. There,
# momentum 0.9 had the pace ``0.02 / (1 - 0.9) = 0.2``. Plain descent with that pace diverges. Along
# ``w1`` the gradient is ``25 w1``, so each step makes ``w1 - 0.2 · 25 w1 = -4 w1`` of ``w1``:

# %%
diverged = np.hypot(*descend(0.2, 0.0)[-1])
print(f"plain descent with lr 0.2 ends {diverged:.1g} from the bottom")
assert np.isclose(diverged, 0.6 * 4.0**120)

# %% [markdown]
# One large tile, or a batch of small ones?
# -----------------------------------------
# Without padding, a network of depth 4 turns a tile of ``n`` pixels a side into ``n - 184``
# (chapter 08). The rim costs time and memory and gives no prediction. Compare one tile of 572 with
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
axes.annotate("284 → 100", (284, 12.4), (305, 8))
axes.annotate("572 → 388", (572, 46), (590, 41))
axes.set(xlabel="side of the input tile, px", ylabel="output pixels, % of the input", title="Large tiles")
show("11-tiles")

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
# - move: ``optimiser.step()`` is ``sgd_step`` for all parameters;
# - reset: ``optimiser.zero_grad()``. Without it the next gradients would be *added* to these.

# %%
import tinyunet as tu
from tinyunet.data import synthetic_cells
from tinyunet.sampling import Sampler, WeightMap
from tinyunet.sampling.augment import Augmentation


@exercise("11.3")
def train_step(model, optimiser, sample):
    """Make one step on `sample`; return the loss before the step, as a float: loss.item()."""
    return ...


# %% [markdown]
# For each step the engine's ``Sampler`` cuts a tile out of a random image, and can bend it (chapter
# 10). Here it does not, and all pixels count alike (without the weight map of chapter 09).

# %%
cells = synthetic_cells(n=6, size=160, seed=1)
plain = WeightMap(w0=0, class_balance=False)  # weight 1 everywhere
sampler = Sampler(
    cells, input_size=140, output_size=100, augmentation=Augmentation.off(), weights=plain, seed=0
)
sample = by_heart_sample = sampler.sample(0)
print("image", sample.image.shape, "target", sample.target.shape)

# %% [markdown]
# Before a long training, **overfit one image**. If a network cannot learn a single image by heart,
# there is a fault: in a gradient, in the labels, in the learning rate. This test does not take long.
# We try four settings. Three have the same pace, 0.2; the last one has momentum 0.99, but the
# learning rate was not reduced. **Predict** its fate.

# %%
fig, axes = plt.subplots(figsize=(9, 3.4), layout="constrained")
final = {}
for lr, momentum, style in [(0.2, 0.0, "-"), (0.02, 0.9, "--"), (0.002, 0.99, ":"), (0.2, 0.99, "-.")]:
    model = tu.UNet(base_channels=8, depth=2, dropout=0)
    optimiser = tu.SGD(model.parameters(), lr=lr, momentum=momentum)
    losses = []
    with np.errstate(all="ignore"):
        while len(losses) < 120 and (not losses or np.isfinite(losses[-1])):
            losses.append(train_step(model, optimiser, sample))
    final[lr, momentum] = losses[-1]
    axes.semilogy(losses, style, label=f"lr {lr}, momentum {momentum}: {losses[-1]:.3f}")
axes.set(xlabel="step", ylabel="loss", title="One image by heart", ylim=(0.01, 10))
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="last loss")
show("11-one-image")
assert not final[0.2, 0.99] < 0.4  # infinite, not a number, or stuck at one answer for all pixels
assert all(loss < 0.15 for setting, loss in final.items() if setting != (0.2, 0.99))
assert final[0.002, 0.99] > max(final[0.2, 0.0], final[0.02, 0.9])

# %% [markdown]
# The last one is lost: its learning rate is a hundred times that of the one before. (``nan`` is
# *not a number*.) The three others learn. Momentum 0.99 is the slowest of them: it needs 69 steps
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
show("11-by-heart")
right = (scores.argmax(axis=-1) == sample.target[0]).mean()
print(f"{right:.2%} of the pixels are right")
assert right > 0.99
assert loss < 0.02

# %% [markdown]
# The network knows this image by heart. This says nothing about other images; chapter 12 measures on
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
@exercise("11.4")
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
#
# A step size for each number: Adam
# ---------------------------------
# In the valley one learning rate had to serve a steep and a flat direction. Adam (Kingma and Ba,
# 2015) divides each number of the gradient by its own usual size. It keeps two running averages, of
# the gradient and of its square::
#
#     mean   = beta1 · mean   + (1 - beta1) · grad           beta1 = 0.9
#     square = beta2 · square + (1 - beta2) · grad²          beta2 = 0.999
#     w = w - lr · (mean / c1) / (sqrt(square / c2) + 1e-8)
#
# Both start at 0, and so they are too small at first: for a steady gradient of 1, ``mean`` is ``1 -
# beta1`` after one step, then ``1 - beta1²``, and ``1 - beta1^t`` after ``t`` steps. The *bias
# correction* divides by just that: ``c1 = 1 - beta1^t`` and ``c2 = 1 - beta2^t``.


# %%
@exercise("11.5")
def adam_step(weight, grad, mean, square, t, lr, beta1, beta2):
    """Return the new weight, mean and square; t is 1 in the first step. Change no array."""
    return ...


# %% [markdown]
# **Predict** how far the first step goes with ``lr = 0.01``, for a gradient of 5 and for one of 0.005.
# And without the corrections: less far, as both averages are too small, or further?

# %%
zero = np.zeros(2)
first, mean, square = adam_step(zero, np.array([5, 0.005]), zero, zero, 1, 0.01, 0.9, 0.999)
print(f"first step: {first}")
assert np.allclose(first, -0.01, rtol=1e-5)
t = np.arange(1, 5001)
too_far = (1 - 0.9**t) / np.sqrt(1 - 0.999**t)  # for a steady gradient
print(f"without corrections {too_far[0]:.1f} times as far, in step 12 {too_far[11]:.1f} times")
assert round(too_far[0], 1) == 3.2
assert (round(too_far.max(), 1), t[too_far.argmax()]) == (6.6, 12)

# %% [markdown]
# Both go 0.01, the learning rate: the size of the gradient cancels. Without the corrections the first
# steps are up to 6.6 times too long, as ``square`` starts more slowly than ``mean``.
#
# So the loss may be multiplied by 1000, and Adam makes the same steps. That is why one learning rate
# serves many networks and images. Here in the valley, and with the image to be learned by heart, trained
# by the engine's Adam:

# %%
ways = {}
for factor in (1, 1000):
    weight, mean, square = np.array([-1.0, 0.6]), zero, zero
    for t in range(1, 121):
        grad = factor * np.array([1.0, 25.0]) * weight
        weight, mean, square = adam_step(weight, grad, mean, square, t, 0.02, 0.9, 0.999)
    ways[factor] = weight
model = tu.UNet(base_channels=8, depth=2, dropout=0)
optimiser = tu.AdamW(model.parameters(), lr=0.003)
by_heart = [train_step(model, optimiser, by_heart_sample) for _ in range(120)][-1]
print(f"valley: {np.hypot(*ways[1]):.3f} from the bottom; loss times 1000: {np.hypot(*ways[1000]):.3f}")
print(f"one image: loss {by_heart:.3f} after 120 steps")
assert np.allclose(ways[1], ways[1000], rtol=1e-4)
assert np.hypot(*ways[1]) < 0.02
assert by_heart < 0.15

# %% [markdown]
# The price: two arrays for each weight instead of one, and a checkpoint must hold both. And the steps do
# not shrink with the gradient: near the bottom, where it is mostly noise, even a small noise moves the
# weights. So the engine's default recipe lets the learning rate fall to 0 towards the end.
#
# The same in the engine
# ----------------------
# ``tinyunet/nn/sgd.py`` is the paper's optimiser, ``tinyunet/nn/adam.py`` that of the default recipe,
# ``tinyunet/training/trainer.py`` the loop with validation, and ``tinyunet/training/checkpoint.py`` the
# file. The same configuration must give our losses, up to rounding: there the last layer and the loss
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

weight, velocity = rng.standard_normal((2, 5))
parameter = tu.Tensor(weight.copy(), requires_grad=True)
parameter.grad = rng.standard_normal(5)
engine = tu.SGD([parameter], lr=0.1, momentum=0.99)
engine.velocity[0][...] = velocity
engine.step()
assert np.allclose(parameter.data, sgd_step(weight, parameter.grad, velocity, 0.1, 0.99)[0], rtol=1e-12)

parameter.data[...] = weight
engine = tu.AdamW([parameter], lr=0.1)
engine.step()
ours = adam_step(weight, parameter.grad, np.zeros(5), np.zeros(5), 1, 0.1, 0.9, 0.999)[0]
assert np.allclose(parameter.data, ours, rtol=1e-12)

# %% [markdown]
# Summary
# -------
# - Momentum adds up gradients that agree. A steady gradient is multiplied by ``1 / (1 - momentum)``.
# - Pace and noise follow ``lr / (1 - momentum)``: with more momentum, reduce the learning rate.
# - A swing halves in 138 steps with momentum 0.99, in 13 with 0.9, at any learning rate.
# - Without padding, one large tile is worth more than a batch of small ones.
# - First learn one image by heart. Then train.
# - A checkpoint holds weights, velocities and the step; randomness comes from ``(seed, step)``.
# - Adam's steps do not depend on the gradient's size, once its averages are corrected for their start.
#
# Next: ``12_tiling_metrics.py``, images of any size, and how good the result is.
