"""Graphs of the IR: nodes in order, and named outputs. All immutable; `builder.py` makes new ones.

Every op has one result, so a value is the node that makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pintac.errors import IRError, suggest
from pintac.ir.node import Node
from pintac.ir.printer import graph_text


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
        return graph_text(self.name, self.nodes, self.outputs, self.attrs)


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
