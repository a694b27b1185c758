"""The errors, and how a message is built: what, where, both values, the remedy.

Every error that a user can cause derives from `TinyUNetError`. The commands print it and exit with status 2;
a program that imports tinyunet can catch the class that it can handle. An `assert` is only for mistakes in
this code.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping


class TinyUNetError(Exception):
    """A mistake that the user can correct; the message says how.

    Parameters
    ----------
    what : str
        One line: where it happened, what was expected and what was found.
    details : mapping of str to object, optional
        Names and values, printed one per line, such as each array's shape with its axes.
    remedy : str, optional
        One line: what to change.
    """

    def __init__(self, what: str, details: Mapping[str, object] | None = None, remedy: str = ""):
        lines = [what]
        if details:
            width = max(map(len, details))
            lines += [f"  {name:<{width}}  {value}" for name, value in details.items()]
        if remedy:
            lines.append(f"  {remedy}")
        super().__init__("\n".join(lines))


class ShapeError(TinyUNetError, ValueError):
    """Shapes that do not fit together, or that a network cannot take."""


class DtypeError(TinyUNetError, TypeError):
    """An array of a dtype that the operation does not take."""


class OptionError(TinyUNetError, ValueError):
    """An argument or an option outside its range."""


class GraphError(TinyUNetError, RuntimeError):
    """A backward pass without a graph, whose graph was freed, or whose saved arrays were changed."""


class GradientError(TinyUNetError, AssertionError):
    """A wrong derivative, found by a gradient check."""


class BackendError(TinyUNetError, RuntimeError):
    """An unknown backend, or one that this machine cannot run."""


class KernelError(TinyUNetError, RuntimeError):
    """A CUDA kernel that does not compile, got arguments that it cannot take, or failed a check."""


class OutOfMemoryError(TinyUNetError, MemoryError):
    """A tile, an image or a set of images that is too large for the memory of the machine or of its GPU."""


class DataError(TinyUNetError, ValueError):
    """Images or labels that cannot be read, or that do not fit together."""


class CheckpointError(TinyUNetError, ValueError):
    """A checkpoint that is damaged, from another program, or of another network."""


class RunError(TinyUNetError, RuntimeError):
    """A training run that cannot start or continue: its folder, or a loss that is not finite."""


def first_names(names: Collection[str], most: int = 5) -> str:
    """The first few names, for a message.

    >>> first_names(["a", "b", "c"], most=2), first_names([])
    ('a, b, …', 'nothing')
    """
    return ", ".join(list(names)[:most]) + (", …" if len(names) > most else "") or "nothing"


def shorten(text: str, most: int = 60) -> str:
    """Cut text that a user or a file gave, which may be thousands of characters, for a message.

    >>> shorten("123456", most=3)
    '123…'
    """
    return text if len(text) <= most else f"{text[:most]}…"


def describe(array: object, axes: str = "") -> str:
    """Describe an array's shape with the names of its axes, for an error: ``(1, 7, 11, 3)  N H W C``."""
    shape = getattr(array, "shape", None)
    return f"{shape}  {axes}".rstrip()
