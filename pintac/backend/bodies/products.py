"""Matrix products of a loop body: where their results go, and in which parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pintac.backend.bodies.placement import Home
from pintac.backend.bodies.streamed import strip_columns
from pintac.backend.bodies.strips import in_strips
from pintac.backend.bodies.values import Body, Passing, Values
from pintac.backend.grouping.kinds import VIEWS, root
from pintac.backend.grouping.units import accumulator
from pintac.backend.tiles import vpu
from pintac.backend.tiles.tile import Buffer, CopyOp, MatmulOp, View
from pintac.backend.tiles.views import broadcast, column_parts, compact_size, compact_view, narrow, row_blocks
from pintac.cost_matmul import best_dataflow
from pintac.ir import Node
from pintac.isa import Space

ACCUMULATOR_TILE_BYTES = 32768
"""Part of a spilled accumulator that is in SRAM at a time."""
SMALL_RESULT = 8
"""A matmul result smaller than this part of PSUM is better off in SRAM when that costs no time."""


@dataclass(frozen=True)
class Right:
    """The right operand of a product: `columns` gives (first, how many) of its columns, at most `widest` at a time."""

    bits: int
    transposed: bool
    widest: int
    columns: Callable[[int, int], View]


class Products(Values):
    """Appends to bodies the operations of matrix products."""

    def _parts(self, shape: tuple[int, ...], fitting: int) -> list[tuple[int, int]]:
        """(first column, columns) of the parts of results of this shape: as many as `fitting` of them fit PSUM."""
        rows = compact_size((*shape[:-1], 1), 0, padded=True)
        widest = max(4, self.machine.psum_kib * 1024 // fitting // (4 * rows) // 4 * 4)
        return column_parts(shape[-1], -(-shape[-1] // widest))

    def _contraction(self, node: Node, body: Body, passing: Passing) -> None:
        if node.op == "matmul_tn":
            self._matmul_tn(node, body)
        else:
            self._matmul(node, body, passing)

    def _matmul(self, node: Node, body: Body, passing: Passing) -> None:
        a, right = self.view(node.operands[0], body), self._right(node, body)
        shape = self._virtual_shape(node, body.unit, frozenset(), body.context)
        n, k = shape[-1], a.shape[-1]
        acc = accumulator(node)
        padded = self._padded(node, a, shape)
        rows = compact_size((*shape[:-1], 1), 0, padded)
        targets: list[tuple[int, int, View]] = []
        psum = passing.psum.get(node)
        half = self.machine.psum_kib * 1024 // 2
        parts = self._parts(shape, passing.fitting)
        small = self._aside(a.bits, right.bits, rows, n, k)
        if psum is not None and (len(parts) == 1 or psum) and 16 * rows <= half and not small:
            chunks = []
            for start, width in parts:
                name = f"{node.name}.{body.tile}.{start}"
                buffer = Buffer(name, rows * width, space=Space.PSUM, owner=node, padded=padded)
                chunks.append((start, width, buffer))
                targets.append((start, width, compact_view(buffer, (*shape[:-1], width))))
            if len(chunks) == 1:
                body.local[node] = chunks[0][2]
            else:
                body.chunks[node] = chunks
        else:
            if padded and self._sram_home(node, body.unit) is None:
                self._new_local(node, body, padded=True)
            targets.append((0, n, self._target(node, body)))
        for start, width, target in targets:
            if acc is not None:
                begin = broadcast(self.view(acc, body), shape)
                body.ops.append(vpu.copy(begin, target, f"start {node.name}", node.loc))
            for rows_a, rows_d, m in row_blocks(a, target):
                piece = min(self._piece(m, k, width, a.bits, right.bits, target), right.widest)
                for at in range(0, width, piece):
                    cols = min(piece, width - at)
                    strip = right.columns(start + at, cols)
                    out = narrow(rows_d, 1, at, cols) if cols != width else rows_d
                    tb = right.transposed
                    body.ops.append(
                        MatmulOp(node.name, node.loc, rows_a, strip, out, m, cols, k, tb=tb, accumulate=acc is not None)
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

    def _right(self, node: Node, body: Body) -> Right:
        """The right operand of a product: in SRAM, or strip by strip from DRAM."""
        operand, transposed = node.operands[1], bool(node.attrs["transpose_b"])
        axis, n, k = (0, *operand.shape) if transposed else (1, *operand.shape[::-1])
        source = root(operand)
        if source not in self.streamed or source not in self.choices.spilled:
            b = self.view(operand, body)
            return Right(b.bits, transposed, n, lambda start, cols: narrow(b, axis, start, cols))
        home = self._home_of(source, body.unit, body.stage)
        found: dict[tuple[int, int], View] = {}
        bits = home.buffer.bits

        def strip(start: int, cols: int) -> View:
            if (start, cols) not in found:
                shape = (cols, k) if transposed else (k, cols)
                buffer = Buffer(f"{source.name}.{body.tile}.{start}", compact_size(shape, bits), bits)
                self.unit_of[buffer] = body.unit
                local = found[start, cols] = compact_view(buffer, shape)
                for remote, part in self._strip_parts(node, home, body, start, local):
                    body.ops.append(CopyOp(f"load {source.name}", operand.loc, remote, part))
            return found[start, cols]

        return Right(bits, transposed, strip_columns(k, bits, self.machine.sram_kib * 1024), strip)

    def _strip_parts(
        self, node: Node, home: Home, body: Body, start: int, local: View
    ) -> Iterator[tuple[View, View]]:
        """Where in DRAM a product's columns from `start` on are, and where in `local` they go."""
        operand, transposed = node.operands[1], bool(node.attrs["transpose_b"])
        axis = 0 if transposed else 1
        cols = local.shape[axis]
        if home.strips is None:
            remote = self._stored_view(operand, root(operand), home, body.unit, body.context)
            yield narrow(remote, axis, start, cols), local
        elif transposed:
            for first, strips in home.strips.of_all_columns():
                remote = narrow(strips, 1, start, cols)
                yield remote, in_strips(local, first, remote)
        else:
            for first, remote in home.strips.of_columns(start, cols):
                yield remote, in_strips(local, first, remote)

    def _aside(self, a: int, b: int, rows: int, n: int, k: int) -> bool:
        """Whether a small result goes to SRAM, where writing it takes no longer, and leaves PSUM to large ones."""
        if 4 * rows * n > self.machine.psum_kib * 1024 // SMALL_RESULT:
            return False
        here, there = (
            best_dataflow(rows, k, n, a, b, self.machine, to_sram=to_sram) for to_sram in (False, True)
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
        m, n = node.type.shape
        if self.units.folded_by_loops(node):
            whole = _folding(node, body)
            if body.tile == whole.tile:  # the last one: with the rows of all
                a, g = self.view(node.operands[0], whole), self.view(node.operands[1], whole)
                home = self.unit_home.get(node) or self.global_home[node]
                self._accumulate(node, a, g, self._stored_view(node, node, home, body.unit, body.context), m, n, body)
            return
        a, g = self.view(node.operands[0], body), self.view(node.operands[1], body)
        target = self._target(node, body)
        acc = accumulator(node)
        if acc is not None:
            body.ops.append(vpu.copy(self.view(acc, body), target, f"start {node.name}", node.loc))
        self._accumulate(node, a, g, target, m, n, body, acc is not None)
        self._stores(node, body)

    def _kept_in_dram(self, node: Node) -> bool:
        """Whether loops add to the value in DRAM, because SRAM is too small for it."""
        if node.op != "matmul_tn" or not self.units.folded_by_loops(node):
            return False
        return (self.unit_home.get(node) or self.global_home[node]).buffer.space == Space.DRAM

    def _accumulate_in_dram(self, node: Node, bodies: list[Body]) -> None:
        """Part by part: loaded, added to by all tiles of the loop body, stored."""
        m = node.type.shape[0]
        whole = compact_view((self.unit_home.get(node) or self.global_home[node]).buffer, node.type.shape)
        folding = dict.fromkeys(_folding(node, body) for body in bodies)
        operands = [[self.view(o, body) for o in node.operands[:2]] for body in folding]
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

    def _accumulator_parts(self, node: Node) -> list[tuple[int, int]]:
        rows, cols = node.type.shape
        most = min(ACCUMULATOR_TILE_BYTES, self.machine.sram_kib * 1024 // 16)
        step = max(4, most // (4 * rows) // 4 * 4)
        return [(c, min(step, cols - c)) for c in range(0, cols, step)]


def _folding(node: Node, body: Body) -> Body:
    """The body over whose rows a gradient is folded: that of several tiles where all of them share its operands."""
    parent = body.parent
    together = parent is not None and all(root(o) in parent.shared for o in node.operands[:2])
    return parent if parent is not None and together else body


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    return [n for n in shape if n != 1]
