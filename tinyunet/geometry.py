"""Sizes of a U-Net's input and output, in whole numbers.

One side of the image at a time; d is the depth (the number of poolings, 4 in the paper). A valid 3×3
convolution takes 2 pixels off a side, two in a row take 4. On the way down a side n becomes (n - 4) / 2 at
each level, so n - 4, and what it becomes, must be even d times:

    n = 2^d · m + 4 (2^d - 1)                 m: the side that enters the bottom level
    output = 2^d · (m - 8) + 4                m > 8 - 4 / 2^d, so that an output is left

The output is smaller than the input by 12 · 2^d - 8 whatever m is: 184 in the paper, 572 -> 388. A padded
("same") network keeps the size, which must be a multiple of 2^d.
"""

from __future__ import annotations

from tinyunet.errors import ShapeError


def shrink(depth: int, padding: str = "valid") -> int:
    """By how many pixels a side of the output is smaller than the input's.

    >>> shrink(4)
    184
    """
    return 12 * 2**depth - 8 if padding == "valid" else 0


def halo(depth: int) -> int:
    """How many pixels the input of a valid network has on each side more than its output: 92 in the paper.

    The poolings' windows lie on a grid of step 2^d. A block of 2^d × 2^d output pixels on that grid sees as
    far as this beyond its edges, each of its pixels the same input; in a padded network up to 2 further.
    """
    return (12 * 2**depth - 8) // 2


def smallest_input(depth: int, padding: str = "valid") -> int:
    """The smallest side that the network takes.

    >>> smallest_input(4), smallest_input(4, "same")
    (188, 16)
    """
    if padding == "same":
        return 2**depth
    bottom = 8 - 3 // 2**depth  # m, the smallest above 8 - 4 / 2^d: 5, 7, 8, 8, …
    return 2**depth * bottom + 4 * (2**depth - 1)


def is_valid_input(size: int, depth: int, padding: str = "valid") -> bool:
    """Whether the network takes a side of this size.

    >>> is_valid_input(572, 4), is_valid_input(512, 4), is_valid_input(512, 4, "same")
    (True, False, True)
    """
    smallest = smallest_input(depth, padding)
    return size >= smallest and (size - smallest) % 2**depth == 0


def output_size(size: int, depth: int, padding: str = "valid") -> int:
    """The side of the output for a side of the input.

    >>> output_size(572, 4)
    388

    Raises
    ------
    ShapeError
        The network cannot take this size; the nearest that it can take are named.
    """
    if not is_valid_input(size, depth, padding):
        below, above = nearest_valid_sizes(size, depth, padding)
        raise ShapeError(
            f"a {padding} network of depth {depth} cannot take a side of {size} pixels",
            {"nearest smaller": below or "none", "nearest larger": above},
            "crop or mirror-pad the image to one of these, or use predict_tiled, which takes any size",
        )
    return size - shrink(depth, padding)


def nearest_valid_sizes(size: int, depth: int, padding: str = "valid") -> tuple[int | None, int]:
    """The nearest sides that the network takes: at most `size` (None if there is none), and at least `size`.

    >>> nearest_valid_sizes(512, 4)
    (508, 524)
    """
    smallest, step = smallest_input(depth, padding), 2**depth
    if size < smallest:
        return None, smallest
    below = size - (size - smallest) % step
    return below, below if below == size else below + step


def input_size_for_output(size: int, depth: int, padding: str = "valid") -> int:
    """The smallest side of the input whose output has at least `size` pixels.

    >>> input_size_for_output(388, 4), input_size_for_output(100, 4)
    (572, 284)
    """
    return nearest_valid_sizes(size + shrink(depth, padding), depth, padding)[1]
