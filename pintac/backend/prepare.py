"""What the graph needs before it can be scheduled: copies where a reshape cannot be a view."""

from __future__ import annotations

from collections.abc import Sequence

from pintac.backend.fuse import VIEWS
from pintac.backend.tile import Buffer, View
from pintac.backend.views import apply, compact_view, reshape_strides
from pintac.ir import Builder, Graph, Node, rewrite


def prepare(graph: Graph) -> Graph:
    """The graph with a copy (a concat of one value) where a view op cannot be a view of what is in memory.

    That is a reshape of a value that is strided, and any view but a change of leading axes of a decoded SMX value.
    """
    views: dict[Node, View] = {}

    def stored(node: Node) -> View:
        if node not in views:
            bits = node.type.bits if node.type.is_smx else 0
            views[node] = compact_view(Buffer(node.name, 0, bits), node.shape)
        return views[node]

    def step(builder: Builder, node: Node, operands: Sequence[Node]) -> Node | None:
        if node.op not in VIEWS:
            return None
        source = stored(node.operands[0])
        if node.op == "reshape":
            possible = reshape_strides(source, node.shape) is not None
        else:
            possible = node.op == "decode" or not source.bits
        if possible:
            views[node] = apply(node, source, node.shape)
            return None
        rank = operands[0].type.rank
        copy = builder.add_op("concat", (operands[0],), {"axis": rank - 1}, loc=node.loc, name=f"{node.name}.copy")
        views[node] = apply(node, compact_view(Buffer(node.name, 0), node.operands[0].shape), node.shape)
        return builder.copy(node, [copy])

    return rewrite(graph, step)
