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


wrong_output_side = {
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


wrong_count_parameters = {
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
