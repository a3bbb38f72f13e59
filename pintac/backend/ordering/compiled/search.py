# mypy: ignore-errors
"""The best of many list schedules."""

from __future__ import annotations

import numpy as np
from numba import njit

from pintac.backend.ordering.compiled.arrange import arrange, kinds_of
from pintac.backend.ordering.compiled.body import BUSY, FAR, LAST, LOAD, NOW, QUEUE, SIZE, TAIL, TCU, UNITS, VPU
from pintac.backend.ordering.compiled.follow import successions, waited_for
from pintac.backend.ordering.compiled.play import play

EARLY = 400  # cycles before it is needed by which a load shall be complete
SLACKS = (0, 40, 8, 20, 80, 150, 40, 8)  # of list schedules, with their aversions (`arrange`)
AVERSIONS = (1, 1, 1, 1, 1, 1, 16, 16)


@njit(cache=True)
def met(body, address, until, units, free, ready_at):
    """Turn what `play` leaves into what the next iteration meets, from the time that a unit is first free.

    Afterwards `units`, `free` (by granule of memory) and `ready_at` say when things are free.
    """
    again, tails, buffers = body.again, body.tails, body.buffers
    last = (body.rounds - 1) * len(body.ops)
    zero = min(units[NOW + TCU], units[NOW + VPU])
    for k in range(UNITS):
        if k != LAST:
            units[k] = max(0, units[k] - zero)
    free[:] = 0
    for b in range(len(buffers)):
        freed = 0
        for p in range(tails.at[b], tails.at[b + 1]):
            freed = max(freed, until[last + tails.of[p]] - zero)
        for k in range(address[b], address[b] + buffers[b, SIZE]):
            free[k] = max(free[k], freed)
    for i in range(len(ready_at)):
        ready_at[i] = 0
        for p in range(again.at[i], again.at[i + 1]):
            ready_at[i] = max(ready_at[i], until[last + again.of[p]] - zero)


@njit(cache=True, inline="always")
def drawn(seed):
    """The next random number (xorshift)."""
    seed ^= seed << np.uint64(13)
    seed ^= seed >> np.uint64(7)
    seed ^= seed << np.uint64(17)
    return seed


@njit(cache=True, nogil=True)
def search(body, plain, ahead, priorities, tries, orders, addresses):
    """The best orders found by list scheduling under the rows of `priorities`; the first after `tries` random changes.

    With negative `tries` only the first priorities are looked at. Memory is taken at most `ahead` operations beyond the
    order `plain` (see `arrange`). Fills `orders` and `addresses`, the fewest cycles first, as many as were found;
    returns the cycles of each, -1 behind the last one.
    """
    ops, after = body.ops, body.after
    n = len(ops)
    alike = kinds_of(body.buffers)
    found = np.full(len(orders), -1)
    best = priorities[0].copy()
    best_slack, slack, best_aversion, aversion = 0, 0, 1, 1
    best_release, release = np.zeros(n, np.int64), np.zeros(n, np.int64)
    trial_order, trial_address = np.zeros(n, np.int64), np.zeros(len(body.buffers), np.int64)
    kept_order, kept_address, kept_release = trial_order.copy(), trial_address.copy(), release.copy()
    starts, ready_at, lost = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    units, free = np.zeros(UNITS, np.int64), np.zeros(body.granules, np.int64)
    until = np.zeros(body.rounds * n, np.int64)
    seed = np.uint64(88172645463325252)
    scale = 0.0
    for row in range(len(priorities)):
        scale = max(scale, priorities[row].max())
    given = len(priorities) * len(SLACKS)
    turns = 2
    if tries < 0:
        given = 2
    if tries < 0 or body.rounds == 1:
        turns = 1
    for attempt in range(given + max(tries, 0)):
        if attempt == given and found[0] < 0:
            break
        if attempt < given:
            priority = priorities[attempt // len(SLACKS)].copy()
            slack, aversion = SLACKS[attempt % len(SLACKS)], AVERSIONS[attempt % len(SLACKS)]
            release[:] = 0
        else:
            priority = best.copy()
            slack, aversion = best_slack, best_aversion
            release[:] = best_release
            seed = drawn(seed)
            if (seed >> np.uint64(50)) % np.uint64(8) == 0:
                slack = np.int64((seed >> np.uint64(30)) % np.uint64(128))
            for _ in range(1 + np.int64(seed >> np.uint64(60)) % 6):
                seed = drawn(seed)
                i = np.int64((seed >> np.uint64(20)) % np.uint64(n))
                amount = float((seed >> np.uint64(40)) & np.uint64(0xFFFF)) / 32768.0 - 1.0
                priority[i] += amount * amount * amount * scale
        units[:] = 0
        free[:] = 0
        ready_at[:] = 0
        kept = -1
        for _ in range(turns):
            fits = arrange(body, alike, plain, priority, release, slack, aversion, ahead, units, free, ready_at,
                           trial_order, trial_address, starts)  # fmt: skip
            if not fits:
                break
            for i in range(n):  # loads just in time
                if ops[i, QUEUE] == LOAD:
                    first = FAR
                    for p in range(after.at[i], after.at[i + 1]):
                        first = min(first, starts[after.of[p]])
                    release[i] = max(0, first - ops[i, BUSY] - ops[i, TAIL] - EARLY) if first < FAR else 0
            waits = waited_for(body, successions(body, trial_address, trial_order))
            cycles = play(body, waits, trial_order, units, until, lost)
            met(body, trial_address, until, units, free, ready_at)
            if kept < 0 or cycles < kept:
                kept = cycles
                kept_order[:] = trial_order
                kept_address[:] = trial_address
                kept_release[:] = release
        if kept < 0:
            continue
        k = 0  # where it comes among those found; a random change replaces the best
        if attempt < given:
            while k < len(found) and 0 <= found[k] <= kept:
                k += 1
            for j in range(len(found) - 1, k, -1):
                found[j] = found[j - 1]
                orders[j] = orders[j - 1]
                addresses[j] = addresses[j - 1]
        if k < len(found) and (attempt < given or kept <= found[0]):
            found[k] = kept
            orders[k] = kept_order
            addresses[k] = kept_address
            if k == 0:
                best[:] = priority
                best_slack, best_aversion = slack, aversion
                best_release[:] = kept_release
    return found
