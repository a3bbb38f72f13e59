"""Drawn schedules of moves through SRAM: what allocation and synchronisation are tested on."""

from __future__ import annotations

from hypothesis import strategies as st

from pintac.backend.tiles import vpu
from pintac.backend.tiles.tile import Buffer, CopyOp, Item, Loop
from pintac.backend.tiles.views import compact_view, narrow
from pintac.ir import Location
from pintac.isa import Space

HERE = Location("net.py", 12)
ROWS, COLS = 4, 8
TRIPS = 3


def sram(name: str, rows: int = ROWS, ring: int = 1, level: int = 0) -> Buffer:
    return Buffer(name, rows * COLS, ring=ring, ring_level=level)


def dram(name: str, addr: int, rows: int = ROWS) -> Buffer:
    return Buffer(name, rows * COLS, space=Space.DRAM, addr=addr)


def load(source: Buffer, target: Buffer, step: int = 0, level: int = 0) -> CopyOp:
    rows = target.size // COLS
    whole = compact_view(source, (source.size // COLS, COLS))
    part = narrow(whole, 0, 0, rows, (level, step) if step else None)
    return CopyOp(f"load {target.name}", HERE, part, compact_view(target, (rows, COLS)))


def store(source: Buffer, target: Buffer, step: int = 0, level: int = 0) -> CopyOp:
    rows = source.size // COLS
    whole = compact_view(target, (target.size // COLS, COLS))
    part = narrow(whole, 0, 0, rows, (level, step) if step else None)
    return CopyOp(f"store {source.name}", HERE, compact_view(source, (rows, COLS)), part)


def move(source: Buffer, target: Buffer) -> Item:
    rows = min(source.size, target.size) // COLS
    views = [narrow(compact_view(b, (b.size // COLS, COLS)), 0, 0, rows) for b in (source, target)]
    return vpu.copy(views[0], views[1], f"{source.name} to {target.name}", HERE)


@st.composite
def schedules(draw: st.DrawFn) -> list[Item]:
    """Loads, moves and stores, some in loops; every buffer is written before it is read."""
    source, out = dram("source", 0, ROWS * TRIPS), dram("out", 4 * ROWS * TRIPS * COLS, ROWS * TRIPS)
    buffers: list[Buffer] = []

    def straight(level: int | None) -> list[Item]:
        items: list[Item] = []
        for _ in range(draw(st.integers(1, 6))):
            kind = draw(st.sampled_from(["load", "move", "move", "store"]))
            ring = 2 if level is not None and draw(st.booleans()) else 1
            step = ROWS if level is not None else 0
            if kind == "load" or not buffers:
                target = sram(f"b{len(buffers)}", draw(st.integers(1, ROWS)), ring, level or 0)
                buffers.append(target)
                items.append(load(source, target, step, level or 0))
            elif kind == "move":
                old = draw(st.sampled_from(buffers))
                new = sram(f"b{len(buffers)}", old.size // COLS, ring, level or 0)
                buffers.append(new)
                items.append(move(old, new))
            else:
                items.append(store(draw(st.sampled_from(buffers)), out, step, level or 0))
        return items

    items: list[Item] = []
    for _ in range(draw(st.integers(1, 3))):
        before = len(buffers)
        if draw(st.booleans()):
            items += straight(None)
            continue
        items.append(Loop(0, TRIPS, straight(0)))
        outside = [b for b in buffers[before:] if b.ring == 1]
        buffers[before:] = outside  # a ring has a meaning inside its loop only
    if buffers:
        items.append(store(buffers[-1], out))
    return items
