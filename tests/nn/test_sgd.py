"""SGD against PyTorch's; its CUDA step against the reference; its options."""

import numpy as np
import pytest
import torch
from oracle import DTYPES, assert_close, random_arrays

import tinyunet as tu
from tinyunet.backend import DISPATCH_TABLE, to_backend
from tinyunet.errors import KernelError, OptionError
from tinyunet.nn.sgd import step, step_numpy

SHAPES = [(3, 3, 2, 5), (5,), (1,)]


def assert_steps_like_torch(dtype=np.float64, momentum=0.99, weight_decay=0.0, steps=12):
    """Compare steps with given gradients; the learning rate changes half way, as in a schedule."""
    arrays = random_arrays(SHAPES, dtype)
    ours = [tu.Tensor(a.copy(), requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    optimiser = tu.SGD(ours, lr=0.01, momentum=momentum, weight_decay=weight_decay)
    reference = torch.optim.SGD(theirs, lr=0.01, momentum=momentum, weight_decay=weight_decay)
    for number in range(steps):
        if number == steps // 2:
            optimiser.lr = reference.param_groups[0]["lr"] = 0.003
        for our, their, gradient in zip(ours, theirs, random_arrays(SHAPES, dtype, seed=number), strict=True):
            our.grad, their.grad = gradient, torch.tensor(gradient)
        optimiser.step()
        reference.step()
        for our, their in zip(ours, theirs, strict=True):
            assert_close(our.data, their.detach().numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
def test_equals_torch(backend, momentum, weight_decay, dtype):
    assert_steps_like_torch(dtype, momentum, weight_decay)


def test_the_cuda_step_equals_the_reference(build):
    """For parameters of less than a block, several blocks, one element, and whole blocks.

    Each operation rounds once; the processor may fuse two.
    """
    shapes = [(5,), (3, 3, 7, 5), (1,), (2, 256), (7,)]
    expected = [random_arrays(shapes, np.float32, seed) for seed in range(3)]
    lists = [[to_backend(array.copy()) for array in arrays] for arrays in expected]
    step(*lists, 0.01, 0.9, 1e-3)
    step_numpy(*expected, 0.01, 0.9, 1e-3)
    for ours, theirs in zip(lists, expected, strict=True):
        for array, reference in zip(ours, theirs, strict=True):
            assert_close(array, reference, tolerance=3e-7)


def test_an_array_of_another_type_is_refused(emulated):
    arrays = random_arrays([(5,), (4,)], np.float32)
    with pytest.raises(KernelError, match=r"grad\[1\].*float64"):
        step(arrays, [arrays[0], arrays[1].astype(np.float64)], arrays, 0.1, 0.9, 0.0)


MUTANTS = {
    "gradient 0.1 % too large": lambda w, g, v, lr, m, wd: (1.001 * g + wd * w, m, lr),
    "weight decay forgotten": lambda w, g, v, lr, m, wd: (g, m, lr),
    "weight decay of the wrong sign": lambda w, g, v, lr, m, wd: (g - wd * w, m, lr),
    "momentum forgotten": lambda w, g, v, lr, m, wd: (g + wd * w, 0, lr),
    "momentum damped": lambda w, g, v, lr, m, wd: ((1 - m) * (g + wd * w), m, lr),
    "uphill": lambda w, g, v, lr, m, wd: (g + wd * w, m, -lr),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_step_is_noticed(monkeypatch, mutant):
    def broken(weights, grads, velocities, lr, momentum, weight_decay):
        for weight, grad, velocity in zip(weights, grads, velocities, strict=True):
            push, factor, rate = MUTANTS[mutant](weight, grad, velocity, lr, momentum, weight_decay)
            velocity[...] = factor * velocity + push
            weight -= rate * velocity

    with tu.use_backend("numpy"):
        assert_steps_like_torch(weight_decay=0.1)
        monkeypatch.setitem(DISPATCH_TABLE["sgd", "step"].implementations, "numpy", broken)
        with pytest.raises(AssertionError):
            assert_steps_like_torch(weight_decay=0.1)


def test_a_constant_gradient_adds_up_to_lr_over_one_minus_momentum():
    """At the paper's 0.99, 100 lr per step, once the velocity has settled."""
    weight = tu.Tensor(np.zeros(1), requires_grad=True)
    optimiser = tu.SGD([weight], lr=1e-3, momentum=0.99)
    before = 0.0
    for _ in range(3000):
        before = weight.data.item()
        weight.grad = np.ones(1)
        optimiser.step()
    assert before - weight.data.item() == pytest.approx(100 * 1e-3, rel=1e-9)


def test_steps_are_taken_in_place_and_leave_the_gradient(backend):
    weight = tu.Tensor(np.ones(4), requires_grad=True)
    array, gradient = weight.data, np.arange(4.0)
    weight.grad = gradient
    tu.SGD([weight], lr=0.5, momentum=0).step()
    assert weight.data is array
    assert array.tolist() == [1, 0.5, 0, -0.5]
    assert gradient.tolist() == [0, 1, 2, 3]


def test_parameters_without_a_gradient_stay():
    """Also with weight decay: a parameter that took no part is not changed."""
    used, unused = (tu.Tensor(np.ones(2), requires_grad=True) for _ in range(2))
    optimiser = tu.SGD(iter([used, unused]), lr=0.1, weight_decay=0.5)
    used.grad = np.ones(2)
    optimiser.step()
    assert (used.data < 1).all()
    assert (unused.data == 1).all()


def test_a_step_without_any_gradient_changes_nothing():
    weight = tu.Tensor(np.ones(2), requires_grad=True)
    tu.SGD([weight], lr=0.1, weight_decay=0.5).step()
    assert (weight.data == 1).all()


def test_defaults_are_the_papers():
    """A high momentum, section 3, and no weight decay, which the paper does not name."""
    optimiser = tu.SGD([], lr=0.1)
    assert (optimiser.momentum, optimiser.weight_decay) == (0.99, 0)


def test_zero_grad_forgets():
    x = tu.Tensor(np.ones(2), requires_grad=True)
    optimiser = tu.SGD([x], lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        tu.add(x, x).backward(np.ones(2))
        assert x.grad.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 0),
        ("lr", -0.1),
        ("lr", float("nan")),
        ("momentum", 1),
        ("momentum", -0.1),
        ("weight_decay", -1e-4),
    ],
)
def test_options_outside_their_range(name, value):
    with pytest.raises(OptionError, match=f"{name} is {value}"):
        tu.SGD([], **{"lr": 0.1, name: value})
