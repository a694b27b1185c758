"""Worked answers of chapter 11, the cases they are checked on, and answers known to be wrong."""

import numpy as np
from lesson import WrongAnswer, attempt, is_open

import tinyunet as tu

# 11.1


def sgd_step(weight, grad, velocity, lr, momentum):
    velocity = momentum * velocity + grad
    return weight - lr * velocity, velocity


hints_sgd_step = (
    "Momentum keeps a part of the last velocity and adds the gradient.",
    "First the velocity, then the weight by the new velocity.",
)


returns_sgd_step = "weight", "velocity"


def cases_sgd_step(rng):
    for shape in [(), (3,), (2, 5)]:
        yield *rng.standard_normal((3, *shape)), *map(float, rng.uniform(0.1, 0.9, 2))


def _the_old_velocity(weight, grad, velocity, lr, momentum):
    return weight - lr * velocity, momentum * velocity + grad


def _an_average(weight, grad, velocity, lr, momentum):
    velocity = momentum * velocity + (1 - momentum) * grad
    return weight - lr * velocity, velocity


def _rate_inside(weight, grad, velocity, lr, momentum):
    velocity = momentum * velocity + lr * grad
    return weight - velocity, velocity


def _uphill(weight, grad, velocity, lr, momentum):
    velocity = momentum * velocity + grad
    return weight + lr * velocity, velocity


def _in_place(weight, grad, velocity, lr, momentum):
    velocity *= momentum
    velocity += grad
    weight -= lr * velocity
    return weight, velocity


wrong_sgd_step = {
    "arrays changed in place": _in_place,
    "moved by the velocity before": _the_old_velocity,
    "the gradient times 1 - momentum": _an_average,
    "the learning rate inside of v": _rate_inside,
    "uphill": _uphill,
}

# 11.2


def speed_after(steps, momentum):
    return (1 - momentum**steps) / (1 - momentum)


hints_speed_after = (
    "Under a constant gradient of 1 the velocity is a geometric series.",
    "Sum of momentum**k for k = 0 … steps - 1.",
)


def cases_speed_after(rng):
    yield 1, 0.9
    yield 2, 0.5
    for _ in range(3):
        yield int(rng.integers(3, 200)), float(rng.uniform(0.1, 0.99))


wrong_speed_after = {
    "the limit at once": lambda steps, momentum: 1 / (1 - momentum),
    "one step late": lambda steps, momentum: (1 - momentum ** (steps - 1)) / (1 - momentum),
    "nothing is lost on the way": lambda steps, momentum: float(steps),
}

# 11.3


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

# 11.4


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

# 11.5


def adam_step(weight, grad, mean, square, t, lr, beta1, beta2):
    mean = beta1 * mean + (1 - beta1) * grad
    square = beta2 * square + (1 - beta2) * grad**2
    step = (mean / (1 - beta1**t)) / (np.sqrt(square / (1 - beta2**t)) + 1e-8)
    return weight - lr * step, mean, square


hints_adam_step = (
    "First both averages, then the weight by the new ones. What is returned is not divided by c1 or c2.",
    "mean / (1 - beta1**t) over np.sqrt(square / (1 - beta2**t)) + 1e-8.",
)


returns_adam_step = "weight", "mean", "square"


def cases_adam_step(rng):
    for shape, t in [((), 1), ((3,), 2), ((2, 5), 40)]:
        weight, grad, mean, square = rng.standard_normal((4, *shape))
        betas = map(float, rng.uniform(0.5, 0.95, 2))
        yield weight, grad, mean, np.square(square), t, float(rng.uniform(0.1, 0.9)), *betas


def _moved(weight, mean, square, lr, c1=1.0, c2=1.0):
    return weight - lr * (mean / c1) / (np.sqrt(square / c2) + 1e-8)


def _uncorrected(weight, grad, mean, square, t, lr, beta1, beta2):
    _, mean, square = adam_step(weight, grad, mean, square, t, lr, beta1, beta2)
    return _moved(weight, mean, square, lr), mean, square


def _steps_from_zero(weight, grad, mean, square, t, lr, beta1, beta2):
    return adam_step(weight, grad, mean, square, t + 1, lr, beta1, beta2)


def _corrections_kept(weight, grad, mean, square, t, lr, beta1, beta2):
    weight, mean, square = adam_step(weight, grad, mean, square, t, lr, beta1, beta2)
    return weight, mean / (1 - beta1**t), square / (1 - beta2**t)


def _without_the_root(weight, grad, mean, square, t, lr, beta1, beta2):
    _, mean, square = adam_step(weight, grad, mean, square, t, lr, beta1, beta2)
    return weight - lr * (mean / (1 - beta1**t)) / (square / (1 - beta2**t) + 1e-8), mean, square


def _old_averages(weight, grad, mean, square, t, lr, beta1, beta2):
    moved = _moved(weight, mean, square, lr, 1 - beta1**t, 1 - beta2**t)
    return moved, *adam_step(weight, grad, mean, square, t, lr, beta1, beta2)[1:]


def _corrected_after_the_root(weight, grad, mean, square, t, lr, beta1, beta2):
    _, mean, square = adam_step(weight, grad, mean, square, t, lr, beta1, beta2)
    return _moved(weight, mean, square, lr, 1 - beta1**t, (1 - beta2**t) ** 2), mean, square


wrong_adam_step = {
    "the bias corrections are missing": _uncorrected,
    "the corrections are those of the next step": _steps_from_zero,
    "the corrected averages are returned, and would be corrected again": _corrections_kept,
    "divided by the mean square, not by its root": _without_the_root,
    "moved by the averages before this gradient": _old_averages,
    "c2 is outside of the root": _corrected_after_the_root,
}
