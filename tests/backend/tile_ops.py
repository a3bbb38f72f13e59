"""Loop bodies of all four units over small buffers: what `order` is tested on."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

from hypothesis import strategies as st

from pintac.backend.tiles import vpu
from pintac.backend.tiles.tile import Buffer, CopyOp, MatmulOp, TileOp, View
from pintac.backend.tiles.views import compact_size, compact_view, narrow
from pintac.ir import Location
from pintac.isa import Space

HERE = Location("net.py", 12)
SIDE = 16
"""Rows and columns of a tile."""
TRIPS = 3
"""Iterations of the loop around a body in which two operations may meet."""


def tile(name: str, bits: int = 0, space: Space = Space.SRAM, rows: int = SIDE, cols: int = SIDE) -> Buffer:
    return Buffer(name, compact_size((rows, cols), bits), bits, space)


def whole(buffer: Buffer, rows: int = SIDE, cols: int = SIDE) -> View:
    return compact_view(buffer, (rows, cols))


@dataclass
class BodyOfOps:
    """Operations, and the buffers that they alone use."""

    ops: list[TileOp] = field(default_factory=list)
    local: list[Buffer] = field(default_factory=list)

    def new(self, name: str, bits: int = 0, space: Space = Space.SRAM, rows: int = SIDE, cols: int = SIDE) -> Buffer:
        """A buffer of this body, written before it is read."""
        buffer = tile(f"{name}{len(self.local)}", bits, space, rows, cols)
        self.local.append(buffer)
        return buffer

    def load(self, source: View, target: View) -> None:
        self.ops.append(CopyOp(f"load {target.buffer.name}", HERE, source, target))

    def store(self, source: View, target: View) -> None:
        self.ops.append(CopyOp(f"store {source.buffer.name}", HERE, source, target))

    def copy(self, source: View, target: View) -> None:
        """On the vector unit; quantises or decodes."""
        self.ops.append(vpu.copy(source, target, f"{source.buffer.name} to {target.buffer.name}", HERE))

    def matmul(self, a: View, b: View, d: View, accumulate: bool = False) -> None:
        (m, k), n = a.shape, b.shape[1]
        self.ops.append(MatmulOp(f"to {d.buffer.name}", HERE, a, b, d, m, n, k, accumulate=accumulate))


@st.composite
def bodies(draw: st.DrawFn) -> BodyOfOps:
    """Drawn work: values pass between the units whole or by quarters, some buffers are written again.

    The loop around the body moves through the tiles of one buffer, by one, by two or not at all.
    """
    source, out = tile("source", space=Space.DRAM), tile("out", space=Space.DRAM)
    shared, weight = tile("shared"), tile("weight", 8)
    rows = 3 * TRIPS * SIDE
    long = tile("long", rows=rows)
    source.addr, out.addr = 0, 4096
    body = BodyOfOps()
    floats = [shared]
    quantised = [weight]
    for _ in range(draw(st.integers(3, 16))):
        kinds = ["load", "quantise", "matmul", "move", "part", "again", "to long", "from long", "store"]
        kind = draw(st.sampled_from(kinds))
        if kind == "load":
            floats.append(body.new("load"))
            body.load(whole(source), whole(floats[-1]))
        elif kind == "quantise":
            new = body.new("smx", 8)
            body.copy(whole(draw(st.sampled_from(floats))), whole(new))
            quantised.append(new)
        elif kind == "matmul":
            a, b = draw(st.sampled_from(quantised)), draw(st.sampled_from(quantised))
            new = body.new("result", space=draw(st.sampled_from([Space.PSUM, Space.PSUM, Space.SRAM])))
            body.matmul(whole(a), whole(b), whole(new))
            floats.append(new)
        elif kind == "move":
            new = body.new("value")
            body.copy(whole(draw(st.sampled_from(floats))), whole(new))
            floats.append(new)
        elif kind in ("part", "again"):  # a quarter of one value over a quarter of another
            old = draw(st.sampled_from(floats))
            new = draw(st.sampled_from([f for f in floats if f.space == Space.SRAM])) if kind == "again" else shared
            axis, a, b = draw(st.integers(0, 1)), draw(st.integers(0, 3)), draw(st.integers(0, 3))
            if old is not new:
                body.copy(narrow(whole(old), axis, 4 * a, 4), narrow(whole(new), axis, 4 * b, 4))
        elif kind in ("to long", "from long"):
            at = draw(st.integers(0, TRIPS - 1)) * SIDE
            part = narrow(whole(long, rows), 0, at, SIDE, (0, draw(st.integers(0, 2)) * SIDE))
            if kind == "to long":
                body.copy(whole(draw(st.sampled_from(floats))), part)
            else:
                floats.append(body.new("value"))
                body.copy(part, whole(floats[-1]))
        else:
            kept = [f for f in floats if f.space == Space.SRAM]
            body.store(whole(draw(st.sampled_from(kept))), whole(out))
    return body


def elements(view: View, turn: int = 0) -> set[int]:
    """Elements (SMX: blocks) of a view, one by one, in an iteration of the loop of level 0."""
    shape = list(view.shape)
    if view.bits:
        shape[-2:] = [math.ceil(n / 4) for n in shape[-2:]]
    first = view.offset + turn * dict(view.steps).get(0, 0)
    return {
        first + sum(i * s for i, s in zip(index, view.strides, strict=True))
        for index in itertools.product(*map(range, shape))
    }


def conflict(a: TileOp, b: TileOp) -> bool:
    """Whether two operations touch an element in common that one of them writes, in the same iteration."""
    for first, second in ((a.writes(), [*b.reads(), *b.writes()]), (a.reads(), b.writes())):
        for x, y in itertools.product(first, second):
            if x.buffer is y.buffer and any(elements(x, turn) & elements(y, turn) for turn in range(TRIPS)):
                return True
    return False
