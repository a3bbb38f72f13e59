"""What the graph needs before it can be scheduled.

Constants that several point sets read become one each, copies stand where a reshape cannot be a view, cheap work on
rows is repeated where it is read, and of values that later loops read in part only that part is kept for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pintac.backend.grouping.axes import Axes
from pintac.backend.grouping.kinds import ELEMENTWISE, VIEWS, root
from pintac.backend.grouping.mixing import refuse_mixed_points
from pintac.backend.grouping.rematerialise import rematerialised
from pintac.backend.grouping.sums import with_points_in_rows
from pintac.backend.grouping.units import EXECUTED, Units
from pintac.backend.tiles.tile import Buffer, View
from pintac.backend.tiles.views import apply, compact_view, reshape_strides
from pintac.ir import Builder, Graph, Node, rewrite

PART = 0.5
"""Of a value: up to here a copy of what is read of it is worth making."""


def prepare(graph: Graph) -> Graph:
    """The graph as `Units` and `Placement` expect it. Raises PassError for an op that mixes points."""
    apart = refuse_mixed_points(with_own_constants(graph))
    return kept_in_part(rematerialised(with_copies(with_points_in_rows(apart))))


def with_own_constants(graph: Graph) -> Graph:
    """The graph with its own tensor constants (and views of constants and states) for every point set.

    Equal constants of two terms are one after canonicalize; their rows would then be the same rows.
    """
    shared = frozenset(n for n in graph.nodes if n.type.rank >= 2 and _is_shared(n))
    axes = Axes(graph, shared, unrolled=0)  # a single point has no rows but those of its evaluations
    made: dict[tuple[Node, int], Node] = {}
    first: dict[Node, int] = {}

    def own(builder: Builder, node: Node, given: Node, space: int) -> Node:
        if first.setdefault(node, space) == space:
            return given
        if (node, space) not in made:
            operands = [
                own(builder, o, g, space) if o in shared else g
                for o, g in zip(node.operands, given.operands, strict=True)
            ]
            made[node, space] = builder.copy(given, operands)
        return made[node, space]

    def step(builder: Builder, node: Node, operands: Sequence[Node]) -> Node | None:
        if node in shared or not shared.intersection(node.operands):
            return None
        tags = [t for n in (node, *node.operands) if n not in shared for t in axes.tags(n) if t is not None]
        if not tags:
            return None
        space = tags[0].space
        pairs = zip(node.operands, operands, strict=True)
        return builder.copy(node, [own(builder, o, g, space) if o in shared else g for o, g in pairs])

    return rewrite(graph, step)


def _is_shared(node: Node) -> bool:
    return node.op == "const" or (node.op in VIEWS and root(node).op in ("const", "state"))


def with_copies(graph: Graph) -> Graph:
    """The graph with a copy (a concat of one value) where a view op cannot be a view of what is in memory.

    That is a reshape of a value that is strided, any view but a change of leading axes of a decoded SMX value, and one
    whose rows or columns are repeated: an instruction reads SMX operands in whole blocks.
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
        if node.op == "decode" and any(_repeats(user, node) for user in graph.users(node)):
            views[node] = compact_view(Buffer(node.name, 0), node.shape)
            return _copied(builder, node, builder.copy(node, operands))
        if node.op == "reshape" and source.bits and _unpacked(graph, node, source):
            views[node] = source
            return None
        if node.op == "reshape":
            possible = reshape_strides(source, node.shape) is not None
        else:
            possible = node.op == "decode" or not source.bits
        if possible:
            views[node] = apply(node, source, node.shape)
            return None
        copy = _copied(builder, node, operands[0])
        views[node] = apply(node, compact_view(Buffer(node.name, 0), node.operands[0].shape), node.shape)
        return builder.copy(node, [copy])

    return rewrite(graph, step)


def _copied(builder: Builder, node: Node, value: Node) -> Node:
    """A copy of `value` that stands in memory of its own, named after `node`."""
    return builder.add_op("concat", (value,), {"axis": value.type.rank - 1}, loc=node.loc, name=f"{node.name}.copy")


def _repeats(user: Node, value: Node) -> bool:
    """Whether an op repeats rows or columns of an operand."""
    return (user.op in ELEMENTWISE or user.op == "broadcast") and user.shape[-2:] != value.shape[-2:]


def _unpacked(graph: Graph, node: Node, packed: View) -> bool:
    """Whether a reshape gives packed rows (`pack-rows`) their axes back for element-wise work alone."""
    together = (math.prod(node.shape[:-1]), node.shape[-1]) == packed.shape and node.shape[0] != packed.shape[0]
    return together and all(u.op in ELEMENTWISE and u.shape == node.shape for u in graph.users(node))


def kept_in_part(graph: Graph) -> Graph:
    """The graph with copies of the slices that other loops read of a value of evaluations, if they are a small part."""
    sliced = [n for n in {s.operands[0]: None for s in graph.of("slice")} if n.op in EXECUTED and not n.type.is_smx]
    if not sliced:
        return graph
    units = Units(graph)
    copied: set[Node] = set()
    for node in sliced:
        unit, sweep = units.of[node]
        if unit.kind != "evaluations" or not units.inner(node):
            continue
        readers = {u: [u] if u in units.of else units.executed_users(u) for u in graph.users(node)}
        apart = [user for user, found in readers.items() if any(units.of[n][1] is not sweep for n in found)]
        if all(user.op == "slice" for user in apart) and sum(user.type.size for user in apart) <= PART * node.type.size:
            copied.update(apart)

    def step(builder: Builder, node: Node, operands: Sequence[Node]) -> Node | None:
        if node not in copied:
            return None
        return _copied(builder, node, builder.copy(node, operands))

    return rewrite(graph, step)
