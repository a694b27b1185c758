"""Gradients held against finite differences.

The derivative along a direction v is a number that both sides can give: backward as <J^T g, v>, forward as
(<f(x + h v), g> - <f(x - h v), g>) / 2h, for a random g. A random v has a part of every element, so that one
comparison covers them all; on a tiny input all elements are also checked one by one, which says where a
mistake is.

At a kink (a ReLU at 0, a tie in a max-pool) between x - h v and x + h v, the difference quotient ahead and
the one behind differ, and backward rightly gives a value between them. Such a direction says nothing and is
drawn anew. Of a smooth function the two differ by h times its curvature only, and hide nothing.

(A random direction and the search for kinks are ideas of HIPS autograd's and Chainer's checkers.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.autograd import Tensor, no_grad
from tinyunet.errors import DtypeError, GradientError

TINY = 64  # elements up to which each one is checked by itself
DIRECTIONS = 3
DRAWS = 20  # of a direction, until one meets no kink

Objective = Callable[[list[NDArray[Any]]], float]


def gradcheck(
    f: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    *,
    eps: float = 1e-6,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    seed: int = 0,
) -> bool:
    """Compare the gradients of f with central differences.

    Parameters
    ----------
    f : callable
        Takes the inputs and returns one Tensor of any shape. Must give the same for the same inputs.
    inputs : sequence of Tensor, float64
        Those with requires_grad=True are checked. Their gradients are replaced.
    eps : float
        h, the step. 1e-6 balances the truncation error, h², against rounding, 1e-16 / h.
    rtol, atol : float
        A difference may be atol + rtol · (the larger of both numbers).
    seed : int
        Decides the directions.

    Returns
    -------
    bool
        True. A wrong gradient raises.

    Raises
    ------
    GradientError
        A derivative differs: the message has the input, the index (or direction), both numbers and the step.
    DtypeError
        An input is not float64: float32 has too few digits for differences.
    """
    for number, tensor in enumerate(inputs):
        if tensor.dtype != np.float64:
            raise DtypeError(
                f"gradcheck: input {number} is {tensor.dtype}, expected float64",
                remedy="convert it with .astype(numpy.float64)",
            )
        tensor.grad = None
    rng = np.random.default_rng(seed)
    output = f(*inputs)
    g = rng.standard_normal(output.shape)
    output.backward(g)

    def objective(arrays: list[NDArray[Any]]) -> float:
        with no_grad():
            return float(np.vdot(f(*(Tensor(array) for array in arrays)).data, g))

    checker = _Checker(objective, [t.data for t in inputs], eps, rtol, atol)
    for number, tensor in enumerate(inputs):
        if tensor.requires_grad:
            gradient = np.zeros_like(tensor.data) if tensor.grad is None else tensor.grad
            checker.check_input(number, gradient, rng)
    return True


class _Checker:
    def __init__(
        self, objective: Objective, arrays: list[NDArray[Any]], eps: float, rtol: float, atol: float
    ):
        self.objective, self.arrays = objective, arrays
        self.eps, self.rtol, self.atol = eps, rtol, atol
        self.centre = objective(arrays)

    def check_input(self, number: int, gradient: NDArray[Any], rng: np.random.Generator) -> None:
        if gradient.size <= TINY:
            for index in np.ndindex(gradient.shape):
                unit = np.zeros_like(gradient)
                unit[index] = 1.0
                self.compare(number, f"index {index}", gradient, unit)
        for _ in range(DIRECTIONS):
            for _ in range(DRAWS):
                direction = rng.standard_normal(gradient.shape)
                if self.compare(number, "a random direction", gradient, direction):
                    break
            else:
                raise GradientError(
                    f"gradcheck: input {number} has a kink in each of {DRAWS} random directions",
                    {"step": self.eps},
                    "use inputs away from ties and zeros, or a smaller eps",
                )

    def compare(self, number: int, where: str, gradient: NDArray[Any], direction: NDArray[Any]) -> bool:
        """Compare along one direction. False: a kink was met, and nothing could be said."""
        expected = float(np.vdot(gradient, direction))
        ahead, behind = self.slopes(number, direction)
        measured = (ahead + behind) / 2
        tolerance = self.atol + self.rtol * max(abs(expected), abs(measured))
        if abs(expected - measured) <= tolerance:
            return True
        if min(ahead, behind) - tolerance <= expected <= max(ahead, behind) + tolerance:
            return False
        raise GradientError(
            f"gradcheck: input {number}, {where}: backward and finite differences disagree",
            {"backward": repr(expected), "difference quotient": repr(measured), "step": self.eps},
            "the backward of this function is wrong there, or the function is not smooth",
        )

    def slopes(self, number: int, direction: NDArray[Any]) -> tuple[float, float]:
        """The difference quotients ahead of the point and behind it."""
        ahead, behind = list(self.arrays), list(self.arrays)
        ahead[number] = self.arrays[number] + self.eps * direction
        behind[number] = self.arrays[number] - self.eps * direction
        return (
            (self.objective(ahead) - self.centre) / self.eps,
            (self.centre - self.objective(behind)) / self.eps,
        )
