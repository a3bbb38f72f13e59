"""Where every value of a graph lives between sweeps and units: tiles, SRAM, DRAM; and its view from a loop body."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from pintac.backend.bodies.choices import Choices, Entry
from pintac.backend.bodies.streamed import strip_columns, weights
from pintac.backend.bodies.strips import Strips
from pintac.backend.grouping.axes import RowAxis
from pintac.backend.grouping.kinds import VIEWS, root
from pintac.backend.grouping.units import Sweep, Unit, Units, accumulator
from pintac.backend.tiles.tile import Buffer, View
from pintac.backend.tiles.views import V, apply, compact_size, compact_view, narrow
from pintac.errors import IRError
from pintac.ir import Node
from pintac.ir.attrs import ints
from pintac.ir.ops import REDUCTIONS
from pintac.isa import Space


@dataclass(frozen=True)
class Position:
    """Where the body at hand stands on a row axis: rows start + index[level] * step ... + extent.

    `slot`: which of the points that an iteration handles together (`Home.slots`).
    """

    level: int
    step: int
    start: int
    extent: int
    slot: int = 0


Context = Mapping[RowAxis, Position]


def at_position(view: V, axis: int, at: Position, each: int) -> V:
    """The rows of `axis` where the body stands, with `each` of them for one of what the row axis counts."""
    return narrow(view, axis, at.start * each, at.extent * each, (at.level, at.step * each) if at.step else None)


@dataclass(frozen=True)
class Home:
    """Memory of a value with full extent on the row axes in `covers` (None: on all axes).

    `slots`: points that it holds at a time, where they are not among those axes.
    `strips`: how the matrix lies there, if not row by row.
    """

    buffer: Buffer
    covers: frozenset[RowAxis] | None
    slots: int = 1
    strips: Strips | None = None


class Placement:
    """Homes of the values of one entry.

    `together` are the points that an iteration of a unit handles. Afterwards `scratch` are the DRAM
    buffers that still need an address and `candidates` the values in SRAM that may leave it, with their bytes.
    """

    def __init__(self, entry: Entry, choices: Choices, units: Units, together: Mapping[Unit, int]) -> None:
        self.entry = entry
        self.choices = choices
        self.graph = entry.graph
        self.units = units
        self.together = together
        self.scratch: list[Buffer] = []
        self.unit_home: dict[Node, Home] = {}
        self.global_home: dict[Node, Home] = {n: Home(b, None) for n, b in entry.leaves.items()}
        self.held: dict[tuple[Node, int], Home] = {}  # copies for later stages (see `stages`)
        self.candidates: dict[Node, int] = {}
        self.output_roots = frozenset(map(root, entry.graph.outputs.values()))
        self.streamed: frozenset[Node] = frozenset()
        if choices.tiling.streamed:
            self.streamed = weights(entry.graph, units.axes, entry.machine.sram_kib * 1024)
        self._place()

    def _place(self) -> None:
        for unit in self.units.units:
            for sweep in unit.sweeps:
                for node in sweep.nodes:
                    self._place_value(node, unit, sweep)

    def _place_value(self, node: Node, unit: Unit, sweep: Sweep) -> None:
        users = [self.units.of[u] for u in self.units.executed_users(node)]
        context = self.units.loop_axes(node)
        own = self.units.own_axes(node)
        elsewhere = any(u is not unit for u, _ in users)
        other_sweep = any(u is unit and s is not sweep for u, s in users)
        full = own == context
        acc = accumulator(node)
        if (not full and not own and unit.kind != "parameter") or unit.kind == "deferred":  # folded over all rows
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
        spill = node in self.choices.spilled
        if not full or (other_sweep and not (spill and elsewhere)):  # one place in DRAM serves all readers
            self.unit_home[node] = self._home(node, unit, inner, Space.DRAM if spill else Space.SRAM)
            if inner and not spill and self._may_leave(node):
                self.candidates[node] = self.unit_home[node].buffer.bytes
        if elsewhere:
            self.global_home[node] = self._home(node, unit, None, Space.DRAM)

    def _global(self, node: Node) -> None:
        """A value without rows: SRAM as long as it fits."""
        spill = node in self.choices.spilled
        home = self._home(node, None, None, Space.DRAM if spill else Space.SRAM)
        if spill and node in self.streamed and node.type.rank == 2 and self._only_on_the_right(node):
            rows, columns = node.shape
            width = strip_columns(rows, home.buffer.bits, self.entry.machine.sram_kib * 1024)
            home = replace(home, strips=Strips(home.buffer, rows, columns, width))
        self.global_home[node] = home
        if not spill and self._may_leave(node):
            self.candidates[node] = home.buffer.bytes

    def _may_leave(self, node: Node) -> bool:
        """Whether a value may be kept in DRAM.

        A sum or maximum that loops fold stays where they add to it, a gradient that is an output where it is copied.
        """
        if node.op == "matmul_tn":
            return node not in self.output_roots
        return node.op not in REDUCTIONS or not self.units.folded_by_loops(node)

    def _only_on_the_right(self, node: Node) -> bool:
        """Whether products read the matrix itself, on their right, and nothing else does."""
        users = self.graph.users(node)
        return all(u.op == "matmul" and u.operands[1] is node and u.operands[0] is not node for u in users)

    def home_buffer(self, node: Node) -> Buffer:
        """The memory a value is kept in between sweeps or units."""
        home = self.unit_home.get(node) or self.global_home[node]
        return home.buffer

    def _home(self, node: Node, unit: Unit | None, covers: frozenset[RowAxis] | None, space: Space) -> Home:
        slots = self.together.get(unit, 1) if unit is not None and covers is not None else 1
        shape = self._virtual_shape(node, unit, covers, {}, slots)
        bits = node.type.bits if node.type.is_smx else 0
        buffer = Buffer(node.name, compact_size(shape if len(shape) > 1 else (1, *shape), bits), bits, space)
        if space == Space.DRAM:
            self.scratch.append(buffer)
        return Home(buffer, covers, slots)

    def _virtual_shape(
        self,
        node: Node,
        unit: Unit | None,
        covers: frozenset[RowAxis] | None,
        context: Context,
        slots: int = 1,
    ) -> tuple[int, ...]:
        """Extents of a value in storage that covers `covers` and holds `slots` points: elsewhere the tile's extent."""
        if covers is None:
            return node.type.shape
        tags = self.units.tags(node, unit)
        out = []
        for size, tag, each in zip(node.type.shape, tags, self.units.rows_each(node, unit), strict=True):
            if tag is None or tag in covers:
                out.append(size)
            elif slots > 1 and unit is not None and tag is unit.axis:
                out.append(slots * each)
            else:
                out.append(context[tag].extent * each if tag in context else each)
        return tuple(out)

    def _chain(self, node: Node) -> list[Node]:
        """The view ops from the root (excluded) to `node`."""
        out: list[Node] = []
        while node.op in VIEWS:
            out.append(node)
            node = node.operands[0]
        return out[::-1]

    def _stored_view(self, node: Node, start: Node, home: Home, unit: Unit, context: Context) -> View:
        """`node` in the storage of `start` (its root or a loaded view on the way), cut to the context."""
        assert home.strips is None, f"{node.name} is read as if it lay row by row"
        view = compact_view(home.buffer, self._virtual_shape(start, unit, home.covers, context, home.slots))
        if home.buffer.bits and len(view.shape) < 2:
            raise AssertionError(node)
        chain = self._chain(node)
        if start.op in VIEWS:
            chain = chain[chain.index(start) + 1 :]
        for step in chain:
            view = apply(step, view, self._virtual_shape(step, unit, home.covers, context, home.slots))
        for axis, (tag, each) in enumerate(self._rows(node, unit)):
            if tag is not None and tag in context and (home.covers is None or tag in home.covers):
                view = at_position(view, axis, context[tag], each)
            elif home.slots > 1 and tag is not None and tag is unit.axis:
                view = narrow(view, axis, context[tag].slot * each, each)
        return view

    def _rows(self, node: Node, unit: Unit) -> Iterator[tuple[RowAxis | None, int]]:
        """For each axis of a value its row axis, and its rows for one of what that counts."""
        return zip(self.units.tags(node, unit), self.units.rows_each(node, unit), strict=True)

    def hold(self, held: Mapping[Node, tuple[int, int]], unit: Unit) -> None:
        """SRAM for copies of what one point's work keeps for stages from behind the first of each pair to the last."""
        for node, (first, last) in held.items():
            covers = self.unit_home[node].covers
            assert covers is not None
            for stage in range(first + 1, last + 1):
                self.held[node, stage] = self._home(node, unit, covers, Space.SRAM)

    def _home_of(self, source: Node, unit: Unit, stage: int = 0) -> Home:
        """Where `source` is read from, in a stage of a pipelined loop."""
        for made in range(stage, 0, -1):
            if (source, made) in self.held:
                return self.held[source, made]
        of = self.units.of.get(source)
        if of is not None and of[0] is unit and source in self.unit_home:
            return self.unit_home[source]
        if source not in self.global_home:
            raise IRError(f"the backend has no place for %{source.name}", location=source.loc)
        return self.global_home[source]

    def _sram_home(self, node: Node, unit: Unit) -> Home | None:
        """The SRAM home a value is computed straight into, if it has one."""
        if node in self.unit_home:
            home = self.unit_home[node]
        elif node in self.global_home:
            home = self.global_home[node]
        else:
            return None
        return home if home.buffer.space == Space.SRAM else None

    def _accumulates(self, node: Node) -> bool:
        """Whether a fold adds onto a start value in memory: over loops, or over axes that may need unrolling."""
        if node.op == "matmul_tn":
            return True
        if node.op not in REDUCTIONS:
            return False
        rank = node.operands[0].type.rank
        axes = ints(node.attrs, "axes")
        if all(a == rank - 1 for a in axes):
            return False
        return rank > 2 or self.units.folded_by_loops(node)
