"""The operations of a loop body: kernels, contractions and copies over the views that the placement gives them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pintac.backend import vpu
from pintac.backend.choices import Choices, Entry
from pintac.backend.fuse import CONTRACTIONS, SINKS, VIEWS, Index, KernelStep, NodeStep, Step, Value, is_splat, root
from pintac.backend.placement import Context, Home, Placement
from pintac.backend.tile import Buffer, CopyOp, IndexView, MatmulOp, TileOp, View, VpuOp
from pintac.backend.units import Unit, Units, accumulator
from pintac.backend.views import (
    broadcast,
    column_parts,
    compact_size,
    compact_strides,
    compact_view,
    narrow,
    row_blocks,
)
from pintac.cost_matmul import best_dataflow
from pintac.errors import IRError
from pintac.ir import Node
from pintac.ir.ops import integer, ints
from pintac.isa import Space

ACCUMULATOR_TILE_BYTES = 32768
"""Part of a spilled accumulator that is in SRAM at a time."""
SMALL_RESULT = 8
"""A matmul result smaller than this part of PSUM is better off in SRAM when that costs no time."""


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
    group: bool = False  # what the tiles of one point in one loop body share
    common: dict[Node, Buffer] = field(default_factory=dict)  # of a group: what those of all points share
    stage: int = 0  # of a pipelined loop over points
    trips: int = 1  # how often it runs

    def find(self, node: Node) -> Buffer | None:
        """The local buffer of `node`, in this body or one around it."""
        found = self.local.get(node) or self.common.get(node)
        return found or (self.parent.find(node) if self.parent is not None else None)


@dataclass(eq=False)
class Chunks:
    """A matmul result in PSUM, cut along its columns: (first column, columns, buffer)."""

    parts: list[tuple[int, int, Buffer]] = field(default_factory=list)


@dataclass(frozen=True)
class Passing:
    """Values that pass from step to step of a tile only.

    `psum`: matmul results that stay in PSUM, True: they may be cut along their columns. `cut`: results of kernels that
    may be. `fitting`: how many parts of results PSUM holds, more than a kernel reads.
    """

    psum: dict[Node, bool]
    cut: set[Node]
    fitting: int


def start_of(node: Node, target: View) -> VpuOp:
    """What a fold starts from, everywhere in `target`: 0, for a maximum minus infinity."""
    lowest = float("-inf") if node.op == "amax" else 0.0
    return vpu.fill(lowest, target, f"start {node.name}", node.loc)


class Bodies(Placement):
    """Appends to bodies the operations that compute values."""

    def __init__(self, entry: Entry, choices: Choices, units: Units, together: Mapping[Unit, int]) -> None:
        super().__init__(entry, choices, units, together)
        self.machine = entry.machine
        self.unit_of: dict[Buffer, Unit] = {}  # of tile buffers
        self.chunked: dict[tuple[Node, int], Chunks] = {}
        self.tile_of: dict[TileOp, tuple[int, int]] = {}  # (stage, tile) of an operation
        self.outputs_of: dict[Node, list[tuple[str, Node]]] = {}
        for key, node in entry.graph.outputs.items():
            self.outputs_of.setdefault(root(node), []).append((key, node))

    # ---- values

    def view(self, node: Node, body: Body) -> View:
        """What `node` is in this body, loading it first when it lives in DRAM."""
        for start in [node, *reversed(self._chain(node)[:-1]), root(node)]:
            local = body.find(start)
            if local is not None:
                return self._stored_view(node, start, Home(local, frozenset()), body.unit, body.context)
        source = root(node)
        home = self._home_of(source, body.unit, body.stage)
        if home.buffer.space != Space.DRAM:
            return self._stored_view(node, source, home, body.unit, body.context)
        self._load(node, home, body)
        return self.view(node, body)

    def _load(self, node: Node, home: Home, body: Body) -> None:
        """Bring a value from DRAM to the outermost body in which its rows do not change."""
        source = root(node)
        axes = {t for t in self.units.tags(node, body.unit) if t in body.context}
        what = source if {t for t in self.units.tags(source, body.unit) if t in body.context} == axes else node
        target = body
        streamed = source in self.choices.spilled
        while target.parent is not None and not (axes & (set(target.context) - set(target.parent.context))):
            if streamed and target.group:
                break
            target = target.parent
        shape = self._virtual_shape(what, body.unit, frozenset(), target.context)
        bits = what.type.bits if what.type.is_smx else 0
        buffer = Buffer(f"{what.name}.in", compact_size(shape if len(shape) > 1 else (1, *shape), bits), bits)
        in_tile = target.group or (target.parent is not None and target.parent.group)
        if target.level >= 0 and body.unit.kind == "evaluations" and not in_tile:
            buffer.ring, buffer.ring_level = 2, target.level  # a tile's loads are ordered with its work, early enough
        (target.common if target.group and not axes else target.local)[what] = buffer
        self.unit_of[buffer] = body.unit
        local = self._stored_view(what, what, Home(buffer, frozenset()), body.unit, target.context)
        remote = self._stored_view(what, source, home, body.unit, target.context)
        target.ops.append(CopyOp(f"load {what.name}", what.loc, remote, local))

    def _new_local(self, node: Node, body: Body, padded: bool = False) -> Buffer:
        shape = self._virtual_shape(node, body.unit, frozenset(), body.context)
        bits = node.type.bits if node.type.is_smx else 0
        size = compact_size(shape if len(shape) > 1 else (1, *shape), bits, padded)
        buffer = Buffer(f"{node.name}.{body.tile}", size, bits, padded=padded)
        body.local[node] = buffer
        self.unit_of[buffer] = body.unit
        return buffer

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
            target = self._stored_view(value, value, Home(self.entry.outputs[key], None), body.unit, body.context)
            body.ops.append(CopyOp(f"output {key}", value.loc, source, target))

    def _finished_view(self, value: Node, node: Node, body: Body) -> View:
        home = self._sram_home(node, body.unit) or Home(body.local[node], frozenset())
        return self._stored_view(value, node, home, body.unit, body.context)

    def _key(self, node: Node, unit: Unit) -> tuple[object, ...]:
        """What a kernel over `node` iterates over: extents of the tile, leading axes of size 1 left out."""
        out: list[object] = []
        for size, tag in zip(node.type.shape, self.units.tags(node, unit), strict=True):
            single = tag is not None and (tag.kind == "sign" or (tag.kind == "points" and unit.kind == "evaluations"))
            out.append(1 if size == 1 or single else (size if tag is None else tag))
        out = [1] * (2 - len(out)) + out
        return (*(e for e in out[:-2] if e != 1), *out[-2:])

    def _accumulator_parts(self, node: Node) -> list[tuple[int, int]]:
        rows, cols = node.type.shape
        most = min(ACCUMULATOR_TILE_BYTES, self.machine.sram_kib * 1024 // 16)
        step = max(4, most // (4 * rows) // 4 * 4)
        return [(c, min(step, cols - c)) for c in range(0, cols, step)]

    # ---- steps

    def _run(self, steps: Sequence[Step], bodies: list[Body], passing: Passing | None = None) -> None:
        """Every step for every tile of the body, step by step (independent tiles interleave).

        `passing` is that of all steps when these are only some of them.
        """
        self._passing = passing or self._passing_values(steps, bodies[0].unit)
        for step in steps:
            if isinstance(step, NodeStep) and self._kept_in_dram(step.node):
                self._accumulate_in_dram(step.node, bodies)
                continue
            for body in bodies:
                before = len(body.ops)
                if isinstance(step, KernelStep):
                    self._kernel(step, body)
                elif step.node.op in CONTRACTIONS:
                    self._contraction(step.node, body)
                else:
                    self._copies(step.node, body)
                self.tile_of |= dict.fromkeys(body.ops[before:], (body.stage, body.tile))

    def _passing_values(self, steps: Sequence[Step], unit: Unit) -> Passing:
        psum = self._psum_values(steps, unit)
        together = [
            len({root(s.node) for s in step.sources if isinstance(s, Value) and psum.get(root(s.node), False)})
            for step in steps
            if isinstance(step, KernelStep)
        ]
        return Passing(psum, self._cut_values(steps, unit), self.choices.tiling.parts * max([1, *together]))

    def _psum_values(self, steps: Sequence[Step], unit: Unit) -> dict[Node, bool]:
        """Matmul results that can stay in PSUM; True: they may be cut along their columns."""
        makers = {s.node for s in steps if isinstance(s, NodeStep) and s.node.op == "matmul"}
        out: dict[Node, bool] = {}
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
                        same = source.node is node and self._key(source.node, unit) == self._key(step.shape_of, unit)
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
            same = node.op not in VIEWS and self._key(node, unit) == self._key(step.shape_of, unit)
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

    def _parts(self, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        """(first column, columns) of the parts into which results of this shape are cut: some fit PSUM at a time."""
        rows = compact_size((*shape[:-1], 1), 0, padded=True)
        widest = max(4, self.machine.psum_kib * 1024 // self._passing.fitting // (4 * rows) // 4 * 4)
        return column_parts(shape[-1], -(-shape[-1] // widest))

    def _kernel(self, step: KernelStep, body: Body) -> None:
        shape_node = step.shape_of
        shape = self._virtual_shape(shape_node, body.unit, frozenset(), body.context)
        shape = (1,) * (2 - len(shape)) + shape
        own = {n for n in step.targets if n in self._passing.cut}
        parts = self._parts(shape) if own else [(0, shape[-1])]
        for source in step.sources:
            if isinstance(source, Value) and (source.node, body.tile) in self.chunked:
                chunks = self.chunked[source.node, body.tile]
                parts = [(c, w) for c, w, _ in chunks.parts]
        sources = [self._source(s, body) for s in step.sources]
        if len(parts) > 1:
            for node in own:
                self._cut_local(node, parts, body)
        targets = [
            self._sink(node, shape_node, body) if (node, body.tile) not in self.chunked else None
            for node in step.targets
        ]
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
            ops.append(vpu.operation(kernel, (*shape[:-1], width), ins, outs, name, step.loc_node.loc))
        for i, (node, target, sink) in enumerate(zip(step.targets, targets, kernel.sinks, strict=True)):
            if target is not None and sink.accumulate and not self._folded(node):
                if all(vpu.folds_whole(op, i) for op in ops) and len({op.sinks[i].offset for op in ops}) == len(ops):
                    ops = [vpu.without_start(op, i) for op in ops]
                else:
                    body.ops.append(start_of(node, target))
        body.ops += ops
        for node in step.targets:
            if node.op in SINKS and self._folded(node):
                continue  # stored when the fold is complete
            self._stores(node, body)

    def _cut_local(self, node: Node, parts: list[tuple[int, int]], body: Body) -> None:
        """Tile buffers for a value, one for each part of its columns."""
        shape = self._virtual_shape(node, body.unit, frozenset(), body.context)
        chunks = self.chunked[node, body.tile] = Chunks()
        for start, width in parts:
            buffer = Buffer(f"{node.name}.{body.tile}.{start}", math.prod(shape[:-1]) * width)
            self.unit_of[buffer] = body.unit
            chunks.parts.append((start, width, buffer))

    def _source(self, source: Value | Index, body: Body) -> View | IndexView | None:
        if isinstance(source, Index):
            node = source.node
            shape = node.type.shape
            view = IndexView(shape, compact_strides(shape, 0))
            for axis, tag in enumerate(self.units.tags(node, body.unit)):
                if tag is not None and tag in body.context:
                    at = body.context[tag]
                    view = narrow(view, axis, at.start, at.extent, (at.level, at.step))
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
            return self._chunk(source.node, start, width, body)
        if len(view.shape) == 0 or view.shape[-1] == 1 or (start == 0 and width == shape[-1]):
            return view
        return narrow(view, len(view.shape) - 1, start, width)

    def _chunk(self, node: Node, start: int, width: int, body: Body) -> View:
        """A part of a value that is cut along its columns."""
        buffer = next(b for c, _, b in self.chunked[node, body.tile].parts if c == start)
        whole = self._virtual_shape(node, body.unit, frozenset(), body.context)
        return compact_view(buffer, (*whole[:-1], width))

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
        padded = self._padded(node, a, shape)
        rows = compact_size((*shape[:-1], 1), 0, padded)
        targets: list[tuple[int, int, View]] = []
        psum = self._passing.psum.get(node)
        half = self.machine.psum_kib * 1024 // 2
        parts = self._parts(shape)
        if psum is not None and (len(parts) == 1 or psum) and 16 * rows <= half and not self._aside(a, b, rows, n, k):
            chunks = Chunks()
            for start, width in parts:
                name = f"{node.name}.{body.tile}.{start}"
                buffer = Buffer(name, rows * width, space=Space.PSUM, owner=node, padded=padded)
                chunks.parts.append((start, width, buffer))
                targets.append((start, width, compact_view(buffer, (*shape[:-1], width))))
            if len(chunks.parts) == 1:
                body.local[node] = chunks.parts[0][2]
            else:
                self.chunked[node, body.tile] = chunks
        else:
            if padded and self._sram_home(node, body.unit) is None:
                self._new_local(node, body, padded=True)
            targets.append((0, n, self._target(node, body)))
        for start, width, target in targets:
            if acc is not None:
                begin = broadcast(self.view(acc, body), shape)
                body.ops.append(vpu.copy(begin, target, f"start {node.name}", node.loc))
            for rows_a, rows_d, m in row_blocks(a, target):
                piece = self._piece(m, k, width, a.bits, b.bits, target)
                for at in range(0, width, piece):
                    cols = min(piece, width - at)
                    right = narrow(b, 0 if tb else 1, start + at, cols) if cols != n else b
                    out = narrow(rows_d, 1, at, cols) if cols != width else rows_d
                    body.ops.append(
                        MatmulOp(node.name, node.loc, rows_a, right, out, m, cols, k, tb=tb, accumulate=acc is not None)
                    )
        self._stores(node, body)

    def _padded(self, node: Node, a: View, shape: tuple[int, ...]) -> bool:
        """Whether the result is laid out as its left operand is, so that one product covers all leading indices."""
        if not a.bits or len(shape) < 3 or shape[-2] % 4 == 0 or math.prod(shape[:-2]) == 1:
            return False
        if accumulator(node) is not None:
            return False  # its start value has no padding
        if node in self.unit_home or node in self.global_home or node in self.outputs_of:
            return False
        stack = list(self.graph.users(node))
        while stack:  # a view may not join rows that lie apart
            user = stack.pop()
            if user.op == "reshape" and _without_ones(user.shape) != _without_ones(user.operands[0].shape):
                return False
            stack += self.graph.users(user) if user.op in VIEWS else []
        return True

    def _aside(self, a: View, b: View, rows: int, n: int, k: int) -> bool:
        """Whether a small result goes to SRAM, where writing it takes no longer, and leaves PSUM to large ones."""
        if 4 * rows * n > self.machine.psum_kib * 1024 // SMALL_RESULT:
            return False
        here, there = (
            best_dataflow(rows, k, n, a.bits, b.bits, self.machine, to_sram=to_sram) for to_sram in (False, True)
        )
        return there.busy <= here.busy

    def _piece(self, m: int, k: int, n: int, bits_a: int, bits_b: int, target: View) -> int:
        """Columns of an instruction: where results take longer to write than to compute, a pass each.

        Other work can then go between the passes while results are written (`split_results`: where that is worth it).
        """
        mapping = best_dataflow(m, k, n, bits_a, bits_b, self.machine, to_sram=target.buffer.space == Space.SRAM)
        if not self.choices.tiling.split_results or mapping.passes == 1 or mapping.drain <= mapping.compute:
            return n
        return max(4, -(-n // mapping.passes // 4) * 4)

    def _matmul_tn(self, node: Node, body: Body) -> None:
        a, g = self.view(node.operands[0], body), self.view(node.operands[1], body)
        m, n = node.type.shape
        if not self._folded(node):
            target = self._target(node, body)
            acc = accumulator(node)
            if acc is not None:
                body.ops.append(vpu.copy(self.view(acc, body), target, f"start {node.name}", node.loc))
            self._accumulate(node, a, g, target, m, n, body, acc is not None)
            self._stores(node, body)
            return
        home = self.unit_home.get(node) or self.global_home[node]
        self._accumulate(node, a, g, self._stored_view(node, node, home, body.unit, body.context), m, n, body)

    def _kept_in_dram(self, node: Node) -> bool:
        """Whether loops add to the value in DRAM, because SRAM is too small for it."""
        if node.op != "matmul_tn" or not self._folded(node):
            return False
        return (self.unit_home.get(node) or self.global_home[node]).buffer.space == Space.DRAM

    def _accumulate_in_dram(self, node: Node, bodies: list[Body]) -> None:
        """Part by part: loaded, added to by all tiles of the loop body, stored."""
        m = node.type.shape[0]
        whole = compact_view((self.unit_home.get(node) or self.global_home[node]).buffer, node.type.shape)
        operands = [[self.view(o, body) for o in node.operands[:2]] for body in bodies]
        last = bodies[-1]
        before = len(last.ops)
        for start, cols in self._accumulator_parts(node):
            part = narrow(whole, 1, start, cols)
            buffer = Buffer(f"{node.name}.{start}", m * cols)
            self.unit_of[buffer] = last.unit
            local = compact_view(buffer, part.shape)
            last.ops.append(CopyOp(f"load {node.name}", node.loc, part, local))
            for a, g in operands:
                self._accumulate(node, a, narrow(g, len(g.shape) - 1, start, cols), local, m, cols, last)
            last.ops.append(CopyOp(f"store {node.name}", node.loc, local, part))
        self.tile_of |= dict.fromkeys(last.ops[before:], (last.stage, last.tile))

    def _accumulate(
        self, node: Node, a: View, g: View, target: View, m: int, n: int, body: Body, accumulate: bool = True
    ) -> None:
        for rows_a, rows_g, k in row_blocks(a, g):
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


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    return [n for n in shape if n != 1]
