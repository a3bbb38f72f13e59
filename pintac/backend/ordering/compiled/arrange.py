# mypy: ignore-errors
"""List scheduling: operations in an order that units and memory allow."""

from __future__ import annotations

import numpy as np
from numba import njit

from pintac.backend.ordering.compiled.body import (
    BEGUN,
    BUS,
    BUSY,
    COMPUTE,
    DEST,
    FAR,
    FIRST,
    HANDOVER,
    HIGH,
    LAST,
    LOW,
    NOW,
    PORT,
    QUEUE,
    QUEUES,
    SIZE,
    TAIL,
    TCU,
    VPU,
    tensor_run,
    tensor_start,
)


@njit(cache=True, inline="always")
def start_of(ops, i, ready, units):
    """When an operation starts whose operands are complete at `ready`."""
    q = ops[i, QUEUE]
    if q == TCU:
        return tensor_start(ops, i, units[NOW + q], ready, units[LAST], units[BEGUN], units[FIRST])
    if q == VPU:
        return max(units[NOW + q], ready)
    return max(units[NOW + q], ready, units[BUS])


@njit(cache=True, inline="always")
def advance(ops, i, start, units):
    """Run an operation from `start`: when its results are complete."""
    q = ops[i, QUEUE]
    if q == TCU:
        units[NOW + q], units[PORT], units[FIRST], done = tensor_run(ops, i, start, units[PORT])
        units[LAST] = ops[i, DEST]
        units[BEGUN] = start + 1
        return done
    end = start + ops[i, BUSY] + ops[i, COMPUTE]
    units[NOW + q] = end
    if q != VPU:
        units[BUS] = end  # loads and stores share it
    return end + ops[i, TAIL]


@njit(cache=True)
def place(buffer, live, free, dense):
    """Where a buffer fits soonest, `dense`: where it first fits, and when: (granule, time); -1 where all is in use."""
    size, high = buffer[SIZE], buffer[HIGH]
    best, at = FAR, -1
    g = buffer[LOW]
    while g + size <= high:
        when = 0
        k = g + size - 1
        while k >= g and not live[k] and free[k] < best:
            when = max(when, free[k])
            k -= 1
        if k < g:
            best, at = when, g
            if when == 0 or dense:
                break
        g = max(g, k) + 1  # no better with granule k in it
    return at, best


@njit(cache=True)
def arrange(body, alike, plain, priority, release, slack, aversion, ahead, units, free, ready_at, order, address,
            starts):  # fmt: skip
    """Fill `order`, `address` and `starts` by list scheduling; False if memory is full of what waits for memory.

    Each unit takes, among what can start within `slack` cycles of the earliest, what has the highest priority; cycles
    lost in the result port count `aversion` times. What takes memory is at most `ahead` operations beyond the first
    in the order `plain` that still has to: with 0, memory suffices where it suffices for that order.
    """
    ops, before, after, using, buffers = body.ops, body.before, body.after, body.using, body.buffers
    n = len(ops)
    front = 0
    rank_in_plain = np.empty(n, np.int64)
    for k in range(n):
        rank_in_plain[plain[k]] = k
    missing = np.empty(n, np.int64)
    candidates, count = np.empty(n, np.int64), 0  # what can be next, in the order of `ops`
    for i in range(n):
        missing[i] = before.at[i + 1] - before.at[i]
        if missing[i] == 0:
            candidates[count] = i
            count += 1
    complete = np.zeros(QUEUES, np.int64)
    live = np.zeros(len(free), np.bool_)
    left = body.uses.copy()
    address[:] = -1
    kinds = alike.max() + 1 if len(alike) else 0
    known, known_at, known_when = np.zeros(kinds, np.bool_), np.empty(kinds, np.int64), np.empty(kinds, np.int64)
    size_of = np.zeros(kinds, np.int64)
    for b in range(len(alike)):
        size_of[alike[b]] = buffers[b, SIZE]
    soonest, chosen = np.zeros(QUEUES, np.int64), np.empty(QUEUES, np.int64)
    rank, begin = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for turn in range(n):
        soonest[:] = FAR
        while ahead < n and front < n:
            for p in range(using.at[plain[front]], using.at[plain[front] + 1]):
                if address[using.of[p]] < 0:
                    break
            else:
                front += 1
                continue
            break
        for c in range(count):
            i = candidates[c]
            ready = max(ready_at[i], release[i])
            rank[i] = FAR
            fits = True
            for p in range(using.at[i], using.at[i + 1]):
                b = using.of[p]
                if address[b] < 0:
                    kind = alike[b]
                    if not known[kind]:
                        known_at[kind], known_when[kind] = place(buffers[b], live, free, ahead == 0)
                        known[kind] = True
                    fits = fits and known_at[kind] >= 0 and rank_in_plain[i] <= front + ahead
                    ready = max(ready, known_when[kind])
            if not fits:
                continue
            begin[i] = start_of(ops, i, ready, units)
            rank[i] = begin[i]
            if ops[i, QUEUE] == TCU:
                rank[i] += aversion * max(0, units[PORT] - begin[i] - ops[i, COMPUTE])
            soonest[ops[i, QUEUE]] = min(soonest[ops[i, QUEUE]], rank[i])
        chosen[:] = -1
        for c in range(count):
            i = candidates[c]
            q = ops[i, QUEUE]
            if rank[i] < FAR and rank[i] <= soonest[q] + slack:
                if chosen[q] < 0 or priority[i] > priority[chosen[q]]:
                    chosen[q] = i
        best = -1
        for q in range(QUEUES):
            if chosen[q] >= 0 and (best < 0 or rank[chosen[q]] < rank[best]):
                best = chosen[q]
        if best < 0:
            return False
        i = best
        start = begin[best]
        for p in range(using.at[best], using.at[best + 1]):
            b = using.of[p]
            if address[b] < 0:
                at, when = place(buffers[b], live, free, ahead == 0)
                if at < 0:
                    return False
                address[b] = at
                live[at : at + buffers[b, SIZE]] = True
                start = max(start, when)
                for kind in range(kinds):  # where it lies now, nothing else does
                    if at < known_at[kind] + size_of[kind] and known_at[kind] < at + buffers[b, SIZE]:
                        known[kind] = False
        starts[best] = start
        done = advance(ops, i, start, units)
        complete[ops[i, QUEUE]] = max(complete[ops[i, QUEUE]], done)
        for p in range(using.at[best], using.at[best + 1]):
            b = using.of[p]
            left[b] -= 1
            if left[b] == 0:
                at = address[b]
                live[at : at + buffers[b, SIZE]] = False
                freed = complete[ops[i, QUEUE]] + HANDOVER
                free[at : at + buffers[b, SIZE]] = freed
                for kind in range(kinds):  # what is free sooner, or as soon and before it, stays the best place
                    if ahead == 0 or known_at[kind] < 0 or known_when[kind] >= freed:
                        known[kind] = False
        order[turn] = best
        c = 0
        while candidates[c] != best:
            c += 1
        count -= 1
        while c < count:
            candidates[c] = candidates[c + 1]
            c += 1
        for p in range(after.at[best], after.at[best + 1]):
            j = after.of[p]
            missing[j] -= 1
            if ops[j, QUEUE] != ops[i, QUEUE]:
                ready_at[j] = max(ready_at[j], complete[ops[i, QUEUE]] + HANDOVER)
            elif ops[i, QUEUE] == VPU:
                ready_at[j] = max(ready_at[j], done)
            if missing[j] == 0:
                c = count
                while c and candidates[c - 1] > j:
                    candidates[c] = candidates[c - 1]
                    c -= 1
                candidates[c] = j
                count += 1
    return True


@njit(cache=True)
def kinds_of(buffers):
    """For each buffer which kind it is of, by size and part of memory."""
    alike = np.empty(len(buffers), np.int64)
    kinds = 0
    for b in range(len(buffers)):
        alike[b] = -1
        for a in range(b):
            if buffers[a, SIZE] == buffers[b, SIZE] and buffers[a, LOW] == buffers[b, LOW]:
                alike[b] = alike[a]
                break
        if alike[b] < 0:
            alike[b] = kinds
            kinds += 1
    return alike
