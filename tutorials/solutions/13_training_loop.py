"""Worked answers of chapter 13, the cases they are checked on, and answers known to be wrong."""

import numpy as np
from lesson import WrongAnswer, attempt, is_open

import tinyunet as tu

# 13.1


def train_step(model, optimiser, sample):
    logits = model(tu.Tensor(sample.image))
    loss = tu.softmax_cross_entropy(logits, sample.target, sample.weight)
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()
    return loss.item()


hints_train_step = (
    "Predict, compare, walk back, move, reset.",
    "The five points of the text in this order; sample.image, sample.target, sample.weight; loss.item().",
)


class _Sample:
    """Random arrays with the names and shapes of a sample."""

    def __init__(self, rng):
        self.image = rng.standard_normal((1, 20, 20, 1), np.float32)
        self.target = rng.integers(2, size=(1, 4, 4))
        self.weight = rng.uniform(0, 3, (1, 4, 4)).astype(np.float32)


def _losses(function):
    """Return the losses of five steps on different samples."""
    samples = [_Sample(np.random.default_rng(seed)) for seed in range(5)]
    model = tu.UNet(base_channels=2, depth=1, dropout=0)
    optimiser = tu.SGD(model.parameters(), lr=0.1, momentum=0.5)
    return [attempt(function, model, optimiser, sample) for sample in samples]


def check_train_step(function):
    found, expected = _losses(function), _losses(train_step)
    if is_open(found[0]):
        return False
    for step, (mine, right) in enumerate(zip(found, expected, strict=True)):
        if not isinstance(mine, float):
            raise WrongAnswer(f"{mine!r:.60} is returned where a float is expected")
        if not abs(mine - right) < 1e-5:
            raise WrongAnswer(
                f"the loss of step {step} is {mine:.6f} where {right:.6f} is expected"
                f"{recognise_losses(found, step)}"
            )
    return True


def recognise_losses(found, step):
    """Name the known mistake with the same losses up to this step, or return an empty string."""
    for mistake, function in wrong_train_step.items():
        if np.allclose(_losses(function)[: step + 1], found[: step + 1], atol=1e-5):
            return f"\n  The same losses come from this mistake: {mistake}."
    return ""


def _without_zero_grad(model, optimiser, sample):
    logits = model(tu.Tensor(sample.image))
    loss = tu.softmax_cross_entropy(logits, sample.target, sample.weight)
    loss.backward()
    optimiser.step()
    return loss.item()


def _without_weight(model, optimiser, sample):
    loss = tu.softmax_cross_entropy(model(tu.Tensor(sample.image)), sample.target)
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()
    return loss.item()


def _gradient_forgotten_before_the_step(model, optimiser, sample):
    loss = tu.softmax_cross_entropy(model(tu.Tensor(sample.image)), sample.target, sample.weight)
    loss.backward()
    optimiser.zero_grad()
    optimiser.step()
    return loss.item()


wrong_train_step = {
    "zero_grad is missing, so that each step adds its gradients to the older ones": _without_zero_grad,
    "the weights of the pixels are not used": _without_weight,
    "zero_grad comes before the step, which then moves nothing": _gradient_forgotten_before_the_step,
}

# 13.2


def snapshot(model, optimiser, step):
    weights = [parameter.data.copy() for parameter in model.parameters()]
    velocity = [v.copy() for v in optimiser.velocity]
    return {"weights": weights, "velocity": velocity, "step": step}


hints_snapshot = (
    "What is changed in place by the next step must be copied now.",
    "Copies of p.data for p in model.parameters(), and of optimiser.velocity.",
)


def check_snapshot(function):
    model = tu.UNet(base_channels=2, depth=1, dropout=0)
    optimiser = tu.SGD(model.parameters(), lr=0.1, momentum=0.5)
    train_step(model, optimiser, _Sample(np.random.default_rng(0)))
    found = attempt(function, model, optimiser, 1)
    if is_open(found):
        return False
    expected = snapshot(model, optimiser, 1)
    if not isinstance(found, dict) or found.keys() != expected.keys():
        what = f"a dict with {list(found)}" if isinstance(found, dict) else f"a {type(found).__name__}"
        raise WrongAnswer(f"a dict with weights, velocity and step is expected, not {what}")
    if found["step"] != 1:
        raise WrongAnswer(f"the step is {found['step']} where 1 is expected")
    train_step(model, optimiser, _Sample(np.random.default_rng(1)))
    for name in ("weights", "velocity"):
        if len(found[name]) != len(expected[name]):
            raise WrongAnswer(f"{len(found[name])} arrays of {name} where {len(expected[name])} are expected")
        for i, (mine, right) in enumerate(zip(found[name], expected[name], strict=True)):
            if not np.array_equal(mine, right):
                raise WrongAnswer(f"after one more step, array {i} of {name} is not what it was")
    return True


def _no_copies(model, optimiser, step):
    weights = [parameter.data for parameter in model.parameters()]
    return {"weights": weights, "velocity": optimiser.velocity, "step": step}


def _velocity_forgotten(model, optimiser, step):
    weights = [parameter.data.copy() for parameter in model.parameters()]
    return {"weights": weights, "velocity": [np.zeros_like(w) for w in weights], "step": step}


wrong_snapshot = {
    "no copies": _no_copies,
    "the list copied, not the arrays": lambda model, optimiser, step: {
        "weights": [parameter.data.copy() for parameter in model.parameters()],
        "velocity": list(optimiser.velocity),
        "step": step,
    },
    "from rest": _velocity_forgotten,
    "from the first step": lambda model, optimiser, step: snapshot(model, optimiser, 0),
}
