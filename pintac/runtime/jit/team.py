"""What each thread of a team does: its executions in the order of the stream, what it copies, and for whom it waits.

A thread's *rows* are uint32 [n, ROW_WORDS]; its progress is the number of rows done. Before an execution come copies of
what it reads that only another thread has, and before these the waits: until the other has made it, and until nobody
reads what is overwritten any more. In the end the first thread, whose memory is the machine's, copies back what it
lacks. So every memory ends as if one thread had executed all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from pintac.isa import LOOP_LEVELS, Space
from pintac.program import Program
from pintac.runtime.jit.sharing import Shared, Stream
from pintac.runtime.listing import loop_ends
from pintac.runtime.memory import aligned_bytes
from pintac.runtime.state import FILL, MachineState

# What a row is. The last word of RUN and COPY says whether another thread waits for them.
RUN, WAIT, COPY, CLEAR = range(4)
ROW_WORDS = 8
PUBLISH = 7
# RUN: step of the plan, index of every loop level
# WAIT: thread, its progress to wait for
# COPY: thread, space, first byte, bytes, rows, bytes from row to row
# CLEAR: first flag, number of flags of kept panels
assert 2 + LOOP_LEVELS <= PUBLISH


class ThreadMemory:
    """What another thread than the first one sees: memories of its own, the machine's parameters."""

    def __init__(self, state: MachineState) -> None:
        self.state = state
        self.params = state.params
        self.status = aligned_bytes(4, 0).view(np.uint32)[:1]
        fill = {Space.DRAM: 0, Space.SRAM: FILL, Space.PSUM: FILL}
        self._own = {space: aligned_bytes(state.size(space), fill[space]) for space in Space}

    def padded(self, space: Space) -> np.ndarray:
        """The storage of an address space with its padding."""
        return self._own[space]

    def size(self, space: Space) -> int:
        """Bytes of an address space."""
        return self.state.size(space)


def rows_of_threads(
    program: Program, shared: Shared, threads: int, step_of: np.ndarray, clears: np.ndarray
) -> list[np.ndarray]:
    """The rows of each thread.

    `step_of` [instructions] are the steps of the plan; `clears` [loops, 3] the instruction that opens a loop, and the
    first flag and the number of flags that a thread clears when it enters it.
    """
    loops = _Loops.of(program, clears, shared.footprint.index)
    ranges = _Ranges(*shared.atoms.ranges)
    counts = np.zeros(threads, np.int64)
    rows = np.zeros((0, ROW_WORDS), np.uint32)
    first = np.zeros(threads, np.int64)
    for writing in (False, True):
        index = shared.footprint.index
        counts = _write(shared.stream, index, shared.thread, step_of, ranges, loops, first, rows, threads)
        if not writing:
            first = np.cumsum(counts) - counts
            rows = np.zeros((int(counts.sum()), ROW_WORDS), np.uint32)
    waits = rows[rows[:, 0] == WAIT].astype(np.int64)
    rows[first[waits[:, 1]] + waits[:, 2] - 1, PUBLISH] = 1
    return [rows[first[t] : first[t] + counts[t]].copy() for t in range(threads)]


class _Ranges(NamedTuple):
    """`footprint.Atoms.ranges`."""

    space: np.ndarray
    first: np.ndarray
    low: np.ndarray
    size: np.ndarray


class _Loops(NamedTuple):
    """Loops whose entry clears flags."""

    around: np.ndarray  # int64 [instructions, depth]: their numbers; -1: no more
    level: np.ndarray  # int64 [loops]
    flags: np.ndarray  # int64 [loops, 2]: first, number
    counts: np.ndarray  # int64 [LOOP_LEVELS]: how many indices a level has

    @classmethod
    def of(cls, program: Program, clears: np.ndarray, index: np.ndarray) -> _Loops:
        """The loops of `clears` in a stream with these loop indices."""
        ends = loop_ends(program)
        around = np.full((len(program.instructions), LOOP_LEVELS + 1), -1, np.int64)
        for number, pc in enumerate(clears[:, 0].tolist()):
            inside = around[pc : ends[pc]]
            inside[np.arange(len(inside)), (inside >= 0).sum(axis=1)] = number
        level = np.array([program.instructions[pc]["level"] for pc in clears[:, 0].tolist()], np.int64)
        return cls(around, level, clears[:, 1:].copy(), index.max(axis=0, initial=0).astype(np.int64) + 1)


@njit(cache=True)
def _write(
    s: Stream,
    index: np.ndarray,
    thread: np.ndarray,
    step_of: np.ndarray,
    ranges: _Ranges,
    loops: _Loops,
    first: np.ndarray,
    rows: np.ndarray,
    threads: int,
) -> np.ndarray:
    """How many rows each thread has; `rows`, unless it is empty, gets them, thread t's from `first[t]` on."""
    count = len(s.size)
    present = np.zeros((count, threads), np.bool_)
    present[:, 0] = True
    holder = np.zeros(count, np.int64)  # who wrote it last
    made = np.zeros((count, threads), np.int64)  # a thread's progress with which what it has of it is there
    looked = np.zeros((count, threads), np.int64)  # its progress with which it has read it where another one may write
    known = np.zeros((threads, threads), np.int64)  # progress of others that a thread has waited for
    need = np.zeros(threads, np.int64)
    done = np.zeros(threads, np.int64)
    entry = np.full((threads, len(loops.level)), -1, np.int64)
    stamp = np.full(count, -1, np.int64)
    wanted = np.empty(count, np.int64)
    key, place = np.empty(len(ranges.low), np.int64), np.empty(len(ranges.low), np.int64)
    n = 0
    for position in range(len(s.pc)):
        i = s.pc[position]
        begin = n
        n += s.first[i + 1] - s.first[i]
        if not s.work[i]:
            continue
        t = thread[position]
        need[:] = 0
        copies = 0
        for a in range(begin, n):
            write = s.write[s.first[i] + a - begin]
            for m in range(s.atom_first[s.region[a]], s.atom_first[s.region[a] + 1]):
                atom = s.atoms[m]
                who = holder[atom]
                missing = not s.shared[atom] and not write and not present[atom, t]
                if missing or (s.shared[atom] and who != t):
                    need[who] = max(need[who], made[atom, who])
                if missing and stamp[atom] != position:
                    stamp[atom] = position
                    wanted[copies] = atom
                    copies += 1
                if write or missing:
                    for other in range(threads):
                        if other != t:
                            need[other] = max(need[other], looked[atom, other])
        _wait(rows, first, done, t, need, known)
        _copy(rows, first, done, t, wanted, copies, holder, ranges, key, place)
        for c in range(copies):
            present[wanted[c], t] = True
            made[wanted[c], t] = looked[wanted[c], t] = done[t]
        for d in range(loops.around.shape[1]):
            loop = loops.around[i, d]
            if loop < 0:
                break
            number = 0
            for level in range(loops.level[loop]):
                number = number * loops.counts[level] + index[position, level]
            if entry[t, loop] != number:
                entry[t, loop] = number
                _put(rows, first, done, t, CLEAR, loops.flags[loop, 0], loops.flags[loop, 1])
        x = index[position]
        _put(rows, first, done, t, RUN, step_of[i], x[0], x[1], x[2], x[3], x[4])
        for a in range(begin, n):
            write = s.write[s.first[i] + a - begin]
            for m in range(s.atom_first[s.region[a]], s.atom_first[s.region[a] + 1]):
                atom = s.atoms[m]
                if write:
                    present[atom, :] = False
                    present[atom, t], holder[atom], made[atom, t] = True, t, done[t]
                elif s.shared[atom]:
                    looked[atom, t] = done[t]
    need[:] = 0
    copies = 0
    for atom in range(count):
        if not present[atom, 0] and not s.shared[atom]:
            wanted[copies] = atom
            copies += 1
            need[holder[atom]] = max(need[holder[atom]], made[atom, holder[atom]])
            for other in range(1, threads):
                need[other] = max(need[other], looked[atom, other])
    _wait(rows, first, done, 0, need, known)
    _copy(rows, first, done, 0, wanted, copies, holder, ranges, key, place)
    return done


@njit(cache=True)
def _put(
    rows: np.ndarray,
    first: np.ndarray,
    done: np.ndarray,
    t: int,
    code: int,
    a: int = 0,
    b: int = 0,
    c: int = 0,
    d: int = 0,
    e: int = 0,
    f: int = 0,
) -> None:
    """One row more for thread t."""
    if len(rows):
        row = rows[first[t] + done[t]]
        row[0], row[1], row[2], row[3], row[4], row[5], row[6] = code, a, b, c, d, e, f
    done[t] += 1


@njit(cache=True)
def _wait(
    rows: np.ndarray, first: np.ndarray, done: np.ndarray, t: int, need: np.ndarray, known: np.ndarray
) -> None:
    """Have thread t wait for the others as far as it does not know yet that they are so far."""
    for other in range(len(need)):
        if other != t and need[other] > known[t, other]:
            known[t, other] = need[other]
            _put(rows, first, done, t, WAIT, other, need[other])


@njit(cache=True)
def _copy(
    rows: np.ndarray,
    first: np.ndarray,
    done: np.ndarray,
    t: int,
    wanted: np.ndarray,
    copies: int,
    holder: np.ndarray,
    ranges: _Ranges,
    key: np.ndarray,
    place: np.ndarray,
) -> None:
    """Have thread t copy these atoms from who wrote them: adjacent ranges as one, equal ones at equal distances too."""
    n = 0
    for c in range(copies):
        atom = wanted[c]
        for r in range(ranges.first[atom], ranges.first[atom + 1]):
            key[n] = (holder[atom] * 4 + ranges.space[atom]) << 40 | ranges.low[r]
            place[n] = ranges.size[r]
            n += 1
    if n == 0:
        return
    by = np.argsort(key[:n])
    start, size, count, stride = key[by[0]], place[by[0]], 1, 0
    merged_start, merged_size = np.empty(n, np.int64), np.empty(n, np.int64)
    m = 0
    for r in range(n):
        if m and merged_start[m - 1] + merged_size[m - 1] == key[by[r]]:
            merged_size[m - 1] += place[by[r]]
        else:
            merged_start[m], merged_size[m] = key[by[r]], place[by[r]]
            m += 1
    r = 0
    while r < m:
        start, size, count, stride = merged_start[r], merged_size[r], 1, 0
        if r + 1 < m and start >> 40 == merged_start[r + 1] >> 40:
            stride = merged_start[r + 1] - start
        while (
            r + count < m
            and merged_size[r + count] == size
            and merged_start[r + count] == start + count * stride
            and merged_start[r + count] >> 40 == start >> 40
        ):
            count += 1
        where = start >> 40
        _put(rows, first, done, t, COPY, where // 4, where % 4, start & ((1 << 40) - 1), size, count, stride)
        r += count
