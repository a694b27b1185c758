"""Parameters with names, and modules made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from numpy.typing import NDArray

from tinyunet.autograd import Tensor
from tinyunet.backend import to_backend
from tinyunet.backend.changes import count_changes
from tinyunet.errors import CheckpointError

_evaluating = ContextVar("evaluating", default=False)


@contextmanager
def evaluating() -> Iterator[None]:
    """Switch dropout off in the ``with`` block, for this thread only; the modules keep their own mode."""
    token = _evaluating.set(True)
    try:
        yield
    finally:
        _evaluating.reset(token)


class Parameter(Tensor):
    """A tensor that training changes."""

    __slots__ = ()

    def __init__(self, data: NDArray[Any]):
        super().__init__(data, requires_grad=True)


class Module:
    """A part of a network, made of parameters, modules and lists of modules.

    Parameters are named after the attributes that hold them: ``model.contracting[0].first.weight`` is
    ``"contracting.0.first.weight"``.
    """

    _training = True

    @property
    def training(self) -> bool:
        """True where dropout is on: in training mode, and not within `evaluating`."""
        return self._training and not _evaluating.get()

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output of this module."""
        raise NotImplementedError

    def _children(self) -> Iterator[tuple[str, Module]]:
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list):
                yield from ((f"{name}.{i}", item) for i, item in enumerate(value))

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """Yield the names and modules of all parts, depth first: each part before its own parts."""
        for prefix, child in self._children():
            yield prefix, child
            yield from ((f"{prefix}.{name}", part) for name, part in child.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield names and parameters, in the order of the attributes."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield name, value
        for prefix, child in self._children():
            yield from ((f"{prefix}.{name}", parameter) for name, parameter in child.named_parameters())

    def parameters(self) -> list[Parameter]:
        """List all parameters, in the order of `named_parameters`."""
        return [parameter for _, parameter in self.named_parameters()]

    def train(self, mode: bool = True) -> Module:
        """Switch dropout on (or off), here and in all parts. Returns self."""
        self._training = mode
        for _, child in self._children():
            child.train(mode)
        return self

    def eval(self) -> Module:
        """Switch dropout off, for prediction. Returns self."""
        return self.train(False)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return the parameters' arrays by name: the arrays themselves, not copies."""
        return {name: parameter.data for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Copy arrays into the parameters of the same names, converted to their dtype.

        Raises
        ------
        CheckpointError
            A name is missing or unknown, or a shape differs. Then nothing is copied.
        """
        own = self.state_dict()
        missing, unknown = own.keys() - state.keys(), state.keys() - own.keys()
        if missing or unknown:
            raise CheckpointError(
                "load_state_dict: the names do not fit this network",
                {"missing": sorted(missing)[:4] or "none", "unknown": sorted(unknown)[:4] or "none"},
                "make the network with the options it was trained with",
            )
        for name, array in own.items():
            if array.shape != state[name].shape:
                raise CheckpointError(
                    f"load_state_dict: {name} has another shape",
                    {"this network": array.shape, "given": state[name].shape},
                    "make the network with the options it was trained with",
                )
        count_changes(self.parameters())
        for name, array in own.items():
            array[...] = to_backend(state[name], array.dtype)
