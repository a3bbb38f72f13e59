"""The event simulation of the four queues, compiled. `timeline.py` prepares its arrays and explains its rules."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from pintac.isa import LOOP_LEVELS

# What a row of a queue's listing is.
LOOP, ENDLOOP, SIGNAL, WAIT, DATA = 0, 1, 2, 3, 4

# Integer columns of a queue's listing.
(
    KIND, PC, LEVEL, COUNT, PARTNER, SEM, BUSY, TAIL, PASSES, COMPUTE, DRAIN, PRELOAD, SKEW, ACC, GATHER, ORDINAL,
) = range(16)  # fmt: skip
ROW_COLUMNS = 16  # ORDINAL: number of a signal among its semaphore's signals in the listing; of a wait, among its waits

# Columns of an address range: bounds at loop indices 0, byte steps, ring.
SPACE, LOW, HIGH, STEP0, RING_LEVEL, RING_SIZE, RING_STEP = 0, 1, 2, 3, 8, 9, 10
RANGE_COLUMNS = 11
RANGES = 7  # five sources, two destinations
NOWHERE = -1

# Causes of waiting; semaphore k is CAUSES + k.
ISSUE, DEPENDENCY, PRELOADING, RESULTS, BUS, OUTSTANDING, END = 0, 1, 2, 3, 4, 5, 6
CAUSES = 7
WAITING, PC_CAUSES = 6, 7  # of one instruction: the same up to `OUTSTANDING`, then waits for any semaphore

LOAD_QUEUE, TCU_QUEUE, VPU_QUEUE, STORE_QUEUE = 0, 1, 2, 3
EVENT_OP, EVENT_SIGNAL, EVENT_WAIT = 0, 1, 2
EVENT_COLUMNS = 8  # kind, queue, pc, start, unit free, complete, cause, index of the signal or wait
INFLIGHT = 16  # vector instructions remembered for dependencies


@njit(cache=True)
def bounds(area: np.ndarray, index: np.ndarray) -> tuple[int, int]:
    """Byte range of an operand at these loop indices."""
    offset = 0
    for i in range(LOOP_LEVELS):
        offset += area[STEP0 + i] * index[i]
    if area[RING_SIZE] > 0:
        offset += (index[area[RING_LEVEL]] % area[RING_SIZE]) * area[RING_STEP]
    return area[LOW] + offset, area[HIGH] + offset


@njit(cache=True)
def note(
    events: np.ndarray, n: Any, kind: Any, queue: Any, pc: Any, start: Any, end: Any, done: Any, cause: Any, match: Any
) -> int:
    """Record an event if there is room; the number recorded."""
    if n == len(events):
        return n
    events[n, 0] = kind
    events[n, 1] = queue
    events[n, 2] = pc
    events[n, 3] = start
    events[n, 4] = end
    events[n, 5] = done
    events[n, 6] = cause
    events[n, 7] = match
    return n + 1


@njit(cache=True)
def tally(histogram: np.ndarray, width: Any, queue: Any, start: Any, end: Any) -> None:
    """Spread the cycles [start, end) of a unit over the buckets of `width` cycles each; what lies behind is dropped."""
    while start < end and start // width < histogram.shape[1]:
        stop = min(end, (start // width + 1) * width)
        histogram[queue, start // width] += stop - start
        start = stop


@njit(cache=True)
def run(
    rows: np.ndarray,  # int64 [rows of all queues, ROW_COLUMNS]
    ranges: np.ndarray,  # int64 [rows of all queues, RANGES, RANGE_COLUMNS]
    first: np.ndarray,  # int64 [5]: where each queue's listing begins
    credit: np.ndarray,  # int64 [semaphores]
    posted: np.ndarray,  # int64: room for the time of every signal
    posted_at: np.ndarray,  # int64 [semaphores + 1]: where those of a semaphore begin
    outstanding: int,
    pipeline: int,
    stalls: np.ndarray,  # int64 [4, CAUSES + semaphores], out
    busy: np.ndarray,  # int64 [4], out
    pc_busy: np.ndarray,  # int64 [instructions], out
    pc_stalls: np.ndarray,  # int64 [instructions, PC_CAUSES], out
    senders: np.ndarray,  # int64 [semaphores]: signals of each in the listing
    pairs_at: np.ndarray,  # int64 [semaphores]: where the pairs of a semaphore begin
    pairs: np.ndarray,  # int64: cycles waited, by wait and signal of the listing, out
    histogram: np.ndarray,  # int64 [4, buckets], out: busy cycles of each unit
    bucket_cycles: int,
    events: np.ndarray,  # int64 [limit, EVENT_COLUMNS], out
    blocked: np.ndarray,  # int64 [4], out: the row at which a queue stands, -1 at its end
) -> tuple[int, int]:
    """(cycles, events recorded); cycles is -1 if the queues block for good."""
    pc = first[:4].copy()
    now = np.zeros(4, np.int64)  # the sequencer's time
    index = np.zeros((4, LOOP_LEVELS), np.int64)
    free = np.zeros(4, np.int64)  # when the unit can start the next instruction
    started = np.zeros(4, np.int64)  # start of the last instruction
    complete = np.zeros(4, np.int64)  # everything issued so far is complete then
    idle = np.zeros(4, np.int64)  # the queue's time is accounted for up to here
    since = np.full(4, -1, np.int64)  # sequencer time of a pending bus request
    signals = np.zeros(len(credit), np.int64)
    waits = np.zeros(len(credit), np.int64)
    poster = np.zeros(len(posted), np.int64)  # which signal of the listing posted it
    flight = np.zeros((INFLIGHT, 2, 4), np.int64)  # destinations of the last vector instructions: space low high done
    flight[:, :, 0] = NOWHERE
    flight_at = 0
    results_free = 0  # tensor unit: when the last results are written, as the array sees it
    last_first = 0  # ... when the first pass of the last matmul is written
    last_area = np.zeros(3, np.int64)
    last_area[0] = NOWHERE
    last_shape = np.zeros(2, np.int64)
    recent = np.zeros(outstanding, np.int64)  # completion of the last transfers
    transfers = 0
    bus_free = 0
    recorded: Any = np.int64(0)  # not a literal: one compiled `note` is enough
    none: Any = np.int64(0)

    while True:
        progress = False
        for turn in range(4):
            q = (turn + 1) % 4  # tensor, vector, store, load: the bus is granted below
            while pc[q] < first[q + 1] and since[q] < 0:
                row = rows[pc[q]]
                kind = row[KIND]
                if kind == LOOP:
                    if row[COUNT] == 0:
                        pc[q] = row[PARTNER]
                elif kind == ENDLOOP:
                    level = row[LEVEL]
                    index[q, level] += 1
                    if index[q, level] < rows[row[PARTNER], COUNT]:
                        pc[q] = row[PARTNER]
                    else:
                        index[q, level] = 0
                elif kind == SIGNAL:
                    sem = row[SEM]
                    at = max(now[q] + 1, complete[q])
                    posted[posted_at[sem] + signals[sem]] = at
                    poster[posted_at[sem] + signals[sem]] = row[ORDINAL]
                    recorded = note(
                        events, recorded, np.int64(EVENT_SIGNAL), q, row[PC], now[q], at, at, sem, signals[sem]
                    )
                    signals[sem] += 1
                    now[q] += 1
                elif kind == WAIT:
                    sem = row[SEM]
                    match = waits[sem] - credit[sem]
                    if match >= signals[sem]:
                        break
                    ready = posted[posted_at[sem] + match] if match >= 0 else 0
                    if now[q] > idle[q]:
                        stalls[q, ISSUE] += now[q] - idle[q]
                        pc_stalls[row[PC], ISSUE] += now[q] - idle[q]
                        idle[q] = now[q]
                    if ready > idle[q]:
                        stalls[q, CAUSES + sem] += ready - idle[q]
                        pc_stalls[row[PC], WAITING] += ready - idle[q]
                        pairs[pairs_at[sem] + row[ORDINAL] * senders[sem] + poster[posted_at[sem] + match]] += (
                            ready - idle[q]
                        )
                        idle[q] = ready
                    recorded = note(
                        events,
                        recorded,
                        EVENT_WAIT,
                        q,
                        row[PC],
                        now[q],
                        max(now[q], ready),
                        max(now[q], ready),
                        sem,
                        match,
                    )
                    waits[sem] += 1
                    now[q] = max(now[q], ready) + 1
                else:
                    issue = max(now[q], started[q])
                    if q in (LOAD_QUEUE, STORE_QUEUE):
                        since[q] = max(issue, complete[q]) if row[GATHER] else issue
                        now[q] = issue
                        progress = True
                        break
                    if issue > idle[q]:
                        stalls[q, ISSUE] += issue - idle[q]
                        pc_stalls[row[PC], ISSUE] += issue - idle[q]
                        idle[q] = issue
                    cause = ISSUE
                    if q == TCU_QUEUE:
                        ready = issue
                        low, high = bounds(ranges[pc[q], 5], index[q])
                        if (
                            row[ACC] and last_area[0] == ranges[pc[q], 5, SPACE]
                            and low < last_area[2] and last_area[1] < high
                        ):  # fmt: skip
                            same = low == last_area[1] and high == last_area[2]
                            same = same and last_shape[0] == row[PASSES] and last_shape[1] == row[DRAIN]
                            ready = max(issue, last_first if same else complete[q])
                        if ready > idle[q]:
                            stalls[q, DEPENDENCY] += ready - idle[q]
                            pc_stalls[row[PC], DEPENDENCY] += ready - idle[q]
                            idle[q] = ready
                            cause = DEPENDENCY
                        start = max(free[q], ready + row[PRELOAD])
                        if start > idle[q]:
                            stalls[q, PRELOADING] += start - idle[q]
                            pc_stalls[row[PC], PRELOADING] += start - idle[q]
                            idle[q] = start
                            cause = PRELOADING
                        compute, drain = row[COMPUTE], row[DRAIN]
                        taken = max(start + compute, results_free)
                        waited = taken - (start + compute)
                        stalls[q, RESULTS] += waited
                        pc_stalls[row[PC], RESULTS] += waited
                        end = taken + (row[PASSES] - 1) * max(compute, drain)
                        results_free = end + drain
                        done = results_free + row[SKEW]
                        last_first = taken + drain + row[SKEW]
                        last_area[0], last_area[1], last_area[2] = ranges[pc[q], 5, SPACE], low, high
                        last_shape[0], last_shape[1] = row[PASSES], row[DRAIN]
                        work = end - start - waited
                        tally(histogram, bucket_cycles, q, start, start + compute)
                        tally(histogram, bucket_cycles, q, taken, end)
                    else:
                        start = max(free[q], issue)
                        ready = start
                        for f in range(INFLIGHT):
                            for d in range(2):
                                if flight[f, d, 0] != NOWHERE and flight[f, d, 3] > ready:
                                    for s in range(RANGES):
                                        if ranges[pc[q], s, SPACE] == flight[f, d, 0]:
                                            low, high = bounds(ranges[pc[q], s], index[q])
                                            if low < flight[f, d, 2] and flight[f, d, 1] < high and (s < 5 or row[ACC]):
                                                ready = max(ready, flight[f, d, 3])
                        if ready > idle[q]:
                            stalls[q, DEPENDENCY] += ready - idle[q]
                            pc_stalls[row[PC], DEPENDENCY] += ready - idle[q]
                            idle[q] = ready
                            cause = DEPENDENCY
                        start = ready
                        end = start + row[BUSY]
                        done = end + pipeline
                        work = row[BUSY]
                        tally(histogram, bucket_cycles, q, start, end)
                        for d in range(2):
                            flight[flight_at, d, 0] = ranges[pc[q], 5 + d, SPACE]
                            flight[flight_at, d, 1], flight[flight_at, d, 2] = bounds(ranges[pc[q], 5 + d], index[q])
                            flight[flight_at, d, 3] = done
                        flight_at = (flight_at + 1) % INFLIGHT
                    recorded = note(events, recorded, np.int64(EVENT_OP), q, row[PC], start, end, done, cause, none)
                    busy[q] += work
                    pc_busy[row[PC]] += work
                    free[q] = end
                    idle[q] = end
                    started[q] = start
                    complete[q] = max(complete[q], done)
                    now[q] = issue + 1
                pc[q] += 1
                progress = True
        if progress:
            continue

        # Nothing else can move: what happens next is the transfer that asked first (load before store).
        q = -1
        if since[LOAD_QUEUE] >= 0:
            q = LOAD_QUEUE
        if since[STORE_QUEUE] >= 0 and (q < 0 or since[STORE_QUEUE] < since[LOAD_QUEUE]):
            q = STORE_QUEUE
        if q < 0:
            break
        row = rows[pc[q]]
        issue, ready = now[q], since[q]
        if issue > idle[q]:
            stalls[q, ISSUE] += issue - idle[q]
            pc_stalls[row[PC], ISSUE] += issue - idle[q]
            idle[q] = issue
        cause = ISSUE
        if ready > idle[q]:
            stalls[q, DEPENDENCY] += ready - idle[q]
            pc_stalls[row[PC], DEPENDENCY] += ready - idle[q]
            idle[q] = ready
            cause = DEPENDENCY
        start = max(ready, bus_free)
        if start > idle[q]:
            stalls[q, BUS] += start - idle[q]
            pc_stalls[row[PC], BUS] += start - idle[q]
            idle[q] = start
            cause = BUS
        start = max(start, recent[transfers % outstanding])
        if start > idle[q]:
            stalls[q, OUTSTANDING] += start - idle[q]
            pc_stalls[row[PC], OUTSTANDING] += start - idle[q]
            idle[q] = start
            cause = OUTSTANDING
        end = start + row[BUSY]
        done = end + row[TAIL]
        recent[transfers % outstanding] = done
        transfers += 1
        bus_free = end
        recorded = note(events, recorded, np.int64(EVENT_OP), q, row[PC], start, end, done, cause, none)
        tally(histogram, bucket_cycles, q, start, end)
        busy[q] += row[BUSY]
        pc_busy[row[PC]] += row[BUSY]
        free[q] = end
        idle[q] = end
        started[q] = start
        complete[q] = max(complete[q], done)
        now[q] = issue + 1
        since[q] = -1
        pc[q] += 1

    stuck = False
    cycles = 0
    for q in range(4):
        blocked[q] = pc[q] if pc[q] < first[q + 1] else -1
        stuck = stuck or pc[q] < first[q + 1]
        cycles = max(cycles, max(now[q], complete[q]))
    if stuck:
        return -1, recorded
    for q in range(4):
        if now[q] > idle[q]:
            stalls[q, ISSUE] += now[q] - idle[q]
            idle[q] = now[q]
        stalls[q, END] += cycles - idle[q]
    return cycles, recorded
