"""python -m tinyunet.train --start-from: training goes on from the weights of another network."""

import shutil

import numpy as np
import torch

from tinyunet.training.checkpoint import load_model
from tinyunet.training.run_folder import RunFolder

HARDLY = ["--steps", "1", "--lr", "1e-30", "--schedule", "constant", "--tile", "16", "--holdout", "1"]


def test_a_run_goes_on_from_another(command, trained, data, tmp_path):
    """With its options; a step that rounds to nothing leaves its weights. Resuming needs it no more."""
    status, output, message = command(
        "train", "--data", data, "--start-from", trained, "--out", tmp_path / "new", *HARDLY
    )
    assert status == 0, message
    assert f"starts from {trained}" in output
    model, checkpoint = load_model(tmp_path / "new")
    assert checkpoint.network["depth"] == 1
    assert checkpoint.config["start_from"] == str(trained)
    for name, array in load_model(trained)[0].state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array, err_msg=name)
    shutil.rmtree(trained)
    status, _, message = command("train", "--resume", tmp_path / "new", "--steps", "2")
    assert status == 0, message


def test_networks_that_do_not_fit_are_refused(refused, trained, data, tmp_path):
    start = ["train", "--data", data, "--out", tmp_path / "new", *HARDLY, "--start-from"]
    assert "depth" in refused(*start, trained, "--depth", "2")
    assert "no such checkpoint" in refused(*start, tmp_path / "nowhere")
    assert not RunFolder(tmp_path / "new").config.exists()


def test_networks_of_other_programs(command, refused, data, tmp_path):
    """The command says what is new, how their images were normalised, and why it takes some of them not."""
    torch.manual_seed(0)
    weights = {}

    def add(layer, module):
        weights.update({f"{layer}.{name}": array for name, array in module.state_dict().items()})

    def double(name, before, after):
        for number, channels in ((0, before), (3, after)):
            add(f"{name}.double_conv.{number}", torch.nn.Conv2d(channels, after, 3, bias=False))
            add(f"{name}.double_conv.{number + 1}", torch.nn.BatchNorm2d(after))

    double("inc", 3, 2)  # one level, for images in colour
    double("down1.maxpool_conv.1", 2, 4)
    add("up1.up", torch.nn.ConvTranspose2d(4, 2, 2))
    double("up1.conv", 4, 2)
    add("outc.conv", torch.nn.Conv2d(2, 2, 1))
    torch.save({**weights, "mask_values": [0, 1]}, tmp_path / "MODEL.pth")

    start = ["train", "--data", data, "--out", tmp_path / "new", *HARDLY, "--start-from"]
    status, output, message = command(*start, tmp_path / "MODEL.pth")
    assert status == 0, message
    assert "random weights: contracting.0.first\n" in output  # the images are grey
    assert "divided by 255" in output
    model, checkpoint = load_model(tmp_path / "new")
    assert (checkpoint.network["padding"], checkpoint.network["normalisation"]) == ("same", "batch")
    kernel = model.state_dict()["contracting.1.first.weight"]
    theirs = weights["down1.maxpool_conv.1.double_conv.0.weight"].permute(2, 3, 1, 0)
    np.testing.assert_allclose(kernel, theirs, rtol=0, atol=1e-6)  # the default's step, of almost nothing
    torch.save({name: array for name, array in weights.items() if ".up." not in name}, tmp_path / "MODEL.pth")
    assert "bilinear" in refused(*start, tmp_path / "MODEL.pth", "--overwrite")
    assert "no such" in refused(*start, tmp_path / "missing.caffemodel", "--overwrite")
