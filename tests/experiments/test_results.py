"""python -m experiments.results makes the missing runs, records them, and writes the page of the records."""

import dataclasses
import doctest
import json
import shlex
import statistics
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import digits, page, results
from experiments.tasks import NO_WEIGHTS, TASKS, Run, Task, Variant
from tinyunet import evaluate, train
from tinyunet.backend import dispatch
from tinyunet.reporting import environment
from tinyunet.training.run_folder import RunFolder

TINY = Task(
    "tiny",
    "Tiny squares",
    "tiny.npz",
    "2-4",
    ("--base-channels", "2", "--depth", "1", "--tile", "16", "--lr", "0.01", "--momentum", "0.9"),
    2,
    ("mean_iou", "pixel_error", "v_rand"),
    (
        Variant("first", "as it is"),
        Variant("plain", "no weights", NO_WEIGHTS),
        Variant("eight", "eight symmetries", (), ("--symmetries", "8")),
    ),
)


@pytest.fixture(autouse=True)
def tiny_task(monkeypatch, tmp_path):
    """Only the tiny task is known; a command leaves the backend as it was."""
    monkeypatch.chdir(tmp_path)
    dispatch._choice.set(None)
    for name in list(TASKS):
        monkeypatch.delitem(TASKS, name)
    monkeypatch.setitem(TASKS, "tiny", TINY)


@pytest.fixture
def options(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.zeros((5, 40, 36), np.uint8)
    for label in labels:
        for y, x in rng.integers(0, 30, (3, 2)):
            label[y : y + 8, x : x + 8] = 255
    images = (60 + 0.5 * labels + rng.normal(0, 20, labels.shape)).clip(0, 255).astype(np.uint8)
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "tiny.npz", images=images, labels=labels)
    return results.Options(
        tasks=("tiny",),
        seeds=2,
        data=tmp_path / "data",
        runs=tmp_path / "runs",
        records=tmp_path / "records",
        page=tmp_path / "docs" / "results.md",
    )


@pytest.fixture
def calls(monkeypatch):
    """The commands, which run in this process because importing again takes seconds."""
    made = []
    mains = {"tinyunet.train": train.main, "tinyunet.evaluate": evaluate.main}

    def call(module, *arguments):
        made.append((module.removeprefix("tinyunet."), *arguments))
        mains[module](list(arguments))

    monkeypatch.setattr(results, "_call", call)
    return made


def records_of(options):
    return [json.loads(line) for line in (options.records / "tiny.jsonl").read_text().splitlines()]


def test_each_run_once_and_variants_that_train_alike_share_the_training(options, calls):
    results.results(options)
    assert [call[0] for call in calls] == ["train", "evaluate", "train", "evaluate", "evaluate"] * 2
    records = records_of(options)
    assert [record["name"] for record in records] == [
        f"Tiny squares; {variant.title}; seed {seed}" for seed in (0, 1) for variant in TINY.variants
    ]
    first, plain, eight, *_ = records
    assert first["scores"] != plain["scores"]
    assert first["scores"] != eight["scores"]
    assert first["commands"][0] == eight["commands"][0] != plain["commands"][0]
    assert first["images"] == 3
    assert first["train_seconds"] > 0
    calls.clear()
    results.results(options)
    assert calls == []
    assert records_of(options) == records


def test_scores_are_those_of_the_last_step(options, calls):
    """The held-out images are predicted once, in the end, and choose nothing."""
    results.results(options)
    for run in results.plan(options):
        validations = [
            record for record in RunFolder(run.folder).read_log() if record["event"] == "validation"
        ]
        assert [validation["step"] for validation in validations] == [2]
        if run.variant.name != "eight":
            score = results.find_record(options.records, run)["scores"]["pixel_error"]
            assert score == pytest.approx(validations[0]["pixel_error"], rel=1e-6)
    assert all(call[1].endswith("last.safetensors") for call in calls if call[0] == "evaluate")


def test_the_page_says_what_the_records_say(options, calls):
    results.results(options)
    records = records_of(options)
    text = options.page.read_text()
    for variant in TINY.variants:
        its_records = [record for record in records if f"; {variant.title}; " in record["name"]]
        row = next(line for line in text.splitlines() if line.startswith(f"| {variant.title} |"))
        cells = [cell.strip() for cell in row.split("|")[2:-1]]
        for measure, cell in zip(TINY.measures, cells, strict=False):
            values = [record["scores"][measure] for record in its_records]
            mean, _, spread = cell.partition(" ± ")
            half = 0.5 * 10.0 ** -len(mean.partition(".")[2])  # of the last digit
            assert abs(float(mean) - statistics.mean(values)) <= half * 1.001
            assert abs(float(spread) - statistics.stdev(values)) <= half * 1.001
            assert statistics.stdev(values) == 0 or float(spread) > 0
        seconds = statistics.mean(record["train_seconds"] for record in its_records)
        assert cells[len(TINY.measures)] == f"{seconds:.0f} s"
        for command in its_records[0]["commands"]:
            assert command in text
    assert "3 held-out images; 2 seeds; 2 steps" in text
    assert "4 trainings took" in text
    for name in ("results_tiny.png", "results_tiny_examples.jpg"):
        assert f"(images/{name})" in text
        assert np.asarray(Image.open(options.page.parent / "images" / name).convert("L")).std() > 10


def test_the_page_needs_the_records_only(options, calls):
    """Without the runs the table is the same, and a picture drawn from them stays."""
    results.results(options)
    before = options.page.read_text()
    options.runs.rename(options.runs.with_name("elsewhere"))
    results.results(dataclasses.replace(options, data=options.data / "moved"))
    assert options.page.read_text() == before
    assert len(records_of(options)) == 6


def test_a_stopped_training_goes_on(options, calls):
    one = dataclasses.replace(options, seeds=1)
    results.results(one)
    log = options.runs / "tiny-first-2-0" / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:-1]))  # without "finished"
    (options.records / "tiny.jsonl").unlink()
    calls.clear()
    results.results(one)
    assert [call[0] for call in calls] == ["train", "evaluate", "evaluate", "evaluate"]
    assert calls[0][1:] == ("--resume", str(log.parent))


def test_a_training_with_other_options_is_not_taken_for_this_one(options, calls, monkeypatch):
    """The folder's name does not hold all options."""
    one = dataclasses.replace(options, seeds=1)
    results.results(one)
    calls.clear()
    monkeypatch.setitem(
        TASKS, "tiny", dataclasses.replace(TINY, train=(*TINY.train[:1], "3", *TINY.train[2:]))
    )
    results.results(one)
    assert [call[0] for call in calls] == ["train", "evaluate", "train", "evaluate", "evaluate"]
    config = json.loads((options.runs / "tiny-first-2-0" / "config.json").read_text())
    assert config["base_channels"] == 3
    assert options.page.read_text().count("--base-channels 3") == 3
    assert "--base-channels 2" not in options.page.read_text()


def test_dry_lists_the_commands_and_runs_none(options, calls, capsys):
    results.results(dataclasses.replace(options, dry=True))
    assert calls == []
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("python -m ")]
    planned = [command for run in results.plan(options) for command in run.commands]
    assert shown == planned
    assert "Not run yet." in options.page.read_text()


NETWORK = {
    "parameters": 1234,
    "steps": 100,
    "seconds_per_image": 0.5,
    "multiplications_per_pixel": 5678.0,
    "brute_force": None,
}
BRUTE_FORCE = {"seconds_per_image": 321.0, "multiplications_per_pixel": 98765.0}


def test_three_networks(options, monkeypatch):
    """The results of tinyunet.compare with each seed are recorded once, and averaged on the page."""
    made = []

    def compare(module, *arguments):
        made.append((module, *arguments))
        folder = Path(arguments[arguments.index("--out") + 1])
        seed = int(arguments[arguments.index("--seed") + 1])
        networks = {
            name: {
                **NETWORK,
                "brute_force": BRUTE_FORCE if name == "sliding-window" else None,
                "measures": {measure: {"mean": score + 0.1 * seed} for measure in TINY.measures},
            }
            for name, score in (("unet", 0.75), ("fcn", 0.5), ("sliding-window", 0.25))
        }
        folder.mkdir(parents=True)
        Image.fromarray(np.eye(50, dtype=np.uint8) * 255).save(folder / "comparison.png")
        facts = {"at": "2026-01-02T03:04:05+00:00", "machine": environment.machine()}
        record = {**facts, "versions": environment.versions(), "networks": networks}
        (folder / "comparison.json").write_text(json.dumps(record))

    monkeypatch.setattr(results, "_call", compare)
    options = dataclasses.replace(options, tasks=("compare",), minutes=0.5)
    results.results(options)
    results.results(options)
    results.results(dataclasses.replace(options, tasks=("tiny",), dry=True))  # the page keeps them
    assert [call[0] for call in made] == 2 * ["tinyunet.compare"]
    assert {"--minutes", "0.5", "--holdout", "2-4"} <= set(made[0])
    text = options.page.read_text()
    score = "0.30 ± 0.07 | "
    assert f"| sliding window | {3 * score}1,234 | 100 | 0.50 | 5,678 |" in text
    assert "0.80 ± 0.07" in text
    assert "about 321 s (extrapolated from some windows) and a pixel 98,765 multiplications" in text
    assert "0.5 minutes of training" in text
    assert shlex.join(("python", "-m", *made[0][:-1])) in text  # all but --overwrite
    assert (options.page.parent / "images" / "results_compare.jpg").is_file()


def test_a_command_that_fails_ends_it(options, capfd):
    """It runs in its own process: its message is printed, and this command fails too."""
    with pytest.raises(SystemExit) as end:
        results.main(
            ["--tasks", "tiny", "--data", "nowhere", "--records", "r", "--page", "p.md", "--runs", "x"]
        )
    assert end.value.code == 2
    message = capfd.readouterr().err
    assert "nowhere/tiny.npz" in message
    assert "tinyunet.train ended with status 2" in message


def test_a_measure_without_a_value():
    """Such as V_Rand of images without cells: a dash, and no verdict."""
    records = {
        Run(TINY, variant, seed, 2, None, None): {
            "scores": {"mean_iou": None, "pixel_error": 0.1 * seed, "v_rand": 1}
        }
        | {"train_seconds": 1}
        for variant in TINY.variants[:2]
        for seed in (0, 1)
    }
    first, second = page.rows(TINY, records)
    assert first["cells"] == ["–", "0.05 ± 0.07", "1.000 ± 0.000"]
    assert second["verdict"] == ""


def test_bad_options(capsys):
    for arguments, expected in (
        (["--tasks", "none"], "unknown task 'none'"),
        (["--tasks", "tiny", "--seeds", "0"], "seeds is 0"),
        (["--tasks", "tiny", "--steps", "0"], "steps is 0"),
    ):
        with pytest.raises(SystemExit) as end:
            results.main(arguments)
        assert end.value.code == 2
        assert expected in capsys.readouterr().err


def test_examples_in_docstrings():
    for module, least in ((page, 2), (digits, 7)):
        found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
        assert found.failed == 0
        assert found.attempted >= least
