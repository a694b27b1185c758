"""Cuts touching objects apart at their necks, by a watershed of the distance to the background.

1. Compute each pixel's squared distance to the background, a whole number [1]_.
2. Find the seeds: the surroundings of each summit of the distance that is above its necks by some depth.
3. Let the seeds grow downhill, the highest pixels first, until they meet [2]_.

The arrays are of 32-bit integers: at most 16 bytes per pixel besides the labels. The result is that of
`skimage.morphology.reconstruction` and `skimage.segmentation.watershed`, which need about 100.

References
----------
.. [1] Meijster, Roerdink, Hesselink 2000, A general algorithm for computing distance transforms in linear
   time.
.. [2] Meyer 1994, Topographic distance and watershed lines, Signal Processing 38:113.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyunet.backend.jit import kernel


def cut_at_necks(objects: NDArray[np.int32], depth: float) -> int:
    """Cut objects in place, and return a number that no label exceeds.

    Parameters
    ----------
    objects : array, shape (H, W), int32
        4-connected components, numbered 1 … n; 0 is the background. Afterwards each part has a label of its
        own, in no particular order.
    depth : float
        How deep a neck must be to cut there, in pixels of distance to the background; above 0.
    """
    if objects.all():  # without any background there are no distances to it
        return int(objects.max())
    distance = squared_distance(objects)
    highest = _leave_only_seeds(objects, distance, depth)
    index_type = np.int32 if objects.size < 2**31 else np.int64
    _grow(objects, distance, np.empty((np.count_nonzero(distance), 3), index_type))
    return highest


@kernel
def squared_distance(objects):
    """Compute each pixel's squared distance to the nearest background pixel, which must exist: int32."""
    height, width = objects.shape
    squared = np.empty((height, width), np.int32)
    in_column = squared  # first the distance to the nearest 0 of the column, H + W if it has none
    for i in range(height):
        for j in range(width):
            above = in_column[i - 1, j] if i > 0 else height + width
            in_column[i, j] = min(above + 1, height + width) if objects[i, j] else 0
    for i in range(height - 2, -1, -1):
        for j in range(width):
            in_column[i, j] = min(in_column[i, j], in_column[i + 1, j] + 1)

    # Along a row, the result at j is the lowest of the parabolas (j - k)² + in_column[k]² of all columns k.
    # Find those that are the lowest somewhere (`column`), and from which pixel on (`start`).
    square, column, start = np.empty((3, width), np.int64)
    for i in range(height):
        for j in range(width):
            square[j] = np.int64(in_column[i, j]) ** 2
        last = -1
        for k in range(width):
            while last >= 0 and (
                (start[last] - column[last]) ** 2 + square[column[last]] > (start[last] - k) ** 2 + square[k]
            ):
                last -= 1
            if last < 0:
                last = 0
                column[0], start[0] = k, 0
            else:
                before = column[last]
                crossing = (k * k - before * before + square[k] - square[before]) // (2 * (k - before))
                if crossing + 1 < width:
                    last += 1
                    column[last], start[last] = k, crossing + 1
        for j in range(width - 1, -1, -1):
            squared[i, j] = min((j - column[last]) ** 2 + square[column[last]], np.iinfo(np.int32).max)
            if j == start[last]:
                last -= 1
    return squared


@kernel
def _leave_only_seeds(objects, distance, depth):
    """Erase all of the objects but their seeds, which get labels of their own; return the highest label.

    A summit's seed is the set of pixels that are connected to it, 8-connected, by pixels at most `depth`
    lower. If one of them is higher than the summit, the summit has no seed. An object without any neck of
    that depth is one seed as a whole.
    """
    height, width = objects.shape
    count = 0
    for i in range(height):
        for j in range(width):
            count = max(count, objects[i, j])
    summit = np.zeros(count + 1, np.int32)
    for i in range(height):
        for j in range(width):
            summit[objects[i, j]] = max(summit[objects[i, j]], distance[i, j])

    searched = np.zeros((height, width), np.int32)  # the number of the search, negative if it found no seed
    queue = np.empty(1024, np.int64)
    search = 0
    for i in range(height):
        for j in range(width):
            top = distance[i, j]
            lowest = np.sqrt(top) - depth
            # All pixels of an object are at least 1 from the background: a lower level reaches each of them.
            if not lowest > 1 or searched[i, j] != 0:
                continue
            search += 1
            searched[i, j] = search
            queue[0] = i * width + j
            done, waiting, is_seed = 0, 1, True
            while done < waiting and is_seed:
                row, column = divmod(queue[done], width)
                done += 1
                for y in range(max(row - 1, 0), min(row + 2, height)):
                    for x in range(max(column - 1, 0), min(column + 2, width)):
                        if np.sqrt(distance[y, x]) < lowest or searched[y, x] == search:
                            continue
                        if (
                            distance[y, x] > top or searched[y, x] > 0
                        ):  # a seed within reach is a higher one's
                            is_seed = False
                            continue
                        searched[y, x] = search
                        if waiting == len(queue):
                            queue = np.append(queue, np.empty_like(queue))
                        queue[waiting] = y * width + x
                        waiting += 1
            if not is_seed:  # Whatever higher pixel was found is within reach of all that were passed.
                for k in range(waiting):
                    searched[queue[k] // width, queue[k] % width] = -search
    for i in range(height):
        for j in range(width):
            if np.sqrt(summit[objects[i, j]]) - depth > 1:
                objects[i, j] = count + searched[i, j] if searched[i, j] > 0 else 0
    return count + search


@kernel
def _grow(labels, distance, heap):
    """Extend the labels of the seeds in place to all pixels that have a distance.

    The pixels from which to go on wait in the heap, the highest first, and among those of one height the one
    that came first. The seeds come first of all, in the order of their pixels, so that the parts of an object
    do not depend on other objects. A pixel that is reached from below counts as no higher than that.

    Parameters
    ----------
    labels, distance : array, shape (H, W), int32
    heap : integer array, shape (pixels that have a distance, 3)
        Room for a height, a time and a place for each.
    """
    height, width = labels.shape
    size = time = 0
    for i in range(height):
        for j in range(width):
            if labels[i, j] != 0:
                time += 1
                size = _push(heap, size, distance[i, j], time, i * width + j)
    while size > 0:
        level, place = heap[0, 0], heap[0, 2]
        size = _pop(heap, size)
        i, j = place // width, place % width
        for y, x in ((i - 1, j), (i, j - 1), (i, j + 1), (i + 1, j)):
            if 0 <= y < height and 0 <= x < width and distance[y, x] > 0 and labels[y, x] == 0:
                labels[y, x] = labels[i, j]
                time += 1
                size = _push(heap, size, min(distance[y, x], level), time, y * width + x)


@kernel
def _push(heap, size, level, time, place):
    """Add an item to a heap of this size, and return its new size."""
    child = size
    while child > 0:
        parent = (child - 1) // 2
        if not _comes_before(level, time, heap[parent, 0], heap[parent, 1]):
            break
        heap[child] = heap[parent]
        child = parent
    heap[child, 0], heap[child, 1], heap[child, 2] = level, time, place
    return size + 1


@kernel
def _pop(heap, size):
    """Remove the first item of a heap of this size, and return its new size."""
    size -= 1
    level, time, place = heap[size]
    parent = 0
    while 2 * parent + 1 < size:
        child = 2 * parent + 1
        sibling = min(child + 1, size - 1)
        if _comes_before(heap[sibling, 0], heap[sibling, 1], heap[child, 0], heap[child, 1]):
            child = sibling
        if not _comes_before(heap[child, 0], heap[child, 1], level, time):
            break
        heap[parent] = heap[child]
        parent = child
    heap[parent, 0], heap[parent, 1], heap[parent, 2] = level, time, place
    return size


@kernel
def _comes_before(level, time, other_level, other_time):
    return level > other_level or (level == other_level and time < other_time)
