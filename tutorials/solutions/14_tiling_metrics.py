"""Worked answers of chapter 14, the cases they are checked on, and answers known to be wrong."""

import numpy as np

# 14.1


def mirror(k, size):
    folded = np.abs(k) % (2 * (size - 1))
    return np.minimum(folded, 2 * (size - 1) - folded)


hints_mirror = (
    "Walk along the endless row and write the places down: 0 1 2 3 2 1 0 1 … for a size of 4.",
    "The endless row repeats after 2 * (size - 1) pixels. np.abs, %, np.minimum.",
)


def cases_mirror(rng):
    for size in (2, 5, 8):
        yield np.arange(-3 * size, 4 * size), size


def _edge_repeated(k, size):
    folded = k % (2 * size)
    return np.minimum(folded, 2 * size - 1 - folded)


def _one_mirror_only(k, size):
    return np.where(np.abs(k) < size, np.abs(k), 2 * (size - 1) - np.abs(k))


wrong_mirror = {
    "the edge pixel repeated": _edge_repeated,
    "one mirror at each end only": _one_mirror_only,
    "the image repeated": lambda k, size: k % size,
    "the edge pixel spread": lambda k, size: np.clip(k, 0, size - 1),
}

# 14.2


def predict_in_tiles(predict, image, output, halo, step):
    rows, columns = (mirror(np.arange(-halo, side + output + halo), side) for side in image.shape)
    padded, result = image[np.ix_(rows, columns)], np.zeros(image.shape)
    for i in range(0, image.shape[0], step):
        for j in range(0, image.shape[1], step):
            window = padded[i : i + output + 2 * halo, j : j + output + 2 * halo]
            here = result[i : i + step, j : j + step]
            here[...] = predict(window)[: here.shape[0], : here.shape[1]]
    return result


hints_predict_in_tiles = (
    "Continue the image once, by mirror, then cut each window out of the continued image.",
    "image[np.ix_(rows, columns)] with mirrored rows and columns; two loops.",
)


def cases_predict_in_tiles(rng):
    for shape, output, halo, step in [((13, 22), 6, 2, 4), ((9, 5), 4, 3, 4), ((7, 7), 12, 2, 12)]:
        yield _sum_around(output, halo), rng.standard_normal(shape), output, halo, step


def _sum_around(output, halo):
    """Return a stand-in for a network: each output pixel is a weighted sum over its whole surroundings."""

    def predict(window):
        side = output + 2 * halo
        if window.shape != (side, side):
            raise ValueError(f"the network was given {window.shape}, but takes ({side}, {side})")
        weight = np.arange(1.0, (2 * halo + 1) ** 2 + 1).reshape(2 * halo + 1, -1)
        views = np.lib.stride_tricks.sliding_window_view(window, weight.shape)
        return np.einsum("ijpq,pq->ij", views, weight)

    return predict


def _own_mirror(predict, image, output, halo, step):
    result = np.zeros(image.shape)
    for i in range(0, image.shape[0], step):
        for j in range(0, image.shape[1], step):
            rows = i + mirror(np.arange(-halo, output + halo), output)
            columns = j + mirror(np.arange(-halo, output + halo), output)
            window = image[np.ix_(mirror(rows, image.shape[0]), mirror(columns, image.shape[1]))]
            here = result[i : i + step, j : j + step]
            here[...] = predict(window)[: here.shape[0], : here.shape[1]]
    return result


def _zeros_beyond(predict, image, output, halo, step):
    padded = np.pad(image, (halo, output + halo))
    inside = (slice(halo, halo + image.shape[0]), slice(halo, halo + image.shape[1]))
    return predict_in_tiles(predict, padded, output, halo, 1)[inside]


def _halo_kept(predict, image, output, halo, step):
    return np.roll(predict_in_tiles(predict, image, output, halo, step), (halo, halo), (0, 1))


wrong_predict_in_tiles = {
    "each tile has its own mirror": _own_mirror,
    "zeros beyond the image": _zeros_beyond,
    "moved by the halo": _halo_kept,
}

# 14.3


def rand_score(segmentation, labels):
    inside = labels > 0
    table = np.zeros((segmentation.max() + 1, labels.max() + 1))
    np.add.at(table, (segmentation[inside], labels[inside]), 1)
    return (table**2).sum() / (np.sum(table.sum(axis=0) ** 2) / 2 + np.sum(table.sum(axis=1) ** 2) / 2)


hints_rand_score = (
    "Count how many pixels each pair of segment and label shares. All sums come from that table.",
    "np.add.at(table, (segmentation[inside], labels[inside]), 1) counts n.",
)


def cases_rand_score(rng):
    for shape in [(6, 9), (11, 4)]:
        yield rng.integers(0, 4, shape), rng.integers(0, 3, shape)
    labels = rng.integers(0, 5, (7, 8))
    yield labels, labels


def _with_background(segmentation, labels):
    return rand_score(segmentation, labels + 1)


def _precision(segmentation, labels):
    inside = labels > 0
    table = np.zeros((segmentation.max() + 1, labels.max() + 1))
    np.add.at(table, (segmentation[inside], labels[inside]), 1)
    return (table**2).sum() / np.sum(table.sum(axis=1) ** 2)


def _equal_numbers(segmentation, labels):
    inside = labels > 0
    return float((segmentation[inside] == labels[inside]).mean())


wrong_rand_score = {
    "the background counted": _with_background,
    "only the segments' pairs": _precision,
    "numbers compared": _equal_numbers,
}

# 14.4


def seg(segmentation, labels):
    scores = []
    for cell in np.unique(labels[labels > 0]):
        here = labels == cell
        segment = np.bincount(segmentation[here]).argmax()
        found = (segmentation == segment) & (segment > 0)
        covers = (found & here).sum() > here.sum() / 2
        scores.append(covers * (found & here).sum() / (found | here).sum())
    return float(np.mean(scores))


hints_seg = (
    "At most one segment can cover more than half of a cell. Which one can it be?",
    "np.bincount(segmentation[labels == cell]).argmax() is the only candidate.",
)


def cases_seg(rng):
    for shape in [(9, 13), (12, 7)]:
        labels = np.kron(rng.integers(0, 4, (3, 3)), np.ones((5, 5), int))[: shape[0], : shape[1]]
        labels[0, 0] = 4
        noisy = np.where(rng.random(shape) < 0.4, rng.integers(0, 5, shape), labels)
        yield noisy, labels
    yield np.array([[1, 1, 2, 2, 0, 3]]), np.array([[1, 1, 1, 1, 0, 2]])
    yield np.array([[0, 0, 0, 2, 2]]), np.array([[1, 1, 0, 2, 2]])


def _without_half(segmentation, labels):
    scores = []
    for cell in np.unique(labels[labels > 0]):
        here = labels == cell
        ious = [
            ((segmentation == s) & here).sum() / ((segmentation == s) | here).sum()
            for s in np.unique(segmentation[segmentation > 0])
        ]
        scores.append(max(ious))
    return float(np.mean(scores))


def _mean_over_segments(segmentation, labels):
    return seg(labels, segmentation)


def _background_is_a_segment(segmentation, labels):
    return seg(segmentation + 1, labels)


wrong_seg = {
    "the best IoU, whatever it covers": _without_half,
    "the mean over the segments": _mean_over_segments,
    "the background taken for a segment": _background_is_a_segment,
}
