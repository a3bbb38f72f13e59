"""What a JSON value has to be: kinds of values, and a check that says which one is not.

A kind is a function of a value and of its place ("export.0.bias"); it raises `KindError` where the value is another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Kind = Callable[[Any, str], None]
LARGEST = 2**63 - 1


class KindError(Exception):
    """Which value is not what it has to be; callers turn it into their own error."""


def text(value: Any, place: str) -> None:
    """A string."""
    if type(value) is not str:
        raise _error(value, place, "a string")


def flag(value: Any, place: str) -> None:
    """true or false."""
    if type(value) is not bool:
        raise _error(value, place, "true or false")


def number(value: Any, place: str) -> None:
    """A finite number."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise _error(value, place, "a finite number")


def whole(low: int = -LARGEST, high: int = LARGEST) -> Kind:
    """A whole number within these limits."""

    def check(value: Any, place: str) -> None:
        if type(value) is not int or not low <= value <= high:
            raise _error(value, place, f"a whole number from {low} to {high}")

    return check


def maybe(kind: Kind) -> Kind:
    """null, or a value of the kind."""
    return lambda value, place: None if value is None else kind(value, place)


def items(kind: Kind) -> Kind:
    """A list of values of the kind."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, (list, tuple)):
            raise _error(value, place, "a list")
        for number, item in enumerate(value):
            kind(item, f"{place}[{number}]")

    return check


def row(*kinds: Kind) -> Kind:
    """A list of exactly these kinds."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, (list, tuple)) or len(value) != len(kinds):
            raise _error(value, place, f"a list of {len(kinds)}")
        for number, (item, kind) in enumerate(zip(value, kinds, strict=True)):
            kind(item, f"{place}[{number}]")

    return check


def each(kind: Kind) -> Kind:
    """An object of any names whose values are of the kind."""

    def check(value: Any, place: str) -> None:
        for key, item in _object(value, place).items():
            kind(item, _inside(place, key))

    return check


def having(needed: Mapping[str, Kind], **optional: Kind) -> Kind:
    """An object with these names; those of `optional` may be absent, others may be there."""

    def check(value: Any, place: str) -> None:
        found = _object(value, place)
        for key, kind in {**needed, **optional}.items():
            if key in found:
                kind(found[key], _inside(place, key))
            elif key in needed:
                raise KindError(f"{place or 'it'} lacks {key!r}")

    return check


def _object(value: Any, place: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise _error(value, place, "an object")
    return value


def _inside(place: str, key: str) -> str:
    return f"{place}.{key}" if place else str(key)


def _error(value: Any, place: str, wanted: str) -> KindError:
    shown = repr(value)
    return KindError(f"{place or 'it'} is {shown if len(shown) <= 60 else shown[:57] + '...'}, not {wanted}")
