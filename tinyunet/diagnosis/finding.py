"""A finding, and what the checks share: iterating over the images and the labels of a setup."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tinyunet.data import UNKNOWN
from tinyunet.errors import TinyUNetError, first_names
from tinyunet.training.setup import Setup

Severity = Literal["problem", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing to know about a data set.

    Attributes
    ----------
    severity : "problem", "warning" or "note"
        It spoils training or scores; it may; it is good to know.
    what : str
        One line.
    where : sequence of str
        Names of the images concerned; empty if it is the whole set.
    numbers : mapping of str to object
    remedy : str
    """

    severity: Severity
    what: str
    where: Sequence[str] = ()
    numbers: Mapping[str, object] = field(default_factory=dict)
    remedy: str = ""

    def __str__(self) -> str:
        """The text of an error: what, where, numbers, remedy."""
        images = {"images": f"{len(self.where)}: {first_names(self.where)}"} if self.where else {}
        return f"{self.severity}: {TinyUNetError(self.what, {**images, **self.numbers}, self.remedy)}"


def all_images(setup: Setup) -> Iterator[tuple[str, NDArray[Any]]]:
    """Each image with its name, training images first."""
    for images in (setup.training_set, setup.validation_set):
        yield from zip(images.names, images.images, strict=True)


def labels_as_read(setup: Setup) -> Iterator[tuple[str, NDArray[np.integer]]]:
    """Each image's name and labels, `UNKNOWN` included."""
    for images in (setup.training_set, setup.validation_set):
        assert images.labels is not None
        yield from zip(images.names, images.labels, strict=True)


def all_labels(setup: Setup) -> Iterator[tuple[str, NDArray[np.integer]]]:
    """Each image's name and labels; unknown pixels count as background."""
    for name, labels in labels_as_read(setup):
        yield name, np.where(labels == UNKNOWN, 0, labels)


def count(things: Sequence[object], word: str = "image") -> str:
    """Their number with the word for one: "1 image", "2 images"."""
    return f"{len(things)} {word}{'s' if len(things) > 1 else ''}"
