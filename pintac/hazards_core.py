"""The compiled parts of the hazard check: vector clocks, legal orders. `hazards.py` explains them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from pintac.footprint import MAY, WRITE

OTHER, SIGNAL, WAIT = 0, 1, 2

# Kinds of problems, and the columns of a record.
WRITE_READ, READ_WRITE, WRITE_WRITE, UNINITIALISED, CAPACITY, UNMATCHED = range(6)
R_KIND, R_FIRST, R_SECOND, R_ATOM, R_CLOCK0 = 0, 1, 2, 3, 4
RECORD_COLUMNS = 8


@njit(cache=True)
def note(records: np.ndarray, n: Any, pc: np.ndarray, kind: Any, a: Any, b: Any, atom: Any, clock: np.ndarray) -> int:
    """Record a problem, unless one of the same kind between the same instructions is there; the number recorded."""
    for i in range(n):
        if records[i, R_KIND] == kind and pc[records[i, R_SECOND]] == pc[b]:
            if (a < 0) == (records[i, R_FIRST] < 0) and (a < 0 or pc[records[i, R_FIRST]] == pc[a]):
                return n
    if n < len(records):
        records[n, R_KIND] = kind
        records[n, R_FIRST] = a
        records[n, R_SECOND] = b
        records[n, R_ATOM] = atom
        for q in range(4):
            records[n, R_CLOCK0 + q] = clock[q]
        n += 1
    return n


@njit(cache=True)
def check(
    pc: np.ndarray,  # int32 [positions]
    queue: np.ndarray,  # int64 [instructions]
    kind: np.ndarray,  # int64 [instructions]
    sem: np.ndarray,  # int64 [instructions]
    credit: np.ndarray,
    capacity: np.ndarray,
    signal_at: np.ndarray,  # int64 [semaphores + 1]: room for the signals of each
    wait_at: np.ndarray,
    first: np.ndarray,  # int64 [instructions + 1]: slots
    slots: np.ndarray,
    access: np.ndarray,  # int64 [accesses]: region of each access of the stream
    atom_first: np.ndarray,
    atom_list: np.ndarray,
    initial: np.ndarray,  # bool [atoms]
    records: np.ndarray,
) -> int:
    """Problems found; stops at the first wait that nothing can match."""
    atoms = len(initial)
    written = initial.copy()
    writer_queue = np.full(atoms, -1, np.int64)
    writer = np.full(atoms, -1, np.int64)
    reader = np.full((atoms, 4), -1, np.int64)
    clock = np.full((4, 4), -1, np.int64)  # clock[q, p]: last position of queue p that is complete before q goes on
    snapshot = np.empty((signal_at[-1] + 1, 4), np.int64)
    wait_position = np.empty(wait_at[-1] + 1, np.int64)
    signals = np.zeros(len(credit), np.int64)
    waits = np.zeros(len(credit), np.int64)
    passed = np.zeros(len(credit), np.int64)  # waits known to come before the next signal
    found: Any = np.int64(0)  # not a literal: one compiled `note` is enough
    nobody: Any = np.int64(-1)
    n = 0
    for position in range(len(pc)):
        i = pc[position]
        q = queue[i]
        clock[q, q] = position - 1
        if kind[i] == SIGNAL:
            s = sem[i]
            clock[q, q] = position
            for p in range(4):
                snapshot[signal_at[s] + signals[s], p] = clock[q, p]
            signals[s] += 1
            while passed[s] < waits[s] and _before(clock[q], queue, pc, wait_position[wait_at[s] + passed[s]]):
                passed[s] += 1
            if credit[s] + signals[s] - passed[s] > capacity[s]:
                found = note(records, found, pc, np.int64(CAPACITY), nobody, position, s, clock[q])
        elif kind[i] == WAIT:
            s = sem[i]
            match = waits[s] - credit[s]
            if match >= signals[s]:
                return note(records, found, pc, np.int64(UNMATCHED), nobody, position, s, clock[q])
            if match >= 0:
                for p in range(4):
                    clock[q, p] = max(clock[q, p], snapshot[signal_at[s] + match, p])
            wait_position[wait_at[s] + waits[s]] = position
            waits[s] += 1
        for slot in range(first[i], first[i + 1]):
            region = access[n]
            n += 1
            write, may = slots[slot, WRITE], slots[slot, MAY]
            for a in range(atom_first[region], atom_first[region + 1]):
                atom: Any = np.int64(atom_list[a])
                w = writer_queue[atom]
                if w >= 0 and w != q and writer[atom] > clock[q, w]:
                    what = np.int64(WRITE_WRITE if write else WRITE_READ)
                    found = note(records, found, pc, what, writer[atom], position, atom, clock[q])
                if write:
                    for p in range(4):
                        if p != q and reader[atom, p] > clock[q, p]:
                            found = note(
                                records, found, pc, np.int64(READ_WRITE), reader[atom, p], position, atom, clock[q]
                            )
                        reader[atom, p] = -1  # whatever is ordered behind this write is ordered behind them
                    writer_queue[atom] = q
                    writer[atom] = position
                    if not may:
                        written[atom] = True
                else:
                    if not written[atom] and not may:
                        found = note(records, found, pc, np.int64(UNINITIALISED), nobody, position, atom, clock[q])
                    reader[atom, q] = position
    return found


@njit(cache=True)
def _before(clock: np.ndarray, queue: np.ndarray, pc: np.ndarray, position: int) -> bool:
    return position <= clock[queue[pc[position]]]


@njit(cache=True)
def legal_order(
    pc: np.ndarray,
    queue: np.ndarray,
    kind: np.ndarray,
    sem: np.ndarray,
    credit: np.ndarray,
    priority: np.ndarray,  # int64 [4]: the first queue here that can go on goes on; ignored with a seed
    seed: int,  # >= 0: a queue at random
    order: np.ndarray,  # int64 [positions], out
) -> int:
    """An order of execution that queues and semaphores allow; the number of positions executed."""
    n = len(pc)
    count = np.zeros(5, np.int64)
    for position in range(n):
        count[queue[pc[position]] + 1] += 1
    at = np.zeros(4, np.int64)
    begin = np.cumsum(count)
    line = np.empty(n, np.int64)
    for position in range(n):
        q = queue[pc[position]]
        line[begin[q] + at[q]] = position
        at[q] += 1
    at[:] = begin[:4]
    value = credit.copy()
    if seed >= 0:
        np.random.seed(seed)
    done = 0
    ready = np.empty(4, np.int64)
    while done < n:
        choices = 0
        for turn in range(4):
            q = priority[turn]
            if at[q] < begin[q + 1]:
                i = pc[line[at[q]]]
                if kind[i] != WAIT or value[sem[i]] > 0:
                    ready[choices] = q
                    choices += 1
        if choices == 0:
            break
        q = ready[0] if seed < 0 else ready[np.random.randint(0, choices)]
        position = line[at[q]]
        i = pc[position]
        if kind[i] == WAIT:
            value[sem[i]] -= 1
        elif kind[i] == SIGNAL:
            value[sem[i]] += 1
        order[done] = position
        done += 1
        at[q] += 1
    return done
