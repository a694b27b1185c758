"""The dispatch table is complete, and its entries agree between backends, thread counts and calls."""

import ast
import copy
import sys
from itertools import chain, groupby
from pathlib import Path

import numpy as np
import pytest
from oracle import DTYPES, TOLERANCE, assert_close, random_arrays
from threads import assert_same_bits_for_any_number_of_threads

import tinyunet as tu
from tinyunet import autograd, ops, sampling
from tinyunet.backend import DISPATCH_TABLE

TABLE = [
    ("adam", "step"),
    ("add", "forward"),
    ("add", "backward"),
    ("batch_norm", "forward"),
    ("batch_norm", "backward"),
    ("batch_norm", "fold"),
    ("batch_norm", "fold_backward"),
    ("conv2d", "forward"),
    ("conv2d", "backward_input"),
    ("conv2d", "backward_weight"),
    ("conv2d", "backward_bias"),
    ("conv2d", "backward_relu"),
    ("conv2d", "backward"),
    ("conv_transpose2d", "forward"),
    ("conv_transpose2d", "backward_input"),
    ("conv_transpose2d", "backward_weight"),
    ("conv_transpose2d", "backward_bias"),
    ("crop_concat", "forward"),
    ("crop_concat", "backward"),
    ("crop_concat_conv2d", "forward"),
    ("crop_concat_conv2d", "backward_input"),
    ("crop_concat_conv2d", "backward_weight"),
    ("crop_concat_conv2d", "backward"),
    ("dropout", "forward"),
    ("dropout", "backward"),
    ("linear_cross_entropy", "forward"),
    ("linear_cross_entropy", "backward"),
    ("max_pool2d", "forward"),
    ("max_pool2d", "backward"),
    ("relu", "forward"),
    ("relu", "backward"),
    ("sgd", "step"),
    ("softmax_cross_entropy", "forward"),
    ("softmax_cross_entropy", "backward"),
]
OPTIMISERS = {"adam", "sgd"}
OPS = sorted({op for op, _ in TABLE} - OPTIMISERS)
TESTS = Path(__file__).parent


def test_the_table_is_complete():
    assert sorted(DISPATCH_TABLE) == sorted(TABLE)


def test_no_function_hides_its_module():
    for op in OPS:
        assert getattr(ops, op) is sys.modules[f"tinyunet.ops.{op}"]
        assert getattr(tu, op) is getattr(getattr(ops, op), op)
    assert tu.gradcheck is autograd.gradcheck.gradcheck
    assert tu.weight_map is sampling.weight_map.weight_map


@pytest.mark.parametrize("key", TABLE, ids=".".join)
def test_every_kernel_is_there_for_the_cpu(key):
    assert {"numpy", "numba"} <= set(DISPATCH_TABLE[key].implementations)
    assert DISPATCH_TABLE[key].name == ".".join(key)


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_its_file_its_equation_and_its_tests(op):
    module = Path(ops.__file__).with_name(f"{op}.py")
    docstring = module.read_text(encoding="utf-8").split('"""')[1]
    assert "grad_" in docstring, "the equation of backward"
    assert any(line.strip().startswith(("y", "p[")) and "=" in line for line in docstring.splitlines())
    assert (TESTS / f"test_{op}.py").is_file()
    assert op in tu.__all__


def part(op, node):
    """The part of an op's file that a definition belongs to, by its name; None for a helper."""
    if isinstance(node, ast.ClassDef):
        return "graph"
    if node.name == op:
        return "checks"
    ending = node.name.rsplit("_", 1)[-1]
    return ending if ending in ("numpy", "numba", "cuda") else None


@pytest.mark.parametrize("op", OPS)
def test_the_reference_stands_under_the_equation(op):
    """Then come the checks, the op in the graph, and the fast versions."""
    tree = ast.parse(Path(ops.__file__).with_name(f"{op}.py").read_text(encoding="utf-8"))
    definitions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert part(op, definitions[0]) == "numpy"
    parts = [part(op, node) for node in definitions]
    order = [name for name, _ in groupby(filter(None, parts))]
    assert order == [name for name in ("numpy", "checks", "graph", "numba", "cuda") if name in order]
    assert {"numpy", "checks", "graph"} <= set(order)


def calls(dtype):
    """Arguments for each kernel: odd sizes, N > 1, channels beyond one task of 64."""
    x, y = random_arrays([(2, 13, 18, 70)] * 2, dtype)
    upsampled, skip = random_arrays([(2, 5, 6, 3), (2, 10, 9, 4)], dtype)
    weight, bias, grad = random_arrays([(3, 3, 70, 24), (24,), (2, 11, 16, 24)], dtype)
    up_part, skip_part = random_arrays([(2, 11, 16, 30), (2, 14, 17, 40)], dtype)
    up, grad_up = random_arrays([(2, 2, 70, 20), (2, 26, 36, 20)], dtype)
    (even,) = random_arrays([(3, 6, 10, 5)], dtype)
    rng = np.random.default_rng(1)
    place = rng.integers(0, 4, (3, 6, 10, 5)).astype(np.uint8)
    target = rng.integers(-1, 5, (3, 6, 10)).astype(np.int32)  # -1: an ignored pixel
    pixel_weight = rng.uniform(0, 10, target.shape).astype(dtype)
    # Several parts of pixels, the last of them not full, and an odd number of classes.
    features, classes = random_arrays([(2, 45, 50, 21), (1, 1, 21, 3)], dtype)
    labels = rng.integers(-1, 3, (2, 45, 50)).astype(np.int32)
    label_weight = rng.uniform(0, 10, labels.shape).astype(dtype)
    scale, shift, mean = random_arrays([(70,)] * 3, dtype)
    variance = rng.uniform(0.5, 2, 70).astype(dtype)
    seed, share = np.uint64(2**63 + 12345), 0.4
    return {
        ("adam", "step"): (
            [x, bias],
            [y, 2 * bias],
            [x + y, -bias],
            [x * x, bias * bias],
            np.array([0.01, 0.1, 0.001], dtype),
            *(0.9, 0.999, 1e-8, 1e-3),
        ),
        ("add", "forward"): (x, y),
        ("add", "backward"): (x,),
        ("batch_norm", "forward"): (x, scale, shift, True),
        ("batch_norm", "backward"): (y, x, scale, shift, mean, variance, True),
        ("batch_norm", "fold_backward"): (weight, weight, scale[:24], variance[:24]),
        ("batch_norm", "fold"): (weight, *(numbers[:24] for numbers in (scale, shift, mean, variance))),
        ("conv2d", "forward"): (x, weight, bias, 0, True),
        ("conv2d", "backward_input"): (grad, weight, 0),
        ("conv2d", "backward_weight"): (x, grad, 0, 3),
        ("conv2d", "backward_bias"): (grad,),
        ("conv2d", "backward_relu"): (x, y),
        ("conv2d", "backward"): (x, grad, grad[::-1].copy(), weight, 0, True, True),
        ("conv_transpose2d", "forward"): (x, up, bias[:20], True),
        ("conv_transpose2d", "backward_input"): (grad_up, up),
        ("conv_transpose2d", "backward_weight"): (x, grad_up),
        ("conv_transpose2d", "backward_bias"): (grad_up,),
        ("crop_concat", "forward"): (upsampled, skip),
        ("crop_concat", "backward"): (x[:, :5, :6, :7].copy(), upsampled.shape, skip.shape),
        ("crop_concat_conv2d", "forward"): (up_part, skip_part, weight, bias, 1, True),
        ("crop_concat_conv2d", "backward_input"): (grad, weight, 1, up_part.shape, skip_part.shape),
        ("crop_concat_conv2d", "backward_weight"): (up_part, skip_part, grad, 1, 3),
        ("crop_concat_conv2d", "backward"): (up_part, skip_part, grad, grad[::-1].copy(), weight, 1, True),
        ("dropout", "forward"): (x, share, seed),
        ("dropout", "backward"): (x, share, seed),
        ("linear_cross_entropy", "forward"): (features, classes, bias[:3], labels, label_weight, True),
        ("linear_cross_entropy", "backward"): (x, weight, bias, np.asarray(0.37, dtype)),
        ("max_pool2d", "forward"): (even,),
        ("max_pool2d", "backward"): (even, place),
        ("relu", "forward"): (x,),
        ("relu", "backward"): (x, y),
        ("sgd", "step"): ([x, bias], [y, 2 * bias], [x + y, -bias], 0.01, 0.9, 1e-3),
        ("softmax_cross_entropy", "forward"): (even, target, pixel_weight, True),
        ("softmax_cross_entropy", "backward"): (x, np.array(0.37, dtype)),
    }


def run(key, backend, dtype):
    """Every array that the kernel returns or, for the step, writes into."""
    arguments = calls(dtype)[key]
    before = copy.deepcopy(arguments)
    with tu.use_backend(backend):
        result = DISPATCH_TABLE[key](*arguments)
    if key[0] in OPTIMISERS:
        for gradient, original in zip(arguments[1], before[1], strict=True):
            np.testing.assert_array_equal(gradient, original, err_msg="the gradient was changed")
        weights, _, *state = (argument for argument in arguments if isinstance(argument, list))
        return *weights, *chain(*state)
    for argument, original in zip(arguments, before, strict=True):
        np.testing.assert_array_equal(argument, original, err_msg="an argument was changed")
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("key", TABLE, ids=".".join)
def test_numba_equals_the_numpy_reference(key, dtype):
    for ours, reference in zip(run(key, "numba", dtype), run(key, "numpy", dtype), strict=True):
        if reference.dtype == np.uint8:  # the places of maxima
            np.testing.assert_array_equal(ours, reference)
        else:
            assert_close(ours, reference, tolerance=TOLERANCE[np.dtype(dtype)])
        assert ours.flags.c_contiguous
        assert reference.flags.c_contiguous


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("key", TABLE, ids=".".join)
def test_the_same_bits_for_one_and_two_threads_and_every_call(key, dtype):
    assert_same_bits_for_any_number_of_threads(lambda: run(key, "numba", dtype))
