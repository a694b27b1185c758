"""AdamW against PyTorch's; its CUDA step against the reference; its options."""

import numpy as np
import pytest
import torch
from oracle import DTYPES, assert_close, random_arrays

import tinyunet as tu
from tinyunet.backend import DISPATCH_TABLE, to_backend, to_host
from tinyunet.errors import KernelError, OptionError
from tinyunet.nn.adam import step, step_numpy

SHAPES = [(3, 3, 2, 5), (5,), (1,)]
# Twelve steps of ten roundings each, of which most cancel; the steps are as long as the weights.
TOLERANCE = {np.float64: 1e-12, np.float32: 12 * 10 * 2.0**-24}


def assert_steps_like_torch(theirs_of=torch.optim.AdamW, dtype=np.float64, scale=1.0, steps=12, **options):
    """Compare steps with given gradients; the learning rate changes half way, as in a schedule."""
    arrays = random_arrays(SHAPES, dtype)
    ours = [tu.Tensor(a.copy(), requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    optimiser = tu.AdamW(ours, lr=0.01, **options)
    reference = theirs_of(
        theirs,
        lr=0.01,
        betas=(optimiser.beta1, optimiser.beta2),
        eps=optimiser.epsilon,
        weight_decay=optimiser.weight_decay,
    )
    for number in range(steps):
        if number == steps // 2:
            optimiser.lr = reference.param_groups[0]["lr"] = 0.003
        for our, their, gradient in zip(ours, theirs, random_arrays(SHAPES, dtype, seed=number), strict=True):
            our.grad = dtype(scale) * gradient
            their.grad = torch.tensor(our.grad)
        optimiser.step()
        reference.step()
        for our, their in zip(ours, theirs, strict=True):
            assert_close(our.data, their.detach().numpy(), tolerance=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.999), (0.0, 0.9), (0.8, 0.95)])
def test_equals_torch(backend, beta1, beta2, weight_decay, dtype):
    assert_steps_like_torch(dtype=dtype, beta1=beta1, beta2=beta2, weight_decay=weight_decay)


def test_without_weight_decay_it_is_adam(backend):
    assert_steps_like_torch(torch.optim.Adam)


@pytest.mark.parametrize("scale", [1e-12, 1e-8, 1e6])
def test_gradients_of_any_size(backend, scale):
    """Around epsilon, where it counts, and far from it."""
    assert_steps_like_torch(scale=scale)


def test_the_cuda_step_equals_the_reference(build):
    """For parameters of less than a block, several blocks, one element, and whole blocks.

    Each operation rounds once; the processor may fuse two.
    """
    shapes = [(5,), (3, 3, 7, 5), (1,), (2, 256), (7,)]
    expected = [random_arrays(shapes, np.float32, seed) for seed in range(4)]
    expected[3] = [array * array for array in expected[3]]
    lists = [[to_backend(array.copy()) for array in arrays] for arrays in expected]
    scalars = np.array([0.01, 1 - 0.9**3, 1 - 0.999**3], np.float32)
    step(*lists, scalars, 0.9, 0.999, 1e-8, 1e-3)
    step_numpy(*expected, scalars, 0.9, 0.999, 1e-8, 1e-3)
    for ours, theirs in zip(lists, expected, strict=True):
        for array, reference in zip(ours, theirs, strict=True):
            assert_close(array, reference, tolerance=3e-7)


def test_a_gradient_of_zero_moves_nothing(backend):
    """Also where it always was 0: nothing is divided by 0."""
    weight = tu.Tensor(to_backend(np.ones(5, np.float32)), requires_grad=True)
    optimiser = tu.AdamW([weight], lr=0.1)
    for _ in range(3):
        weight.grad = to_backend(np.zeros(5, np.float32))
        optimiser.step()
    assert to_host(weight.data).tolist() == [1] * 5


def test_an_array_of_another_type_is_refused(emulated):
    arrays = random_arrays([(5,), (4,)], np.float32)
    scalars = np.ones(3, np.float32)
    with pytest.raises(KernelError, match=r"square\[1\].*float64"):
        step(*3 * [arrays], [arrays[0], arrays[1].astype(np.float64)], scalars, 0.9, 0.999, 1e-8, 0.0)


def broken(*, share1=None, grads=lambda g: g, of_square=lambda g, m: g * g, correct=True, decay=1, root=None):
    """The step with one mistake."""

    def mutant(weights, grads_, means, squares, scalars, beta1, beta2, epsilon, weight_decay):
        lr, c1, c2 = scalars if correct else (scalars[0], 1, 1)
        for weight, grad, mean, square in zip(weights, map(grads, grads_), means, squares, strict=True):
            mean += (1 - beta1 if share1 is None else share1) * (grad - mean)
            square[...] = beta2 * square + (1 - beta2) * of_square(grad, mean)
            size = root(square / c2, epsilon) if root else np.sqrt(square / c2) + epsilon
            weight -= lr * (mean / c1 / size + decay * weight_decay * weight)

    return mutant


MUTANTS = {
    "mean forgotten": broken(share1=1),
    "no corrections": broken(correct=False),
    "weight decay forgotten": broken(decay=0),
    "weight decay of the wrong sign": broken(decay=-1),
    "uphill": broken(grads=lambda g: -g),
    "the square of the mean": broken(of_square=lambda g, m: m * m),
    "no square root": broken(root=lambda square, epsilon: square + epsilon),
    "epsilon below the root": broken(root=lambda square, epsilon: np.sqrt(square + epsilon)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_step_is_noticed(monkeypatch, mutant):
    with tu.use_backend("numpy"):
        for step_of_test, expectation in ((broken(), None), (MUTANTS[mutant], AssertionError)):
            monkeypatch.setitem(DISPATCH_TABLE["adam", "step"].implementations, "numpy", step_of_test)
            if expectation is None:
                assert_steps_like_torch(weight_decay=0.1)
            else:
                with pytest.raises(expectation):
                    assert_steps_like_torch(weight_decay=0.1)


def test_a_step_is_as_long_as_the_learning_rate():
    """While the gradient is the same, whatever its size."""
    weight = tu.Tensor(np.zeros(3), requires_grad=True)
    optimiser = tu.AdamW([weight], lr=1e-3)
    for _ in range(10):
        weight.grad = np.array([1e-3, 1, -1e3])
        optimiser.step()
    np.testing.assert_allclose(weight.data, [-0.01, -0.01, 0.01], rtol=1e-4)


def test_parameters_without_a_gradient_stay():
    """Also with weight decay: a parameter that took no part is not changed."""
    used, unused = (tu.Tensor(np.ones(2), requires_grad=True) for _ in range(2))
    optimiser = tu.AdamW(iter([used, unused]), lr=0.1, weight_decay=0.5)
    used.grad = np.ones(2)
    optimiser.step()
    assert (used.data < 1).all()
    assert (unused.data == 1).all()


def test_defaults_are_the_papers():
    """Kingma and Ba, algorithm 1, and no weight decay."""
    assert tu.AdamW.options() == {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 0), ("lr", float("nan")), ("beta1", 1), ("beta1", -0.1), ("beta2", 1), ("epsilon", 0),
        ("weight_decay", -1e-4), ("weight_decay", float("inf")),
    ],
)  # fmt: skip
def test_options_outside_their_range(name, value):
    with pytest.raises(OptionError, match=f"{name} is {value}"):
        tu.AdamW([], **{"lr": 0.1, name: value})
