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


wrong_area_factor = {
    "of u alone, without the place itself": _without_identity,
    "only the stretching along each axis": _without_shear,
    "the axes of the slopes exchanged": _wrong_axes,
}
