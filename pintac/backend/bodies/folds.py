"""Folds over rows around the loops that fold them: start values before, stores after; tiles folded together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pintac.backend.bodies.operations import Bodies
from pintac.backend.bodies.placement import Context, Home
from pintac.backend.bodies.values import Body, start_of
from pintac.backend.grouping.axes import RowAxis
from pintac.backend.grouping.fuse import NodeStep, Step
from pintac.backend.grouping.kinds import root
from pintac.backend.grouping.units import Sweep, Unit, accumulator
from pintac.backend.tiles import vpu
from pintac.backend.tiles.tile import Buffer, CopyOp, View
from pintac.backend.tiles.views import compact_view, narrow
from pintac.ir import Node
from pintac.ir.ops import REDUCTIONS
from pintac.ir.types import SMX_BLOCK
from pintac.isa import Space


class Folds(Bodies):
    """Appends to bodies what comes before and after the loops of a sweep, and says which tiles are folded together."""

    def begin(self, sweep: Sweep, body: Body, only_global: bool = False) -> None:
        """Start values of what the sweep folds, before the loops that fold it."""
        for node in sweep.nodes:
            if not self._starts_here(node, body.unit, only_global):
                continue
            acc = accumulator(node)
            if acc is not None and self.global_home.get(acc) == self.global_home.get(node):
                continue
            home = self.unit_home.get(node) or self.global_home[node]
            if home.buffer.space == Space.DRAM:
                self._start_spilled(node, home, body)
                continue
            view = self._stored_view(node, node, home, body.unit, body.context)
            if acc is not None:
                body.ops.append(vpu.copy(self.view(acc, body), view, f"start {node.name}", node.loc))
                continue
            body.ops.append(start_of(node, view))

    def _starts_here(self, node: Node, unit: Unit, only_global: bool) -> bool:
        """Whether `node` is a fold over rows that starts before these loops."""
        if node.op not in ("matmul_tn", *REDUCTIONS):
            return False
        missing = self.units.loop_axes(node) - self.units.own_axes(node)
        if not missing:
            return False  # one tile folds it whole: see `_kernel`
        over_points = unit.axis in missing if unit.axis is not None else False
        if unit.kind == "evaluations" and unit.axis is not None and over_points != only_global:
            return False
        return self._accumulates(node)

    def _start_spilled(self, node: Node, home: Home, body: Body) -> None:
        """Zeros, or the value it accumulates onto, over an accumulator that lives in DRAM, part by part."""
        view = compact_view(home.buffer, node.type.shape)
        acc = accumulator(node)
        before = None if acc is None else self._accumulated(acc, body)
        for start, cols in self._accumulator_parts(node):
            part = narrow(view, 1, start, cols)
            local = compact_view(Buffer(f"{node.name}.start{start}", part.shape[0] * cols), part.shape)
            if before is None:
                body.ops.append(vpu.fill(0.0, local, f"start {node.name}", node.loc))
            elif before.buffer.space == Space.DRAM:
                body.ops.append(CopyOp(f"start {node.name}", node.loc, narrow(before, 1, start, cols), local))
            else:
                local = narrow(before, 1, start, cols)
            body.ops.append(CopyOp(f"start {node.name}", node.loc, local, part))

    def _accumulated(self, acc: Node, body: Body) -> View:
        """The whole of a value that another accumulates onto, where it lives: it may be too large to load at once."""
        home = self._home_of(root(acc), body.unit, body.stage)
        if home.buffer.space == Space.DRAM and root(acc) is acc:
            return compact_view(home.buffer, acc.type.shape)
        return self.view(acc, body)

    def end(self, sweep: Sweep, body: Body, only_global: bool = False) -> None:
        """Stores of what the sweep folded, after the loops that fold it."""
        unit = body.unit
        for node in sweep.nodes:
            context = self.units.loop_axes(node)
            own = self.units.own_axes(node)
            if own == context:
                continue
            over_points = unit.axis in context - own if unit.axis is not None else False
            if unit.kind == "evaluations" and unit.axis is not None and over_points != only_global:
                continue
            home = self.unit_home.get(node) or self.global_home.get(node)
            if node.op == "matmul_tn" and home is not None and home.buffer.space == Space.DRAM:
                continue  # `_accumulate_in_dram` has stored it
            self._stores(node, body)

    def folded_together(self, steps: Sequence[Step], tiles: Sequence[Context], group: Body, number: int) -> list[Body]:
        """The body around each tile: one for those over whose rows gradients are folded at once, else `group`.

        `number` is that of the first tile.
        """
        count = self.choices.tiling.gradient_tiles
        found = [group] * len(tiles)
        if count == 1:
            return found
        axis = list(tiles[0])[-1]
        folded = [s.node for s in steps if isinstance(s, NodeStep) and s.node.op == "matmul_tn"]
        values = {root(o) for n in folded if self.units.folded_by_loops(n) for o in n.operands[:2]}
        shared = frozenset(v for v in values if self._by_rows(v, axis, {**group.context, **tiles[0]}, group.unit))
        for first in range(0, len(tiles) // count * count, count):
            at = tiles[first][axis]
            rows = [{**tiles[first], axis: replace(at, start=at.start + i * at.extent)} for i in range(count)]
            if list(tiles[first : first + count]) == rows:
                context = {**group.context, **tiles[first], axis: replace(at, extent=count * at.extent)}
                last, stage = number + first + count - 1, group.stage
                around = Body(
                    group.unit, context, last, group.level, group.ops, parent=group, stage=stage, shared=shared
                )
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
