"""Computes the sizes of a network's input and output, one side of the image at a time.

A network takes only sides of certain sizes, because its poolings halve them. Its output is smaller than its
input, because valid convolutions lose pixels at the border. `Geometry` holds the few numbers that describe
this for any network; `unet` gives those of a U-Net.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyunet.errors import ShapeError


@dataclass(frozen=True)
class Geometry:
    """The input and output sizes of a network, in pixels.

    Attributes
    ----------
    smallest, step : int
        The network takes sides of `smallest` pixels plus any multiple of `step`. The windows of its poolings
        lie on a grid of this step: only predictions that start on the grid fit together.
    shrink : int
        By how much the output is smaller than the input, half on each side. 0 for a padded network.
    halo : int
        How far a block of step × step output pixels on the grid sees beyond its edges, at most.
    """

    smallest: int
    step: int
    shrink: int
    halo: int

    def takes(self, size: int) -> bool:
        """Return whether the network takes a side of this size.

        >>> unet(4).takes(572), unet(4).takes(512), unet(4, "same").takes(512)
        (True, False, True)
        """
        return size >= self.smallest and (size - self.smallest) % self.step == 0

    def output_size(self, size: int) -> int:
        """Return the side of the output for a side of the input.

        >>> unet(4).output_size(572)
        388

        Raises
        ------
        ShapeError
            The network cannot take this size; the nearest sizes that it can take are named.
        """
        if not self.takes(size):
            below, above = self.nearest_inputs(size)
            raise ShapeError(
                f"the network cannot take a side of {size} pixels",
                {"nearest smaller": below or "none", "nearest larger": above},
                "crop or mirror-pad the image to one of these, or use predict_tiled, which takes any size",
            )
        return size - self.shrink

    def nearest_inputs(self, size: int) -> tuple[int | None, int]:
        """Return the nearest sides that it takes: at most `size` (None if none is), and at least `size`.

        >>> unet(4).nearest_inputs(512)
        (508, 524)
        """
        if size < self.smallest:
            return None, self.smallest
        below = size - (size - self.smallest) % self.step
        return below, below if below == size else below + self.step

    def input_for_output(self, size: int) -> int:
        """Return the smallest side of the input whose output has at least `size` pixels.

        >>> unet(4).input_for_output(388), unet(4).input_for_output(100)
        (572, 284)
        """
        return self.nearest_inputs(size + self.shrink)[1]


def unet(depth: int, padding: str = "valid") -> Geometry:
    """Return the geometry of a U-Net.

    d is the depth (the number of poolings, 4 in the paper). A valid 3×3 convolution takes 2 pixels off a
    side, two in a row take 4. On the way down a side n becomes (n - 4) / 2 at each of the d levels, so n - 4
    must be even at each of them:

        n = 2^d · m + 4 (2^d - 1)                 m: the side that enters the bottom level
        output = 2^d · (m - 8) + 4                m > 8 - 4 / 2^d, so that an output is left

    The output is smaller than the input by 12 · 2^d - 8, whatever m is: 184 in the paper, 572 -> 388. A
    padded ("same") network keeps the size, which must be a multiple of 2^d, and sees up to 6 · 2^d - 2 pixels
    beyond a block; its halo is a multiple of the step.

    Parameters
    ----------
    depth : int
    padding : {"valid", "same"}

    Examples
    --------
    >>> unet(4)
    Geometry(smallest=188, step=16, shrink=184, halo=92)
    >>> unet(4, "same")
    Geometry(smallest=16, step=16, shrink=0, halo=96)
    """
    grid = 2**depth
    if padding == "same":
        return Geometry(smallest=grid, step=grid, shrink=0, halo=6 * grid)
    bottom = 8 - 3 // grid  # m, the smallest above 8 - 4 / 2^d: 5, 7, 8, 8, …
    shrink = 12 * grid - 8
    return Geometry(smallest=grid * bottom + 4 * (grid - 1), step=grid, shrink=shrink, halo=shrink // 2)
