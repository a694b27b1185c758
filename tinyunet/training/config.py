"""The configuration of a training run: its options, the images and the network that they name.

Field docstrings are the texts of ``--help``. Everything here decides the result of a run; where files go and
which backend computes does not, and belongs to the commands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tinyunet.data import ImageSet, LabelKind, Truth, read_images
from tinyunet.errors import OptionError
from tinyunet.models import MODELS, ModelName
from tinyunet.sampling import WeightMap
from tinyunet.sampling.augment import Augmentation

NETWORK_OPTIONS = ("base_channels", "depth", "padding", "variant", "dropout")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run."""

    data: str = "synthetic-cells"
    """A folder with images/ and labels/, a TIFF stack, an .npz, films of the Cell Tracking Challenge, or
    synthetic-cells | synthetic-membranes."""
    kind: LabelKind | None = None
    """What the labels mean; inferred from their values when left out."""
    truth: Truth | None = None
    """Of the Cell Tracking Challenge: gold when left out, and silver where there is no gold."""
    partly_annotated: float | None = None
    """Only some cells are labelled: background further than this many pixels from them does not count."""
    holdout: str = "20%"
    """Images kept back for validation: indices such as 24-29 or 0,3,5-7, or the last part such as 20%."""

    model: ModelName = "unet"
    """Which network. Those of its options below that are left out are as in its paper. The FCN and the
    sliding window need a smaller --lr than the U-Net, such as 0.001."""
    base_channels: int = 16
    """Channels of the first level; 64 in the papers, 48 of the sliding window."""
    depth: int | None = None
    """Number of poolings; when left out, as in its paper: 4, of the FCN 5."""
    padding: Literal["valid", "same"] | None = None
    """Of the U-Net. valid: as in the paper. same: zeros around every map, output as large as the input."""
    variant: Literal["paper", "release"] | None = None
    """Of the U-Net. release: as the network that the authors published."""
    dropout: float | None = None
    """Of U-Net and FCN: probability at the end of the contracting path; 0.5 when left out."""

    steps: int = 200
    """Training steps, one tile each."""
    lr: float = 0.003
    """Learning rate at the start. With momentum 0.99 a constant gradient has a hundredfold effect."""
    momentum: float = 0.99
    """Momentum of SGD; 0.99 in the paper."""
    weight_decay: float = 0.0
    """What share of each weight is added to its gradient."""
    schedule: Literal["constant", "poly"] = "poly"
    """poly: lr · (1 - step / steps)^0.9."""
    tile: int = 388
    """Side of the output tile in pixels, 388 in the paper; rounded up to a size that the network can give."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    weights: WeightMap = field(default_factory=WeightMap)
    seed: int = 0
    """Decides initial weights, samples and dropout."""

    validate_every: int = 50
    """Steps between two validations on the held-out images."""
    patience: int = 0
    """Stop after this many validations without a better score; 0: never."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("tile", 1), ("validate_every", 1), ("patience", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise OptionError(f"{name} is {getattr(self, name)}, expected at least {least}")


def read_data(config: TrainConfig) -> ImageSet:
    """The whole set that a configuration names, before any of it is held out."""
    return read_images(
        config.data, kind=config.kind, truth=config.truth, partly_annotated=config.partly_annotated
    )


def network_options(config: TrainConfig) -> dict[str, Any]:
    """Which network, and all its options: what the configuration asks for, else its own defaults.

    Raises
    ------
    OptionError
        The network does not have an option that is asked for.
    """
    own = MODELS[config.model].options()
    asked = {name: getattr(config, name) for name in NETWORK_OPTIONS}
    asked = {name: value for name, value in asked.items() if value is not None}
    for name, value in asked.items():
        if name not in own:
            raise OptionError(
                f"{name} is {value!r}, but the network {config.model!r} has no such option",
                {"its options": ", ".join(name for name in NETWORK_OPTIONS if name in own)},
                f"leave {name} out, or choose another network",
            )
    return {"model": config.model, **own, **asked}
