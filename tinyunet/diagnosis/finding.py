"""A finding, and what the checks share: the images and labels of a trainer, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tinyunet.data import UNKNOWN
from tinyunet.errors import TinyUNetError
from tinyunet.training.trainer import Trainer

Severity = Literal["problem", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing to know about a data set.

    Attributes
    ----------
    severity : "problem", "warning" or "note"
        What makes training or judging wrong; what may; what is good to know.
    what : str
        One line.
    where : sequence of str
        Names of the images concerned; empty for the whole set.
    numbers : mapping of str to object
    remedy : str
    """

    severity: Severity
    what: str
    where: Sequence[str] = ()
    numbers: Mapping[str, object] = field(default_factory=dict)
    remedy: str = ""

    def __str__(self) -> str:
        """As an error's text: what, where, numbers, remedy."""
        images = {"images": f"{len(self.where)}: {_some(self.where)}"} if self.where else {}
        return f"{self.severity}: {TinyUNetError(self.what, {**images, **self.numbers}, self.remedy)}"


def all_images(trainer: Trainer) -> Iterator[tuple[str, NDArray[Any]]]:
    for images in (trainer.train, trainer.validation):
        yield from zip(images.names, images.images, strict=True)


def labels_as_read(trainer: Trainer) -> Iterator[tuple[str, NDArray[np.integer]]]:
    for images in (trainer.train, trainer.validation):
        assert images.labels is not None
        yield from zip(images.names, images.labels, strict=True)


def all_labels(trainer: Trainer) -> Iterator[tuple[str, NDArray[np.integer]]]:
    """As they were read, but without pixels that are unknown: those are background here."""
    for name, labels in labels_as_read(trainer):
        yield name, np.where(labels == UNKNOWN, 0, labels)


def count(what: Sequence[object], word: str = "image") -> str:
    return f"{len(what)} {word}{'s' if len(what) > 1 else ''}"


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
