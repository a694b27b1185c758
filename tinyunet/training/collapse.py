"""Explain, with numbers, why a network in training predicts one class everywhere.

A network that predicts background at every pixel has stopped learning, or never had a reason to predict
anything else. Four numbers show why: how many units are dead, how large the steps are, how the loss compares
with that of a constant prediction, and how rare the classes are. `explain` gives the first cause that fits:

dead units       some layer has no unit above 0 on the first held-out images, so no gradient passes
no labels        no tile of the training had a labelled pixel, so there was no gradient
imbalance        all training labels are of one class, so there is nothing else to learn
steps too long   the loss is well above that of a constant prediction
imbalance        the loss is that of a constant prediction, which is low
nothing learned  the loss is that of a constant prediction, which is high
too early        the loss is below that of a constant prediction, but the run ends: no class has overtaken yet
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyunet.autograd import Tensor
from tinyunet.errors import first_names
from tinyunet.nn import Module
from tinyunet.training.events import Collapsed

Units = dict[str, NDArray[np.bool_]]  # for each layer, which of its units were above 0 at some pixel

LEARNING = 0.95  # below this multiple of the loss of a constant prediction, the network has learned something
OVERSHOT = 1.5  # above this multiple, the network is worse than one that learned nothing: steps overshoot
CHEAP = 0.5  # below this multiple of log K, the loss of guessing among K classes, a constant loss is low


@dataclass(frozen=True)
class Facts:
    """The numbers that `explain` uses."""

    step: int
    predicted: int
    """The class that is predicted everywhere."""
    units: Units
    loss: float | None
    """Mean of the recent training losses; None if no step has seen a labelled pixel."""
    constant: float | None
    """The loss that the best constant prediction would have had in these steps; None like `loss`."""
    lr: float
    """The learning rate at the start of the run."""
    momentum: float | None
    shares: NDArray[np.floating]
    """The share of each class in the labelled training pixels."""
    class_weights: list[float]
    balanced: bool
    final: bool = False
    """True if the run ends here."""


def explain(facts: Facts) -> Collapsed | None:
    """Find the likeliest cause of a constant prediction.

    None if the loss shows that the network learns and the run goes on.
    """
    dead_layers = [name for name, alive in facts.units.items() if not alive.any()]
    smaller = f"start again with a smaller --lr, for instance {facts.lr / 10:g}"
    if dead_layers:
        cause, why = "dead units", f"{len(dead_layers)} of {len(facts.units)} layers are dead"
        remedy = f"a layer of dead ReLUs passes no gradient and does not recover: {smaller}"
    elif facts.loss is None or facts.constant is None:
        cause, why = "no labels", "no training tile had a labelled pixel so far"
        remedy = "label more pixels, crop the images around the labels, or give a larger --tile"
    elif np.count_nonzero(facts.shares) == 1:
        cause, why = "imbalance", "no training image has a pixel of another class"
        remedy = "label pixels of another class, or change --holdout"
    elif facts.loss > OVERSHOT * facts.constant:
        cause, why = "steps too long", "the loss is worse than that of a constant prediction"
        remedy = smaller
    elif facts.loss < LEARNING * facts.constant:
        if not facts.final:
            return None
        cause, why = "too early", "the loss is below that of a constant prediction, but the run ends"
        remedy = "give more --steps, or label more of the other classes"
    elif facts.constant < CHEAP * np.log(np.count_nonzero(facts.shares)):
        cause, why = (
            "imbalance",
            "the loss of that is low, because the other classes are rare or weigh little",
        )
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
        _numbers(facts, dead_layers),
        remedy,
    )


def loss_of_constant(weights_by_class: NDArray[np.floating]) -> float:
    """The lowest loss of a constant prediction: the entropy of the weighted classes.

    For several tiles it is the entropy of their mean, because a loss is linear in the weights.
    """
    shares = weights_by_class[weights_by_class > 0] / weights_by_class.sum()
    return float(-np.sum(shares * np.log(shares)))


def _numbers(facts: Facts, dead_layers: list[str]) -> dict[str, str]:
    units = sum(alive.size for alive in facts.units.values())
    dead = units - sum(int(alive.sum()) for alive in facts.units.values())
    layers = f"; all of {first_names(dead_layers, most=3)}" if dead_layers else ""
    shares = ", ".join(f"{100 * share:.3g} %" for share in facts.shares)
    weights = ", ".join(f"{weight:.3g}" for weight in facts.class_weights)
    loss = "none, no labelled pixel was seen"
    if facts.loss is not None:
        loss = f"{facts.loss:.3g} in recent steps, {facts.constant:.3g} for a constant prediction"
    return {
        "dead units": f"{dead:,} of {units:,}{layers}",
        "learning rate": describe_rate(facts.lr, facts.momentum),
        "loss": loss,
        "classes": f"{shares} of the training pixels, with weights {weights}",
    }


def describe_rate(lr: float, momentum: float | None) -> str:
    """Describe the effect of a learning rate, for a message; the momentum is None without SGD."""
    if momentum is None:
        return f"{lr:g}"
    return f"{lr:g}; with momentum {momentum:g} a constant gradient acts as with {lr / (1 - momentum):g}"


@contextmanager
def watch_units(model: Module) -> Iterator[Units]:
    """Record which units of each layer with a ReLU are above 0 while the ``with`` block runs the model."""
    found: Units = {}
    layers = {name: layer for name, layer in model.named_modules() if getattr(layer, "relu", False)}
    for name, layer in layers.items():
        vars(layer)["forward"] = _watched(
            layer.forward, found, name
        )  # hides the method of the class until deleted
    try:
        yield found
    finally:
        for layer in layers.values():
            del vars(layer)["forward"]


def _watched(forward: Callable[..., Tensor], found: Units, name: str) -> Callable[..., Tensor]:
    def watched(*maps: Tensor | None) -> Tensor:
        y = forward(*maps)
        alive = np.any(y.numpy() > 0, axis=(0, 1, 2))
        found[name] = np.logical_or(found.get(name, False), alive)
        return y

    return watched
