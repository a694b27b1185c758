# %% [markdown]
"""
12. Momentum and Adam: downhill with a heavy ball
=================================================

**You will build** the optimiser of the paper, gradient descent with momentum
(``tinyunet/nn/sgd.py``), and Adam (``tinyunet/nn/adam.py``), which the default recipe uses.

**You will learn** what a momentum of 0.99 does and why the learning rate must shrink with it, why
it swings in a short training, what momentum does about noise, and why Adam takes one learning rate
for many networks.

Needed: chapter 01. About 40 minutes. Six exercises. No network yet: chapter 13 trains one.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import animate, exercise, show

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
@exercise("12.1")
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
show("12-valley")
assert min(end, key=end.get) == (0.02, 0.9)
assert end[0.02, 0.99] > end[0.02, 0.0]

# %% [markdown]
# Momentum 0.9 wins: along the valley the gradients add up, across it they cancel. Momentum 0.99 with
# the same learning rate swings from side to side and ends further away than plain descent. The last
# run has a learning rate a hundred times smaller: it no longer swings wildly, but takes long to speed
# up.
#
# The slider (``figures/12-momentum.html``) goes through more values of the momentum, all with the
# learning rate 0.02.

# %%
momenta = (0, 0.3, 0.6, 0.8, 0.9, 0.94, 0.97, 0.98, 0.99)
fig, axes = plt.subplots(figsize=(6.5, 3.8), dpi=70, layout="constrained")
axes.contour(x, y, np.sqrt(x**2 + 25 * y**2), 12, colors="0.85")
(path,) = axes.plot([], [], "o-", ms=3, lw=0.8, color="#0072B2")
axes.set(xlabel="w0", ylabel="w1")


def draw_momentum(number):
    way = descend(0.02, momenta[number])
    path.set_data(*way[:60].T)
    axes.set_title(f"momentum {momenta[number]}: {np.hypot(*way[-1]):.1e} from the bottom after 120 steps")


momentum_slides = animate("12-momentum", fig, draw_momentum, len(momenta), interval=1000)

# %% [markdown]
# How fast is the ball?
# ---------------------
# Let the gradient be 1, always. Then the velocity is ``v = 1`` after the first step, then
# ``momentum + 1``, then ``momentum² + momentum + 1``, and so on: a geometric series. Find its sum.


# %%
@exercise("12.2")
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
show("12-swing")
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
show("12-noise")

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
@exercise("12.3")
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
# serves many networks and images. Here it is in the valley.

# %%
ways = {}
for factor in (1, 1000):
    weight, mean, square = np.array([-1.0, 0.6]), zero, zero
    for t in range(1, 121):
        grad = factor * np.array([1.0, 25.0]) * weight
        weight, mean, square = adam_step(weight, grad, mean, square, t, 0.02, 0.9, 0.999)
    ways[factor] = weight
print(f"valley: {np.hypot(*ways[1]):.3f} from the bottom; loss times 1000: {np.hypot(*ways[1000]):.3f}")
assert np.allclose(ways[1], ways[1000], rtol=1e-4)
assert np.hypot(*ways[1]) < 0.02

# %% [markdown]
# The price: two arrays for each weight instead of one, and a checkpoint must hold both. And the steps do
# not shrink with the gradient: near the bottom, where it is mostly noise, even a small noise moves the
# weights. So the engine's default recipe lets the learning rate fall to 0 towards the end.
#
# The same in the engine
# ----------------------
# ``tinyunet/nn/sgd.py`` is the paper's optimiser, ``tinyunet/nn/adam.py`` that of the default recipe.
# Both change the arrays of all parameters in place. They must agree with ours.

# %%
import tinyunet as tu

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
# On your own
# -----------
# *Nesterov's* momentum steps by the velocity that the *next* step would have if the gradient stayed
# the same: ``v = momentum · v + grad`` as before, and then ``w = w - lr · (momentum · v + grad)``
# (in the form of Sutskever et al. 2013, which needs the gradient at the present weights only).


# %%
@exercise("12.4")
def nesterov_step(weight, grad, velocity, lr, momentum):
    """Return the new weight and the new velocity. Change no array."""
    return ...


ends = {}
for name, move in [("sgd", sgd_step), ("nesterov", nesterov_step)]:
    weight, velocity = np.ones(()), np.zeros(())
    for _ in range(100):
        weight, velocity = move(weight, weight, velocity, 0.02, 0.98)
    ends[name] = abs(velocity)
    print(f"{name}: after 100 steps the ball still has the velocity {ends[name]:.3f}")
assert ends["nesterov"] < ends["sgd"]

# %% [markdown]
# Two safeguards that most trainings have. *Clipping*: if the gradients of all parameters, taken as
# one long vector, are longer than a limit, they are all shortened by the same factor. And a
# *schedule*: the learning rate rises in a line during the first steps, and then falls along half a
# cosine, from its peak to 0. Steps are numbered from 0; the first one has ``peak / warmup``, step
# ``warmup`` has the peak, and the rate would be 0 at step ``steps``, which is not made.


# %%
@exercise("12.5")
def clip(grads, longest):
    """Return a list of gradients, shortened together to the length `longest` if longer. Change no array."""
    return ...


@exercise("12.6")
def rate_at(step, steps, warmup, peak):
    """Return the learning rate of a step; `warmup` may be 0."""
    return ...


assert np.isclose(sum(np.vdot(g, g) for g in clip([np.full(3, 10.0), np.ones((2, 2))], 1.0)), 1)
rates = [rate_at(step, 100, 10, 0.3) for step in range(100)]
assert np.isclose(max(rates), 0.3)
assert rates[9] == rates[10]
assert 0 < rates[99] < 1e-3
print("rates:", *(f"{rates[step]:.4f}" for step in (0, 4, 10, 55, 99)))

# %% [markdown]
# Summary
# -------
# - Momentum adds up gradients that agree. A steady gradient is multiplied by ``1 / (1 - momentum)``.
# - Pace and noise follow ``lr / (1 - momentum)``: with more momentum, reduce the learning rate.
# - A swing halves in 138 steps with momentum 0.99, in 13 with 0.9, at any learning rate.
# - Adam's steps do not depend on the gradient's size, once its averages are corrected for their start.
#
# Next: ``13_training_loop.py``, a network, one image, and a training that can be stopped.
