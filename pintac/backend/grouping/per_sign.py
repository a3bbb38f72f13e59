"""Work on pairs of evaluations that is done for each of the two signs, where the nest over both is.

The random numbers of a point are the same for both signs of a perturbation. In a loop of their own they are made once,
but the tensor unit waits for them at every point; in the nest over signs and pairs they are made twice, beside
products, and need no place in memory unless another loop reads them. With many inputs that is worth the work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pintac.backend.grouping.axes import RowAxis
from pintac.backend.grouping.kinds import CONTRACTIONS
from pintac.ir import Node

WORTH = 8192
"""Elements a point of such work from which on it is done for each sign."""


class Rows(Protocol):
    """What is asked here of the rows and readers of values (see `Units`)."""

    def tags(self, node: Node) -> tuple[RowAxis | None, ...]: ...
    def inner(self, node: Node) -> tuple[RowAxis, ...]: ...
    def folds(self, node: Node) -> bool: ...
    def executed_users(self, node: Node) -> list[Node]: ...


def done_per_sign(
    units: Rows, nodes: Sequence[Node], phase: Mapping[Node, int], nest: tuple[RowAxis, ...]
) -> set[Node]:
    """Those of the `nodes` of a unit that its first nest, over the axes `nest`, does for every sign.

    `phase` is the number of folds over evaluations before a node. What a later nest reads is not among them: it reads
    the values of one point while the first nest makes the next one's.
    """
    nests = [phase[n] for n in nodes if units.inner(n) == nest]
    first = min(nests)
    second = min((p for p in nests if p > first), default=max(phase.values()))
    found: set[Node] = set()
    for node in reversed(nodes):
        own = units.inner(node)
        if phase[node] != first or own in ((), nest) or node.op in CONTRACTIONS or units.folds(node):
            continue
        readers = [u for u in units.executed_users(node) if u in phase]
        inside = [u for u in readers if u in found or (units.inner(u) == nest and phase[u] == first)]
        behind = [u for u in readers if first < phase[u] <= second and units.inner(u) != nest]
        if len(inside) + len(behind) == len(readers):
            found.add(node)
    return found if sum(_elements_a_point(units, n) for n in found) >= WORTH else set()


def _elements_a_point(units: Rows, node: Node) -> int:
    points = [axis.size for axis in units.tags(node) if axis is not None and axis.kind == "points"]
    return node.type.size // (points[0] if points else 1)
