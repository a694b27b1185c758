"""python -m tinyunet.train --recipe auto: it takes what the doctor proposes, and given options win."""

import json
import shlex

from run_files import log_of, same_weights

from tinyunet import train
from tinyunet.reporting.trial import AS_MANY_AS_FIT
from tinyunet.training.config import TrainConfig

AUTO = ["--recipe", "auto", "--base-channels", "2", "--holdout", "1", "--steps", "4"]


def test_a_proposal_is_taken_and_repeats(command, data, tmp_path):
    """The run stores its values, and the command of the log, without "auto", gives the same bits."""
    status, out, message = command("train", "--data", data, "--out", "run", *AUTO)
    assert status == 0, message
    run = tmp_path / "run"
    config = json.loads((run / "config.json").read_text())
    assert (config["depth"], config["tile"], config["steps"], config["validate_every"]) == (2, 36, 4, 1)
    assert (config["optimiser"], config["normalisation"]) == ("adam", "batch")
    (typed,) = [record["command"] for record in log_of(run) if record["event"] == "started"]
    assert f"  {typed}" in out.splitlines()
    words = shlex.split(typed)
    assert words[words.index("--recipe") + 1] == "default"
    words[words.index("--out") + 1] = "again"
    assert command("train", *words[3:])[0] == 0
    assert same_weights(run / "last.safetensors", tmp_path / "again" / "last.safetensors")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == config


def test_it_is_what_the_doctor_proposes(command, data, monkeypatch):
    """In the same words."""
    monkeypatch.setattr(train, "_train_once", lambda *arguments: None)
    _, doctors, _ = command("doctor", data, "--holdout", "1")
    _, trainings, _ = command("train", "--data", data, "--holdout", "1", "--recipe=auto")
    proposal = doctors[doctors.index("proposed") : doctors.index("python -m")]
    assert len(proposal.splitlines()) > 5
    assert proposal in trainings


def test_given_options_win_over_a_proposal(command, data, tmp_path):
    given = ["--depth", "1", "--tile", "16", "--validate-every", "2", "--lr", "0.01"]
    assert command("train", "--data", data, "--out", "run", *AUTO, *given)[0] == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    expected = {"depth": 1, "tile": 16, "steps": 4, "validate_every": 2, "lr": 0.01}
    assert {name: config[name] for name in expected} == expected


def test_a_proposal_for_minutes_leaves_the_steps_to_the_trial(data, monkeypatch):
    images = train.read_data(TrainConfig(data=str(data)))
    options = train.parse(["--data", str(data), "--recipe", "auto", "--minutes", "1", "--holdout", "1"])
    decided, command = train._with_proposal(options, images, "train --recipe auto --minutes 1")
    assert (decided.config.depth, decided.config.tile) == (2, 36)
    assert decided.config.steps == decided.config.validate_every == AS_MANY_AS_FIT
    assert command == "train --recipe default --minutes 1 --depth 2 --tile 36"


def test_a_resumed_run_keeps_what_was_proposed(command, data, tmp_path):
    assert command("train", "--data", data, "--out", "run", *AUTO)[0] == 0
    before = (tmp_path / "run" / "config.json").read_text()
    assert command("train", "--resume", "run", "--recipe", "auto")[0] == 0
    assert (tmp_path / "run" / "config.json").read_text() == before
