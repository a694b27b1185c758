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


def _halo_after_only(predict, image, output, halo, step):
    result = np.zeros(image.shape)
    for i in range(0, image.shape[0], step):
        for j in range(0, image.shape[1], step):
            reach = np.arange(output + 2 * halo)
            window = image[np.ix_(mirror(i + reach, image.shape[0]), mirror(j + reach, image.shape[1]))]
            here = result[i : i + step, j : j + step]
            here[...] = predict(window)[: here.shape[0], : here.shape[1]]
    return result


wrong_predict_in_tiles = {
    "the window begins with the tile's first pixel, not a halo before it": _halo_after_only,
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


def _geometric_mean(segmentation, labels):
    recall = _precision(labels, np.where(labels > 0, segmentation + 1, 0))
    return np.sqrt(_precision(segmentation, labels) * recall)


wrong_rand_score = {
    "the root of the product in place of the mean": _geometric_mean,
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
    yield np.array([[1, 1, 2, 3, 0]]), np.array([[1, 1, 1, 1, 1]])  # no piece covers half


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


def _half_is_enough(segmentation, labels):
    scores = []
    for cell in np.unique(labels[labels > 0]):
        here, score = labels == cell, 0.0
        for piece in np.unique(segmentation[here & (segmentation > 0)]):
            both = np.sum(here & (segmentation == piece))
            if both >= here.sum() / 2:
                score = both / np.sum(here | (segmentation == piece))
        scores.append(score)
    return float(np.mean(scores))


def _found_cells_only(segmentation, labels):
    cells = np.unique(labels[labels > 0])
    scores = [seg(segmentation, np.where(labels == cell, cell, 0)) for cell in cells]
    return float(np.mean([score for score in scores if score > 0]))


wrong_seg = {
    "exactly half of a cell is taken for more than half": _half_is_enough,
    "cells without a piece left out of the mean": _found_cells_only,
    "the best IoU, whatever it covers": _without_half,
    "the mean over the segments": _mean_over_segments,
    "the background taken for a segment": _background_is_a_segment,
}

# 14.5


def label_pieces(mask):
    labels, parent = np.zeros(mask.shape, int), [0]

    def root(number):
        while parent[number] != number:
            number = parent[number]
        return number

    for i, j in np.argwhere(mask):
        above, left = labels[i - 1, j] if i else 0, labels[i, j - 1] if j else 0
        if above and left:
            parent[root(above)] = root(left)
        elif not above and not left:
            parent.append(len(parent))
        labels[i, j] = above or left or len(parent) - 1
    numbers = {0: 0}
    for i, j in np.argwhere(mask):
        labels[i, j] = numbers.setdefault(root(labels[i, j]), len(numbers))
    return labels


hints_label_pieces = (
    "parent[k] is the number that k points to; its root is found by following it until a number "
    "points to itself.",
    "Both neighbours have numbers: parent[root(above)] = root(left). None has: parent.append(len(parent)).",
    "A dict from roots to final numbers, in the order of the pixels: numbers.setdefault(r, len(numbers)).",
)


def cases_label_pieces(rng):
    yield (np.array([[1, 0, 1], [1, 1, 1], [0, 0, 0], [0, 1, 0]], bool),)
    for shape in [(1, 6), (6, 7), (12, 9)]:
        yield (rng.random(shape) < 0.6,)
    yield (np.zeros((2, 3), bool),)
    yield (np.array([[1, 1, 1, 1, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1]], bool),)
    yield (rng.random((30, 30)) < 0.6,)  # large enough for numbers that are joined more than once


def _one_pass(mask):
    labels, new = np.zeros(mask.shape, int), 0
    for i, j in np.argwhere(mask):
        above, left = labels[i - 1, j] if i else 0, labels[i, j - 1] if j else 0
        if not above and not left:
            new += 1
        labels[i, j] = above or left or new
    return labels


def _without_roots(mask):
    labels, parent = np.zeros(mask.shape, int), [0]
    for i, j in np.argwhere(mask):
        above, left = labels[i - 1, j] if i else 0, labels[i, j - 1] if j else 0
        if above and left:
            parent[max(above, left)] = min(above, left)
        elif not above and not left:
            parent.append(len(parent))
        labels[i, j] = min(above, left) or above or left or len(parent) - 1
    numbers = {0: 0}
    for i, j in np.argwhere(mask):
        number = labels[i, j]
        while parent[number] != number:
            number = parent[number]
        labels[i, j] = numbers.setdefault(number, len(numbers))
    return labels


def _eight_neighbours(mask):
    padded = np.pad(mask, 1)
    labels, new = np.zeros(padded.shape, int), 0
    for i, j in np.argwhere(padded):
        if labels[i, j] == 0:
            new, stack = new + 1, [(i, j)]
            while stack:
                a, b = stack.pop()
                if padded[a, b] and labels[a, b] == 0:
                    labels[a, b] = new
                    stack += [(a + p, b + q) for p in (-1, 0, 1) for q in (-1, 0, 1)]
    return labels[1:-1, 1:-1]


wrong_label_pieces = {
    "numbers that mean the same piece kept apart": _one_pass,
    "two numbers joined in place of their roots: an earlier join is lost": _without_roots,
    "corners connect": _eight_neighbours,
    "numbered from the last pixel": lambda mask: label_pieces(mask[::-1, ::-1])[::-1, ::-1],
}

# 14.6


def average_precision(pieces, cells):
    matches = 0
    for cell in np.unique(cells[cells > 0]):
        for piece in np.unique(pieces[(cells == cell) & (pieces > 0)]):
            both = np.sum((cells == cell) & (pieces == piece))
            matches += both > np.sum((cells == cell) | (pieces == piece)) / 2
    total = len(np.unique(cells[cells > 0])) + len(np.unique(pieces[pieces > 0])) - matches
    return matches / total if total else 1.0


hints_average_precision = (
    "For each cell look at the pieces that touch it, and count the pairs whose IoU is larger than ½.",
    "Matches, misses and inventions together are: number of cells + number of pieces - matches.",
)


def cases_average_precision(rng):
    for shape, shift in [((12, 12), (0, 1)), ((15, 9), (1, 0)), ((14, 14), (0, 0))]:
        cells = np.kron(np.arange(1, 10).reshape(3, 3), np.ones((shape[0] // 3, shape[1] // 3), int))
        cells = cells * (rng.random(10) < 0.8)[cells]
        pieces = np.roll(cells, shift, axis=(0, 1)) * (rng.random(10) < 0.7)[cells]
        pieces[:2, :3] = 11
        yield pieces, cells
    yield np.zeros((3, 3), int), np.zeros((3, 3), int)
    yield np.zeros((3, 3), int), np.eye(3, dtype=int)


def _misses_free(pieces, cells):
    number = len(np.unique(pieces[pieces > 0]))
    total = number + len(np.unique(cells[cells > 0]))
    matches = round(average_precision(pieces, cells) * total / (1 + average_precision(pieces, cells)))
    return matches / number if number else 1.0


def _f1(pieces, cells):
    score = average_precision(pieces, cells)
    return 2 * score / (1 + score)


def _exactly_half_matches(pieces, cells):
    numbers = [np.unique(image[image > 0]) for image in (pieces, cells)]
    matches = sum(
        np.sum((pieces == p) & (cells == c)) >= np.sum((pieces == p) | (cells == c)) / 2
        for p in numbers[0]
        for c in numbers[1]
    )
    total = sum(map(len, numbers)) - matches
    return matches / total if total else 1.0


wrong_average_precision = {
    "an IoU of exactly ½ matches": _exactly_half_matches,
    "missed cells cost nothing": _misses_free,
    "the F1 score": _f1,
    "0 if both are empty": lambda pieces, cells: (
        average_precision(pieces, cells) if pieces.any() or cells.any() else 0.0
    ),
}

# 14.7


def blend(tiles, height, width, weight):
    total, weights = np.zeros((height, width)), np.zeros((height, width))
    for (i, j), output in tiles:
        here = np.s_[i : i + len(weight), j : j + weight.shape[1]]
        rows, columns = total[here].shape
        total[here] += (weight * output)[:rows, :columns]
        weights[here] += weight[:rows, :columns]
    return total / weights


hints_blend = (
    "Two arrays of the size of the image: the sum of weight times output, and the sum of the weights.",
    "A slice beyond the edge is shorter: take the shape of total[i : i + ..., j : j + ...], cut to it.",
)


def cases_blend(rng):
    for height, width, side, step in [(6, 6, 4, 2), (5, 7, 3, 3), (4, 9, 5, 2)]:
        corners = [(i, j) for i in range(0, height, step) for j in range(0, width, step)]
        weight = rng.uniform(0.1, 1, (side, side))
        yield [(corner, rng.standard_normal((side, side))) for corner in corners], height, width, weight


def _plain_mean(tiles, height, width, weight):
    return blend(tiles, height, width, np.ones(weight.shape))


def _weighted_sum(tiles, height, width, weight):
    total = np.zeros((height, width))
    for (i, j), output in tiles:
        here = total[i : i + len(weight), j : j + weight.shape[1]]
        here += (weight * output)[: here.shape[0], : here.shape[1]]
    return total


def _the_last_tile(tiles, height, width, weight):
    result = np.zeros((height, width))
    for (i, j), output in tiles:
        here = result[i : i + len(weight), j : j + weight.shape[1]]
        here[...] = output[: here.shape[0], : here.shape[1]]
    return result


wrong_blend = {
    "all weights alike": _plain_mean,
    "the last tile wins": _the_last_tile,
    "not divided by the sum of the weights": _weighted_sum,
    "the outputs not weighted": lambda tiles, height, width, weight: blend(
        [(corner, output / weight) for corner, output in tiles], height, width, weight
    ),
}

# 14.8


def flood(height, markers, mask):
    import heapq

    labels = np.where(mask, markers, 0)
    heap = [(height[i, j], count, i, j) for count, (i, j) in enumerate(np.argwhere(labels))]
    heapq.heapify(heap)
    count = len(heap)
    while heap:
        _, _, i, j = heapq.heappop(heap)
        for a, b in [(i - 1, j), (i, j - 1), (i, j + 1), (i + 1, j)]:
            inside = 0 <= a < mask.shape[0] and 0 <= b < mask.shape[1]
            if inside and mask[a, b] and not labels[a, b]:
                labels[a, b] = labels[i, j]
                heapq.heappush(heap, (height[a, b], count, a, b))
                count += 1
    return labels


hints_flood = (
    "Entries of the heap: (height, count, i, j). The count settles ties, and grows with every entry.",
    "A pixel gets its number when it goes into the heap, not when it comes out: so it goes in once.",
    "heapq.heapify(list), heapq.heappop(heap), heapq.heappush(heap, entry). Mind the edges of the image.",
)


def cases_flood(rng):
    """Yield cases in which the order of the neighbours plays no part: heights that differ, and a corridor."""
    for shape in [(5, 6), (8, 7), (1, 9)]:
        mask = rng.random(shape) < 0.85
        markers = np.zeros(shape, int)
        for number, place in enumerate(rng.permutation(mask.size)[:3], 1):
            markers.flat[place] = number
        yield rng.permutation(mask.size).reshape(shape).astype(float), markers, mask
    yield np.zeros((1, 8)), np.array([[1, 0, 0, 0, 0, 0, 0, 2]]), np.ones((1, 8), bool)


def _last_come_first(height, markers, mask):
    import heapq

    labels, count = np.where(mask, markers, 0), 0
    heap = []
    for i, j in np.argwhere(labels):
        heapq.heappush(heap, (height[i, j], count, i, j))
        count -= 1
    while heap:
        _, _, i, j = heapq.heappop(heap)
        for a, b in [(i - 1, j), (i, j - 1), (i, j + 1), (i + 1, j)]:
            inside = 0 <= a < mask.shape[0] and 0 <= b < mask.shape[1]
            if inside and mask[a, b] and not labels[a, b]:
                labels[a, b] = labels[i, j]
                heapq.heappush(heap, (height[a, b], count, a, b))
                count -= 1
    return labels


def _first_place_first(height, markers, mask):
    order = np.arange(height.size).reshape(height.shape) / height.size / 2
    return flood(height + order * np.min(np.diff(np.unique(height)), initial=1), markers, mask)


def _nearest_first(height, markers, mask):
    return flood(np.zeros(height.shape), markers, mask)


wrong_flood = {
    "of equally low pixels the last that came is taken": _last_come_first,
    "of equally low pixels the one further up or left is taken, whenever it came": _first_place_first,
    "as they come, whatever the height": _nearest_first,
    "the highest first": lambda height, markers, mask: flood(-height, markers, mask),
    "out of the mask": lambda height, markers, mask: flood(height, markers, np.ones(mask.shape, bool)),
}

# 14.9


def information_score(segmentation, labels):
    def bits(counts):
        shares = counts[counts > 0] / counts.sum()
        return -np.sum(shares * np.log2(shares))

    kept = labels > 0
    pairs = np.unique(np.stack([segmentation[kept], labels[kept]]), axis=1, return_counts=True)[1]
    pieces = np.unique(segmentation[kept], return_counts=True)[1]
    cells = np.unique(labels[kept], return_counts=True)[1]
    both = bits(pieces) + bits(cells)
    return 2 * (both - bits(pairs)) / both if both else 1.0


hints_information_score = (
    "I equals H(s) + H(t) - H(pairs): three times the same function of counts.",
    "np.unique(np.stack([a, b]), axis=1, return_counts=True) counts the pairs.",
)


def cases_information_score(rng):
    for side, pieces in [(6, 3), (9, 5), (8, 1)]:
        yield rng.integers(pieces, size=(side, side)), rng.integers(4, size=(side, side))
    yield np.zeros((3, 3), int), np.ones((3, 3), int)
    yield np.array([[1, 1, 2], [2, 3, 3]]), np.array([[1, 1, 2], [2, 2, 2]])  # most pairs do not occur


def _pairs_that_do_not_occur(segmentation, labels):
    kept = labels > 0
    pieces, cells = (
        np.unique(image[kept], return_inverse=True)[1].ravel() for image in (segmentation, labels)
    )
    table = np.zeros((pieces.max() + 1, cells.max() + 1))
    np.add.at(table, (pieces, cells), 1)
    return information_score(segmentation, labels) if table.all() else np.nan


def _with_background(segmentation, labels):
    return information_score(segmentation, labels + 1)


wrong_information_score = {
    "the logarithm of 0 for a pair that does not occur": _pairs_that_do_not_occur,
    "I without the factor 2": lambda segmentation, labels: (
        information_score(segmentation, labels) / (2 if np.ptp(labels) or np.ptp(segmentation) else 1)
    ),
    "pixels with label 0 counted": _with_background,
    "I in bits": lambda segmentation, labels: (
        information_score(segmentation, labels) * np.log2(max(2, len(np.unique(labels[labels > 0]))))
    ),
    "0 if both are one piece": lambda segmentation, labels: (
        information_score(segmentation, labels) if np.ptp(labels) or np.ptp(segmentation) else 0.0
    ),
}
