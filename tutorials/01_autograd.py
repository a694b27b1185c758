# %% [markdown]
"""
01. Autograd: the derivative of a program
=========================================

**You will build** a tape of about 60 lines that computes the derivative of any program made of its
ops, and train something with it. It is the core of ``tinyunet/autograd/tensor.py``.

**You will learn** why the derivative is computed backwards, what has to be remembered on the way
forward, why the order of the walk back matters, and what happens if a value is used twice.

Needed: a little calculus (the chain rule) and NumPy arrays. About 30 minutes. Six exercises: in a
function marked with ``@exercise``, replace ``...`` by your lines, then run the script again.
"""

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
from lesson import animate, exercise, show

# %% [markdown]
# What a gradient is
# ------------------
# A network is a program that turns an image and many thousand parameters into one number, the loss.
# To make the loss smaller we ask for every parameter: if it grew by a little, by how much would the
# loss grow? That is its derivative; all derivatives together are the *gradient*.
#
# Take a program of two inputs, small enough to do by hand: ``f(a, b) = a b + a``, so ``df/da = b +
# 1`` and ``df/db = a``.


# %%
def f(a, b):
    return a * b + a


a, b, step = 3.0, 2.0, 1e-6
slope_a = (f(a + step, b) - f(a - step, b)) / (2 * step)
slope_b = (f(a, b + step) - f(a, b - step)) / (2 * step)
print(f"df/da = {slope_a:.6f}, df/db = {slope_b:.6f}")
assert abs(slope_a - (b + 1)) < 1e-6
assert abs(slope_b - a) < 1e-6

# %% [markdown]
# This measures slopes by trial. It costs two runs of the program *per input*. The U-Net of the paper
# has 31,030,658 parameters: **predict** how long one gradient would take if one run takes 0.1 s.

# %%
days = 2 * 31_030_658 * 0.1 / 3600 / 24
print(f"{days:.0f} days for one step of training")
assert round(days) == 72

# %% [markdown]
# One op at a time
# ----------------
# The way out is the chain rule. Cut the program into *ops* (operations) whose derivatives are
# known: ``t = a b``, then ``y = t + a``. Let ``L`` be the number at the very end. Each op answers one
# question only: given ``dL/d(output)``, what is ``dL/d(input)`` for each of its inputs? The op needs
# to know nothing else of the program.
#
# For a sum ``y = a + b`` both answers are ``dL/dy`` itself. We write ``grad_y`` for ``dL/dy``; it
# has the shape of ``y``.


# %%
def add_forward(a, b):
    return a + b


def add_backward(grad_y, a, b):
    return grad_y, grad_y


# %% [markdown]
# Your turn: the product ``y = a b``, element by element. All arrays have the same shape.


# %%
@exercise("01.1")
def multiply_backward(grad_y, a, b):
    """Return grad_a and grad_b for y = a * b."""
    return ...


# %% [markdown]
# The tape
# --------
# On the way forward we record which op made which value. The record is a graph: every value points to
# the op that made it, every op to the values that it read. Two classes are enough.
#
# ``Tensor`` is an array that knows its origin. ``Op`` is one application of an op. Each gets the next
# number of a counter, so that of two ops the later one has the higher number. ``record`` applies an
# op and records it.


# %%
class Op:
    count = 0

    def __init__(self, backward, inputs):
        self.backward = backward  # a function like multiply_backward
        self.inputs = inputs  # tensors
        self.number = Op.count
        Op.count += 1


class Tensor:
    def __init__(self, data, op=None):
        self.data = np.asarray(data, dtype=float)
        self.grad = None  # dL/d(data), once it is known
        self.op = op  # None for the inputs of the program: the leaves of the graph

    def __add__(self, other):
        return record(add_forward, add_backward, self, other)

    def __mul__(self, other):
        return record(np.multiply, multiply_backward, self, other)


def record(forward, backward, *inputs):
    data = forward(*(tensor.data for tensor in inputs))
    return Tensor(data, Op(backward, inputs))


a, b = Tensor(3.0), Tensor(2.0)
y = a * b + a
read = [t.op and t.op.number for t in y.op.inputs]
print(f"y = {y.data}, made by op {y.op.number}, which read the outputs of the ops {read}")
assert y.data == 9

# %% [markdown]
# ``None`` stands for a leaf, here ``a``. Two ops read ``a``: the product and the sum. So two paths
# lead from ``a`` to ``y``. This is called a *fan-out*, and mistakes are often made there.


# %%
def draw_graph(values, ops, edges):
    """Draw boxes at the given places and arrows between them."""
    fig, axes = plt.subplots(figsize=(8, 3))
    places = {**values, **ops}
    for start, end in edges:
        arrow = {"arrowstyle": "->", "shrinkA": 22, "shrinkB": 22, "color": "0.4"}
        axes.annotate("", places[end], places[start], arrowprops=arrow)
    for name, place in places.items():
        shape, colour = ("circle", "#ffe3b8") if name in ops else ("round", "#d6e8f7")
        box = {"boxstyle": f"{shape},pad=0.5", "fc": colour, "ec": "0.3"}
        axes.text(*place, name, ha="center", va="center", bbox=box)
    axes.set(xlim=(-0.5, 4.5), ylim=(-0.5, 1.5))
    axes.axis("off")
    fig.suptitle("y = a b + a: values forward along the arrows, gradients of y back against them")


a_box, b_box, t_box, y_box = "a = 3\ngrad 2 + 1", "b = 2\ngrad 3", "t = 6\ngrad 1", "y = 9\ngrad 1"
draw_graph(
    {b_box: (0, 1.2), a_box: (0, 0), t_box: (2, 0.9), y_box: (4, 0.4)},
    {"×": (1, 0.9), "+": (3, 0.4)},
    [(b_box, "×"), (a_box, "×"), ("×", t_box), (t_box, "+"), (a_box, "+"), ("+", y_box)],
)
show("01-graph")

# %% [markdown]
# Here it moves: values appear on the way forward, gradients on the way back. Look at ``a``: two ops read it,
# and its gradient grows twice. Outside of a notebook, open ``figures/01-walk.html`` in a browser; the slider
# goes through the frames.

# %%
PLACES = {"b": (0, 1.2), "a": (0, 0), "×": (1, 0.9), "t": (2, 0.9), "+": (3, 0.4), "y": (4, 0.4)}
FRAMES = [  # the op at work, the values, the gradients
    ("", "a = 3, b = 2", ""),
    ("×", "a = 3, b = 2, t = 6", ""),
    ("+", "a = 3, b = 2, t = 6, y = 9", ""),
    ("", "a = 3, b = 2, t = 6, y = 9", "y 1"),
    ("+", "a = 3, b = 2, t = 6, y = 9", "y 1, t 1, a 1"),
    ("×", "a = 3, b = 2, t = 6, y = 9", "y 1, t 1, a 1 + 2, b 3"),
]
EDGES = [("b", "×"), ("a", "×"), ("×", "t"), ("t", "+"), ("a", "+"), ("+", "y")]
fig, axes = plt.subplots(figsize=(7, 3), dpi=80)


def draw_frame(number):
    axes.clear()
    op, values, grads = FRAMES[number]
    values = dict(text.split(" = ") for text in values.split(", "))
    grads = dict(text.split(" ", 1) for text in grads.split(", ") if text)
    for start, end in EDGES:
        ends = (PLACES[end], PLACES[start]) if number < 3 else (PLACES[start], PLACES[end])
        at_work = {"color": "#D55E00", "lw": 2} if op in (start, end) else {"color": "0.7"}
        axes.annotate("", *ends, arrowprops={"arrowstyle": "->", "shrinkA": 26, "shrinkB": 26, **at_work})
    for name, place in PLACES.items():
        is_op = name in "×+"
        text = name if is_op else f"{name} = {values.get(name, '?')}\ngrad {grads.get(name, '?')}"
        colour = "#D55E00" if name == op else "#ffe3b8" if is_op else "#d6e8f7"
        box = {"boxstyle": f"{'circle' if is_op else 'round'},pad=0.5", "fc": colour, "ec": "0.3"}
        axes.text(*place, text, ha="center", va="center", bbox=box)
    axes.set(
        xlim=(-0.5, 4.5), ylim=(-0.5, 1.6), title="forward" if number < 3 else "back: the newest op first"
    )
    axes.axis("off")


walk = animate("01-walk", fig, draw_frame, len(FRAMES), interval=1500)

# %% [markdown]
# The walk back, first try
# ------------------------
# Let ``L = y``. Start with ``dL/dy = 1``, get the gradients of its inputs from the last op, and
# continue from each of them. As a recursion this takes six lines, and it is even right: a leaf that
# is reached along two paths adds up what arrives. The function returns the number of its calls.


# %%
def walk_every_path(tensor, grad):
    if tensor.op is None:
        tensor.grad = grad if tensor.grad is None else tensor.grad + grad
        return 1
    grads = tensor.op.backward(grad, *(t.data for t in tensor.op.inputs))
    return 1 + sum(walk_every_path(t, g) for t, g in zip(tensor.op.inputs, grads, strict=True))


walk_every_path(y, np.ones(()))
print(f"dy/da = {a.grad}, dy/db = {b.grad}")
assert (a.grad, b.grad) == (3, 3)

# %% [markdown]
# Both are 3: ``b + 1`` and ``a``. But every *path* is walked, and paths multiply. Double a number
# again and again by ``x = x + x``: **predict** how many calls 16 doublings cost. (From every op two
# paths lead back.)

# %%
doublings = range(1, 17)
calls = []
for n in doublings:
    x = Tensor(1.0)
    y = x
    for _ in range(n):
        y = y + y
    calls.append(walk_every_path(y, np.ones(())))
assert x.grad == 2**16
assert calls[-1] == 2**17 - 1

fig, axes = plt.subplots(figsize=(6, 3))
axes.semilogy(doublings, calls, "o-", label="every path")
axes.semilogy(doublings, doublings, "s-", label="every op once")
axes.set(xlabel="ops in the program", ylabel="steps of the walk back", title="A fan-out doubles the paths")
axes.legend()
show("01-paths")

# %% [markdown]
# 131,071 calls for a program of 16 ops. And a recursion has a second fault: 2,000 ops in a row are
# too deep for Python's stack.

# %%
y = Tensor(1.0)
for _ in range(2000):
    y = y + Tensor(1.0)
try:
    walk_every_path(y, np.ones(()))
except RecursionError as error:
    print("2,000 ops in a row:", error)
else:
    raise AssertionError("the recursion was not too deep")

# %% [markdown]
# In the right order
# ------------------
# Each op must be visited once, and only when its whole gradient has arrived: after all ops that read
# its output. The numbers of the ops already give such an order. An op can only read values that
# exist, so the ops that read its output have *higher* numbers. The highest number first is always
# right.


# %%
@exercise("01.2")
def newest_first(output):
    """Return a list of output.op and all ops before it, each once, the newest first. Without recursion."""
    return ...


# %% [markdown]
# Now the fan-out. During the walk, the dict ``pending`` holds for each tensor the gradient that has
# arrived so far. When another path brings more, the two are added, because the loss changes by both.
#
# There is one trap: the sum must be a new array. ``add_backward`` returns *the same* array twice, so
# adding to it in place (``+=``) would also change the gradient of another tensor.


# %%
@exercise("01.3")
def accumulate(pending, tensor, grad):
    """Add the array `grad` to pending[tensor], which may be missing; return pending. Change no array."""
    return ...


# %% [markdown]
# With these two the walk back is complete: this is *reverse-mode automatic differentiation*. An op
# does not keep the tensor that it made. If it did, op and tensor would refer to each other, and
# Python frees such a circle late: the memory of a whole network would wait. But the ops that read
# the tensor have it among their inputs, and they are visited earlier. So ``made_by`` collects the
# tensor of each op on the way. At the end only the leaves are still pending.


# %%
def backward(output):
    pending = {output: np.ones_like(output.data)}
    for op, tensor in newest_first_with_outputs(output):
        grads = op.backward(pending.pop(tensor), *(t.data for t in op.inputs))
        for source, grad in zip(op.inputs, grads, strict=True):
            accumulate(pending, source, grad)
    for leaf, grad in pending.items():
        leaf.grad = grad


def newest_first_with_outputs(output):
    """Yield the ops in order, each with the tensor that it made."""
    made_by = {output.op: output}
    for op in newest_first(output):
        made_by |= {t.op: t for t in op.inputs if t.op}
        yield op, made_by[op]


a, b = Tensor(3.0), Tensor(2.0)
backward(a * b + a)
assert (a.grad, b.grad) == (3, 3)

x = Tensor(1.0)
y = x
for _ in range(5000):
    y = y + x
start = time.perf_counter()
backward(y)
print(f"5,000 ops in a row, each a fan-out: gradient {x.grad}, {time.perf_counter() - start:.3f} s")
assert x.grad == 5001

# %% [markdown]
# What it costs
# -------------
# One walk forward and one walk back, whatever the number of parameters: this is why networks can be
# trained. The price is memory. ``multiply_backward`` needs ``a`` and ``b``, so every intermediate
# value has to be kept until the walk back. In a U-Net these values are the feature maps, and they
# take far more memory than the parameters.
#
# Use it
# ------
# Fit a straight line to points: find the ``slope`` and the ``offset`` with the smallest sum of
# ``(slope x + offset - y)**2``. Two more ops are needed. The sum of all elements has the derivative 1
# for every element. ``spread`` repeats one number for each point. Our tape has no minus, so we give
# it ``-y``.
#
# *Gradient descent* then takes 200 steps. Each step moves both numbers downhill: against their
# derivatives, multiplied by 0.005.


# %%
def sum_all(tensor):
    return record(np.sum, lambda grad_y, a: (np.full(a.shape, grad_y),), tensor)


rng = np.random.default_rng(0)
x = Tensor(rng.uniform(-1, 1, 50))
minus_y = Tensor(-(1.5 * x.data - 0.5 + 0.1 * rng.standard_normal(50)))
slope, offset = Tensor(0.0), Tensor(0.0)


def spread(scalar):
    """Repeat a number for each point: a fan-out to 50, so that its gradient is the sum of 50."""
    return record(lambda s: np.full(50, s), lambda grad_y, s: (grad_y.sum(),), scalar)


losses = []
for _ in range(200):
    error = spread(slope) * x + spread(offset) + minus_y
    loss = sum_all(error * error)
    backward(loss)
    for parameter in (slope, offset):
        parameter.data = parameter.data - 0.005 * parameter.grad
    losses.append(float(loss.data))

best_slope, best_offset = np.polyfit(x.data, -minus_y.data, 1)
print(f"found {slope.data:.4f} x {offset.data:+.4f}; least squares {best_slope:.4f} x {best_offset:+.4f}")
assert abs(slope.data - best_slope) < 1e-4
assert abs(offset.data - best_offset) < 1e-4

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.semilogy(losses)
left.set(xlabel="step", ylabel="loss", title="Gradient descent")
right.plot(x.data, -minus_y.data, ".", label="points")
right.plot([-1, 1], [offset.data - slope.data, offset.data + slope.data], label="found")
right.set(xlabel="x", ylabel="y", title="The line")
right.legend()
show("01-line")

# %% [markdown]
# The same in the engine
# ----------------------
# ``tinyunet/autograd/tensor.py`` is this tape with a few additions: an op knows which of its inputs
# need no gradient, saved arrays are released during the walk, and errors say what is wrong. An op
# there is a class with a ``forward`` and a ``backward``. The engine has no product of its own, because
# the U-Net needs none; here is one, and both tapes must agree. There, ``backward`` takes the gradient
# to start with: ones, as if the sum of all elements were taken at the end. And it *adds* to ``grad``
# instead of replacing it, so a training has to reset the gradients in each step (chapter 13).

# %%
import tinyunet as tu
from tinyunet.autograd import Function


class Multiply(Function):
    name = "multiply"

    def forward(self, a, b):
        self.save(a, b)
        return a * b

    def backward(self, grad_output):
        a, b = self.saved
        return multiply_backward(grad_output, a, b)


data = [rng.standard_normal((3, 4)) for _ in range(3)]
ours = [Tensor(array) for array in data]
engine = [tu.Tensor(array, requires_grad=True) for array in data]

backward(sum_all((ours[0] * ours[1] + ours[0]) * ours[2] + ours[1]))
product = Multiply.apply(tu.add(Multiply.apply(engine[0], engine[1]), engine[0]), engine[2])
tu.add(product, engine[1]).backward(np.ones((3, 4)))

for mine, theirs in zip(ours, engine, strict=True):
    assert np.allclose(mine.grad, theirs.grad, rtol=1e-12)
print("Both tapes agree.")

# %% [markdown]
# On your own
# -----------
# NumPy repeats an array where a side is 1 or missing: ``(3, 1) + (4,)`` gives ``(3, 4)``, which is
# called *broadcasting*. A number that was repeated is used several times, and its gradient is the
# sum over its uses. Write the function that the backward of every broadcasting op ends with.


# %%
@exercise("01.4")
def unbroadcast(grad, shape):
    """Return the gradient of an array of this shape that was broadcast to the shape of `grad`."""
    return ...


for shape in [(), (4,), (3, 1), (1, 4), (3, 4), (2, 1, 1)]:
    assert unbroadcast(np.ones((2, 3, 4)), shape).shape == shape
assert np.array_equal(unbroadcast(np.ones((3, 4)), (3, 1)), np.full((3, 1), 4.0))

# %% [markdown]
# The numbers of the ops gave us the order of the walk. Do without them: walk along the inputs, and
# list an op when all that lies before it has been listed. The list backwards is a valid order (a
# *topological* one). Graphs are deeper than Python's recursion goes, so keep a stack of your own.


# %%
@exercise("01.5")
def newest_first_without_numbers(output):
    """Return a list of all ops before `output`: each comes before the ops that made its inputs."""
    return ...


place = {op: i for i, op in enumerate(newest_first_without_numbers(loss))}
assert place.keys() == set(newest_first(loss))
assert all(place[op] < place[t.op] for op in place for t in op.inputs if t.op)
print(f"{len(place)} ops, in a valid order")

# %% [markdown]
# There is another way to differentiate a program: *forwards*. Let each number carry its slope
# along, a pair ``(value, slope)``. The slope of a sum is the sum of the slopes, that of a product
# is ``a' b + a b'``. No tape is needed, but one run gives the slopes along one direction only: for
# a million parameters a million runs. A program is a list of steps here. Step ``("add", i, j)`` or
# ``("multiply", i, j)`` makes the next value from the values ``i`` and ``j``, counted from the
# inputs on.


# %%
@exercise("01.6")
def slope_forwards(steps, inputs, direction):
    """Return the last value and its slope, if the inputs move along the direction (both lists of floats)."""
    return ...


program = [("multiply", 0, 1), ("add", 2, 0), ("multiply", 3, 3)]  # (a b + a)²
assert tuple(slope_forwards(program, [3.0, 4.0], [1.0, 0.0])) == (225.0, 2 * 15 * 5)
assert tuple(slope_forwards(program, [3.0, 4.0], [0.0, 1.0])) == (225.0, 2 * 15 * 3)
print("Two inputs took two runs; the walk back takes one.")

# %% [markdown]
# Summary
# -------
# - An op answers one question: given the gradient of its output, what are the gradients of its
#   inputs?
# - Forward writes the graph down; backward walks it from the newest op to the oldest, each op once.
# - Where a value is used twice, its gradients add up, in a new array.
# - The gradient costs one walk back, however many parameters there are, and the memory of all
#   intermediate values.
#
# Next: ``02_gradcheck.py``, how to know that a backward is right.
