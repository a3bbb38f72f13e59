"""Folds over rows around the loops that fold them: start values before, stores after."""

from __future__ import annotations

from pintac.backend.bodies.operations import Bodies
from pintac.backend.bodies.placement import Home
from pintac.backend.bodies.values import Body, start_of
from pintac.backend.grouping.kinds import root
from pintac.backend.grouping.units import Sweep, Unit, accumulator
from pintac.backend.tiles import vpu
from pintac.backend.tiles.tile import Buffer, CopyOp, View
from pintac.backend.tiles.views import compact_view, narrow
from pintac.ir import Node
from pintac.ir.ops import REDUCTIONS
from pintac.isa import Space


class Folds(Bodies):
    """Appends to bodies what comes before and after the loops of a sweep."""

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
                self._start_spilled(node, home, body)
                continue
            view = self._stored_view(node, node, home, unit, body.context)
            if acc is not None:
                body.ops.append(vpu.copy(self.view(acc, body), view, f"start {node.name}", node.loc))
                continue
            body.ops.append(start_of(node, view))

    def _starts_here(self, node: Node, unit: Unit, sweep: Sweep, only_global: bool) -> bool:
        """Whether `node` is a fold over rows that starts before these loops."""
        if node.op not in ("matmul_tn", *REDUCTIONS):
            return False
        missing = self._context_axes(node, unit, sweep) - self._own_axes(node, unit)
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

    def _end(self, sweep: Sweep, unit: Unit, body: Body, only_global: bool = False) -> None:
        """Stores of what the sweep folded, after the loops that fold it."""
        for node in sweep.nodes:
            context = self._context_axes(node, unit, sweep)
            own = self._own_axes(node, unit)
            if own == context:
                continue
            over_points = unit.axis in context - own if unit.axis is not None else False
            if unit.kind == "evaluations" and unit.axis is not None and over_points != only_global:
                continue
            home = self.unit_home.get(node) or self.global_home.get(node)
            if node.op == "matmul_tn" and home is not None and home.buffer.space == Space.DRAM:
                continue  # `_accumulate_in_dram` has stored it
            self._stores(node, body)
