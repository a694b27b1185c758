"""What a training wrote into its folder: its weights and its log."""

import json

from tinyunet.training.checkpoint import load_checkpoint

FILES = {"config.json", "log.jsonl", "best.safetensors", "last.safetensors", "curves.png", "examples.png"}


def same_weights(one, other):
    a, b = load_checkpoint(one), load_checkpoint(other)
    assert a.step == b.step
    assert a.weights.keys() == b.weights.keys()
    return all(a.weights[name].tobytes() == b.weights[name].tobytes() for name in a.weights)


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def deterministic(log):
    """The log without what differs from run to run: starts and times."""
    return [
        {key: value for key, value in record.items() if key not in ("seconds", "waited")}
        for record in log
        if record["event"] != "started"
    ]
