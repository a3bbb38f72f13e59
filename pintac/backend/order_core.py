# mypy: ignore-errors
"""List scheduling and its evaluation, compiled: `order.py` prepares the arrays and says what they mean.

One file: what numba keeps of a compiled function is renewed when that function's own file changes, and only then.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

# Columns of an operation. A transfer of SMX data is two, a plane each: COMPUTE is the bus time of the second.
QUEUE, BUSY, TAIL, COMPUTE, PASSES, DRAIN, PRELOAD, SKEW, ACC, DEST = range(10)
COLUMNS = 10

# Columns of a buffer: granules, and the part of memory (PSUM, the body's share of SRAM) it goes into.
SIZE, LOW, HIGH = range(3)

LOAD, TCU, VPU, STORE = 0, 1, 2, 3
QUEUES = 4
DMA = (LOAD, STORE)
ROUNDS = 4  # iterations of a loop that are played; the first two are left out
HANDOVER = 2  # cycles from completion to a waiting queue's next instruction
EARLY = 400  # cycles before it is needed by which a load shall be complete
FAR = 1 << 60

# What the units share: when the result port is free, where its last results went, when the bus is free, and when the
# tensor unit's next preload may begin.
PORT, LAST, BUS, BEGUN = range(4)
STATE = 4


class Lists(NamedTuple):
    """Lists as one array: list i is `of[at[i]:at[i + 1]]`."""

    at: np.ndarray
    of: np.ndarray


class Follows(NamedTuple):
    """What each operation follows, as `Lists`, and how many iterations ago that was."""

    at: np.ndarray
    of: np.ndarray
    ago: np.ndarray


class Body(NamedTuple):
    """The operations of a loop body and what ties them.

    By operation: `before` and `after`, those that it follows and that follow it; `again`, those of the iteration before
    that it follows; `using`, the buffers that get a place in memory of `granules`. By buffer: the first and the last
    of its users that depend on each other, `heads` and `tails`, and how many use it. The vector unit is busy elsewhere
    for `pause` cycles before one of the iterations (where an outer loop goes on). `rounds`: 1 for straight code.
    """

    ops: np.ndarray
    before: Lists
    after: Lists
    again: Lists
    using: Lists
    heads: Lists
    tails: Lists
    buffers: np.ndarray
    uses: np.ndarray
    granules: int
    pause: int
    rounds: int


@njit(cache=True, inline="always")
def tensor_start(ops, i, now, ready, last, begun, first):
    """When the tensor unit, free at `now`, starts an operation whose operands are complete at `ready`.

    The one before it wrote to `last`, its first results complete at `first`, and lets preloads begin at `begun`.
    """
    if ops[i, ACC] and last == ops[i, DEST]:
        ready = max(ready, first)
    return max(now, max(ready, begun) + ops[i, PRELOAD])


@njit(cache=True, inline="always")
def tensor_run(ops, i, start, port):
    """An operation of the tensor unit, the result port in use until `port`.

    (When the unit can take the next one, when the port can; when the first results are complete, when all are.)
    """
    compute, drain, skew = ops[i, COMPUTE], ops[i, DRAIN], ops[i, SKEW]
    taken = max(start + compute, port)
    end = taken + (ops[i, PASSES] - 1) * max(compute, drain)
    return end, end + drain, taken + drain + skew, end + drain + skew


@njit(cache=True, inline="always")
def start_of(ops, i, now, ready, state, first):
    """When an operation starts whose operands are complete at `ready`."""
    q = ops[i, QUEUE]
    if q == TCU:
        return tensor_start(ops, i, now[q], ready, state[LAST], state[BEGUN], first)
    if q == VPU:
        return max(now[q], ready)
    return max(now[q], ready, state[BUS])


@njit(cache=True, inline="always")
def advance(ops, i, start, now, state):
    """Run an operation from `start`: (when its first results are complete, when all are)."""
    q = ops[i, QUEUE]
    if q == TCU:
        now[q], state[PORT], first, done = tensor_run(ops, i, start, state[PORT])
        state[LAST] = ops[i, DEST]
        state[BEGUN] = start + 1
        return first, done
    end = start + ops[i, BUSY] + ops[i, COMPUTE]
    now[q] = end
    if q != VPU:
        state[BUS] = end  # loads and stores share it
    return 0, end + ops[i, TAIL]


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
def arrange(body, alike, plain, priority, release, slack, aversion, ahead, now, free, state, ready_at, order, address,
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
    first = 0
    live = np.zeros(len(free), np.bool_)
    left = body.uses.copy()
    address[:] = -1
    kinds = alike.max() + 1 if len(alike) else 0
    known, known_at, known_when = np.zeros(kinds, np.bool_), np.empty(kinds, np.int64), np.empty(kinds, np.int64)
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
            begin[i] = start_of(ops, i, now, ready, state, first)
            rank[i] = begin[i]
            if ops[i, QUEUE] == TCU:
                rank[i] += aversion * max(0, state[PORT] - begin[i] - ops[i, COMPUTE])
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
                known[:] = False
        starts[best] = start
        begun, done = advance(ops, i, start, now, state)
        if ops[i, QUEUE] == TCU:
            first = begun
        complete[ops[i, QUEUE]] = max(complete[ops[i, QUEUE]], done)
        for p in range(using.at[best], using.at[best + 1]):
            b = using.of[p]
            left[b] -= 1
            if left[b] == 0:
                at = address[b]
                live[at : at + buffers[b, SIZE]] = False
                free[at : at + buffers[b, SIZE]] = complete[ops[i, QUEUE]] + HANDOVER
                known[:] = False
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


class Transfers(NamedTuple):
    """Transfers that wait for the bus, loads and stores: which, when their data is there, and how far each queue is.

    From `head` to `end` they wait; the first plane of the first has been moved where `half`.
    """

    which: np.ndarray
    asked: np.ndarray
    head: np.ndarray
    end: np.ndarray
    half: np.ndarray
    complete: np.ndarray


@njit(cache=True)
def transfer(ops, waiting, now, state, until, lost):
    """Let the next one take the bus, the queue that can begin first or else the load: the cycles that it takes."""
    best, soonest = 0, FAR
    for k in range(2):
        if waiting.head[k] < waiting.end[k]:
            when = now[DMA[k]]
            if not waiting.half[k]:
                when = max(when, waiting.asked[k, waiting.head[k]])
            if when < soonest:
                best, soonest = k, when
    k = best
    y = waiting.which[k, waiting.head[k]]
    i = y % len(ops)
    start = max(soonest, state[BUS])
    busy = ops[i, COMPUTE] if waiting.half[k] else ops[i, BUSY]
    state[BUS] = start + busy
    lost[i] = start - now[DMA[k]]
    now[DMA[k]] = start
    waiting.complete[k] = max(waiting.complete[k], start + busy + ops[i, TAIL])
    waiting.half[k] = ops[i, COMPUTE] > 0 and not waiting.half[k]
    if not waiting.half[k]:
        waiting.head[k] += 1
        until[y] = waiting.complete[k] + HANDOVER
    return busy


@njit(cache=True)
def play(body, waits, order, now, state, until, lost):
    """Cycles of one iteration of a body that goes round and round in this order; of straight code to its end.

    `waits` is what an operation waits for (`waited_for`). The queues run by themselves, each in its order; transfers
    take the bus in the order in which they ask. `lost` are the cycles that its unit waits before or in each operation.
    Afterwards `until` says when what waits for an operation may go on, one iteration after the other, and `now` and
    `state` when the units are free.

    Operations are played in the order of the listing, where all that they wait for comes first, but transfers only
    when something waits for them: one further on in the other queue may ask before.
    """
    ops, rounds = body.ops, body.rounds
    n = len(ops)
    until[:] = -1
    state[:] = 0
    now[:] = 0
    now_tcu = now_vpu = complete_tcu = complete_vpu = 0  # in registers
    port = begun = first = warm = 0
    last = -1
    waiting = Transfers(
        np.empty((2, rounds * n), np.int64), np.empty((2, rounds * n), np.int64), np.zeros(2, np.int64),
        np.zeros(2, np.int64), np.zeros(2, np.bool_), np.zeros(2, np.int64)
    )  # fmt: skip
    moved = 0
    for t in range(rounds):
        base = t * n
        if t == 2:
            warm = max(now_tcu, now_vpu)
        if t and t == rounds - 1:
            now_vpu += body.pause
        for i in order:
            ready = 0
            for p in range(waits.at[i], waits.at[i + 1]):
                x = base + waits.of[p]
                if x >= 0:
                    while until[x] < 0:
                        moved += transfer(ops, waiting, now, state, until, lost)
                    ready = max(ready, until[x])
            q = ops[i, QUEUE]
            if q == VPU:
                start = max(now_vpu, ready)
                lost[i] = start - now_vpu
                now_vpu = start + ops[i, BUSY]
                complete_vpu = max(complete_vpu, now_vpu + ops[i, TAIL])
                until[base + i] = complete_vpu + HANDOVER
            elif q == TCU:
                start = tensor_start(ops, i, now_tcu, ready, last, begun, first)
                lost[i] = start - now_tcu + max(0, port - start - ops[i, COMPUTE])
                now_tcu, port, first, done = tensor_run(ops, i, start, port)
                last, begun = ops[i, DEST], start + 1
                complete_tcu = max(complete_tcu, done)
                until[base + i] = complete_tcu + HANDOVER
            else:
                k = 0 if q == LOAD else 1
                waiting.which[k, waiting.end[k]], waiting.asked[k, waiting.end[k]] = base + i, ready
                waiting.end[k] += 1
    while waiting.head[0] < waiting.end[0] or waiting.head[1] < waiting.end[1]:
        moved += transfer(ops, waiting, now, state, until, lost)
    now[TCU], now[VPU] = now_tcu, now_vpu
    state[PORT], state[LAST], state[BEGUN] = port, last, begun
    if rounds == 1:
        return max(complete_tcu, complete_vpu, waiting.complete.max())
    return max(moved // rounds, (max(now_tcu, now_vpu) - warm) // (rounds - 2))


@njit(cache=True)
def met(body, address, until, now, state, free, ready_at):
    """Turn what `play` leaves into what the next iteration meets, from the time that a unit is first free.

    Afterwards `now`, `free` (by granule of memory), `state` and `ready_at` say when things are free.
    """
    again, tails, buffers = body.again, body.tails, body.buffers
    last = (body.rounds - 1) * len(body.ops)
    zero = min(now[TCU], now[VPU])
    for q in range(QUEUES):
        now[q] = max(0, now[q] - zero)
    for k in (PORT, BUS, BEGUN):
        state[k] = max(0, state[k] - zero)
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


@njit(cache=True)
def joined(body, pairs):
    """All that operations follow: what they depend on, and for the first users of a buffer what had its memory last."""
    before, again, heads, tails = body.before, body.again, body.heads, body.tails
    n = len(body.ops)
    at = np.zeros(n + 1, np.int64)
    for i in range(n):
        at[i + 1] = before.at[i + 1] - before.at[i] + again.at[i + 1] - again.at[i]
    for c, b, _ in pairs:
        for p in range(heads.at[b], heads.at[b + 1]):
            at[heads.of[p] + 1] += tails.at[c + 1] - tails.at[c]
    at = np.cumsum(at)
    found, ago, fill = np.zeros(at[n], np.int64), np.zeros(at[n], np.int64), at.copy()
    for i in range(n):
        for p in range(before.at[i], before.at[i + 1]):
            found[fill[i]] = before.of[p]
            fill[i] += 1
        for p in range(again.at[i], again.at[i + 1]):
            found[fill[i]], ago[fill[i]] = again.of[p], 1
            fill[i] += 1
    for c, b, wrap in pairs:
        for p in range(heads.at[b], heads.at[b + 1]):
            i = heads.of[p]
            for r in range(tails.at[c], tails.at[c + 1]):
                found[fill[i]], ago[fill[i]] = tails.of[r], wrap
                fill[i] += 1
    return Follows(at, found, ago)


@njit(cache=True)
def successions(body, address, order):
    """Which buffer takes over memory of which: (earlier, later, 0), or 1 where the later is of the next iteration."""
    heads, buffers = body.heads, body.buffers
    n, m = len(order), len(buffers)
    position = np.zeros(n, np.int64)
    for k in range(n):
        position[order[k]] = k
    first = np.full(m, n)
    for b in range(m):
        for p in range(heads.at[b], heads.at[b + 1]):
            first[b] = min(first[b], position[heads.of[p]])
    sequence = np.argsort(first)
    opens, closes = np.full(body.granules, -1), np.full(body.granules, -1)  # a granule's first buffer, and last so far
    seen = np.full(m, -1)
    pairs = np.zeros((2 * buffers[:, SIZE].sum(), 3), np.int64)
    k = 0
    for b in sequence:
        for g in range(address[b], address[b] + buffers[b, SIZE]):
            c = closes[g]
            if c < 0:
                opens[g] = b
            elif seen[c] != b:
                seen[c] = b
                pairs[k, 0], pairs[k, 1] = c, b
                k += 1
            closes[g] = b
    seen[:] = -1
    for b in sequence:
        for g in range(address[b], address[b] + buffers[b, SIZE]):
            c = closes[g]
            if opens[g] == b and seen[c] != b:
                seen[c] = b
                pairs[k, 0], pairs[k, 1], pairs[k, 2] = c, b, 1
                k += 1
    return pairs[:k]


@njit(cache=True)
def waited_for(ops, follows):
    """What operations wait for, of what they follow: a queue other than the vector unit's keeps its own order.

    By how far it is from the first operation of their own iteration.
    """
    at, of = np.zeros_like(follows.at), np.zeros_like(follows.of)
    k = 0
    for i in range(len(ops)):
        for p in range(follows.at[i], follows.at[i + 1]):
            j = follows.of[p]
            if ops[j, QUEUE] != ops[i, QUEUE] or ops[i, QUEUE] == VPU:
                of[k] = j - follows.ago[p] * len(ops)
                k += 1
        at[i + 1] = k
    return Lists(at, of[:k].copy())


@njit(cache=True)
def search(body, plain, ahead, priorities, tries, order, address):
    """The best order found by list scheduling: under the rows of `priorities`, then `tries` random changes of the best.

    With negative `tries` only the first priorities are looked at. Memory is taken at most `ahead` operations beyond the
    order `plain` (see `arrange`). Returns the cycles, -1 if no order was found.
    """
    ops, after = body.ops, body.after
    n = len(ops)
    alike = kinds_of(body.buffers)
    best_cycles = -1
    best = priorities[0].copy()
    best_slack, slack, best_aversion, aversion = 0, 0, 1, 1
    best_release, release = np.zeros(n, np.int64), np.zeros(n, np.int64)
    trial_order, trial_address = np.zeros(n, np.int64), np.zeros(len(address), np.int64)
    starts, ready_at, lost = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    now, free, state = np.zeros(QUEUES, np.int64), np.zeros(body.granules, np.int64), np.zeros(STATE, np.int64)
    until = np.zeros(body.rounds * n, np.int64)
    seed = np.uint64(88172645463325252)
    scale = 0.0
    for row in range(len(priorities)):
        scale = max(scale, priorities[row].max())
    given = len(priorities) * 8
    turns = 2
    if tries < 0:
        given = 2
    if tries < 0 or body.rounds == 1:
        turns = 1
    for attempt in range(given + max(tries, 0)):
        if attempt == given and best_cycles < 0:
            break
        if attempt < given:
            priority = priorities[attempt // 8].copy()
            slack = (0, 40, 8, 150)[attempt % 4]
            aversion = 1 if attempt // 4 % 2 == 0 else 16
            release[:] = 0
        else:
            priority = best.copy()
            slack, aversion = best_slack, best_aversion
            release[:] = best_release
            seed ^= seed << np.uint64(13)
            seed ^= seed >> np.uint64(7)
            seed ^= seed << np.uint64(17)
            if (seed >> np.uint64(50)) % np.uint64(8) == 0:
                slack = np.int64((seed >> np.uint64(30)) % np.uint64(128))
            for _ in range(1 + np.int64(seed >> np.uint64(60)) % 6):
                seed ^= seed << np.uint64(13)
                seed ^= seed >> np.uint64(7)
                seed ^= seed << np.uint64(17)
                i = np.int64((seed >> np.uint64(20)) % np.uint64(n))
                amount = float((seed >> np.uint64(40)) & np.uint64(0xFFFF)) / 32768.0 - 1.0
                priority[i] += amount * amount * amount * scale
        now[:] = 0
        free[:] = 0
        state[:] = 0
        ready_at[:] = 0
        for _ in range(turns):
            fits = arrange(body, alike, plain, priority, release, slack, aversion, ahead, now, free, state, ready_at,
                           trial_order, trial_address, starts)  # fmt: skip
            if not fits:
                break
            for i in range(n):  # loads just in time
                if ops[i, QUEUE] == LOAD:
                    first = FAR
                    for p in range(after.at[i], after.at[i + 1]):
                        first = min(first, starts[after.of[p]])
                    release[i] = max(0, first - ops[i, BUSY] - ops[i, TAIL] - EARLY) if first < FAR else 0
            waits = waited_for(ops, joined(body, successions(body, trial_address, trial_order)))
            cycles = play(body, waits, trial_order, now, state, until, lost)
            met(body, trial_address, until, now, state, free, ready_at)
            if best_cycles < 0 or cycles < best_cycles or (attempt >= given and cycles == best_cycles):
                best_cycles = cycles
                best[:] = priority
                best_slack, best_aversion = slack, aversion
                best_release[:] = release
                order[:] = trial_order
                address[:] = trial_address
    return best_cycles


@njit(cache=True)
def followers(follows):
    """Who follows each operation in its own iteration."""
    n = len(follows.at) - 1
    at = np.zeros(n + 1, np.int64)
    for p in range(len(follows.of)):
        if follows.ago[p] == 0:
            at[follows.of[p] + 1] += 1
    at = np.cumsum(at)
    of, fill = np.zeros(at[n], np.int64), at.copy()
    for i in range(n):
        for p in range(follows.at[i], follows.at[i + 1]):
            if follows.ago[p] == 0:
                of[fill[follows.of[p]]] = i
                fill[follows.of[p]] += 1
    return Lists(at, of)


@njit(cache=True)
def improve(body, moves, heat, order, address):
    """Move single operations where dependencies and addresses let them, by simulated annealing: the cycles reached."""
    ops = body.ops
    n = len(ops)
    before = joined(body, successions(body, address, order))
    after = followers(before)
    waits = waited_for(ops, before)
    now, state = np.zeros(QUEUES, np.int64), np.zeros(STATE, np.int64)
    until, lost = np.zeros(body.rounds * n, np.int64), np.zeros(n, np.int64)
    place_of = np.zeros(n, np.int64)
    for k in range(n):
        place_of[order[k]] = k
    cycles = play(body, waits, order, now, state, until, lost)
    best_cycles = cycles
    best = order.copy()
    load = np.zeros(QUEUES, np.int64)
    for i in range(n):
        load[ops[i, QUEUE]] += (
            ops[i, BUSY] + ops[i, COMPUTE] + (ops[i, PASSES] - 1) * max(ops[i, COMPUTE], ops[i, DRAIN])
        )
    critical = TCU if load[TCU] >= load[VPU] else VPU
    seed = np.uint64(88172645463325252)
    for attempt in range(moves):
        seed ^= seed << np.uint64(13)
        seed ^= seed >> np.uint64(7)
        seed ^= seed << np.uint64(17)
        i = np.int64((seed >> np.uint64(20)) % np.uint64(n))
        wanted = -1
        sooner = False
        if attempt % 2:
            k = np.int64((seed >> np.uint64(40)) % np.uint64(n))
            for _ in range(n):  # something that the unit with most to do waits for
                if lost[order[k]] > 0 and ops[order[k], QUEUE] == critical:
                    break
                k = k + 1 if k + 1 < n else 0
            x = order[k]
            if lost[x] == 0 or ops[x, QUEUE] != critical:
                continue
            if attempt % 4 == 1 and critical == TCU:  # work that fills the time before it
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
        low, high = 0, n - 1
        for p in range(before.at[i], before.at[i + 1]):
            if before.ago[p] == 0:
                low = max(low, place_of[before.of[p]] + 1)
        for p in range(after.at[i], after.at[i + 1]):
            high = min(high, place_of[after.of[p]] - 1)
        if wanted >= 0 and (wanted < low or wanted > high):
            continue
        if sooner:
            high = here
        if high <= low:
            continue
        target = low + np.int64((seed >> np.uint64(40)) % np.uint64(high - low + 1)) if wanted < 0 else wanted
        if target == here or target < low or target > high:
            continue
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
        if not overtaken:
            continue  # each queue runs what it did
        trial = play(body, waits, order, now, state, until, lost)
        chance = float(seed & np.uint64(0xFFFF)) / 65536.0
        if trial <= cycles - heat * (1.0 - attempt / moves) * np.log(chance + 1e-6):
            cycles = trial
            if cycles < best_cycles:
                best_cycles = cycles
                best[:] = order
            continue
        k = target
        while k != here:
            order[k] = order[k - step]
            place_of[order[k]] = k
            k -= step
        order[here] = i
        place_of[i] = here
    order[:] = best
    return best_cycles
