"""Options of a run: stored flat, read back from what earlier versions wrote, shared between commands."""

from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tinyunet.errors import CheckpointError, OptionError
from tinyunet.nn import AdamW
from tinyunet.sampling import WeightMap
from tinyunet.sampling.augment import Augmentation
from tinyunet.training.checkpoint import Checkpoint
from tinyunet.training.config import DataOptions, TrainConfig, config_from, optimiser_options
from tinyunet.training.stored_run import stored_config, stored_data

# As config.json and the headers of checkpoints have held it before the options of a data set were a group.
STORED = {
    "data": "cells", "kind": "instances", "truth": None, "partly_annotated": 30.0, "holdout": "1,2",
    "model": "unet", "base_channels": 4, "depth": 2, "padding": "same", "variant": None, "dropout": None,
    "steps": 6, "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0, "schedule": "constant", "tile": 100,
    "augmentation": {"flips": False, "rotation": 5.0, "elastic_sigma": 0.0},
    "weights": {"w0": 3.0, "sigma": 2.0, "class_balance": False},
    "seed": 7, "validate_every": 6, "patience": 1,
}  # fmt: skip

# Options that came later, with the values that earlier runs had.
LATER = {
    "ignore": (), "class_values": (), "normalisation": None, "start_from": None, "optimiser": "sgd",
    "warmup": 0, "batch": 1, "channel": None, "z": None, "pixel_size": None, "pixel_sizes": None,
    "fixed_statistics": 0.0,
}  # fmt: skip


def checkpoint(config):
    return Checkpoint({}, config, 0, {}, {}, {})


def test_a_configuration_is_stored_flat():
    """In the order in which it has always been, with some options more."""
    assert [name for name in asdict(TrainConfig()) if name not in LATER] == list(STORED)


def test_a_stored_configuration_is_read_back():
    config = stored_config(checkpoint(STORED), Path("run"))
    assert config.augmentation == Augmentation(**STORED["augmentation"])
    assert config.weights == WeightMap(**STORED["weights"])
    assert asdict(config) == {**STORED, **LATER, "augmentation": asdict(config.augmentation)}
    assert stored_config(checkpoint(asdict(TrainConfig())), Path("run")) == TrainConfig()


def test_options_of_the_optimiser():
    """Those that are set, and its defaults; one that it does not have is an error, also in a stored run."""
    assert optimiser_options(TrainConfig()) == {"momentum": 0.99, "weight_decay": 0.0}
    assert optimiser_options(TrainConfig(momentum=0.0, weight_decay=0.1)) == {
        "momentum": 0.0, "weight_decay": 0.1,
    }  # fmt: skip
    adam = TrainConfig(optimiser="adam", weight_decay=0.1)
    assert optimiser_options(adam) == {**AdamW.options(), "weight_decay": 0.1}
    with pytest.raises(OptionError, match=r"momentum is 0.9, but the optimiser 'adam'"):
        optimiser_options(TrainConfig(optimiser="adam", momentum=0.9))
    with pytest.raises(CheckpointError, match="momentum"):
        stored_config(checkpoint({**STORED, "optimiser": "adam"}), Path("run"))


def test_values_to_ignore():
    """From the command line and from JSON, which has lists: numbers, each once."""
    for given in (("#ff0000", 255, -1, 255), [-1, 255, 0xFF0000]):
        assert DataOptions(ignore=given).ignore == TrainConfig(ignore=given).ignore == (-1, 255, 0xFF0000)
    for wrong in ("red", "#ff00", "0xff0000"):
        with pytest.raises(OptionError, match=wrong):
            DataOptions(ignore=(wrong,))


def test_the_data_set_of_a_stored_run():
    """Also of a run that was started before there were all options."""
    assert stored_data(checkpoint(STORED)) == DataOptions(
        data="cells", kind="instances", partly_annotated=30.0, holdout="1,2"
    )
    assert stored_data(checkpoint({"data": "cells", "kind": None})) == DataOptions(data="cells")


@pytest.mark.parametrize("config", [{**STORED, "colour": 3}, {"data": "cells"}])
def test_a_configuration_of_another_version(config):
    with pytest.raises(CheckpointError, match="run"):
        stored_config(checkpoint(config), Path("run"))


def test_options_of_a_command_that_training_has_too():
    @dataclass(frozen=True)
    class Options(DataOptions):
        tile: int = 20
        minutes: float = 1.0

    config = config_from(Options(data="cells", kind="binary"), steps=3)
    assert config == TrainConfig(data="cells", kind="binary", tile=20, steps=3)


@pytest.mark.parametrize(
    "options",
    [{"steps": 0}, {"tile": 0}, {"validate_every": 0}, {"patience": -1}, {"seed": -1}, {"warmup": -1}],
)
def test_options_out_of_range(options):
    ((name, value),) = options.items()
    with pytest.raises(OptionError, match=f"{name} is {value}"):
        TrainConfig(**options)
