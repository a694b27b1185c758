"""Kernels broken on purpose: the comparison with PyTorch and gradcheck notice them.

Each mutation replaces one NumPy kernel in the table during a test. The checks are the functions that the
other tests call.
"""

import copy

import numpy as np
import pytest
from oracle import assert_equals_torch, random_arrays

import tinyunet as tu
from tinyunet.backend import DISPATCH_TABLE
from tinyunet.errors import GradientError
from tinyunet.ops import conv2d

# As many input as output channels, so that exchanging them gives a wrong value, not a wrong shape.
SHAPES = {
    "add": [(3, 4), (3, 4)],
    "batch_norm": [(2, 4, 4, 3), (3,), (3,)],
    "conv2d": [(2, 5, 5, 3), (3, 3, 3, 3), (3,)],
    "conv_transpose2d": [(2, 3, 3, 3), (2, 2, 3, 3), (3,)],
    "crop_concat": [(2, 3, 3, 2), (2, 6, 6, 2)],
    "crop_concat_conv2d": [(2, 4, 4, 2), (2, 7, 7, 2), (3, 3, 4, 4), (4,)],
    "dropout": [(2, 4, 3)],
    "linear_cross_entropy": [(2, 4, 4, 3), (1, 1, 3, 3), (3,)],
    "max_pool2d": [(2, 4, 4, 3)],
    "relu": [(2, 4, 4, 3)],
    "softmax_cross_entropy": [(2, 4, 4, 3)],
}
RNG = np.random.default_rng(0)
PIXELS = {"target": RNG.integers(0, 3, (2, 4, 4)), "ignore_label": 2}
WEIGHT = RNG.uniform(1, 10, (2, 4, 4))
OPTIONS = {
    "batch_norm": {"relu": True},
    "conv2d": {"relu": True},
    "crop_concat_conv2d": {"padding": 1, "relu": True},
    "linear_cross_entropy": {**PIXELS, "pixel_weight": WEIGHT},
    "softmax_cross_entropy": {**PIXELS, "weight": WEIGHT},
}


def call(op, *inputs):
    if op == "dropout":
        return tu.dropout(*inputs, 0.4, np.random.default_rng(7))
    return getattr(tu, op)(*inputs, **OPTIONS.get(op, {}))


def check_by_torch(op):
    """Values in steps of 1/4, so that relu meets zeros and max-pool ties."""
    arrays = [np.round(4 * a) / 4 for a in random_arrays(SHAPES[op], np.float64)]
    assert_equals_torch(op, arrays, **OPTIONS.get(op, {}))


def check_by_differences(op):
    inputs = [tu.Tensor(a, requires_grad=True) for a in random_arrays(SHAPES[op], np.float64)]
    tu.gradcheck(lambda *t: call(op, *t), inputs)


CHECKS = {"torch": (check_by_torch, AssertionError), "differences": (check_by_differences, GradientError)}


def each(change):
    """A mutation of a kernel that returns one or two arrays: each changed."""

    def mutation(kernel):
        def mutant(*arguments):
            result = kernel(*arguments)
            return tuple(map(change, result)) if isinstance(result, tuple) else change(result)

        return mutant

    return mutation


def arguments(change):
    """A mutation that computes correctly, but from other arguments."""
    return lambda kernel: lambda *original: kernel(*change(*original))


def result(change):
    """A mutation of the correct result, which also knows the arguments as they were before."""

    def mutation(kernel):
        def mutant(*original):
            before = copy.deepcopy(original)  # a kernel may write over its first
            return change(kernel(*original), *before)

        return mutant

    return mutation


def without(array, *index):
    array = array.copy()
    array[index] = 0
    return array


SIGN, SCALE, ZERO = each(np.negative), each(lambda a: 1.001 * a), each(np.zeros_like)
NEXT_PIXEL = each(lambda a: np.roll(a, 1, axis=1))
FIRST_IMAGE = {
    1: arguments(lambda grad: (grad[:1],)),
    2: arguments(lambda x, grad: (x[:1], grad[:1])),
    4: arguments(lambda x, grad, padding, size: (x[:1], grad[:1], padding, size)),
}


def target_not_subtracted(result, logits, target, weight, with_gradient):
    loss, gradient = result
    if with_gradient:
        gradient = gradient + weight[..., None] * (target[..., None] == np.arange(3))
    return loss, gradient


def of_norm(part, change):
    """A mutation of one of the three gradients of batch_norm, from (gradient, grad_output, x, scale, …)."""

    def changed(gradients, *arguments):
        return tuple(change(g, *arguments) if i == part else g for i, g in enumerate(gradients))

    return result(changed)


def last_of_equals(x):
    candidates = np.stack([x[:, p::2, q::2] for p in (1, 0) for q in (1, 0)])
    return candidates.max(axis=0), (3 - candidates.argmax(axis=0)).astype(np.uint8)


MUTATIONS = {
    ("add", "backward"): {
        "sign": SIGN,
        "scale": SCALE,
        "second twice": result(lambda r, g: (r[0], 2 * r[1])),
        "second missing": result(lambda r, g: (r[0], 0 * r[1])),
    },
    ("batch_norm", "backward"): {
        "sign": SIGN,
        "scale": SCALE,
        "no ReLU": arguments(lambda *a: (*a[:-2], False, a[-1])),
        "the ReLU as if without shift": arguments(lambda g, x, s, b, *more: (g, x, s, 0 * b, *more)),
        "the ReLU as if without scale": result(
            lambda r, g, x, scale, *_: (r[0] / scale * abs(scale), *r[1:])
        ),
        "the mean does not depend on x": of_norm(
            0, lambda r, g, x, scale, *_: r + 0.01 * r.mean() + 0.01 * scale
        ),
        "the variance does not depend on x": of_norm(0, lambda r, g, x, *_: r + 0.01 * (x - x.mean())),
        "of the unbiased variance": arguments(
            lambda g, x, s, b, m, v, *more: (g, x, s, b, m, v * 32 / 31, *more)
        ),
        "EPSILON twice": arguments(lambda g, x, s, b, m, v, *more: (g, x, s, b, m, v + 1e-5, *more)),
        "scale's by x that is not centred": of_norm(1, lambda r, g, x, *_: r + (g * x.mean()).sum()),
        "shift's missing": of_norm(2, lambda r, *_: 0 * r),
        "scale's and shift's exchanged": result(lambda r, *_: (r[0], r[2], r[1])),
        "first image only": arguments(lambda g, x, *more: (np.stack([g[0], 0 * g[1]]), x, *more)),
    },
    ("batch_norm", "forward"): {
        "unbiased variance": result(lambda r, x, s, b, relu: ((r[0] - b) * np.sqrt(31 / 32) + b, *r[1:])),
        "shift after the ReLU": lambda kernel: (
            lambda x, s, b, relu: (
                kernel(x, s, 0 * b, relu)[0] + b,
                *kernel(x, s, b, relu)[1:],
            )
        ),
    },
    ("conv2d", "backward_input"): {
        "sign": SIGN,
        "scale": SCALE,
        "next pixel": NEXT_PIXEL,
        "window not flipped": arguments(lambda g, w, p: (g, w[::-1, ::-1], p)),
        "window transposed": arguments(lambda g, w, p: (g, w.transpose(1, 0, 2, 3), p)),
        "channels not exchanged": arguments(lambda g, w, p: (g, w.transpose(0, 1, 3, 2), p)),
        "one tap dropped": arguments(lambda g, w, p: (g, without(w, 2, 0), p)),
    },
    ("conv2d", "backward_weight"): {
        "sign": SIGN,
        "scale": SCALE,
        "window flipped": each(lambda w: w[::-1, ::-1].copy()),
        "window transposed": each(lambda w: w.transpose(1, 0, 2, 3).copy()),
        "channels exchanged": each(lambda w: w.transpose(0, 1, 3, 2).copy()),
        "one tap dropped": each(lambda w: without(w, 1, 2)),
        "first image only": FIRST_IMAGE[4],
        "last row missing": arguments(lambda x, g, p, s: (x, without(g, slice(None), -1), p, s)),
    },
    ("conv2d", "backward_bias"): {
        "sign": SIGN,
        "scale": SCALE,
        "missing": ZERO,
        "mean, not sum": result(lambda r, g: r / g[..., 0].size),
        "first image only": FIRST_IMAGE[1],
        "last row missing": arguments(lambda g: (g[:, :-1],)),
    },
    ("conv2d", "backward_relu"): {
        "sign": SIGN,
        "scale": SCALE,
        "no ReLU": result(lambda r, g, *_: (g, r[1])),
        "the bias is added after the ReLU": result(lambda r, g, *_: (r[0], g.sum(axis=(0, 1, 2)))),
    },
    ("conv2d", "backward"): {
        "sign": SIGN,
        "scale": SCALE,
        "no ReLU": arguments(lambda x, g, y, *more: (x, g, np.ones_like(y), *more)),
        "the bias is added after the ReLU": result(lambda r, x, g, *_: (*r[:2], g.sum(axis=(0, 1, 2)))),
        "window flipped": result(lambda r, *_: (r[0], r[1][::-1, ::-1].copy(), r[2])),
        "first image only": arguments(lambda x, g, *more: (x, without(g, slice(1, None)), *more)),
    },
    ("conv_transpose2d", "backward_input"): {
        "sign": SIGN,
        "scale": SCALE,
        "rows and columns exchanged": arguments(lambda g, w: (g, w.transpose(1, 0, 2, 3))),
        "channels not exchanged": arguments(lambda g, w: (g, w.transpose(0, 1, 3, 2))),
        "one tap dropped": arguments(lambda g, w: (g, without(w, 1, 1))),
    },
    ("conv_transpose2d", "backward_weight"): {
        "sign": SIGN,
        "scale": SCALE,
        "rows and columns exchanged": each(lambda w: w.transpose(1, 0, 2, 3).copy()),
        "channels exchanged": each(lambda w: w.transpose(0, 1, 3, 2).copy()),
        "one tap dropped": each(lambda w: without(w, 0, 1)),
        "first image only": FIRST_IMAGE[2],
    },
    ("conv_transpose2d", "backward_bias"): {
        "sign": SIGN,
        "scale": SCALE,
        "missing": result(lambda r, *_: (r[0], 0 * r[1])),
        "mean, not sum": result(lambda r, g, c: (r[0], r[1] / g[..., 0].size)),
    },
    ("crop_concat", "backward"): {
        "sign": SIGN,
        "scale": SCALE,
        "crop shifted by one": result(lambda r, *_: (r[0], np.roll(r[1], 1, axis=2))),
        "skip missing": result(lambda r, *_: (r[0], 0 * r[1])),
        "skip first": arguments(lambda g, up, skip: (np.roll(g, 2, axis=3), up, skip)),
        "border not zero": result(lambda r, *_: (r[0], np.where(r[1] == 0, 1, r[1]))),
    },
    ("crop_concat_conv2d", "backward_input"): {
        "sign": SIGN,
        "scale": SCALE,
        "crop shifted by one": result(lambda r, *_: (r[0], np.roll(r[1], 1, axis=2))),
        "skip missing": result(lambda r, *_: (r[0], 0 * r[1])),
        "border not zero": result(lambda r, *_: (r[0], np.where(r[1] == 0, 1, r[1]))),
        "window not rotated": arguments(lambda g, w, *more: (g, w[::-1, ::-1], *more)),
    },
    ("crop_concat_conv2d", "backward_weight"): {
        "sign": SIGN,
        "scale": SCALE,
        "skip first": each(lambda w: np.roll(w, 2, axis=2)),
        "crop shifted by one": arguments(lambda up, skip, *more: (up, np.roll(skip, 1, axis=1), *more)),
    },
    ("crop_concat_conv2d", "backward"): {
        "sign": SIGN,
        "scale": SCALE,
        "no ReLU": arguments(lambda up, skip, g, y, *more: (up, skip, g, np.ones_like(y), *more)),
        "crop shifted by one": result(lambda r, *_: (r[0], np.roll(r[1], 1, axis=2), *r[2:])),
        "skip first": result(lambda r, *_: (*r[:2], np.roll(r[2], 2, axis=2), r[3])),
    },
    ("dropout", "backward"): {
        "sign": SIGN,
        "scale": SCALE,
        "another seed": arguments(lambda g, p, seed: (g, p, seed + np.uint64(1))),
        "not scaled up": result(lambda r, g, p, seed: r * (1 - p)),
        "nothing dropped": result(lambda r, g, p, seed: g / (1 - p)),
    },
    ("linear_cross_entropy", "backward"): {
        "sign": SIGN,
        "scale": SCALE,
        "not scaled": lambda _: lambda *gradients_and_scale: gradients_and_scale[:3],
        "features not scaled": result(lambda r, *given: (given[0], *r[1:])),
        "weight missing": result(lambda r, *_: (r[0], 0 * r[1], r[2])),
        "bias missing": result(lambda r, *_: (*r[:2], 0 * r[2])),
    },
    ("linear_cross_entropy", "forward"): {
        "not weighted": arguments(lambda x, w, b, t, p, want: (x, w, b, t, np.ones_like(p), want)),
        "ignored pixels count": arguments(
            lambda x, w, b, t, p, want: (x, w, b, np.maximum(t, 0), p + (t < 0), want)
        ),
        "without bias": arguments(lambda x, w, b, t, p, want: (x, w, 0 * b, t, p, want)),
        "channels and classes exchanged": result(
            lambda r, *_: (*r[:2], r[2] if r[2] is None else r[2].transpose(0, 1, 3, 2).copy(), r[3])
        ),
        "another pixel's features": result(
            lambda r, *_: (r[0], r[1] if r[1] is None else np.roll(r[1], 1, axis=1), *r[2:])
        ),
    },
    ("max_pool2d", "backward"): {
        "sign": SIGN,
        "scale": SCALE,
        "rows and columns exchanged": arguments(lambda g, place: (g, np.array([0, 2, 1, 3])[place])),
        "always the first": arguments(lambda g, place: (g, 0 * place)),
        "to the whole window": result(lambda r, g, place: np.repeat(np.repeat(g, 2, axis=1), 2, axis=2)),
    },
    ("max_pool2d", "forward"): {
        "the last of equals": lambda _: last_of_equals,
    },
    ("relu", "backward"): {
        "sign": SIGN,
        "scale": SCALE,
        "passes at 0": lambda _: lambda g, y: np.where(y >= 0, g, 0),
        "does not pass above 1": lambda _: lambda g, y: np.where((y > 0) & (y < 1), g, 0),
    },
    ("softmax_cross_entropy", "backward"): {
        "sign": SIGN,
        "scale": SCALE,
        "one class missing": each(lambda g: without(g, Ellipsis, 1)),
        "the loss's gradient left out": arguments(lambda g, grad: (g, np.ones_like(grad))),
    },
    ("softmax_cross_entropy", "forward"): {
        "not weighted": arguments(lambda z, t, w, *more: (z, t, np.ones_like(w), *more)),
        "target not subtracted": result(target_not_subtracted),
        "not divided": arguments(lambda z, t, w, *more: (z, t, w * WEIGHT[t >= 0].sum(), *more)),
        "ignored pixels count": arguments(lambda z, t, w, *more: (z, np.maximum(t, 0), w + (t < 0), *more)),
    },
}

# Mutations that one of the checks cannot see. Random numbers have no ties, and at ties differences decide
# nothing. A gradient that belongs to a wrong loss agrees with the differences of that loss. And PyTorch drops
# other elements.
UNSEEN = {
    ("differences", "max_pool2d", "the last of equals"),
    ("differences", "linear_cross_entropy", "not weighted"),
    ("differences", "linear_cross_entropy", "ignored pixels count"),
    ("differences", "linear_cross_entropy", "without bias"),
    ("differences", "softmax_cross_entropy", "not weighted"),
    ("differences", "softmax_cross_entropy", "not divided"),
    ("differences", "softmax_cross_entropy", "ignored pixels count"),
}
CASES = [
    pytest.param(check, op, direction, name, id=f"{op}.{direction}-{name}-{check}")
    for (op, direction), mutations in MUTATIONS.items()
    for name in mutations
    for check in CHECKS
    if (check, op, name) not in UNSEEN and (check, op) != ("torch", "dropout")
]


@pytest.mark.parametrize(("check", "op", "direction", "mutation"), CASES)
def test_a_broken_kernel_is_noticed(monkeypatch, check, op, direction, mutation):
    run, error = CHECKS[check]
    implementations = DISPATCH_TABLE[op, direction].implementations
    mutant = MUTATIONS[op, direction][mutation](implementations["numpy"])
    if op.endswith("conv2d") and direction == "backward":  # otherwise by Numba only
        monkeypatch.setattr(conv2d, "in_one_pass", lambda *_: True)
    with tu.use_backend("numpy"):
        run(op)
        monkeypatch.setitem(implementations, "numpy", mutant)
        with pytest.raises(error):
            run(op)


def test_every_backward_kernel_has_mutations():
    backward = {key for key in DISPATCH_TABLE if key[1].startswith("backward")}
    assert backward <= set(MUTATIONS)
