"""Worked answers of chapter 01, the cases they are checked on, and answers known to be wrong."""

import numpy as np
from lesson import WrongAnswer, attempt, is_open

# 01.1


def multiply_backward(grad_y, a, b):
    return grad_y * b, grad_y * a


hints_multiply_backward = (
    "Hold b fixed and move a by a little: by how much does y move?",
    "dy/da is b. The chain rule multiplies it by grad_y.",
)


returns_multiply_backward = "grad_a", "grad_b"


def cases_multiply_backward(rng):
    for shape in [(), (4,), (2, 3)]:
        yield tuple(rng.standard_normal((3, *shape)))


wrong_multiply_backward = {
    "the inputs exchanged": lambda grad_y, a, b: (grad_y * a, grad_y * b),
    "the chain rule forgotten": lambda grad_y, a, b: (b, a),
    "one array for both": lambda grad_y, a, b: grad_y * b,
}

# 01.2


def newest_first(output):
    seen, to_visit = set(), [output.op]
    while to_visit:
        op = to_visit.pop()
        if op is not None and op not in seen:
            seen.add(op)
            to_visit += [tensor.op for tensor in op.inputs]
    return sorted(seen, key=lambda op: op.number, reverse=True)


hints_newest_first = (
    "Start at output.op. Each op leads to the ops that made its inputs; a leaf has no op.",
    "A list of ops to visit, a set of ops seen; sort by number at the end.",
)


class Node:
    """A stand-in for a tensor and the op that made it: all that an order can depend on."""

    def __init__(self, number, *inputs):
        self.number, self.parts, self.reads = number, inputs, 0
        self.op = self if inputs else None

    @property
    def inputs(self):
        """Return the inputs, and count how often they are asked for."""
        self.reads += 1
        return self.parts

    def __repr__(self):
        return f"op {self.number}"


def graphs(rng):
    """Yield the last tensors of graphs: a diamond, random ones, one of many paths, a chain of many ops."""
    leaf = Node(-1)
    first = Node(0, leaf)
    yield Node(3, Node(1, first), Node(2, first))
    yield Node(3, Node(2, first), first)
    for _ in range(5):
        nodes = [leaf]
        for number in range(12):
            nodes.append(Node(number, *(nodes[i] for i in rng.integers(len(nodes), size=2))))
        yield nodes[-1]
    doubled = leaf
    for number in range(14):
        doubled = Node(number, doubled, doubled)
    yield doubled
    chain = leaf  # too deep for a recursion
    for number in range(20_000):
        chain = Node(number, chain, leaf)
    yield chain


def refuse_a_walk_of_every_path(ops):
    """Raise WrongAnswer if the inputs of ops, which count it, were asked for far more often than needed."""
    reads = sum(op.reads for op in ops)
    if reads > 10 * len(ops):
        raise WrongAnswer(
            f"the inputs of {len(ops)} ops are read {reads:,} times: an op that was seen is visited again, "
            "so that every path is walked"
        )


def check_newest_first(function):
    for output in graphs(np.random.default_rng(0)):
        expected = newest_first(output)
        for op in expected:
            op.reads = 0
        found = attempt(function, output)
        if is_open(found):
            return False
        found = list(found)
        refuse_a_walk_of_every_path(expected)
        if len(found) != len(set(found)):
            twice = next(op for op in found if found.count(op) > 1)
            raise WrongAnswer(f"{twice} is listed {found.count(twice)} times")
        if set(found) != set(expected):
            raise WrongAnswer(f"{len(found)} ops are listed where there are {len(expected)}")
        if found != expected:
            place = next(i for i, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
            raise WrongAnswer(f"{found[place]} is at place {place} where {expected[place]} is expected")
    return True


def _by_recursion(output, seen=None):
    seen = set() if seen is None else seen
    if output.op is not None and output.op not in seen:
        seen.add(output.op)
        for tensor in output.op.inputs:
            _by_recursion(tensor, seen)
    return sorted(seen, key=lambda op: -op.number)


def _depth_first(output):
    found, to_visit = [], [output.op]
    while to_visit:
        op = to_visit.pop()
        if op is not None and op not in found[-100:]:
            found.append(op)
            to_visit += [tensor.op for tensor in op.inputs]
    return found


def _every_path(output):
    seen, to_visit = set(), [output.op]
    while to_visit:
        op = to_visit.pop()
        if op is not None:
            seen.add(op)
            to_visit += [tensor.op for tensor in op.inputs]
    return sorted(seen, key=lambda op: -op.number)


wrong_newest_first = {
    "every path is walked": _every_path,
    "recursion": _by_recursion,
    "in the order of visits": _depth_first,
    "the oldest first": lambda output: newest_first(output)[::-1],
    "the last op left out": lambda output: newest_first(output)[1:],
}

# 01.3


def accumulate(pending, tensor, grad):
    pending[tensor] = pending.get(tensor, 0.0) + grad
    return pending


hints_accumulate = (
    "Two cases: something has arrived before, or nothing has.",
    "pending.get(tensor, 0.0) is the gradient that has arrived before.",
)


def check_accumulate(function):
    rng = np.random.default_rng(0)
    for shape in [(3,), (2, 2)]:
        first, second = rng.standard_normal((2, *shape))
        kept = first.copy(), second.copy()
        for pending, expected in [({}, first), ({"a": second}, first + second), ({"b": second}, first)]:
            given = dict(pending)
            found = attempt(function, given, "a", first)
            if is_open(found):
                return False
            if found is not given:
                raise WrongAnswer(
                    "write into pending and return it: the walk back goes on with the same dict"
                )
            if found.keys() != pending.keys() | {"a"}:
                raise WrongAnswer(f"pending has the keys {list(found)} where {[*pending, 'a']} are expected")
            if not np.allclose(found["a"], expected):
                raise WrongAnswer(f"pending['a'] is {found['a']} where {expected} is expected")
            if not (np.array_equal(first, kept[0]) and np.array_equal(second, kept[1])):
                raise WrongAnswer("an array that was passed in has changed: make a new array instead")
    return True


def _in_place(pending, tensor, grad):
    if tensor in pending:
        pending[tensor] += grad
    else:
        pending[tensor] = grad
    return pending


def _the_last_one_wins(pending, tensor, grad):
    pending[tensor] = grad
    return pending


def _the_first_one_wins(pending, tensor, grad):
    pending.setdefault(tensor, grad)
    return pending


wrong_accumulate = {
    "the last one wins": _the_last_one_wins,
    "the first one wins": _the_first_one_wins,
    "in place": _in_place,
    "a new dict": lambda pending, tensor, grad: pending | {tensor: pending.get(tensor, 0.0) + grad},
}

# 01.4


def unbroadcast(grad, shape):
    grad = grad.sum(axis=tuple(range(grad.ndim - len(shape))))
    repeated = tuple(axis for axis, side in enumerate(shape) if side == 1)
    return grad.sum(axis=repeated, keepdims=True)


hints_unbroadcast = (
    "Two kinds of axes are summed over: those that shape does not have, and those where it has 1.",
    "The missing axes are the first ones. For the others keepdims=True keeps the side of 1.",
)


def cases_unbroadcast(rng):
    for full, shape in [
        ((3, 4), (3, 4)), ((3, 4), (4,)), ((3, 4), (3, 1)), ((3, 4), (1, 4)), ((3, 4), ()), ((3, 4), (1, 1)),
        ((2, 3, 4), (3, 1)), ((2, 3, 4), (2, 1, 4)), ((2, 3, 4), (1,)), ((3, 1), (1,)), ((), ()),
    ]:  # fmt: skip
        yield np.asarray(rng.standard_normal(full)), shape


def _missing_axes_only(grad, shape):
    return grad.sum(axis=tuple(range(grad.ndim - len(shape))))


def _mean(grad, shape):
    return unbroadcast(grad, shape) * np.prod(shape, dtype=int) / max(1, grad.size)


def _last_axes(grad, shape):
    return np.ravel(grad)[: np.prod(shape, dtype=int)].reshape(shape)


wrong_unbroadcast = {
    "the axes where shape has 1 forgotten": _missing_axes_only,
    "the mean over the uses": _mean,
    "the first numbers, and no sum": _last_axes,
    "sides of 1 lost": lambda grad, shape: np.squeeze(unbroadcast(grad, shape)),
}

# 01.5


def newest_first_without_numbers(output):
    listed, seen, stack = [], set(), [(output.op, False)]
    while stack:
        op, its_inputs_are_listed = stack.pop()
        if its_inputs_are_listed:
            listed.append(op)
        elif op is not None and op not in seen:
            seen.add(op)
            stack.append((op, True))
            stack += [(tensor.op, False) for tensor in op.inputs]
    return listed[::-1]


hints_newest_first_without_numbers = (
    "Put an op back onto the stack, with a mark, below the ops that made its inputs. What does it mean to "
    "meet the mark?",
    "Pairs (op, mark). Without the mark: push (op, True), then (t.op, False) for all inputs. With it: list.",
)


class _Op:
    """An op that knows its inputs and nothing else."""

    def __init__(self, inputs):
        self.parts, self.reads = inputs, 0

    inputs = Node.inputs


class _Tensor:
    def __init__(self, op=None):
        self.op = op


def _graphs_without_numbers(rng):
    """Yield the same graphs as `graphs`, of ops without numbers."""
    for output in graphs(rng):
        made = {}
        for node in newest_first(output)[::-1]:
            made[node] = _Tensor(_Op([made.get(part, _Tensor()) for part in node.inputs]))
        yield made[output], {tensor.op for tensor in made.values()}


def check_newest_first_without_numbers(function):
    for output, expected in _graphs_without_numbers(np.random.default_rng(0)):
        found = attempt(function, output)
        if is_open(found):
            return False
        if not isinstance(found, list | tuple):
            raise WrongAnswer(f"a list of ops is expected, not {found!r:.60}")
        refuse_a_walk_of_every_path(expected)
        place = {op: i for i, op in enumerate(found)}
        if len(place) != len(found) or place.keys() != expected:
            raise WrongAnswer(
                f"{len(found)} ops are listed ({len(place)} different ones) where there are {len(expected)}"
            )
        for op in found:
            for part in op.inputs:
                if part.op and place[part.op] < place[op]:
                    raise WrongAnswer(
                        f"the op at place {place[part.op]} made an input of the op at place {place[op]}: "
                        "it must come later"
                    )
    return True


def _preorder(output):
    found, seen, stack = [], set(), [output.op]
    while stack:
        op = stack.pop()
        if op is not None and op not in seen:
            seen.add(op)
            found.append(op)
            stack += [tensor.op for tensor in op.inputs]
    return found


def _level_by_level(output):
    found, level = [], [output.op]
    while level:
        found += [op for op in dict.fromkeys(level) if op not in found[-1000:]]
        level = [tensor.op for op in level for tensor in op.inputs if tensor.op][:1000]
    return found


def _recursive(output, listed=None):
    listed = [] if listed is None else listed
    if output.op is not None and output.op not in listed:
        for tensor in output.op.inputs:
            _recursive(tensor, listed)
        listed.append(output.op)
    return listed[::-1]


wrong_newest_first_without_numbers = {
    "listed at the first visit": _preorder,
    "level by level": _level_by_level,
    "recursion": _recursive,
    "the oldest first": lambda output: newest_first_without_numbers(output)[::-1],
}

# 01.6


def slope_forwards(steps, inputs, direction):
    values, slopes = list(inputs), list(direction)
    for kind, i, j in steps:
        if kind == "add":
            values.append(values[i] + values[j])
            slopes.append(slopes[i] + slopes[j])
        else:
            values.append(values[i] * values[j])
            slopes.append(slopes[i] * values[j] + values[i] * slopes[j])
    return values[-1], slopes[-1]


hints_slope_forwards = (
    "Two lists that grow together: values and slopes. They begin with the inputs and the direction.",
    "slopes[i] * values[j] + values[i] * slopes[j] for a product.",
)


returns_slope_forwards = "the value", "the slope"


def cases_slope_forwards(rng):
    for inputs, length in [(2, 3), (3, 6), (1, 4)]:
        steps = [
            (("add", "multiply")[k % 2], *map(int, rng.integers(inputs + k, size=2))) for k in range(length)
        ]
        yield (
            steps,
            list(map(float, rng.uniform(0.5, 1.5, inputs))),
            list(map(float, rng.uniform(0.5, 1.5, inputs))),
        )


def _one_factor(steps, inputs, direction):
    values, slopes = list(inputs), list(direction)
    for kind, i, j in steps:
        values.append(values[i] + values[j] if kind == "add" else values[i] * values[j])
        slopes.append(slopes[i] + slopes[j] if kind == "add" else slopes[i] * values[j])
    return values[-1], slopes[-1]


def _product_of_slopes(steps, inputs, direction):
    values, slopes = list(inputs), list(direction)
    for kind, i, j in steps:
        values.append(values[i] + values[j] if kind == "add" else values[i] * values[j])
        slopes.append(slopes[i] + slopes[j] if kind == "add" else slopes[i] * slopes[j])
    return values[-1], slopes[-1]


wrong_slope_forwards = {
    "the second factor taken for a constant": _one_factor,
    "the slope of a product is the product of the slopes": _product_of_slopes,
    "along the first input alone": lambda steps, inputs, direction: (
        slope_forwards(steps, inputs, [direction[0], *(0.0 for _ in inputs[1:]), 0.0][: len(inputs)])
        if len(inputs) > 1
        else (0.0, 0.0)
    ),
}
