"""Check whether all images have one magnification, where files or a table say how large pixels are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

from tinyunet.data.image_set import LOOKED_AT, evenly_spaced
from tinyunet.data.pixel_sizes import PixelSizes
from tinyunet.diagnosis.finding import Finding
from tinyunet.errors import DataError
from tinyunet.training.setup import Setup

ALIKE = 1.1  # ratio of two sizes: objects of one kind differ by more


def check_pixel_sizes(setup: Setup) -> Iterator[Finding]:
    """Find images whose pixels differ in size, in which equal objects have different sizes."""
    config = setup.config
    if config.pixel_size is not None:
        return
    names = [*setup.training_set.names, *setup.validation_set.names]
    names = [names[number] for number in evenly_spaced(len(names), LOOKED_AT)]
    try:
        sizes = PixelSizes(config.data, config.pixel_sizes, labels=True)
        found = {name: sizes.find(name) for name in names}
    except DataError as error:
        yield Finding("warning", "the sizes of the images' pixels cannot be read", numbers={"reason": error})
        return
    known = {name: math.sqrt(math.prod(size)) for name, size in found.items() if size is not None}
    if not known or max(known.values()) <= ALIKE * min(known.values()):
        return
    smallest, largest = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    numbers: dict[str, object] = {name: f"{known[name]:.3g} µm" for name in (smallest, largest)}
    if unknown := len(found) - len(known):
        numbers["unknown"] = f"the size of the pixels of {unknown} of {len(found)} images: --pixel-sizes"
    size = f"{statistics.median(known.values()):.2g}"
    yield Finding(
        "warning",
        f"the largest pixels are {known[largest] / known[smallest]:.2g} times as wide as the smallest: "
        "equal objects are as different in size",
        numbers=numbers,
        remedy=f"--pixel-size {size} scales all images to one size; what is proposed without it is for the "
        "images as they are",
    )
