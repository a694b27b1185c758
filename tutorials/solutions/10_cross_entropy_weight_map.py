"""Worked answers of chapter 10, the cases they are checked on, and answers known to be wrong."""

import numpy as np
from scipy import ndimage

# 10.1


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


hints_log_softmax = (
    "log(exp(a) / sum) is a - log(sum). A number subtracted from all scores of a pixel changes nothing.",
    "Subtract the largest score of each pixel: axis=-1, keepdims=True.",
)


def cases_log_softmax(rng):
    yield (rng.standard_normal((2, 3, 5, 4)),)
    yield (rng.standard_normal((1, 3, 1, 2)) + np.array([0.0, 2000.0, -2000.0]).reshape(1, 3, 1, 1),)
    yield (np.array([[[[0.0, 900.0, -900.0]]]]),)


def _naive(logits):
    with np.errstate(all="ignore"):
        return np.log(np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True))


def _log_at_the_end(logits):
    exponential = np.exp(logits - logits.max(axis=-1, keepdims=True))
    with np.errstate(divide="ignore"):
        return np.log(exponential / exponential.sum(axis=-1, keepdims=True))


def _largest_of_all(logits):
    shifted = logits - logits.max()
    with np.errstate(divide="ignore"):
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _nothing_subtracted(logits):
    with np.errstate(all="ignore"):
        return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


wrong_log_softmax = {
    "nothing subtracted before the exponential, which becomes infinite or 0": _nothing_subtracted,
    "nothing subtracted, and the logarithm of a quotient": _naive,
    "the logarithm of a probability that is 0": _log_at_the_end,
    "the largest of all pixels": _largest_of_all,
    "summed over the pixels": lambda logits: np.swapaxes(log_softmax(np.swapaxes(logits, 1, 3)), 1, 3),
}

# 10.2


def gradient_of_energy(logits, target, weight):
    p = np.exp(log_softmax(logits))
    one_hot = np.eye(logits.shape[-1])[target]
    return weight[..., np.newaxis] * (p - one_hot)


hints_gradient_of_energy = (
    "At the true class the derivative is the probability minus 1, at the others the probability.",
    "np.eye(K)[target] is 1 at the true class and 0 at the others.",
)


def cases_gradient_of_energy(rng):
    for n, height, width, classes in [(1, 2, 3, 2), (2, 3, 1, 4)]:
        logits = rng.standard_normal((n, height, width, classes))
        target = rng.integers(classes, size=(n, height, width))
        yield logits, target, rng.uniform(0, 3, (n, height, width))


def _without_weight(logits, target, weight):
    return gradient_of_energy(logits, target, np.ones_like(weight))


def _only_the_true_class(logits, target, weight):
    one_hot = np.eye(logits.shape[-1])[target]
    return one_hot * gradient_of_energy(logits, target, weight)


def _log_p_minus_truth(logits, target, weight):
    truth = np.arange(logits.shape[-1]) == target[..., None]
    return (log_softmax(logits) - truth) * weight[..., None]


wrong_gradient_of_energy = {
    "log p in place of p": _log_p_minus_truth,
    "uphill and downhill exchanged": lambda *case: -gradient_of_energy(*case),
    "the weight forgotten": _without_weight,
    "only the true class": _only_the_true_class,
    "a mean over the pixels": lambda x, target, weight: gradient_of_energy(x, target, weight) / target.size,
}

# 10.3


def best_constant(share, w_background, w_cell):
    return share * w_cell / (share * w_cell + (1 - share) * w_background)


hints_best_constant = (
    "At the best q the derivative of the expected loss is zero.",
    "(1 - share) w_background / (1 - q) = share w_cell / q; solve for q.",
)


def cases_best_constant(rng):
    for _ in range(4):
        yield tuple(map(float, rng.uniform([0.05, 0.2, 0.2], [0.95, 4, 4])))


wrong_best_constant = {
    "the weights exchanged": lambda share, w_background, w_cell: best_constant(share, w_cell, w_background),
    "as without weights": lambda share, w_background, w_cell: share,
    "the shares forgotten": lambda share, w_background, w_cell: w_cell / (w_cell + w_background),
    "not divided": lambda share, w_background, w_cell: share * w_cell,
    "the background's": lambda *case: 1 - best_constant(*case),
}

# 10.4


def border_weight(labels, w0, sigma):
    cells = np.unique(labels[labels > 0])
    if len(cells) < 2:
        return np.zeros(labels.shape)
    distances = np.sort([ndimage.distance_transform_edt(labels != cell) for cell in cells], axis=0)
    border = w0 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma**2))
    return np.where(labels == 0, border, 0)


hints_border_weight = (
    "One distance map per cell: each pixel needs the two smallest. Fewer than two cells have no border.",
    "np.sort of the distances with axis=0; np.where(labels == 0, ..., 0).",
)


def cases_border_weight(rng):
    yield np.array([[1, 1, 0, 0, 2]]), 10.0, 5.0
    for shape, count in [((9, 14), 4), ((12, 7), 3), ((8, 5), 1), ((4, 6), 0)]:
        labels = np.zeros(shape, int)
        for cell in rng.permutation(20)[:count] + 1:
            i, j = (rng.integers(0, side - 1) for side in shape)
            labels[i : i + 2, j : j + 2] = cell
        yield labels, rng.uniform(1, 20), rng.uniform(1, 6)


def _distances(labels):
    cells = np.unique(labels[labels > 0])
    if len(cells) < 2:
        return None
    return np.sort([ndimage.distance_transform_edt(labels != cell) for cell in cells], axis=0)


def _with(formula, inside=False):
    """Return a border term by another formula of d1, d2, w0 and sigma."""

    def wrong(labels, w0, sigma):
        distances = _distances(labels)
        if distances is None:
            return np.zeros(labels.shape)
        return np.where((labels == 0) | inside, formula(distances[0], distances[1], w0, sigma), 0)

    return wrong


def _by_distances(of_cell, lowest=1):
    """Return a border_weight with other masks, or with the background among the cells."""

    def wrong(labels, w0, sigma):
        cells = [cell for cell in np.unique(labels) if cell >= lowest]
        if len(cells) < 2:
            return np.zeros(labels.shape)
        distances = np.sort([ndimage.distance_transform_edt(of_cell(labels, cell)) for cell in cells], axis=0)
        return np.where(labels == 0, w0 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma**2)), 0)

    return wrong


wrong_border_weight = {
    "the mask `labels == cell`, whose distances are 0 outside of the cell": _by_distances(np.equal),
    "the background taken for a cell": _by_distances(np.not_equal, lowest=0),
    "the nearest cell twice": _with(lambda d1, d2, w0, sigma: w0 * np.exp(-((2 * d1) ** 2) / (2 * sigma**2))),
    "the 2 of 2 sigma squared": _with(lambda d1, d2, w0, sigma: w0 * np.exp(-((d1 + d2) ** 2) / sigma**2)),
    "squared before the sum": _with(lambda d1, d2, w0, sigma: w0 * np.exp(-(d1**2 + d2**2) / (2 * sigma**2))),
    "inside of cells too": _with(
        lambda d1, d2, w0, sigma: w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2)), inside=True
    ),
}

# 10.5


def dice_loss(scores, target):
    p = 1 / (1 + np.exp(scores[..., 0] - scores[..., 1]))
    overlap, total = 2 * np.sum(p * target) + 1, np.sum(p) + np.sum(target) + 1
    grad_p = (overlap / total - 2 * target) / total
    grad_cell = grad_p * p * (1 - p)
    return 1 - overlap / total, np.stack([-grad_cell, grad_cell], axis=-1)


hints_dice_loss = (
    "p depends on the difference of the scores alone: it is the sigmoid of it. Both gradients are opposite.",
    "With loss = 1 - a / b: da/dp is 2 t and db/dp is 1, at every pixel. Then times p (1 - p).",
)


returns_dice_loss = "the loss", "the gradient"


def cases_dice_loss(rng):
    for shape in [(1, 2, 3), (2, 3, 2), (1, 1, 1)]:
        yield rng.standard_normal((*shape, 2)), rng.integers(0, 2, shape)
    yield rng.standard_normal((1, 2, 2, 2)), np.zeros((1, 2, 2), int)


def _without_the_ones(scores, target):
    p = 1 / (1 + np.exp(scores[..., 0] - scores[..., 1]))
    return 1 - 2 * np.sum(p * target) / (np.sum(p) + np.sum(target)), dice_loss(scores, target)[1]


def _by_p(scores, target):
    p = 1 / (1 + np.exp(scores[..., 0] - scores[..., 1]))
    loss, grad = dice_loss(scores, target)
    return loss, grad / (p * (1 - p))[..., np.newaxis]


def _total_held_fixed(scores, target):
    p = 1 / (1 + np.exp(scores[..., 0] - scores[..., 1]))
    grad = -2 * target / (np.sum(p) + np.sum(target) + 1) * p * (1 - p)
    return dice_loss(scores, target)[0], np.stack([-grad, grad], axis=-1)


wrong_dice_loss = {
    "without the ones": _without_the_ones,
    "the gradient by p": _by_p,
    "the sum of p taken for a constant": _total_held_fixed,
    "background and cell exchanged": lambda scores, target: (
        dice_loss(scores, target)[0],
        dice_loss(scores, target)[1][..., ::-1],
    ),
}

# 10.6


def distance_to(mask):
    within = np.where(mask, 0.0, np.inf)
    for i in range(1, len(mask)):
        within[i] = np.minimum(within[i], within[i - 1] + 1)
    for i in reversed(range(len(mask) - 1)):
        within[i] = np.minimum(within[i], within[i + 1] + 1)
    square, columns = np.full(mask.shape, np.inf), np.arange(mask.shape[1])
    for k in columns:
        square = np.minimum(square, within[:, k : k + 1] ** 2 + (columns - k) ** 2)
    return np.sqrt(square)


hints_distance_to = (
    "Going down, a pixel is at most one further from the mask than the one above it. Then going up.",
    "Begin with 0 in the mask and np.inf outside. Along a row, try each column k: within[:, k]² + (j - k)².",
)


def cases_distance_to(rng):
    for shape, share in [((1, 1), 2), ((5, 7), 0.1), ((8, 3), 0.2), ((6, 6), 0.9)]:
        mask = rng.random(shape) < share
        mask[-1, 0] = True
        yield (mask,)


def _in_steps(mask):
    distance = np.where(mask, 0.0, np.inf)
    for _ in range(sum(mask.shape)):
        padded = np.pad(distance, 1, constant_values=np.inf)
        beside = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
        distance = np.minimum(distance, np.min(beside, axis=0) + 1)
    return distance


def _down_only(mask):
    found = np.where(mask, 0.0, np.inf)
    for i in range(len(mask)):
        if mask[: i + 1].any():
            found[i] = distance_to(mask[: i + 1])[-1]
    return found


wrong_distance_to = {
    "steps along rows and columns": _in_steps,
    "the square": lambda mask: distance_to(mask) ** 2,
    "down only": _down_only,
    "to the background": lambda mask: distance_to(~mask) if not mask.all() else mask + 1.0,
}
