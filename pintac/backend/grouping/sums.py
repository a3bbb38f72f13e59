"""Sums and maxima of values of points, in a form in which a loop over tiles can add them up.

A tile has points as rows, and a kernel folds columns before rows. Where points are the last axis ([N], or [k, N]) they
would be taken for columns, of which each tile has some; where an axis is kept between points that are folded and the
columns, rows would be added in another order. Both become sums over rows, in the order of NUMERICS 3: the bits are the
same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pintac.backend.grouping.axes import Axes
from pintac.ir import Builder, Graph, Node, rewrite
from pintac.ir.attrs import ints


def with_points_in_rows(graph: Graph) -> Graph:
    """The graph with every sum and maximum as one over rows or columns of points; the graph itself where all are."""
    axes = Axes(graph, unrolled=0)
    turned = {
        node
        for node in graph.of("sum", "amax")
        if (_has_points_last(axes, node) or _keeps_between(axes, node)) and not _keeps_other_rows(axes, node)
    }
    if not turned:
        return graph

    def step(builder: Builder, node: Node, operands: Sequence[Node]) -> Node | None:
        if node not in turned:
            return None
        (x,) = operands
        last, folded = x.type.rank - 1, ints(node.attrs, "axes")
        outer = tuple(axis for axis in folded if axis != last)
        if last in folded:
            in_rows = _has_points_last(axes, node)
            x = _over_rows(builder, node, x, (last,)) if in_rows else _fold(builder, node, x, (last,))
            x = _over_rows(builder, node, x, outer) if outer else x
        else:
            points = last if _has_points_last(axes, node) else None
            x = _over_rows(builder, node, x, outer, points)
        return x if x.shape == node.shape else builder.reshape(x, node.shape, loc=node.loc)

    return rewrite(graph, step)


def _points(axes: Axes, node: Node) -> list[int]:
    """The axes of the operand that are points; where none is, those that a single point could be."""
    (x,) = node.operands
    tags = axes.tags(x)
    found = [axis for axis, tag in enumerate(tags) if tag is not None and tag.kind == "points"]
    single = [axis for axis, tag in enumerate(tags[:-1]) if tag is None and x.shape[axis] == 1]
    return found or single


def _has_points_last(axes: Axes, node: Node) -> bool:
    return node.operands[0].type.rank - 1 in _points(axes, node)


def _keeps_between(axes: Axes, node: Node) -> bool:
    """Whether an axis is kept between points that are folded and the columns."""
    folded, last = ints(node.attrs, "axes"), node.operands[0].type.rank - 1
    return any(kept not in folded for at in _points(axes, node) if at in folded for kept in range(at + 1, last))


def _keeps_other_rows(axes: Axes, node: Node) -> bool:
    """Whether it keeps rows before the last axis: as columns they would be taken apart by tiles."""
    folded, tags = ints(node.attrs, "axes"), axes.tags(node.operands[0])
    return any(tag is not None and axis not in folded for axis, tag in enumerate(tags[:-1]))


def _over_rows(builder: Builder, node: Node, x: Node, folded: tuple[int, ...], points: int | None = None) -> Node:
    """x folded over axes that become rows, of which it keeps one each; other axes become columns. `points` stays."""
    kept = tuple(axis for axis in range(x.type.rank) if axis not in folded and axis != points)
    first = () if points is None else (points,)
    order = (*first, *folded, *kept)
    columns = math.prod(x.shape[axis] for axis in kept)
    rows = builder.permute(x, order, loc=node.loc) if order != tuple(range(x.type.rank)) else x
    flat = (*(x.shape[axis] for axis in (*first, *folded)), columns)
    rows = rows if rows.shape == flat else builder.reshape(rows, flat, loc=node.loc)
    rows = _fold(builder, node, rows, tuple(range(len(first), len(first) + len(folded))))
    if points is not None and columns > 1:
        rows = builder.reshape(rows, (x.shape[points], columns), loc=node.loc)
        rows = builder.permute(rows, (1, 0), loc=node.loc)
    left = tuple(1 if axis in folded else x.shape[axis] for axis in range(x.type.rank))
    return builder.reshape(rows, left, loc=node.loc)


def _fold(builder: Builder, node: Node, x: Node, axes: tuple[int, ...]) -> Node:
    """`node`'s operation over `axes` of x, which stay as axes of size 1."""
    notes = {name: value for name, value in node.attrs.items() if "." in name}
    return builder.add_op(node.op, (x,), {"axes": axes, "keepdims": True, **notes}, loc=node.loc)
