"""The configuration of a training run: its data, its network, and how it is trained.

Field docstrings are the texts of ``--help``. Everything here decides the result of a run. Where files go and
which backend computes does not; those options belong to the commands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from tinyunet.data import ImageSet, LabelKind, PlaneChoice, Truth, read_images
from tinyunet.data.class_table import ClassTable
from tinyunet.data.readers import SYNTHETIC
from tinyunet.errors import DataError, OptionError, shorten
from tinyunet.models import MODELS, ModelName
from tinyunet.nn import OPTIMISERS, OptimiserName
from tinyunet.sampling import WeightMap
from tinyunet.sampling.augment import Augmentation
from tinyunet.training.json_types import LARGEST

NETWORK_OPTIONS = ("base_channels", "depth", "padding", "variant", "normalisation", "dropout")
OPTIMISER_OPTIONS = ("momentum", "weight_decay")
LEAST = {"steps": 1, "batch": 1, "warmup": 0, "tile": 1, "validate_every": 1, "patience": 0, "seed": 0}


@dataclass(frozen=True)
class SourceOptions:
    """The place of the images."""

    data: str = "synthetic-cells"
    """A folder with images/ and labels/, a TIFF stack, an .npz, films of the Cell Tracking Challenge, or
    synthetic-cells | synthetic-dic | synthetic-membranes."""


@dataclass(frozen=True)
class PlaneOptions:
    """The channel and the plane of images that have several."""

    channel: int | str | None = None
    """Channel to read of images that have several: its number, from 0, or its name; all: every channel is
    one of the image."""
    z: int | None = None
    """Plane to read of OME-Zarr, ND2 and CZI files that have several: its number, from 0."""

    def __post_init__(self) -> None:
        self.plane_choice()

    def plane_choice(self) -> PlaneChoice:
        """Return what is chosen.

        Raises
        ------
        OptionError
            A number is negative.
        """
        return PlaneChoice(self.channel, self.z)


@dataclass(frozen=True)
class LabelOptions:
    """The reading of labels."""

    kind: LabelKind | None = None
    """Meaning of the labels; inferred from their values if omitted."""
    truth: Truth | None = None
    """Labels of the Cell Tracking Challenge; gold if omitted, silver where there is no gold."""
    partly_annotated: float | None = None
    """Only some cells are labelled: background further than this many pixels from them (of those that the
    network sees) counts neither in training nor in scores."""
    ignore: tuple[int | str, ...] = ()
    """A label value, or a colour such as #ff0000, that means unknown: such pixels count neither in training
    nor in scores. Repeat it for several; -1 always means unknown."""
    class_values: tuple[int | str, ...] = ()
    """The label value or colour of a class; repeat it for all classes. If omitted those that occur: of a
    set that is read as needed, in a few files, which may lack a rare class."""

    def __post_init__(self) -> None:
        # As numbers, each once: JSON gives a list, the command line may give colours and repeat a value.
        object.__setattr__(self, "ignore", tuple(sorted(set(map(_label_value, self.ignore)))))
        object.__setattr__(self, "class_values", tuple(self.class_values))
        self.class_table()

    def class_table(self) -> ClassTable | None:
        """Return the classes that are given by their values; None if they are not.

        Raises
        ------
        OptionError
            Fewer than two, a value twice, or numbers among colours.
        """
        if not self.class_values:
            return None
        coloured = any(isinstance(value, str) for value in self.class_values)
        mixed = coloured and not all(isinstance(value, str) for value in self.class_values)
        if mixed or len(self.class_values) < 2:
            raise OptionError(
                f"class_values is {', '.join(map(str, self.class_values))}",
                {"expected": "two or more values, or two or more colours such as #ff0000"},
                "repeat --class-values for every class, background included",
            )
        try:
            return ClassTable(tuple(map(_label_value, self.class_values)), coloured)
        except DataError as error:
            raise OptionError(f"class_values: {error}") from error


def _label_value(value: int | str) -> int:
    """Return a label value; a colour such as "#ff0000" becomes 0xRRGGBB."""
    if isinstance(value, int):
        if abs(value) >= LARGEST:
            raise OptionError(f"ignore is {shorten(str(value))}, which no label file can hold")
        return value
    if re.fullmatch("#[0-9a-fA-F]{6}", value) is None:
        raise OptionError(
            f"ignore is {shorten(value)!r}, expected a whole number or a colour such as #ff0000"
        )
    return int(value[1:], 16)


@dataclass(frozen=True)
class PixelSizeOptions:
    """The sizes of the images' pixels."""

    pixel_sizes: str | None = None
    """How large the images' pixels are, in µm: a number for all of them, or a table, a CSV file with the
    columns name and pixel_size. If omitted, pixel_sizes.csv in the folder, the array pixel_sizes of an .npz,
    or the files themselves say it."""


@dataclass(frozen=True)
class ReadingOptions(PixelSizeOptions, LabelOptions, PlaneOptions):  # the fields of the last class come first
    """The reading of images and labels."""

    def __post_init__(self) -> None:
        LabelOptions.__post_init__(self)
        PlaneOptions.__post_init__(self)


@dataclass(frozen=True)
class DataOptions(ReadingOptions, SourceOptions):
    """A data set and its split: the options that all commands share."""

    holdout: str = "20%"
    """Images held out of training: indices such as 24-29 or 0,3,5-7, or the last part such as 20%."""
    pixel_size: float | None = None
    """Size of the pixels that the network sees, in µm. Images of another magnification are scaled to it, and
    so are those to predict; the size of their own pixels must be known: see --pixel-sizes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pixel_size is not None and not 0 < self.pixel_size < float("inf"):
            raise OptionError(f"pixel_size is {self.pixel_size}, expected a size in µm, above 0")


@dataclass(frozen=True)
class TrainConfig(DataOptions):
    """Everything that decides a training run."""

    model: ModelName = "unet"
    """Network. Its options below default to those of its paper. The FCN and the sliding window need a smaller
    --lr than the U-Net, such as 0.001."""
    base_channels: int = 16
    """Channels of the first level; the papers have 64, the sliding window 48."""
    depth: int | None = None
    """Number of poolings; the papers have 4, the FCN 5."""
    padding: Literal["valid", "same"] | None = None
    """Only U-Net. valid: as in the paper. same: zeros around every map, output as large as the input."""
    variant: Literal["paper", "release"] | None = None
    """Only U-Net. release: the network that the authors published."""
    normalisation: Literal["none", "batch"] | None = None
    """Only U-Net. batch: of each map before its ReLU, which makes training faster and safer; the paper has
    none."""
    fixed_statistics: float = 0.0
    """Only with --normalisation batch: the fraction of the steps, the last ones, in which a tile is not
    normalised by its own statistics but by those of many tiles, as in prediction."""
    dropout: float | None = None
    """Only U-Net and FCN: probability at the end of the contracting path; 0.5 if omitted."""
    start_from: str | None = None
    """Start from the weights of a run, of a checkpoint, or of a file that tinyunet.export wrote, instead of
    random ones; or of milesial/Pytorch-UNet (.pth), or the U-Net authors' own (.caffemodel, .caffemodel.h5).
    The options of the network above default to its own, and so does --pixel-size. For other channels of the
    images or another number of classes, the first or the last layer starts from random weights."""

    steps: int = 200
    """Training steps, of one tile each unless --batch says otherwise."""
    batch: int = 1
    """Tiles of a step, 1 in the paper. They go through the network one after the other, and their mean
    gradient makes the step: more of them take longer, but hardly more memory."""
    lr: float = 0.003
    """Learning rate at the start. With SGD and momentum 0.99 a constant gradient has a hundredfold effect."""
    optimiser: OptimiserName = "sgd"
    """sgd: gradient descent with momentum, as in the paper. adam: AdamW; give it a smaller --lr."""
    momentum: float | None = None
    """Only SGD; 0.99 if omitted, as in the paper."""
    weight_decay: float = 0.0
    """sgd: multiple of each weight that is added to its gradient. adam: multiple of lr that each weight
    loses."""
    schedule: Literal["constant", "poly", "cosine"] = "poly"
    """poly: lr · (1 - step / steps)^0.9. cosine: half a wave, from lr down to 0."""
    warmup: int = 0
    """Steps in which the learning rate also rises in proportion to their number, with any schedule."""
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
        super().__post_init__()
        if not 0 <= self.fixed_statistics <= 1:
            raise OptionError(f"fixed_statistics is {self.fixed_statistics}, expected a fraction from 0 to 1")
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value < least:
                raise OptionError(f"{name} is {value}, expected at least {least}")
            if value >= LARGEST:
                raise OptionError(f"{name} is a number of {len(str(value))} digits, expected less than 2^63")


def config_from(options: DataOptions, **values: Any) -> TrainConfig:
    """A configuration with the values of those options of a command that training has too.

    Parameters
    ----------
    options : DataOptions
        A command's.
    **values
        More options; the others keep their defaults.
    """
    shared = {f.name for f in fields(TrainConfig)} & {f.name for f in fields(options)}
    return TrainConfig(**{name: getattr(options, name) for name in shared}, **values)


def read_data(options: DataOptions, classes: ClassTable | None = None) -> ImageSet:
    """The whole set, before any of it is held out; `classes` as in `read_labelled`."""
    return read_labelled(options.data, options, classes, pixel_size=options.pixel_size)


def read_labelled(
    source: str,
    options: ReadingOptions,
    classes: ClassTable | None = None,
    choice: PlaneChoice | None = None,
    pixel_size: float | None = None,
) -> ImageSet:
    """Images with labels, as `read_images` reads them.

    Parameters
    ----------
    source : str
    options : ReadingOptions
    classes : ClassTable, optional
        The classes of a network, or those that the options give: unless the options say otherwise, the labels
        are of these classes, whether or not all of them occur.
    choice : PlaneChoice, optional
        The channel and the plane; those of the options by default.
    pixel_size : float, optional
        What pixels are scaled to.

    Raises
    ------
    DataError
        The labels have values that are no class of the table; and as `read_images`.
    OptionError
        The options say how large pixels are, and nothing is scaled.
    """
    if options.pixel_sizes is not None and pixel_size is None:
        raise OptionError(
            f"{source}: images are taken as they are, and the size of their pixels is not needed",
            {"pixel_sizes": options.pixel_sizes},
            "leave --pixel-sizes out, or train with --pixel-size",
        )
    classes = classes or options.class_table()
    kind = options.kind or ("classes" if classes and not classes.is_mask else None)
    known = classes if kind != "instances" else None
    if known and known.mask and source.partition(":")[0] in SYNTHETIC:
        known = None  # masks of 0 and 1
    return read_images(
        source,
        kind=kind,
        truth=options.truth,
        partly_annotated=options.partly_annotated,
        ignore=tuple(map(_label_value, options.ignore)),
        class_values=known.values if known else None,
        coloured=known is not None and known.coloured,
        choice=choice or options.plane_choice(),
        pixel_size=pixel_size,
        pixel_sizes=options.pixel_sizes,
    )


def network_options(config: TrainConfig) -> dict[str, Any]:
    """The network's name and all its options: those that the configuration sets, and its defaults.

    Raises
    ------
    OptionError
        The configuration sets an option that the network does not have.
    """
    given = _given(config, NETWORK_OPTIONS, MODELS[config.model].options(), f"network {config.model!r}")
    return {"model": config.model, **given}


def optimiser_options(config: TrainConfig) -> dict[str, Any]:
    """All options of the optimiser but its learning rate: those of the configuration, and its defaults.

    Raises
    ------
    OptionError
        The configuration sets an option that the optimiser does not have.
    """
    own = OPTIMISERS[config.optimiser].options()
    return _given(config, OPTIMISER_OPTIONS, own, f"optimiser {config.optimiser!r}")


def written_out(config: TrainConfig) -> TrainConfig:
    """The configuration with its optimiser's defaults, to be stored: they may change in a later version."""
    options = optimiser_options(config)
    own: dict[str, Any] = {name: options.get(name) for name in OPTIMISER_OPTIONS}
    return replace(config, **own)


def _given(config: TrainConfig, names: Sequence[str], own: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The options `own`, with the values that the configuration sets by these names; None sets nothing."""
    given = {name: value for name in names if (value := getattr(config, name)) is not None}
    for name, value in given.items():
        if name not in own:
            raise OptionError(
                f"{name} is {value!r}, but the {what} has no such option",
                {"its options": ", ".join(name for name in names if name in own)},
                f"leave {name} out, or choose another {what.split()[0]}",
            )
    return {**own, **given}
