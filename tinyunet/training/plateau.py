"""Report a plateau while it lasts: a network that learns no more than a constant prediction knows.

Two things have to hold for many steps, two hundred and a tenth of the run:

- **The loss stands still**: its mean over recent steps, in multiples of the loss that the best constant
  prediction would have had in them, has not come 0.01 below its lowest. Slow but steady learning resets this.
- **On a level that a constant reaches**: this multiple is 0.95 or more; or, though the loss may be lower
  because the network knows where the weights are large, the last mean IoU on the held-out images is not 0.05
  above that of the best single class everywhere.

It ends when neither level holds any more. While a `Collapsed` lasts, which says more, none is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tinyunet.training.collapse import LEARNING, OVERSHOT, describe_rate
from tinyunet.training.config import TrainConfig
from tinyunet.training.events import Plateau, PlateauLeft
from tinyunet.training.progress import Progress

FALL = 0.01  # in multiples of the loss of a constant prediction: by less the loss stands still
ABOVE = 0.05  # mean IoU above that of a constant prediction: by less nothing useful is found
PATIENCE, SHARE = 200, 0.1  # steps, and share of the run: for how long


@dataclass(frozen=True)
class Level:
    """Where a training stands.

    Attributes
    ----------
    step : int
    loss : float
        Mean of the recent training losses.
    constant : float
        The loss of the best constant prediction in these steps; above 0.
    constant_score : float
        Mean IoU of the best single class everywhere, on the held-out images.
    """

    step: int
    loss: float
    constant: float
    constant_score: float


def watch(level: Level, progress: Progress, config: TrainConfig) -> Plateau | PlateauLeft | None:
    """Take note of a step in `progress`; returns the begin or the end of a plateau.

    Parameters
    ----------
    level : Level
    progress : Progress
        Its fields `lowest`, `lowest_step` and `plateau_step` are changed; `last_score` is used.
    config : TrainConfig
        The run's.
    """
    ratio = level.loss / level.constant
    if ratio < progress.lowest - FALL:
        progress.lowest, progress.lowest_step = ratio, level.step
    score = progress.last_score
    unlearned = ratio >= LEARNING
    useless = score is not None and score < level.constant_score + ABOVE
    if progress.plateau_step is not None:
        if unlearned or useless:
            return None
        since, progress.plateau_step = progress.plateau_step, None
        progress.lowest, progress.lowest_step = ratio, level.step  # another one takes as long to be seen
        return PlateauLeft(level.step, since)
    stood = level.step - progress.lowest_step
    too_short = stood < max(PATIENCE, SHARE * config.steps)
    if too_short or progress.collapsed or not (unlearned or useless):
        return None
    progress.plateau_step = level.step
    what = f"step {level.step}: the loss has stood still for {stood} steps, "
    what += (
        "at that of a constant prediction" if unlearned else "and the score is that of one class everywhere"
    )
    return Plateau(level.step, what, _numbers(level, score, config), _remedy(ratio, config))


def _numbers(level: Level, score: float | None, config: TrainConfig) -> Mapping[str, str]:
    loss = f"{level.loss:.3g} in recent steps, {level.constant:.3g} for a constant prediction"
    scored = "none yet" if score is None else f"{score:.3f}"
    return {
        "loss": loss,
        "mean IoU": f"{scored}, {level.constant_score:.3f} for the best single class everywhere",
        "learning rate": describe_rate(config.lr, config.momentum),
    }


def _remedy(ratio: float, config: TrainConfig) -> str:
    """What ends a plateau, the surest first.

    Without normalisation the scale of a map decides how fast its weights learn: on the results page such
    networks stay on a plateau for hundreds of steps more than those with batch normalisation and Adam.
    """
    if ratio > OVERSHOT:
        return f"the steps are too long: start again with a smaller --lr, for instance {config.lr / 10:g}"
    if config.model == "unet" and config.normalisation in (None, "none"):
        return "start again with --recipe default, whose batch normalisation and Adam leave plateaus sooner"
    return (
        f"look at doctor.png (tinyunet.doctor): do the labels fit the images? If so, try --lr "
        f"{3 * config.lr:g} and {config.lr / 3:g}"
    )
