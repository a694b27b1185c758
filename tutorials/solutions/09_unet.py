"""Worked answers of chapter 09, the cases they are checked on, and answers known to be wrong."""

import numpy as np

# 09.1


def output_side(side, depth):
    for _ in range(depth):
        side = (side - 4) // 2
    side -= 4
    for _ in range(depth):
        side = 2 * side - 4
    return side


hints_output_side = (
    "Follow the side level by level, down, across and up: what does each level do to it?",
    "A loop down: (side - 4) // 2. The bottom. A loop up: double, then minus 4.",
)


def cases_output_side(rng):
    for depth in range(6):
        for bottom in rng.integers(9, 40, 3):
            yield 2**depth * int(bottom) + 4 * (2**depth - 1), depth


def _sides(before_pooling, at_the_bottom, after_up):
    def answer(side, depth):
        for _ in range(depth):
            side = (side - before_pooling) // 2
        side -= at_the_bottom
        for _ in range(depth):
            side = 2 * side - after_up
        return side

    return answer


def _halved_first(side, depth):
    for _ in range(depth):
        side = side // 2 - 4
    return 2**depth * (side - 4) - 4 * (2**depth - 1)


wrong_output_side = {
    "halved before the convolutions": _halved_first,
    "one convolution on each level up": _sides(4, 4, 2),
    "the bottom forgotten": _sides(4, 0, 4),
    "one convolution a level": _sides(2, 2, 2),
    "padded": _sides(0, 0, 0),
    "padded on the way up": _sides(4, 4, 0),
    "the difference of the paper at every depth": lambda side, depth: side - 184,
}

# 09.2


def crop_concat(upsampled, skip):
    _, height, width, _ = upsampled.shape
    top, left = (skip.shape[1] - height) // 2, (skip.shape[2] - width) // 2
    return np.concatenate([upsampled, skip[:, top : top + height, left : left + width]], axis=3)


hints_crop_concat = (
    "Cut both axes of skip by their own margin.",
    "top = (rows of skip - rows of upsampled) // 2; then np.concatenate, axis=3.",
)


def cases_crop_concat(rng):
    for n, small, more in [
        (1, (2, 3), (4, 2)),
        (2, (3, 1), (0, 6)),
        (1, (4, 4), (0, 0)),
        (2, (2, 5), (3, 1)),
    ]:
        large = tuple(a + b for a, b in zip(small, more, strict=True))
        yield rng.standard_normal((n, *small, 2)), rng.standard_normal((n, *large, 3))


def _from_the_corner(upsampled, skip):
    return np.concatenate([upsampled, skip[:, : upsampled.shape[1], : upsampled.shape[2]]], axis=3)


def _skip_first(upsampled, skip):
    both = crop_concat(upsampled, skip)
    return np.concatenate([both[..., upsampled.shape[3] :], upsampled], axis=3)


def _rounded_up(upsampled, skip):
    return crop_concat(upsampled[:, ::-1, ::-1], skip[:, ::-1, ::-1])[:, ::-1, ::-1]


wrong_crop_concat = {
    "cut at the corner": _from_the_corner,
    "the skip first": _skip_first,
    "half a pixel down and right": _rounded_up,
    "the margin taken off twice": lambda upsampled, skip: np.concatenate(
        [upsampled, np.roll(skip, -1, axis=1)[:, : upsampled.shape[1], : upsampled.shape[2]]], axis=3
    ),
}

# 09.3


def count_parameters(in_channels, num_classes, base, depth):
    total, before = 0, in_channels
    for level in range(depth + 1):
        here = base * 2**level
        total += (9 * before * here + here) + (9 * here * here + here)
        before = here
    for level in range(depth):
        here = base * 2**level
        total += (4 * 2 * here * here + here) + (9 * 2 * here * here + here) + (9 * here * here + here)
    return total + base * num_classes + num_classes


hints_count_parameters = (
    "Write a layer's count as a formula of its window, channels and filters, and add up all layers.",
    "Down: 9 before here + here + 9 here here + here. Then a loop up. Scores.",
)


def cases_count_parameters(rng):
    for depth in range(5):
        in_channels, num_classes, base = (int(value) for value in rng.integers(1, 20, 3))
        yield in_channels, num_classes, base, depth


def _changed(per_level=lambda here: 0, at_the_end=lambda base, classes: 0):
    def answer(in_channels, num_classes, base, depth):
        up = sum(per_level(base * 2**level) for level in range(depth))
        return count_parameters(in_channels, num_classes, base, depth) + up + at_the_end(base, num_classes)

    return answer


def _no_biases(in_channels, num_classes, base, depth):
    levels = [base * 2**level for level in range(depth + 1)]
    biases = sum(2 * here for here in levels) + sum(3 * here for here in levels[:-1]) + num_classes
    return count_parameters(in_channels, num_classes, base, depth) - biases


wrong_count_parameters = {
    "all biases forgotten": _no_biases,
    "the scores forgotten": _changed(at_the_end=lambda base, classes: -classes * (base + 1)),
    "summation in place of concatenation": _changed(lambda here: -9 * here * here),
    "an up-convolution of 3×3": _changed(lambda here: 5 * 2 * here * here),
    "up-convolutions without bias": _changed(lambda here: -here),
    "up-convolutions that keep their channels": _changed(
        lambda here: 4 * 2 * here * here + here + 9 * here * here
    ),
    "the last bias forgotten": _changed(at_the_end=lambda base, classes: -classes),
    "a last window of 3×3": _changed(at_the_end=lambda base, classes: 8 * base * classes),
}

# 09.4


def he_std(size, channels):
    return (2 / (size * size * channels)) ** 0.5


hints_he_std = (
    "The mean of the squares must not change: what must the factor be?",
    "N s² / 2 = 1, and N counts the whole window. Return s, not s².",
)


def cases_he_std(rng):
    for size in (1, 3, 5):
        yield size, int(rng.integers(1, 1000))


wrong_he_std = {
    "the variance": lambda size, channels: 2 / (size * size * channels),
    "no ReLU thought of": lambda size, channels: (1 / (size * size * channels)) ** 0.5,
    "the channels only": lambda size, channels: (2 / channels) ** 0.5,
    "a row of the window": lambda size, channels: (2 / (size * channels)) ** 0.5,
}

# 09.5


def attention_gate(skip, up, w_skip, w_up, w_gate):
    hidden = np.maximum(skip @ w_skip + up @ w_up, 0)
    return skip / (1 + np.exp(-hidden @ w_gate))


hints_attention_gate = (
    "A matrix product over the last axis is a 1×1 convolution. The sigmoid of s is 1 / (1 + exp(-s)).",
    "hidden has the shape (N, H, W, K), the gate (N, H, W, 1): NumPy repeats it over the channels.",
)


def cases_attention_gate(rng):
    for n, height, width, channels, below, k in [(1, 2, 3, 2, 4, 3), (2, 1, 2, 3, 1, 1)]:
        yield tuple(
            rng.standard_normal(shape)
            for shape in [
                (n, height, width, channels),
                (n, height, width, below),
                (channels, k),
                (below, k),
                (k, 1),
            ]
        )


def _no_relu(skip, up, w_skip, w_up, w_gate):
    return skip / (1 + np.exp(-(skip @ w_skip + up @ w_up) @ w_gate))


def _one_gate_for_all(skip, up, w_skip, w_up, w_gate):
    hidden = np.maximum(skip @ w_skip + up @ w_up, 0).mean(axis=(1, 2), keepdims=True)
    return skip / (1 + np.exp(-hidden @ w_gate))


wrong_attention_gate = {
    "the ReLU forgotten": _no_relu,
    "the gate is returned": lambda skip, *others: attention_gate(skip, *others) / skip,
    "the opposite gate": lambda skip, *others: skip - attention_gate(skip, *others),
    "one gate for all pixels": _one_gate_for_all,
}

# 09.6


def attention_gate_backward(grad_y, skip, up, w_skip, w_up, w_gate):
    def of_weight(x, grad):
        return np.einsum("nijc,nijk->ck", x, grad)

    hidden = np.maximum(skip @ w_skip + up @ w_up, 0)
    gate = 1 / (1 + np.exp(-hidden @ w_gate))
    grad_score = np.sum(grad_y * skip, axis=3, keepdims=True) * gate * (1 - gate)
    grad_hidden = (grad_score @ w_gate.T) * (hidden > 0)
    grad_skip = grad_y * gate + grad_hidden @ w_skip.T
    weights = of_weight(skip, grad_hidden), of_weight(up, grad_hidden), of_weight(hidden, grad_score)
    return grad_skip, grad_hidden @ w_up.T, *weights


hints_attention_gate_backward = (
    "Backwards through the product, the sigmoid, a matrix product, the ReLU, and two matrix products.",
    "The gate was used for all channels: a sum over them. The sigmoid's slope is gate (1 - gate).",
    "skip is used twice: grad_y * gate, plus what comes back through hidden.",
)


returns_attention_gate_backward = "grad_skip", "grad_up", "grad_w_skip", "grad_w_up", "grad_w_gate"


def cases_attention_gate_backward(rng):
    for case in cases_attention_gate(rng):
        yield rng.standard_normal(case[0].shape), *case


def _gate_backward(
    over_channels=np.sum,
    slope=lambda gate: gate * (1 - gate),
    passes=lambda before, grad: before > 0,
    into_gate=lambda before: np.maximum(before, 0),
    both_paths=True,
):
    """Make a backward with a part of it replaced; `before` is what enters the ReLU."""

    def answer(grad_y, skip, up, w_skip, w_up, w_gate):
        before = skip @ w_skip + up @ w_up
        gate = 1 / (1 + np.exp(-np.maximum(before, 0) @ w_gate))
        grad_score = over_channels(grad_y * skip, axis=3, keepdims=True) * slope(gate)
        grad_hidden = grad_score @ w_gate.T
        grad_hidden = grad_hidden * passes(before, grad_hidden)
        grad_skip = grad_y * gate + both_paths * grad_hidden @ w_skip.T
        pairs = (skip, grad_hidden), (up, grad_hidden), (into_gate(before), grad_score)
        weights = [np.einsum("nijc,nijk->ck", x, grad) for x, grad in pairs]
        return grad_skip, grad_hidden @ w_up.T, *weights

    return answer


wrong_attention_gate_backward = {
    "skip has a gradient through the product alone": _gate_backward(both_paths=False),
    "all comes back through the ReLU, where hidden is 0 as well": _gate_backward(
        passes=lambda before, grad: True
    ),
    "the ReLU lets through where the gradient is positive; it has to be where hidden is": _gate_backward(
        passes=lambda before, grad: grad > 0
    ),
    "the sigmoid's slope forgotten": _gate_backward(slope=lambda gate: 1),
    "the mean over the channels in place of the sum": _gate_backward(over_channels=np.mean),
    "w_gate multiplies what comes out of the ReLU, not what goes in": _gate_backward(
        into_gate=lambda before: before
    ),
}

# 09.7


def maps_of(side, depth, base, num_classes):
    maps, skips = [(side - 2, base), (side - 4, base)], []
    for level in range(1, depth + 1):
        skips.append(maps[-1])
        half = maps[-1][0] // 2
        maps += [(half, base * 2 ** (level - 1)), (half - 2, base * 2**level), (half - 4, base * 2**level)]
    for _ in range(depth):
        _, channels = skips.pop()
        double = 2 * maps[-1][0]
        maps += [(double, channels), (double, 2 * channels), (double - 2, channels), (double - 4, channels)]
    return [*maps, (maps[-1][0], num_classes)]


hints_maps_of = (
    "Two loops, down and up, each of which goes on from maps[-1]. A pooling keeps the channels.",
    "The way up needs the channels of the skip: the up-convolution makes as many, the concatenation twice.",
)


def cases_maps_of(rng):
    yield from [(572, 4, 64, 2), (44, 2, 8, 3), (20, 1, 4, 2)]


def _without_concatenation(side, depth, base, num_classes):
    maps = maps_of(side, depth, base, num_classes)
    up = 2 + 3 * depth
    return maps[:up] + [entry for i, entry in enumerate(maps[up:-1]) if i % 4 != 1] + maps[-1:]


def _without_pooling(side, depth, base, num_classes):
    maps = maps_of(side, depth, base, num_classes)
    down = 2 + 3 * depth
    return [entry for i, entry in enumerate(maps[:down]) if i % 3 != 2] + maps[down:]


def _each_with(channels_of_pooled=1, channels_of_up=1):
    """Multiply the channels of the poolings or those of the up-convolutions."""

    def answer(side, depth, base, num_classes):
        maps, down = maps_of(side, depth, base, num_classes), 2 + 3 * depth
        for i in range(2, down, 3):
            maps[i] = maps[i][0], channels_of_pooled * maps[i][1]
        for i in range(down, len(maps) - 1, 4):
            maps[i] = maps[i][0], channels_of_up * maps[i][1]
        return maps

    return answer


wrong_maps_of = {
    "the concatenations forgotten": _without_concatenation,
    "the poolings forgotten": _without_pooling,
    "a pooling doubles the channels; the convolution after it does": _each_with(channels_of_pooled=2),
    "an up-convolution keeps the channels; it has to halve them": _each_with(channels_of_up=2),
    "the scores forgotten": lambda *arguments: maps_of(*arguments)[:-1],
    "channels before sides": lambda *arguments: [entry[::-1] for entry in maps_of(*arguments)],
    "sides kept: a padded network": lambda side, depth, base, num_classes: [
        (side, channels) for _, channels in maps_of(side, depth, base, num_classes)
    ],
    "the input counted": lambda side, *others: [(side, 1), *maps_of(side, *others)],
}
