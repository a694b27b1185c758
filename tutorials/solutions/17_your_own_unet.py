"""Worked answers of chapter 17, the cases they are checked on, and answers known to be wrong."""

import numpy as np
from lesson import WrongAnswer, attempt, compare, is_open, own
from scipy import ndimage
from tape import Tensor, record


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


def _graph(rng):
    """Return three leaves and a tensor that is made of them, with a fan-out and a leaf that is read twice."""

    def multiply(a, b):
        return record(np.multiply, lambda grad_y, a, b: (grad_y * b, grad_y * a), a, b)

    def add(a, b):
        return record(np.add, lambda grad_y, a, b: (grad_y, grad_y), a, b)

    a, b, c = leaves = [Tensor(array) for array in rng.standard_normal((3, 2, 3))]
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

# 17.4


def up_backward(grad_y, x, weight, bias):
    grad_weight = np.empty(weight.shape)
    for p, q in np.ndindex(2, 2):
        grad_weight[p, q] = np.einsum("nijc,nijf->cf", x, grad_y[:, p::2, q::2])
    return own.down_conv(grad_y, weight), grad_weight, grad_y.sum(axis=(0, 1, 2))


hints_up_backward = (
    "Tap (p, q) painted the outputs grad_y[:, p::2, q::2], one for each pixel of x.",
    "grad_weight[p, q] = np.einsum('nijc,nijf->cf', x, grad_y[:, p::2, q::2]); the bias went to all outputs.",
)


returns_up_backward = "grad_x", "grad_weight", "grad_bias"


def cases_up_backward(rng):
    for n, height, width, channels, filters in [(1, 2, 3, 3, 2), (2, 1, 2, 2, 1)]:
        x, weight = (
            rng.standard_normal(shape) for shape in [(n, height, width, channels), (2, 2, channels, filters)]
        )
        grad_y = rng.standard_normal((n, 2 * height, 2 * width, filters))
        yield grad_y, x, weight, rng.standard_normal(filters)


def _taps_turned(grad_y, x, weight, bias):
    grad_x, grad_weight, grad_bias = up_backward(grad_y, x, weight, bias)
    return grad_x, grad_weight[::-1, ::-1], grad_bias


wrong_up_backward = {
    "the taps turned round": _taps_turned,
    "one tap's gradient for all": lambda grad_y, x, weight, bias: (
        own.down_conv(grad_y, weight),
        np.zeros(weight.shape) + up_backward(grad_y, x, weight, bias)[1].mean(axis=(0, 1)),
        grad_y.sum(axis=(0, 1, 2)),
    ),
    "the gradient of the bias per pixel": lambda grad_y, x, weight, bias: (
        *up_backward(grad_y, x, weight, bias)[:2],
        grad_y.sum(axis=0),
    ),
}

# 17.5


def unet(x, weights, depth, layers):
    conv_layer, pool_layer, up_layer, concat_layer = layers

    def of(name):
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    def two(name, x):
        return conv_layer(conv_layer(x, *of(f"{name}.first")), *of(f"{name}.second"))

    skips = [two("contracting.0", x)]
    for level in range(1, depth + 1):
        skips.append(two(f"contracting.{level}", pool_layer(skips[-1])))
    x = skips.pop()
    for i in range(depth):
        x = two(f"expansive.{i}", concat_layer(up_layer(x, *of(f"up.{i}")), skips.pop()))
    return conv_layer(x, *of("scores"), relu=False)


hints_unet = (
    "Write a helper for two convolutions, and a list of the maps on the way down. The last one is no skip.",
    "skips.pop() gives the newest. First the up-convolution, then concat_layer(up, skip), then the two.",
    "The last layer is conv_layer(x, weight, bias, relu=False).",
)


def _recorded_layers():
    """Return four layers that only write down what they are called with, as nested tuples."""

    def conv_layer(x, weight, bias, relu=True):
        return ("conv" if relu else "conv without ReLU"), x, weight, bias

    return (
        conv_layer,
        lambda x: ("pool", x),
        lambda x, weight, bias: ("up", x, weight, bias),
        lambda upsampled, skip: ("concat", upsampled, skip),
    )


def _names(depth):
    for level in range(depth + 1):
        yield from (f"contracting.{level}.first", f"contracting.{level}.second")
    for i in range(depth):
        yield from (f"up.{i}", f"expansive.{i}.first", f"expansive.{i}.second")
    yield "scores"


def cases_unet(rng):
    for depth in (1, 2, 3):
        weights = {
            f"{name}.{part}": f"{name}.{part}" for name in _names(depth) for part in ("weight", "bias")
        }
        yield "the image", weights, depth, _recorded_layers()


def check_unet(function):
    for case in cases_unet(None):
        found = attempt(function, *case)
        if is_open(found):
            return False
        mine, right = _spelled(found), _spelled(unet(*case))
        if mine != right:
            place = next((i for i, pair in enumerate(zip(mine, right)) if pair[0] != pair[1]), 0)  # noqa: B905
            raise WrongAnswer(
                f"with depth = {case[2]}, from the output backwards, step {place} is {mine[place]!r} where "
                f"{right[place]!r} is expected"
            )
    return True


def _spelled(value):
    """List nested calls in the order in which they are read from the output."""
    if not isinstance(value, tuple):
        return [value]
    return [part for inner in value for part in _spelled(inner)]


def _as_an_answer(change):
    """Return the worked answer with other layers or skips."""

    def answer(x, weights, depth, layers):
        return unet(x, weights, depth, change(*layers))

    return answer


wrong_unet = {
    "a ReLU after the scores": _as_an_answer(
        lambda conv, pool, up, concat: (lambda x, w, b, relu=True: conv(x, w, b), pool, up, concat)
    ),
    "the skip first": _as_an_answer(
        lambda conv, pool, up, concat: (conv, pool, up, lambda a, b: concat(b, a))
    ),
    "no pooling": _as_an_answer(lambda conv, pool, up, concat: (conv, lambda x: x, up, concat)),
    "no up-convolution": _as_an_answer(
        lambda conv, pool, up, concat: (conv, pool, lambda x, w, b: x, concat)
    ),
}

# 17.6


def first_weights(base, depth, rng):
    weights = {}

    def add(name, size, channels, filters, taps):
        shape = size, size, channels, filters
        weights[f"{name}.weight"] = rng.normal(0, own.he_std(taps, channels), shape)
        weights[f"{name}.bias"] = np.zeros(filters)

    def two(name, channels, filters):
        add(f"{name}.first", 3, channels, filters, taps=3)
        add(f"{name}.second", 3, filters, filters, taps=3)

    for level in range(depth + 1):
        two(f"contracting.{level}", base * 2 ** (level - 1) if level else 1, base * 2**level)
    for i in range(depth):
        here = base * 2 ** (depth - 1 - i)
        add(f"up.{i}", 2, 2 * here, here, taps=1)
        two(f"expansive.{i}", 2 * here, here)
    add("scores", 1, base, 2, taps=1)
    return weights


hints_first_weights = (
    "Write a helper that adds one layer, weight and bias, by its name, window and channels.",
    "contracting.k makes base * 2**k channels. up.i halves them; expansive.i gets twice as many as it makes.",
    "rng.normal(0, own.he_std(size, channels), (size, size, channels, filters)); size 1 in he_std for up.i.",
)


def check_first_weights(function):
    for base, depth in [(4, 2), (16, 1), (3, 3)]:
        found = attempt(function, base, depth, np.random.default_rng(0))
        if is_open(found):
            return False
        right, where = (
            first_weights(base, depth, np.random.default_rng(1)),
            f"for base = {base}, depth = {depth}",
        )
        if not isinstance(found, dict) or found.keys() != right.keys():
            names = sorted(set(found) ^ set(right))[:3] if isinstance(found, dict) else [type(found).__name__]
            raise WrongAnswer(f"a dict with other names is expected ({', '.join(names)}), {where}")
        other = attempt(function, base, depth, np.random.default_rng(2))
        if np.array_equal(found["scores.weight"], other["scores.weight"]):
            raise WrongAnswer(f"two generators give the same weights: draw from rng, {where}")
        for name, array in right.items():
            if not isinstance(found[name], np.ndarray):
                raise WrongAnswer(f"{name} is a {type(found[name]).__name__}, not an array, {where}")
            if np.shape(found[name]) != array.shape:
                raise WrongAnswer(
                    f"{name} has the shape {np.shape(found[name])} where {array.shape} is expected, {where}"
                )
            if name.endswith("bias"):
                compare(np.asarray(found[name]), array, f"in {name}, {where}")
        _check_deviations(found, right, where)
    return True


def _check_deviations(found, right, where):
    """Compare each weight's standard deviation with the right one, within five times its uncertainty."""
    for name, array in right.items():
        if array.ndim == 4 and array.size > 100:
            size = 1 if name.startswith(("up", "scores")) else 3
            expected = own.he_std(size, array.shape[2])
            ratio = np.sqrt(np.mean(np.square(found[name]))) / expected
            if abs(ratio - 1) > 5 / np.sqrt(2 * array.size):
                raise WrongAnswer(
                    f"the standard deviation of {name} is {ratio * expected:.3f} where {expected:.3f} is "
                    f"expected, {where}"
                )


def _changed(change):
    def answer(base, depth, rng):
        return change(first_weights(base, depth, rng))

    return answer


def _without_rng(base, depth, rng):
    return first_weights(base, depth, np.random.default_rng(0))


wrong_first_weights = {
    "drawn from a generator of its own": _without_rng,
    "all four taps of an up-convolution counted": _changed(
        lambda weights: {
            name: array / 2 if name.startswith("up") else array for name, array in weights.items()
        }
    ),
    "the variance for the deviation": _changed(
        lambda weights: {
            name: array * (own.he_std(3, array.shape[2]) if array.ndim == 4 else 1)
            for name, array in weights.items()
        }
    ),
    "biases drawn too": _changed(
        lambda weights: {name: array + 0.1 * (array.ndim == 1) for name, array in weights.items()}
    ),
    "no biases": _changed(
        lambda weights: {name: array for name, array in weights.items() if array.ndim == 4}
    ),
}

# 17.7


def energy_and_gradient(scores, target, weight):
    of_true = np.take_along_axis(own.log_softmax(scores), target[..., np.newaxis], axis=-1)[..., 0]
    loss = -np.sum(weight * of_true) / weight.sum()
    return loss, own.gradient_of_energy(scores, target, weight) / weight.sum()


hints_energy_and_gradient = (
    "own.log_softmax and own.gradient_of_energy are nearly all of it. The energy is minus a weighted sum.",
    "np.take_along_axis(..., target[..., np.newaxis], axis=-1) picks the number of the true class.",
)


returns_energy_and_gradient = "the loss", "the gradient"


def cases_energy_and_gradient(rng):
    for shape, classes in [((1, 2, 3), 2), ((2, 3, 1), 3)]:
        yield (
            rng.standard_normal((*shape, classes)),
            rng.integers(classes, size=shape),
            rng.uniform(0.5, 3, shape),
        )


wrong_energy_and_gradient = {
    "not divided by the sum of the weights": lambda scores, target, weight: tuple(
        value * weight.sum() for value in energy_and_gradient(scores, target, weight)
    ),
    "divided by the number of pixels": lambda scores, target, weight: tuple(
        value * weight.mean() for value in energy_and_gradient(scores, target, weight)
    ),
    "the loss divided, the gradient not": lambda scores, target, weight: (
        energy_and_gradient(scores, target, weight)[0],
        own.gradient_of_energy(scores, target, weight),
    ),
    "all pixels alike": lambda scores, target, weight: energy_and_gradient(
        scores, target, np.ones(weight.shape)
    ),
}

# 17.8


def separate(labels):
    largest = ndimage.maximum_filter(labels, 3)
    smallest = ndimage.minimum_filter(np.where(labels > 0, labels, labels.max() + 1), 3)
    touches = (labels > 0) & ((largest != labels) | (smallest != labels))
    return np.where(touches, 0, labels)


hints_separate = (
    "A pixel has another cell beside it if the largest number around it is not its own, or the smallest one "
    "that is no background.",
    "ndimage.maximum_filter(labels, 3); for the minimum, first give the background a larger number.",
)


def cases_separate(rng):
    for coarse in ([[1, 0, 2], [3, 3, 2]], [[0, 5, 0], [4, 4, 1]]):
        yield (np.kron(coarse, np.ones(rng.integers(3, 6, 2), int)),)
    yield (np.zeros((3, 3), int),)


def _eroded(labels):
    same = ndimage.maximum_filter(labels, 3) == ndimage.minimum_filter(labels, 3)
    return np.where(same, labels, 0)


def _four_neighbours(labels):
    cross = ndimage.generate_binary_structure(2, 1)
    smallest = ndimage.minimum_filter(np.where(labels == 0, labels.max() + 1, labels), footprint=cross)
    return np.where(
        (ndimage.maximum_filter(labels, footprint=cross) == labels) & (smallest == labels), labels, 0
    )


wrong_separate = {
    "four neighbours, not eight": _four_neighbours,
    "the edge to the background lost too": _eroded,
    "one cell of two": lambda labels: np.where(ndimage.maximum_filter(labels, 3) != labels, 0, labels),
    "two pixels wide": lambda labels: (
        separate(separate(labels + 0)) * (ndimage.minimum_filter(labels, 5) > 0)
    ),
}

# 17.9


def window(image, labels, top, left, output, halo):
    reach = np.arange(-halo, output + halo)
    rows, columns = own.mirror(top + reach, image.shape[0]), own.mirror(left + reach, image.shape[1])
    cells = separate(labels[np.ix_(rows, columns)])
    weight = 1 + own.border_weight(cells, 5.0, 3.0)
    inside = slice(halo, halo + output)
    target = (cells[inside, inside] > 0).astype(int)
    return image[np.ix_(rows, columns)], target, weight[inside, inside]


hints_window = (
    "Which rows of the image does the window show? From top - halo on; own.mirror finds rows that exist.",
    "np.ix_(rows, columns) cuts image and labels alike. separate and border_weight come before the "
    "cut to the output.",
)


returns_window = "image", "target", "weight"


def cases_window(rng):
    labels = np.kron(np.array([[1, 2, 0], [0, 3, 4]]), np.ones((6, 5), int))
    for top, left, output, halo in [(0, 0, 6, 2), (3, 8, 5, 3), (6, 9, 6, 4)]:
        yield rng.standard_normal(labels.shape), labels, top, left, output, halo


def _weights_of_the_output(image, labels, top, left, output, halo):
    image, target, _ = window(image, labels, top, left, output, halo)
    cells = separate(labels)[top : top + output, left : left + output]
    return image, target, 1 + own.border_weight(cells, 5.0, 3.0)


def _never_separated(image, labels, top, left, output, halo):
    reach = np.arange(-halo, output + halo)
    rows, columns = own.mirror(top + reach, image.shape[0]), own.mirror(left + reach, image.shape[1])
    cells, inside = labels[np.ix_(rows, columns)], slice(halo, halo + output)
    weight = 1 + own.border_weight(cells, 5.0, 3.0)
    target = (cells[inside, inside] > 0).astype(int)
    return image[np.ix_(rows, columns)], target, weight[inside, inside]


wrong_window = {
    "not separated, and border weights of cells that touch": _never_separated,
    "the border weight alone, without the 1": lambda *arguments: (
        *window(*arguments)[:2],
        window(*arguments)[2] - 1,
    ),
    "begun at (top, left)": lambda image, labels, top, left, output, halo: window(
        image, labels, top + halo, left + halo, output, halo
    ),
    "the border weights of the output alone": _weights_of_the_output,
    "not separated": lambda image, labels, top, left, output, halo: (
        window(image, labels, top, left, output, halo)[0],
        (labels[top : top + output, left : left + output] > 0).astype(int),
        window(image, labels, top, left, output, halo)[2],
    ),
    "the edge repeated": lambda image, labels, top, left, output, halo: (
        np.pad(image, halo, mode="edge")[top : top + output + 2 * halo, left : left + output + 2 * halo],
        *window(image, labels, top, left, output, halo)[1:],
    ),
}

# 17.10


def step_all(weights, grads, velocity, lr, momentum):
    new_weights, new_velocity = {}, {}
    for name in weights:
        moved = own.sgd_step(weights[name], grads[name], velocity[name], lr, momentum)
        new_weights[name], new_velocity[name] = moved
    return new_weights, new_velocity


hints_step_all = (
    "A loop over the names, and own.sgd_step for each.",
    "own.sgd_step(weight, grad, velocity, lr, momentum) returns the new weight and the new velocity.",
)


def check_step_all(function):
    rng = np.random.default_rng(0)
    shapes = {"a": (2, 3), "b": (4,), "c": ()}
    given = [{name: rng.standard_normal(shape) for name, shape in shapes.items()} for _ in range(3)]
    kept = [{name: np.array(array) for name, array in part.items()} for part in given]
    found = attempt(function, *given, 0.3, 0.8)
    if is_open(found):
        return False
    if not isinstance(found, tuple | list) or [type(part) for part in found] != [dict, dict]:
        raise WrongAnswer(f"two dicts are expected, not {found!r:.80}")
    for what, mine, right in zip(("weights", "velocities"), found, step_all(*kept, 0.3, 0.8), strict=True):
        if mine.keys() != right.keys():
            raise WrongAnswer(f"the {what} have the names {list(mine)} where {list(right)} are expected")
        for name in right:
            compare(mine[name], right[name], f"in the {what}, {name}")
    if any(
        not np.array_equal(part[name], copy[name])
        for part, copy in zip(given, kept, strict=True)
        for name in part
    ):
        raise WrongAnswer("an array that was passed in has changed: make new ones instead")
    return True


def _one_velocity(weights, grads, velocity, lr, momentum):
    new_weights = step_all(weights, grads, velocity, lr, momentum)[0]
    return new_weights, velocity


wrong_step_all = {
    "the old velocities returned": _one_velocity,
    "without momentum": lambda weights, grads, velocity, lr, momentum: step_all(
        weights, grads, {name: 0 * array for name, array in velocity.items()}, lr, momentum
    ),
    "the first weight alone": lambda weights, grads, velocity, lr, momentum: tuple(
        dict(list(part.items())[:1]) for part in step_all(weights, grads, velocity, lr, momentum)
    ),
}

# 17.11


def segment(image, scores_of, output, halo):
    def predict(window):
        scores = scores_of(window[np.newaxis, ..., np.newaxis])
        return np.exp(own.log_softmax(scores))[0, ..., 1]

    probability = own.predict_in_tiles(predict, image, output, halo, output)
    return probability, own.label_pieces(probability > 0.5)


hints_segment = (
    "own.predict_in_tiles wants a function of one window (n, n). It needs two more axes before scores_of.",
    "window[np.newaxis, ..., np.newaxis]; np.exp(own.log_softmax(scores))[0, ..., 1] is the probability.",
)


returns_segment = "the probability", "the pieces"


def cases_segment(rng):
    """Yield cases with a stand-in for a network, whose outputs depend on the place of the halo."""

    def scores_of(x):
        inner = x[:, 2:-2, 2:-2] + x[:, :-4, 4:]
        inner = inner * (1 + np.indices(inner.shape[1:]).sum(axis=0) % 2)  # as a pooling knows its own grid
        return np.concatenate([0.3 * inner, -inner], axis=-1)

    for shape in [(8, 8), (7, 9)]:
        yield rng.standard_normal(shape), scores_of, 4, 2


def _background(image, scores_of, output, halo):
    return segment(image, lambda x: scores_of(x)[..., ::-1], output, halo)


def _scores_for_probabilities(image, scores_of, output, halo):
    def predict(window):
        return scores_of(window[np.newaxis, ..., np.newaxis])[0, ..., 1]

    probability = own.predict_in_tiles(predict, image, output, halo, output)
    return probability, own.label_pieces(probability > 0.5)


wrong_segment = {
    "the probability of the background": _background,
    "scores for probabilities": _scores_for_probabilities,
    "a mask, not pieces": lambda image, scores_of, output, halo: (
        segment(image, scores_of, output, halo)[0],
        segment(image, scores_of, output, halo)[0] > 0.5,
    ),
}
