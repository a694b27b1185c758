"""What optimisers have in common: parameters, a state by name, and one launch for all parameters.

A trainer and a checkpoint know an optimiser only by `Optimiser`. What changes from step to step, such as the
learning rate, is an array of a few numbers, the step's *scalars*. On a GPU it lies in device memory, so that
a step that is captured as a CUDA graph takes new ones at each launch.
"""

from __future__ import annotations

import inspect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tinyunet.autograd import Tensor
from tinyunet.backend import array_library, cuda, to_backend
from tinyunet.backend.changes import count_changes
from tinyunet.errors import OptionError


class Optimiser(ABC):
    """Moves parameters against their gradients.

    Parameters
    ----------
    parameters : iterable of Tensor
    lr : float
        The learning rate.

    Attributes
    ----------
    STATE : tuple of str
        The names of what it keeps beside the weights. Each is an attribute: a list with an array for each
        parameter, of its shape and dtype, 0 at the start.
    parameters : list of Tensor
    lr : float
        May be changed between steps.
    steps : int
        How many steps `step` has made with scalars of its own.
    """

    STATE: ClassVar[tuple[str, ...]]

    def __init__(self, parameters: Iterable[Tensor], lr: float):
        self.parameters, self.lr, self.steps = list(parameters), lr, 0

    @classmethod
    def options(cls) -> dict[str, Any]:
        """Return the options besides the learning rate, and their defaults."""
        parameters = inspect.signature(cls).parameters.items()
        return {name: each.default for name, each in parameters if name not in ("parameters", "lr")}

    @property
    def state(self) -> dict[str, list[NDArray[Any]]]:
        """What it keeps beside the weights, by the names in `STATE`; the optimiser's own arrays."""
        return {name: getattr(self, name) for name in self.STATE}

    @abstractmethod
    def scalars(self, step: int) -> NDArray[Any]:
        """Return the numbers of a step that other steps have not, in the parameters' dtype.

        Parameters
        ----------
        step : int
            How many steps were made before it.
        """

    def step(self, scalars: Any = None) -> None:
        """Update every parameter that has a gradient, in place.

        Parameters
        ----------
        scalars : array, optional
            From `scalars`, and where the backend computes. If omitted they are those of step `steps`, which
            is then counted.
        """
        moving = [number for number, parameter in enumerate(self.parameters) if parameter.grad is not None]
        if scalars is None and self.parameters:
            scalars = self.scalars(self.steps)
            self.steps += 1
        if not moving:
            return
        count_changes([self.parameters[number] for number in moving])
        weights, grads = [p.data for p in self.parameters], [p.grad for p in self.parameters]
        lists: list[list[Any]] = [weights, grads, *self.state.values()]
        self._move([[arrays[number] for number in moving] for arrays in lists], scalars)

    @abstractmethod
    def _move(self, lists: list[list[Any]], scalars: Any) -> None:
        """Make the step. `lists`: the weights, their gradients, and the arrays of each name in `STATE`."""

    def zero_grad(self) -> None:
        """Set the gradients to None: otherwise they add up over backward passes."""
        for parameter in self.parameters:
            parameter.grad = None

    def _zeros(self) -> list[NDArray[Any]]:
        return [array_library().zeros_like(parameter.data) for parameter in self.parameters]

    def _in_dtype(self, numbers: Any) -> NDArray[Any]:
        return np.array(numbers, np.result_type(*(parameter.dtype for parameter in self.parameters)))


def require_numbers(optimiser: str, rule: str, **checks: tuple[float, bool]) -> None:
    """Raise an OptionError for the first number outside its range. `checks`: by name, value and validity."""
    for name, (value, fits) in checks.items():
        if not fits:
            raise OptionError(f"{optimiser}: {name} is {value}", remedy=rule)


def launch_for_all(
    stem: str, reached: Mapping[str, Sequence[Any]], scalars: Any, *constants: float, flops: int
) -> None:
    """Launch the kernel ``<stem>_step`` once for all parameters: see `kernels/parameters.cuh`.

    Parameters
    ----------
    stem : str
    reached : mapping of str to sequence of array
        The lists of arrays, of which the kernel's table has the addresses, in the order of its row.
    scalars : array
        The step's.
    *constants : float
        The further arguments.
    flops : int
        For each element.
    """
    counts = [array.size for array in next(iter(reached.values()))]
    blocks = [cuda.blocks(count, cuda.THREADS_PER_BLOCK) for count in counts]
    first_blocks = itertools.accumulate(blocks[:-1], initial=0)
    places = (map(cuda.address, arrays) for arrays in reached.values())
    table = np.array(list(zip(*places, counts, first_blocks, strict=True)), np.uint64)
    cuda.launch(
        stem,
        "step",
        (sum(blocks),),
        (cuda.THREADS_PER_BLOCK,),
        *(cuda.constant(table), len(counts), to_backend(scalars, np.float32), *map(np.float32, constants)),
        reached=reached,
        flops=flops * sum(counts),
    )
