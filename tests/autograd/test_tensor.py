"""The tape: chain rule, order, release, depth, and errors."""

import gc
import weakref

import numpy as np
import pytest
import torch

import tinyunet as tu
from tinyunet.autograd import Function, Tensor
from tinyunet.errors import GraphError, ShapeError


class Square(Function):
    """x², saving an array of its own, whose life can be watched."""

    name = "square"

    def forward(self, x):
        saved = x.copy()
        self.watch = weakref.ref(saved)
        self.save(saved)
        return x * x

    def backward(self, grad_output):
        (x,) = self.saved
        return (2 * x * grad_output,)


def leaf(*values):
    return Tensor(np.array(values, np.float64), requires_grad=True)


def test_fan_out_adds_up():
    """The derivative of x² + x² + x at x = 3 is 4 x + 1."""
    x = leaf(3.0)
    square = Square.apply(x)
    tu.add(tu.add(square, Square.apply(x)), x).backward()
    assert x.grad.tolist() == [13]


def test_one_tensor_in_both_places():
    x = leaf(3.0)
    square = Square.apply(x)
    tu.add(square, square).backward()
    assert x.grad.tolist() == [12]
    y = leaf(3.0)
    tu.add(y, y).backward()
    assert y.grad.tolist() == [2]


def test_diamond():
    """(a²)² + a², with both paths through one tensor: an op waits until all newer ones are done."""
    a = leaf(2.0, -3.0)
    b = Square.apply(a)
    tu.add(Square.apply(b), b).backward(np.ones(2))
    np.testing.assert_array_equal(a.grad, 4 * a.data**3 + 2 * a.data)


def test_each_op_of_a_ladder_of_diamonds_runs_once():
    """y_{k+1} = y_k + y_k: 2^60 paths, but 60 ops."""
    x = leaf(1.0)
    y = x
    for _ in range(60):
        y = tu.add(y, y)
    y.backward()
    assert x.grad.tolist() == [2.0**60]


def test_the_older_tensor_may_come_in_later():
    """The skip connection's pattern: an early result is used again at the end."""
    x = leaf(2.0)
    early = Square.apply(x)
    late = Square.apply(Square.apply(early))
    tu.add(late, early).backward()
    assert x.grad.tolist() == [8 * 2.0**7 + 2 * 2.0]


@pytest.mark.parametrize("length", [10_000, 100_000])
def test_a_long_chain_needs_no_stack(length):
    """Forward, backward and release, also of a graph without a backward pass."""
    x, one = leaf(0.0), Tensor(np.ones(1))
    with tu.use_backend("numpy"):
        y = x
        for _ in range(length):
            y = tu.add(y, one)
        assert y.item() == length
        y.backward()
        assert x.grad.tolist() == [1]
        y = x
        for _ in range(length):
            y = tu.add(y, one)
        end = weakref.ref(y._function)
        del y
        gc.collect()
        assert end() is None


def test_gradients_add_up_over_backward_calls():
    x = leaf(3.0)
    for _ in range(3):
        Square.apply(x).backward()
    assert x.grad.tolist() == [18]


def test_a_leaf_is_reported_once_its_gradient_is_complete():
    """With the gradients that PyTorch's hook sees; one leaf is taken by the first op and by the last."""

    def reported(make, add, square, backward):
        x, w, early = make(3.0), make(5.0), make(7.0)
        names = {id(x): "x", id(w): "w", id(early): "early"}
        low = add(square(early), x)
        top = add(add(square(square(low)), w), x)
        seen = []
        backward(top, (x, w, early), lambda leaf: seen.append((names[id(leaf)], leaf.grad.tolist())))
        return seen

    def torch_backward(top, leaves, hook):
        for each in leaves:
            each.register_post_accumulate_grad_hook(hook)
        top.backward()

    def torch_leaf(value):
        return torch.tensor([value], dtype=torch.float64, requires_grad=True)

    ours = reported(leaf, tu.add, Square.apply, lambda top, _, hook: top.backward(on_leaf=hook))
    theirs = reported(torch_leaf, torch.add, torch.square, torch_backward)
    assert [name for name, _ in ours] == ["w", "x", "early"]
    assert dict(ours) == dict(theirs)
    single, seen = leaf(1.0), []
    single.backward(on_leaf=seen.append)
    assert seen == [single]


def test_saved_arrays_are_released_on_the_way():
    """When the older op's backward runs, the newer op has released what it saved."""
    alive = []

    class Older(Square):
        def backward(self, grad_output):
            alive.append(newer.watch())
            return super().backward(grad_output)

    x = leaf(3.0)
    y = Square.apply(Older.apply(x))
    newer = y._function
    assert newer.watch() is not None
    y.backward()
    assert alive == [None]
    assert x.grad.tolist() == [4 * 27]


def test_only_saved_arrays_live_as_long_as_the_graph():
    """The sum saves nothing: its summands are freed as soon as the caller releases them."""
    x = leaf(1.0)
    intermediate = Square.apply(x)
    array = weakref.ref(intermediate.data)
    y = tu.add(intermediate, intermediate)
    del intermediate
    assert array() is None
    y.backward()
    assert x.grad.tolist() == [4]


def test_second_backward_is_an_error():
    y = Square.apply(leaf(3.0))
    y.backward()
    with pytest.raises(GraphError, match="square"):
        y.backward()


def test_second_backward_through_an_op_that_saves_nothing_is_an_error():
    y = tu.add(leaf(3.0), leaf(4.0))
    y.backward()
    with pytest.raises(GraphError, match="add"):
        y.backward()


def test_backward_releases_the_ops_before():
    """A loss that is kept, for a curve say, does not keep the graph that led to it."""
    x = leaf(3.0)
    before = Square.apply(x)
    y = Square.apply(before)
    function = weakref.ref(before._function)
    del before
    assert function() is not None
    y.backward()
    assert function() is None


def test_backward_into_a_released_part_is_an_error():
    shared = Square.apply(leaf(3.0))
    first, second = Square.apply(shared), Square.apply(shared)
    first.backward()
    with pytest.raises(GraphError, match="square"):
        second.backward()


def test_backward_without_a_gradient_needs_one_element():
    for shape in [(), (1,), (1, 1, 1)]:
        x = Tensor(np.full(shape, 3.0), requires_grad=True)
        Square.apply(x).backward()
        np.testing.assert_array_equal(x.grad, np.full(shape, 6.0))
    with pytest.raises(ShapeError, match=r"\(2,\)"):
        Square.apply(leaf(1.0, 2.0)).backward()


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 1), ()])
def test_a_gradient_of_another_shape_is_refused(shape):
    """Also one that would broadcast."""
    with pytest.raises(ShapeError, match=r"\(2,\)"):
        Square.apply(leaf(1.0, 2.0)).backward(np.ones(shape))


def test_a_tensor_without_a_graph_has_no_backward():
    with pytest.raises(GraphError, match="requires_grad"):
        Square.apply(Tensor(np.ones(1))).backward()


def test_no_grad_as_context_and_decorator():
    x = leaf(3.0)

    @tu.no_grad()
    def square():
        return Square.apply(x)

    with tu.no_grad():
        inside = Square.apply(x)
    for y in (inside, square(), square()):
        assert not y.requires_grad
        assert y._function is None
    assert Square.apply(x).requires_grad


def test_no_grad_saves_nothing_and_ends_with_an_error():
    x = leaf(3.0)
    functions = []

    class Watched(Square):
        def __init__(self):
            super().__init__()
            functions.append(self)

    with pytest.raises(ZeroDivisionError), tu.no_grad():
        tu.add(Watched.apply(x), Tensor([1 / 0]))
    assert functions[0].watch() is None
    assert Square.apply(x).requires_grad


def test_nested_no_grad():
    x = leaf(3.0)
    with tu.no_grad():
        with tu.no_grad():
            pass
        assert not Square.apply(x).requires_grad


def test_two_leaves_never_share_a_gradient():
    """Scaling one in place must not scale the other, nor the argument of backward."""
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    given = np.ones(2)
    tu.add(a, b).backward(given)
    for other in (b.grad, given):
        assert not np.shares_memory(a.grad, other)

    c, d = leaf(1.0, 2.0), leaf(3.0, 4.0)
    c.backward(given)
    d.backward(given)
    c.grad *= 7
    assert given.tolist() == [1, 1]
    assert d.grad.tolist() == [1, 1]


@pytest.mark.parametrize("shape", [(1,), ()])
def test_an_accumulated_gradient_is_a_new_array(backend, shape):
    """An array also for a tensor without axes: NumPy's sum of two such arrays is a scalar."""
    x = Tensor(np.full(shape, 3.0), requires_grad=True)
    Square.apply(x).backward()
    first = x.grad
    Square.apply(x).backward()
    assert isinstance(x.grad, np.ndarray)
    np.testing.assert_array_equal(first, np.full(shape, 6.0))
    np.testing.assert_array_equal(x.grad, np.full(shape, 12.0))


def test_leaves_without_requires_grad_get_none():
    x, constant = leaf(3.0), Tensor(np.array([2.0]))
    tu.add(Square.apply(x), Square.apply(constant)).backward()
    assert x.grad.tolist() == [6]
    assert constant.grad is None


def test_only_leaves_keep_a_gradient():
    x = leaf(3.0)
    middle = Square.apply(x)
    Square.apply(middle).backward()
    assert middle.grad is None
    assert x.grad.tolist() == [4 * 27]


def test_arrays_are_kept_or_made_fit_for_kernels():
    kept = np.zeros((2, 3), np.float32)
    assert Tensor(kept).data is kept
    assert Tensor(kept).numpy() is kept
    transposed = Tensor(kept.T)
    assert transposed.shape == (3, 2)
    assert transposed.data.flags.c_contiguous
    assert Tensor([1, 2]).dtype == np.float32
    assert Tensor(np.zeros(2, np.float16)).dtype == np.float32
    assert Tensor(np.zeros(2, np.dtype(">f4"))).data.dtype.isnative
    assert Tensor(np.zeros(2)).dtype == np.float64


def test_gradients_have_the_dtype_of_the_tensor():
    x = Tensor(np.ones(2, np.float32), requires_grad=True)
    tu.relu(x).backward(np.ones(2, np.float64))
    assert x.grad.dtype == np.float32
    for dtype in (np.float32, np.float64):
        number = Tensor(np.ones((), dtype), requires_grad=True)
        tu.relu(number).backward()
        assert number.grad.dtype == dtype


def test_item_and_repr():
    x = leaf(3.0)
    assert Square.apply(x).item() == 9.0
    assert repr(Square.apply(x)) == "Tensor(array([9.]), requires_grad=True, made by square)"
    with pytest.raises(ValueError, match="size 1"):
        leaf(1.0, 2.0).item()


def convolution():
    """Our convolution, its optimiser, and PyTorch's of the same sizes; the weights have gradients."""
    ours = tu.nn.layers.Conv2d(1, 1, 1, rng=np.random.default_rng(0))
    theirs = torch.nn.Conv2d(1, 1, 1)
    for parameter in ours.parameters():
        parameter.grad = np.ones(parameter.shape, np.float32)
    for parameter in theirs.parameters():
        parameter.grad = torch.ones(parameter.shape)
    return ours, theirs


def sgd_step(ours, theirs, names=("weight", "bias")):
    tu.SGD([getattr(ours, name) for name in names], lr=0.1).step()
    torch.optim.SGD([getattr(theirs, name) for name in names], lr=0.1).step()


def load(ours, theirs):
    ours.load_state_dict({name: array + 1 for name, array in ours.state_dict().items()})
    theirs.load_state_dict({name: array + 1 for name, array in theirs.state_dict().items()})


def write(ours, theirs):
    ours.weight.data[...] = 3
    ours.weight.mark_changed()
    with torch.no_grad():
        theirs.weight[...] = 3


def replace(ours, theirs):
    ours.weight.data = ours.weight.data + 1
    theirs.weight.data = theirs.weight.data + 1


def step_of_bias(ours, theirs):
    sgd_step(ours, theirs, ["bias"])


def step_without_gradients(ours, theirs):
    for parameter in (*ours.parameters(), *theirs.parameters()):
        parameter.grad = None
    sgd_step(ours, theirs)


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (sgd_step, True),
        (load, True),
        (write, True),
        (replace, False),
        (step_of_bias, False),
        (step_without_gradients, False),
    ],
)
def test_a_change_between_forward_and_backward_is_refused_as_in_pytorch(change, refused):
    ours, theirs = convolution()
    x, grad = np.ones((1, 2, 2, 1), np.float32), np.ones((1, 2, 2, 1), np.float32)
    y, expected = ours(Tensor(x)), theirs(torch.tensor(x).movedim(3, 1)).sum()
    change(ours, theirs)
    if refused:
        with pytest.raises(RuntimeError, match="inplace"):
            expected.backward()
        with pytest.raises(GraphError, match=r"conv2d(.|\n)*saved +0\n.*now +1\n"):
            y.backward(grad)
    else:
        expected.backward()
        y.backward(grad)
    ours(Tensor(x)).backward(grad)  # computed again, with the new values


def test_a_long_chain_of_saved_inputs_needs_no_stack():
    class Tripled(Function):
        def forward(self, x):
            self.save(x)
            return 3 * x

    y = leaf(0.0)
    for _ in range(100_000):
        y = Tripled.apply(y)
    end = weakref.ref(y._function)
    del y
    gc.collect()
    assert end() is None
