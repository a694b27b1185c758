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
        self.number, self.inputs = number, inputs
        self.op = self if inputs else None

    def __repr__(self):
        return f"op {self.number}"


def graphs(rng):
    """Yield the last tensors of graphs: a diamond, random ones, a chain too deep for a recursion."""
    leaf = Node(-1)
    first = Node(0, leaf)
    yield Node(3, Node(1, first), Node(2, first))
    yield Node(3, Node(2, first), first)
    for _ in range(5):
        nodes = [leaf]
        for number in range(12):
            nodes.append(Node(number, *(nodes[i] for i in rng.integers(len(nodes), size=2))))
        yield nodes[-1]
    chain = leaf
    for number in range(20_000):
        chain = Node(number, chain, leaf)
    yield chain


def check_newest_first(function):
    for output in graphs(np.random.default_rng(0)):
        found = attempt(function, output)
        if is_open(found):
            return False
        expected, found = newest_first(output), list(found)
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


wrong_newest_first = {
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
