# mypy: ignore-errors
"""Orders improved by moves of single operations, and buffers placed anew."""

from __future__ import annotations

import numpy as np
from numba import njit

from pintac.backend.ordering.compiled.body import (
    BUSY,
    COMPUTE,
    DRAIN,
    FAR,
    HANDOVER,
    HIGH,
    LOW,
    MARK,
    PASSES,
    QUEUE,
    QUEUES,
    SIZE,
    TAIL,
    TCU,
    UNITS,
    VPU,
)
from pintac.backend.ordering.compiled.follow import followers, joined, successions, waited_for
from pintac.backend.ordering.compiled.play import go_on, play, settle
from pintac.backend.ordering.compiled.search import drawn

LATE = 20  # cycles that the first of two iterations may lose for the second to gain
ANEW = 600  # moves after which buffers get other places
FRESH = 20  # orders that are kept before the units settle anew
ENOUGH = (300, 100, 30, 0)  # cycles that memory is free before it is needed beyond which more is no better


@njit(cache=True)
def placed_for(body, order, until, address, enough):
    """Other places of the buffers for this order: each where memory is free longest before it is needed.

    Places free for `enough` cycles are as good as any. `until` is that of `play`. None fits where the first is -1.
    """
    ops, using, buffers = body.ops, body.using, body.buffers
    n, m = len(order), len(buffers)
    base = (body.rounds - 1) * n
    first, last = np.full(m, n), np.zeros(m, np.int64)
    begun, done = np.full(m, FAR), np.zeros(m, np.int64)
    period = 0
    for k in range(n):
        i = order[k]
        end = until[base + i]
        if body.rounds > 1:
            period = max(period, end - until[base - n + i])
        start = end - HANDOVER - ops[i, BUSY] - ops[i, TAIL] - ops[i, PASSES] * max(ops[i, COMPUTE], ops[i, DRAIN])
        for p in range(using.at[i], using.at[i + 1]):
            b = using.of[p]
            first[b], last[b] = min(first[b], k), k
            begun[b], done[b] = min(begun[b], start), max(done[b], end)
    closed, free, latest = np.full(body.granules, -1), np.zeros(body.granules, np.int64), np.full(body.granules, -1)
    for b in range(m):  # what the iteration before leaves, by the places of now
        for g in range(address[b], address[b] + buffers[b, SIZE]):
            if last[b] > latest[g]:
                latest[g], free[g] = last[b], done[b] - period
    found = np.full(m, -1)
    for b in np.argsort(first):
        size, least = buffers[b, SIZE], begun[b] - enough
        soonest = FAR
        at = buffers[b, LOW]
        while at + size <= buffers[b, HIGH] and soonest > least:
            when = least
            g = at + size - 1
            while g >= at and closed[g] < first[b] and free[g] < soonest:
                when = max(when, free[g])
                g -= 1
            if g < at:
                found[b], soonest = at, when
            at = max(at, g) + 1  # no better with granule g in it
        if found[b] < 0:
            found[0] = -1
            return found
        closed[found[b] : found[b] + size] = last[b]
        free[found[b] : found[b] + size] = done[b]
    return found


@njit(cache=True)
def placed_anew(body, order, until, address):
    """Other places of the buffers for this order, those of now if none fit; `until` is that of `play`."""
    if len(address):
        for enough in ENOUGH:
            found = placed_for(body, order, until, address, enough)
            if found[0] >= 0:
                return found
    return address.copy()


@njit(cache=True)
def busiest(ops):
    """The one of the tensor and the vector unit with most to do."""
    load = np.zeros(QUEUES, np.int64)
    for i in range(len(ops)):
        load[ops[i, QUEUE]] += (
            ops[i, BUSY] + ops[i, COMPUTE] + (ops[i, PASSES] - 1) * max(ops[i, COMPUTE], ops[i, DRAIN])
        )
    return TCU if load[TCU] >= load[VPU] else VPU


@njit(cache=True)
def proposed(ops, before, after, lost, order, place_of, critical, kind, seed):
    """An operation and another place in the order that it may have, -1: none. `kind`: of four, how it is chosen."""
    n = len(order)
    i = np.int64((seed >> np.uint64(20)) % np.uint64(n))
    wanted, sooner = -1, False
    if kind % 2:
        k = np.int64((seed >> np.uint64(40)) % np.uint64(n))
        for _ in range(n):  # something that the unit with most to do waits for
            if lost[order[k]] > 0 and ops[order[k], QUEUE] == critical:
                break
            k = k + 1 if k + 1 < n else 0
        x = order[k]
        if lost[x] == 0 or ops[x, QUEUE] != critical:
            return i, -1
        if kind == 1 and critical == TCU:  # work that fills the time before it
            for _ in range(n):
                if ops[i, QUEUE] == TCU and ops[i, COMPUTE] >= ops[i, DRAIN] and x != i:
                    break
                i = i + 1 if i + 1 < n else 0
            wanted = k - 1 if k > place_of[i] else k
        elif before.at[x + 1] > before.at[x]:  # or what it waits for, sooner
            p = before.at[x] + np.int64((seed >> np.uint64(20)) % np.uint64(before.at[x + 1] - before.at[x]))
            i = before.of[p]
            sooner = True
    here = place_of[i]
    low, high = 0, here if sooner else n - 1
    for p in range(before.at[i], before.at[i + 1]):
        if before.ago[p] == 0:
            low = max(low, place_of[before.of[p]] + 1)
    for p in range(after.at[i], after.at[i + 1]):
        high = min(high, place_of[after.of[p]] - 1)
    if high <= low:
        return i, -1
    target = wanted if wanted >= 0 else low + np.int64((seed >> np.uint64(40)) % np.uint64(high - low + 1))
    return i, target if low <= target <= high and target != here else -1


@njit(cache=True)
def moved(ops, order, place_of, here, target):
    """Move an operation to another place; whether its queue runs another order then."""
    i = order[here]
    step = 1 if target > here else -1
    overtaken = False
    k = here
    while k != target:
        order[k] = order[k + step]
        place_of[order[k]] = k
        overtaken = overtaken or ops[order[k], QUEUE] == ops[i, QUEUE]
        k += step
    order[target] = i
    place_of[i] = target
    return overtaken


@njit(cache=True, nogil=True)
def improve(body, moves, heat, draws, order, address):
    """Move single operations where dependencies and addresses let them, by simulated annealing: the cycles reached.

    Now and then buffers get other places, for other moves to be possible. `draws` says which random numbers decide.
    """
    ops = body.ops
    n = len(ops)
    pairs = successions(body, address, order)
    before = joined(body, pairs, body.before)
    after = followers(before)
    waits = waited_for(body, pairs)
    units, warm = np.zeros(UNITS, np.int64), np.zeros(UNITS, np.int64)
    until, lost = np.zeros(body.rounds * n, np.int64), np.zeros(n, np.int64)
    place_of = np.zeros(n, np.int64)
    for k in range(n):
        place_of[order[k]] = k
    best_cycles = play(body, waits, order, units, until, lost)
    best, best_address = order.copy(), address.copy()
    cycles = settle(body, waits, order, warm, units, until, lost)
    mark = units[MARK]
    critical = busiest(ops)
    kept = 0
    seed = np.uint64(88172645463325252 + draws)
    for attempt in range(moves):
        warmth = heat * (1.0 - attempt / moves)
        anew = attempt % ANEW == ANEW - 1
        if anew or kept == FRESH:
            kept = 0
            cycles = play(body, waits, order, units, until, lost)
            if cycles < best_cycles:
                best_cycles = cycles
                best[:] = order
                best_address[:] = address
            if anew:
                other = placed_anew(body, order, until, address)
                pairs = successions(body, other, order)
                changed = waited_for(body, pairs)
                if play(body, changed, order, units, until, lost) <= cycles + 2.0 * warmth:
                    address[:] = other
                    before, waits = joined(body, pairs, body.before), changed
                    after = followers(before)
            cycles = settle(body, waits, order, warm, units, until, lost)
            mark = units[MARK]
        seed = drawn(seed)
        i, target = proposed(ops, before, after, lost, order, place_of, critical, attempt % 4, seed)
        if target < 0:
            continue
        here = place_of[i]
        if not moved(ops, order, place_of, here, target):
            continue
        longer = -warmth * np.log(float(seed & np.uint64(0xFFFF)) / 65536.0 + 1e-6)
        trial = go_on(body, waits, order, mark + 2 * np.int64(longer) + LATE, warm, units, until, lost)
        if trial <= cycles + longer:
            cycles = trial
            mark = units[MARK]
            kept += 1
        else:
            moved(ops, order, place_of, target, here)
    cycles = play(body, waits, order, units, until, lost)
    if cycles < best_cycles:
        return cycles
    order[:] = best
    address[:] = best_address
    return best_cycles
