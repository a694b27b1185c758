"""Reverse-mode automatic differentiation: a tensor, an op, and the backward pass.

Every op is a `Function`: `forward` turns arrays into an array, `backward` turns the gradient of a scalar with
respect to the op's output into the gradients with respect to its inputs. Each output remembers the function
that made it, and each function those that made its inputs: a graph, in which an op's inputs always exist
before its output. So the chain rule may go from the newest op to the oldest, and needs no recursion.

Tutorial: `tutorials/01_autograd.py`.
"""

from __future__ import annotations

import functools
import heapq
import inspect
import itertools
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinyunet.backend import active_backend, array_library, require_on_backend, to_backend, to_host
from tinyunet.backend.changes import count_changes
from tinyunet.backend.sums import add_arrays, add_into
from tinyunet.errors import GraphError, ShapeError

# The op behind each operator of a tensor. `tinyunet.ops` puts it here: this module cannot import ops.
OPERATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}

_serial_numbers = itertools.count()  # one for all threads: an op is newer than its inputs, in any thread

# A context variable, because each thread and each asyncio task has its own. A variable of the process would
# switch off the recording of a training in another thread; one of the thread, that of another task.
_recording = ContextVar("recording", default=True)


class no_grad:  # noqa: N801  a verb, used like a function
    """Compute without recording a graph, so that nothing is saved for a backward pass.

    A context manager and a decorator. It holds for this thread and this asyncio task only. A generator that
    yields inside the ``with`` block leaves it on for its caller until it goes on.
    """

    def __enter__(self) -> None:
        self._token = _recording.set(False)

    def __exit__(self, *error: object) -> None:
        _recording.reset(self._token)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate a function.

        Raises
        ------
        GraphError
            It is a generator function or a coroutine function: calling it runs none of its body.
        """
        later = inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction
        if any(runs_later(function) for runs_later in later):
            raise GraphError(
                f"no_grad: {function.__name__} would record, because calling it runs none of its body",
                remedy="write `with no_grad():` inside it, around what computes",
            )

        @functools.wraps(function)
        def without_recording(*arguments: Any, **options: Any) -> Any:
            with no_grad():
                return function(*arguments, **options)

        return without_recording


class Tensor:
    """An array, and the op that computed it.

    Parameters
    ----------
    data : array_like
        A C-contiguous array of float32 or float64 is kept, not copied. Everything else is copied, and other
        types become float32. On the backend "cuda" an array is copied to the GPU.
    requires_grad : bool
        Whether `backward` adds a gradient to `grad`.

    Attributes
    ----------
    data : ndarray
        The values, where the backend active at the time computes: a CuPy array for "cuda".
    grad : ndarray or None
        d(scalar)/d(data), with data's shape and dtype, summed over all backward passes since it was None.
        Only tensors that the user made have one, not the results of ops.
    version : int
        How often `data` was changed in place, as far as `mark_changed` was called.
    """

    __slots__ = ("_function", "data", "grad", "requires_grad", "version")

    def __init__(self, data: ArrayLike, requires_grad: bool = False):
        array = to_backend(data)
        if array.dtype not in (np.float32, np.float64):
            array = array.astype(np.float32)
        self.data: NDArray[Any] = array
        self.grad: NDArray[Any] | None = None
        self.requires_grad = requires_grad
        self.version = 0
        self._function: Function | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values: float32 or float64."""
        return self.data.dtype

    def numpy(self) -> NDArray[Any]:
        """The values as a NumPy array: `data` itself, or a copy if that is on the GPU."""
        return to_host(self.data)

    def item(self) -> float:
        """The value of a tensor with one element."""
        return float(self.data.item())

    def __add__(self, other: Tensor) -> Tensor:
        """The op `add`: a + b for two tensors of equal shape."""
        if not isinstance(other, Tensor):
            return NotImplemented
        return OPERATORS["+"](self, other)

    def __repr__(self) -> str:
        source = f", made by {self._function.name}" if self._function else ""
        return f"Tensor({self.data!r}, requires_grad={self.requires_grad}{source})"

    def mark_changed(self) -> None:
        """Count a change of `data` in place, so that a backward pass that needs the old values is refused.

        `SGD.step` and `load_state_dict` do it. Call it after writing into `data` yourself.
        """
        count_changes([self])

    def backward(
        self, grad: ArrayLike | None = None, *, on_leaf: Callable[[Tensor], None] | None = None
    ) -> None:
        """Add d(scalar)/d(t) to `t.grad` for every leaf t with requires_grad that this one was computed from.

        A leaf is a tensor that the user made. Saved arrays are released on the way, so that a graph has one
        backward pass only.

        Parameters
        ----------
        grad : array_like, of this tensor's shape, optional
            d(scalar)/d(self). May be left out if this tensor has one element: then it is the scalar.
        on_leaf : callable, optional
            Called with each leaf as soon as its gradient is complete, while the pass goes on to older ops.

        Raises
        ------
        GraphError
            No tensor behind this one requires a gradient, the graph was released by an earlier pass, or an
            array that an op has saved was changed since.
        ShapeError
            `grad` is missing or has another shape; or a gradient that an op returned has another shape than
            its input.
        """
        _propagate(self, _output_gradient(self, grad), on_leaf)


def _output_gradient(tensor: Tensor, grad: ArrayLike | None) -> NDArray[Any]:
    if not tensor.requires_grad:
        raise GraphError(
            "backward: this tensor does not depend on any tensor with requires_grad=True",
            remedy="make the inputs with requires_grad=True, and do not compute under no_grad()",
        )
    if grad is None:
        if tensor.data.size != 1:
            raise ShapeError(
                "backward: a gradient is needed for a tensor of more than one element",
                {"tensor": tensor.shape},
                "call backward(grad) with an array of this shape",
            )
        return array_library().ones_like(tensor.data)
    # A copy: a leaf keeps it as its gradient, and must not share it with the caller or other leaves.
    array = to_backend(grad, tensor.dtype).copy()
    if array.shape != tensor.shape:
        raise ShapeError(
            "backward: grad must have the tensor's shape", {"grad": array.shape, "tensor": tensor.shape}
        )
    return array


def _propagate(output: Tensor, grad: NDArray[Any], on_leaf: Callable[[Tensor], None] | None) -> None:
    """Apply the chain rule from the newest op to the oldest.

    An op is taken when all newer ops are done: then nothing more can arrive for its output. A leaf has no
    such moment of its own. Its gradient is complete when every op that takes it has sent its part, which
    `uses` counts down.
    """
    if output._function is None:
        _accumulate(output, grad)
        if on_leaf:
            on_leaf(output)
        return
    uses = _uses_of_leaves(output._function) if on_leaf else Counter()
    pending = _Pending()
    pending.add(output._function, grad, is_new=True)
    newest_first = [(-output._function.serial_number, output._function)]
    while newest_first:
        _, function = heapq.heappop(newest_first)
        function.require_unreleased()
        gradients = _gradients_of(function, pending)
        for source, gradient in zip(function.sources, gradients, strict=True):
            if source is None:
                continue
            if gradient is not None:
                gradient = _require_shape(gradient, source, function)
            if isinstance(source, Tensor):
                if gradient is not None:
                    _accumulate(source, gradient)
                uses[source] -= 1
                if on_leaf and not uses[source] and source.grad is not None:
                    on_leaf(source)
            elif gradient is not None and pending.add(source, gradient, function.returns_new):
                heapq.heappush(newest_first, (-source.serial_number, source))
        function.release()
        del gradients, gradient  # else they would live while the next op, which is given them, runs


class _Pending:
    """The gradients that have arrived so far for the outputs of ops.

    Where no one else has such an array, and kernels can go through it as it lies in memory, more is added in
    place, and its op may overwrite it.
    """

    def __init__(self) -> None:
        self._arrived: dict[Function, NDArray[Any]] = {}
        self._unshared: set[Function] = set()  # the ops whose array no one else has
        self._in_place = active_backend() in ("numpy", "numba")

    def add(self, function: Function, gradient: NDArray[Any], is_new: bool) -> bool:
        """Add a gradient, an array that no one else has if `is_new`. Returns whether it is the op's first."""
        arrived = self._arrived.get(function)
        if function in self._unshared:
            add_into(arrived, gradient)
            return False
        self._arrived[function] = total = gradient if arrived is None else add_arrays(arrived, gradient)
        if self._in_place and (is_new or arrived is not None) and total.flags.c_contiguous:
            self._unshared.add(function)
        return arrived is None

    def unshared(self, function: Any) -> NDArray[Any] | None:
        """What has arrived for an op, if no one else has it."""
        return self._arrived[function] if function in self._unshared else None

    def take(self, function: Function) -> NDArray[Any]:
        """Hand an op the gradient of its output."""
        function.may_overwrite = function in self._unshared
        self._unshared.discard(function)
        return self._arrived.pop(function)


def _gradients_of(function: Function, pending: _Pending) -> tuple[NDArray[Any] | None, ...]:
    """The gradients of an op's inputs. None for one that the op adds itself to what has arrived."""
    total = pending.unshared(function.sources[0])
    if function.add_backward is None or total is None:
        return function.backward(pending.take(function))
    function.add_backward(pending.take(function), total)
    return (None,)


def _require_shape(gradient: Any, source: Tensor | Function, function: Function) -> NDArray[Any]:
    """Raise a ShapeError if a gradient has another shape than the input that it is for.

    NumPy makes numbers of arrays without axes, as in 3 * grad: they become arrays again.
    """
    array: NDArray[Any] = np.asarray(gradient) if isinstance(gradient, np.generic) else gradient
    if array.shape != source.shape:
        raise ShapeError(
            f"backward: {function.name} returned a gradient of another shape than its input",
            {"gradient": array.shape, "input": source.shape},
            "return an array of the input's shape from its backward",
        )
    return array


def _uses_of_leaves(newest: Function) -> Counter[Tensor]:
    """Count for each leaf how often ops take it, this one and those behind it."""
    uses, seen, left = Counter[Tensor](), {newest}, [newest]
    while left:
        for source in left.pop().sources:
            if isinstance(source, Tensor):
                uses[source] += 1
            elif source is not None and source not in seen:
                seen.add(source)
                left.append(source)
    return uses


def _accumulate(leaf: Tensor, gradient: NDArray[Any]) -> None:
    leaf.grad = gradient if leaf.grad is None else add_arrays(leaf.grad, gradient)


class Function:
    """One application of an op, with what backward has to know about it.

    A subclass defines `forward` and `backward`. `forward` receives the arrays of the inputs (None for a
    missing one) and the options, calls `save` with what `backward` will need, and returns the output's array.
    `backward` calls `take_saved`. It receives the gradient of the output and returns one gradient for each
    input, a C-contiguous array of the input's shape, or None for an input that has none. What it was given
    and has taken is freed as soon as `backward` deletes its names, unless others need it. `needs_grad` says
    for each input whether its gradient is needed: all False under `no_grad`, when nothing is saved. If
    `forward` saves the array of an input, that must not be changed before `backward`: then `saved` raises a
    GraphError.

    Some ops wait for memory more than they compute. To spare it, a subclass may say that the arrays which
    `backward` returns are new, `returns_new`; then others may add to them. It may write over the gradient
    that it is given where the pass has set `may_overwrite`. An op with one input may define
    `add_backward(grad_output, total)`, which adds the input's gradient to what has arrived from other ops.
    """

    name = "function"
    shape: tuple[int, ...] = ()  # of the output
    returns_new = False
    add_backward: Callable[[NDArray[Any], NDArray[Any]], None] | None = None

    def __init_subclass__(cls) -> None:
        """Take back what an inherited `backward` was said to do, if the subclass has another."""
        if "backward" in vars(cls):
            cls.returns_new = vars(cls).get("returns_new", False)
            cls.add_backward = vars(cls).get("add_backward")

    def __init__(self) -> None:
        self.needs_grad: tuple[bool, ...] = ()
        self.may_overwrite = False
        self.sources: tuple[Tensor | Function | None, ...] = ()
        self.serial_number = next(_serial_numbers)
        self._saved: tuple[Any, ...] | None = ()
        # The inputs whose arrays are saved: their numbers, and their versions when the op was computed.
        self._versions: tuple[tuple[int, Tensor, int], ...] = ()

    @classmethod
    def apply(cls, *inputs: Tensor | None, **options: Any) -> Tensor:
        """Compute the op, and record it if a gradient is needed."""
        function = cls()
        recording = _recording.get()
        function.needs_grad = tuple(recording and t is not None and t.requires_grad for t in inputs)
        arrays = [None if t is None else t.data for t in inputs]
        require_on_backend(cls.name, arrays)
        output = Tensor(function.forward(*arrays, **options), requires_grad=any(function.needs_grad))
        if output.requires_grad:
            if function._saved:
                function._note_versions(inputs)
            # Not all input tensors: the graph keeps only those whose arrays ops have saved.
            function.sources = tuple(
                (t._function or t) if t is not None and needed else None
                for t, needed in zip(inputs, function.needs_grad, strict=True)
            )
            output._function, function.shape = function, output.shape
        return output

    def forward(self, *arrays: Any, **options: Any) -> NDArray[Any]:
        """Compute the output's array from those of the inputs."""
        raise NotImplementedError

    def backward(self, grad_output: NDArray[Any]) -> tuple[NDArray[Any] | None, ...]:
        """Compute the gradients of the inputs from that of the output."""
        raise NotImplementedError

    def save(self, *values: Any) -> None:
        """Keep values for `backward`, unless no gradient is needed."""
        if any(self.needs_grad):
            self._saved = values

    def _note_versions(self, inputs: tuple[Tensor | None, ...]) -> None:
        """Note which inputs have a saved array, by plain loops: comprehensions take three times as long."""
        for number, tensor in enumerate(inputs):
            if tensor is not None:
                array = tensor.data
                for value in self._saved or ():
                    if value is array:
                        self._versions += ((number, tensor, tensor.version),)
                        break

    def take_saved(self) -> tuple[Any, ...]:
        """Return the values that `save` kept, and keep them no longer: `backward` can run once."""
        values = self.saved
        self._saved, self._versions = None, ()
        return values

    @property
    def saved(self) -> tuple[Any, ...]:
        """The values that `save` kept."""
        self.require_unreleased()
        assert self._saved is not None
        for number, tensor, version in self._versions:
            if tensor.version != version:
                raise GraphError(
                    f"backward: {self.name} saved its input {number}, which was then changed in place",
                    {"input": tensor.shape, "version saved": version, "version now": tensor.version},
                    "call backward() before optimiser.step() and load_state_dict(), or compute it anew",
                )
        return self._saved

    def require_unreleased(self) -> None:
        """Raise a GraphError if an earlier backward pass came through here."""
        if self._saved is None:
            raise GraphError(
                f"backward: an earlier backward pass has released the graph through {self.name}",
                remedy="compute the output again before a second backward()",
            )

    def release(self) -> None:
        """Release the saved arrays and the ops before this one."""
        self._saved = None
        self._versions = ()
        self.sources = ()
