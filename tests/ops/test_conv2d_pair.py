"""Two convolutions in one op, by copies in bfloat16: the bits of the two ops."""

import numpy as np
import pytest
from oracle import random_arrays

import tinyunet as tu
from tinyunet.backend.cuda_log import launch_log
from tinyunet.errors import ShapeError
from tinyunet.ops import conv2d_cuda
from tinyunet.ops import conv2d_pair as pair_module
from tinyunet.ops.conv2d_pair import conv2d_pair


@pytest.fixture
def by_copies(emulated, monkeypatch):
    """Multiply copies wherever there are kernels for it, however small."""
    monkeypatch.setattr(conv2d_cuda, "MIN_COPIED", 8)
    monkeypatch.setattr(conv2d_cuda, "MIN_MULTIPLICATIONS", 1)
    with tu.use_backend("cuda-emulated", "bf16"):
        yield


def tensors(side, channels, filters, skip_channels=0, size=3):
    """Make x, a skip or None, and weight and bias of each convolution."""
    joined = channels + skip_channels
    shapes = [
        (2, side, side - 1, channels),
        (2, side + 3, side + 1, skip_channels) if skip_channels else None,
        *((size, size, joined, filters), (filters,)),
        *((size, size, filters, filters), (filters,)),
    ]
    arrays = random_arrays(shapes, np.float32)
    return [None if a is None else tu.Tensor(a, requires_grad=True) for a in arrays]


def in_two_ops(x, skip, weight, bias, second_weight, second_bias, *, padding):
    joined = x if skip is None else tu.crop_concat(x, skip)
    middle = tu.conv2d(joined, weight, bias, padding=padding, relu=True)
    return tu.conv2d(middle, second_weight, second_bias, padding=padding, relu=True)


def in_one_op(x, skip, weight, bias, second_weight, second_bias, *, padding):
    return conv2d_pair(x, skip, (weight, bias), (second_weight, second_bias), padding=padding)


def gradients(function, arguments, padding):
    """Return y, and the gradients of all tensors for a random one of y."""
    y = function(*arguments, padding=padding)
    (grad,) = random_arrays([y.shape], np.float32, seed=1)
    y.backward(grad)
    grads = [None if t is None else t.grad for t in arguments]
    for tensor in arguments:
        if tensor is not None:
            tensor.grad = None
    return y.data, grads


@pytest.mark.parametrize(
    ("sizes", "padding"),
    [
        ((5, 1, 8), 1),  # the first convolution multiplies float32
        ((11, 8, 8, 16), 0),  # with a skip, and more than one block along the pixels
        ((4, 8, 136), 1),  # more than one along the filters
    ],
)
def test_the_bits_of_two_ops(by_copies, sizes, padding):
    """But of the sums for the biases, in double precision, whose order differs."""
    arguments = tensors(*sizes)
    expected, expected_grads = gradients(in_two_ops, arguments, padding)
    with launch_log() as log:
        ours, grads = gradients(in_one_op, arguments, padding)
    assert any("backward_input_tensor_copies" in name for name in log.totals)
    np.testing.assert_array_equal(ours, expected)
    for our, their in zip(grads, expected_grads, strict=True):
        if our is None:
            assert their is None
        elif our.ndim == 1:
            np.testing.assert_allclose(our, their, rtol=2.0**-22)
        else:
            np.testing.assert_array_equal(our, their)


def test_without_a_gradient_of_x(by_copies):
    """It is not computed, and the others are the same."""
    arguments = tensors(7, 8, 8)
    _, expected = gradients(in_one_op, arguments, 0)
    arguments[0].requires_grad = False
    with launch_log() as log:
        _, grads = gradients(in_one_op, arguments, 0)
    assert grads[0] is None
    for our, their in zip(grads[2:], expected[2:], strict=True):
        np.testing.assert_array_equal(our, their)
    assert log.totals["conv2d_flip_to_bf16"].launches == 1


@pytest.mark.parametrize(("backend", "precision"), [("numba", "float32"), ("cuda-emulated", "bf16")])
def test_otherwise_it_runs_the_two_ops(backend, precision):
    """On other backends, and where few products are to be computed."""
    arguments = tensors(9, 4, 8, 4)
    with tu.use_backend(backend, precision):
        expected, expected_grads = gradients(in_two_ops, arguments, 0)
        ours, grads = gradients(in_one_op, arguments, 0)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    for our, their in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("changed", ["x", "first", "second", "skip"])
def test_errors_are_those_of_the_ops(by_copies, changed):
    x, skip, weight, bias, second_weight, second_bias = tensors(9, 8, 8, 8)
    if changed == "x":
        x = tu.Tensor(np.zeros((2, 9, 8, 16), np.float32))
    elif changed == "skip":
        skip = tu.Tensor(np.zeros((2, 3, 3, 8), np.float32))
    elif changed == "first":
        weight = tu.Tensor(np.zeros((3, 2, 16, 8), np.float32))
    else:
        second_weight = tu.Tensor(np.zeros((3, 3, 16, 8), np.float32))
    with pytest.raises(ShapeError):
        in_one_op(x, skip, weight, bias, second_weight, second_bias, padding=0)


def test_the_bits_of_a_network(by_copies, monkeypatch):
    """The U-Net's gradients are those without the op, but for the order of the sums of two biases."""
    (image,) = random_arrays([(1, 20, 20, 1)], np.float32)
    target, weight = np.zeros((1, 4, 4), np.int32), np.ones((1, 4, 4), np.float32)
    target[:, 1:3] = 1
    found = []
    for paired in (True, False):
        if not paired:
            monkeypatch.setattr(pair_module, "_second_by_copies", lambda *_: False)
        model = tu.UNet(base_channels=8, depth=1, dropout=0)
        with launch_log() as log:
            loss = model.loss(tu.Tensor(image), target, weight)
            loss.backward()
        assert ("conv2d_rounded_forward_tensor_copies" in log.totals) == paired
        grads = {name: tensor.grad for name, tensor in model.named_parameters()}
        found.append({"loss": loss.data, **grads})
    for name, ours in found[0].items():
        if name.endswith("first.bias"):
            np.testing.assert_allclose(ours, found[1][name], rtol=2.0**-22)
        else:
            np.testing.assert_array_equal(ours, found[1][name], err_msg=name)
