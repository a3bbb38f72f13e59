"""From a graph to the tile schedule: loops over rows, and what comes before and after each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from pintac.backend.bodies.choices import Choices, Entry
from pintac.backend.bodies.deferred import Tiles, deferred_unit
from pintac.backend.bodies.folds import Folds
from pintac.backend.bodies.placement import Context, Position
from pintac.backend.bodies.tiling import Tiling, points_together, tile_of
from pintac.backend.bodies.values import Body
from pintac.backend.grouping.axes import RowAxis
from pintac.backend.grouping.fuse import Fuser, KernelStep, NodeStep, Step
from pintac.backend.grouping.kinds import root
from pintac.backend.grouping.units import Sweep, Unit, Units
from pintac.backend.ordering.order import Ordered, Search, order
from pintac.backend.ordering.repeat import repeated
from pintac.backend.ordering.straight import joined
from pintac.backend.scheduling.stages import Stage, held_values, stages_of, stored_behind_nests, windows
from pintac.backend.scheduling.turned import Turn, crossing, middle, turn
from pintac.backend.tiles import vpu
from pintac.backend.tiles.costs import cost, work
from pintac.backend.tiles.tile import Buffer, Item, Loop, TileOp, View
from pintac.backend.tiles.views import compact_view
from pintac.backend.ways import WayError
from pintac.ir import Node
from pintac.ir.types import SMX_BLOCK
from pintac.isa import LOOP_LEVELS, Space

TRIES = 16
"""Random changes of the best list schedule of a loop body."""
SMALL_KERNEL = 8
"""Cycles of a vector instruction over one row of a point, near enough."""
HOT = 2000
"""Cycles that all runs of a loop body must take for a long search for its order to be worth it."""
SHARE = 0.01
"""Part of the cycles of the entry that they must take."""
WARM = 0.1
"""Of the cycles that a loop body must take for a long search, those that straight code must."""
LEAST_HALF = 4
"""Tiles from which on half of a loop body is ordered first."""
WHOLE_PARAMETERS = 24
"""Parameters up to this part of SRAM are worked on whole: their transfers then lie beside other work."""


@dataclass(frozen=True)
class Part:
    """What one sweep contributes to a loop body: its steps, and the bodies around it, one a point."""

    steps: list[Step]
    outers: Sequence[Body]


class Scheduler(Folds):
    """Builds the tile schedule of one entry.

    `earlier` is another attempt for the same entry, whose units and kernels are taken over; `moves` says how long the
    orders of loop bodies are searched for, `straight` whether those of straight code are, too. Afterwards `own` are the
    buffers that hold what belongs to one loop body alone, `loose` those of straight code, `largest` the most bytes of
    one such buffer, by name of unit or straight code, `smallest` the units over points or
    parameters whose tiles cannot get smaller, `predicted` the cycles that the loops should take by the costs that
    orders are chosen by, and `hot` says whether a longer search would look at any loop body.
    """

    def __init__(
        self,
        entry: Entry,
        choices: Choices,
        earlier: Scheduler | None = None,
        moves: int = 0,
        straight: bool = True,
    ) -> None:
        tiling = choices.tiling
        self.predicted = 0
        self.least = max(HOT, SHARE * (earlier.predicted if earlier is not None else 0))
        whole = entry.machine.sram_kib * 1024 // WHOLE_PARAMETERS if choices.whole is None else choices.whole
        wanted = (choices.deferred, tiling.unrolled, whole)
        if earlier is not None and (earlier.units.deferred, earlier.units.unrolled, earlier.units.whole) == wanted:
            units = earlier.units
        else:
            per_sign = tiling.per_sign
            units, earlier = Units(entry.graph, whole, choices.deferred, tiling.unrolled, entry.again, per_sign), None
        super().__init__(entry, choices, units, {unit: points_together(tiling, units, unit) for unit in units.units})
        self.moves = moves
        self.straight = straight
        self.own: dict[Buffer, Unit] = {}
        self.loose: dict[Buffer, Unit] = {}
        self.largest: dict[str, int] = {}
        self.smallest: dict[str, bool] = {}
        self.hot = False
        self._once: dict[TileOp, int] = {}  # cycles of straight code, by its first operation
        self._fused: dict[Sweep, list[Step]] = earlier._fused if earlier is not None else {}

    # ---- units

    def build(self) -> list[Item]:
        """The tile schedule of the entry."""
        items: list[Item] = []
        for unit in self.units.units:
            items += self._unit(unit)
        if self.moves and self.straight:
            worth = WARM * self.least
            items, change = joined(items, self.machine, self.moves, worth, self._once, self.predicted)
            self.predicted += change
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
        if unit.kind == "deferred":
            return self._deferred(unit)
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
        turned = turn(unit.axis.size, tiling.rows, tiling.interleave) if unit.kind == "points" else None
        found = self._turned(unit, steps, outer, unit.axis, turned) if turned is not None else None
        if found is not None:
            items += found
        else:
            for loop in self._tiles(unit, [Part(steps, [outer])], unit.axis, 0, tiling):
                items += loop
        after = Body(unit, {}, 0, -1, [], outer.local)
        self._end(sweep, unit, after)
        return [*outer.ops, *items, *after.ops]

    def _evaluations(self, unit: Unit, outer: Body) -> list[Item]:
        """A loop over points whose body sweeps over the evaluations of a point, stage by stage."""
        stages = stages_of(unit)
        if unit.axis is None:
            return self._iteration(unit, [(s, [outer]) for s in stages], 0)
        for sweep in unit.sweeps:
            self._begin(sweep, unit, outer, only_global=True)
        items: list[Item] = []
        together = self.together[unit]
        count, rest = divmod(unit.axis.size, together)

        def points(stage: int, start: int, trips: int) -> list[Body]:
            """The points of the iteration `start` behind the one that a loop of `trips` counts; 0: the last points."""
            step = together if trips else 0
            at = [Position(0, step, start * together + i, 1, i) for i in range(together if trips else rest)]
            level = 0 if trips else -1
            contexts: list[Context] = [{unit.axis: p} for p in at] if unit.axis is not None else []
            often = max(1, trips)
            return [Body(unit, c, i, level, [], {}, outer, stage=stage, trips=often) for i, c in enumerate(contexts)]

        held = held_values(unit, self.units, self.unit_home, count) if self.choices.tiling.pipelined else None
        if held is None:
            bodies = points(0, 0, count)
            items.append(Loop(0, count, self._iteration(unit, [(s, bodies) for s in stages], 1)))
        else:
            for node in stored_behind_nests(unit, self.units):
                home = self.unit_home.get(node)
                if home is not None and node in self.global_home and home.buffer.space == Space.SRAM:
                    home.buffer.ring = 2 - self.choices.tiling.tight  # the next point need not wait for the store
            for node, (first, last) in held.items():
                for stage in range(first + 1, last + 1):
                    self.held.setdefault((node, stage), self._copy_home(node, unit))
            for window in windows(len(stages), count):
                active = [(stages[n], points(n, start, window.count)) for n, start in sorted(window.starts.items())]
                items.append(Loop(0, window.count, self._pipelined(unit, active, held)))
        for item in items:
            assert isinstance(item, Loop)
            item.name = str(unit.axis)
        if rest:
            bodies = points(0, count, 0)
            items += self._iteration(unit, [(s, bodies) for s in stages], 0)
        after = Body(unit, {}, 0, -1, [], outer.local)
        for sweep in unit.sweeps:
            self._end(sweep, unit, after, only_global=True)
        return [*outer.ops, *items, *after.ops]

    def _deferred(self, unit: Unit) -> list[Item]:
        """A gradient in loops of its own."""
        tiles = Tiles()
        for _ in range(self.choices.tiling.halved.count(unit.name)):
            tiles = tiles.smaller()
        self.smallest[unit.name] = tiles.smaller() == tiles

        def operand(node: Node) -> View:
            home = self.global_home[root(node)]
            return compact_view(home.buffer, root(node).shape)

        chain = tuple(unit.nodes)
        return deferred_unit(
            chain,
            self.global_home[chain[0]].buffer,
            operand,
            tiles,
            self.machine.sram_kib * 1024,
            lambda buffer: self.unit_of.update({buffer: unit}),
            lambda ops, trips: self._ordered(unit, ops, trips),
        )

    def _iteration(self, unit: Unit, stages: list[tuple[Stage, list[Body]]], level: int) -> list[Item]:
        """All stages of the points of an iteration, one after the other."""
        items: list[Item] = []
        for stage, points in stages:
            for sweep in (*stage.before, stage.nest, *stage.after):
                items += self._sweep(unit, sweep, points, level)
        return items

    def _pipelined(
        self, unit: Unit, active: list[tuple[Stage, list[Body]]], held: dict[Node, tuple[int, int]]
    ) -> list[Item]:
        """Stages of different points, their nests in one loop; the later stage, of the earlier points, goes first."""
        items: list[Item] = []
        backwards = active[::-1]
        for stage, points in backwards:
            for sweep in stage.before:
                items += self._sweep(unit, sweep, points, 1)
        for stage, points in backwards:
            for point in points:
                self._begin(stage.nest, unit, point)
        items += self._nest(unit, [(stage.nest, points) for stage, points in backwards], 1)
        for stage, points in backwards:
            for point in points:
                self._end(stage.nest, unit, point)
                for node, (first, last) in held.items():
                    if first <= stage.number < last:
                        source = self._home_of(node, unit, stage.number)
                        views = [
                            self._stored_view(node, node, home, unit, point.context)
                            for home in (source, self.held[node, stage.number + 1])
                        ]
                        point.ops.append(vpu.copy(views[0], views[1], f"hold {node.name}", node.loc))
            items += self._take(points)
            for sweep in stage.after:
                items += self._sweep(unit, sweep, points, 1)
        return items

    def _sweep(self, unit: Unit, sweep: Sweep, points: list[Body], level: int) -> list[Item]:
        """One sweep of the points of an iteration with the start values before it and the stores after it."""
        for point in points:
            self._begin(sweep, unit, point)
        if not sweep.axes:
            self._run(self._steps(sweep, unit), points)
            self.chunked.clear()
            return list(self._take(points))
        items = self._nest(unit, [(sweep, points)], level)
        for point in points:
            self._end(sweep, unit, point)
        return [*items, *self._take(points)]

    def _nest(self, unit: Unit, sweeps: list[tuple[Sweep, list[Body]]], level: int) -> list[Item]:
        """Loops over the evaluations of points; several sweeps (of different points) share them tile by tile."""
        axes = sweeps[0][0].axes
        points = [point for _, found in sweeps for point in found]
        trips = points[0].trips
        tilings = [self._tiling(unit, sweep, axes[-1]) for sweep, _ in sweeps]
        tiling = replace(tilings[0], rows=min(t.rows for t in tilings), interleave=min(t.interleave for t in tilings))
        parts = [Part(self._steps(s, unit), found) for s, found in sweeps]
        if self.together[unit] > 1:  # in the order of the points, each with all its evaluations
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
        for loop_body in self._tiles(unit, parts, axes[-1], level, tiling, trips, outside):
            items += loop_body
        for loop in reversed(wraps):
            loop.body = items
            items = [loop]
        return [*self._take(points), *items]

    def _take(self, bodies: list[Body]) -> list[TileOp]:
        found = order([op for body in bodies for op in body.ops], self.machine, Search(tries=-1, loop=False))
        if bodies[0].trips == 1 or not self._pause(bodies[0].unit):  # else it is the pause between nests
            self.predicted += bodies[0].trips * found.cycles
            if bodies[0].trips == 1 and found.ops:
                self._once[found.ops[0]] = found.cycles
        for body in bodies:
            body.ops.clear()
        return found.ops

    def _tiling(self, unit: Unit, sweep: Sweep, axis: RowAxis) -> Tiling:
        tiling = tile_of(self.choices.tiling, self.units, unit, sweep, axis)
        if unit.kind in ("points", "parameter"):
            self.smallest[unit.name] = tiling.rows == 4 and tiling.interleave == 1
        return tiling

    def _tiles(
        self,
        unit: Unit,
        parts: list[Part],
        axis: RowAxis,
        level: int,
        tiling: Tiling,
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

    def _turned(self, unit: Unit, steps: list[Step], outer: Body, axis: RowAxis, at: Turn) -> list[Item] | None:
        """A loop over points with one tile of a body half a turn behind (see `turned`); None where none can be."""
        passing = self._passing_values(steps, unit)
        costs = []
        trial = Body(unit, {axis: Position(0, 0, 0, at.rows)}, 0, -1, [], {}, outer)
        for step in steps:
            self._run([step], [trial], passing)
            costs.append(sum(cost(op, self.machine) for op in trial.ops))
            trial.ops.clear()
        self.chunked.clear()
        cut = middle(steps, costs, passing.psum)
        if cut is None:
            return None
        early, late = steps[:cut], steps[cut:]

        def run(work: Sequence[tuple[list[Step], int, int]], kept: Mapping[Node, Buffer], count: int) -> list[TileOp]:
            """Steps for the tiles at (start, extent), the halves of the turned tile with what is kept of it."""
            ops: list[TileOp] = []
            level, step = (0, at.step) if count > 1 else (-1, 0)
            group = Body(unit, {}, 0, level, ops, {}, outer, group=True)
            for i, (part, start, extent) in enumerate(work):
                local = dict(kept) if part is not steps else {}
                tile = Body(unit, {axis: Position(0, step, start, extent)}, i, level, ops, local, group)
                self._run(part, [tile], passing)
                made_here.update({n: b for n, b in tile.local.items() if n in crosses})
            self.chunked.clear()
            return self._ordered(unit, ops, count)

        crosses = set(crossing(steps, cut))
        passing.cut.difference_update(crosses)
        made_here: dict[Node, Buffer] = {}
        items: list[Item] = list(run([(early, 0, at.rows)], {}, 1))
        kept = dict(made_here)
        begun = at.count * at.step
        whole = [(steps, i * at.rows, at.rows) for i in range(1, at.tiles)]
        ops = run([(late, 0, at.rows), *whole, (early, at.step, at.rows)], kept, at.count)
        items.append(Loop(0, at.count, list(ops), name=str(axis)))
        items += run([(late, begun, at.rows), *((steps, *tile) for tile in at.rest)], kept, 1)
        return items

    def _between_nests(self, unit: Unit) -> list[Sweep]:
        """The sweeps between the nests of the points of an iteration."""
        deepest = max(len(s.axes) for s in unit.sweeps)
        return [s for s in unit.sweeps if len(s.axes) < deepest]

    def _pause(self, unit: Unit) -> int:
        """Cycles of the vector unit, near enough, between the nests of the points of an iteration."""
        small = self._between_nests(unit)
        kernels = sum(isinstance(step, KernelStep) for s in small for step in self._steps(s, unit))
        return kernels * (self.machine.vpu_pipeline_cycles + self.together[unit] * SMALL_KERNEL)

    def _read_between_nests(self, unit: Unit) -> frozenset[Buffer]:
        """What the work between the nests of a point reads of them."""
        small = self._between_nests(unit)
        read = {root(value) for s in small for node in s.nodes for value in node.operands}
        nests = set(unit.sweeps) - set(small)
        made = {value for value in read if value in self.unit_home and self.units.of[value][1] in nests}
        return frozenset(self.unit_home[value].buffer for value in made)

    def _body(
        self, unit: Unit, parts: list[Part], level: int, tiles: Sequence[Context], trips: int = 1
    ) -> list[TileOp]:
        """The operations of a loop body at `level`: those of every part for every point at the places `tiles`."""
        shared: list[TileOp] = []
        for part in parts:
            bodies: list[Body] = []
            common: dict[Node, Buffer] = {}
            for outer in part.outers:
                stage = outer.stage
                outside = {a: tiles[0][a] for a in list(tiles[0])[:-1] if len({t[a] for t in tiles}) == 1}
                context = {**outer.context, **outside}
                group = Body(unit, context, 0, level, shared, {}, outer, group=True, common=common, stage=stage)
                for tile, around in zip(tiles, self._sharing(part.steps, tiles, group, len(bodies)), strict=True):
                    at = {**outer.context, **tile}
                    bodies.append(Body(unit, at, len(bodies), level, shared, {}, around, stage=stage))
            self._run(part.steps, bodies)
            self.chunked.clear()
        return self._ordered(unit, shared, trips, max(1, trips // parts[0].outers[0].trips))

    def _sharing(self, steps: Sequence[Step], tiles: Sequence[Context], group: Body, number: int) -> list[Body]:
        """The body around each tile: one for those over whose rows gradients are folded at once, else `group`.

        `number` is that of the first tile.
        """
        count = self.choices.tiling.gradient_tiles
        found = [group] * len(tiles)
        if count == 1:
            return found
        axis = list(tiles[0])[-1]
        folded = [s.node for s in steps if isinstance(s, NodeStep) and s.node.op == "matmul_tn"]
        values = {root(o) for n in folded if self._folded(n) for o in n.operands[:2]}
        shared = frozenset(v for v in values if self._by_rows(v, axis, {**group.context, **tiles[0]}, group.unit))
        for first in range(0, len(tiles) // count * count, count):
            at = tiles[first][axis]
            rows = [{**tiles[first], axis: replace(at, start=at.start + i * at.extent)} for i in range(count)]
            if list(tiles[first : first + count]) == rows:
                context = {**group.context, **tiles[first], axis: replace(at, extent=count * at.extent)}
                last, stage = number + first + count - 1, group.stage
                around = Body(group.unit, context, last, group.level, group.ops, {}, group, stage=stage, shared=shared)
                found[first : first + count] = [around] * count
        return found

    def _by_rows(self, value: Node, axis: RowAxis, context: Context, unit: Unit) -> bool:
        """Whether the tile of a value is whole rows along `axis`, one behind the other."""
        tags = self.units.tags(value, unit)
        if axis not in tags or context[axis].extent % SMX_BLOCK[0]:
            return False
        shape = self._virtual_shape(value, unit, frozenset(), context)
        at = tags.index(axis)
        return at == len(shape) - 2 and all(n == 1 for n in shape[:at])

    def _ordered(self, unit: Unit, shared: list[TileOp], trips: int, turns: int = 1) -> list[TileOp]:
        """The operations of a body that runs `trips` times in a good order, its own buffers arranged.

        After `turns` iterations an outer loop goes on.
        """
        if trips < 2:
            return self._straight(unit, shared)
        own = _own(shared, self.unit_of)
        self.largest[unit.name] = max([self.largest.get(unit.name, 0), *(b.bytes for b in own)])
        hot = trips * work(shared, self.machine) >= self.least
        self.hot = self.hot or hot
        search = Search(
            tries=TRIES if self.moves and hot else -1,
            moves=self.moves if hot else 0,
            room=self.choices.rooms.get(unit.name, 1 << 40),
            pause=self._pause(unit) if hot else 0,
            ends=self._read_between_nests(unit),
            turns=turns,
            local=frozenset(own),
            tiles=self.tile_of,
            window=self.choices.tiling.window,
            tight=self.choices.tiling.tight,
        )
        found = self._searched(shared, search)
        self.predicted += trips * found.cycles
        self.own |= {b.arena[0]: unit for b in own if b.arena is not None}
        return found.ops

    def _straight(self, unit: Unit, ops: list[TileOp]) -> list[TileOp]:
        """Straight code in an order that fits the memory it has (`joined` makes a better one)."""
        own, name = _own(ops, self.unit_of), straight_name(unit.name)
        self.largest[name] = max([self.largest.get(name, 0), *(b.bytes for b in own)])
        search = Search(tries=-1, loop=False)
        if name in self.choices.rooms:
            search = replace(search, room=self.choices.rooms[name], local=frozenset(own))
        found = order(ops, self.machine, search)
        self.predicted += found.cycles
        if ops:
            self._once[found.ops[0]] = found.cycles
        self.loose |= dict.fromkeys(own, unit)
        return found.ops

    def _searched(self, ops: list[TileOp], search: Search) -> Ordered:
        """A loop body in order; a long one begins from the order of half of its tiles."""
        half = (1 + max(self.tile_of.get(op, (0, 0))[1] for op in ops)) // 2
        if search.moves and half >= LEAST_HALF:
            first = [op for op in ops if self.tile_of.get(op, (0, 0))[1] < half]
            begun = self._searched(first, replace(search, moves=search.moves // 3)).ops
            like = repeated(ops, begun, self.tile_of, half)
            return order(ops, self.machine, replace(search, like=like))
        return order(ops, self.machine, search)


def straight_name(unit: str) -> str:
    """What the memory of the straight code of a unit is called among that of loop bodies."""
    return f"{unit} outside loops"


def _own(ops: Sequence[TileOp], known: Mapping[Buffer, Unit]) -> list[Buffer]:
    """Tile buffers that these operations alone use: written before they are read, without a ring."""
    first: dict[Buffer, bool] = {}
    for op in ops:
        for view in op.reads():
            first.setdefault(view.buffer, False)
        for view in op.writes():
            first.setdefault(view.buffer, True)
    return [b for b, written in first.items() if written and b in known and b.ring == 1 and b.space == Space.SRAM]
