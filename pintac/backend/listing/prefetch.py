"""Loads of states go ahead of the last loop where SRAM has room: the bus is idle while that loop computes.

What an optimizer reads (parameters, moments) is in DRAM from the beginning, but its loads would be listed, and so
wait, behind all loops. Moving them changes no value: nothing before them writes what they read.
"""

from __future__ import annotations

from collections.abc import Sequence

from pintac.backend.listing.allocate import SramFullError, allocate
from pintac.backend.tiles.tile import Buffer, CopyOp, Item, Loop, TileOp, walk
from pintac.isa import Queue, Space
from pintac.machine import Machine

SHARES = (1.0, 0.75, 0.5, 0.25)
"""Parts of the loads that are tried, from the first on."""


def prefetch(items: list[Item], machine: Machine) -> tuple[list[Item], int]:
    """The schedule with as many loads as fit ahead of the last loop, with addresses, and the bytes of SRAM used."""
    loops = [i for i, item in enumerate(items) if isinstance(item, Loop)]
    if loops:
        at = loops[-1]
        loads = movable(items, at)
        for share in SHARES if loads else ():
            chosen = set(loads[: max(1, round(share * len(loads)))])
            rest = [item for item in items[at:] if item not in chosen]
            moved = [*items[:at], *(item for item in items[at:] if item in chosen), *rest]
            try:
                return moved, allocate(moved, machine, apart=True)
            except SramFullError:
                continue
    return items, allocate(items, machine, apart=True)


def movable(items: Sequence[Item], at: int) -> list[Item]:
    """Loads behind `at` whose source nothing writes and whose target nothing uses between there and them."""
    written: set[Buffer] = set()
    used: set[Buffer] = set()
    out: list[Item] = []
    for op, _ in walk(list(items[:at])):
        if isinstance(op, TileOp):
            written.update(view.buffer for view in op.writes())
    for item in items[at:]:
        if isinstance(item, CopyOp) and item.queue == Queue.LOAD:
            source, target = item.source.buffer, item.target.buffer
            free = target not in used and target not in written and target.space == Space.SRAM and target.ring == 1
            if free and source not in written and target.arena is None:
                out.append(item)
                continue
        for op, _ in walk([item]):
            if isinstance(op, TileOp):
                used.update(view.buffer for view in (*op.reads(), *op.writes()))
                written.update(view.buffer for view in op.writes())
    return out
