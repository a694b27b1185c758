"""python -m tinyunet.train --start-from: training goes on from the weights of another network."""

import shutil

import numpy as np

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
