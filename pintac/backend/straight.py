"""The straight code between two loops as one run of operations, whichever units they are of.

What ends a loop over points, the remainder of its rows, the gradients of small tensors and the optimizer's work on them
are units of their own, but nothing keeps the queues from running them side by side. They are ordered together, in the
memory that nothing else has there: without that limit all loads and results come early, and there is no room.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from itertools import groupby

from pintac.backend.allocate import lifetimes
from pintac.backend.order import LONG, MANY, NoRoomError, PsumFullError, Search, order, work
from pintac.backend.tile import Item, Loop, TileOp, walk
from pintac.isa import Space
from pintac.machine import Machine

TRIES = 50
"""Random changes of the best list schedule."""
SLACK = 2048
"""Bytes that are left free, because buffers do not fill the memory without gaps."""


def joined(
    items: Sequence[Item], machine: Machine, moves: int, worth: float, cycles: Mapping[TileOp, int]
) -> tuple[list[Item], int]:
    """The schedule with such runs in good orders, and the change of the predicted cycles.

    A run is looked at if it has `worth` cycles of work, in up to `moves` moves. `cycles` are those predicted so far, by
    the first operation of what was ordered together.
    """
    out: list[Item] = []
    change = 0
    lives = {b: life for b, life in lifetimes(items).items() if b.space == Space.SRAM}
    at = 0
    for looped, found in groupby(items, lambda item: isinstance(item, Loop)):
        run = list(found)
        end = at + sum(1 for _ in walk(run))
        ops = [op for op in run if isinstance(op, TileOp)]
        if not looped and len(ops) <= LONG and work(ops, machine) >= worth:
            own = frozenset(b for b, life in lives.items() if at <= life.first and life.last < end and b.arena is None)
            beside = {b.arena[0] if b.arena else b for b, n in lives.items() if n.last >= at and n.first < end} - own
            room = machine.sram_kib * 1024 - sum(b.bytes for b in beside) - SLACK
            few = round(moves * min(1.0, MANY / len(ops)))
            with contextlib.suppress(NoRoomError, PsumFullError):
                better = order(ops, machine, Search(TRIES, few, max(0, room), loop=False, local=own))
                change += better.cycles - sum(cycles.get(op, 0) for op in ops)
                run = list(better.ops)
        out += run
        at = end
    return out, change
