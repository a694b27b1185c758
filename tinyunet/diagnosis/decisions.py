"""Decide by the images what the default recipe leaves open: whether to turn tiles, and to weight borders."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from tinyunet.data import ImageSet
from tinyunet.diagnosis.light import is_lit_from_one_side
from tinyunet.diagnosis.walls import BORDER_WEIGHT, find_walls
from tinyunet.sampling import WeightMap
from tinyunet.training.config import TrainConfig

TURNING = {"--augmentation.rotation", "--augmentation.flips", "--augmentation.no-flips"}


@dataclass(frozen=True)
class Decision:
    """Options that the images decide.

    Attributes
    ----------
    why : str
    words : tuple of str
        As they are typed.
    """

    why: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.why} ({' '.join(self.words)})"


def decide(
    images: ImageSet, config: TrainConfig, given: Collection[str]
) -> tuple[TrainConfig, list[Decision]]:
    """Decide what was not given; returns the configuration, and what the images decided in it.

    Parameters
    ----------
    images : ImageSet, with labels
        Those to train on.
    config : TrainConfig
        Of the default recipe, with the options that were given.
    given : collection of str
        The options that were typed, such as "--weights.w0". Weights of any kind leave that of the borders as
        it is.
    """
    decisions = []
    if TURNING.isdisjoint(given) and is_lit_from_one_side(images):
        config = replace(config, augmentation=replace(config.augmentation, rotation=0.0, flips=False))
        why = "the images are lit from one side: they are neither turned nor flipped"
        decisions.append(Decision(why, ("--augmentation.rotation", "0", "--augmentation.no-flips")))
    if config.weights.w0 == 0 and not gives_weights(given) and (walls := find_walls(images)):
        config = replace(config, weights=replace(config.weights, w0=WeightMap().w0))
        why = f"{walls}: the borders have the paper's weight"
        decisions.append(Decision(why, (f"--{BORDER_WEIGHT}", f"{config.weights.w0:g}")))
    return config, decisions


def gives_weights(given: Collection[str]) -> bool:
    """Whether an option of the weight map is among those that were typed."""
    return any(option.startswith("--weights.") for option in given)
