"""Counts the changes of tensors in place, including those that a CUDA graph makes.

An op saves arrays for its backward pass. If one of them is changed before that pass, the gradient is wrong.
So each tensor has a version, which every change in place raises, and the backward pass compares versions.

A CUDA graph changes parameters without running the Python code that counts. Hence the capture lists which
tensors the step changes, and each launch raises their versions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Versioned(Protocol):
    """A tensor, as far as this module knows it."""

    version: int


_captured: ContextVar[list[Versioned] | None] = ContextVar("captured", default=None)  # one thread captures


def count_changes(tensors: Iterable[Versioned]) -> None:
    """Raise the versions of tensors whose arrays are about to be changed in place."""
    captured = _captured.get()
    for tensor in tensors:
        tensor.version += 1
        if captured is not None:
            captured.append(tensor)


@contextmanager
def captured_changes() -> Iterator[list[Versioned]]:
    """List the tensors that are changed inside the ``with`` block."""
    changed: list[Versioned] = []
    token = _captured.set(changed)
    try:
        yield changed
    finally:
        _captured.reset(token)
