"""Attributes of ops: their kinds, defaults and allowed values, checked and in canonical form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pintac.errors import IRError, suggest

Scalar = int | float | str | bool
AttrValue = Scalar | tuple[Scalar, ...]
Attrs = Mapping[str, AttrValue]

_KINDS: dict[str, tuple[str, str]] = {
    "int": ("int", "an integer"),
    "float": ("float", "a number"),
    "str": ("str", "a string"),
    "bool": ("bool", "true or false"),
    "ints": ("int", "a tuple of integers"),
    "floats": ("float", "a tuple of numbers"),
}


@dataclass(frozen=True)
class AttrSpec:
    """One attribute of an op: its kind (a key of `_KINDS`), its default, and the values allowed (none named: any).

    Without a default it must be given. A `quiet` attribute is left out where it has its default value.
    """

    kind: str
    default: AttrValue | None = None
    choices: tuple[Scalar, ...] = ()
    quiet: bool = False


def normalize_attrs(op: str, specs: Mapping[str, AttrSpec], given: Mapping[str, object] | None) -> Attrs:
    """Checked attributes of `op`, whose attributes are `specs`, in canonical form.

    Defaults are filled in, sequences are tuples, names are sorted. A name with a dot (`backend.phase`) is an
    annotation: any op may carry it, no meaning depends on it. Raises IRError (without a location, callers add it).
    """
    result: dict[str, AttrValue] = {}
    for name, value in (given or {}).items():
        if name in specs:
            result[name] = _check_attr(op, name, specs[name], value)
        elif "." in name:
            result[name] = _plain(op, name, value)
        else:
            raise IRError(
                f"{op} has no attribute {name!r}", hint=suggest(name, list(specs)) or f"{op} takes no attributes"
            )
    for name, attr in specs.items():
        if name not in result:
            if attr.default is None:
                raise IRError(f"{op} needs the attribute {name!r} ({_KINDS[attr.kind][1]})")
            result[name] = attr.default
        if attr.quiet and result[name] == attr.default:
            del result[name]
    return MappingProxyType({name: result[name] for name in sorted(result)})


def _plain(op: str, name: str, value: object) -> AttrValue:
    """The value as plain Python: NumPy scalars unwrapped, sequences as tuples."""
    if isinstance(value, (list, tuple)):
        items = tuple(_plain(op, name, item) for item in value)
        if any(isinstance(item, tuple) for item in items):
            raise IRError(f"{op}: the attribute {name!r} holds a nested tuple")
        return items  # type: ignore[return-value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, (bool, int, float, str)):
        return value
    raise IRError(
        f"{op}: the attribute {name!r} cannot hold {value!r}", hint="use int, float, str, bool or a tuple of them"
    )


def _check_attr(op: str, name: str, spec: AttrSpec, value: object) -> AttrValue:
    base, description = _KINDS[spec.kind]
    plain = _plain(op, name, value)
    if isinstance(plain, tuple) != spec.kind.endswith("s"):
        raise IRError(f"{op}: the attribute {name!r} must be {description}, got {value!r}")
    items = plain if isinstance(plain, tuple) else (plain,)
    checked: list[Scalar] = []
    for item in items:
        if base == "float" and isinstance(item, (int, float)) and not isinstance(item, bool):
            checked.append(float(item))
        elif type(item).__name__ == base:
            checked.append(item)
        else:
            raise IRError(f"{op}: the attribute {name!r} must be {description}, got {value!r}")
        if spec.choices and checked[-1] not in spec.choices:
            known = [str(choice) for choice in spec.choices]
            raise IRError(f"{op}: the attribute {name!r} cannot be {item!r}", hint=suggest(str(item), known))
    return tuple(checked) if isinstance(plain, tuple) else checked[0]


def ints(attrs: Attrs, name: str) -> tuple[int, ...]:
    """The attribute `name` as a tuple of integers (an attribute of kind "ints")."""
    value = attrs[name]
    assert isinstance(value, tuple)
    return value  # type: ignore[return-value]


def integer(attrs: Attrs, name: str) -> int:
    """The attribute `name` as an integer (an attribute of kind "int")."""
    value = attrs[name]
    assert isinstance(value, int)
    return value
