"""Recipes: options of a training that belong together.

The paper trains by SGD with a momentum of 0.99 and balances the classes. On the sets of the results page, a
network then predicts one class everywhere for hundreds of steps, or swings from validation to validation. The
default recipe has what was found to help on them, one by one: batch normalisation, Adam, a cosine schedule,
and the same weight for all labelled pixels. Warm-up, clipped gradients and averaged weights did not help and
are left out.

The paper's recipe is the default of `TrainConfig`, and of networks other than the U-Net, which have no
normalisation.
"""

from __future__ import annotations

from typing import Any, Literal

from tinyunet.models import ModelName
from tinyunet.sampling import WeightMap
from tinyunet.training.config import TrainConfig

RecipeName = Literal["default", "paper"]
LR_WITHOUT_SKIPS = 0.001  # with SGD: the FCN and the sliding window diverge at the U-Net's 0.003


def recipe(name: RecipeName = "default", model: ModelName = "unet", **values: Any) -> TrainConfig:
    """Return the configuration of a recipe.

    Parameters
    ----------
    name : {"default", "paper"}
    model : {"unet", "fcn", "sliding-window"}
    **values
        Options that replace those of the recipe.

    Examples
    --------
    >>> from tinyunet.training.recipes import recipe
    >>> recipe(steps=1000).optimiser, recipe("paper").optimiser
    ('adam', 'sgd')
    """
    options: dict[str, Any] = {"model": model}
    if model != "unet":
        options |= {"lr": LR_WITHOUT_SKIPS}
    elif name == "default":
        options |= {
            "normalisation": "batch",
            "optimiser": "adam",
            "schedule": "cosine",
            "weights": WeightMap(w0=0, class_balance=False),
        }
    return TrainConfig(**(options | values))
