"""Which values are computed together: units (loops over rows, or straight code) and their sweeps.

A unit is a hardware loop over the points of one term (or the rows of one parameter, or no loop). Inside a unit over
points with perturbed evaluations, a sweep is a loop over the evaluations of a point; a sum over evaluations ends a
sweep, because what depends on it needs all of them. A sum over points ends a unit in the same way. So if the gradient
at a point depends on that point alone, one loop does forward and backward; otherwise two, without being told.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import networkx as nx

from pintac.backend.grouping.axes import UNROLLED_PAIRS, Axes, PackedRows, RowAxis
from pintac.backend.grouping.kinds import CONTRACTIONS, COPIES, ELEMENTWISE, SINKS, SOURCES, VIEWS, no_rule, root
from pintac.backend.grouping.per_sign import done_per_sign
from pintac.errors import IRError
from pintac.ir import Graph, Node
from pintac.ir.ops import REDUCTIONS

EXECUTED = ELEMENTWISE | SINKS | CONTRACTIONS | COPIES
CHEAP = {"add", "sub", "mul", "neg", "quantize"}
"""Work on rows that is rather done again than its result stored."""
DEFERRED = -1
"""In the place of a point set's number: sums over rows of all."""
LOOPED_PARAMETER_BYTES = 8192
"""Element-wise work on parameters larger than this runs in a loop over rows; smaller tensors are handled whole."""


@dataclass(eq=False)
class Sweep:
    """Nodes executed in one loop nest over `axes` (empty: once an iteration of the unit)."""

    axes: tuple[RowAxis, ...]
    nodes: list[Node] = field(default_factory=list)


@dataclass(eq=False)
class Unit:
    """`axis` is what the unit loops over: None for straight code, and for sums over rows of several point sets."""

    kind: str  # "global", "parameter", "points", "evaluations", "deferred"
    axis: RowAxis | None
    sweeps: list[Sweep] = field(default_factory=list)
    name: str = ""
    shape: tuple[int, ...] = ()  # of the tensors of a parameter unit

    @property
    def nodes(self) -> list[Node]:
        return [n for s in self.sweeps for n in s.nodes]

    @property
    def nests(self) -> list[Sweep]:
        """The sweeps over all evaluations of a point; where there are none, all sweeps."""
        deepest = max(len(s.axes) for s in self.sweeps)
        return [s for s in self.sweeps if len(s.axes) == deepest]

    @property
    def between_nests(self) -> list[Sweep]:
        """The others: work of a point before, between and behind them."""
        nests = set(self.nests)
        return [s for s in self.sweeps if s not in nests]


class Units:
    """The units of a graph in execution order; `of` maps every executed node to its (unit, sweep).

    Parameters of up to `whole` bytes are worked on whole. Each of the `deferred` gradients, chains of contractions over
    rows, is a unit of its own behind all rows and what else does not wait for it (see `deferred`). Up to `unrolled`
    pairs of evaluations are no loop. What is computed `again` is so in the sweep that reads it (see `recompute`);
    `per_sign` lets work on pairs be done for each sign (see the module of that name).
    """

    def __init__(
        self,
        graph: Graph,
        whole: int = LOOPED_PARAMETER_BYTES,
        deferred: tuple[tuple[Node, ...], ...] = (),
        unrolled: int = UNROLLED_PAIRS,
        again: frozenset[Node] = frozenset(),
        per_sign: bool = True,
    ) -> None:
        self.graph = graph
        self.whole = whole
        self.deferred = deferred
        self.unrolled = unrolled
        self.again = again
        self.axes = Axes(graph, unrolled=unrolled)
        self.units: list[Unit] = []
        self.standins: dict[Node, Node] = {}  # values inside a random number, by the number they belong to
        self.of: dict[Node, tuple[Unit, Sweep]] = {}
        self._may_repeat = per_sign
        self.per_sign: set[Node] = set()  # work on pairs that a sweep over signs and pairs does for each sign
        self._build()

    def tags(self, node: Node, unit: Unit | None = None) -> tuple[RowAxis | None, ...]:
        """Row axes of a value as `unit` sees it: a parameter unit loops over the first axis of its tensors."""
        node = self.standins.get(node, node)
        if unit is not None and unit.kind == "parameter" and node.type.shape == unit.shape:
            return (unit.axis,) + (None,) * (node.type.rank - 1)
        return self.axes.tags(node)

    def rows_each(self, node: Node, unit: Unit | None = None) -> tuple[int, ...]:
        """Rows of each axis of `tags` for one of what it counts: 1, but where those of each point are packed."""
        node = self.standins.get(node, node)
        if unit is not None and unit.kind == "parameter" and node.type.shape == unit.shape:
            return (1,) * node.type.rank
        return self.axes.rows_each(node)

    def packed_rows(self, node: Node) -> PackedRows | None:
        """Points and rows of each, where all rows are packed somewhere (see `Axes`)."""
        return self.axes.packed_rows(self.standins.get(node, node))

    def own_axes(self, node: Node) -> set[RowAxis]:
        """The row axes of an executed node's value. A single row is no axis: not every value of one point has it."""
        return {t for t in self.tags(node, self.of[node][0]) if t is not None and t.size > 1}

    def loop_axes(self, node: Node) -> set[RowAxis]:
        """The row axes that the loops around an executed node run over, but for those for which it is only repeated."""
        if node in self.per_sign:
            return self.own_axes(node)
        unit, sweep = self.of[node]
        return {a for a in (*sweep.axes, unit.axis) if a is not None and a.size > 1}

    def folded_by_loops(self, node: Node) -> bool:
        """Whether loops fold the value: it is complete only after them."""
        return self.own_axes(node) != self.loop_axes(node)

    def key(self, node: Node, unit: Unit) -> tuple[object, ...]:
        """What a kernel over `node` iterates over: extents of the tile, leading axes of size 1 left out.

        Of packed rows (`Axes.packed_rows`) it is the rows of all points together, whatever axes the value has.
        """
        packed = self.packed_rows(node)
        if packed is not None:
            return (packed, node.type.shape[-1])
        out: list[object] = []
        for size, tag in zip(node.type.shape, self.tags(node, unit), strict=True):
            single = tag is not None and (tag.kind == "sign" or (tag.kind == "points" and unit.kind == "evaluations"))
            out.append(1 if size == 1 or single else (size if tag is None else tag))
        out = [1] * (2 - len(out)) + out
        return (*(e for e in out[:-2] if e != 1), *out[-2:])

    def exec_axes(self, node: Node) -> frozenset[RowAxis]:
        """All row axes an op runs over: its operands' and its own."""
        found = {t for t in self.tags(node) if t is not None}
        for operand in node.operands:
            found |= {t for t in self.tags(operand) if t is not None} if not _is_leaf(operand) else set()
        return frozenset(found)

    # ---- partition

    def _build(self) -> None:
        executed = [n for n in self.graph.nodes if n.op in EXECUTED]
        for node in self.graph.nodes:
            if node.op not in EXECUTED and node.op not in VIEWS and node.op not in SOURCES:
                raise no_rule(node)
        level: dict[Node, int] = {}
        for node in self.graph.nodes:
            level[node] = self._level(node, level)
        self._postpone(executed, level)
        self._join_levels(executed, level)
        groups: dict[tuple[int, ...], list[Node]] = defaultdict(list)
        apart = {node for chain in self.deferred for node in chain}
        parts = self._parts([n for n in executed if n not in apart], level)
        self._put_off(executed, level)
        for number, node in enumerate(executed):
            points = self._points(node)
            if node in apart:
                groups[level[node], 1, 0, DEFERRED].append(node)
            elif points is None and not self.inner(node):
                groups[level[node], 0, number].append(node)  # one by one: work on parameters fits anywhere
            else:
                space = self._space(node)
                groups[level[node], 1, parts[node], space].append(node)
        straight: list[Node] = []
        for key in self._order(groups, level):
            if key[1] == 0:
                straight += groups[key]
                continue
            self._global_units(straight)
            straight = []
            if key[3] == DEFERRED:
                name = f"deferred {groups[key][0].name}"
                self.units.append(Unit("deferred", None, [Sweep((), groups[key])], name))
            else:
                self._row_unit(groups[key], key)
        self._global_units(straight)
        for unit in self.units:
            for sweep in unit.sweeps:
                for node in sweep.nodes:
                    self.of[node] = (unit, sweep)

    def _points(self, node: Node) -> RowAxis | None:
        return next((a for a in sorted(self.exec_axes(node)) if a.kind == "points"), None)

    def inner(self, node: Node) -> tuple[RowAxis, ...]:
        """Evaluation axes the op runs over, sign before pairs: the order of NUMERICS 4."""
        order = {"sign": 0, "pairs": 1}
        return tuple(sorted((a for a in self.exec_axes(node) if a.kind in order), key=lambda a: order[a.kind]))

    def _space(self, node: Node) -> int:
        spaces = {a.space for a in self.exec_axes(node)}
        if len(spaces) != 1:
            raise IRError(
                f"{node.op} mixes rows of {len(spaces)} point sets",
                location=node.loc,
                hint="combine terms by their loss, not row by row",
            )
        return spaces.pop()

    def _reduces(self, node: Node) -> bool:
        """Whether the op folds all its row axes away."""
        own = {t for t in self.tags(node) if t is not None}
        return node.op in EXECUTED and bool(self.exec_axes(node)) and not own

    def _level(self, node: Node, level: dict[Node, int]) -> int:
        if node.op in VIEWS:
            return level[node.operands[0]]
        acc = accumulator(node)
        result = 0
        for operand in node.operands:
            after = level[operand]
            if operand is not acc and self._reduces(root(operand)):
                after += 1
            result = max(result, after)
        return result

    def _postpone(self, executed: list[Node], level: dict[Node, int]) -> None:
        """Work on parameters waits for its first reader, so that its result need not be kept through the loops."""
        for node in reversed(executed):
            users = self.executed_users(node)
            if users and not self.exec_axes(node):
                level[node] = max(level[node], min(level[u] for u in users))

    def _join_levels(self, executed: list[Node], level: dict[Node, int]) -> None:
        """All rows of a point set wait for the last of its sums to begin, if nothing else has to wait longer for it.

        A weight gradient that adds onto those of other points begins late; with its rows in the same loop these need
        not be kept for it.
        """
        latest: dict[Node, int] = {}
        last = max(level.values(), default=0)
        for node in reversed(self.graph.nodes):
            latest[node] = last
            for user in self.graph.users(node):
                waits = user.op not in VIEWS and node is not accumulator(user) and self._reduces(root(node))
                latest[node] = min(latest[node], latest[user] - waits)
        rows = [n for n in executed if self.exec_axes(n)]
        for space in sorted({self._space(n) for n in rows}):
            members = [n for n in rows if self._space(n) == space]
            top = max(level[n] for n in members)
            if all(latest[n] >= top for n in members):
                level.update(dict.fromkeys(members, top))
        for node in self.graph.nodes:
            level[node] = max(level[node], self._level(node, level))

    def _put_off(self, executed: list[Node], level: dict[Node, int]) -> None:
        """Deferred gradients come last, one after the other, each followed by what depends on it alone."""
        if not self.deferred:
            return
        last = max(level.values()) + 1
        for number, chain in enumerate(self.deferred):
            level.update(dict.fromkeys(chain, last + 2 * number))
        for node in self.graph.nodes:
            level[node] = max(level[node], self._level(node, level))
        self._postpone(executed, level)

    def _parts(self, executed: list[Node], level: dict[Node, int]) -> dict[Node, int]:
        """0 before, 1 among, 2 after the work on evaluations, 3... chained folds; within a level and a point set.

        What a fold starts from ties it to nothing else: a chain may link the evaluations of different places.
        """
        part: dict[Node, int] = {}
        rows = [n for n in executed if self.exec_axes(n)]
        key = {n: (level[n], self._space(n)) for n in rows}
        after: set[Node] = set()
        for node in rows:
            operands = [o for o in node.operands if o is not accumulator(node)]
            if self.inner(node) or any(_same(o, key, node) and root(o) in after for o in operands):
                after.add(node)
        before: set[Node] = set()
        for node in reversed(rows):
            users = [u for u in self.executed_users(node) if u in key and key[u] == key[node]]
            if self.inner(node) or any(u in before for u in users if accumulator(u) is not node):
                before.add(node)
        for node in rows:
            if node in after and node in before:
                part[node] = 1
            else:
                part[node] = 2 if node in after else 0
        for node in reversed(rows):  # cheap work moves to its only readers (see `rematerialise`)
            users = [u for u in self.executed_users(node) if key.get(u) == key[node]]
            if part[node] == 0 and node.op in CHEAP and len(users) == len(self.executed_users(node)) and users:
                made_of = {root(o) for o in node.operands if root(o) in part}
                to = min(part[u] for u in users)
                if (
                    sum(max((part[u] for u in self.executed_users(o) if u in part), default=0) < to for o in made_of)
                    <= 1
                ):
                    part[node] = to
        for node in rows:
            start = accumulator(node)
            if start is not None and key.get(start) == key[node] and self._reduces(start) and part[start] >= part[node]:
                part[node] = max(2, part[start]) + 1  # adds to what is complete only when that loop has ended
        return part

    def executed_users(self, node: Node) -> list[Node]:
        """Operations that read the value, through views or not."""
        out: list[Node] = []
        stack = list(self.graph.users(node))
        while stack:
            user = stack.pop()
            if user.op in VIEWS:
                stack += self.graph.users(user)
            else:
                out.append(user)
        return out

    def _order(self, groups: dict[tuple[int, ...], list[Node]], level: dict[Node, int]) -> list[tuple[int, ...]]:
        """Group keys in an order that respects every dependency, accumulator chains included."""
        owner = {n: k for k, nodes in groups.items() for n in nodes}
        dag = nx.DiGraph()
        dag.add_nodes_from(groups)
        for node, key in owner.items():
            for operand in node.operands:
                source = owner.get(root(operand))
                if source is not None and source != key:
                    dag.add_edge(source, key)
        for members in nx.strongly_connected_components(dag):
            if len(members) > 1:
                self._split(groups, members)
                return self._order(groups, level)
        return list(nx.lexicographical_topological_sort(dag, key=lambda k: k))

    def _split(self, groups: dict[tuple[int, ...], list[Node]], members: set[tuple[int, ...]]) -> None:
        """Of groups that wait for each other, one in two: gradients may be added over sets of points in any orders.

        Its second part is what waits for the others; of all groups, the one that has least of it.
        """
        owner = {n: k for k in sorted(members) for n in groups[k]}
        waiting: dict[Node, set[tuple[int, ...]]] = {}  # for which of the groups
        for node in self.graph.nodes:
            found = set().union(*(waiting[o] | ({owner[o]} if o in owner else set()) for o in node.operands))
            waiting[node] = found
        late = {k: [n for n in groups[k] if waiting[n] - {k}] for k in sorted(members)}
        key = min((k for k in members if 0 < len(late[k]) < len(groups[k])), key=lambda k: (len(late[k]), k))
        level, rows, _, space = key
        last = max(k[2] for k in groups if k[:2] == (level, rows))
        groups[key] = [n for n in groups[key] if n not in set(late[key])]
        groups[level, rows, last + 1, space] = late[key]

    # ---- units

    def _row_unit(self, nodes: list[Node], key: tuple[int, ...]) -> None:
        points = next((p for p in map(self._points, nodes) if p is not None), None)
        has_inner = any(self.inner(n) for n in nodes)
        unit = Unit(
            "evaluations" if has_inner else "points", points, name=f"space {key[3]} level {key[0]} part {key[2]}"
        )
        if not has_inner:
            unit.sweeps.append(Sweep((), nodes))
        else:
            phase: dict[Node, int] = {}
            sweeps: dict[tuple[int, int], Sweep] = {}
            for node in nodes:
                axes = self.inner(node)
                at = 0
                for operand in node.operands:
                    source = root(operand)
                    if source in phase and operand is not accumulator(node):
                        at = max(at, phase[source] + self.folds(source))
                phase[node] = at
            self._delay(nodes, phase)
            nest = max((self.inner(n) for n in nodes), key=len)
            if self._may_repeat:
                self.per_sign |= done_per_sign(self, nodes, phase, nest)
            for node in nodes:
                axes = nest if node in self.per_sign else self.inner(node)
                sweep = sweeps.setdefault((phase[node], len(axes)), Sweep(axes))
                if sweep.axes != axes:
                    raise IRError("operations over different evaluation axes are mixed", location=node.loc)
                sweep.nodes.append(node)
            unit.sweeps = [sweeps[k] for k in sorted(sweeps)]
        self.units.append(unit)

    def folds(self, node: Node) -> bool:
        """Whether the op folds an evaluation axis away: it is complete only after the loop over it."""
        own = {t for t in self.tags(node) if t is not None}
        return any(a not in own for a in self.inner(node))

    def _delay(self, nodes: list[Node], phase: dict[Node, int]) -> None:
        """Move work to the sweep that needs it when fewer bytes then have to be kept from sweep to sweep."""

        def last_use(value: Node, without: Node) -> int:
            return max((phase[u] for u in self.executed_users(value) if u in phase and u is not without), default=-1)

        for node in reversed(nodes):
            users = [u for u in self.executed_users(node) if u in phase]
            if node in self.again:
                phase[node] = min(phase[u] for u in users)
                continue
            if not users or node.op in CONTRACTIONS or node.op in REDUCTIONS:
                continue
            later = min(phase[u] - (len(self.inner(u)) < len(self.inner(node))) for u in users)
            if later <= phase[node] or len(users) != len(self.executed_users(node)):
                continue
            made = {root(o) for o in node.operands if root(o) in phase and self.inner(root(o))}
            new = sum(storage_bytes(o) for o in made if last_use(o, node) < later)
            if new <= storage_bytes(node):
                phase[node] = later

    def _global_units(self, nodes: list[Node]) -> None:
        """Straight code for small tensors; a loop over rows for element-wise work on large ones."""
        looped = [n for n in nodes if self._large(n)]
        clusters = nx.Graph()
        clusters.add_nodes_from(looped)
        for node in looped:
            for operand in node.operands:
                source = operand
                if source in clusters and source.type.shape == node.type.shape:
                    clusters.add_edge(node, source)
                for user in self.graph.users(operand):
                    if (
                        user in clusters
                        and user is not node
                        and operand.type.shape == node.type.shape == user.type.shape
                    ):
                        clusters.add_edge(node, user)
        member = {n: i for i, c in enumerate(nx.connected_components(clusters)) for n in c}
        dag = nx.DiGraph()
        ids = {n: ("loop", member[n]) if n in member else ("node", i) for i, n in enumerate(nodes)}
        order: dict[tuple[str, int], int] = {}
        for i, node in enumerate(nodes):
            order.setdefault(ids[node], i)
            dag.add_node(ids[node])
            for operand in node.operands:
                source = root(operand)
                if source in ids and ids[source] != ids[node]:
                    dag.add_edge(ids[source], ids[node])
        try:
            sequence = list(nx.lexicographical_topological_sort(dag, key=lambda k: order[k]))
        except nx.NetworkXUnfeasible:  # a cluster that depends on itself through other work: take it apart
            self._straight(nodes)
            return
        pending: list[Node] = []
        by_id: dict[tuple[str, int], list[Node]] = defaultdict(list)
        for node in nodes:
            by_id[ids[node]].append(node)
        for key in sequence:
            if key[0] == "node":
                pending += by_id[key]
                continue
            self._straight(pending)
            pending = []
            self._parameter_unit(by_id[key])
        self._straight(pending)

    def _straight(self, nodes: list[Node]) -> None:
        if nodes:
            self.units.append(Unit("global", None, [Sweep((), list(nodes))], name="straight"))

    def _large(self, node: Node) -> bool:
        shape = node.operands[0].type.shape if node.op == "quantize" else node.type.shape
        fits = node.op in ELEMENTWISE or (node.op == "quantize" and node.type.rank == 2)
        return fits and len(shape) >= 2 and 4 * node.type.size > self.whole and shape[0] > 4

    def _parameter_unit(self, nodes: list[Node]) -> None:
        shape = nodes[0].type.shape
        axis = RowAxis(1_000_000 + len(self.units), "rows", shape[0])
        self.units.append(Unit("parameter", axis, [Sweep((), nodes)], name=f"rows of {nodes[0].name}", shape=shape))


def storage_bytes(node: Node) -> int:
    """Bytes of a value in memory, exponents included."""
    return node.type.size * 4 if not node.type.is_smx else node.type.size * node.type.bits // 8 + node.type.size // 16


def _is_leaf(node: Node) -> bool:
    return node.op == "const"


def _same(operand: Node, key: dict[Node, tuple[int, int]], node: Node) -> bool:
    return root(operand) in key and key[root(operand)] == key[node]


def accumulator(node: Node) -> Node | None:
    """The operand a contraction adds onto, if any."""
    return node.operands[2] if node.op in CONTRACTIONS and len(node.operands) == 3 else None
