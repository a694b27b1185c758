"""The events that `Trainer.run` yields during a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyunet.errors import TinyUNetError
from tinyunet.training.validation import Scores


@dataclass(frozen=True)
class Stepped:
    """A step was made."""

    step: int
    loss: float
    lr: float
    seconds: float
    waited: float
    """Part of `seconds`: waiting for the sample. 0 if it was drawn while the step before was computed."""
    folded: int
    """Pixels of the tile where the elastic deformation folds."""


@dataclass(frozen=True)
class Validated:
    """The held-out images were predicted."""

    step: int
    scores: Scores
    is_best: bool
    seconds: float
    examples: tuple[NDArray[np.float32], ...]
    """Probabilities (H, W, K) of the first held-out images."""


@dataclass(frozen=True)
class Collapsed:
    """One class is predicted at every pixel of the held-out images."""

    step: int
    cause: str
    """One of the causes that `tinyunet.training.collapse` lists."""
    what: str
    """One line: what was found."""
    numbers: Mapping[str, str]
    remedy: str

    def __str__(self) -> str:
        return f"warning: {TinyUNetError(self.what, self.numbers, self.remedy)}"


@dataclass(frozen=True)
class Plateau:
    """The loss stands still, on a level that a constant prediction reaches; it lasts until `PlateauLeft`."""

    step: int
    what: str
    """One line: what was found."""
    numbers: Mapping[str, str]
    remedy: str

    def __str__(self) -> str:
        return f"warning: {TinyUNetError(self.what, self.numbers, self.remedy)}"


@dataclass(frozen=True)
class PlateauLeft:
    """The network has learned more than a constant prediction knows."""

    step: int
    since: int
    """The step at which the plateau was reported."""

    def __str__(self) -> str:
        return f"step {self.step}: the plateau that was reported at step {self.since} has ended"


@dataclass(frozen=True)
class Finished:
    """The run has ended: all steps are made, or the scores stopped improving."""

    step: int
    reason: str


Event = Stepped | Validated | Collapsed | Plateau | PlateauLeft | Finished
