"""Predicts an image that may be larger than memory into an OME-Zarr, and goes on after a stop.

NAME.part/              what is written, until it is complete
    .tinyunet/          removed at the end:
        settings.json   what decides the result; grey values' mean and deviation; the tile
        done.txt        the numbers of the regions that are written, one per line
        mask/           the foreground, from which objects are numbered
NAME                    the folder above, renamed

Each region is written before its number is. One that was being written when the process was killed has no
number, so that it is predicted again and its files are replaced. Objects are numbered from the beginning.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from tinyunet.data.atomic_write import make_folder, write_text
from tinyunet.data.class_table import ClassTable
from tinyunet.data.intensity import GreyStatistics, Scale
from tinyunet.data.windows import WindowedImage, is_zarr, require_zarr
from tinyunet.errors import DataError, RunError
from tinyunet.models import Network
from tinyunet.prediction.blocks import Block, ObjectOptions, number_objects
from tinyunet.prediction.budget import largest_tile, usable
from tinyunet.prediction.instances import above
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.prediction.ome_zarr import OBJECTS, PROBABILITIES, OmeZarr, Version
from tinyunet.prediction.stream import predict_region
from tinyunet.prediction.tiling import OnTile, Region, plan_regions

WORK, MASK = ".tinyunet", ".tinyunet/mask"
OnPart = Callable[[str, int, int], None]


@dataclass(frozen=True)
class SlideOptions:
    """What decides the result, besides the image and the networks; the names are those of the command."""

    tile: int | None = None
    symmetries: int = 1
    threshold: float = 0.5
    probabilities: bool = False
    version: Version = "0.5"
    statistics: GreyStatistics | None = None


class SlideWriter:
    """The prediction of one image.

    Parameters
    ----------
    networks : sequence of Network
    image : WindowedImage
    out : Path
    options : SlideOptions
    classes : ClassTable, optional
        The numbers to write for the classes; 0..K-1 by default, and for colours.
    memory : int
        Bytes that the whole process may take.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        image: WindowedImage,
        out: Path,
        options: SlideOptions,
        classes: ClassTable | None,
        memory: int,
    ):
        require_zarr()
        self.networks, self.image, self.out, self.options, self.memory = networks, image, out, options, memory
        self.part = out.with_name(out.name + ".part")
        plain = classes is None or classes.coloured
        self.values = (
            list(range(networks[0].num_classes)) if plain or classes is None else list(classes.values)
        )
        self.dtype: DTypeLike = np.min_scalar_type(max(self.values))
        if image.shape[2] != networks[0].in_channels:
            raise DataError(
                f"{image.path}: the image does not have the channels that the network was trained on",
                {"network": f"{networks[0].in_channels} channels", "image": f"{image.shape[2]} channels"},
                "convert the image to grey or to colour, as the training images were",
            )

    def require_free(self, *, resume: bool, overwrite: bool) -> None:
        """Raise a RunError if something is in the way; with `overwrite`, remove it."""
        if self.out.exists() and not (overwrite and is_zarr(self.out)):
            remedy = "choose another --out" + (", or give --overwrite" if is_zarr(self.out) else "")
            raise RunError(f"{self.out}: exists, nothing was overwritten", remedy=remedy)
        if not self.part.exists():
            return
        if not (self.part / WORK).is_dir():
            raise RunError(
                f"{self.part}: exists, and is no unfinished prediction", remedy="choose another --out"
            )
        if overwrite and not resume:
            shutil.rmtree(self.part)
        elif not resume:
            raise RunError(
                f"{self.part}: a prediction that was not finished",
                remedy="go on with --resume, or begin again with --overwrite",
            )

    def predict(self, on_tile: OnTile | None = None) -> None:
        """Write classes, mask and perhaps probabilities of every region that is not yet written."""
        tile, scale = self._begin()
        target, regions = self._target(tile), self._regions(tile)
        done = self._done()
        if not done:
            target.create("", self.dtype)
            target.create(MASK, np.uint8)
            if self.options.probabilities:
                target.create(PROBABILITIES, np.float32, len(self.values))
        per_region = len(self.networks) * self.options.symmetries
        counted = [per_region * len(done)]

        def count() -> None:
            counted[0] += 1
            if on_tile:
                on_tile(counted[0], per_region * len(regions))

        for number, region in enumerate(regions):
            if number not in done:
                self.write_region(target, region, scale, count)
                with (self.part / WORK / "done.txt").open("a") as file:
                    file.write(f"{number}\n")

    def write_region(
        self, target: OmeZarr, region: Region, scale: Scale, on_tile: Callable[[], None] | None = None
    ) -> None:
        """Predict one region and write it: files that nothing else writes to."""
        probabilities = predict_region(
            self.networks,
            self.image,
            scale,
            region,
            symmetries=self.options.symmetries,
            on_tile=on_tile,
        )
        where = region.down, region.across
        classes = np.empty(probabilities.shape[:2], self.dtype)
        values = np.array(self.values, self.dtype)
        for row, probability in zip(classes, probabilities, strict=True):
            row[...] = values[probability.argmax(axis=1)]
        target.open("")[where] = classes
        target.open(MASK)[where] = above(probabilities, self.options.threshold).astype(np.uint8)
        if self.options.probabilities:
            array = target.open(PROBABILITIES)
            for channel in range(len(self.values)):
                array[(slice(channel, channel + 1), *where)] = probabilities[None, ..., channel]

    def number(self, rule: ObjectRule, *, on_block: OnTile | None = None) -> int:
        """Number the objects, write smaller levels and metadata; returns how many objects there are."""
        tile, _ = self._begin()
        target = self._target(tile)
        blocks = [Block(region.down, region.across) for region in self._regions(tile)]
        objects = target.create(OBJECTS, np.uint32)
        options = ObjectOptions(rule.min_size, split_depth=rule.split_depth, memory=usable(self.memory))
        count = 0
        steps = number_objects(target.open(MASK), objects, blocks, options)
        for done, count in enumerate(steps, 1):  # noqa: B007
            if on_block:
                on_block(done, 3 * len(blocks))
        for name in ("", OBJECTS, *([PROBABILITIES] if self.options.probabilities else [])):
            target.write_levels(name)
        target.describe(self.values, probabilities=self.options.probabilities)
        return count

    def finish(self) -> None:
        """Give the folder its name."""
        shutil.rmtree(self.part / WORK)
        if self.out.exists():
            shutil.rmtree(self.out)
        self.part.rename(self.out)

    def _begin(self) -> tuple[int, Scale]:
        """Read the tile and the scale that were stored, or find and store them."""
        file = self.part / WORK / "settings.json"
        settings = self._settings()
        if file.is_file():
            stored = json.loads(file.read_text(encoding="utf-8"))
            self._require_same(stored["settings"], settings)
            scale = Scale(*(np.array([float.fromhex(v) for v in values]) for values in stored["scale"]))
            return stored["tile"], scale
        tile = self.options.tile or largest_tile(self.networks, self.memory)
        statistics = self.options.statistics
        scale = statistics.scale if statistics else self.image.scale()
        record = {
            "settings": settings,
            "tile": tile,
            "scale": [[float(value).hex() for value in values] for values in scale],
        }
        make_folder(self.part / WORK)
        write_text(file, json.dumps(record, indent=1))
        return tile, scale

    def _settings(self) -> dict[str, Any]:
        weights = [hashlib.sha256() for _ in self.networks]
        for network, digest in zip(self.networks, weights, strict=True):
            for name, array in sorted(network.state_dict().items()):
                digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return {
            "image": str(self.image.path.resolve()),
            "shape": list(self.image.shape),
            "type": str(self.image.array.dtype),
            "networks": [digest.hexdigest() for digest in weights],
            "classes": self.values,
            **json.loads(json.dumps(asdict(self.options))),  # as it will be read back
        }

    def _require_same(self, stored: dict[str, Any], settings: dict[str, Any]) -> None:
        free = {"tile"} if settings["tile"] is None else set()
        differing = {
            name: f"{stored.get(name)} before, {value} now"
            for name, value in settings.items()
            if name not in free and stored.get(name) != value
        }
        if differing:
            raise RunError(
                f"{self.part}: cannot go on with other settings",
                differing,
                "give those of before, or begin again with --overwrite",
            )

    def _done(self) -> set[int]:
        file = self.part / WORK / "done.txt"
        if not file.is_file():
            return set()
        lines = file.read_text().split("\n")[:-1]  # what comes after the last newline was cut off
        return {int(line) for line in lines}

    def _regions(self, tile: int) -> list[Region]:
        return plan_regions(self.networks[0].geometry, self.image.shape, tile)

    def _target(self, tile: int) -> OmeZarr:
        regions = self._regions(tile)
        height, width, _ = self.image.shape
        down = next((region.down.start for region in regions if region.down.start), height)
        across = next((region.across.start for region in regions if region.across.start), width)
        pixel_size, unit = self.image.pixel_size, self.image.unit
        return OmeZarr(self.part, self.options.version, (height, width), (down, across), pixel_size, unit)
