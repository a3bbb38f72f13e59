"""From a graph to the tile schedule: where values live, loops over rows, and the operations of each tile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from pintac.backend import vpu
from pintac.backend.axes import RowAxis
from pintac.backend.fuse import (
    CONTRACTIONS,
    COPIES,
    SINKS,
    VIEWS,
    Fuser,
    Index,
    KernelStep,
    NodeStep,
    Step,
    Value,
    is_splat,
    root,
)
from pintac.backend.order import order
from pintac.backend.tile import Buffer, CopyOp, IndexView, Item, Loop, MatmulOp, TileOp, View
from pintac.backend.units import Sweep, Unit, Units, accumulator
from pintac.backend.views import apply, broadcast, compact_size, compact_strides, compact_view, narrow
from pintac.errors import IRError
from pintac.ir import Graph, Node
from pintac.ir.ops import integer, ints
from pintac.isa import LOOP_LEVELS, Space
from pintac.machine import Machine

ACCUMULATOR_TILE_BYTES = 32768
"""Part of a spilled accumulator that is in SRAM at a time."""


@dataclass(frozen=True)
class Position:
    """Where the body at hand stands on a row axis: rows start + index[level] * step ... + extent."""

    level: int
    step: int
    start: int
    extent: int


Context = Mapping[RowAxis, Position]


@dataclass(frozen=True)
class Home:
    """Memory of a value with full extent on the row axes in `covers` (None: on all axes)."""

    buffer: Buffer
    covers: frozenset[RowAxis] | None


@dataclass(frozen=True)
class Tiling:
    """Rows of a tile, and tiles interleaved in a loop body."""

    rows: int = 32
    interleave: int = 4
    point_rows: int = 32
    """Rows of a tile in loops over points alone: forward and backward of base rows need the most room a row."""


@dataclass(eq=False)
class Body:
    """Operations being collected for one loop body, and the tiles that are loaded or computed in it."""

    unit: Unit
    context: Context
    tile: int
    level: int  # innermost loop level around the body, -1: none
    ops: list[TileOp]
    local: dict[Node, Buffer]
    parent: Body | None = None
    group: bool = False  # what the tiles of one loop body share

    def find(self, node: Node) -> Body | None:
        """The body (this one or one around it) where `node` has a local buffer."""
        if node in self.local:
            return self
        return self.parent.find(node) if self.parent is not None else None


@dataclass(eq=False)
class Chunks:
    """A matmul result in PSUM, cut along its columns: (first column, columns, buffer)."""

    parts: list[tuple[int, int, Buffer]] = field(default_factory=list)


class Scheduler:
    """Builds the tile schedule of one entry.

    `leaves` are the DRAM buffers of states, inputs and stored arrays by node, `outputs` those of results by key.
    `spilled` are values kept in DRAM because SRAM is short; `scratch(name, node)` reserves DRAM for a value.
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
        """`earlier` is a failed attempt for the same graph and machine, whose units and kernels are taken over."""
        self.graph = graph
        self.machine = machine
        self.units: Units = earlier.units if earlier is not None else Units(graph)
        self._fused: dict[Sweep, list[Step]] = earlier._fused if earlier is not None else {}
        self.outputs = outputs
        self.tiling = tiling
        self.spilled = spilled
        self.not_in_psum = not_in_psum
        self.scratch: list[Buffer] = []
        self.unit_home: dict[Node, Home] = {}
        self.global_home: dict[Node, Home] = {n: Home(b, None) for n, b in leaves.items()}
        self.chunked: dict[tuple[Node, int], Chunks] = {}
        self.outputs_of: dict[Node, list[tuple[str, Node]]] = {}
        for key, node in graph.outputs.items():
            self.outputs_of.setdefault(root(node), []).append((key, node))
        self.candidates: dict[Node, int] = {}
        self.unit_of: dict[Buffer, Unit] = {}  # of tile buffers
        self._place()

    # ---- where values live

    def _users(self, node: Node) -> list[Node]:
        return self.units._executed_users(node)

    def _context_axes(self, unit: Unit, sweep: Sweep) -> set[RowAxis]:
        return set(sweep.axes) | ({unit.axis} if unit.axis is not None else set())

    def _own_axes(self, node: Node, unit: Unit) -> set[RowAxis]:
        return {t for t in self.units.tags(node, unit) if t is not None}

    def _place(self) -> None:
        for unit in self.units.units:
            for sweep in unit.sweeps:
                for node in sweep.nodes:
                    self._place_value(node, unit, sweep)

    def _place_value(self, node: Node, unit: Unit, sweep: Sweep) -> None:
        users = [self.units.of[u] for u in self._users(node)]
        context = self._context_axes(unit, sweep)
        own = self._own_axes(node, unit)
        elsewhere = any(u is not unit for u, _ in users)
        other_sweep = any(u is unit and s is not sweep for u, s in users)
        full = own == context
        acc = accumulator(node)
        if not full and not own and unit.kind != "parameter":  # folded over all rows
            if acc is not None and root(acc) in self.global_home and acc.op == "matmul_tn":
                self.global_home[node] = self.global_home[acc]
            else:
                self._global(node)
            return
        if unit.kind == "global" or (unit.kind == "parameter" and elsewhere):
            if elsewhere:
                self._global(node)
            return
        inner = frozenset(a for a in own if a is not unit.axis)
        if other_sweep or not full:
            spill = node in self.spilled
            self.unit_home[node] = self._home(node, unit, inner, Space.DRAM if spill else Space.SRAM)
            if inner and not spill:
                self.candidates[node] = self.unit_home[node].buffer.bytes
        if elsewhere:
            self.global_home[node] = self._home(node, unit, None, Space.DRAM)

    def _global(self, node: Node) -> None:
        """A value without rows: SRAM as long as it fits."""
        spill = node in self.spilled
        self.global_home[node] = self._home(node, None, None, Space.DRAM if spill else Space.SRAM)
        if not spill:
            self.candidates[node] = self.global_home[node].buffer.bytes

    def home_buffer(self, node: Node) -> Buffer:
        """The memory a value is kept in between sweeps or units."""
        home = self.unit_home.get(node) or self.global_home[node]
        return home.buffer

    def _home(self, node: Node, unit: Unit | None, covers: frozenset[RowAxis] | None, space: Space) -> Home:
        shape = self._virtual_shape(node, unit, covers, {})
        bits = node.type.bits if node.type.is_smx else 0
        buffer = Buffer(node.name, compact_size(shape if len(shape) > 1 else (1, *shape), bits), bits, space)
        if space == Space.DRAM:
            self.scratch.append(buffer)
        return Home(buffer, covers)

    def _virtual_shape(
        self, node: Node, unit: Unit | None, covers: frozenset[RowAxis] | None, context: Context
    ) -> tuple[int, ...]:
        """Extents of a value in storage that covers `covers`: elsewhere the tile's extent."""
        if covers is None:
            return node.type.shape
        tags = self.units.tags(node, unit)
        out = []
        for size, tag in zip(node.type.shape, tags, strict=True):
            if tag is None or tag in covers:
                out.append(size)
            else:
                out.append(context[tag].extent if tag in context else 1)
        return tuple(out)

    # ---- views

    def _chain(self, node: Node) -> list[Node]:
        """The view ops from the root (excluded) to `node`."""
        out: list[Node] = []
        while node.op in VIEWS:
            out.append(node)
            node = node.operands[0]
        return out[::-1]

    def _stored_view(self, node: Node, start: Node, home: Home, unit: Unit, context: Context) -> View:
        """`node` in the storage of `start` (its root or a loaded view on the way), cut to the context."""
        view = compact_view(home.buffer, self._virtual_shape(start, unit, home.covers, context))
        if home.buffer.bits and len(view.shape) < 2:
            raise AssertionError(node)
        chain = self._chain(node)
        if start.op in VIEWS:
            chain = chain[chain.index(start) + 1 :]
        for step in chain:
            view = apply(step, view, self._virtual_shape(step, unit, home.covers, context))
        for axis, tag in enumerate(self.units.tags(node, unit)):
            if tag is not None and tag in context and (home.covers is None or tag in home.covers):
                at = context[tag]
                step_rows = (at.level, at.step) if at.step else None
                view = narrow(view, axis, at.start, at.extent, step_rows)
        return view

    def view(self, node: Node, body: Body) -> View:
        """What `node` is in this body, loading it first when it lives in DRAM."""
        for start in [node, *reversed(self._chain(node)[:-1]), root(node)]:
            owner = body.find(start)
            if owner is not None:
                return self._stored_view(node, start, Home(owner.local[start], frozenset()), body.unit, body.context)
        source = root(node)
        home = self._home_of(source, body.unit)
        if home.buffer.space != Space.DRAM:
            return self._stored_view(node, source, home, body.unit, body.context)
        start = self._load(node, home, body)
        return (
            self.view(node, body)
            if start is not None
            else self._stored_view(node, source, home, body.unit, body.context)
        )

    def _home_of(self, source: Node, unit: Unit) -> Home:
        of = self.units.of.get(source)
        if of is not None and of[0] is unit and source in self.unit_home:
            return self.unit_home[source]
        if source not in self.global_home:
            raise IRError(f"the backend has no place for %{source.name}", location=source.loc)
        return self.global_home[source]

    def _load(self, node: Node, home: Home, body: Body) -> Node:
        """Bring a value from DRAM to the outermost body in which its rows do not change."""
        source = root(node)
        axes = {t for t in self.units.tags(node, body.unit) if t in body.context}
        what = source if {t for t in self.units.tags(source, body.unit) if t in body.context} == axes else node
        target = body
        streamed = source in self.spilled
        while target.parent is not None and not (axes & (set(target.context) - set(target.parent.context))):
            if streamed and target.group:
                break
            target = target.parent
        shape = self._virtual_shape(what, body.unit, frozenset(), target.context)
        bits = what.type.bits if what.type.is_smx else 0
        buffer = Buffer(f"{what.name}.in", compact_size(shape if len(shape) > 1 else (1, *shape), bits), bits)
        if target.level >= 0 and body.unit.kind == "evaluations":
            buffer.ring, buffer.ring_level = 2, target.level
        target.local[what] = buffer
        self.unit_of[buffer] = body.unit
        local = self._stored_view(what, what, Home(buffer, frozenset()), body.unit, target.context)
        remote = self._stored_view(what, source, home, body.unit, target.context)
        target.ops.append(CopyOp(f"load {what.name}", what.loc, remote, local))
        return what

    def _new_local(self, node: Node, body: Body, space: Space = Space.SRAM) -> Buffer:
        shape = self._virtual_shape(node, body.unit, frozenset(), body.context)
        bits = node.type.bits if node.type.is_smx else 0
        buffer = Buffer(
            f"{node.name}.{body.tile}", compact_size(shape if len(shape) > 1 else (1, *shape), bits), bits, space
        )
        body.local[node] = buffer
        self.unit_of[buffer] = body.unit
        return buffer

    def _sram_home(self, node: Node, unit: Unit) -> Home | None:
        """The SRAM home a value is computed straight into, if it has one."""
        if node in self.unit_home:
            home = self.unit_home[node]
        elif node in self.global_home:
            home = self.global_home[node]
        else:
            return None
        return home if home.buffer.space == Space.SRAM else None

    def _target(self, node: Node, body: Body) -> View:
        """Where a computed value goes: its SRAM home, or a tile buffer."""
        home = self._sram_home(node, body.unit)
        if home is None:
            if node not in body.local:
                self._new_local(node, body)
            home = Home(body.local[node], frozenset())
        return self._stored_view(node, node, home, body.unit, body.context)

    def _stores(self, node: Node, body: Body) -> None:
        """Copies of a finished value to its DRAM homes and to the outputs that are it."""
        homes = [h for h in (self.unit_home.get(node), self.global_home.get(node)) if h is not None]
        for home in homes:
            if home.buffer.space == Space.DRAM:
                source = self._finished_view(node, node, body)
                target = self._stored_view(node, node, home, body.unit, body.context)
                body.ops.append(CopyOp(f"store {node.name}", node.loc, source, target))
        for key, value in self.outputs_of.get(node, ()):
            source = self._finished_view(value, node, body)
            target = self._stored_view(value, value, Home(self.outputs[key], None), body.unit, body.context)
            body.ops.append(CopyOp(f"output {key}", value.loc, source, target))

    def _finished_view(self, value: Node, node: Node, body: Body) -> View:
        home = self._sram_home(node, body.unit) or Home(body.local[node], frozenset())
        return self._stored_view(value, node, home, body.unit, body.context)

    # ---- units

    def build(self) -> list[Item]:
        """The tile schedule of the entry."""
        items: list[Item] = []
        for unit in self.units.units:
            items += self._unit(unit)
        return items

    def _key(self, node: Node, unit: Unit) -> tuple[object, ...]:
        """What a kernel over `node` iterates over: extents of the tile, leading axes of size 1 left out."""
        out: list[object] = []
        for size, tag in zip(node.type.shape, self.units.tags(node, unit), strict=True):
            single = tag is not None and (tag.kind == "sign" or (tag.kind == "points" and unit.kind == "evaluations"))
            out.append(1 if size == 1 or single else (size if tag is None else tag))
        out = [1] * (2 - len(out)) + out
        return (*(e for e in out[:-2] if e != 1), *out[-2:])

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
                self._clear_spilled(node, home, body)
                continue
            view = self._stored_view(node, node, home, unit, body.context)
            if acc is not None:
                body.ops += vpu.copy(self.view(acc, body), view, f"start {node.name}", node.loc)
                continue
            lowest = float("-inf") if node.op == "amax" else 0.0
            body.ops += vpu.fill(lowest, view, f"start {node.name}", node.loc)

    def _starts_here(self, node: Node, unit: Unit, sweep: Sweep, only_global: bool) -> bool:
        """Whether `node` is a fold over rows that starts before the loops over `folded`."""
        if node.op not in {"matmul_tn", "sum", "amax"}:
            return False
        missing = self._context_axes(unit, sweep) - self._own_axes(node, unit)
        if not missing:
            return False  # one tile folds it whole: see `_kernel`
        over_points = unit.axis in missing if unit.axis is not None else False
        if unit.kind == "evaluations" and unit.axis is not None and over_points != only_global:
            return False
        return self._accumulates(node, unit, sweep)

    def _accumulates(self, node: Node, unit: Unit, sweep: Sweep) -> bool:
        """Whether a fold adds onto a start value in memory: over loops, or over axes that may need unrolling."""
        if node.op == "matmul_tn":
            return True
        if node.op not in ("sum", "amax"):
            return False
        rank = node.operands[0].type.rank
        axes = ints(node.attrs, "axes")
        if all(a == rank - 1 for a in axes):
            return False
        return rank > 2 or self._own_axes(node, unit) != self._context_axes(unit, sweep)

    def _clear_spilled(self, node: Node, home: Home, body: Body) -> None:
        """Zeros over an accumulator that lives in DRAM, part by part."""
        view = compact_view(home.buffer, node.type.shape)
        for start, cols in self._accumulator_parts(node):
            part = narrow(view, 1, start, cols)
            buffer = Buffer(f"{node.name}.zero{start}", part.shape[0] * cols)
            local = compact_view(buffer, part.shape)
            body.ops += vpu.fill(0.0, local, f"start {node.name}", node.loc)
            body.ops.append(CopyOp(f"start {node.name}", node.loc, local, part))

    def _accumulator_parts(self, node: Node) -> list[tuple[int, int]]:
        rows, cols = node.type.shape
        step = max(4, ACCUMULATOR_TILE_BYTES // (4 * rows) // 4 * 4)
        return [(c, min(step, cols - c)) for c in range(0, cols, step)]

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
                self._spilled_outputs(node, home, body)
                continue
            self._stores(node, body)

    def _spilled_outputs(self, node: Node, home: Home, body: Body) -> None:
        if node in self.outputs_of:
            raise IRError(f"%{node.name} is an output too large for SRAM", location=node.loc)

    # ---- steps

    def _run(self, steps: list[Step], bodies: list[Body]) -> None:
        """Every step for every tile of the body, step by step (independent tiles interleave)."""
        self._psum = self._psum_values(steps, bodies[0].unit)
        for step in steps:
            for body in bodies:
                if isinstance(step, KernelStep):
                    self._kernel(step, body)
                elif step.node.op in CONTRACTIONS:
                    self._contraction(step.node, body)
                else:
                    self._copies(step.node, body)

    def _psum_values(self, steps: list[Step], unit: Unit) -> dict[Node, bool]:
        """Matmul results that can stay in PSUM; True: they may be cut along their columns."""
        makers = {s.node for s in steps if isinstance(s, NodeStep) and s.node.op == "matmul"}
        out: dict[Node, bool] = {}
        for node in makers:
            if unit.kind == "global" or node in self.unit_home or node in self.global_home or node in self.outputs_of:
                continue
            if accumulator(node) is not None or node in self.not_in_psum:
                continue
            cuttable = whole = True
            for step in steps:
                if isinstance(step, NodeStep):
                    if any(root(o) is node for o in step.node.operands):
                        whole = False
                    continue
                for source in step.sources:
                    if isinstance(source, Value) and root(source.node) is node:
                        same = source.node is node and self._key(source.node, unit) == self._key(step.shape_of, unit)
                        folds = any(s.kind in vpu.FOLDS_COLS for s in step.kernel.sinks)
                        cuttable = cuttable and same and not folds
            if whole:
                out[node] = cuttable
        return out

    def _kernel(self, step: KernelStep, body: Body) -> None:
        shape_node = step.shape_of
        shape = self._virtual_shape(shape_node, body.unit, frozenset(), body.context)
        shape = (1,) * (2 - len(shape)) + shape
        parts = [(0, shape[-1])]
        for source in step.sources:
            if isinstance(source, Value) and (source.node, body.tile) in self.chunked:
                chunks = self.chunked[source.node, body.tile]
                parts = [(c, w) for c, w, _ in chunks.parts]
        sources = [self._source(s, body) for s in step.sources]
        targets = [self._sink(node, shape_node, body) for node in step.targets]
        kernel = replace(
            step.kernel,
            sinks=tuple(
                replace(s, accumulate=s.kind in vpu.FOLDS_ROWS and self._accumulates_in(n, body))
                for s, n in zip(step.kernel.sinks, step.targets, strict=True)
            ),
        )
        for node, target, sink in zip(step.targets, targets, kernel.sinks, strict=True):
            if sink.accumulate and not self._folded(node, body):
                lowest = float("-inf") if node.op == "amax" else 0.0
                body.ops += vpu.fill(lowest, target, f"start {node.name}", node.loc)
        for start, width in parts:
            ins = [self._cut(v, s, start, width, shape, body) for v, s in zip(sources, step.sources, strict=True)]
            outs = [
                v if k.kind in vpu.FOLDS_COLS else narrow(v, len(v.shape) - 1, start, width)
                for v, k in zip(targets, kernel.sinks, strict=True)
            ]
            name = "+".join(n.name for n in step.targets)
            body.ops += vpu.operations(kernel, (*shape[:-1], width), ins, outs, name, step.loc_node.loc)
        for node in step.targets:
            if node.op in SINKS and self._folded(node, body):
                continue  # stored when the fold is complete
            self._stores(node, body)

    def _accumulates_in(self, node: Node, body: Body) -> bool:
        if node.op not in ("sum", "amax"):
            return False
        unit, sweep = self.units.of[node]
        return self._accumulates(node, unit, sweep)

    def _folded(self, node: Node, body: Body) -> bool:
        unit, sweep = self.units.of[node]
        return self._own_axes(node, unit) != self._context_axes(unit, sweep)

    def _source(self, source: Value | Index, body: Body) -> View | IndexView | None:
        if isinstance(source, Index):
            node = source.node
            shape = node.type.shape
            view: View | IndexView = IndexView(shape, compact_strides(shape, 0))
            for axis, tag in enumerate(self.units.tags(node, body.unit)):
                if tag is not None and tag in body.context:
                    at = body.context[tag]
                    view = _narrow_index(view, axis, at)  # type: ignore[arg-type]
            return view
        if (source.node, body.tile) in self.chunked:
            return None
        if root(source.node).op == "const" and is_splat(root(source.node)):
            raise IRError("a constant tensor reached the backend unfolded", location=source.node.loc)
        return self.view(source.node, body)

    def _cut(
        self,
        view: View | IndexView | None,
        source: Value | Index,
        start: int,
        width: int,
        shape: tuple[int, ...],
        body: Body,
    ) -> View | IndexView:
        if view is None:
            assert isinstance(source, Value)
            chunks = self.chunked[source.node, body.tile]
            buffer = next(b for c, _, b in chunks.parts if c == start)
            whole = self._virtual_shape(source.node, body.unit, frozenset(), body.context)
            return compact_view(buffer, (*whole[:-1], width))
        if len(view.shape) == 0 or view.shape[-1] == 1 or (start == 0 and width == shape[-1]):
            return view
        if isinstance(view, IndexView):
            return replace(view, shape=(*view.shape[:-1], width), offset=view.offset + start * view.strides[-1])
        return narrow(view, len(view.shape) - 1, start, width)

    def _sink(self, node: Node, shape_node: Node, body: Body) -> View:
        """The view a kernel's sink writes, with the folded axes back as size 1."""
        view = self._target(node, body)
        if node.op in ("sum", "amax") and not node.attrs["keepdims"]:
            axes = ints(node.attrs, "axes")
            shape, strides = list(view.shape), list(view.strides)
            for axis in axes:
                shape.insert(int(axis), 1)
                strides.insert(int(axis), 0)
            view = replace(view, shape=tuple(shape), strides=tuple(strides))
        if len(view.shape) < 2:
            lead = 2 - len(view.shape)
            view = replace(view, shape=(1,) * lead + view.shape, strides=(0,) * lead + view.strides)
        return view

    def _contraction(self, node: Node, body: Body) -> None:
        if node.op == "matmul_tn":
            self._matmul_tn(node, body)
        else:
            self._matmul(node, body)

    def _matmul(self, node: Node, body: Body) -> None:
        a, b = self.view(node.operands[0], body), self.view(node.operands[1], body)
        shape = self._virtual_shape(node, body.unit, frozenset(), body.context)
        tb = bool(node.attrs["transpose_b"])
        n, k = shape[-1], a.shape[-1]
        acc = accumulator(node)
        rows = 1
        for size in shape[:-1]:
            rows *= size
        targets: list[tuple[int, int, View]] = []
        psum = self._psum.get(node)
        half = self.machine.psum_kib * 1024 // 2
        widest = max(4, half // (4 * rows) // 4 * 4)
        if psum is not None and (n <= widest or psum) and 4 * rows * 4 <= half:
            chunks = Chunks()
            for start in range(0, n, widest):
                width = min(widest, n - start)
                buffer = Buffer(f"{node.name}.{body.tile}.{start}", rows * width, space=Space.PSUM, owner=node)
                chunks.parts.append((start, width, buffer))
                targets.append((start, width, compact_view(buffer, (*shape[:-1], width))))
            if len(chunks.parts) == 1:
                body.local[node] = chunks.parts[0][2]
            else:
                self.chunked[node, body.tile] = chunks
        else:
            targets.append((0, n, self._target(node, body)))
        for start, width, target in targets:
            if acc is not None:
                body.ops += vpu.copy(broadcast(self.view(acc, body), shape), target, f"start {node.name}", node.loc)
            right = narrow(b, 0 if tb else 1, start, width) if (start, width) != (0, n) else b
            for rows_a, rows_d, m in _row_blocks(a, target):
                body.ops.append(
                    MatmulOp(node.name, node.loc, rows_a, right, rows_d, m, width, k, tb=tb, accumulate=acc is not None)
                )
        self._stores(node, body)

    def _matmul_tn(self, node: Node, body: Body) -> None:
        a, g = self.view(node.operands[0], body), self.view(node.operands[1], body)
        m, n = node.type.shape
        if not self._folded(node, body):
            target = self._target(node, body)
            acc = accumulator(node)
            if acc is not None:
                body.ops += vpu.copy(self.view(acc, body), target, f"start {node.name}", node.loc)
            self._accumulate(node, a, g, target, m, n, body, acc is not None)
            self._stores(node, body)
            return
        home = self.unit_home.get(node) or self.global_home[node]
        if home.buffer.space == Space.DRAM:
            whole = compact_view(home.buffer, node.type.shape)
            for start, cols in self._accumulator_parts(node):
                part = narrow(whole, 1, start, cols)
                local = compact_view(Buffer(f"{node.name}.{body.tile}.{start}", m * cols), part.shape)
                body.ops.append(CopyOp(f"load {node.name}", node.loc, part, local))
                self._accumulate(node, a, narrow(g, len(g.shape) - 1, start, cols), local, m, cols, body)
                body.ops.append(CopyOp(f"store {node.name}", node.loc, local, part))
            return
        self._accumulate(node, a, g, self._stored_view(node, node, home, body.unit, body.context), m, n, body)

    def _accumulate(
        self, node: Node, a: View, g: View, target: View, m: int, n: int, body: Body, accumulate: bool = True
    ) -> None:
        for rows_a, rows_g, k in _row_blocks(a, g):
            body.ops.append(
                MatmulOp(node.name, node.loc, rows_a, rows_g, target, m, n, k, ta=True, accumulate=accumulate)
            )
            accumulate = True

    def _copies(self, node: Node, body: Body) -> None:
        """concat and pad: fills and copies into slices of a new value."""
        target = self._target(node, body)
        axis = integer(node.attrs, "axis")
        at = 0
        if node.op == "pad":
            body.ops += vpu.fill(0.0, target, node.name, node.loc)
            at = integer(node.attrs, "before")
        for operand in node.operands:
            shape = self._virtual_shape(operand, body.unit, frozenset(), body.context)
            part = narrow(target, axis, at, shape[axis])
            if is_splat(root(operand)):
                values = root(operand).attrs["values"]
                assert isinstance(values, tuple)
                body.ops += vpu.fill(float(values[0]), part, node.name, node.loc)
            else:
                body.ops += vpu.copy(self.view(operand, body), part, node.name, node.loc)
            at += shape[axis]
        self._stores(node, body)


def _narrow_index(view: IndexView, axis: int, at: Position) -> IndexView:
    stride = view.strides[axis]
    steps = dict(view.steps)
    if at.step:
        steps[at.level] = steps.get(at.level, 0) + at.step * stride
    shape = (*view.shape[:axis], at.extent, *view.shape[axis + 1 :])
    return replace(view, shape=shape, offset=view.offset + at.start * stride, steps=tuple(sorted(steps.items())))


def _row_blocks(a: View, d: View) -> Iterator[tuple[View, View, int]]:
    """Both operands as matrices with the same rows: whole where leading axes merge, else one matrix after another."""
    lead = a.shape[:-2]
    rows = a.shape[-2]
    groups = 1
    for size in lead:
        groups *= size

    def merged(v: View) -> bool:
        if groups == 1:
            return True
        strides = v.strides
        unit = rows // 4 * strides[-2] if v.bits else rows * strides[-2]
        if v.bits and rows % 4:
            return False
        for axis in range(len(lead) - 1, -1, -1):
            if v.shape[axis] != 1:
                if strides[axis] != unit:
                    return False
                unit *= v.shape[axis]
        return True

    if merged(a) and merged(d):
        yield _matrix(a, groups * rows, 0), _matrix(d, groups * rows, 0), groups * rows
        return
    for index in range(groups):
        yield _matrix(a, rows, _offset(a, index)), _matrix(d, rows, _offset(d, index)), rows


def _offset(v: View, index: int) -> int:
    offset = 0
    for axis in range(len(v.shape) - 3, -1, -1):
        index, i = divmod(index, v.shape[axis])
        offset += i * v.strides[axis]
    return offset


def _matrix(v: View, rows: int, offset: int) -> View:
    return replace(v, shape=(rows, v.shape[-1]), strides=v.strides[-2:], offset=v.offset + offset)


__all__ = ["COPIES", "Position", "Scheduler", "Tiling"]
