"""Worked answers of chapter 16, the cases they are checked on, and answers known to be wrong."""

import numpy as np

EPSILON = 1e-5
PIXELS = 0, 1, 2  # the axes of a map (N, H, W, C) over which its channels are averaged

# 16.1


def batch_norm(x, scale, shift):
    mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    return scale * (x - mean) / np.sqrt(variance + 1e-5) + shift, mean, variance


hints_batch_norm = (
    "One mean and one variance for each channel: over which axes of (N, H, W, C) are they taken?",
    "x.mean(axis=(0, 1, 2)) and x.var(axis=(0, 1, 2)); the rest is the third and the fourth equation.",
)


returns_batch_norm = "y", "mean", "variance"


def _maps(rng):
    """Yield maps of different sizes, a single image among them, whose channels differ in mean and spread."""
    for n, height, width, channels in [(2, 3, 4, 3), (1, 5, 2, 4), (3, 2, 3, 1)]:
        spread, mean = rng.uniform(0.2, 2, channels), rng.standard_normal(channels)
        yield spread * rng.standard_normal((n, height, width, channels)) + mean


def cases_batch_norm(rng):
    for x in _maps(rng):
        yield x, *rng.standard_normal((2, x.shape[3]))


def _normalised_over(axes, ddof=0, epsilon=EPSILON):
    """Return a batch_norm with statistics over other axes, or computed in another way."""

    def wrong(x, scale, shift):
        mean, variance = x.mean(axis=axes, keepdims=True), x.var(axis=axes, ddof=ddof, keepdims=True)
        y = scale * (x - mean) / np.sqrt(variance + epsilon) + shift
        return y, mean.reshape(-1, x.shape[3])[0], variance.reshape(-1, x.shape[3])[0]

    return wrong


def _over_the_channels(x, scale, shift):
    mean, variance = x.mean(axis=3), x.var(axis=3)
    return scale * (x - mean[..., None]) / np.sqrt(variance[..., None] + EPSILON) + shift, mean, variance


def _by_the_variance(x, scale, shift):
    _, mean, variance = batch_norm(x, scale, shift)
    return scale * (x - mean) / (variance + EPSILON) + shift, mean, variance


def _epsilon_outside(x, scale, shift):
    _, mean, variance = batch_norm(x, scale, shift)
    return scale * (x - mean) / (np.sqrt(variance) + EPSILON) + shift, mean, variance


wrong_batch_norm = {
    "the variance is unbiased (divided by M - 1)": _normalised_over(PIXELS, ddof=1),
    "1e-5 is left out": _normalised_over(PIXELS, epsilon=0.0),
    "1e-5 is added to the standard deviation, not to the variance": _epsilon_outside,
    "divided by the variance, not by its square root": _by_the_variance,
    "each image has its own statistics, which is instance normalisation": _normalised_over((1, 2)),
    "the statistics are those of a pixel over its channels": _over_the_channels,
}

# 16.2


def batch_norm_backward(grad_y, x, scale):
    axes = (0, 1, 2)
    deviation = np.sqrt(x.var(axis=axes) + 1e-5)
    normal = (x - x.mean(axis=axes)) / deviation
    grad_scale, grad_shift = (grad_y * normal).sum(axis=axes), grad_y.sum(axis=axes)
    pixels = x[..., 0].size
    grad_x = scale / deviation * (grad_y - grad_shift / pixels - normal * grad_scale / pixels)
    return grad_x, grad_scale, grad_shift


hints_batch_norm_backward = (
    "scale and shift first: each is used once per pixel, so its gradient is a sum over the pixels.",
    "h = scale · grad_y goes into the three ways of the text. mean(h) and mean(h · normal) are over "
    "axis=(0, 1, 2).",
    "grad_x = (h - mean(h) - normal · mean(h · normal)) / deviation.",
)


returns_batch_norm_backward = "grad_x", "grad_scale", "grad_shift"


def cases_batch_norm_backward(rng):
    for x in _maps(rng):
        yield rng.standard_normal(x.shape), x, rng.standard_normal(x.shape[3])


def _backward(direct=1, by_mean=1, by_variance=1, ddof=0, scaled=True):
    """Return a batch_norm_backward with each of the three ways counted as often as said."""

    def wrong(grad_y, x, scale):
        deviation = np.sqrt(x.var(axis=PIXELS, ddof=ddof) + EPSILON)
        normal = (x - x.mean(axis=PIXELS)) / deviation
        h = scale * grad_y if scaled else grad_y
        ways = (
            direct * h,
            by_mean * h.mean(axis=PIXELS),
            by_variance * normal * (h * normal).mean(axis=PIXELS),
        )
        grad_x = (ways[0] - ways[1] - ways[2]) / deviation
        return grad_x, (grad_y * normal).sum(axis=PIXELS), grad_y.sum(axis=PIXELS)

    return wrong


def _sums_for_means(grad_y, x, scale):
    pixels = x[..., 0].size
    return _backward(by_mean=pixels, by_variance=pixels)(grad_y, x, scale)


def _means_for_sums(grad_y, x, scale):
    grad_x, grad_scale, grad_shift = batch_norm_backward(grad_y, x, scale)
    return grad_x, grad_scale / x[..., 0].size, grad_shift / x[..., 0].size


def _scale_by_x(grad_y, x, scale):
    grad_x, _, grad_shift = batch_norm_backward(grad_y, x, scale)
    return grad_x, (grad_y * x).sum(axis=PIXELS), grad_shift


def _not_divided_by_s(grad_y, x, scale):
    grad_x, *others = batch_norm_backward(grad_y, x, scale)
    return grad_x * np.sqrt(x.var(axis=PIXELS) + EPSILON), *others


wrong_batch_norm_backward = {
    "grad_x is not divided by s": _not_divided_by_s,
    "mean and variance are taken for constants: both other ways are missing": _backward(1, 0, 0),
    "the way through the variance is missing": _backward(1, 1, 0),
    "the way through the mean is missing": _backward(1, 0, 1),
    "the variance is unbiased (divided by M - 1)": _backward(ddof=1),
    "grad_x has no factor scale": _backward(scaled=False),
    "sums where means belong: M is missing in grad_x": _sums_for_means,
    "means where sums belong in grad_scale and grad_shift": _means_for_sums,
    "grad_scale is computed with x, which is not normal": _scale_by_x,
}

# 16.3


def population(means, variances):
    mean = means.mean(axis=0)
    return mean, variances.mean(axis=0) + np.square(means - mean).mean(axis=0)


hints_population = (
    "The mean of the means is right, as all tiles have the same number of pixels. For the variance, try two "
    "tiles of constant values, 0 and 1: each has the variance 0.",
    "The mean square of x - mean, in one tile: variance_tile + (mean_tile - mean)². Then average over tiles.",
)


returns_population = "mean", "variance"


def cases_population(rng):
    for tiles, channels in [(2, 1), (5, 3), (20, 4)]:
        yield rng.standard_normal((tiles, channels)), rng.uniform(0.1, 2, (tiles, channels))


wrong_population = {
    "how far the means of the tiles are apart is left out": lambda means, variances: (
        means.mean(axis=0),
        variances.mean(axis=0),
    ),
    "the spread of the means is divided by T - 1, as if it were estimated": lambda means, variances: (
        means.mean(axis=0),
        variances.mean(axis=0) + means.var(axis=0, ddof=1),
    ),
    "only the spread of the means": lambda means, variances: (means.mean(axis=0), means.var(axis=0)),
    "the mean of the standard deviations, squared": lambda means, variances: (
        means.mean(axis=0),
        np.square(np.sqrt(variances).mean(axis=0)) + means.var(axis=0),
    ),
    "the last tile alone": lambda means, variances: (means[-1], variances[-1]),
}

# 16.4


def fold_batch_norm(weight, scale, shift, mean, variance):
    factor = scale / np.sqrt(variance + 1e-5)
    return weight * factor, shift - mean * factor


hints_fold_batch_norm = (
    "Write y as a number times x plus a number. x = conv(weight) is linear in weight.",
    "y = factor · x + (shift - factor · mean), with factor = scale / sqrt(variance + 1e-5). The filters are "
    "the last axis of weight.",
)


returns_fold_batch_norm = "weight", "bias"


def cases_fold_batch_norm(rng):
    for size, channels, filters in [(3, 4, 4), (1, 3, 3), (3, 2, 4), (2, 5, 1)]:
        weight = rng.standard_normal((size, size, channels, filters))
        yield weight, *rng.standard_normal((3, filters)), rng.uniform(0.1, 2, filters)


def _on_the_channels(weight, scale, shift, mean, variance):
    folded, bias = fold_batch_norm(weight.swapaxes(2, 3), scale, shift, mean, variance)
    return folded.swapaxes(2, 3), bias


wrong_fold_batch_norm = {
    "1e-5 is left out": lambda weight, scale, shift, mean, variance: fold_batch_norm(
        weight, scale, shift, mean, variance - 1e-5
    ),
    "the bias is folded without the mean": lambda weight, scale, shift, mean, variance: (
        fold_batch_norm(weight, scale, shift, mean, variance)[0],
        shift,
    ),
    "the mean is not multiplied by the factor": lambda weight, scale, shift, mean, variance: (
        fold_batch_norm(weight, scale, shift, mean, variance)[0],
        shift - mean,
    ),
    "the shift is multiplied by the factor too": lambda weight, scale, shift, mean, variance: (
        fold_batch_norm(weight, scale, shift, mean, variance)[0],
        (shift - mean) * scale / np.sqrt(variance + EPSILON),
    ),
    "divided by the variance, not by its square root": lambda weight, scale, shift, mean, variance: (
        fold_batch_norm(weight, scale, shift, mean, np.square(variance + EPSILON) - EPSILON)
    ),
    "the factor is on the axis of the input's channels": _on_the_channels,
}

# 16.5


def group_norm(x, scale, shift, groups):
    parts = x.reshape(len(x), -1, groups, x.shape[3] // groups)
    mean, variance = (f(parts, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    return ((parts - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * scale + shift


hints_group_norm = (
    "Reshape to (N, pixels, groups, channels of a group): mean and variance are over axes 1 and 3.",
    "np.mean(parts, axis=(1, 3), keepdims=True); 1e-5 under the root, as in 16.1; then back to x.shape.",
)


def cases_group_norm(rng):
    for n, height, width, channels, groups in [(2, 3, 2, 4, 2), (1, 2, 3, 3, 1), (2, 2, 2, 3, 3)]:
        yield (
            2 + 3 * rng.standard_normal((n, height, width, channels)),
            *rng.standard_normal((2, channels)),
            groups,
        )


def _of_the_batch(x, scale, shift, groups):
    mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + shift


def _every_nth_channel(x, scale, shift, groups):
    order = np.arange(x.shape[3]).reshape(-1, groups).T.ravel()
    back = np.argsort(order)
    return (
        group_norm(x[..., order], np.ones(len(scale)), np.zeros(len(scale)), groups)[..., back] * scale
        + shift
    )


def _groups_of_all_images(x, scale, shift, groups):
    together = x.reshape(1, -1, 1, x.shape[3])  # one image with the pixels of all
    return group_norm(together, scale, shift, groups).reshape(x.shape)


wrong_group_norm = {
    "the statistics of a group over all images": _groups_of_all_images,
    "each channel alone: instance normalisation": lambda x, scale, shift, groups: group_norm(
        x, scale, shift, x.shape[3]
    ),
    "batch normalisation": _of_the_batch,
    "every n-th channel to a group": lambda x, scale, shift, groups: (
        _every_nth_channel(x, scale, shift, groups) if 1 < groups < x.shape[3] else 0 * x
    ),
    "the variance without its root": lambda x, scale, shift, groups: (
        (x - shift) / (x.var(axis=(1, 2), keepdims=True) + 1e-5) * scale
    ),
}

# 16.6


def group_norm_backward(grad_y, x, scale, groups):
    shape = len(x), -1, groups, x.shape[3] // groups
    parts, grad_n = x.reshape(shape), (grad_y * scale).reshape(shape)
    mean, variance = (f(parts, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    deviation = np.sqrt(variance + 1e-5)
    n = (parts - mean) / deviation
    means = [np.mean(array, axis=(1, 3), keepdims=True) for array in (grad_n, grad_n * n)]
    grad_x = (grad_n - means[0] - n * means[1]) / deviation
    grad_scale = np.sum(grad_y * n.reshape(x.shape), axis=(0, 1, 2))
    return grad_x.reshape(x.shape), grad_scale, grad_y.sum(axis=(0, 1, 2))


hints_group_norm_backward = (
    "With n the normalised x and g = grad_y * scale: (g - mean(g) - n mean(g n)) / deviation, as in 16.2.",
    "The means are over a group of one image; grad_scale and grad_shift are sums over all images and pixels.",
)


returns_group_norm_backward = "grad_x", "grad_scale", "grad_shift"


def cases_group_norm_backward(rng):
    for x, scale, _, groups in cases_group_norm(rng):
        yield rng.standard_normal(x.shape), x, scale, groups


def _statistics_constant(grad_y, x, scale, groups):
    parts = x.reshape(len(x), -1, groups, x.shape[3] // groups)
    deviation = np.sqrt(parts.var(axis=(1, 3), keepdims=True) + 1e-5)
    grad_x = ((grad_y * scale).reshape(parts.shape) / deviation).reshape(x.shape)
    return grad_x, *group_norm_backward(grad_y, x, scale, groups)[1:]


def _backward_of_all_images(grad_y, x, scale, groups):
    arrays = (array.reshape(1, -1, 1, x.shape[3]) for array in (grad_y, x))
    grad_x, *others = group_norm_backward(*arrays, scale, groups)
    return grad_x.reshape(x.shape), *others


wrong_group_norm_backward = {
    "the statistics of a group over all images": _backward_of_all_images,
    "mean and variance are taken for constants": _statistics_constant,
    "the scale forgotten": lambda grad_y, x, scale, groups: (
        group_norm_backward(grad_y, x, 0 * scale + 1, groups)[0],
        *group_norm_backward(grad_y, x, scale, groups)[1:],
    ),
    "one group": lambda grad_y, x, scale, groups: (
        group_norm_backward(grad_y, x, scale, 1) if groups > 1 else (0 * x, scale, scale)
    ),
}
