"""The order of a loop body: list scheduling on the four units, and room for its results in PSUM.

The listing's order is its meaning, so only what depends keeps its order; among the rest the operation that can start
first goes first, the longest way to the end breaking ties. PSUM results get their addresses here, because when a slot
is free is what limits how far the tensor unit can run ahead.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import defaultdict
from collections.abc import Sequence

from pintac.backend.tile import Buffer, CopyOp, MatmulOp, TileOp, View, VpuOp
from pintac.ir import Node
from pintac.isa import Queue, Space
from pintac.machine import Machine


class PsumFullError(Exception):
    """Results in PSUM wait for work that itself needs PSUM: `owners` must go to SRAM."""

    def __init__(self, owners: set[Node]) -> None:
        super().__init__("PSUM is full")
        self.owners = owners


def order(ops: Sequence[TileOp], machine: Machine) -> list[TileOp]:
    """The operations in a good order; assigns `addr` to every PSUM buffer among them."""
    if not ops:
        return []
    before, after = dependencies(ops)
    costs = [cost(op, machine) for op in ops]
    urgency = [0.0] * len(ops)
    for i in reversed(range(len(ops))):
        urgency[i] = costs[i] + max((urgency[j] for j in after[i]), default=0.0)
    return _list_schedule(ops, before, after, costs, urgency, machine)


def cost(op: TileOp, machine: Machine) -> float:
    """Cycles of an operation, near enough to choose an order by."""
    if isinstance(op, MatmulOp):
        blocks = math.ceil(op.m / 4) * math.ceil(op.n / 4) * math.ceil(op.k / 4)
        passes = math.ceil(op.a.bits / 4) * math.ceil(op.b.bits / 4)
        write = op.m * op.n / machine.psum_write_fp32_per_cycle
        return max(blocks * passes / (machine.bme_rows * machine.bme_cols), write) + 8
    if isinstance(op, VpuOp):
        return math.prod(op.shape) / machine.vpu_lanes + 8
    assert isinstance(op, CopyOp)
    size = math.prod(op.source.shape) * (op.source.bits / 8 if op.source.bits else 4)
    return size * machine.clock_ghz / machine.dram_gb_per_s + 8


def span(view: View) -> tuple[int, int]:
    """First and last element (or block) of a view, at equal loop indices."""
    last = view.offset
    for axis, (size, stride) in enumerate(zip(view.shape, view.strides, strict=True)):
        in_blocks = view.bits and axis >= len(view.shape) - 2
        last += ((math.ceil(size / 4) if in_blocks else size) - 1) * stride
    return view.offset, last


def dependencies(ops: Sequence[TileOp]) -> tuple[list[set[int]], list[set[int]]]:
    """For each operation those it must follow and those that must follow it (views of one buffer that overlap)."""
    before: list[set[int]] = [set() for _ in ops]
    after: list[set[int]] = [set() for _ in ops]
    touched: dict[Buffer, list[tuple[int, int, int, bool]]] = defaultdict(list)
    for i, op in enumerate(ops):
        accesses = [(v, False) for v in op.reads()] + [(v, True) for v in op.writes()]
        for view, write in accesses:
            low, high = span(view)
            for j, l2, h2, w2 in touched[view.buffer]:
                if j != i and (write or w2) and low <= h2 and l2 <= high:
                    before[i].add(j)
                    after[j].add(i)
        for view, write in accesses:
            touched[view.buffer].append((i, *span(view), write))
    return before, after


class _Psum:
    """First-fit allocation of PSUM while the schedule is made."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used: list[tuple[int, int, Buffer]] = []

    def place(self, buffer: Buffer) -> bool:
        at = 0
        for start, end, _ in sorted(self.used, key=lambda u: u[0]):
            if start - at >= buffer.bytes:
                break
            at = max(at, end)
        if at + buffer.bytes > self.capacity:
            return False
        buffer.addr = at
        self.used.append((at, at + buffer.bytes, buffer))
        return True

    def free(self, buffer: Buffer) -> None:
        self.used = [u for u in self.used if u[2] is not buffer]


def _list_schedule(
    ops: Sequence[TileOp],
    before: list[set[int]],
    after: list[set[int]],
    costs: list[float],
    urgency: list[float],
    machine: Machine,
) -> list[TileOp]:
    missing = [len(b) for b in before]
    ready_at = [0.0] * len(ops)
    free_at = dict.fromkeys(Queue, 0.0)
    psum = _Psum(machine.psum_kib * 1024)
    readers: dict[Buffer, int] = defaultdict(int)
    for op in ops:
        for view in op.reads():
            if view.buffer.space == Space.PSUM:
                readers[view.buffer] += 1
    releases: list[tuple[float, int, Buffer]] = []  # when, which in order of release (breaks ties), what
    ready = {i for i, n in enumerate(missing) if n == 0}
    out: list[int] = []
    number = itertools.count()
    now = 0.0
    while ready:
        while releases and releases[0][0] <= now:
            psum.free(heapq.heappop(releases)[2])
        best: tuple[float, float, int] | None = None
        for i in ready:
            start = max(ready_at[i], free_at[ops[i].queue])
            if not _has_room(ops[i], psum):
                continue
            candidate = (start, -urgency[i], i)
            if best is None or candidate < best:
                best = candidate
        if best is None:
            if not releases:
                raise PsumFullError({u[2].owner for u in psum.used if u[2].owner is not None})
            now = releases[0][0]
            continue
        start, _, i = best
        if releases and start > releases[0][0]:
            now = releases[0][0]  # room that opens before then may let something else start earlier
            continue
        ready.remove(i)
        out.append(i)
        now = max(now, start)
        end = start + costs[i]
        free_at[ops[i].queue] = end
        for view in ops[i].reads():
            if view.buffer.space == Space.PSUM:
                readers[view.buffer] -= 1
                if readers[view.buffer] == 0:
                    heapq.heappush(releases, (end, next(number), view.buffer))
        for j in after[i]:
            missing[j] -= 1
            ready_at[j] = max(ready_at[j], end)
            if missing[j] == 0:
                ready.add(j)
    return [ops[i] for i in out]


def _has_room(op: TileOp, psum: _Psum) -> bool:
    """Whether the PSUM results of `op` have a place, giving it to them."""
    for view in op.writes():
        if view.buffer.space == Space.PSUM and view.buffer.addr is None and not psum.place(view.buffer):
            return False
    return True
