"""Make the moving picture of the first page, and the README's: a network that learns to see cells.

    python docs/moving_picture.py

trains a small U-Net on synthetic cells, and writes docs/_static/learning.webp and its last frame,
docs/_static/learned.png: a held-out image, the true cells, and the cells that the network finds after so many
steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import tinyunet as tu
from tinyunet.data import normalise, split, synthetic_cells
from tinyunet.prediction.instances import label_instances
from tinyunet.sampling.augment import Augmentation
from tinyunet.training.config import TrainConfig
from tinyunet.training.events import Stepped
from tinyunet.training.trainer import Trainer

STATIC = Path(__file__).parent / "_static"
SIDE, GAP, CAPTION = 240, 8, 26  # pixels
SHOWN = (1, 10, 20, 30, 40, 50, 60, 80, 100, 130, 160, 200, 250, 300, 400)  # steps
CONFIG = TrainConfig(
    steps=SHOWN[-1],
    base_channels=8,
    depth=3,
    tile=100,
    lr=0.02,
    momentum=0.9,
    augmentation=Augmentation(elastic_sigma=4),
    seed=1,
)


def main() -> None:
    """Train, and write both pictures."""
    train, held_out = split(synthetic_cells(n=20, size=SIDE, seed=3), "20%")
    image, labels = held_out.images[0], held_out.labels[0]
    frames = [
        frame(image, labels, probability, step) for step, probability in predictions(train, held_out, image)
    ]
    times = [450] * (len(frames) - 1) + [3000]  # milliseconds
    frames[0].save(
        STATIC / "learning.webp", save_all=True, append_images=frames[1:], duration=times, loop=0, quality=70
    )
    frames[-1].quantize(128).save(STATIC / "learned.png", optimize=True)


def predictions(
    train: tu.data.ImageSet, held_out: tu.data.ImageSet, image: NDArray[np.generic]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Train, and yield after each of the steps `SHOWN` its number and the probabilities of cell (H, W)."""
    trainer = Trainer(CONFIG, train, held_out)
    for event in trainer.run():
        if isinstance(event, Stepped) and event.step in SHOWN:
            yield event.step, tu.predict_tiled(trainer.model, normalise(image), tile=SIDE)[..., 1]


def frame(
    image: NDArray[np.generic], labels: NDArray[np.int32], probability: NDArray[np.float32], step: int
) -> Image.Image:
    """Draw the three panels with their captions."""
    grey = np.clip(image[..., 0] / np.percentile(image, 99.5), 0, 1)
    found = label_instances(np.stack([1 - probability, probability], axis=-1))
    panels = [
        (np.repeat(grey[..., np.newaxis], 3, axis=-1), "an image it has not seen"),
        (palette(labels)[labels], "the truth"),
        (shaded(found, labels, probability), f"found, after step {step}"),
    ]
    picture = Image.new("RGB", (3 * SIDE + 2 * GAP, SIDE + CAPTION), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    for number, (panel, caption) in enumerate(panels):
        left = number * (SIDE + GAP)
        picture.paste(Image.fromarray((255 * panel).astype(np.uint8)), (left, CAPTION))
        draw.text((left + SIDE / 2, CAPTION / 2), caption, fill="#333333", font=font, anchor="mm")
    return picture


def palette(labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return a colour per true cell; black for the background."""
    colours = matplotlib.colormaps["tab20"](np.arange(labels.max() + 1) * 7 % 20)[:, :3]
    colours[0] = 0
    return colours


def shaded(
    found: NDArray[np.int32], labels: NDArray[np.int32], probability: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Colour the cells that were found like the true cell that each covers most, as bright as they are sure.

    White cells cover no true one. Two true cells that were found as one have one colour.
    """
    colours = np.zeros((found.max() + 1, 3))
    for number in range(1, len(colours)):
        covered = np.bincount(labels[found == number], minlength=labels.max() + 1)[1:]
        colours[number] = palette(labels)[1 + covered.argmax()] if covered.any() else 1
    shown = colours[found]
    shown[found == 0] = 0.55  # what is not a cell yet is grey
    return shown * probability[..., np.newaxis]


if __name__ == "__main__":
    main()
