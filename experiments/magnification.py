"""python -m experiments.magnification: draws what one size of pixels gains, docs/images/magnification.jpg.

Two networks learn axons and myelin from the same animals in as many steps, one from the images as they are,
the other from images scaled to one size of pixels: the sets "axons" and "axons, one size" of
`experiments.peers`, with seed 0. The picture shows a held-out animal, whose pixels are smaller than those of
all that were learned from.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy is imported

import numpy as np
import tyro
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments import peers
from tinyunet import command_line
from tinyunet.data import ImageSet
from tinyunet.metrics.scores import score_images
from tinyunet.prediction.files import most_probable
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.reporting.pictures import class_picture, grey_or_colour

PICTURE = Path("docs/images/magnification.jpg")
TITLES = {"axons": "learned from images as they are", "axons, one size": "learned at 0.1 µm"}


@dataclass(frozen=True)
class Options:
    """Train both networks and draw their predictions of the first held-out image."""

    data: Path = Path("../shared/data")
    """Folder of the .npz files."""


def main(options: Options) -> None:
    """Train, predict and draw."""
    panels: dict[str, NDArray[np.uint8]] = {}
    for name, title in TITLES.items():
        images, classes, score = _predicted(name, options.data)
        assert images.labels is not None
        number = images.num_classes
        panels.setdefault("held-out animal, pixels of 0.07 µm", grey_or_colour(images.images[0]))
        panels.setdefault("truth: myelin grey, axons white", class_picture(images.labels[0], number))
        panels[f"{title}: mean IoU {score:.2f}"] = class_picture(classes, number)
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    for axes, (title, picture) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    figure.savefig(PICTURE, dpi=100, pil_kwargs={"quality": 85})
    print(f"wrote {PICTURE}")


def _predicted(name: str, data: Path) -> tuple[ImageSet, NDArray[np.uint8], float]:
    """Return the held-out images, the classes predicted in the first of them, and their mean IoU."""
    config, training_set, held_out = peers.prepare(peers.TASKS[name], "tinyunet", 0, data)
    steps = peers.recorded_steps(peers.read_records(), "axons", "tinyunet")
    network, _, _ = peers.train_ours(config, training_set, held_out, 0, steps)
    rule = ObjectRule.of(training_set)
    images, predictions = peers.predict_as_they_are(network, config, held_out, rule)
    images, prediction = images.subset([0]), next(predictions)
    ((_, scores),) = score_images(images, iter([prediction]))
    return images, most_probable(prediction.probabilities), scores.values["mean_iou"] or 0.0


if __name__ == "__main__":
    command_line.run(lambda: main(tyro.cli(Options, description=__doc__)))
