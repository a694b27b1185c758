"""Check what was read as JSON against the types of a dataclass, before anything relies on them."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal

from tinyunet.errors import shorten

LARGEST = 2**63  # whole numbers beyond are no counts, and slow to compute with


def mismatch(value: Any, hint: Any, where: str) -> str:
    """Describe the first part of a value that does not have the type of a hint; "" if all have it.

    Hints are bool, int, float (whole numbers too), str, None, Any, Literal, unions, list[...],
    tuple[..., ...] and dict[str, ...] of these, and dataclasses: a dict of some of their fields.

    >>> mismatch({"a": [1, 2.5]}, dict[str, list[int]], "x")
    'x.a.1 is 2.5, expected int'
    """
    return next(_mismatches(value, hint, where), "")


def _mismatches(value: Any, hint: Any, where: str) -> Iterator[str]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return
    if origin in (typing.Union, UnionType):
        if all(mismatch(value, choice, where) for choice in arguments):
            yield _unexpected(value, " or ".join(map(_name, arguments)), where)
    elif origin is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in arguments):
            yield _unexpected(value, " | ".join(map(str, arguments)), where)
    elif origin in (list, tuple):
        if not isinstance(value, list):
            yield _unexpected(value, "list", where)
            return
        for number, item in enumerate(value):
            yield from _mismatches(item, arguments[0], f"{where}.{number}")
    elif origin is dict:
        if not isinstance(value, dict):
            yield _unexpected(value, "dict", where)
            return
        for name, item in value.items():
            yield from _mismatches(item, arguments[1], f"{where}.{name}")
    elif is_dataclass(hint):
        yield from _mismatches_of_fields(value, typing.get_type_hints(hint), where)
    elif not _is_a(value, hint):
        yield _unexpected(value, _name(hint), where)


def _mismatches_of_fields(value: Any, hints: Mapping[str, Any], where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _unexpected(value, "dict", where)
        return
    for name, item in value.items():
        if name not in hints:
            yield f"{where}.{shorten(name)} is unknown to this version"
        else:
            yield from _mismatches(item, hints[name], f"{where}.{name}")


def _is_a(value: Any, kind: Any) -> bool:
    if kind is int or kind is float:
        if isinstance(value, int) and not isinstance(value, bool):
            return -LARGEST < value < LARGEST
        return kind is float and isinstance(value, float)
    return isinstance(value, NoneType if kind is None else kind)


def _unexpected(value: Any, expected: str, where: str) -> str:
    return f"{where} is {shorten(repr(value))}, expected {expected}"


def _name(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " | ".join(map(str, typing.get_args(hint)))
    return "None" if hint in (None, NoneType) else getattr(hint, "__name__", str(hint))
