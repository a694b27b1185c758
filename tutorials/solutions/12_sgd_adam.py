"""Worked answers of chapter 12, the cases they are checked on, and answers known to be wrong."""

import numpy as np

# 12.1


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

# 12.2


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

# 12.3


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

# 12.4


def nesterov_step(weight, grad, velocity, lr, momentum):
    velocity = momentum * velocity + grad
    return weight - lr * (momentum * velocity + grad), velocity


hints_nesterov_step = (
    "The velocity is that of sgd_step. Only the step is another one.",
    "weight - lr * (momentum * velocity + grad), with the new velocity.",
)


returns_nesterov_step = "weight", "velocity"


def cases_nesterov_step(rng):
    yield from cases_sgd_step(rng)


wrong_nesterov_step = {
    "plain momentum": sgd_step,
    "the gradient counted once": lambda weight, grad, velocity, lr, momentum: (
        weight - lr * momentum * (momentum * velocity + grad),
        momentum * velocity + grad,
    ),
    "two steps of the velocity": lambda weight, grad, velocity, lr, momentum: (
        nesterov_step(weight, grad, velocity, lr, momentum)[0],
        momentum * (momentum * velocity + grad) + grad,
    ),
}

# 12.5


def clip(grads, longest):
    length = np.sqrt(sum(np.vdot(grad, grad) for grad in grads))
    factor = min(1.0, longest / length) if length else 1.0
    return [factor * grad for grad in grads]


hints_clip = (
    "One length for all: the root of the sum of all squares. One factor for all.",
    "min(1, longest / length): gradients that are short enough stay. A length of 0 must not be divided by.",
)


def cases_clip(rng):
    for longest in (0.5, 3.0, 100.0):
        yield [rng.standard_normal(shape) for shape in [(3,), (2, 2), ()]], longest
    yield [np.zeros(3), np.zeros(2)], 1.0


def _each_alone(grads, longest):
    return [clip([grad], longest)[0] for grad in grads]


def _lengths_added(grads, longest):
    length = sum(np.linalg.norm(grad) for grad in grads)
    return [grad * (min(1.0, longest / length) if length else 1.0) for grad in grads]


wrong_clip = {
    "the lengths of the arrays added": _lengths_added,
    "each array by its own length": _each_alone,
    "each number": lambda grads, longest: [np.clip(grad, -longest, longest) for grad in grads],
    "short ones made longer": lambda grads, longest: [
        grad * longest / max(1e-30, np.sqrt(sum(np.vdot(g, g) for g in grads))) for grad in grads
    ],
}

# 12.6


def rate_at(step, steps, warmup, peak):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 + np.cos(np.pi * (step - warmup) / (steps - warmup))) / 2


hints_rate_at = (
    "Two cases. In the second one the cosine goes from 1 at step warmup to -1 at step steps.",
    "peak * (step + 1) / warmup, or peak * (1 + np.cos(np.pi * share)) / 2.",
)


def cases_rate_at(rng):
    for steps, warmup in [(10, 3), (7, 0), (100, 1)]:
        for step in (0, 1, 2, 3, 6):
            yield step, steps, warmup, float(rng.uniform(0.001, 1))


def _zero_at_the_last(step, steps, warmup, peak):
    return rate_at(step, steps, warmup, peak) if step < warmup else rate_at(step, steps - 1, warmup, peak)


wrong_rate_at = {
    "0 in the last step, not in the one after it": _zero_at_the_last,
    "begun with 0": lambda step, steps, warmup, peak: (
        peak * step / warmup if step < warmup else rate_at(step, steps, warmup, peak)
    ),
    "the cosine from the first step on": lambda step, steps, warmup, peak: (
        rate_at(step, steps, warmup, peak) if step < warmup else rate_at(step, steps, 0, peak)
    ),
    "a straight line down": lambda step, steps, warmup, peak: (
        rate_at(step, steps, warmup, peak)
        if step < warmup
        else peak * (1 - (step - warmup) / (steps - warmup))
    ),
}
