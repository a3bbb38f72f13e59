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
SLACKS = (0, 40, 8, 20, 80, 150, 40, 8)  # of list schedules, with their aversions (`arrange`)
AVERSIONS = (1, 1, 1, 1, 1, 1, 16, 16)
LATE = 20  # cycles that the first of two iterations may lose for the second to gain
ANEW = 600  # moves after which buffers get other places
FRESH = 20  # orders that are kept before the units settle anew
ENOUGH = (300, 100, 30, 0)  # cycles that memory is free before it is needed beyond which more is no better

# Where the units are. By queue: when it can take its next operation, and when all that it has taken is complete. When
# the result port is free, where its last results went and when the first of them are complete; when the bus is free;
# when the tensor unit's next preload may begin. When the tensor and the vector unit both were at the iteration `mark`.
NOW, DONE, PORT, LAST, FIRST, BUS, BEGUN, MARK = 0, 4, 8, 9, 10, 11, 12, 13
UNITS = 14


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

    By operation: `depends`, those that it depends on; `before` and `after`, those that it is to follow and that are to
    follow it; `again`, those of the iteration before that it depends on; `using`, the buffers that get a place in
    memory of `granules`. By buffer: the first and the last of its users that depend on each other, `heads` and `tails`,
    and how many use it. The bus is busy for `traffic` cycles; the vector unit is elsewhere for `pause` cycles once in
    `turns` iterations (where an outer loop goes on), with what `ends` make. `rounds`: 1 for straight code.
    """

    ops: np.ndarray
    depends: Lists
    before: Lists
    after: Lists
    again: Lists
    using: Lists
    heads: Lists
    tails: Lists
    buffers: np.ndarray
    uses: np.ndarray
    granules: int
    traffic: int
    pause: int
    ends: np.ndarray
    turns: int
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
                known[:] = False
        starts[best] = start
        done = advance(ops, i, start, units)
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


@njit(cache=True)
def joined(body, pairs, before):
    """All that operations follow: what they depend on, and for the first users of a buffer what had its memory last."""
    again, heads, tails = body.again, body.heads, body.tails
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


@njit(cache=True, inline="always")
def drawn(seed):
    """The next random number (xorshift)."""
    seed ^= seed << np.uint64(13)
    seed ^= seed >> np.uint64(7)
    seed ^= seed << np.uint64(17)
    return seed


@njit(cache=True)
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
            waits = waited_for(ops, joined(body, successions(body, trial_address, trial_order), body.depends))
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
    waits = waited_for(ops, joined(body, pairs, body.depends))
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
                changed = waited_for(ops, joined(body, pairs, body.depends))
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
