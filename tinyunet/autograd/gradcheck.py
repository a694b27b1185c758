"""The comparison of gradients with finite differences.

The derivative along a direction v can be computed in two ways: from backward as <Jᵀ g, v>, from forward as
(<f(x + h v), g> - <f(x - h v), g>) / 2h, for a random g. A random v has a component along every element, so
that one comparison covers them all; the elements of a tiny input are also checked one by one.

Where the two disagree, the direction is split into halves, each with half of the elements, and so on down to
single elements. That finds a mistake, and distinguishes it from a kink (a ReLU at 0, a tie in a max-pool). At
a kink the difference quotients ahead of x and behind it differ, and backward rightly gives a value between
them. For a smooth function they differ only by h times its curvature, which hides no mistake.

(A random direction and the search for kinks are ideas of HIPS autograd's and Chainer's checkers.)

Tutorial: `tutorials/02_gradcheck.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.autograd.tensor import Tensor, no_grad
from tinyunet.backend import to_host
from tinyunet.errors import DtypeError, GradientError

EACH_ELEMENT_UP_TO = 64  # elements of an input: each is then checked by itself as well
RANDOM_DIRECTIONS = 3

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
        Takes the inputs and returns one Tensor of any shape, always the same for the same inputs.
    inputs : sequence of Tensor, float64
        Those with requires_grad=True are checked. Their gradients are replaced.
    eps : float
        h, the step. 1e-6 balances the truncation error, h², against rounding, 1e-16 / h.
    rtol, atol : float
        The largest difference allowed is atol + rtol · (the larger of both numbers).
    seed : int
        The seed of the directions.

    Returns
    -------
    bool
        True; a wrong gradient raises.

    Raises
    ------
    GradientError
        A derivative differs. The message has the input, the index, both numbers and the step.
    DtypeError
        An input is not float64: float32 has too few digits for differences.

    Examples
    --------
    >>> import numpy as np
    >>> import tinyunet as tu
    >>> x = tu.Tensor(np.random.default_rng(0).standard_normal((1, 4, 4, 1)), requires_grad=True)
    >>> tu.gradcheck(tu.max_pool2d, [x])
    True
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
            return float(np.vdot(f(*(Tensor(array) for array in arrays)).numpy(), g))

    checker = _Checker(objective, [t.numpy() for t in inputs], eps, rtol, atol)
    for number, tensor in enumerate(inputs):
        if tensor.requires_grad:
            gradient = np.zeros(tensor.shape) if tensor.grad is None else to_host(tensor.grad)
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
        if gradient.size <= EACH_ELEMENT_UP_TO:
            for place in range(gradient.size):
                unit = np.zeros_like(gradient)
                unit.flat[place] = 1.0
                self.compare(number, gradient, unit)
        for _ in range(RANDOM_DIRECTIONS):
            if not self.compare(number, gradient, rng.standard_normal(gradient.shape)):
                raise GradientError(
                    f"gradcheck: input {number} has a kink at every element",
                    {"step": self.eps},
                    "use inputs away from ties and zeros, or a smaller eps",
                )

    def compare(self, number: int, gradient: NDArray[Any], direction: NDArray[Any]) -> bool:
        """Compare along a direction, or along parts of it. False if there are kinks everywhere."""
        expected = float(np.vdot(gradient, direction))
        ahead, behind = self.slopes(number, direction)
        measured = (ahead + behind) / 2
        tolerance = self.atol + self.rtol * max(abs(expected), abs(measured))
        if abs(expected - measured) <= tolerance:
            return True
        places = np.flatnonzero(direction)
        if places.size > 1:
            halves = (self.part(direction, half) for half in np.array_split(places, 2))
            return any([self.compare(number, gradient, half) for half in halves])  # a list: compare both
        if min(ahead, behind) - tolerance <= expected <= max(ahead, behind) + tolerance:
            return False
        index = tuple(int(i) for i in np.unravel_index(places[0], direction.shape))
        step = self.eps * direction[index]
        raise GradientError(
            f"gradcheck: input {number}, index {index}: backward and finite differences disagree",
            {
                "backward": repr(float(gradient[index])),
                "difference quotient": repr(measured / float(direction[index])),
                "step": f"{abs(step):.3g}",
            },
            "the backward of this function is wrong there, or the function is not smooth",
        )

    @staticmethod
    def part(direction: NDArray[Any], places: NDArray[np.intp]) -> NDArray[Any]:
        """Return the direction at these places, 0 elsewhere."""
        part = np.zeros_like(direction)
        part.flat[places] = direction.flat[places]
        return part

    def slopes(self, number: int, direction: NDArray[Any]) -> tuple[float, float]:
        """Compute the difference quotients ahead of the point and behind it."""
        ahead, behind = list(self.arrays), list(self.arrays)
        ahead[number] = self.arrays[number] + self.eps * direction
        behind[number] = self.arrays[number] - self.eps * direction
        return (
            (self.objective(ahead) - self.centre) / self.eps,
            (self.centre - self.objective(behind)) / self.eps,
        )
