"""Semaphores: every pair of conflicting accesses in different queues is ordered by a signal and a wait.

Each loop body is analysed by itself, an inner loop counting as one node that touches what any of its iterations
touches. Two accesses conflict when they touch the same bytes and one writes; at distance d (iterations of the body's
loop) the later one is moved by d steps and d ring slots. A conflict from node j to a later node i of the same
iteration becomes a semaphore with credit 0, one from j to i of a later iteration a semaphore with that distance as
credit. What is ordered already, directly or through a third queue, gets none. A loop whose body is one inner loop
is analysed together with it, so that entering the inner loop again is one more distance-1 iteration.

`pintac.hazards` checks the result on the instructions, knowing nothing of this.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pintac.backend.tile import Buffer, Item, Loop, Sync, TileOp, View
from pintac.errors import DoesNotFitError
from pintac.isa import MAX_SEMAPHORES, Queue, Semaphore

DISTANCES = (0, 1, 2)
"""Iterations apart that are looked at; rings have at most two slots, so a third repeats the first."""

CAPACITY = (1 << 20) - 1


@dataclass(frozen=True)
class Access:
    """Bytes touched: hull [low, high) at index 0 of every loop around, and how loops move it."""

    queue: Queue
    write: bool
    buffer: Buffer
    space: int
    low: int
    high: int
    row: int  # bytes of a row and from row to row when it is a plain strided matrix, else 0
    stride: int
    steps: tuple[tuple[int, int], ...]
    ring_level: int
    ring: int
    ring_bytes: int


def accesses(op: TileOp) -> list[Access]:
    """The accesses of an operation: a view of SMX data touches two planes."""
    out = []
    for views, write in ((op.reads(), False), (op.writes(), True)):
        for view in views:
            out += _planes(op.queue, view, write)
    return out


def _planes(queue: Queue, view: View, write: bool) -> list[Access]:
    buffer = view.buffer
    assert buffer.addr is not None, f"{buffer.name} has no address"
    shape = list(view.shape)
    if view.bits:
        shape[-2:] = [-(-shape[-2] // 4), -(-shape[-1] // 4)]
    planes = ((buffer.addr, 2 * view.bits), (buffer.eaddr, 1)) if view.bits else ((buffer.addr, 4),)
    out = []
    for base, unit in planes:
        axes = [(n, s * unit) for n, s in zip(shape, view.strides, strict=True) if n != 1 and s]
        low = base + view.offset * unit
        high = low + sum((n - 1) * s for n, s in axes) + unit
        row = stride = 0
        if len(axes) == 2 and axes[1][1] == unit and axes[0][1] > axes[1][0] * unit:
            row, stride = axes[1][0] * unit, axes[0][1]
        steps = tuple((level, step * unit) for level, step in view.steps)
        ring_bytes = buffer.size * unit
        out.append(
            Access(
                queue, write, buffer, int(buffer.space), low, high, row, stride, steps,
                buffer.ring_level if buffer.ring > 1 else -1, buffer.ring, ring_bytes,
            )
        )  # fmt: skip
    return out


def _swept(access: Access, loop: Loop) -> Access:
    """The access over all iterations of a loop."""
    steps = dict(access.steps)
    move = steps.pop(loop.level, 0) * (loop.count - 1)
    low, high = access.low + min(0, move), access.high + max(0, move)
    ring_level, ring = access.ring_level, access.ring
    if ring_level == loop.level:
        high += (ring - 1) * access.ring_bytes
        ring_level, ring = -1, 1
    changed = move or ring != access.ring
    return replace(
        access, low=low, high=high, steps=tuple(sorted(steps.items())), ring_level=ring_level, ring=ring,
        row=0 if changed else access.row, stride=0 if changed else access.stride,
    )  # fmt: skip


class Synchronizer:
    """Inserts signals and waits into a schedule; `semaphores` are those it needed."""

    def __init__(self, first: int = 0) -> None:
        self.semaphores: list[Semaphore] = []
        self.first = first

    def insert(self, items: Sequence[Item]) -> list[Item]:
        """The schedule with signals and waits."""
        result, _ = self._body(list(items), None, ())
        return result

    def _body(self, items: list[Item], loop: Loop | None, around: tuple[Loop, ...]) -> tuple[list[Item], list[Access]]:
        nodes: list[Item] = []
        touched: list[list[Access]] = []
        inside = (*around, loop) if loop is not None else around
        for item in items:
            if isinstance(item, Loop):
                body, inner = self._body(item.body, item, inside)
                nodes.append(Loop(item.level, item.count, body, item.name))
                touched.append(_unique(_swept(a, item) for a in inner))
            else:
                assert isinstance(item, TileOp)
                nodes.append(item)
                touched.append(accesses(item))
        perfect = loop is not None and len(items) == 1 and isinstance(items[0], Loop)
        if not perfect:
            wrap = around[-1] if loop is not None and around and _only_child(around[-1], loop) else None
            nodes = self._place(nodes, self._edges(touched, loop, wrap, inside))
        return nodes, [a for t in touched for a in t]

    # ---- which edges

    def _edges(
        self, touched: list[list[Access]], loop: Loop | None, wrap: Loop | None, inside: tuple[Loop, ...]
    ) -> list[tuple[int, Queue, int, Queue, int]]:
        """(node, queue) -> (node, queue) at a distance, in the order found."""
        conflict = [_conflicts(touched, loop, wrap, inside, d) for d in (DISTANCES if loop is not None else (0,))]
        n = len(touched)
        queues = [sorted({a.queue for a in t}) for t in touched]
        known = {q: dict.fromkeys(Queue, -1) for q in Queue}
        snapshots: dict[tuple[Queue, int], dict[Queue, int]] = {}
        edges: dict[tuple[int, Queue, int, Queue, int], None] = {}
        for turn in range(len(conflict)):
            for i in range(n):
                position = turn * n + i
                for qb in queues[i]:
                    for qa in Queue:
                        if qa == qb:
                            continue
                        need = -1
                        for distance in range(turn + 1):
                            row = conflict[distance].get((qa, qb))
                            if row is None:
                                continue
                            column = row[:, i]
                            if distance == 0:
                                column = column[:i]
                            hits = np.flatnonzero(column)
                            if hits.size:
                                need = max(need, (turn - distance) * n + int(hits[-1]))
                        if need > known[qb][qa]:
                            edges[need % n, qa, i, qb, turn - need // n] = None
                            known[qb][qa] = need
                            for q, p in snapshots.get((qa, need), {}).items():
                                known[qb][q] = max(known[qb][q], p)
                for q in queues[i]:
                    snapshots[q, position] = dict(known[q])
        return list(edges)

    # ---- where they go

    def _place(self, nodes: list[Item], edges: Iterable[tuple[int, Queue, int, Queue, int]]) -> list[Item]:
        waits: dict[int, list[Item]] = {}
        signals: dict[int, list[Item]] = {}
        for j, qa, i, qb, distance in edges:
            number = self.first + len(self.semaphores)
            if number >= MAX_SEMAPHORES:
                raise DoesNotFitError(
                    f"the schedule needs more than {MAX_SEMAPHORES} semaphores", hint="fewer tiles in a loop body"
                )
            self.semaphores.append(Semaphore(number, qa, qb, distance, CAPACITY))
            signals.setdefault(j, []).append(Sync(qa, number, True))
            waits.setdefault(i, []).append(Sync(qb, number, False))
        out: list[Item] = []
        for i, node in enumerate(nodes):
            out += [*waits.get(i, ()), node, *signals.get(i, ())]
        return out


def _only_child(outer: Loop, inner: Loop) -> bool:
    return len(outer.body) == 1 and outer.body[0] is inner


def _unique(found: Iterable[Access]) -> list[Access]:
    return list(dict.fromkeys(found))


def _conflicts(
    touched: list[list[Access]], loop: Loop | None, wrap: Loop | None, inside: tuple[Loop, ...], distance: int
) -> dict[tuple[Queue, Queue], np.ndarray]:
    """For each pair of queues: does access of node j (row) conflict with node i (column) `distance` iterations on."""
    flat = [(node, a) for node, found in enumerate(touched) for a in found]
    n = len(touched)
    if not flat:
        return {}
    every = [a for _, a in flat]
    node = np.array([k for k, _ in flat])
    queue = np.array([a.queue for a in every])
    write = np.array([a.write for a in every])
    space = np.array([a.space for a in every])
    ids = {b: k for k, b in enumerate(dict.fromkeys(a.buffer for a in every))}
    buffer = np.array([ids[a.buffer] for a in every])
    low, high = np.array([a.low for a in every]), np.array([a.high for a in every])
    row, stride = np.array([a.row for a in every]), np.array([a.stride for a in every])
    level = loop.level if loop is not None else -1
    step = np.array([dict(a.steps).get(level, 0) for a in every])
    wrap_step = np.array([dict(a.steps).get(wrap.level, 0) for a in every]) if wrap is not None else np.zeros_like(step)
    outer = [tuple((lv, s) for lv, s in a.steps if lv != level and (wrap is None or lv != wrap.level)) for a in every]
    outer_ids = {o: k for k, o in enumerate(dict.fromkeys(outer))}
    outside = np.array([outer_ids[o] for o in outer])
    ring_level = np.array([a.ring_level for a in every])
    ring = np.array([a.ring for a in every])
    # Everything the access can touch, whatever the loops' indices: for pairs that do not move together.
    counts = {lp.level: lp.count for lp in inside}
    moves = [[s * (counts.get(lv, 1) - 1) for lv, s in a.steps] for a in every]
    wide_low = low + np.array([sum(min(0, m) for m in ms) for ms in moves])
    slots = np.array([(a.ring - 1) * a.ring_bytes for a in every])
    wide_high = high + slots + np.array([sum(max(0, m) for m in ms) for ms in moves])

    pair = (space[:, None] == space) & (queue[:, None] != queue) & (write[:, None] | write)
    together = (step[:, None] == step) & (wrap_step[:, None] == wrap_step) & (outside[:, None] == outside)
    together &= (ring[:, None] == 1) & (ring == 1) | (buffer[:, None] == buffer)
    wide = (wide_low[:, None] < wide_high) & (wide_low < wide_high[:, None])

    def narrow(shift: np.ndarray, turns: int) -> np.ndarray:
        """Overlap when the later access has moved by `shift` bytes and `turns` iterations of the loop's index."""
        lo, hi = low + shift, high + shift
        hit = (low[:, None] < hi) & (lo < high[:, None])
        same_rows = (stride[:, None] == stride) & (stride > 0)
        gap = (lo - low[:, None]) % np.maximum(stride, 1)
        back = (low[:, None] - lo) % np.maximum(stride, 1)
        hit &= ~same_rows | (gap < row[:, None]) | (back < row)
        ringed = (buffer[:, None] == buffer) & (ring > 1) & (ring_level == level)
        hit &= ~ringed | (turns % np.maximum(ring, 1) == 0)
        return hit

    hit = narrow(distance * step, distance)
    if wrap is not None and loop is not None and distance:
        back = distance - loop.count
        hit |= narrow(wrap_step + back * step, back)
    found = pair & np.where(together, hit, wide)
    out: dict[tuple[Queue, Queue], np.ndarray] = {}
    for qa in Queue:
        for qb in Queue:
            if qa != qb:
                where = found & (queue[:, None] == qa) & (queue == qb)
                a, b = np.nonzero(where)
                if a.size:
                    matrix = np.zeros((n, n), bool)
                    matrix[node[a], node[b]] = True
                    out[qa, qb] = matrix
    return out
