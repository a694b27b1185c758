"""Worked answers of chapter 13, the cases they are checked on, and answers known to be wrong."""

import numpy as np
from lesson import WrongAnswer, attempt, compare, is_open

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

# 13.3


def accumulated_step(model, optimiser, samples):
    losses = []
    for sample in samples:
        logits = model(tu.Tensor(sample.image))
        loss = tu.softmax_cross_entropy(logits, sample.target, sample.weight)
        loss.backward(np.float32(1 / len(samples)))
        losses.append(loss.item())
    optimiser.step()
    optimiser.zero_grad()
    return float(np.mean(losses))


hints_accumulated_step = (
    "A loop over the samples with all but the last two parts of train_step.",
    "loss.backward(np.float32(1 / len(samples))), and after the loop one step and one zero_grad.",
)


def _accumulated_losses(function):
    model = tu.UNet(base_channels=2, depth=1, dropout=0, seed=1)
    optimiser = tu.SGD(model.parameters(), lr=0.1, momentum=0.5)
    for step, number in enumerate([3, 1, 2, 2]):
        yield attempt(
            function, model, optimiser, [_Sample(np.random.default_rng([step, k])) for k in range(number)]
        )


def check_accumulated_step(function):
    for step, (mine, right) in enumerate(
        zip(_accumulated_losses(function), _accumulated_losses(accumulated_step), strict=True)
    ):
        if is_open(mine):
            return False
        if not isinstance(mine, float):
            raise WrongAnswer(f"{mine!r:.60} is returned where a float is expected")
        if not abs(mine - right) < 1e-5:
            raise WrongAnswer(f"the loss of step {step} is {mine:.6f} where {right:.6f} is expected")
    return True


def _the_sum(model, optimiser, samples):
    losses = []
    for sample in samples:
        loss = tu.softmax_cross_entropy(model(tu.Tensor(sample.image)), sample.target, sample.weight)
        loss.backward()
        losses.append(loss.item())
    optimiser.step()
    optimiser.zero_grad()
    return float(np.mean(losses))


wrong_accumulated_step = {
    "a step for each sample": lambda model, optimiser, samples: float(
        np.mean([train_step(model, optimiser, sample) for sample in samples])
    ),
    "the gradient of the sum": _the_sum,
    "the last sample alone": lambda model, optimiser, samples: train_step(model, optimiser, samples[-1]),
}

# 13.4


def train_loop(model, optimiser, sampler, begin, end, every):
    losses, snapshots = [], {}
    for step in range(begin, end):
        losses.append(train_step(model, optimiser, sampler.sample(step)))
        if (step + 1) % every == 0:
            snapshots[step + 1] = snapshot(model, optimiser, step + 1)
    return losses, snapshots


hints_train_loop = (
    "range(begin, end), train_step, and a snapshot where the number of steps made is a multiple of every.",
    "After step k, k + 1 steps are made, and k + 1 comes next: snapshots[k + 1] = snapshot(..., k + 1).",
)


class _Sampler:
    """Samples by the number of the step, of which it keeps a list."""

    def __init__(self):
        self.asked = []

    def sample(self, step):
        self.asked.append(step)
        return _Sample(np.random.default_rng(step))


def _looped(function, *numbers):
    model = tu.UNet(base_channels=1, depth=1, dropout=0, seed=1)
    sampler = _Sampler()
    found = attempt(function, model, tu.SGD(model.parameters(), lr=0.1, momentum=0.5), sampler, *numbers)
    return found, sampler.asked


def check_train_loop(function):
    for numbers in [(0, 5, 2), (3, 8, 2), (0, 2, 5)]:
        (found, asked), (right, steps) = _looped(function, *numbers), _looped(train_loop, *numbers)
        where = "for begin, end, every = {}, {}, {}".format(*numbers)
        if is_open(found):
            return False
        if not isinstance(found, tuple | list) or len(found) != 2 or not isinstance(found[1], dict):
            raise WrongAnswer(f"a list of losses and a dict are expected, not {found!r:.80}, {where}")
        if asked != steps:
            raise WrongAnswer(f"the samples of steps {asked} are taken where {steps} are expected, {where}")
        if not isinstance(found[0], list | tuple) or len(found[0]) != len(right[0]):
            raise WrongAnswer(f"a list of {len(right[0])} losses is expected, not {found[0]!r:.80}, {where}")
        if not np.allclose(found[0], right[0], atol=1e-5):
            raise WrongAnswer(f"the losses are {found[0]} where {right[0]} are expected, {where}")
        if found[1].keys() != right[1].keys():
            raise WrongAnswer(f"snapshots {list(found[1])} where {list(right[1])} are expected, {where}")
        for step, state in found[1].items():
            compare(state["weights"][0], right[1][step]["weights"][0], f"in snapshot {step}, {where}")
            if state["step"] != step:
                raise WrongAnswer(f"snapshot {step} has the step {state['step']}, {where}")
    return True


def _one_early(model, optimiser, sampler, begin, end, every):
    losses, snapshots = [], {}
    for step in range(begin, end):
        if step % every == 0:
            snapshots[step] = snapshot(model, optimiser, step)
        losses.append(train_step(model, optimiser, sampler.sample(step)))
    return losses, snapshots


def _counted_from_the_start(model, optimiser, sampler, begin, end, every):
    losses, snapshots = [], {}
    for step in range(end - begin):
        losses.append(train_step(model, optimiser, sampler.sample(step)))
        if (step + 1) % every == 0:
            snapshots[step + 1] = snapshot(model, optimiser, step + 1)
    return losses, snapshots


wrong_train_loop = {
    "the snapshot before the step": _one_early,
    "steps counted from 0 after a restart": _counted_from_the_start,
    "no snapshots": lambda *arguments: (train_loop(*arguments)[0], {}),
}

# 13.5


def folds_of(groups, folds):
    members = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    parts = [[] for _ in range(folds)]
    for images in sorted(members.values(), key=len, reverse=True):
        min(parts, key=len).extend(images)
    return [sorted(part) for part in parts]


hints_folds_of = (
    "First the images of each group, in a dict. Then sort the groups by their size.",
    "sorted(..., key=len, reverse=True) keeps equals in order; min(parts, key=len) is the first smallest.",
)


def cases_folds_of(rng):
    yield list("aabcccdb"), 2
    yield list(range(7)), 3
    yield list("xxxxxyz"), 3
    yield list("ab"), 3
    yield list("abbaa"), 1


wrong_folds_of = {
    "groups torn apart": lambda groups, folds: [list(range(k, len(groups), folds)) for k in range(folds)],
    "groups in turn, whatever their size": lambda groups, folds: [
        [i for i, group in enumerate(groups) if list(dict.fromkeys(groups)).index(group) % folds == k]
        for k in range(folds)
    ],
    "the smallest group first": lambda groups, folds: _dealt(groups, folds),
}


def _dealt(groups, folds):
    parts = [[] for _ in range(folds)]
    for group in sorted(dict.fromkeys(groups), key=list(groups).count):
        min(parts, key=len).extend(i for i, other in enumerate(groups) if other == group)
    return [sorted(part) for part in parts]
