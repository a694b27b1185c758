"""Images that are lit from one side, and the training that does not turn them."""

from dataclasses import replace

import numpy as np
import pytest

from tinyunet import train
from tinyunet.data import synthetic_cells, synthetic_dic
from tinyunet.diagnosis import decide, diagnose, is_lit_from_one_side
from tinyunet.training.config import TrainConfig
from tinyunet.training.recipes import recipe
from tinyunet.training.run_folder import RunFolder
from tinyunet.training.setup import Setup
from tinyunet.training.stored_run import load_last

DIC = synthetic_dic(n=8, size=384, seed=1)


def turned(images, quarters):
    """The set with each image turned by its number of quarter turns."""
    return replace(images, images=[np.rot90(a, k) for a, k in zip(images.images, quarters, strict=True)])


def test_dic_is_lit_from_one_side():
    assert is_lit_from_one_side(DIC)
    assert is_lit_from_one_side(turned(DIC, [1] * 8))


def test_images_without_a_common_light():
    """The same images from all four sides; nuclei, which shine themselves; images of one grey value."""
    assert not is_lit_from_one_side(turned(DIC, [0, 1, 2, 3, 0, 1, 2, 3]))
    assert not is_lit_from_one_side(synthetic_cells(n=8, size=160, seed=1))
    assert not is_lit_from_one_side(replace(DIC, images=[np.zeros((384, 384, 1), np.uint8)] * 8))


def test_two_images_do_not_tell():
    few = replace(DIC, images=DIC.images[:2], names=DIC.names[:2], labels=DIC.labels[:2])
    assert not is_lit_from_one_side(few)


def test_turning_that_was_given_keeps_the_images_from_deciding():
    config, decisions = decide(DIC, recipe(), ["--data"])
    assert not config.augmentation.flips
    assert [decision.words for decision in decisions] == [
        ("--augmentation.rotation", "0", "--augmentation.no-flips")
    ]
    assert decide(DIC, recipe(), ["--augmentation.flips"]) == (recipe(), [])


def test_the_doctor_mentions_it():
    setup = Setup(TrainConfig(depth=1, tile=16), DIC, DIC)
    assert any("lit from one side" in str(finding) for finding in diagnose(setup))


@pytest.mark.parametrize(
    ("options", "rotation", "flips"),
    [
        ([], 0, False),
        (["--augmentation.rotation", "90"], 90, True),
        (["--recipe", "paper"], 180, True),
    ],
)
def test_training_does_not_turn_them(tmp_path, monkeypatch, options, rotation, flips):
    monkeypatch.setattr("tinyunet.train.read_data", lambda config: DIC)
    tiny = ["--data", "synthetic-dic", "--base-channels", "2", "--depth", "1", "--tile", "16", "--steps", "1"]
    train.main([*tiny, *options, "--out", str(tmp_path / "run")])
    _, config = load_last(RunFolder(tmp_path / "run"))
    assert (config.augmentation.rotation, config.augmentation.flips) == (rotation, flips)
