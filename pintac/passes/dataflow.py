"""Small questions about a graph's dataflow, and copying one."""

from __future__ import annotations

from collections.abc import Iterable

from pintac.ir import Builder, Graph, Node, ancestors


def descendants(graph: Graph, roots: Iterable[Node]) -> set[Node]:
    """The roots and every node that depends on one of them."""
    found = set(roots)
    for node in graph.nodes:
        if any(operand in found for operand in node.operands):
            found.add(node)
    return found


def live(graph: Graph) -> set[Node]:
    """The nodes that an output depends on, and the graph's interface: states persist whether they are read or not."""
    return ancestors(*graph.outputs.values()) | set(graph.of("state", "input"))


def continue_from(graph: Graph) -> tuple[Builder, dict[Node, Node]]:
    """A builder that holds a copy of the graph's nodes under their names (no outputs), and old node -> copy."""
    builder = Builder(graph.name, graph.attrs, reserved=(node.name for node in graph.nodes))
    new: dict[Node, Node] = {}
    for node in graph.nodes:
        new[node] = builder.copy(node, [new[operand] for operand in node.operands])
    return builder, new


def without_dead(graph: Graph) -> Graph:
    """The graph with only its live nodes, names kept; the same object when all are live."""
    keep = live(graph)
    if len(keep) == len(graph.nodes):
        return graph
    builder = Builder(graph.name, graph.attrs, reserved=(node.name for node in graph.nodes))
    new: dict[Node, Node] = {}
    for node in graph.nodes:
        if node in keep:
            new[node] = builder.copy(node, [new[operand] for operand in node.operands])
    for key, node in graph.outputs.items():
        builder.output(key, new[node])
    return builder.finish()
