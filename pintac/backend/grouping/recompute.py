"""Saved activations that are made again for the backward pass, instead of being kept until then.

A quantised value that the evaluations of a point have, and that the adjoints of its residual read, is kept in SRAM,
stored and loaded, or computed a second time from the quantised values before it (docs/MACHINE.md section 5 counts
all three). The copies compute the same bits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pintac.backend.grouping.kinds import CONTRACTIONS, VIEWS, root
from pintac.backend.grouping.units import Sweep, Units, storage_bytes
from pintac.ir import Builder, Graph, Node, pruned, rewrite
from pintac.ir.ops import REDUCTIONS


@dataclass(frozen=True)
class Recomputed:
    """The graph with the copies, `again`, that wait for the sweep that reads them; `new` nodes by what they were."""

    graph: Graph
    again: frozenset[Node]
    new: dict[Node, Node]


def recomputable(units: Units) -> list[Node]:
    """Quantised values that a later sweep of their unit reads, those with least work for their bytes first."""
    found: list[tuple[float, int, Node]] = []
    for number, node in enumerate(units.graph.nodes):
        if node.op != "quantize" or node not in units.of or not _later(units, node):
            continue
        work = _chain(units, node, ())
        if work is not None:
            products = sum(_products(n) for n in work if n.op in CONTRACTIONS)
            found.append((products / storage_bytes(node), number, node))
    return [node for _, _, node in sorted(found)]


def recomputed(units: Units, values: Collection[Node]) -> Recomputed:
    """The graph of `units` in which later sweeps compute `values`, all of them `recomputable`, themselves."""
    later = {value: _later(units, value) for value in values}
    chains = {value: _chain(units, value, values) or set() for value in values}
    new: dict[Node, Node] = {}
    made: dict[tuple[Node, Sweep], Node] = {}

    def copied(builder: Builder, node: Node, sweep: Sweep, work: Collection[Node]) -> Node:
        """`node`, part of `work`, or a view of such a part, computed in `sweep`."""
        if node not in work and node.op not in VIEWS:
            return new[node]
        if (node, sweep) not in made:
            operands = [copied(builder, o, sweep, work) for o in node.operands]
            if node.op in VIEWS and operands == [new[o] for o in node.operands]:
                return new[node]
            made[node, sweep] = builder.copy(node, operands)
        return made[node, sweep]

    def step(builder: Builder, node: Node, operands: Sequence[Node]) -> Node:
        given = list(operands)
        for i, operand in enumerate(node.operands):
            value = root(operand)
            if node in later.get(value, ()):
                given[i] = copied(builder, operand, units.of[node][1], chains[value])
        new[node] = builder.copy(node, given)
        return new[node]

    graph = pruned(rewrite(units.graph, step))
    again = frozenset(copy for (node, _), copy in made.items() if node.op not in VIEWS)
    return Recomputed(graph, again, new)


def _later(units: Units, node: Node) -> set[Node]:
    """Readers in later sweeps of the value's unit over evaluations; none if other units read it too."""
    unit, sweep = units.of[node]
    readers = units.executed_users(node)
    if not sweep.axes or any(units.of[r][0] is not unit for r in readers):
        return set()
    return {r for r in readers if unit.sweeps.index(units.of[r][1]) > unit.sweeps.index(sweep)}


def _chain(units: Units, node: Node, values: Collection[Node]) -> set[Node] | None:
    """What computes the value, itself included, from those of its point and quantised ones that are not in `values`.

    None: sums or random numbers, which are not done twice.
    """
    unit, sweep = units.of[node]
    work: set[Node] = set()
    stack = [node]
    while stack:
        at = stack.pop()
        if at in work or at not in units.of or units.of[at] != (unit, sweep):
            continue
        if at is not node and at.op == "quantize" and at not in values:
            continue
        if at.op in (*REDUCTIONS, "random", "matmul_tn"):
            return None
        work.add(at)
        stack += map(root, at.operands)
    return work


def _products(node: Node) -> int:
    """Products of a contraction."""
    return node.operands[0].type.size * node.shape[-1]
