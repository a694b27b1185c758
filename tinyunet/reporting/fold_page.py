"""One HTML page about a cross-validation: the scores of each fold and of all images, and their spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyunet.data import ImageSet
from tinyunet.metrics.folds import FoldScores
from tinyunet.metrics.naming import headline_measure
from tinyunet.metrics.scores import ImageScores, worst_first
from tinyunet.reporting.page import HEADLINES, fill_template, rows_of, settings_of
from tinyunet.training.checkpoint import Checkpoint
from tinyunet.training.config import TrainConfig


@dataclass(frozen=True)
class FoldContent:
    """The contents of the page.

    Attributes
    ----------
    name : str
        That of the folder.
    images : ImageSet
        All images, in the order of the folds.
    sizes : sequence of int
        How many each fold holds out.
    scores : list of ImageScores
        Of each image, by the fold that held it out.
    folds : FoldScores
    config : TrainConfig
    checkpoints : sequence of Checkpoint
        Those that made the predictions, of each fold.
    symmetries : {1, 8}
    commands : sequence of str
    """

    name: str
    images: ImageSet
    sizes: Sequence[int]
    scores: list[ImageScores]
    folds: FoldScores
    config: TrainConfig
    checkpoints: Sequence[Checkpoint]
    symmetries: int
    commands: Sequence[str]


def render(content: FoldContent) -> str:
    """The page as HTML. It needs no other file and no network."""
    kind = content.images.kind
    assert kind is not None
    order = headline_measure(kind)
    fold_of = [fold for fold, size in enumerate(content.sizes) for _ in range(size)]
    without = [image for image in content.scores if image.values[order] is None]
    return fill_template(
        "folds.html",
        **vars(content),
        headlines=HEADLINES[kind],
        order=order,
        rows=list(rows_of(content.folds.measures)),
        settings=[
            setting
            for setting in settings_of(content.config, content.checkpoints[0])
            if setting["option"] != "--holdout"
        ],
        worst_first=[(content.scores[i], fold_of[i]) for i in worst_first(content.scores, order)],
        without=[image.name for image in without],
    )
