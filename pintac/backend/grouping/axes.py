"""Which axes of which values are row axes: points of a term, sign of a perturbation, antithetic pairs.

A program's size must not depend on how many points or evaluations there are, so these axes become hardware loops.
They are found by unification: every op says which axis of its result is which axis of an operand, and the axes of
the random and stored point sets are where rows come from (the first axis: points; further leading axes: pairs). Pairs
whose directions are a table (orthonormal, quasi-random) are found where a matmul reads perturbed rows.

A reshape [N, signs, pairs, w] to [N * signs * pairs, w] (`pack-rows`) makes an axis with several rows for each point:
that many is its `rows_each`.
"""

from __future__ import annotations

import itertools
import math
import operator
from dataclasses import dataclass

from pintac.errors import IRError
from pintac.ir import Graph, Node
from pintac.ir.ops import REDUCTIONS

UNROLLED_PAIRS = 8
"""Pairs that loops over points take whole where SRAM has room for it; more are a loop of their own."""


@dataclass(frozen=True, order=True)
class RowAxis:
    """A row axis of the program: `kind` is "points", "sign" or "pairs"; `space` numbers the point set."""

    space: int
    kind: str
    size: int

    def __str__(self) -> str:
        return f"{self.kind}{self.space}"


@dataclass(frozen=True)
class PackedRows:
    """Rows of all points as one axis, `each` of them for every point."""

    points: RowAxis
    each: int


class Axes:
    """Row axes of every value: `tags(node)` has, for each axis, a `RowAxis` or None (a feature or parameter axis).

    Nothing is learnt from the values in `without`; up to `unrolled` pairs are no row axis.
    """

    def __init__(
        self, graph: Graph, without: frozenset[Node] = frozenset(), unrolled: int = UNROLLED_PAIRS
    ) -> None:
        self._unrolled = max(1, unrolled)
        self._parent: dict[tuple[Node, int], tuple[Node, int]] = {}
        for node in graph.nodes:
            for axis in range(node.type.rank):
                self._parent[node, axis] = (node, axis)
        self._without = without
        self._packings: list[tuple[Node, Node, int]] = []  # (rows of a point apart, packed, axes that they are)
        self._rows_each: dict[Node, tuple[int, ...]] = {}
        self._packed: set[PackedRows] = set()
        for node in graph.nodes:
            self._unify(node)
        self._join_packed()
        self._tags = self._name(graph)

    def tags(self, node: Node) -> tuple[RowAxis | None, ...]:
        """One entry an axis of `node`."""
        return self._tags[node]

    def rows_each(self, node: Node) -> tuple[int, ...]:
        """For each axis of `node` how many of its rows are one of what its `RowAxis` counts: 1, or a point's packed."""
        return self._rows_each.get(node) or (1,) * node.type.rank

    def packed_rows(self, node: Node) -> PackedRows | None:
        """Of a value all of whose rows are packed somewhere, in this shape or another."""
        if not self._packed:
            return None
        tags = self.tags(node)
        at = next((i for i, tag in enumerate(tags[:-1]) if tag is not None), None)
        if at is None or any(tag is not None for tag in tags[at + 1 :]) or math.prod(node.type.shape[:at]) > 1:
            return None
        points = tags[at]
        assert points is not None
        each = self.rows_each(node)[at] * math.prod(node.type.shape[at + 1 : -1])
        packed = PackedRows(points, each)
        return packed if packed in self._packed else None

    def space(self, node: Node) -> int | None:
        """The point set whose rows this value holds; None for a global value."""
        spaces = {t.space for t in self._tags[node] if t is not None and t.kind == "points"}
        if len(spaces) > 1:
            raise IRError(f"%{node.name} mixes the rows of two point sets", location=node.loc)
        return min(spaces) if spaces else None

    # ---- unification

    def _find(self, key: tuple[Node, int]) -> tuple[Node, int]:
        while self._parent[key] != key:
            self._parent[key] = self._parent[self._parent[key]]
            key = self._parent[key]
        return key

    def _join(self, a: Node, i: int, b: Node, j: int) -> None:
        if a in self._without or b in self._without:
            return
        if a.type.shape[i] == b.type.shape[j] and a.type.shape[i] != 1:
            self._parent[self._find((a, i))] = self._find((b, j))

    def _unify(self, node: Node) -> None:
        op, operands, rank = node.op, node.operands, node.type.rank
        if op == "matmul":
            a = operands[0]
            for axis in range(rank - 1):
                self._join(node, axis, a, axis)
            operands = operands[2:]  # an accumulator is elementwise
        if op == "matmul_tn":
            a, g = operands[:2]
            for axis in range(a.type.rank - 1):
                self._join(a, axis, g, axis)
            operands = operands[2:]
        if op in ("reshape",):
            for i, j in _matching_axes(operands[0].type.shape, node.type.shape):
                self._join(operands[0], i, node, j)
            self._pack(operands[0], node)
            self._pack(node, operands[0])
        elif op == "permute":
            perm = node.attrs["perm"]
            assert isinstance(perm, tuple)
            for i, p in enumerate(perm):
                self._join(node, i, operands[0], int(p))
        elif op in REDUCTIONS:
            axes = node.attrs["axes"]
            assert isinstance(axes, tuple)
            kept = [i for i in range(operands[0].type.rank) if i not in axes]
            target = list(range(rank)) if not node.attrs["keepdims"] else kept
            for i, j in zip(kept, target, strict=True):
                self._join(operands[0], i, node, j)
        elif op in ("gradient", "laplacian", "tt_matmul", "perturb", "difference"):
            raise IRError(f"{op} must be expanded before the backend", location=node.loc)
        else:  # elementwise, precision, slice, concat, pad, broadcast: right-aligned, equal sizes
            for operand in operands:
                shift = rank - operand.type.rank
                for axis in range(operand.type.rank):
                    self._join(operand, axis, node, axis + shift)

    def _pack(self, apart: Node, together: Node) -> None:
        """Note rows of each point that are axes of their own in `apart` and one axis with the points in `together`."""
        a, b = apart.type.shape, together.type.shape
        if not a or len(b) != 2 or a[0] in (0, 1, b[0]) or b[0] % a[0]:
            return
        rows = tuple(itertools.accumulate(a[1:], operator.mul))
        if b[0] // a[0] in rows:
            inner = a[1 : rows.index(b[0] // a[0]) + 2]
            if all(size <= UNROLLED_PAIRS for size in inner):
                self._packings.append((apart, together, len(inner)))

    def _join_packed(self) -> None:
        """Points whose rows are packed in one value are the same points."""
        first: dict[tuple[tuple[Node, int], int], Node] = {}
        for apart, together, _ in self._packings:
            points = first.setdefault((self._find((together, 0)), apart.type.shape[0]), apart)
            self._join(points, 0, apart, 0)

    def _name(self, graph: Graph) -> dict[Node, tuple[RowAxis | None, ...]]:
        points: dict[tuple[Node, int], RowAxis] = {}
        pairs: dict[tuple[Node, int], RowAxis] = {}
        for node in graph.nodes:
            if node.op in ("random", "data", "input") and node.type.rank >= 2 and not _is_matrix(graph, node):
                root = self._find((node, 0))
                if node.type.shape[0] == 1:
                    root = (node, 0)
                if root not in points:
                    points[root] = RowAxis(len(points), "points", node.type.shape[0])
        whole, rows_each = set(), {}
        for apart, together, axes in self._packings:
            found = points.get(self._find((apart, 0)))
            if found is not None:
                root, each = self._find((together, 0)), together.type.shape[0] // apart.type.shape[0]
                points[root] = found
                rows_each[root] = each
                self._packed.add(PackedRows(found, each))
                whole |= {self._find((apart, axis)) for axis in range(1, axes + 1)}
        for node in graph.nodes:
            if node.op == "random" and node.type.rank >= 3:
                space = points[self._find((node, 0))].space
                for axis in (i for i in range(1, node.type.rank - 1) if node.type.shape[i] > self._unrolled):
                    if self._find((node, axis)) not in whole:
                        pairs.setdefault(self._find((node, axis)), RowAxis(space, "pairs", node.type.shape[axis]))
        for node in graph.nodes:  # directions from a table: no random number has an axis for them
            if node.op == "matmul" and node.attrs.get("lhs_role") == "delta" and node.operands[0].type.rank >= 4:
                a = node.operands[0]
                at_points = points.get(self._find((a, 0)))
                if at_points is not None and a.type.shape[2] > self._unrolled:
                    pairs.setdefault(self._find((a, 2)), RowAxis(at_points.space, "pairs", a.type.shape[2]))
        tags: dict[Node, tuple[RowAxis | None, ...]] = {}
        signs: dict[tuple[Node, int], RowAxis] = {}
        for node in graph.nodes:
            roots = [self._find((node, axis)) for axis in range(node.type.rank)]
            at = [i for i, r in enumerate(roots) if r in points]
            of_pairs = [i for i, r in enumerate(roots) if r in pairs]
            if of_pairs:
                for i in range(at[0] + 1 if at else 1, of_pairs[0]):
                    if node.type.shape[i] > 1:
                        space = pairs[roots[of_pairs[0]]].space
                        signs.setdefault(roots[i], RowAxis(space, "sign", node.type.shape[i]))
        for node in graph.nodes:
            roots = [self._find((node, axis)) for axis in range(node.type.rank)]
            tags[node] = tuple(points.get(r) or pairs.get(r) or signs.get(r) for r in roots)
            if any(r in rows_each for r in roots):
                self._rows_each[node] = tuple(rows_each.get(r, 1) for r in roots)
        return tags


def _is_matrix(graph: Graph, array: Node) -> bool:
    """Whether a stored array is what rows are multiplied with, and none of points."""
    if array.op != "data":
        return False
    stack = [array]
    while stack:
        value = stack.pop()
        for user in graph.users(value):
            if user.op == "matmul" and user.operands[1] is value:
                return True
            if user.op in ("quantize", "decode", "reshape", "permute", "slice"):
                stack.append(user)
    return False


def _matching_axes(a: tuple[int, ...], b: tuple[int, ...]) -> list[tuple[int, int]]:
    """Axes that a reshape keeps, matched from the left as long as sizes agree, ignoring axes of size 1."""
    out: list[tuple[int, int]] = []
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i] == 1:
            i += 1
        elif b[j] == 1:
            j += 1
        elif a[i] == b[j]:
            out.append((i, j))
            i, j = i + 1, j + 1
        else:
            break
    k, m = len(a), len(b)
    right: list[tuple[int, int]] = []
    while k > i and m > j:
        if a[k - 1] == 1:
            k -= 1
        elif b[m - 1] == 1:
            m -= 1
        elif a[k - 1] == b[m - 1]:
            k, m = k - 1, m - 1
            right.append((k, m))
        else:
            break
    return out + right
