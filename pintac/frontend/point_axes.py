"""Which axes of a traced value are points: a residual is computed point by point, so there is at most one."""

from __future__ import annotations

import math

from pintac.ir import Node
from pintac.ir.attrs import ints


class PointAxes:
    """The axes of IR values along which the points of the term lie; `mark` says where they come from."""

    def __init__(self) -> None:
        self._known: dict[Node, frozenset[int]] = {}

    def mark(self, node: Node) -> None:
        """The first axis of `node` are the points."""
        self._known[node] = frozenset({0})

    def of(self, node: Node) -> frozenset[int]:
        """Axes of more than one point."""
        if node not in self._known:
            self._known[node] = frozenset(axis for axis in self._from_operands(node) if node.shape[axis] > 1)
        return self._known[node]

    def _from_operands(self, node: Node) -> set[int]:
        if not node.operands:
            return set()
        first, rank = self.of(node.operands[0]), node.type.rank
        if node.op in ("gradient", "laplacian"):
            return set(first)
        if node.op in ("matmul", "tt_matmul"):
            return {axis for axis in first if axis < rank - 1}
        if node.op == "reshape":
            return {j for i in first if (j := _kept(node.operands[0].shape, i, node.shape)) is not None}
        if node.op == "permute":
            return {j for j, i in enumerate(ints(node.attrs, "perm")) if i in first}
        if node.op in ("sum", "amax"):
            folded = ints(node.attrs, "axes")
            kept = {axis for axis in first if axis not in folded}
            return kept if node.attrs["keepdims"] else {axis - sum(f < axis for f in folded) for axis in kept}
        return {axis + rank - part.type.rank for part in node.operands for axis in self.of(part)}


def _kept(before: tuple[int, ...], axis: int, after: tuple[int, ...]) -> int | None:
    """Where a reshape has the axis; None if it takes it apart or joins it with others."""
    outside = math.prod(before[:axis])
    return next(
        (j for j, size in enumerate(after) if size == before[axis] and math.prod(after[:j]) == outside), None
    )
