# %% [markdown]
"""
02. Checking gradients: how to know that a backward is right
============================================================

**You will build** a checker that finds one wrong number among thousands, says where it is, and is not
misled by the corner of a ReLU. It is the core of ``tinyunet/autograd/gradcheck.py``, which every op of
the engine has to pass.

**You will learn** how large the step of a difference quotient should be, how one random direction
covers all elements at the cost of one, which mistakes a careless check lets through, and what to do
where a function has no derivative.

Needed: chapter 01. About 40 minutes. Six exercises.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import exercise, show

# %% [markdown]
# A wrong backward does not crash
# -------------------------------
# A wrong forward is often noticed, because the picture looks wrong. A wrong backward is silent. Often
# the loss still falls, and the training only ends with a worse result. So a backward needs a test
# that uses no calculus. Chapter 01 had one: move the input by a little, in both directions, and see
# how the output changes.
#
# How little is a little?
# -----------------------
# Take ``f(x) = exp(x)``, whose derivative is known. The *central difference quotient* with the step
# ``h`` is
#
# ::
#
#     (f(x + h) - f(x - h)) / 2h
#
# **Predict**: of the steps 0.1, 0.01, 0.001, ... down to 1e-13, which gives the most exact
# derivative?


# %%
def central(f, x, h):
    return (f(x + h) - f(x - h)) / (2 * h)


def one_sided(f, x, h):
    return (f(x + h) - f(x)) / h


def relative_error(quotient, h, dtype):
    """Return the relative error of a quotient for exp: root mean square over 200 places."""
    x, h = np.linspace(0.5, 1.5, 200).astype(dtype), dtype(h)
    error = quotient(np.exp, x, h).astype(float) / np.exp(x.astype(float)) - 1
    return np.sqrt(np.mean(error**2))


steps = 10.0 ** np.arange(-1, -13.5, -0.25)
in_double = np.array([relative_error(central, h, np.float64) for h in steps])
best = steps[4 * in_double[::4].argmin()]  # every fourth step is a power of ten
print(f"the best power of ten is {best:g}, with a relative error of {in_double[::4].min():.0e}")
assert np.isclose(best, 1e-5)
assert in_double[::4].min() < 1e-10

# %% [markdown]
# Neither the largest nor the smallest is best. Two errors act in opposite directions. Taylor's series
# gives the first, the *truncation*: the quotient is ``f' + h² f'''/6 + ...``, so a smaller step is
# better. The second is *rounding*. A float64 has 53 binary digits, so each value of ``f`` is off by
# up to ``u |f|`` with ``u = 2**-53``, about 1.1e-16. Divided by the step, this is about ``u |f| /
# h``: a smaller step is worse.
#
# The sum of both is ``T(h) = h² |f'''| / 6 + u |f| / h``. Its derivative is zero where it is
# smallest.


# %%
@exercise("02.1")
def best_step(value, third, rounding):
    """Return the h at which T(h) is smallest; value is f(x), third is f'''(x), rounding is u."""
    return ...


# %%
in_single = np.array([relative_error(central, h, np.float32) for h in steps])
at_one_side = np.array([relative_error(one_sided, h, np.float64) for h in steps])
double, single = (best_step(1.0, 1.0, rounding) for rounding in (2.0**-53, 2.0**-24))
print(f"best step: {double:.1e} for float64, {single:.1e} for float32")
assert 0.1 < double / steps[in_double.argmin()] < 10
assert 0.1 < single / steps[in_single.argmin()] < 10
assert at_one_side.min() > 100 * in_double.min()
assert 1e-6 < in_single.min() < 1e-4  # four or five digits
assert in_double[np.isclose(steps, 1e-6)].item() < 1e-9  # nine digits, at the step used below

fig, axes = plt.subplots(figsize=(7, 4))
axes.loglog(steps, in_single, "^-", color="#D55E00", ms=4, label="central, float32")
axes.loglog(steps, at_one_side, "s-", color="#999999", ms=4, label="one-sided, float64")
axes.loglog(steps, in_double, "o-", color="#0072B2", ms=4, label="central, float64")
axes.loglog(steps, steps**2 / 6, "k--", lw=1, label="truncation: h²/6")
axes.loglog(steps, 2.0**-53 / steps, "k:", lw=1, label="rounding: u/h")
axes.axvline(double, color="#0072B2", lw=6, alpha=0.15)
axes.axvline(single, color="#D55E00", lw=6, alpha=0.15)
axes.set(xlabel="step h", ylabel="relative error of the derivative", ylim=(1e-13, 1))
axes.set_title("Two errors make a V; the bands are the steps of exercise 02.1")
axes.legend(loc="lower left", fontsize=8, framealpha=1)
axes.grid(alpha=0.3)
show("02-step")

# %% [markdown]
# The central quotient is better than the one-sided one by more than a factor of 100. In float64 it
# has ten good digits, in float32 four or five. So gradients are checked in float64; the float32
# version of an op is then compared with its float64 version. From here on the step is 1e-6, as in
# the engine: a little below the best one, and accurate to nine digits.
#
# From a number to an array
# -------------------------
# An op takes an array ``x`` and returns an array ``y``. Its backward takes ``g``, the gradient of
# the loss with respect to ``y``, of the shape of ``y``. For a check we may choose any loss, and we
# take the simplest that has a given ``g``: ``L = <y, g>``, the sum of all products ``y[i] g[i]``.
# Then ``backward(g, x)`` has to be the gradient of ``L`` with respect to ``x``.
#
# One quotient per element of ``x`` would do, at two runs each. But the first map of the paper's U-Net
# has 570 × 570 pixels of 64 channels, so this takes 41,587,200 runs. Instead, move all elements at
# once, along a random direction ``v`` of the shape of ``x``. The loss along that line, ``L(x + h
# v)``, is a function of one number. By the chain rule its slope at ``h = 0`` is the sum of
# ``grad_x[i] v[i]``, that is ``<grad_x, v>``. Every element of the gradient contributes to this sum,
# with a random factor. Two runs check them all.


# %%
@exercise("02.2")
def two_sides(forward, backward, x, g, v, h):
    """Return the slope of L along v, twice: by backward(g, x), and by the central quotient with step h."""
    return ...


# %% [markdown]
# Which mistakes are found
# ------------------------
# Take the op ``y = x³`` with its right backward, and with three wrong ones.


# %%
def cube(x):
    return x**3


def cube_backward(g, x):
    return 3 * x**2 * g


BACKWARDS = {
    "right": cube_backward,
    "1 in 1000 too large": lambda g, x: 1.001 * cube_backward(g, x),
    "neighbour's gradient": lambda g, x: np.roll(cube_backward(g, x), 1, axis=1),
    "g forgotten": lambda g, x: 3 * x**2,
}


def disagree(forward, backward, x, g, v):
    """Return True if the slopes differ by more than a millionth of their size, or of 1 if that is more."""
    by_backward, by_difference = two_sides(forward, backward, x, g, v, h=1e-6)
    return abs(by_backward - by_difference) > 1e-6 * max(1, abs(by_difference))


# %% [markdown]
# It is tempting to take simple numbers: ``v = 1`` everywhere, or ``g = 1``, or the point ``x = 0``.
# **Predict** which mistakes each of these choices lets through.

# %%
rng = np.random.default_rng(0)
x, g, v = rng.standard_normal((3, 4, 5))
one, zero = np.ones_like(x), np.zeros_like(x)
choices = {"random": (x, g, v), "v = 1": (x, g, one), "g = 1": (x, one, v), "x = 0": (zero, g, v)}
assert 2 * 570 * 570 * 64 == 41_587_200  # said above
passes = {}
print(f"{'passes with':<24}", *(f"{name:>7}" for name in choices))
for name, backward in BACKWARDS.items():
    passes[name] = {k: not disagree(cube, backward, *choice) for k, choice in choices.items()}
    print(f"{name:<24}", *(f"{'passes' if p else '-':>7}" for p in passes[name].values()))
assert [name for name in BACKWARDS if passes[name]["random"]] == ["right"]
assert [name for name in BACKWARDS if passes[name]["v = 1"]] == ["right", "neighbour's gradient"]
assert [name for name in BACKWARDS if passes[name]["g = 1"]] == ["right", "g forgotten"]
assert all(passes[name]["x = 0"] for name in BACKWARDS)

# %% [markdown]
# With ``v = 1`` only the sum of the gradient is checked, and a sum does not depend on the order:
# gradients at the wrong pixel pass. With ``g = 1`` a forgotten factor ``g`` passes. At ``x = 0`` the
# gradient of ``x³`` is zero, and zero times any mistake is zero. Random numbers for all three catch
# everything.
#
# Where is the mistake?
# ---------------------
# One direction shows that something is wrong, but not where. So halve it: let ``v`` be zero on one
# half of the elements, then on the other half. Where the slopes disagree, halve again, down to single
# elements. **Predict** how many comparisons find one element of 64 × 64 whose gradient has the wrong
# sign.


# %%
def search(forward, backward, x, g, v, log):
    """Return the indices of wrong elements; append the places and the result of each comparison to `log`."""
    places = np.flatnonzero(v)
    wrong = disagree(forward, backward, x, g, v)
    log.append((places, not wrong))
    if not wrong:
        return []
    if len(places) == 1:
        return [tuple(map(int, np.unravel_index(places[0], v.shape)))]
    found = []
    for half in np.array_split(places, 2):
        part = np.zeros_like(v)
        part.flat[half] = v.flat[half]
        found += search(forward, backward, x, g, part, log)
    return found


x, g, v = rng.standard_normal((3, 64, 64))
x[41, 22] = 1.3  # not near 0, where the gradient of x³ is too small to be seen
sign = np.ones_like(x)
sign[41, 22] = -1
log = []
found = search(cube, lambda g, x: sign * cube_backward(g, x), x, g, v, log)
print(f"found {found} after {len(log)} comparisons")
assert found == [(41, 22)]
assert len(log) == 1 + 2 * 12

# %% [markdown]
# One comparison for the whole, then two for each of 12 halvings, because 4096 is 2 to the 12th. The
# picture shows after how many halvings each part was found to be right.

# %%
cleared = np.full((64, 64), np.nan)
for places, right in log:
    cleared.flat[places] = np.log2(cleared.size / len(places)) if right else np.nan
fig, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for ax, title in zip(axes, ("The search in 64 × 64 elements", "Around the wrong element ×"), strict=True):
    picture = ax.imshow(cleared, vmin=0, vmax=12, aspect="auto")
    ax.plot(22, 41, "x", color="#D55E00", ms=9, mew=2.5)
    ax.set(xlabel="column", ylabel="row", title=title)
axes[1].set(xlim=(15.5, 33.5), ylim=(46.5, 35.5), xticks=range(16, 34, 4))
fig.colorbar(picture, ax=axes, label="halvings until it was cleared")
show("02-search")

# %% [markdown]
# Find the bug
# ------------
# Now a layer: ``N`` points of ``C`` channels each, ``x`` of shape ``(N, C)``; a matrix ``weight``
# of shape ``(C, F)``; a ``bias`` of shape ``(F,)``; and a ReLU, ``max(z, 0)``. A 1×1 convolution
# does this to each pixel. The backward below has one mistake. We check it twice: with a large bias,
# and with a small one. **Predict** which of the two checks finds the mistake.


# %%
def layer(x, weight, bias):
    return np.maximum(x @ weight + bias, 0)


def planted_backward(grad_y, x, weight, bias):
    grad_z = grad_y * (x @ weight + bias > 0)  # the ReLU: only where z was positive
    grad_x = grad_z @ weight.T
    grad_weight = x.T @ grad_z
    grad_bias = grad_y.sum(axis=0)  # the bias was added to each of the N rows
    return grad_x, grad_weight, grad_bias


def wrong_elements(backward, inputs):
    """Return for each input of `layer`, by name, the indices of its wrong gradients."""
    rng = np.random.default_rng(0)
    g = rng.standard_normal(layer(*inputs).shape)

    def search_input(number):
        def with_input(array):  # the other inputs stay as they are
            return [*inputs[:number], array, *inputs[number + 1 :]]

        def forward(array):
            return layer(*with_input(array))

        def gradient(g, array):
            return backward(g, *with_input(array))[number]

        return search(forward, gradient, inputs[number], g, rng.standard_normal(inputs[number].shape), [])

    return {name: search_input(number) for number, name in enumerate(("x", "weight", "bias"))}


arrays = [rng.standard_normal((6, 3)), rng.standard_normal((3, 4)), rng.standard_normal(4)]
report_10 = wrong_elements(planted_backward, [*arrays[:2], arrays[2] + 10])
report = wrong_elements(planted_backward, arrays)
print("bias near 10:", report_10)
print("bias near 0: ", report)
assert report_10 == {"x": [], "weight": [], "bias": []}
assert report == {"x": [], "weight": [], "bias": [(0,), (1,), (2,), (3,)]}

# %% [markdown]
# With a large bias all numbers before the ReLU are positive, and the ReLU does nothing. So the first
# check never tested its other half: a check tests only what its inputs exercise. The second check
# names the input, the bias, and each of its elements. Which line is wrong?


# %%
@exercise("02.3")
def layer_backward(grad_y, x, weight, bias):
    """Return grad_x, grad_weight and grad_bias of `layer`; the derivative of the ReLU at 0 is 0."""
    return ...


assert not any(wrong_elements(layer_backward, arrays).values())

# %% [markdown]
# A corner
# --------
# A ReLU has a *kink* at 0: ahead of it the slope is 1, behind it 0, and at 0 there is no
# derivative. The central quotient gives the mean of both, 0.5. PyTorch and this engine return 0.
# This is a convention and not a mistake, but our checker would report it.

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
line = np.linspace(-1, 1, 201)
functions = (lambda x: np.maximum(x, 0), lambda x: np.log1p(np.exp(3 * x)) / 3)
for ax, f, title in zip(axes, functions, ("A kink: the slopes stay apart", "Smooth: they meet"), strict=True):
    ax.plot(line, f(line), color="0.7", lw=5)
    for h, style in ((0.5, "C0^-"), (-0.5, "C1v-"), (0.05, "C0^:"), (-0.05, "C1v:")):
        label = f"h = {abs(h)}, {'ahead' if h > 0 else 'behind'}: slope {abs(f(h) - f(0)) / abs(h):.2f}"
        ax.plot([0, h], [f(0), f(h)], style, label=label)
    ax.set(xlabel="x", ylabel="y", title=title, xticks=[-1, -0.5, 0, 0.5, 1])
    ax.legend(loc="upper left", fontsize=8)
show("02-kink")

# %% [markdown]
# The two one-sided quotients reveal a kink. Call ``(L(x + h v) - L(x)) / h`` *ahead* and ``(L(x) -
# L(x - h v)) / h`` *behind*; their mean is the central quotient. For a smooth function they differ by
# about ``h`` times the curvature, which is tiny for h = 1e-6. At a kink they stay apart, and every
# number between them is acceptable, but none outside. Because all numbers are rounded, a
# ``tolerance`` is allowed: at the mean, and beyond both ends of that range.


# %%
@exercise("02.4")
def judge(by_backward, ahead, behind, tolerance):
    """Return "right" (the mean), else "kink" (in the range), else "wrong"; within the tolerance."""
    return ...


# %% [markdown]
# At the corner of a ReLU the slopes 0 and 1 are a kink, 0.5 is right, and 1.5 is wrong. ``judge`` is
# called for single elements only. A direction over several elements mixes their quotients, so a
# direction that disagrees is halved first.

# %%
verdicts = [judge(at_zero, 1.0, 0.0, 1e-6) for at_zero in (0.0, 0.5, 1.0, 1.5)]
assert verdicts == ["kink", "right", "kink", "wrong"]

# %% [markdown]
# The same in the engine
# ----------------------
# ``tinyunet/autograd/gradcheck.py`` does this for any function of tensors. It takes three random
# directions, halves those that disagree, and for tiny inputs also checks each element. We give it the
# layer with both backwards.

# %%
import tinyunet as tu
from tinyunet.autograd import Function
from tinyunet.errors import GradientError


class Layer(Function):
    gradients = staticmethod(layer_backward)

    def forward(self, *inputs):
        self.save(*inputs)
        return layer(*inputs)

    def backward(self, grad_output):
        return self.gradients(grad_output, *self.saved)


class Planted(Layer):
    gradients = staticmethod(planted_backward)


tensors = [tu.Tensor(array, requires_grad=True) for array in arrays]
assert tu.gradcheck(Layer.apply, tensors)
try:
    tu.gradcheck(Planted.apply, tensors)
except GradientError as error:
    print(message := str(error))
assert f"input 2, index {report['bias'][0]}" in message

at_kinks = tu.Tensor(np.array([-1.0, 0.0, 2.0, 0.0]), requires_grad=True)
with tu.use_backend("numpy"):  # the readable kernels
    assert tu.gradcheck(tu.relu, [at_kinks])

# %% [markdown]
# On your own
# -----------
# ``two_sides`` checks one input. Check an op with several: move one input at a time along its
# direction, with the others held where they are, and say how far apart both slopes are.


# %%
@exercise("02.5")
def errors_of_all(forward, backward, inputs, grad_y, directions, h):
    """Return, for each input, |slope by backward - slope by the quotient| / the larger |slope|.

    y = forward(*inputs); backward(grad_y, *inputs) returns one gradient per input.
    """
    return ...


def products_and_sum(a, b):
    return a @ b + a.sum()


def their_gradients(g, a, b):
    return g @ b.T + g.sum(), a.T @ g


inputs = rng.standard_normal((3, 4)), rng.standard_normal((4, 2))
directions, g = [rng.standard_normal(array.shape) for array in inputs], rng.standard_normal((3, 2))
errors = errors_of_all(products_and_sum, their_gradients, inputs, g, directions, 1e-5)
print("the two inputs:", *(f"{error:.0e}" for error in errors))
assert max(errors) < 1e-8

# %% [markdown]
# Differences of *gradients* measure curvature. ``(gradient(x + h v) - gradient(x - h v)) / (2 h)``
# is ``H v``, where ``H`` is the matrix of second derivatives, which need not be made. Multiply a
# vector by it again and again, each time brought to length 1, and it turns towards the direction of
# the largest curvature. Plain descent diverges if its learning rate exceeds 2 divided by this
# curvature.


# %%
@exercise("02.6")
def largest_curvature(gradient, x, v, rounds, h):
    """Return <v, H v> of the last of `rounds` rounds: v to length 1, then H v, which is the next v."""
    return ...


stiff = np.diag([1.0, 5.0, 25.0])
found = largest_curvature(lambda x: stiff @ x, np.zeros(3), np.ones(3), 20, 1e-3)
print(f"largest curvature {found:.4f}: the learning rate must stay below {2 / found:.3f}")
assert np.isclose(found, 25)

# %% [markdown]
# Summary
# -------
# - A wrong backward is silent. It is compared with difference quotients, in float64.
# - The best central step balances truncation and rounding; for float64 it is near 1e-5.
# - Comparing ``<backward(g, x), v>`` with the slope along ``v`` checks all elements in two runs. The
#   point, ``g`` and ``v`` are random; simple numbers hide mistakes.
# - Halving the direction finds the wrong element. The quotients ahead and behind distinguish a kink
#   from a mistake.
# - A check tests only what its inputs exercise. So break the backward on purpose once, and see the
#   check fail.
#
# Next: ``03_conv2d.py``, the op that a U-Net spends nearly all its time in.
