"""Worked answers of chapter 11, the cases they are checked on, and answers known to be wrong."""

import numpy as np
from scipy import ndimage

# 11.1


def to_the_right():
    return 0.0, -5.0


hints_to_the_right = (
    "The field says where to read, not where to write.",
    "The pixel that moves to the right by 5 is read 5 to the left of where it arrives.",
)


returns_to_the_right = "u along rows", "u along columns"


def cases_to_the_right(rng):
    yield ()


wrong_to_the_right = {
    "where the picture goes": lambda: (0.0, 5.0),
    "rows and columns exchanged": lambda: (-5.0, 0.0),
}

# 11.2


def displacement(grid, height, width):
    rows = np.linspace(0, grid.shape[1] - 1, height)
    columns = np.linspace(0, grid.shape[2] - 1, width)
    points = np.meshgrid(rows, columns, indexing="ij")
    return np.stack([ndimage.map_coordinates(part, points, order=3, mode="mirror") for part in grid])


hints_displacement = (
    "Each pixel lies somewhere between the grid points. Where, counted in grid steps?",
    "np.linspace for rows and columns, np.meshgrid(..., indexing='ij').",
)


def cases_displacement(rng):
    for points, height, width in [((3, 3), 9, 14), ((2, 4), 7, 5), ((3, 3), 5, 5)]:
        yield rng.normal(0, 10, (2, *points)), height, width


def _by(order, mode="mirror", last=1, indexing="ij"):
    """Return the function with other choices."""

    def wrong(grid, height, width):
        rows = np.linspace(0, grid.shape[1] - last, height)
        columns = np.linspace(0, grid.shape[2] - last, width)
        points = np.meshgrid(rows, columns, indexing=indexing)
        points = points if indexing == "ij" else points[::-1]
        return np.stack([ndimage.map_coordinates(part, points, order=order, mode=mode) for part in grid])

    return wrong


wrong_displacement = {
    "straight lines between the grid points": _by(1),
    "one grid point too far": _by(3, last=0),
    "height and width exchanged": _by(3, indexing="xy"),
    "zeros beyond the grid": _by(3, mode="grid-constant"),
}

# 11.3


def deform_both(image, labels, field):
    points = np.indices(labels.shape) + field
    bent = ndimage.map_coordinates(image, points, order=3, mode="mirror")
    return bent, ndimage.map_coordinates(labels, points, order=0, mode="mirror")


hints_deform_both = (
    "Image and labels are read at the same points. But a label of 1.5 is no label.",
    "The points are each pixel's place plus u. order=3, order=0, mode 'mirror'.",
)


returns_deform_both = "image", "labels"


def cases_deform_both(rng):
    for shape in [(9, 13), (12, 6)]:
        field = rng.normal(0, 2, (2, *shape))
        yield rng.standard_normal(shape), rng.choice([0, 1, 7], shape), field


def _labels_by_spline(image, labels, field):
    points = np.indices(labels.shape) + field
    bent = ndimage.map_coordinates(image, points, order=3, mode="mirror")
    return bent, ndimage.map_coordinates(labels, points, order=3, mode="mirror")


def _labels_left(image, labels, field):
    return deform_both(image, labels, field)[0], labels


def _field_alone(image, labels, field):
    bent = ndimage.map_coordinates(image, field, order=3, mode="mirror")
    return bent, ndimage.map_coordinates(labels, field, order=0, mode="mirror")


wrong_deform_both = {
    "labels interpolated": _labels_by_spline,
    "labels left where they were": _labels_left,
    "the pixel's own place forgotten": _field_alone,
    "towards the other side": lambda image, labels, field: deform_both(image, labels, -field),
}

# 11.4


def area_factor(field):
    (yy, yx), (xy, xx) = (np.gradient(part) for part in field)
    return (1 + yy) * (1 + xx) - yx * xy


hints_area_factor = (
    "The points are p + u(p). The area factor is the determinant of their derivatives, a 2×2 matrix.",
    "(yy, yx), (xy, xx) = (np.gradient(part) for part in field)",
)


def cases_area_factor(rng):
    for shape in [(6, 9), (8, 4)]:
        yield (rng.normal(0, 1, (2, *shape)),)


def _without_identity(field):
    (yy, yx), (xy, xx) = (np.gradient(part) for part in field)
    return yy * xx - yx * xy


def _without_shear(field):
    (yy, _), (_, xx) = (np.gradient(part) for part in field)
    return (1 + yy) * (1 + xx)


def _wrong_axes(field):
    (yy, yx), (xy, xx) = (np.gradient(part) for part in field)
    return (1 + yx) * (1 + xy) - yy * xx


def _products_added(field):
    (y_i, y_j), (x_i, x_j) = map(np.gradient, field)
    return (1 + y_i) * (1 + x_j) + y_j * x_i


wrong_area_factor = {
    "the second product added, not subtracted": _products_added,
    "of u alone, without the place itself": _without_identity,
    "only the stretching along each axis": _without_shear,
    "the axes of the slopes exchanged": _wrong_axes,
}

# 11.5


def flow(velocity, doublings):
    places, shift = np.indices(velocity.shape[1:]), velocity / 2**doublings
    for _ in range(doublings):
        again = [ndimage.map_coordinates(part, places + shift, order=1, mode="nearest") for part in shift]
        shift = shift + np.stack(again)
    return shift


hints_flow = (
    "shift = velocity / 2**doublings. A doubling reads shift where shift leads, and adds that to shift.",
    "Both parts of shift are read at np.indices((H, W)) + shift.",
)


def cases_flow(rng):
    for shape, doublings in [((4, 5), 1), ((5, 4), 3), ((6, 6), 0)]:
        yield rng.uniform(-2, 2, (2, *shape)), doublings


def _backwards(velocity, doublings):
    places, shift = np.indices(velocity.shape[1:]), velocity / 2**doublings
    for _ in range(doublings):
        again = [ndimage.map_coordinates(part, places - shift, order=1, mode="nearest") for part in shift]
        shift = shift + np.stack(again)
    return shift


def _columns_first(velocity, doublings):
    places, shift = np.indices(velocity.shape[1:]), velocity / 2**doublings
    for _ in range(doublings):
        there = places + shift[::-1]
        shift = shift + np.stack(
            [ndimage.map_coordinates(part, there, order=1, mode="nearest") for part in shift]
        )
    return shift


def _with_flow(first=lambda doublings: 2**doublings, mode="nearest", own_shift=1):
    """Return a flow that begins with another part of the velocity, or does not do the shift twice."""

    def wrong(velocity, doublings):
        places, shift = np.indices(velocity.shape[1:]), velocity / first(doublings)
        for _ in range(doublings):
            again = [ndimage.map_coordinates(part, places + shift, order=1, mode=mode) for part in shift]
            shift = own_shift * shift + np.stack(again)
        return shift

    return wrong


wrong_flow = {
    "divided by 2 n, not by 2**n": _with_flow(first=lambda doublings: 2 * doublings or 1),
    "u(k + u(k)) alone, without u(k)": _with_flow(own_shift=0),
    "mirrored beyond the edge": _with_flow(mode="mirror"),
    "twice the same shift": lambda velocity, doublings: velocity + 0.0,
    "read where the shift comes from": _backwards,
    "rows and columns exchanged": _columns_first,
    "not begun small": lambda velocity, doublings: flow(velocity * 2**doublings, doublings),
}

# 11.6


def natural_spline(values, t):
    n = len(values)
    matrix, right = np.eye(n), np.zeros(n)
    for i in range(1, n - 1):
        matrix[i, i - 1 : i + 2] = 1, 4, 1
        right[i] = 6 * (values[i - 1] - 2 * values[i] + values[i + 1])
    m = np.linalg.solve(matrix, right)
    i = np.minimum(t.astype(int), n - 2)
    u, w = t - i, 1 - (t - i)
    return w * values[i] + u * values[i + 1] + ((w**3 - w) * m[i] + (u**3 - u) * m[i + 1]) / 6


hints_natural_spline = (
    "First all m: one linear equation for each point, and np.linalg.solve. The ends have the equation m = 0.",
    "A row of the matrix has 1, 4, 1 in the columns i - 1, i, i + 1. Then i = t.astype(int), at most n - 2.",
)


def cases_natural_spline(rng):
    for n in (2, 3, 6):
        yield rng.standard_normal(n), np.sort(rng.uniform(0, n - 1, 9))
        yield rng.standard_normal(n), np.arange(float(n))


def _straight(values, t):
    return np.interp(t, np.arange(len(values)), values)


def _not_solved(values, t):
    m = np.zeros(len(values))
    m[1:-1] = values[:-2] - 2 * values[1:-1] + values[2:]
    i = np.minimum(t.astype(int), len(values) - 2)
    u, w = t - i, 1 - (t - i)
    return w * values[i] + u * values[i + 1] + ((w**3 - w) * m[i] + (u**3 - u) * m[i + 1]) / 6


wrong_natural_spline = {
    "straight lines": _straight,
    "second differences in place of the solution": _not_solved,
    "u and w exchanged": lambda values, t: (
        natural_spline(values, np.floor(t) + 1 - (t - np.floor(t)) % 1)
        if t.max() < len(values) - 1
        else natural_spline(values[::-1], t)
    ),
}

# 11.7


def read_between(image, rows, columns):
    def mirrored(k, size):
        k = np.abs(k) % (2 * size - 2)
        return np.minimum(k, 2 * size - 2 - k)

    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    result = np.zeros(rows.shape)
    for p, q in np.ndindex(2, 2):
        share = np.abs(rows - top - 1 + p) * np.abs(columns - left - 1 + q)
        result += share * image[mirrored(top + p, image.shape[0]), mirrored(left + q, image.shape[1])]
    return result


hints_read_between = (
    "top = floor(rows) and top + 1; the share of top is 1 - (rows - top), that of the other rows - top.",
    "Mirrored: k = |k| % (2 n - 2), and then the smaller one of k and 2 n - 2 - k.",
)


def cases_read_between(rng):
    for shape in [(3, 4), (2, 6)]:
        yield rng.standard_normal(shape), *rng.uniform(-9, 12, (2, 3, 5))
        yield rng.standard_normal(shape), *rng.integers(-9, 12, (2, 4)).astype(float)


def _nearest(image, rows, columns):
    return read_between(image, np.round(rows), np.round(columns))


def _edge_repeated(image, rows, columns):
    return read_between(image, np.clip(rows, 0, image.shape[0] - 1), np.clip(columns, 0, image.shape[1] - 1))


wrong_read_between = {
    "the nearest pixel": _nearest,
    "the edge repeated": _edge_repeated,
    "rows and columns exchanged": lambda image, rows, columns: read_between(image.T, rows, columns),
    "shares exchanged": lambda image, rows, columns: read_between(
        image, 2 * np.floor(rows) + 1 - rows, 2 * np.floor(columns) + 1 - columns
    ),
}
