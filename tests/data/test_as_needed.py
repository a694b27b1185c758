"""Sets that are read as needed: as in memory, bounded, and checked when a file is read."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile

from tinyunet.data import image_set, large_sets, read_images, save_image_set, split, synthetic_cells
from tinyunet.data.as_needed import AsNeeded, Cache, mapped
from tinyunet.data.fingerprint import changes, fingerprints, without
from tinyunet.errors import DataError
from tinyunet.sampling import WeightMap
from tinyunet.training.config import TrainConfig
from tinyunet.training.setup import Setup


@pytest.fixture
def folder(tmp_path):
    save_image_set(synthetic_cells(n=6, size=96, seed=3), tmp_path)
    return tmp_path


@pytest.fixture
def as_needed(folder, monkeypatch):
    """Read the folder as a large set, of which two images are looked at."""
    monkeypatch.setattr(large_sets, "LARGE", 0)
    monkeypatch.setattr(image_set, "LOOKED_AT", 2)
    return lambda **options: read_images(folder, **options)


def test_a_sequence_makes_items_when_needed_and_keeps_a_bounded_number():
    made = []

    def make(index):
        made.append(index)
        return np.full(100, index, np.uint8)

    items = AsNeeded(make, range(5), Cache(most=450))
    selected = mapped(lambda item: int(item[0]) + 1, items[1:].select([3, 0]))
    assert not made
    assert [items[3][0], items[3][0], items[-1][0]] == [3, 3, 4]
    assert made == [3, 4]
    assert list(selected) == [5, 2]
    assert made == [3, 4, 1]
    for index in range(5):
        items[index]
    assert items.cache.held <= 450
    with pytest.raises(IndexError):
        items[5]


def test_a_set_is_the_same_as_in_memory(folder, monkeypatch):
    config = TrainConfig(tile=40, depth=2, weights=WeightMap())
    in_memory = read_images(folder)
    monkeypatch.setattr(large_sets, "LARGE", 0)
    as_needed = read_images(folder)
    assert as_needed.is_read_as_needed
    assert not in_memory.is_read_as_needed
    samplers = [Setup(config, *split(images, "0,2")).sampler for images in (in_memory, as_needed)]
    for step in (0, 3):
        one, other = (sampler.sample(step) for sampler in samplers)
        assert one.name == other.name
        for before, now in zip(one[:3], other[:3], strict=True):
            np.testing.assert_array_equal(before, now)
    assert in_memory.summary() in as_needed.summary()


def test_a_few_images_stand_for_the_set(as_needed):
    images = as_needed()
    assert images.looked_at.names == [images.names[0], images.names[-1]]
    assert "6 images, read as needed; 2 of them were looked at" in images.summary()
    setup = Setup(TrainConfig(tile=40, depth=2), *split(images, "4,5"))
    assert [len(part) for part in (setup.looked_at(1).training_set, setup.looked_at().validation_set)] == [
        1,
        2,
    ]


def test_each_file_is_checked_when_it_is_read(as_needed, folder):
    label = tifffile.imread(folder / "labels" / "cells-002.tif")
    tifffile.imwrite(folder / "labels" / "cells-001.tif", label[:-1])
    (folder / "images" / "cells-002.png").write_bytes(b"no image")
    images = as_needed()
    (folder / "images" / "cells-003.png").unlink()
    with pytest.raises(DataError, match="image cells-001 and its label differ in size"):
        images.images[1]
    with pytest.raises(DataError, match=r"cells-002\.png: cannot be decoded"):
        images.images[2]
    with pytest.raises(DataError, match=r"cells-003\.png: cannot be read"):
        images.labels[3]
    assert images.unreadable == {"cells-001", "cells-002", "cells-003"}


def test_a_value_that_was_not_seen_at_the_start_is_refused(as_needed, folder):
    tifffile.imwrite(folder / "labels" / "cells-002.tif", np.full((96, 96), 9, np.uint8))
    for name in ("cells-000", "cells-001", "cells-003", "cells-004", "cells-005"):
        path = folder / "labels" / f"{name}.tif"
        tifffile.imwrite(path, np.uint8(200) * (tifffile.imread(path) > 0))
    images = as_needed()
    assert images.kind == "binary"
    assert set(np.unique(images.labels[1])) == {0, 1}
    with pytest.raises(DataError, match=r"cells-002\.tif: a label value that the files read at the start"):
        images.labels[2]
    known = as_needed(kind="classes", class_values=[0, 9, 200])
    assert known.num_classes == 3
    assert (known.labels[2] == 1).all()


def test_checksums_are_those_of_files_and_forgive_one_that_was_unreadable(as_needed, folder):
    before = {"train": fingerprints(as_needed())}
    path = folder / "images" / "cells-002.png"
    content = path.read_bytes()
    path.write_bytes(content[:-100] + bytes(100))
    now = {"train": fingerprints(as_needed())}
    assert changes(before, now) == {"other pixels": "1: cells-002"}
    assert not changes(before, without(now, {"cells-002"}))


def test_options_of_labels_hold_for_each_file(as_needed, folder):
    for number in range(6):
        path = folder / "labels" / f"cells-00{number}.tif"
        labels = tifffile.imread(path)
        labels[:5] = 255
        tifffile.imwrite(path, labels)
    images = as_needed(ignore=[255], partly_annotated=10)
    mask = as_needed(ignore=[255], kind="instances")
    assert mask.labels[3].max() > 1
    assert (images.labels[3][:5] == image_set.UNKNOWN).all()
    assert replace(images, source="elsewhere").is_read_as_needed
