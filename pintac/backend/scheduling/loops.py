"""Units as loops over their rows: full groups of tiles, remainders, nests over evaluations, pipelined points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from pintac.backend.bodies.deferred import Tiles, deferred_unit
from pintac.backend.bodies.folds import Folds
from pintac.backend.bodies.placement import Context, Position
from pintac.backend.bodies.tiling import Tiling, tile_of
from pintac.backend.bodies.values import Body
from pintac.backend.grouping.axes import RowAxis
from pintac.backend.grouping.fuse import Step
from pintac.backend.grouping.kinds import root
from pintac.backend.grouping.units import Sweep, Unit
from pintac.backend.scheduling.kernels import Fused
from pintac.backend.scheduling.regions import Regions
from pintac.backend.scheduling.stages import Stage, held_values, stages_of, stored_behind_nests, windows
from pintac.backend.scheduling.turned import turn, turned_loop
from pintac.backend.tiles.tile import Buffer, Item, Loop, TileOp, View
from pintac.backend.tiles.views import compact_view
from pintac.backend.ways import WayError
from pintac.ir import Node
from pintac.isa import LOOP_LEVELS, Space

SMALL_KERNEL = 8
"""Cycles of a vector instruction over one row of a point, near enough."""


@dataclass(frozen=True)
class Part:
    """What one sweep contributes to a loop body: its steps, and the bodies around it, one a point."""

    steps: Sequence[Step]
    outers: Sequence[Body]


class Loops:
    """Makes the loops of one entry: `bodies` makes the operations, `regions` puts them in order."""

    def __init__(self, fused: Fused, bodies: Folds, regions: Regions) -> None:
        self.fused = fused
        self.bodies = bodies
        self.regions = regions
        self.units = fused.units
        self.tiling = bodies.choices.tiling
        self.machine = bodies.machine

    def of_unit(self, unit: Unit) -> list[Item]:
        """A unit with what comes before and behind its loops."""
        if unit.kind == "evaluations":
            return self._evaluations(unit)
        if unit.kind == "deferred":
            return self._deferred(unit)
        (sweep,) = unit.sweeps
        steps, before = self.fused.steps[sweep], Body(unit)
        items: list[Item] = []
        if unit.axis is None:
            body = Body(unit, parent=before)
            self.bodies.begin(sweep, body)
            self.bodies.run(steps, [body])
            self.bodies.end(sweep, body)
            return [*before.ops, *body.ops]
        self.bodies.begin(sweep, before)
        found = self._turned(unit, steps, unit.axis, before) if unit.kind == "points" else None
        if found is not None:
            items += found
        else:
            for loop in self._tiles(unit, [Part(steps, [before])], unit.axis, self._tile(sweep, unit, unit.axis)):
                items += loop
        after = Body(unit, local=before.local)
        self.bodies.end(sweep, after)
        return [*before.ops, *items, *after.ops]

    def _turned(self, unit: Unit, steps: Sequence[Step], axis: RowAxis, before: Body) -> list[Item] | None:
        """A loop over points with one tile of a body half a turn behind; None where none can be."""
        tiling = self._tile(unit.sweeps[0], unit, axis)
        at = turn(axis.size, tiling.rows, tiling.interleave)
        if at is None:
            return None
        return turned_loop(at, steps, axis, before, self.bodies, lambda ops, trips: self._ordered(unit, ops, trips))

    def _deferred(self, unit: Unit) -> list[Item]:
        """A gradient in loops of its own."""

        def operand(node: Node) -> View:
            home = self.bodies.global_home[root(node)]
            return compact_view(home.buffer, root(node).shape)

        chain = tuple(unit.nodes)
        return deferred_unit(
            chain,
            self.bodies.global_home[chain[0]].buffer,
            operand,
            Tiles().halved(self.tiling.halved.count(unit.name)),
            self.machine.sram_kib * 1024,
            lambda buffer: self.bodies.unit_of.update({buffer: unit}),
            lambda ops, trips: self._ordered(unit, ops, trips),
        )

    # ---- loops over points around sweeps over evaluations

    def _evaluations(self, unit: Unit) -> list[Item]:
        """A loop over points whose body sweeps over the evaluations of a point, stage by stage."""
        stages, before = stages_of(unit), Body(unit)
        if unit.axis is None:
            return self._iteration([(stage, [before]) for stage in stages], 0)
        axis = unit.axis
        for sweep in unit.sweeps:
            self.bodies.begin(sweep, before, only_global=True)
        items: list[Item] = []
        together = self.bodies.together[unit]
        count, rest = divmod(axis.size, together)

        def points(stage: int, start: int, trips: int) -> list[Body]:
            """The points of the iteration `start` behind the one that a loop of `trips` counts; 0: the last points."""
            step, level, often = (together, 0, trips) if trips else (0, -1, 1)
            at = [Position(0, step, start * together + i, 1, i) for i in range(together if trips else rest)]
            return [
                Body(unit, {axis: position}, i, level, parent=before, stage=stage, trips=often)
                for i, position in enumerate(at)
            ]

        held = held_values(unit, self.units, self.bodies.unit_home, count) if self.tiling.pipelined else None
        if held is None:
            bodies = points(0, 0, count)
            items.append(Loop(0, count, self._iteration([(s, bodies) for s in stages], 1), str(axis)))
        else:
            for node in stored_behind_nests(unit, self.units):
                home = self.bodies.unit_home.get(node)
                if home is not None and node in self.bodies.global_home and home.buffer.space == Space.SRAM:
                    home.buffer.ring = 2 - self.tiling.tight  # the next point need not wait for the store
            self.bodies.hold(held, unit)
            for window in windows(len(stages), count):
                active = [(stages[n], points(n, start, window.count)) for n, start in sorted(window.starts.items())]
                items.append(Loop(0, window.count, self._pipelined(active[::-1], held), str(axis)))
        if rest:
            bodies = points(0, count, 0)
            items += self._iteration([(s, bodies) for s in stages], 0)
        after = Body(unit, local=before.local)
        for sweep in unit.sweeps:
            self.bodies.end(sweep, after, only_global=True)
        return [*before.ops, *items, *after.ops]

    def _iteration(self, stages: Sequence[tuple[Stage, list[Body]]], level: int) -> list[Item]:
        """All stages of the points of an iteration, one after the other."""
        items: list[Item] = []
        for stage, points in stages:
            for sweep in (*stage.before, stage.nest, *stage.after):
                items += self._sweep(sweep, points, level)
        return items

    def _pipelined(
        self, active: Sequence[tuple[Stage, list[Body]]], held: Mapping[Node, tuple[int, int]]
    ) -> list[Item]:
        """Stages of different points, their nests in one loop, in this order: the stage of earlier points first."""
        items: list[Item] = []
        for stage, points in active:
            for sweep in stage.before:
                items += self._sweep(sweep, points, 1)
        for stage, points in active:
            for point in points:
                self.bodies.begin(stage.nest, point)
        items += self._nest([(stage.nest, points) for stage, points in active], 1)
        for stage, points in active:
            for point in points:
                self.bodies.end(stage.nest, point)
                for node, (first, last) in held.items():
                    if first <= stage.number < last:
                        self.bodies.pass_on(node, point)
            items += self._take(points)
            for sweep in stage.after:
                items += self._sweep(sweep, points, 1)
        return items

    def _sweep(self, sweep: Sweep, points: list[Body], level: int) -> list[Item]:
        """One sweep of the points of an iteration with the start values before it and the stores after it."""
        for point in points:
            self.bodies.begin(sweep, point)
        if not sweep.axes:
            self.bodies.run(self.fused.steps[sweep], points)
            return list(self._take(points))
        items = self._nest([(sweep, points)], level)
        for point in points:
            self.bodies.end(sweep, point)
        return [*items, *self._take(points)]

    def _nest(self, sweeps: Sequence[tuple[Sweep, list[Body]]], level: int) -> list[Item]:
        """Loops over the evaluations of points; several sweeps (of different points) share them tile by tile."""
        axes = sweeps[0][0].axes
        points = [point for _, found in sweeps for point in found]
        unit, trips = points[0].unit, points[0].trips
        tilings = [self._tile(sweep, unit, axes[-1]) for sweep, _ in sweeps]
        tiling = replace(tilings[0], rows=min(t.rows for t in tilings), interleave=min(t.interleave for t in tilings))
        parts = [Part(self.fused.steps[sweep], found) for sweep, found in sweeps]
        if self.bodies.together[unit] > 1:  # in the order of the points, each with all its evaluations
            places = [[Position(level, 0, i, 1) for i in range(axis.size)] for axis in axes[:-1]]
            size, rows = axes[-1].size, tiling.rows
            places.append([Position(level, 0, i, min(rows, size - i)) for i in range(0, size, rows)])
            tiles = [dict(zip(axes, at, strict=True)) for at in product(*places)]
            body = self._body(unit, parts, level - 1, tiles, trips)
            return [*self._take(points), *body]
        outside: dict[RowAxis, Position] = {}
        wraps = []
        for axis in axes[:-1]:
            outside[axis] = Position(level, 1, 0, 1)
            wraps.append(Loop(level, axis.size, name=str(axis)))
            trips *= axis.size
            level += 1
        if level >= LOOP_LEVELS:
            raise WayError("the loop nest is deeper than the machine's loops", location=sweeps[0][0].nodes[0].loc)
        items: list[Item] = []
        for loop_body in self._tiles(unit, parts, axes[-1], tiling, level, trips, outside):
            items += loop_body
        for loop in reversed(wraps):
            loop.body = items
            items = [loop]
        return [*self._take(points), *items]

    def _take(self, points: list[Body]) -> list[TileOp]:
        """The operations collected for the points of an iteration, out of their bodies."""
        ops = [op for point in points for op in point.ops]
        for point in points:
            point.ops.clear()
        unit, trips = points[0].unit, points[0].trips
        return self.regions.between(unit, ops, trips if trips == 1 or not self._pause(unit) else 0)

    # ---- loop bodies

    def _tile(self, sweep: Sweep, unit: Unit, axis: RowAxis) -> Tiling:
        return tile_of(self.tiling, self.units, unit, sweep, axis)

    def _tiles(
        self,
        unit: Unit,
        parts: Sequence[Part],
        axis: RowAxis,
        tiling: Tiling,
        level: int = 0,
        trips: int = 1,
        outside: Context | None = None,
    ) -> Iterator[list[Item]]:
        """Bodies that cover an axis: a loop over full groups of tiles, then the remainder."""
        group = tiling.rows * tiling.interleave
        full, rest = divmod(axis.size, group)

        def body(step: int, tiles: list[tuple[int, int]], trips: int) -> list[TileOp]:
            at = [{**(outside or {}), axis: Position(level, step, start, extent)} for start, extent in tiles]
            return self._body(unit, parts, level if step else level - 1, at, trips)

        if full:
            tiles = [(i * tiling.rows, tiling.rows) for i in range(tiling.interleave)]
            ops = body(group if full > 1 else 0, tiles, trips * full)
            yield [Loop(level, full, list(ops), name=str(axis))] if full > 1 else list(ops)
        if rest:
            tiles = [(full * group + i, min(tiling.rows, rest - i)) for i in range(0, rest, tiling.rows)]
            yield list(body(0, tiles, trips))

    def _body(
        self, unit: Unit, parts: Sequence[Part], level: int, tiles: Sequence[Context], trips: int
    ) -> list[TileOp]:
        """The operations of a loop body at `level`: those of every part for every point at the places `tiles`."""
        ops: list[TileOp] = []
        for part in parts:
            bodies: list[Body] = []
            common: dict[Node, Buffer] = {}
            for outer in part.outers:
                stage = outer.stage
                outside = {a: tiles[0][a] for a in list(tiles[0])[:-1] if len({t[a] for t in tiles}) == 1}
                context = {**outer.context, **outside}
                group = Body(unit, context, 0, level, ops, parent=outer, group=True, common=common, stage=stage)
                around = self.bodies.folded_together(part.steps, tiles, group, len(bodies))
                for tile, parent in zip(tiles, around, strict=True):
                    at = {**outer.context, **tile}
                    bodies.append(Body(unit, at, len(bodies), level, ops, parent=parent, stage=stage))
            self.bodies.run(part.steps, bodies)
        return self._ordered(unit, ops, trips, max(1, trips // parts[0].outers[0].trips))

    def _ordered(self, unit: Unit, ops: list[TileOp], trips: int, turns: int = 1) -> list[TileOp]:
        """The operations of a body that runs `trips` times in order; after `turns` of these an outer loop goes on."""
        if trips < 2:
            return self.regions.straight(unit, ops)
        return self.regions.loop_body(unit, ops, trips, turns, self._pause(unit), self._read_between_nests(unit))

    def _pause(self, unit: Unit) -> int:
        """Cycles of the vector unit, near enough, between the nests of the points of an iteration."""
        each = self.machine.vpu_pipeline_cycles + self.bodies.together[unit] * SMALL_KERNEL
        return self.fused.kernels_between_nests(unit) * each

    def _read_between_nests(self, unit: Unit) -> frozenset[Buffer]:
        """What the work between the nests of a point reads of them."""
        nests, homes = set(unit.nests), self.bodies.unit_home
        read = {root(value) for sweep in unit.between_nests for node in sweep.nodes for value in node.operands}
        return frozenset(homes[v].buffer for v in read if v in homes and self.units.of[v][1] in nests)
