"""Graphs of the IR: locations, nodes, graphs, and their text. All immutable; `builder.py` makes new ones.

Every op has one result, so a value is the node that makes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pintac.errors import IRError, suggest
from pintac.ir.ops import Attrs
from pintac.ir.types import TensorType
from pintac.ir.words import json_text, key_text, quoted, value_text

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*\Z")
"""What a node may be called, so that the text form can write it."""


@dataclass(frozen=True)
class Location:
    """Where an op comes from: the user's file and line (from 1), column if known, and the source line for messages.

    `text` is for display: it is neither compared nor printed.
    """

    file: str
    line: int
    col: int = 0
    text: str = field(default="", compare=False)

    @classmethod
    def synthetic(cls, reason: str) -> Location:
        """The location of an op that no source line asked for: file `<reason>`, line 0."""
        return cls(f"<{reason}>", 0)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + (f":{self.col}" if self.col else "")


@dataclass(frozen=True, eq=False, repr=False)
class Node:
    """One op and the value it makes. Identity is the node itself; `name` is unique in its graph (without %)."""

    name: str
    op: str
    operands: tuple[Node, ...]
    attrs: Attrs
    type: TensorType
    loc: Location

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    def __repr__(self) -> str:
        return f"%{self.name} = {self.op}({', '.join('%' + operand.name for operand in self.operands)}) : {self.type}"


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in topological order, named outputs, and JSON-able `attrs` (treat them as read-only)."""

    name: str
    nodes: tuple[Node, ...]
    outputs: Mapping[str, Node]
    attrs: Mapping[str, Any]

    @cached_property
    def _users(self) -> dict[Node, list[Node]]:
        users: dict[Node, list[Node]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            for operand in dict.fromkeys(node.operands):
                users.setdefault(operand, []).append(node)
        return users

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    def users(self, node: Node) -> tuple[Node, ...]:
        """The nodes that read `node`, each once, in order. Outputs are not users."""
        return tuple(self._users[node])

    def states(self) -> dict[str, Node]:
        """The persistent tensors by name, in order."""
        return {str(node.attrs["name"]): node for node in self.nodes if node.op == "state"}

    def node(self, name: str) -> Node:
        """The node called `name` (without %); raises IRError when there is none."""
        try:
            return self._by_name[name]
        except KeyError:
            hint = suggest(name, list(self._by_name)) if len(self._by_name) <= 40 else None
            raise IRError(f"graph @{self.name} has no node %{name}", hint=hint) from None

    def of(self, *ops: str) -> tuple[Node, ...]:
        """The nodes with one of these ops, in order."""
        return tuple(node for node in self.nodes if node.op in ops)

    def __str__(self) -> str:
        return print_graph(self)


def ancestors(*nodes: Node) -> set[Node]:
    """The nodes and everything their values are computed from."""
    seen: set[Node] = set()
    stack = list(nodes)
    while stack:
        current = stack.pop()
        if current not in seen:
            seen.add(current)
            stack.extend(current.operands)
    return seen


def pruned(graph: Graph) -> Graph:
    """The graph with only the nodes, the same ones, that its outputs are computed from."""
    needed = ancestors(*graph.outputs.values())
    return Graph(graph.name, tuple(node for node in graph.nodes if node in needed), graph.outputs, graph.attrs)


def print_graph(graph: Graph) -> str:
    """Canonical text of a graph, ending in a newline."""
    meta = ", ".join(f"{key_text(name)}={json_text(value)}" for name, value in graph.attrs.items())
    lines = [f"graph @{graph.name} " + (f"{{{meta}}} {{" if meta else "{")]
    lines += ["  " + print_node(node) for node in graph.nodes]
    lines += [f"  output {quoted(key)} = %{node.name}" for key, node in graph.outputs.items()]
    return "\n".join([*lines, "}"]) + "\n"


def print_module(graphs: Mapping[str, Graph]) -> str:
    """Text of several graphs, one after another."""
    return "\n".join(print_graph(graph) for graph in graphs.values())


def print_node(node: Node) -> str:
    """The line of one node."""
    operands = f"({', '.join('%' + operand.name for operand in node.operands)})" if node.operands else ""
    attrs = ", ".join(f"{key_text(name)}={value_text(value)}" for name, value in node.attrs.items())
    column = f":{node.loc.col}" if node.loc.col else ""
    location = f"loc({quoted(node.loc.file)}:{node.loc.line}{column})"
    return f"%{node.name} = {node.op}{operands}{f' {{{attrs}}}' if attrs else ''} : {node.type} {location}"
