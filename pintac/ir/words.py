"""How names and attributes are written in the text form of a graph."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pintac.ir.ops import AttrValue

_BARE_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")


def quoted(text: str) -> str:
    """A string, as JSON writes it."""
    return json.dumps(text)


def key_text(name: str) -> str:
    """The name of an attribute, quoted where it has to be."""
    return name if _BARE_KEY.match(name) else quoted(name)


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    return repr(value)


def value_text(value: AttrValue) -> str:
    """The value of an op's attribute; floats read back to the same bits."""
    if not isinstance(value, tuple):
        return _scalar(value)
    return f"({', '.join(map(_scalar, value))}{',' if len(value) == 1 else ''})"


def json_text(value: Any) -> str:
    """The value of a graph's attribute, which may be nested."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{quoted(key)}: {json_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(json_text, value)) + "]"
    return _scalar(value)
