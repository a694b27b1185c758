"""Following a run that another process trains: what its folder tells at every moment."""

import json
import math
import os

import pytest

from tinyunet.reporting.follow import Follower
from tinyunet.reporting.watch_page import render


def step(number, loss=0.5, seconds=2.0):
    return {"event": "step", "step": number, "loss": loss, "lr": 0.1, "seconds": seconds, "waited": 0.0}


def validation(number, mean_iou, iou=(0.9, 0.5)):
    scores = {"mean_iou": mean_iou, "pixel_error": 0.1, "iou": list(iou), "seconds": 3.0}
    return {"event": "validation", "step": number, **scores}


def write(run, *records, config=None, mode="w"):
    run.mkdir(parents=True, exist_ok=True)
    with (run / "log.jsonl").open(mode) as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    if config is not None:
        (run / "config.json").write_text(json.dumps(config))


class Watched:
    """One run; `now` is the time of the log's last change."""

    def __init__(self, path):
        self.path, self.follower = path, Follower([path])

    def __call__(self, later=0.0):
        log = self.path / "log.jsonl"
        (snapshot,) = self.follower.snapshots((log.stat().st_mtime if log.exists() else 0.0) + later)
        assert render([snapshot], [self.path])  # whatever the state, there is a page
        return snapshot


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def test_a_run_that_begins_and_ends(run):
    watched = Watched(run)
    assert watched().state == "waiting"
    write(run, step(1), config={"steps": 3, "validate_every": 3})
    assert (watched().state, watched().step, watched().steps) == ("training", 1, 3)
    write(run, step(2), step(3), validation(3, 0.7), {"event": "finished", "step": 3}, mode="a")
    assert (watched().state, watched().step, watched().seconds_left) == ("finished", 3, None)


def test_half_a_line_is_read_when_its_other_half_comes(run):
    watched = Watched(run)
    write(run, step(1))
    whole = json.dumps(step(2, loss=0.25)) + "\n"
    for part, steps in ((whole[:20], 1), (whole[20:-1], 1), (whole[-1:], 2)):
        with (run / "log.jsonl").open("a") as file:
            file.write(part)
        assert watched().step == steps
        assert watched().damaged == 0
    assert watched().loss == (0.5 + 0.25) / 2


@pytest.mark.parametrize(
    "line", [b"\xff\x00", b"[]", b"{", b'{"event": "step", "step": 2}', b"[" * 100_000, b""]
)
def test_damaged_lines_are_left_out_and_counted(run, line):
    watched = Watched(run)
    write(run, step(1))
    with (run / "log.jsonl").open("ab") as file:
        file.write(line + b"\n")
    write(run, step(3), mode="a")
    assert [record["step"] for record in watched().log] == [1, 3]
    assert watched().damaged == 1


@pytest.mark.parametrize("length", [1, 2, 3, 9])
def test_a_replaced_log_is_read_from_its_start(run, length):
    """Shorter than before, as long or longer; with the same inode or another."""
    watched = Watched(run)
    write(run, step(1), step(2), step(3))
    assert watched().step == 3
    write(run, *(step(n, loss=0.125, seconds=2.5) for n in range(1, length + 1)))
    assert [record["step"] for record in watched().log] == list(range(1, length + 1))
    assert watched().loss == 0.125


def test_a_resumed_run_forgets_what_it_makes_again(run):
    watched = Watched(run)
    write(run, step(1), step(2), step(3))
    assert watched().step == 3
    part = run / "log.jsonl.part"
    part.write_text(json.dumps(step(1)) + "\n")
    os.replace(part, run / "log.jsonl")
    assert watched().step == 1
    (run / "log.jsonl").unlink()
    assert watched().state == "waiting"


def test_time_left(run):
    """Steps of 2 s and validations of 3 s: from step 4 of 10, there are 6 and 2, at 8 and at 10."""
    watched = Watched(run)
    write(run, *map(step, range(1, 4)), config={"steps": 10, "validate_every": 4})
    assert watched().seconds_left == 7 * 2 + 2 * 0
    write(run, step(4), validation(4, 0.7), mode="a")
    assert watched().seconds_left == 6 * 2 + 2 * 3


def test_a_run_of_which_nothing_is_heard(run):
    watched = Watched(run)
    write(run, step(1), config={"steps": 2})
    assert watched(later=30).state == "training"
    assert watched(later=100).state == "silent"
    write(run, step(2, seconds=600.0), mode="a")
    assert watched(later=100).state == "training"  # its steps take ten minutes


def test_the_best_validation_finds_more_than_one_class(run):
    write(run, validation(1, 0.49, (0.98, 0.0)), validation(2, 0.4, (0.7, 0.1)), validation(3, None))
    assert Watched(run)().best["step"] == 2


def test_warnings_that_still_hold(run):
    found = {"what": "the loss stands still", "numbers": {}, "remedy": "wait"}
    watched = Watched(run)
    write(run, {"event": "plateau", "step": 5, **found}, {"event": "collapsed", "step": 7, **found})
    assert [record["step"] for record in watched().warnings] == [7, 5]
    write(run, {"event": "plateau left", "step": 9, "since": 5}, mode="a")
    assert [record["step"] for record in watched().warnings] == [7]


@pytest.mark.parametrize("config", ["", "[]", "{", '{"steps": "many", "validate_every": 0}', '{"steps": -3}'])
@pytest.mark.parametrize("loss", [math.nan, math.inf, 0.0, 2**62])
def test_strange_values_make_a_page_too(run, config, loss):
    write(run, step(0, loss=loss, seconds=loss), step(2**62, loss=loss), validation(1, loss))
    (run / "config.json").write_text(config)
    assert Watched(run)().steps is None


def test_runs_in_a_folder_in_the_order_of_their_numbers(tmp_path):
    follower = Follower([tmp_path / "many", tmp_path / "one"])
    assert [snapshot.path.name for snapshot in follower.snapshots(0)] == ["many", "one"]
    for name in ("many/fold-10", "many/fold-9", "one"):
        write(tmp_path / name, step(1))
    assert [snapshot.path.name for snapshot in follower.snapshots(0)] == ["fold-9", "fold-10", "one"]
    page = render(follower.snapshots(0), [tmp_path])
    assert page.count("<polyline") == 3 * 3  # loss, scores and learning rate, of three runs
