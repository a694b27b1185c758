"""Predicts an image that may be larger than memory into an OME-Zarr, and goes on after a stop.

NAME.part/              what is written, until it is complete
    .tinyunet/          until all is written:
        settings.json   what decides the result; grey values' mean and deviation; the tile
        done.txt        the numbers of the regions that are written, one per line
        mask/           the foreground, from which objects are numbered
        labels/         objects as the blocks number them, each for itself
    .tinyunet-done/     the folder above, renamed once all is written, and removed
NAME                    the folder at the top, renamed

Each region is written before its number is. One that was being written when the process was killed has no
number, so that it is predicted again and its files are replaced. Objects are numbered from the beginning.

Regions and blocks may be shared out to several processes (`cluster`), of which each has a `SlideWriter`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from tinyunet.data.atomic_write import make_folder, write_text
from tinyunet.data.class_table import ClassTable
from tinyunet.data.intensity import GreyStatistics, Scale
from tinyunet.data.windowed import WindowedImage
from tinyunet.data.windows_zarr import ZARR_FILES, is_zarr, require_zarr
from tinyunet.errors import DataError, OutOfMemoryError, RunError
from tinyunet.models import Network
from tinyunet.prediction.blocks import Block, Numbering, ObjectOptions, Step, number_objects
from tinyunet.prediction.budget import largest_tile, usable
from tinyunet.prediction.instances import above
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.prediction.ome_zarr import OBJECTS, PROBABILITIES, OmeZarr, Version
from tinyunet.prediction.stream import predict_region
from tinyunet.prediction.tiling import OnTile, Region, plan_regions

WORK, MASK, LABELS, DONE = ".tinyunet", ".tinyunet/mask", ".tinyunet/labels", ".tinyunet-done"
SETTINGS, REGIONS = "settings.json", "done.txt"

Share = Callable[[Callable[["SlideWriter", Any], Any], Iterable[Any]], Iterator[Any]]
"""Calls a function with a writer and each of several tasks, and gives the results in any order."""


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
        Bytes that the whole process may take, with what is kept of the image.
    share : callable, optional
        Does the work on regions and blocks; this process by default.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        image: WindowedImage,
        out: Path,
        options: SlideOptions,
        classes: ClassTable | None,
        memory: int,
        share: Share | None = None,
    ):
        require_zarr()
        self._share: Share = share or (lambda step, tasks: (step(self, task) for task in tasks))
        self._begun: tuple[str, int, Scale] | None = None
        self._on_tile: Callable[[], None] | None = None
        self.networks, self.image, self.out, self.options = networks, image, out, options
        self.memory = memory - image.held
        if usable(self.memory) <= 0:
            raise OutOfMemoryError(
                f"{image.path}: takes too much memory to be read",
                {"read whole": f"{image.held / 1e9:.2f} GB", "given": f"{memory / 1e9:.2f} GB"},
                "give more --memory, or save it without compression or as OME-Zarr",
            )
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
        if not ((self.part / WORK).is_dir() or self.is_written):
            raise RunError(
                f"{self.part}: exists, and is no unfinished prediction", remedy="choose another --out"
            )
        if overwrite and not resume:
            for name in (*ZARR_FILES, f"{WORK}/{REGIONS}"):  # if this is killed, too, nothing counts as done
                (self.part / name).unlink(missing_ok=True)
            shutil.rmtree(self.part)
        elif not resume:
            raise RunError(
                f"{self.part}: a prediction that was not finished",
                remedy="go on with --resume, or begin again with --overwrite",
            )

    @property
    def is_written(self) -> bool:
        """Whether nothing is left to do but to give the folder its name: the process was killed there."""
        return not (self.part / WORK).exists() and is_zarr(self.part)

    def predict(self, on_tile: OnTile | None = None) -> None:
        """Write classes, mask and perhaps probabilities of every region that is not yet written."""
        if self.is_written:
            return
        tile, _ = self.begin()
        target, regions, done = self._target(tile), self._regions(tile), self._done()
        if not done:
            target.create("", self.dtype)
            target.create(MASK, np.uint8)
            if self.options.probabilities:
                target.create(PROBABILITIES, np.float32, len(self.values))
        per_region = len(self.networks) * self.options.symmetries
        counted = [per_region * len(done)]

        def count(more: int) -> None:
            counted[0] += more
            if on_tile:
                on_tile(counted[0], per_region * len(regions))

        self._on_tile = lambda: count(1)
        left = [number for number in range(len(regions)) if number not in done]
        for number in self._share(SlideWriter.write_region, left):
            with (self.part / WORK / REGIONS).open("a") as file:
                file.write(f"{number}\n")
            done.add(number)
            count(per_region * len(done) - counted[0])  # of tiles that were predicted elsewhere

    def write_region(self, number: int) -> int:
        """Predict one region and write it: files that nothing else writes to. Returns its number."""
        tile, scale = self.begin()
        target, region = self._target(tile), self._regions(tile)[number]
        probabilities = predict_region(
            self.networks,
            self.image,
            scale,
            region,
            symmetries=self.options.symmetries,
            on_tile=self._on_tile,
        )
        self._require_unchanged()
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
        return number

    def number(self, rule: ObjectRule, *, on_block: OnTile | None = None) -> int:
        """Number the objects, write smaller levels and metadata; returns how many objects there are."""
        if self.is_written:
            return self._count_objects()
        tile, _ = self.begin()
        target, blocks = self._target(tile), len(self._regions(tile))
        target.create(LABELS, np.uint32)
        target.create(OBJECTS, np.uint32)
        count = 0
        steps = number_objects(
            self._numbering(rule),
            lambda step, tasks: self._share(partial(SlideWriter.do_step, step=step, rule=rule), tasks),
        )
        for done, count in enumerate(steps, 1):  # noqa: B007
            if on_block:
                on_block(done, 3 * blocks)
        for name in ("", OBJECTS, *([PROBABILITIES] if self.options.probabilities else [])):
            target.write_levels(name)
        target.describe(self.values, probabilities=self.options.probabilities)
        return count

    def do_step(self, task: Any, *, step: Step, rule: ObjectRule) -> tuple[int, Any]:
        """Do a step of the numbering of objects."""
        return step(self._numbering(rule), task)

    def _numbering(self, rule: ObjectRule) -> Numbering:
        tile, _ = self.begin()
        target = self._target(tile)
        blocks = [Block(region.down, region.across) for region in self._regions(tile)]
        options = ObjectOptions(rule.min_size, split_depth=rule.split_depth, memory=usable(self.memory))
        return Numbering(target.open(MASK), target.open(LABELS), target.open(OBJECTS), blocks, options)

    def _count_objects(self) -> int:
        """Find the largest number of an object."""
        objects = require_zarr().open_array(self.part / OBJECTS / "0", mode="r")
        (height, width), (down, across) = objects.shape, objects.shards or objects.chunks
        corners = ((top, left) for top in range(0, height, down) for left in range(0, width, across))
        return max(int(objects[top : top + down, left : left + across].max()) for top, left in corners)

    def finish(self) -> None:
        """Give the folder its name. The process may be killed at any line, and `finish` be called again."""
        work, done = self.part / WORK, self.part / DONE
        if work.exists():
            for unfinished in self.part.rglob("*.partial"):  # zarr's, of a process that was killed
                unfinished.unlink(missing_ok=True)
            work.rename(done)
        if self.out.exists():
            make_folder(done)
            self.out.rename(done / "replaced")
        if done.exists():
            shutil.rmtree(done)
        self.part.rename(self.out)

    def begin(self, *, create: bool = True) -> tuple[int, Scale]:
        """Read the tile and the scale that were stored or, unless another process does, find and store them.

        Raises
        ------
        RunError
            The prediction was begun with other settings; or it was not begun, and `create` is false.
        """
        if self._begun:
            return self._begun[1:]
        file = self.part / WORK / SETTINGS
        settings = self._settings()
        if not file.is_file():
            if not create:
                raise RunError(f"{file}: there is no such file")
            self._store(file, settings)
        text = file.read_text(encoding="utf-8")
        stored = json.loads(text)
        self._require_same(stored["settings"], settings)
        scale = Scale(*(np.array([float.fromhex(v) for v in values]) for values in stored["scale"]))
        self._begun = text, stored["tile"], scale
        return self._begun[1:]

    def _store(self, file: Path, settings: dict[str, Any]) -> None:
        tile = self.options.tile or largest_tile(self.networks, self.memory)
        statistics = self.options.statistics
        scale = statistics.scale if statistics else self.image.scale()
        record = {
            "settings": settings,
            "tile": tile,
            "scale": [[float(value).hex() for value in values] for values in scale],
        }
        make_folder(file.parent)
        write_text(file, json.dumps(record, indent=1))

    def _require_unchanged(self) -> None:
        """Raise a RunError if another command has begun again: a process may not have been told to stop."""
        file = self.part / WORK / SETTINGS
        if self._begun is None or not file.is_file() or file.read_text(encoding="utf-8") != self._begun[0]:
            raise RunError(
                f"{self.part}: was removed or begun again meanwhile", remedy="start the command again"
            )

    def _settings(self) -> dict[str, Any]:
        weights = [hashlib.sha256() for _ in self.networks]
        for network, digest in zip(self.networks, weights, strict=True):
            for name, array in sorted(network.state_dict().items()):
                digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return {
            "image": str(self.image.path.resolve()),
            "shape": list(self.image.shape),
            "planes": dict(self.image.index),
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
        file = self.part / WORK / REGIONS
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
