"""From a graph to the tile schedule: loops over rows, and what comes before and after each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pintac.backend import vpu
from pintac.backend.axes import RowAxis
from pintac.backend.bodies import Bodies, Body, start_of
from pintac.backend.fuse import Fuser, Step
from pintac.backend.order import order
from pintac.backend.placement import Context, Home, Position
from pintac.backend.tile import Buffer, CopyOp, Item, Loop, TileOp
from pintac.backend.units import Sweep, Unit, Units, accumulator
from pintac.backend.views import compact_view, narrow
from pintac.errors import DoesNotFitError, IRError
from pintac.ir import Graph, Node
from pintac.isa import LOOP_LEVELS, Space
from pintac.machine import Machine


@dataclass(frozen=True)
class Tiling:
    """Rows of a tile, and tiles interleaved in a loop body."""

    rows: int = 32
    interleave: int = 4
    point_rows: int = 32
    """Rows of a tile in loops over points alone: forward and backward of base rows need the most room a row."""


class Scheduler(Bodies):
    """Builds the tile schedule of one entry (`Bodies` and `Placement` say what the arguments are).

    `earlier` is a failed attempt for the same graph and machine, whose units and kernels are taken over.
    """

    def __init__(
        self,
        graph: Graph,
        machine: Machine,
        leaves: Mapping[Node, Buffer],
        outputs: Mapping[str, Buffer],
        tiling: Tiling,
        spilled: frozenset[Node],
        not_in_psum: frozenset[Node] = frozenset(),
        earlier: Scheduler | None = None,
    ) -> None:
        units = earlier.units if earlier is not None else Units(graph)
        super().__init__(graph, machine, units, leaves, outputs, spilled, not_in_psum)
        self.tiling = tiling
        self._fused: dict[Sweep, list[Step]] = earlier._fused if earlier is not None else {}

    # ---- units

    def build(self) -> list[Item]:
        """The tile schedule of the entry."""
        items: list[Item] = []
        for unit in self.units.units:
            items += self._unit(unit)
        return items

    def _steps(self, sweep: Sweep, unit: Unit) -> list[Step]:
        if sweep in self._fused:
            return self._fused[sweep]
        inside = set(sweep.nodes)

        def external(node: Node) -> bool:
            return (
                node in self.unit_home
                or node in self.global_home
                or node in self.outputs_of
                or any(u not in inside for u in self._users(node))
            )

        known = set(self.graph.nodes)
        fuser = Fuser(
            sweep.nodes,
            lambda n: self._key(n, unit),
            lambda n: n in known and external(n),
            self.machine.vpu_max_micro_ops,
        )
        self._fused[sweep] = fuser.steps()
        self.units.standins |= fuser.standins
        return self._fused[sweep]

    def _unit(self, unit: Unit) -> list[Item]:
        outer = Body(unit, {}, 0, -1, [], {})
        if unit.kind == "evaluations":
            return self._evaluations(unit, outer)
        sweep = unit.sweeps[0]
        steps = self._steps(sweep, unit)
        items: list[Item] = []
        if unit.axis is None:
            body = Body(unit, {}, 0, -1, [], {}, outer)
            self._begin(sweep, unit, body)
            self._run(steps, [body])
            self._end(sweep, unit, body)
            return [*outer.ops, *body.ops]
        self._begin(sweep, unit, outer)
        tiling = self._tiling(unit, sweep, unit.axis)
        for loop in self._tiles(unit, steps, outer, {}, unit.axis, 0, tiling):
            items += loop
        after = Body(unit, {}, 0, -1, [], outer.local)
        self._end(sweep, unit, after)
        return [*outer.ops, *items, *after.ops]

    def _evaluations(self, unit: Unit, outer: Body) -> list[Item]:
        """A loop over points whose body sweeps over the evaluations of a point, phase by phase."""
        context: dict[RowAxis, Position] = {}
        level = 0
        if unit.axis is not None:
            context[unit.axis] = Position(0, 1, 0, 1)
            level = 1
        inner: list[Item] = []
        point = Body(unit, context, 0, level - 1, [], {}, outer) if unit.axis is not None else outer
        for sweep in unit.sweeps:
            steps = self._steps(sweep, unit)
            if unit.axis is not None:
                self._begin(sweep, unit, outer, only_global=True)
            self._begin(sweep, unit, point)
            if not sweep.axes:
                self._run(steps, [point])
                inner += self._take(point)
                continue
            items: list[Item] = []
            at, depth, wraps = dict(context), level, []
            for axis in sweep.axes[:-1]:
                at[axis] = Position(depth, 1, 0, 1)
                wraps.append(Loop(depth, axis.size, name=str(axis)))
                depth += 1
            last = sweep.axes[-1]
            tiling = self._tiling(unit, sweep, last)
            if depth >= LOOP_LEVELS:
                raise IRError("the loop nest is deeper than the machine's loops", location=sweep.nodes[0].loc)
            for body in self._tiles(unit, steps, point, at, last, depth, tiling):
                items += body
            for loop in reversed(wraps):
                loop.body = items
                items = [loop]
            inner += self._take(point) + items
            self._end(sweep, unit, point)
            inner += self._take(point)
        if unit.axis is None:
            return inner
        after = Body(unit, {}, 0, -1, [], outer.local)
        for sweep in unit.sweeps:
            self._end(sweep, unit, after, only_global=True)
        return [*outer.ops, Loop(0, unit.axis.size, inner, name=str(unit.axis)), *after.ops]

    def _take(self, body: Body) -> list[TileOp]:
        ops = order(body.ops, self.machine)
        body.ops.clear()
        return ops

    def _tiling(self, unit: Unit, sweep: Sweep, axis: RowAxis) -> Tiling:
        """Rows of a tile: fewer where a value has several rows (a factor axis) for each row of `axis`."""
        factor = width = 1
        for node in sweep.nodes:
            for value in (node, *node.operands):
                tags = self.units.tags(value, unit)
                if axis in tags:
                    rest = value.type.shape[tags.index(axis) + 1 :]
                    n = 1
                    for size in rest[:-1]:
                        n *= size
                    factor = max(factor, n)
                    width = max(width, n * (rest[-1] if rest else 1))
        most = self.tiling.point_rows if unit.kind == "points" else self.tiling.rows
        rows = max(4, most // factor // 4 * 4)
        if unit.kind == "parameter":
            return Tiling(max(4, min(1024, 2048 // width // 4 * 4)), 2)
        if unit.kind == "points":
            return Tiling(rows, 1)
        return Tiling(rows, self.tiling.interleave)

    def _tiles(
        self, unit: Unit, steps: list[Step], outer: Body, context: Context, axis: RowAxis, level: int, tiling: Tiling
    ) -> Iterator[list[Item]]:
        """Bodies that cover an axis: a loop over full groups of tiles, then the remainder."""
        group = tiling.rows * tiling.interleave
        full, rest = divmod(axis.size, group)
        if full:
            tiles = [(i * tiling.rows, tiling.rows) for i in range(tiling.interleave)]
            ops = self._body(unit, steps, outer, context, axis, level, group if full > 1 else 0, tiles)
            yield [Loop(level, full, list(ops), name=str(axis))] if full > 1 else list(ops)
        if rest:
            tiles = [(full * group + i, min(tiling.rows, rest - i)) for i in range(0, rest, tiling.rows)]
            yield list(self._body(unit, steps, outer, context, axis, level, 0, tiles))

    def _body(
        self,
        unit: Unit,
        steps: list[Step],
        outer: Body,
        context: Context,
        axis: RowAxis,
        level: int,
        step: int,
        tiles: list[tuple[int, int]],
    ) -> list[TileOp]:
        shared: list[TileOp] = []
        innermost = level if step else level - 1
        bodies = []
        group = Body(unit, context, 0, innermost, shared, {}, outer, group=True)
        for i, (start, extent) in enumerate(tiles):
            at = {**context, axis: Position(level, step, start, extent)}
            bodies.append(Body(unit, at, i, innermost, shared, {}, group))
        self._run(steps, bodies)
        self.chunked.clear()
        return order(shared, self.machine)

    # ---- accumulators

    def _begin(self, sweep: Sweep, unit: Unit, body: Body, only_global: bool = False) -> None:
        """Start values of what the sweep folds, before the loops that fold it."""
        for node in sweep.nodes:
            if not self._starts_here(node, unit, sweep, only_global):
                continue
            acc = accumulator(node)
            if acc is not None and self.global_home.get(acc) == self.global_home.get(node):
                continue
            home = self.unit_home.get(node) or self.global_home[node]
            if home.buffer.space == Space.DRAM:
                if acc is not None:
                    raise DoesNotFitError(
                        f"%{node.name} accumulates onto another value and is too large for SRAM", location=node.loc
                    )
                self._clear_spilled(node, home, body)
                continue
            view = self._stored_view(node, node, home, unit, body.context)
            if acc is not None:
                body.ops += vpu.copy(self.view(acc, body), view, f"start {node.name}", node.loc)
                continue
            body.ops += start_of(node, view)

    def _starts_here(self, node: Node, unit: Unit, sweep: Sweep, only_global: bool) -> bool:
        """Whether `node` is a fold over rows that starts before these loops."""
        if node.op not in {"matmul_tn", "sum", "amax"}:
            return False
        missing = self._context_axes(unit, sweep) - self._own_axes(node, unit)
        if not missing:
            return False  # one tile folds it whole: see `_kernel`
        over_points = unit.axis in missing if unit.axis is not None else False
        if unit.kind == "evaluations" and unit.axis is not None and over_points != only_global:
            return False
        return self._accumulates(node)

    def _clear_spilled(self, node: Node, home: Home, body: Body) -> None:
        """Zeros over an accumulator that lives in DRAM, part by part."""
        view = compact_view(home.buffer, node.type.shape)
        for start, cols in self._accumulator_parts(node):
            part = narrow(view, 1, start, cols)
            buffer = Buffer(f"{node.name}.zero{start}", part.shape[0] * cols)
            local = compact_view(buffer, part.shape)
            body.ops += vpu.fill(0.0, local, f"start {node.name}", node.loc)
            body.ops.append(CopyOp(f"start {node.name}", node.loc, local, part))

    def _end(self, sweep: Sweep, unit: Unit, body: Body, only_global: bool = False) -> None:
        """Stores of what the sweep folded, after the loops that fold it."""
        for node in sweep.nodes:
            context = self._context_axes(unit, sweep)
            own = self._own_axes(node, unit)
            if own == context:
                continue
            over_points = unit.axis in context - own if unit.axis is not None else False
            if unit.kind == "evaluations" and unit.axis is not None and over_points != only_global:
                continue
            home = self.unit_home.get(node) or self.global_home.get(node)
            if node.op == "matmul_tn" and home is not None and home.buffer.space == Space.DRAM:
                if node in self.outputs_of:
                    raise DoesNotFitError(f"the output %{node.name} is too large for SRAM", location=node.loc)
                continue
            self._stores(node, body)
