"""The state of a run besides its weights and step, which its checkpoints hold."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

RECENT = 50  # steps over which the loss is averaged, to judge a collapse or a plateau


@dataclass
class Progress:
    """The state of a run besides its weights and step."""

    best_score: float = -1.0
    best_finds_classes: bool = False
    """True if the best network finds more than one class: see `Scores.rank`."""
    best_step: int = 0
    since_best: int = 0
    """Validations since the best one."""
    validated_step: int = 0
    """Step of the last validation."""
    last_score: float | None = None
    """Mean IoU of the last validation."""
    last_loss: float = math.nan
    recent: list[list[float]] = field(default_factory=list)
    """For each of the last `RECENT` steps: the loss, then the share of each class in the tile's weights."""
    collapsed: bool = False
    """True from the report of a constant prediction until the network predicts more than one class again."""
    lowest: float = math.inf
    """Lowest mean of recent losses, in multiples of the loss of a constant prediction."""
    lowest_step: int = 0
    """Step at which it was reached."""
    plateau_step: int | None = None
    """Step at which the plateau was reported that lasts."""
