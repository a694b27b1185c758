"""Parameters with names, and modules made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self, TypeVar

from numpy.typing import NDArray

from tinyunet.autograd import Tensor
from tinyunet.backend import to_backend
from tinyunet.backend.changes import count_changes
from tinyunet.errors import CheckpointError

Kind = TypeVar("Kind", bound=Tensor)

_evaluating = ContextVar("evaluating", default=False)


@contextmanager
def evaluating() -> Iterator[None]:
    """Predict in the ``with`` block as after `Module.eval`, in this thread only; modules keep their mode."""
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


class Buffer(Tensor):
    """A tensor that is stored with the parameters, but that no gradient changes."""

    __slots__ = ()


class Module:
    """A part of a network, made of parameters, buffers, modules and lists of modules.

    Parameters and buffers are named after the attributes that hold them:
    ``model.contracting[0].first.weight`` is ``"contracting.0.first.weight"``.
    """

    _training = True

    @property
    def training(self) -> bool:
        """True where dropout is on and a tile's own statistics count.

        That is in training mode, and not within `evaluating`.
        """
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
        return self._named(Parameter)

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """Yield names and buffers, in the order of the attributes."""
        return self._named(Buffer)

    def _named(self, kind: type[Kind]) -> Iterator[tuple[str, Kind]]:
        for name, value in vars(self).items():
            if isinstance(value, kind):
                yield name, value
        for prefix, child in self._children():
            yield from ((f"{prefix}.{name}", tensor) for name, tensor in child._named(kind))

    def parameters(self) -> list[Parameter]:
        """List all parameters, in the order of `named_parameters`."""
        return [parameter for _, parameter in self.named_parameters()]

    def train(self, mode: bool = True) -> Self:
        """Switch training mode on (or off), here and in all parts. Returns self."""
        self._training = mode
        for _, child in self._children():
            child.train(mode)
        return self

    def eval(self) -> Self:
        """Switch training mode off, for prediction: no dropout, fixed statistics. Returns self."""
        return self.train(False)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of parameters and buffers by name: the arrays themselves, not copies."""
        return {name: tensor.data for name, tensor in self._stored()}

    def _stored(self) -> list[tuple[str, Parameter | Buffer]]:
        return [*self.named_parameters(), *self.named_buffers()]

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Copy arrays into the parameters and buffers of the same names, converted to their dtype.

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
        count_changes(tensor for _, tensor in self._stored())
        for name, array in own.items():
            array[...] = to_backend(state[name], array.dtype)
