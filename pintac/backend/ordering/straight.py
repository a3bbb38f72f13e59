"""The straight code between two loops as one run of operations, whichever units they are of.

What ends a loop over points, the remainder of its rows, the gradients of small tensors and the optimizer's work on them
are units of their own, but nothing keeps the queues from running them side by side. They are ordered together, in the
memory that nothing else has there: without that limit all loads and results come early, and there is no room.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby

from pintac.backend.listing.allocate import lifetimes
from pintac.backend.ordering.order import (
    CHAINS,
    LONG,
    MANY,
    NoOrderError,
    Ordered,
    Search,
    order,
)
from pintac.backend.tiles.costs import work
from pintac.backend.tiles.tile import Item, Loop, TileOp, walk
from pintac.isa import Space
from pintac.machine import Machine

TRIES = 50
"""Random changes of the best list schedule."""
SLACK = 2048
"""Bytes that are left free, because buffers do not fill the memory without gaps."""
DESERVES = 0.02
"""Part of the cycles of the entry from which on a run is worth the whole search: with less, less of it."""
LEAST_MOVES = 4000
"""Moves that are not worth looking at a run for: its units stay in the orders that they have."""


def joined(
    items: Sequence[Item], machine: Machine, moves: int, worth: float, cycles: Mapping[TileOp, int], entry: int
) -> tuple[list[Item], int]:
    """The schedule with such runs in good orders, and the change of the predicted cycles.

    A run is looked at if it has `worth` cycles of work, in up to `moves` moves. `cycles` are those predicted so far, by
    the first operation of what was ordered together; `entry` those of the whole entry. Runs are ordered side by side;
    what comes out does not depend on how many processors there are.
    """
    lives = {b: life for b, life in lifetimes(items).items() if b.space == Space.SRAM}
    runs: list[list[Item]] = [list(found) for _, found in groupby(items, lambda item: isinstance(item, Loop))]
    orders: list[Future[Ordered] | None] = []
    at = 0
    with ThreadPoolExecutor(CHAINS) as pool:
        for run in runs:
            end = at + sum(1 for _ in walk(run))
            ops = [op for op in run if isinstance(op, TileOp)]
            deserved = moves * _deserved(ops, machine, worth, entry)
            found = None
            if deserved >= LEAST_MOVES:
                own = frozenset(b for b, n in lives.items() if at <= n.first and n.last < end and b.arena is None)
                near = {b.arena[0] if b.arena else b for b, n in lives.items() if n.last >= at and n.first < end}
                room = machine.sram_kib * 1024 - sum(b.bytes for b in near - own) - SLACK
                few = round(deserved * min(1.0, MANY / len(ops)))
                how = Search(TRIES, few, max(0, room), loop=False, local=own)
                found = pool.submit(order, ops, machine, how)
            orders.append(found)
            at = end
    out: list[Item] = []
    change = 0
    for run, found in zip(runs, orders, strict=True):
        with contextlib.suppress(NoOrderError):
            if found is not None:
                better = found.result()
                change += better.cycles - sum(cycles.get(op, 0) for op in better.ops)
                out += better.ops
                continue
        out += run
    return out, change


def _deserved(ops: Sequence[TileOp], machine: Machine, worth: float, entry: int) -> float:
    """Part of the search that straight code deserves; none for loops and for what would take seconds an attempt."""
    busy = work(ops, machine)
    if busy < worth or len(ops) > LONG:
        return 0.0
    return min(1.0, busy / max(1.0, DESERVES * entry))
