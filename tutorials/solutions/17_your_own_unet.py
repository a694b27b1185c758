"""Worked answers of chapter 17, the cases they are checked on, and answers known to be wrong."""

import numpy as np
from lesson import WrongAnswer, attempt, compare, is_open, own


def conv(x, weight, bias, relu):
    """Return the convolution as in the chapter, shape (N, H - K + 1, W - K + 1, F)."""
    size, _, _, filters = weight.shape
    y = own.window_rows(x, size) @ weight.reshape(-1, filters) + bias
    y = y.reshape(len(x), x.shape[1] - size + 1, x.shape[2] - size + 1, filters)
    return np.maximum(y, 0) if relu else y


# 17.1


def conv_backward(grad_y, x, weight, bias, relu):
    grad_z = grad_y * (conv(x, weight, bias, relu) > 0) if relu else grad_y
    grad_weight, grad_bias = own.backward_weight_and_bias(x, grad_z, weight.shape[0])
    return own.backward_input(grad_z, weight), grad_weight, grad_bias


hints_conv_backward = (
    "First what the ReLU does to grad_y (chapter 02). The rest are two functions of chapter 03.",
    "Where conv(..., relu) is 0, nothing comes back. Without a ReLU all of grad_y does.",
    "own.backward_weight_and_bias(x, grad_z, size) and own.backward_input(grad_z, weight).",
)


returns_conv_backward = "grad_x", "grad_weight", "grad_bias"


def cases_conv_backward(rng):
    for n, side, channels, filters, size in [(1, 5, 2, 3, 3), (2, 4, 3, 2, 1)]:
        x = rng.standard_normal((n, side, side + 1, channels))
        weight, bias = rng.standard_normal((size, size, channels, filters)), rng.standard_normal(filters)
        grad_y = rng.standard_normal((n, side - size + 1, side - size + 2, filters))
        for relu in (True, False):
            yield grad_y, x, weight, bias, relu


def _mask_without_bias(grad_y, x, weight, bias, relu):
    grad_z = grad_y * (conv(x, weight, 0 * bias, relu) > 0) if relu else grad_y
    return conv_backward(grad_z, x, weight, bias, False)


def _bias_past_the_relu(grad_y, x, weight, bias, relu):
    return *conv_backward(grad_y, x, weight, bias, relu)[:2], grad_y.sum(axis=(0, 1, 2))


wrong_conv_backward = {
    "the ReLU forgotten": lambda grad_y, x, weight, bias, relu: conv_backward(grad_y, x, weight, bias, False),
    "a ReLU after every layer": lambda grad_y, x, weight, bias, relu: conv_backward(
        grad_y, x, weight, bias, True
    ),
    "the ReLU before the bias": _mask_without_bias,
    "grad_bias does not come through the ReLU": _bias_past_the_relu,
}

# 17.2


def crop_concat_backward(grad_y, upsampled, skip):
    _, height, width, channels = upsampled.shape
    top, left = (skip.shape[1] - height) // 2, (skip.shape[2] - width) // 2
    grad_skip = np.zeros(skip.shape)
    grad_skip[:, top : top + height, left : left + width] = grad_y[..., channels:]
    return grad_y[..., :channels], grad_skip


hints_crop_concat_backward = (
    "Which numbers of skip are used, and where do they end up in y?",
    "The first channels of grad_y belong to upsampled. The others go where crop_concat cut them from.",
    "Begin with zeros of the shape of skip. The margins are the half differences of chapter 09.",
)


returns_crop_concat_backward = "grad_upsampled", "grad_skip"


def cases_crop_concat_backward(rng):
    for n, small, more in [(1, (2, 3), (4, 2)), (2, (3, 1), (0, 6)), (1, (2, 5), (3, 1))]:
        large = tuple(a + b for a, b in zip(small, more, strict=True))
        upsampled, skip = rng.standard_normal((n, *small, 2)), rng.standard_normal((n, *large, 3))
        yield rng.standard_normal((n, *small, 5)), upsampled, skip


def _into_the_corner(grad_y, upsampled, skip):
    grad_skip = np.zeros(skip.shape)
    grad_skip[:, : upsampled.shape[1], : upsampled.shape[2]] = grad_y[..., upsampled.shape[3] :]
    return grad_y[..., : upsampled.shape[3]], grad_skip


def _skip_first(grad_y, upsampled, skip):
    turned = np.concatenate([grad_y[..., skip.shape[3] :], grad_y[..., : skip.shape[3]]], axis=3)
    return crop_concat_backward(turned, upsampled, skip)


wrong_crop_concat_backward = {
    "put into the corner": _into_the_corner,
    "the skip's channels taken from the front": _skip_first,
    "not put back into the shape of skip": lambda grad_y, upsampled, skip: (
        grad_y[..., : upsampled.shape[3]],
        grad_y[..., upsampled.shape[3] :],
    ),
}

# 17.3


def walk_back(output, grad):
    pending, made_by = {output: grad}, {output.op: output}
    for op in own.newest_first(output):
        made_by |= {tensor.op: tensor for tensor in op.inputs if tensor.op}
        grads = op.backward(pending.pop(made_by[op]), *(tensor.data for tensor in op.inputs))
        for tensor, part in zip(op.inputs, grads, strict=True):
            own.accumulate(pending, tensor, part)
    return pending


hints_walk_back = (
    "pending begins with the output's gradient. Each op takes that of its output, and adds to its inputs.",
    "An op does not know which tensor it made. But an op visited earlier has that tensor as an input.",
    "made_by = {output.op: output}; for each op of own.newest_first(output), add {t.op: t} of its inputs.",
)


class _Op:
    count = 0

    def __init__(self, backward, inputs):
        self.backward, self.inputs, self.number = backward, inputs, _Op.count
        _Op.count += 1


class _Tensor:
    def __init__(self, data, op=None):
        self.data, self.op = data, op


def _graph(rng):
    """Return three leaves and a tensor that is made of them, with a fan-out and a leaf that is read twice."""

    def record(forward, backward, *inputs):
        return _Tensor(forward(*(tensor.data for tensor in inputs)), _Op(backward, inputs))

    def multiply(a, b):
        return record(np.multiply, lambda grad_y, a, b: (grad_y * b, grad_y * a), a, b)

    def add(a, b):
        return record(np.add, lambda grad_y, a, b: (grad_y, grad_y), a, b)

    a, b, c = leaves = [_Tensor(array) for array in rng.standard_normal((3, 2, 3))]
    shared = multiply(a, b)
    return leaves, add(multiply(shared, add(shared, c)), multiply(c, c))


def check_walk_back(function):
    rng = np.random.default_rng(0)
    for _ in range(3):
        leaves, output = _graph(rng)
        grad = rng.standard_normal((2, 3))
        found = attempt(function, output, grad.copy())
        if is_open(found):
            return False
        if not isinstance(found, dict) or found.keys() != set(leaves):
            what = f"a dict of {len(found)}" if isinstance(found, dict) else f"a {type(found).__name__}"
            raise WrongAnswer(f"a dict with the 3 leaves of the graph as keys is expected, not {what}")
        right = walk_back(output, grad)
        for name, leaf in zip("abc", leaves, strict=True):
            compare(found[leaf], right[leaf], f"the gradient of {name} in s (s + c) + c c with s = a b")
    return True


def _from_ones(output, grad):
    return walk_back(output, np.ones_like(grad))


def _nothing_taken_out(output, grad):
    pending, made_by = {output: grad}, {output.op: output}
    for op in own.newest_first(output):
        made_by |= {tensor.op: tensor for tensor in op.inputs if tensor.op}
        grads = op.backward(pending[made_by[op]], *(tensor.data for tensor in op.inputs))
        for tensor, part in zip(op.inputs, grads, strict=True):
            own.accumulate(pending, tensor, part)
    return pending


def _the_last_path_wins(output, grad):
    pending, made_by = {output: grad}, {output.op: output}
    for op in own.newest_first(output):
        made_by |= {tensor.op: tensor for tensor in op.inputs if tensor.op}
        grads = op.backward(pending.pop(made_by[op]), *(tensor.data for tensor in op.inputs))
        pending |= dict(zip(op.inputs, grads, strict=True))
    return pending


wrong_walk_back = {
    "begun with ones instead of the gradient given": _from_ones,
    "the gradients of the values in between kept": _nothing_taken_out,
    "the last path wins": _the_last_path_wins,
}
