"""The tasks' options do what their names say, and the commands accept them."""

from dataclasses import asdict
from pathlib import Path

import pytest
import tyro

from experiments.tasks import TASKS, Comparison, Run
from tinyunet import compare, evaluate, train
from tinyunet.metrics.naming import lower_is_better

RUNS = [
    Run(task, variant, 1, task.steps, Path("data"), Path("runs"))
    for task in TASKS.values()
    for variant in task.variants
]


def config_of(run):
    return train.parse(list(run.train)).config


def difference(run):
    """The options in which a run differs from its task's reference, by name."""
    reference = next(other for other in RUNS if other.task is run.task)
    mine, its = flat(config_of(run)), flat(config_of(reference))
    return {name: value for name, value in mine.items() if value != its[name]}


def flat(config):
    record = asdict(config)
    return {**record.pop("augmentation"), **record.pop("weights"), **record}


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.task.name}-{run.variant.name}")
def test_one_thing_at_a_time(run):
    plain = run.task.name == "isbi"  # where the reference has no weights
    expected = {
        "weights": {"w0": 10.0, "class_balance": True} if plain else {},
        "plain": {} if plain else {"w0": 0.0, "class_balance": False},
        "balance": {"w0": 0.0},
        "rigid": {"elastic_sigma": 0.0},
        "same": {"padding": "same"},
        "eight": {},
        "uncut": {},
        "plain-uncut": {"w0": 0.0, "class_balance": False},
        "momentum": {"momentum": 0.9, "lr": 0.02 if plain else 0.03},
    }
    assert difference(run) == expected[run.variant.name]
    evaluation = tyro.cli(evaluate.Options, args=list(run.evaluate))
    assert evaluation.symmetries == (8 if run.variant.name == "eight" else 1)
    assert evaluation.split == ("uncut" not in run.variant.name)
    assert evaluation.predictions == run.folder / "last.safetensors"


def test_seeds_and_names_are_kept_apart():
    config = config_of(RUNS[0])
    assert (config.seed, config.steps, config.validate_every) == (1, RUNS[0].steps, RUNS[0].steps)
    assert len({run.scores for run in RUNS}) == len(RUNS)
    trained = {run.folder: run.train for run in RUNS}
    assert (
        len(trained)
        == len(set(trained.values()))
        == len({(run.task.name, run.variant.train) for run in RUNS})
    )


def test_the_first_measure_can_be_compared():
    for task in TASKS.values():
        assert not lower_is_better(task.measures[0])


def test_the_networks_are_compared_as_the_first_task_is_trained():
    job = Comparison(TASKS["isbi"], 2, 0.5, Path("data"), Path("runs"))
    options = tyro.cli(compare.Options, args=list(job.compare))
    assert (options.seed, options.minutes, options.holdout) == (2, 0.5, "24-29")
    assert options.weights == config_of(RUNS[0]).weights
    assert options.data == str(Path("data") / TASKS["isbi"].file)
