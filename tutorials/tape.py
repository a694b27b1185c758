"""The tape of chapter 01, for ops with any number of inputs and options: what chapter 17 records on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from numpy.typing import NDArray


class Op:
    """One step of a program: its backward, its inputs, and its place in the order of all steps."""

    count = 0

    def __init__(self, backward: Callable[..., Sequence[NDArray]], inputs: Sequence[Tensor]):
        self.backward, self.inputs, self.number = backward, inputs, Op.count
        Op.count += 1


class Tensor:
    """An array, and the op that made it; a leaf has none."""

    def __init__(self, data: NDArray, op: Op | None = None):
        self.data, self.op = data, op


def record(
    forward: Callable[..., NDArray], backward: Callable[..., Sequence[NDArray]], *inputs: Tensor
) -> Tensor:
    """Compute a value, and keep `backward(grad_y, *arrays)`, which returns one gradient per input."""
    return Tensor(forward(*(tensor.data for tensor in inputs)), Op(backward, inputs))
