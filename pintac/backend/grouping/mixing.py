"""Operations that take rows of one point set to other places are refused.

A loop over points has a tile of them at a time, and nothing that a tile computes can wait for the rows of another. A
sum or a maximum over points, and a weight gradient, end such a loop; an op that takes points apart or puts them
together (concat, slice or pad along them, a reshape that makes columns of them) has no place in it or behind it.
"""

from __future__ import annotations

from pintac.backend.grouping.axes import Axes, RowAxis
from pintac.backend.grouping.kinds import CONTRACTIONS, SOURCES, VIEWS, root
from pintac.errors import PassError
from pintac.ir import Graph, Node
from pintac.ir.attrs import ints
from pintac.ir.ops import REDUCTIONS

HINT = (
    "evaluate each set of points by itself, u(xl) - u(xr) instead of the halves of u(torch.cat([xl, xr])), and reduce"
    " over points only in the loss"
)


def refuse_mixed_points(graph: Graph) -> Graph:
    """The graph itself; raises PassError at the first op whose rows are not those of its operands."""
    axes = Axes(graph)
    for node in graph.nodes:
        for operand in node.operands:
            if _lost(axes, node, operand):
                raise PassError(
                    f"{node.op} mixes points: of the rows of {operand.type} it makes {node.type}",
                    location=node.loc,
                    hint=HINT,
                )
    return graph


def _lost(axes: Axes, node: Node, operand: Node) -> bool:
    """Whether row axes of an operand are neither axes of the result nor folded by the op."""
    if operand.op in SOURCES or (node.op in VIEWS and root(operand).op in SOURCES):
        return False  # stored as a whole: any part of it can be read
    if node.op == "matmul_tn" or (node.op in CONTRACTIONS and operand is not node.operands[0]):
        return False
    folded = ints(node.attrs, "axes") if node.op in REDUCTIONS else ()
    kept: list[RowAxis] = [
        tag
        for axis, tag in enumerate(axes.tags(operand))
        if tag is not None and operand.shape[axis] > 1 and axis not in folded
    ]
    return not set(kept) <= set(axes.tags(node))
