"""Cheap work on base rows is repeated where its result is read, instead of being kept in DRAM until then.

Base rows are computed before the loop over their perturbations and read in it, and after it. What is one or two
operations away from a value that is kept anyway (1 - t^2 or quantised t from t) costs a few vector cycles a point and
saves a store and a load of every row.
"""

from __future__ import annotations

from collections.abc import Sequence

from pintac.backend.grouping.kinds import VIEWS, is_splat
from pintac.backend.grouping.units import CHEAP, Unit, Units
from pintac.ir import Builder, Graph, Node, pruned, rewrite


def rematerialised(graph: Graph) -> Graph:
    """The graph with a copy of cheap row work for every unit that reads it; what then has no reader is gone."""
    units = Units(graph)
    made: dict[tuple[Node, Unit], Node] = {}
    new: dict[Node, Node] = {}

    def unit_of(node: Node) -> Unit | None:
        return units.of[node][0] if node in units.of else None

    def leaves(node: Node, reader: Unit) -> set[Node] | None:
        """The one row value kept for other units that `node` can be made of in `reader`, if it can."""
        found: set[Node] = set()
        for operand in node.operands:
            if operand.op == "scalar" or is_splat(operand):
                continue
            home = unit_of(operand)
            if home is None or _group(home) != _group(reader) or not _is_base(units, operand):
                return None
            kept = any(unit_of(u) is not home for u in units.executed_users(operand))
            deeper = leaves(operand, reader) if operand.op in CHEAP else None
            found |= deeper or ({operand} if kept else set())
            if not deeper and not kept:
                return None
        return found if len(found) == 1 else None

    def again(builder: Builder, node: Node, reader: Unit) -> Node:
        """`node`, or its copy for `reader`."""
        if node.op in VIEWS:
            inner = again(builder, node.operands[0], reader)
            if inner is new[node.operands[0]]:
                return new[node]
            return made.setdefault((node, reader), builder.copy(new[node], [inner]))
        made_in = unit_of(node)
        if (node, reader) in made:
            return made[node, reader]
        if made_in is None or made_in is reader or node.op not in CHEAP or _group(made_in) != _group(reader):
            return new[node]
        if leaves(node, reader) is None:
            return new[node]
        operands = [again(builder, o, reader) for o in node.operands]
        made[node, reader] = builder.copy(new[node], operands)
        return made[node, reader]

    def step(builder: Builder, node: Node, operands: Sequence[Node]) -> Node:
        reader = unit_of(node)
        if reader is not None and reader.axis is not None:
            operands = [again(builder, o, reader) for o in node.operands]
        new[node] = builder.copy(node, operands)
        return new[node]

    return pruned(rewrite(graph, step))


def _is_base(units: Units, node: Node) -> bool:
    """Whether the value has rows, one a point."""
    kinds = {t.kind for t in units.tags(node) if t is not None}
    return kinds == {"points"}


def _group(unit: Unit) -> str:
    """Units of one point set that no reduction over points separates."""
    return unit.name.rpartition(" part ")[0]
