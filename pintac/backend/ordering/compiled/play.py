# mypy: ignore-errors
"""Cycles of an order: the queues, each in its order, operation by operation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from pintac.backend.ordering.compiled.body import (
    BEGUN,
    BUS,
    BUSY,
    COMPUTE,
    DEST,
    DMA,
    DONE,
    FAR,
    FIRST,
    HANDOVER,
    LAST,
    LOAD,
    MARK,
    NOW,
    PORT,
    QUEUE,
    STORE,
    TAIL,
    TCU,
    VPU,
    tensor_run,
    tensor_start,
)


class Transfers(NamedTuple):
    """Loads and stores that are to be played: the `count` operations of each queue in their order, how many are `left`.

    Of the next one: its place in that order and that of its iteration in `until`; when it asks for the bus, -1 while
    that is not known; whether its first plane has been moved.
    """

    own: np.ndarray
    count: np.ndarray
    left: np.ndarray
    place: np.ndarray
    base: np.ndarray
    asks: np.ndarray
    half: np.ndarray


@njit(cache=True)
def complete_at(waits, i, base, until):
    """When all that an operation of the iteration from `base` waits for is there; -1: not known yet."""
    ready = 0
    for p in range(waits.at[i], waits.at[i + 1]):
        x = base + waits.of[p]
        if x >= 0:
            if until[x] < 0:
                return -1
            ready = max(ready, until[x])
    return ready


@njit(cache=True)
def transfer(ops, waits, queues, units, until, lost):
    """Let the next one take the bus, the queue that can begin first or else the load."""
    k, soonest = 0, FAR
    for c in range(2):
        if queues.left[c] and queues.asks[c] < 0:
            queues.asks[c] = complete_at(waits, queues.own[c, queues.place[c]], queues.base[c], until)
        if queues.left[c] and queues.asks[c] >= 0:
            when = max(units[NOW + DMA[c]], queues.asks[c])
            if when < soonest:
                k, soonest = c, when
    i = queues.own[k, queues.place[k]]
    start = max(soonest, units[BUS])
    busy = ops[i, COMPUTE] if queues.half[k] else ops[i, BUSY]
    units[BUS] = start + busy
    lost[i] = start - units[NOW + DMA[k]]
    units[NOW + DMA[k]] = start
    units[DONE + DMA[k]] = max(units[DONE + DMA[k]], start + busy + ops[i, TAIL])
    queues.half[k] = ops[i, COMPUTE] > 0 and not queues.half[k]
    if not queues.half[k]:
        until[queues.base[k] + i] = units[DONE + DMA[k]] + HANDOVER
        queues.asks[k] = -1
        queues.left[k] -= 1
        queues.place[k] += 1
        if queues.place[k] == queues.count[k]:
            queues.place[k] = 0
            queues.base[k] += len(ops)


@njit(cache=True)
def run(body, waits, order, begin, end, pause, mark, limit, units, until, lost):
    """Iterations `begin` to `end` of a body in this order, from where the units are in `units` and behind `until`.

    `waits` is what an operation waits for (`waited_for`). The queues run by themselves, each in its order; transfers
    take the bus in the order in which they ask. `lost` are the cycles that its unit waits before or in each operation.
    Afterwards `until` says when what waits for an operation may go on, one iteration after the other, and `units` when
    the units are free. The vector unit pauses before iteration `pause`, and whole `turns` before it, when all that is
    read there (`ends`) is there. Goes no further when a unit comes to iteration `mark` later than `limit`: False.

    The tensor and the vector unit are played as far as they get; then both wait for transfers, so that whichever asks
    first is known.
    """
    ops = body.ops
    n = len(ops)
    until[begin * n : end * n] = -1
    tensor, vector = np.empty(n, np.int64), np.empty(n, np.int64)
    own = np.empty((2, n), np.int64)
    tensors = vectors = loads = stores = 0
    for i in order:
        q = ops[i, QUEUE]
        if q == TCU:
            tensor[tensors] = i
            tensors += 1
        elif q == VPU:
            vector[vectors] = i
            vectors += 1
        elif q == LOAD:
            own[0, loads] = i
            loads += 1
        else:
            own[1, stores] = i
            stores += 1
    count = np.array([loads, stores])
    queues = Transfers(
        own, count, (end - begin) * count, np.zeros(2, np.int64), np.full(2, begin * n), np.full(2, -1),
        np.zeros(2, np.bool_)
    )  # fmt: skip
    now_tcu, now_vpu, done_tcu, done_vpu = units[NOW + TCU], units[NOW + VPU], units[DONE + TCU], units[DONE + VPU]
    port, begun, first, last = units[PORT], units[BEGUN], units[FIRST], units[LAST]
    mark_tcu = mark_vpu = 0
    t = v = 0
    t_base = v_base = begin * n
    mark_base, final = mark * n, end * n
    while True:
        went = False
        while t_base < final and tensors:
            i = tensor[t]
            ready = complete_at(waits, i, t_base, until)
            if ready < 0:
                break
            if t == 0 and t_base == mark_base:
                mark_tcu = now_tcu
                if now_tcu > limit:
                    return False
            start = tensor_start(ops, i, now_tcu, ready, last, begun, first)
            lost[i] = start - now_tcu + max(0, port - start - ops[i, COMPUTE])
            now_tcu, port, first, done = tensor_run(ops, i, start, port)
            last, begun = ops[i, DEST], start + 1
            done_tcu = max(done_tcu, done)
            until[t_base + i] = done_tcu + HANDOVER
            went = True
            t += 1
            if t == tensors:
                t = 0
                t_base += n
        while v_base < final and vectors:
            i = vector[v]
            ready = complete_at(waits, i, v_base, until)
            if ready < 0:
                break
            if v == 0:
                if v_base == mark_base:
                    mark_vpu = now_vpu
                    if now_vpu > limit:
                        return False
                if v_base and (pause - v_base // n) % body.turns == 0:
                    known = 0
                    for e in body.ends:
                        when = until[v_base - n + e]
                        known = -1 if known < 0 or when < 0 else max(known, when)
                    if known < 0:
                        break
                    now_vpu = max(now_vpu, known) + body.pause
            start = max(now_vpu, ready)
            lost[i] = start - now_vpu
            now_vpu = start + ops[i, BUSY]
            done_vpu = max(done_vpu, now_vpu + ops[i, TAIL])
            until[v_base + i] = done_vpu + HANDOVER
            went = True
            v += 1
            if v == vectors:
                v = 0
                v_base += n
        if not went:
            if queues.left[0] == 0 and queues.left[1] == 0:
                break
            transfer(ops, waits, queues, units, until, lost)
    units[NOW + TCU], units[NOW + VPU], units[DONE + TCU], units[DONE + VPU] = now_tcu, now_vpu, done_tcu, done_vpu
    units[PORT], units[LAST], units[BEGUN], units[FIRST] = port, last, begun, first
    units[MARK] = max(mark_tcu, mark_vpu)
    return True


@njit(cache=True)
def play(body, waits, order, units, until, lost):
    """Cycles of one iteration of a body that goes round and round in this order; of straight code to its end."""
    units[:] = 0
    units[LAST] = -1
    run(body, waits, order, 0, body.rounds, body.rounds - 1, 2, FAR, units, until, lost)
    if body.rounds == 1:
        return max(units[DONE + TCU], units[DONE + VPU], units[DONE + LOAD], units[DONE + STORE])
    return max(body.traffic, (max(units[NOW + TCU], units[NOW + VPU]) - units[MARK]) // (body.rounds - 2))


@njit(cache=True)
def settle(body, waits, order, warm, units, until, lost):
    """Let the units settle, `warm`, for `go_on` with other orders; the cycles that it has for this one."""
    n = len(order)
    warm[:] = 0
    warm[LAST] = -1
    if body.rounds > 1:
        run(body, waits, order, 0, 2, 3, -1, FAR, warm, until, lost)
        until[:n] = until[n : 2 * n]
    return go_on(body, waits, order, FAR, warm, units, until, lost)


@njit(cache=True)
def go_on(body, waits, order, limit, warm, units, until, lost):
    """Cycles as `play` has them, nearly: two iterations that go on from where another order left the units (`settle`).

    `FAR` where the first one is not over at `limit`.
    """
    if body.rounds == 1:
        return play(body, waits, order, units, until, lost)
    units[:] = warm
    if not run(body, waits, order, 1, 3, 2, 2, limit, units, until, lost):
        return FAR
    return max(body.traffic, (max(units[NOW + TCU], units[NOW + VPU]) - max(warm[NOW + TCU], warm[NOW + VPU])) // 2)
