"""A training that predicts one class everywhere: noticed, and explained with numbers.

A network that says "background" at every pixel has stopped learning, or never had a reason to say anything
else. Four numbers tell why: how many units are dead, how far the steps go, how the loss compares with that of
a constant prediction, and how rare the classes are. `explain` gives the first of these causes that fits:

dead units       in some layer no unit is above 0 on the first held-out images, so no gradient passes
imbalance        the training labels are all of one class, so there is nothing else to learn
steps too long   the loss is well above that of a constant prediction
imbalance        the loss is that of a constant prediction, and such a prediction costs little
nothing learned  the loss is that of a constant prediction, although that costs a lot
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyunet.autograd import Tensor
from tinyunet.nn import Module
from tinyunet.training.events import Collapsed

Units = dict[str, NDArray[np.bool_]]  # by layer: which of its units gave more than 0 at some pixel

LEARNING = 0.95  # times the loss of a constant prediction: below this the network has learned something
OVERSHOT = 1.5  # times the same: above this it is worse than not learning, the steps overshoot
CHEAP = 0.5  # times log K, the loss of guessing among K classes: below this a constant prediction is cheap


@dataclass(frozen=True)
class Facts:
    """What `explain` looks at."""

    step: int
    predicted: int
    """The class that is predicted everywhere."""
    units: Units
    loss: float
    """Mean of the recent training losses."""
    constant: float
    """What the best prediction that is the same everywhere would have lost in these steps."""
    lr: float
    """At the start of the run."""
    momentum: float
    shares: NDArray[np.floating]
    """Of each class, of the labelled training pixels."""
    class_weights: list[float]
    balanced: bool


def explain(facts: Facts) -> Collapsed | None:
    """The likeliest cause of a constant prediction; None while the loss says that the network is learning."""
    lost = [name for name, alive in facts.units.items() if not alive.any()]
    smaller = f"start again with a smaller --lr, for instance {facts.lr / 10:g}"
    if lost:
        cause, why = "dead units", f"{len(lost)} of {len(facts.units)} layers are dead"
        remedy = f"a layer of dead ReLUs passes no gradient on and does not recover: {smaller}"
    elif np.count_nonzero(facts.shares) == 1:
        cause, why = "imbalance", "no training image has a pixel of another class"
        remedy = "label some, or change --holdout"
    elif facts.loss > OVERSHOT * facts.constant:
        cause, why = "steps too long", "the loss is worse than that of a constant prediction"
        remedy = smaller
    elif facts.loss < LEARNING * facts.constant:
        return None
    elif facts.constant < CHEAP * np.log(np.count_nonzero(facts.shares)):
        cause, why = "imbalance", "that costs little, as other classes are rare or weigh little"
        remedy = (
            "label more of the rare classes, or crop the images around them"
            if facts.balanced
            else "leave out --weights.no-class-balance, so that rare classes weigh more"
        )
    else:
        cause, why = "nothing learned", "the loss is that of a constant prediction"
        remedy = (
            f"if the labels fit the images (tinyunet.doctor), try --lr {3 * facts.lr:g} and {facts.lr / 3:g}"
        )
    return Collapsed(
        facts.step,
        cause,
        f"step {facts.step}: class {facts.predicted} is predicted everywhere; {why}",
        _numbers(facts, lost),
        remedy,
    )


def loss_of_constant(weights_by_class: NDArray[np.floating]) -> float:
    """The least loss of a prediction that is the same at every pixel: the entropy of the weighted classes.

    That of several tiles is the entropy of their mean, as the loss of a prediction is linear in the weights.
    """
    shares = weights_by_class[weights_by_class > 0] / weights_by_class.sum()
    return float(-np.sum(shares * np.log(shares)))


def _numbers(facts: Facts, lost: list[str]) -> dict[str, str]:
    units = sum(alive.size for alive in facts.units.values())
    dead = units - sum(int(alive.sum()) for alive in facts.units.values())
    layers = f"; all of {', '.join(lost[:3])}{', …' if len(lost) > 3 else ''}" if lost else ""
    shares = ", ".join(f"{100 * share:.3g} %" for share in facts.shares)
    weights = ", ".join(f"{weight:.3g}" for weight in facts.class_weights)
    return {
        "dead units": f"{dead:,} of {units:,}{layers}",
        "learning rate": describe_rate(facts.lr, facts.momentum),
        "loss": f"{facts.loss:.3g} on average of late, {facts.constant:.3g} for a constant prediction",
        "classes": f"{shares} of the training pixels, with weights {weights}",
    }


def describe_rate(lr: float, momentum: float) -> str:
    """What a learning rate comes to with momentum, for a message."""
    return f"{lr:g}; with momentum {momentum:g} a constant gradient acts as with {lr / (1 - momentum):g}"


@contextmanager
def watch_units(model: Module) -> Iterator[Units]:
    """Collect which units of each layer with a ReLU give more than 0, while the block runs the model."""
    found: Units = {}
    layers = {name: layer for name, layer in model.named_modules() if getattr(layer, "relu", False)}
    for name, layer in layers.items():
        vars(layer)["forward"] = _watched(layer.forward, found, name)  # hides the class's own, until deleted
    try:
        yield found
    finally:
        for layer in layers.values():
            del vars(layer)["forward"]


def _watched(forward: Callable[[Tensor], Tensor], found: Units, name: str) -> Callable[[Tensor], Tensor]:
    def watching(x: Tensor) -> Tensor:
        y = forward(x)
        alive = np.any(y.numpy() > 0, axis=(0, 1, 2))
        found[name] = np.logical_or(found.get(name, False), alive)
        return y

    return watching
