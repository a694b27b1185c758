"""Worked answers of chapter 02, the cases they are checked on, and answers known to be wrong."""

import numpy as np

# 02.1


def best_step(value, third, rounding):
    return (3 * rounding * abs(value) / abs(third)) ** (1 / 3)


hints_best_step = (
    "At the best step the derivative of the error bound with respect to h is zero.",
    "dT/dh = h |f'''| / 3 - u |f| / h² = 0. Solve for h³.",
)


def cases_best_step(rng):
    for sign in (1, -1):
        for rounding in (2.0**-24, 2.0**-53):
            yield sign * rng.uniform(0.1, 10), -sign * rng.uniform(0.1, 10), rounding


wrong_best_step = {
    "the best for a one-sided quotient": lambda value, third, rounding: (
        (rounding * abs(value / third)) ** 0.5
    ),
    "the factor 3 lost": lambda value, third, rounding: (rounding * abs(value / third)) ** (1 / 3),
    "without absolute values": lambda value, third, rounding: np.cbrt(3 * rounding * value / third),
    "upside down": lambda value, third, rounding: (3 * rounding * abs(third / value)) ** (1 / 3),
}

# 02.2


def two_sides(forward, backward, x, g, v, h):
    by_backward = np.vdot(backward(g, x), v)
    by_difference = (np.vdot(forward(x + h * v), g) - np.vdot(forward(x - h * v), g)) / (2 * h)
    return by_backward, by_difference


hints_two_sides = (
    "Backward gives a slope for every element; v picks a direction. The quotient moves x along v, both ways.",
    "np.vdot(a, b) is <a, b>. The loss of an input x is np.vdot(forward(x), g).",
)


returns_two_sides = "the slope by backward", "the slope by the quotient"


def cases_two_sides(rng):
    """Yield cases with steps so large that another order of the same sums rounds to the same nine digits."""
    for shape in [(7,), (3, 5), (2, 3, 1)]:
        x, g, v = rng.standard_normal((3, *shape))
        yield np.exp, lambda g, x: np.exp(x) * g, x, g, v, 1e-3
        yield np.sin, lambda g, x: np.cos(x) * g, x, g, v, 1e-2


def _one_sided(forward, backward, x, g, v, h):
    return np.vdot(backward(g, x), v), (np.vdot(forward(x + h * v), g) - np.vdot(forward(x), g)) / h


def _every_element(forward, backward, x, g, v, h):
    by_difference = (np.vdot(forward(x + h), g) - np.vdot(forward(x - h), g)) / (2 * h)
    return np.vdot(backward(g, x), v), by_difference


def _without_g(forward, backward, x, g, v, h):
    return np.vdot(backward(g, x), v), np.sum(forward(x + h * v) - forward(x - h * v)) / (2 * h)


def _times_h(forward, backward, x, g, v, h):
    by_backward, by_difference = two_sides(forward, backward, x, g, v, h)
    return by_backward, by_difference * h**2


wrong_two_sides = {
    "the two slopes exchanged": lambda *arguments: two_sides(*arguments)[::-1],
    "multiplied by h, as `/ 2 * h` does; `/ (2 * h)` divides": _times_h,
    "a one-sided quotient": _one_sided,
    "every element moved by h": _every_element,
    "the output summed without g": _without_g,
    "not along v": lambda forward, backward, x, g, v, h: (
        np.sum(backward(g, x)),
        two_sides(forward, backward, x, g, v, h)[1],
    ),
    "divided by h": lambda forward, backward, x, g, v, h: (
        np.vdot(backward(g, x), v),
        2 * two_sides(forward, backward, x, g, v, h)[1],
    ),
}

# 02.3


def layer_backward(grad_y, x, weight, bias):
    grad_z = grad_y * (x @ weight + bias > 0)
    return grad_z @ weight.T, x.T @ grad_z, grad_z.sum(axis=0)


hints_layer_backward = (
    "Name the sum before the ReLU z. Where z is not positive, no gradient passes.",
    "The bias is added before the ReLU: its gradient comes back through the ReLU.",
)


returns_layer_backward = "grad_x", "grad_weight", "grad_bias"


def cases_layer_backward(rng):
    for points, channels, filters in [(5, 3, 4), (1, 2, 7), (6, 1, 3)]:
        x, weight = rng.standard_normal((points, channels)), rng.standard_normal((channels, filters))
        yield rng.standard_normal((points, filters)), x, weight, rng.standard_normal(filters)
    x = rng.standard_normal((3, 2)) * np.array([[1], [0], [1]])  # the middle row is at the corner of the ReLU
    yield rng.standard_normal((3, 4)), x, rng.standard_normal((2, 4)), np.zeros(4)


def _at_least_zero(grad_y, x, weight, bias):
    grad_z = grad_y * (x @ weight + bias >= 0)
    return grad_z @ weight.T, x.T @ grad_z, grad_z.sum(axis=0)


def _bias_past_the_relu(grad_y, x, weight, bias):
    grad_z = grad_y * (x @ weight + bias > 0)
    return grad_z @ weight.T, x.T @ grad_z, grad_y.sum(axis=0)


def _mask_without_bias(grad_y, x, weight, bias):
    grad_z = grad_y * (x @ weight > 0)
    return grad_z @ weight.T, x.T @ grad_z, grad_z.sum(axis=0)


def _mean_for_the_bias(grad_y, x, weight, bias):
    grad_z = grad_y * (x @ weight + bias > 0)
    return grad_z @ weight.T, x.T @ grad_z, grad_z.mean(axis=0)


wrong_layer_backward = {
    "grad_bias does not come through the ReLU": _bias_past_the_relu,
    "the ReLU lets through what is 0": _at_least_zero,
    "the ReLU before the bias": _mask_without_bias,
    "the mean for the bias": _mean_for_the_bias,
    "the bias sum forgotten": lambda grad_y, x, weight, bias: (
        *layer_backward(grad_y, x, weight, bias)[:2],
        grad_y * (x @ weight + bias > 0),
    ),
    "no ReLU at all": lambda grad_y, x, weight, bias: (grad_y @ weight.T, x.T @ grad_y, grad_y.sum(axis=0)),
}

# 02.4


def judge(by_backward, ahead, behind, tolerance):
    if abs(by_backward - (ahead + behind) / 2) <= tolerance:
        return "right"
    between = min(ahead, behind) - tolerance <= by_backward <= max(ahead, behind) + tolerance
    return "kink" if between else "wrong"


hints_judge = (
    "At a kink any slope between those of the two sides is allowed. Which of them is larger?",
    "Test for the mean first. Python understands a <= b <= c.",
)


def cases_judge(rng):
    for tolerance in (1e-6, 1e-3):
        for ahead, behind in [(1.0, 0.0), (0.0, 1.0), (-2.0, 3.0), (-4.0, -4.5)]:
            middle, width = (ahead + behind) / 2, abs(ahead - behind) / 2
            for part in (0, 0.5, -0.5, 1, -1, 1.5, -1.5):
                yield middle + part * width, ahead, behind, tolerance
            for sign in (1, -1):
                yield middle + sign * (width + tolerance / 2), ahead, behind, tolerance
                yield middle + sign * tolerance / 2, ahead, behind, tolerance
        slope = rng.standard_normal()  # smooth: both quotients agree
        for off, factor in [(0, 1), (tolerance / 2, 1), (0, 1.1), (0, -1)]:
            yield factor * slope + off, slope, slope, tolerance


def _ordered(by_backward, ahead, behind, tolerance):
    if abs(by_backward - (ahead + behind) / 2) <= tolerance:
        return "right"
    return "kink" if behind - tolerance <= by_backward <= ahead + tolerance else "wrong"


def _either_side(by_backward, ahead, behind, tolerance):
    if abs(by_backward - (ahead + behind) / 2) <= tolerance:
        return "right"
    at_a_side = min(abs(by_backward - ahead), abs(by_backward - behind)) <= tolerance
    return "kink" if at_a_side else "wrong"


def _any_kink(by_backward, ahead, behind, tolerance):
    if abs(by_backward - (ahead + behind) / 2) <= tolerance:
        return "right"
    return "kink" if abs(ahead - behind) > tolerance else "wrong"


def _no_tolerance_at_the_ends(by_backward, ahead, behind, tolerance):
    if abs(by_backward - (ahead + behind) / 2) <= tolerance:
        return "right"
    return "kink" if min(ahead, behind) <= by_backward <= max(ahead, behind) else "wrong"


def _range_first(by_backward, ahead, behind, tolerance):
    verdict = judge(by_backward, ahead, behind, tolerance)
    return "kink" if verdict == "right" else verdict


wrong_judge = {
    "no tolerance beyond the ends of the range": _no_tolerance_at_the_ends,
    "the range is tested before the mean": _range_first,
    "ahead is taken for the larger": _ordered,
    "only the two sides, nothing between": _either_side,
    "a kink excuses everything": _any_kink,
    "no kinks": lambda by_backward, ahead, behind, tolerance: (
        "right" if abs(by_backward - (ahead + behind) / 2) <= tolerance else "wrong"
    ),
}

# 02.5


def errors_of_all(forward, backward, inputs, grad_y, directions, h):
    errors = []
    for i, (grad, v) in enumerate(zip(backward(grad_y, *inputs), directions, strict=True)):
        before, x, after = inputs[:i], inputs[i], inputs[i + 1 :]
        difference = forward(*before, x + h * v, *after) - forward(*before, x - h * v, *after)
        by_difference, by_backward = np.vdot(difference, grad_y) / (2 * h), np.vdot(grad, v)
        errors.append(abs(by_backward - by_difference) / max(abs(by_backward), abs(by_difference)))
    return errors


hints_errors_of_all = (
    "Call backward once. Then take the inputs one by one, as in two_sides.",
    "forward(*inputs[:i], inputs[i] + h * v, *inputs[i + 1:]), and the same with - h.",
)


def cases_errors_of_all(rng):
    """Yield cases with such large steps that the errors are no matter of rounding."""
    for shape in [(4,), (2, 3)]:
        a, b, g, v, w = rng.uniform(0.5, 1.5, (5, *shape))
        yield _power, _power_backward, (a, b), g, (v, w), 0.1
        yield np.multiply, lambda g, a, b: (1.2 * g * b, 0.7 * g * a), (a, b), g, (v, w), 0.1


def _power(a, b):
    return a**b


def _power_backward(g, a, b):
    return g * b * a ** (b - 1), g * a**b * np.log(a)


def _all_at_once(forward, backward, inputs, grad_y, directions, h):
    ends = [forward(*(x + s * v for x, v in zip(inputs, directions, strict=True))) for s in (h, -h)]
    slope = np.vdot(ends[0] - ends[1], grad_y) / (2 * h)
    by_backward = [np.vdot(g, v) for g, v in zip(backward(grad_y, *inputs), directions, strict=True)]
    return [abs(mine - slope) / max(abs(mine), abs(slope)) for mine in by_backward]


def _moved_and_kept(forward, backward, inputs, grad_y, directions, h):
    errors, inputs = [], list(inputs)
    for i, v in enumerate(directions):
        errors.append(errors_of_all(forward, backward, inputs, grad_y, directions, h)[i])
        inputs[i] = inputs[i] - h * v
    return errors


def _not_divided(forward, backward, inputs, grad_y, directions, h):
    gradients, errors = backward(grad_y, *inputs), []
    for i, (grad, v) in enumerate(zip(gradients, directions, strict=True)):
        ends = [forward(*inputs[:i], inputs[i] + s * v, *inputs[i + 1 :]) for s in (h, -h)]
        errors.append(abs(np.vdot(grad, v) - np.vdot(ends[0] - ends[1], grad_y) / (2 * h)))
    return errors


def _divided_by_one(forward, backward, inputs, grad_y, directions, h):
    gradients = zip(backward(grad_y, *inputs), directions, strict=True)
    differences = _not_divided(forward, backward, inputs, grad_y, directions, h)
    return [d / abs(np.vdot(g, v)) for d, (g, v) in zip(differences, gradients, strict=True)]


wrong_errors_of_all = {
    "divided by the slope by backward, not by the larger of both": _divided_by_one,
    "all inputs moved at once": _all_at_once,
    "an input that was moved is not put back": _moved_and_kept,
    "the difference itself": _not_divided,
    "the largest alone": lambda *arguments: max(errors_of_all(*arguments)),
}

# 02.6


def largest_curvature(gradient, x, v, rounds, h):
    for _ in range(rounds):
        v = v / np.linalg.norm(v)
        product = (gradient(x + h * v) - gradient(x - h * v)) / (2 * h)
        curvature, v = np.vdot(v, product), product
    return curvature


hints_largest_curvature = (
    "A round: bring v to length 1, take the difference of two gradients, and keep <v, H v>.",
    "The next v is H v. After the last round return <v, H v> with the v that had length 1.",
)


def cases_largest_curvature(rng):
    for size, rounds in [(2, 1), (3, 4), (5, 9)]:
        matrix = rng.standard_normal((size, size))
        x, v = rng.standard_normal((2, size))
        yield lambda x, m=matrix @ matrix.T: m @ x + x**3, x, v, rounds, 0.1


def _beside_x(gradient, x, v, rounds, h):
    return largest_curvature(lambda x: gradient(x + h / 2), x, v, rounds, h)


def _length_forgotten(gradient, x, v, rounds, h):
    for _ in range(rounds):
        product = (gradient(x + h * v) - gradient(x - h * v)) / (2 * h)
        curvature, v = np.vdot(v, product), product
    return curvature


def _divided_by_h(gradient, x, v, rounds, h):
    return 2 * largest_curvature(gradient, x, v, rounds, h)


def _of_the_start(gradient, x, v, rounds, h):
    return largest_curvature(gradient, x, v, 1, h) if rounds > 1 else np.linalg.norm(v)


def _length_of_the_product(gradient, x, v, rounds, h):
    for _ in range(rounds):
        v = v / np.linalg.norm(v)
        v = (gradient(x + h * v) - gradient(x - h * v)) / (2 * h)
    return np.linalg.norm(v)


def _one_sided_gradient(gradient, x, v, rounds, h):
    for _ in range(rounds):
        v = v / np.linalg.norm(v)
        product = (gradient(x + h * v) - gradient(x)) / h
        curvature, v = np.vdot(v, product), product
    return curvature


wrong_largest_curvature = {
    "the length of H v": _length_of_the_product,
    "a one-sided difference": _one_sided_gradient,
    "a round too many": lambda gradient, x, v, rounds, h: largest_curvature(gradient, x, v, rounds + 1, h),
    "v not brought to length 1": _length_forgotten,
    "divided by h, not by 2 h": _divided_by_h,
    "not at x": _beside_x,
    "one round only": _of_the_start,
}
