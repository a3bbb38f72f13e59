"""Printing graphs as canonical text, which `text.parse_graph` reads back: strings are JSON, floats keep their bits."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pintac.ir.attrs import AttrValue
from pintac.ir.node import Node

_BARE_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")


def graph_text(name: str, nodes: Sequence[Node], outputs: Mapping[str, Node], attrs: Mapping[str, Any]) -> str:
    """Canonical text of a graph by its parts, ending in a newline."""
    meta = ", ".join(f"{_key(key)}={json_text(value)}" for key, value in attrs.items())
    lines = [f"graph @{name} " + (f"{{{meta}}} {{" if meta else "{")]
    lines += ["  " + print_node(node) for node in nodes]
    lines += [f"  output {_string(key)} = %{node.name}" for key, node in outputs.items()]
    return "\n".join([*lines, "}"]) + "\n"


def print_node(node: Node) -> str:
    """The line of one node."""
    operands = f"({', '.join('%' + operand.name for operand in node.operands)})" if node.operands else ""
    attrs = ", ".join(f"{_key(name)}={_value(value)}" for name, value in node.attrs.items())
    column = f":{node.loc.col}" if node.loc.col else ""
    location = f"loc({_string(node.loc.file)}:{node.loc.line}{column})"
    return f"%{node.name} = {node.op}{operands}{f' {{{attrs}}}' if attrs else ''} : {node.type} {location}"


def _string(text: str) -> str:
    return json.dumps(text)


def _key(name: str) -> str:
    return name if _BARE_KEY.match(name) else _string(name)


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    return repr(value)


def _value(value: AttrValue) -> str:
    if not isinstance(value, tuple):
        return _scalar(value)
    return f"({', '.join(map(_scalar, value))}{',' if len(value) == 1 else ''})"


def json_text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_string(key)}: {json_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(json_text, value)) + "]"
    return _scalar(value)
