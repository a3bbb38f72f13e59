"""What a loop body works on: its operations, local tiles, and views of values wherever they live."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pintac.backend.bodies.choices import Choices, Entry
from pintac.backend.bodies.placement import Context, Home, Placement, at_position
from pintac.backend.bodies.strips import in_strips
from pintac.backend.grouping.kinds import root
from pintac.backend.grouping.units import Unit, Units
from pintac.backend.tiles import vpu
from pintac.backend.tiles.tile import Buffer, CopyOp, TileOp, View, VpuOp
from pintac.backend.tiles.views import compact_size, narrow
from pintac.ir import Node
from pintac.isa import Space

Chunk = tuple[int, int, Buffer]
"""First column, columns, and memory of a part of a value."""


@dataclass(eq=False)
class Body:
    """Operations being collected for one loop body, and the tiles that are loaded or computed in it."""

    unit: Unit
    context: Context = field(default_factory=dict)
    tile: int = 0
    level: int = -1  # innermost loop level around the body, -1: none
    ops: list[TileOp] = field(default_factory=list)
    local: dict[Node, Buffer] = field(default_factory=dict)
    chunks: dict[Node, list[Chunk]] = field(default_factory=dict)  # of values that are cut along their columns
    parent: Body | None = None
    group: bool = False  # what the tiles of one point in one loop body share
    common: dict[Node, Buffer] = field(default_factory=dict)  # of a group: what those of all points share
    stage: int = 0  # of a pipelined loop over points
    trips: int = 1  # how often it runs
    shared: frozenset[Node] = frozenset()  # of several tiles together: the values whose rows lie in one buffer

    def find(self, node: Node) -> tuple[Buffer, Body] | None:
        """The local buffer of `node` and the body that it belongs to: this one or one around it."""
        found = self.local.get(node) or self.common.get(node)
        if found is not None:
            return found, self
        return self.parent.find(node) if self.parent is not None else None

    def around(self) -> Iterator[Body]:
        """The bodies around this one, the nearest first."""
        body = self.parent
        while body is not None:
            yield body
            body = body.parent

    def place(self, node: Node) -> Body:
        """The body to which a local buffer of `node` belongs: this one, or that of several tiles."""
        return self.parent if self.parent is not None and node in self.parent.shared else self


@dataclass(frozen=True)
class Passing:
    """Values that pass from step to step of a tile only.

    `psum`: matmul results that stay in PSUM, True: they may be cut along their columns. `cut`: results of kernels that
    may be. `fitting`: how many parts of results PSUM holds, more than a kernel reads.
    """

    psum: dict[Node, bool]
    cut: frozenset[Node]
    fitting: int


def start_of(node: Node, target: View) -> VpuOp:
    """What a fold starts from, everywhere in `target`: 0, for a maximum minus infinity."""
    lowest = float("-inf") if node.op == "amax" else 0.0
    return vpu.fill(lowest, target, f"start {node.name}", node.loc)


class Values(Placement):
    """Gives bodies views of values: loads, new tiles, stores."""

    def __init__(self, entry: Entry, choices: Choices, units: Units, together: Mapping[Unit, int]) -> None:
        super().__init__(entry, choices, units, together)
        self.machine = entry.machine
        self.unit_of: dict[Buffer, Unit] = {}  # of tile buffers
        self.tile_of: dict[TileOp, tuple[int, int]] = {}  # (stage, tile) of an operation
        self.outputs_of: dict[Node, list[tuple[str, Node]]] = {}
        for key, node in entry.graph.outputs.items():
            self.outputs_of.setdefault(root(node), []).append((key, node))

    def view(self, node: Node, body: Body) -> View:
        """What `node` is in this body, loading it first when it lives in DRAM."""
        for start in [node, *reversed(self._chain(node)[:-1]), root(node)]:
            found = body.find(start)
            if found is not None:
                return self._local_view(node, start, *found, body)
        source = root(node)
        home = self._home_of(source, body.unit, body.stage)
        if home.buffer.space != Space.DRAM:
            return self._stored_view(node, source, home, body.unit, body.context)
        self._load(node, home, body)
        return self.view(node, body)

    def _local_view(self, node: Node, start: Node, buffer: Buffer, owner: Body, body: Body) -> View:
        """`node` in a local buffer with `start`, which a body around this one may have for several tiles."""
        context = {**body.context, **owner.context}
        view = self._stored_view(node, start, Home(buffer, frozenset()), body.unit, context)
        for axis, (tag, each) in enumerate(self._rows(node, body.unit)):
            if tag is not None and tag in context and context[tag].extent != body.context[tag].extent:
                first = body.context[tag].start - context[tag].start
                view = narrow(view, axis, first * each, body.context[tag].extent * each)
        return view

    def _load(self, node: Node, home: Home, body: Body) -> None:
        """Bring a value from DRAM to the outermost body in which its rows do not change."""
        source = root(node)
        axes = {t for t in self.units.tags(node, body.unit) if t in body.context}
        what = source if {t for t in self.units.tags(source, body.unit) if t in body.context} == axes else node
        target = body
        streamed = source in self.choices.spilled
        for outside in body.around():
            if outside.shared and source not in outside.shared:
                continue
            if axes & (set(target.context) - set(outside.context)) or (streamed and target.group):
                break
            target = outside
        shape = self._virtual_shape(what, body.unit, frozenset(), target.context)
        bits = what.type.bits if what.type.is_smx else 0
        buffer = Buffer(f"{what.name}.in", compact_size(shape if len(shape) > 1 else (1, *shape), bits), bits)
        in_tile = target.group or any(outside.group for outside in target.around())
        early = target.level >= 0 and body.unit.kind == "evaluations" and not in_tile
        if early and not self.choices.tiling.tight:
            buffer.ring, buffer.ring_level = 2, target.level  # a tile's loads are ordered with its work, early enough
        (target.common if target.group and not axes else target.local)[what] = buffer
        self.unit_of[buffer] = body.unit
        local = self._stored_view(what, what, Home(buffer, frozenset()), body.unit, target.context)
        remote = self._stored_view(what, source, home, body.unit, target.context)
        target.ops.append(CopyOp(f"load {what.name}", what.loc, remote, local))

    def _new_local(self, node: Node, body: Body, padded: bool = False) -> Buffer:
        place = body.place(node)
        shape = self._virtual_shape(node, body.unit, frozenset(), place.context)
        bits = node.type.bits if node.type.is_smx else 0
        size = compact_size(shape if len(shape) > 1 else (1, *shape), bits, padded)
        buffer = Buffer(f"{node.name}.{body.tile}", size, bits, padded=padded)
        place.local[node] = buffer
        self.unit_of[buffer] = body.unit
        return buffer

    def _target(self, node: Node, body: Body) -> View:
        """Where a computed value goes: its SRAM home, or a tile buffer."""
        if self._sram_home(node, body.unit) is None and node not in body.place(node).local:
            self._new_local(node, body)
        return self._finished_view(node, node, body)

    def _stores(self, node: Node, body: Body) -> None:
        """Copies of a finished value to its DRAM homes and to the outputs that are it."""
        homes = [h for h in (self.unit_home.get(node), self.global_home.get(node)) if h is not None]
        for home in homes:
            if home.buffer.space == Space.DRAM:
                source = self._finished_view(node, node, body)
                body.ops += [
                    CopyOp(f"store {node.name}", node.loc, part, target)
                    for part, target in self._stored_parts(node, source, home, body)
                ]
        for key, value in self.outputs_of.get(node, ()):
            source = self._finished_view(value, node, body)
            target = self._stored_view(value, value, Home(self.entry.outputs[key], None), body.unit, body.context)
            body.ops.append(CopyOp(f"output {key}", value.loc, source, target))

    def pass_on(self, node: Node, body: Body) -> None:
        """Copy a held value for the stage behind that of the body."""
        homes = self._home_of(node, body.unit, body.stage), self.held[node, body.stage + 1]
        source, target = (self._stored_view(node, node, home, body.unit, body.context) for home in homes)
        body.ops.append(vpu.copy(source, target, f"hold {node.name}", node.loc))

    def _stored_parts(self, node: Node, source: View, home: Home, body: Body) -> Iterator[tuple[View, View]]:
        """What of a finished value goes where in DRAM."""
        if home.strips is None:
            yield source, self._stored_view(node, node, home, body.unit, body.context)
            return
        tag, each = next(self._rows(node, body.unit))
        for first, strips in home.strips.of_all_columns():
            target = strips if tag is None else at_position(strips, 1, body.context[tag], each)
            yield in_strips(source, first, target), target

    def _finished_view(self, value: Node, node: Node, body: Body) -> View:
        home = self._sram_home(node, body.unit)
        if home is not None:
            return self._stored_view(value, node, home, body.unit, body.context)
        place = body.place(node)
        return self._local_view(value, node, place.local[node], place, body)
