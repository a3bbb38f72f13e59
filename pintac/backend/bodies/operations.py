"""The operations of a loop body: kernels, contractions and copies over the views that the placement gives them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pintac.backend.bodies.placement import at_position
from pintac.backend.bodies.products import Products
from pintac.backend.bodies.values import Body, Passing, start_of
from pintac.backend.grouping.fuse import Index, KernelStep, NodeStep, Step, Value
from pintac.backend.grouping.kinds import CONTRACTIONS, SINKS, VIEWS, is_splat, root
from pintac.backend.grouping.units import Unit, accumulator
from pintac.backend.tiles import vpu
from pintac.backend.tiles.tile import Buffer, IndexView, View, VpuOp
from pintac.backend.tiles.views import compact_strides, compact_view, narrow
from pintac.errors import IRError
from pintac.ir import Node
from pintac.ir.attrs import integer, ints
from pintac.ir.ops import REDUCTIONS


class Bodies(Products):
    """Appends to bodies the operations that compute values."""

    def run(self, steps: Sequence[Step], bodies: list[Body], passing: Passing | None = None) -> None:
        """Every step for every tile of the body, step by step (independent tiles interleave).

        `passing` is that of all steps when these are only some of them.
        """
        passing = passing or self.passing(steps, bodies[0].unit)
        for step in steps:
            if isinstance(step, NodeStep) and self._kept_in_dram(step.node):
                self._accumulate_in_dram(step.node, bodies)
                continue
            for body in bodies:
                before = len(body.ops)
                if isinstance(step, KernelStep):
                    self._kernel(step, body, passing)
                elif step.node.op in CONTRACTIONS:
                    self._contraction(step.node, body, passing)
                else:
                    self._copies(step.node, body)
                self.tile_of |= dict.fromkeys(body.ops[before:], (body.stage, body.tile))

    def passing(self, steps: Sequence[Step], unit: Unit) -> Passing:
        """What passes from step to step in tiles of this unit."""
        psum = self._psum_values(steps, unit)
        together = [
            len({root(s.node) for s in step.sources if isinstance(s, Value) and psum.get(root(s.node), False)})
            for step in steps
            if isinstance(step, KernelStep)
        ]
        return Passing(psum, frozenset(self._cut_values(steps, unit)), self.choices.tiling.parts * max([1, *together]))

    def _psum_values(self, steps: Sequence[Step], unit: Unit) -> dict[Node, bool]:
        """Matmul results that can stay in PSUM; True: they may be cut along their columns."""
        makers = dict.fromkeys(s.node for s in steps if isinstance(s, NodeStep) and s.node.op == "matmul")
        out: dict[Node, bool] = {}
        key = self.units.key
        for node in makers:
            if unit.kind == "global" or node in self.unit_home or node in self.global_home or node in self.outputs_of:
                continue
            if accumulator(node) is not None or node in self.choices.not_in_psum:
                continue
            cuttable = whole = True
            for step in steps:
                if isinstance(step, NodeStep):
                    if any(root(o) is node for o in step.node.operands):
                        whole = False
                    continue
                for source in step.sources:
                    if isinstance(source, Value) and root(source.node) is node:
                        same = source.node is node and key(source.node, unit) == key(step.shape_of, unit)
                        folds = any(s.kind in vpu.FOLDS_COLS for s in step.kernel.sinks)
                        cuttable = cuttable and same and not folds
            if whole:
                out[node] = cuttable
        return out

    def _cut_values(self, steps: Sequence[Step], unit: Unit) -> set[Node]:
        """fp32 results of kernels that only kernels over the same rows and columns read."""
        out: set[Node] = set()
        if unit.kind not in ("points", "evaluations"):
            return out

        def along_columns(node: Node, step: KernelStep) -> bool:
            same = node.op not in VIEWS and self.units.key(node, unit) == self.units.key(step.shape_of, unit)
            return same and not any(s.kind in vpu.FOLDS_COLS for s in step.kernel.sinks)

        kernels = [s for s in steps if isinstance(s, KernelStep)]
        for kernel in kernels:
            for node in kernel.targets:
                kept = node in self.unit_home or node in self.global_home or node in self.outputs_of
                if node.op not in SINKS and not kept and along_columns(node, kernel):
                    out.add(node)
        for step in steps:
            if isinstance(step, KernelStep):
                read = [s.node for s in step.sources if isinstance(s, Value)]
                out -= {root(node) for node in read if not along_columns(node, step)}
            else:
                out -= {root(o) for o in step.node.operands}
        return out

    def _kernel(self, step: KernelStep, body: Body, passing: Passing) -> None:
        shape_node = step.shape_of
        shape = self._virtual_shape(shape_node, body.unit, frozenset(), body.context)
        shape = (1,) * (2 - len(shape)) + shape
        packed = self.units.packed_rows(shape_node)
        own = [n for n in step.targets if n in passing.cut]
        matrix = shape if packed is None else (math.prod(shape[:-1]), shape[-1])
        parts = self._parts(matrix, passing.fitting) if own else [(0, shape[-1])]
        for source in step.sources:
            if isinstance(source, Value) and source.node in body.chunks:
                parts = [(c, w) for c, w, _ in body.chunks[source.node]]
        sources = [self._source(s, body) for s in step.sources]
        if len(parts) > 1:
            for node in own:
                self._cut_local(node, parts, body)
        targets = [self._sink(node, shape_node, body) if node not in body.chunks else None for node in step.targets]
        kernel = replace(
            step.kernel,
            sinks=tuple(
                replace(s, accumulate=s.kind in vpu.FOLDS_ROWS and self._accumulates(n))
                for s, n in zip(step.kernel.sinks, step.targets, strict=True)
            ),
        )
        ops: list[VpuOp] = []
        for start, width in parts:
            ins = [self._cut(v, s, start, width, shape, body) for v, s in zip(sources, step.sources, strict=True)]
            outs = [
                self._chunk(n, start, width, body)
                if v is None
                else (v if k.kind in vpu.FOLDS_COLS else narrow(v, len(v.shape) - 1, start, width))
                for v, k, n in zip(targets, kernel.sinks, step.targets, strict=True)
            ]
            name = "+".join(n.name for n in step.targets)
            make = vpu.operation if packed is None else vpu.packed_operation
            ops.append(make(kernel, (*shape[:-1], width), ins, outs, name, step.loc_node.loc))
        for i, (node, target, sink) in enumerate(zip(step.targets, targets, kernel.sinks, strict=True)):
            if target is not None and sink.accumulate and not self.units.folded_by_loops(node):
                if all(vpu.folds_whole(op, i) for op in ops) and len({op.sinks[i].offset for op in ops}) == len(ops):
                    ops = [vpu.without_start(op, i) for op in ops]
                else:
                    body.ops.append(start_of(node, target))
        body.ops += ops
        for node in step.targets:
            if node.op in SINKS and self.units.folded_by_loops(node):
                continue  # stored when the fold is complete
            self._stores(node, body)

    def _cut_local(self, node: Node, parts: list[tuple[int, int]], body: Body) -> None:
        """Tile buffers for a value, one for each part of its columns."""
        shape = self._virtual_shape(node, body.unit, frozenset(), body.context)
        chunks = body.chunks[node] = []
        for start, width in parts:
            buffer = Buffer(f"{node.name}.{body.tile}.{start}", math.prod(shape[:-1]) * width)
            self.unit_of[buffer] = body.unit
            chunks.append((start, width, buffer))

    def _source(self, source: Value | Index, body: Body) -> View | IndexView | None:
        if isinstance(source, Index):
            node = source.node
            shape = node.type.shape
            view = IndexView(shape, compact_strides(shape, 0))
            for axis, (tag, each) in enumerate(self._rows(node, body.unit)):
                if tag is not None and tag in body.context:
                    view = at_position(view, axis, body.context[tag], each)
            return view
        if source.node in body.chunks:
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
            return self._chunk(source.node, start, width, body)
        if len(view.shape) == 0 or view.shape[-1] == 1 or (start == 0 and width == shape[-1]):
            return view
        return narrow(view, len(view.shape) - 1, start, width)

    def _chunk(self, node: Node, start: int, width: int, body: Body) -> View:
        """A part of a value that is cut along its columns."""
        buffer = next(b for c, _, b in body.chunks[node] if c == start)
        whole = self._virtual_shape(node, body.unit, frozenset(), body.context)
        return compact_view(buffer, (*whole[:-1], width))

    def _sink(self, node: Node, shape_node: Node, body: Body) -> View:
        """The view a kernel's sink writes, with the folded axes back as size 1."""
        view = self._target(node, body)
        if node.op in REDUCTIONS and not node.attrs["keepdims"]:
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

    def _copies(self, node: Node, body: Body) -> None:
        """concat and pad: fills and copies into slices of a new value."""
        target = self._target(node, body)
        axis = integer(node.attrs, "axis")
        at = 0
        if node.op == "pad":
            body.ops.append(vpu.fill(0.0, target, node.name, node.loc))
            at = integer(node.attrs, "before")
        for operand in node.operands:
            shape = self._virtual_shape(operand, body.unit, frozenset(), body.context)
            part = narrow(target, axis, at, shape[axis])
            if is_splat(root(operand)):
                values = root(operand).attrs["values"]
                assert isinstance(values, tuple)
                body.ops.append(vpu.fill(float(values[0]), part, node.name, node.loc))
            else:
                body.ops.append(vpu.copy(self.view(operand, body), part, node.name, node.loc))
            at += shape[axis]
        self._stores(node, body)
