"""The dynamic instructions of an entry: its listing with all loops expanded, in program order.

A *position* is the number of a dynamic instruction in this order; loops themselves are not in the stream. The timing
model, the hazard checker and replays of other legal orders all number executions this way.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pintac import isa
from pintac.errors import ExecutionError
from pintac.isa import Opcode
from pintac.isa.encoding import column

_LOOP_PARAM = column(Opcode.LOOP, "param")
_LOOP_COUNT = column(Opcode.LOOP, "count")
_LOOP_LEVEL = column(Opcode.LOOP, "level")
_SEMAPHORE_QUEUE = column(Opcode.SIGNAL, "queue")
assert column(Opcode.WAIT, "queue") == _SEMAPHORE_QUEUE
_QUEUE_TABLE = np.full(256, -1, np.int64)
for _opcode, _queue in isa.QUEUE_OF.items():
    _QUEUE_TABLE[_opcode] = _queue


def queues(table: np.ndarray) -> np.ndarray:
    """Queue of each instruction of a decoded table, int64; -1 for loops, which run in all queues."""
    opcode = table[:, 0]
    semaphore = (opcode == Opcode.SIGNAL) | (opcode == Opcode.WAIT)
    return np.where(semaphore, table[:, _SEMAPHORE_QUEUE], _QUEUE_TABLE[opcode])


def loop_counts(table: np.ndarray, start: int, stop: int, params: np.ndarray) -> np.ndarray:
    """How often each loop of [start, stop) runs with these parameters: int64 [stop - start], 0 where no loop begins.

    Raises `ExecutionError` for a parameter above a loop's static maximum.
    """
    part = table[start:stop]
    is_loop = part[:, 0] == Opcode.LOOP
    counts = np.where(is_loop, part[:, _LOOP_COUNT], 0)
    for pc in np.flatnonzero(is_loop & (part[:, _LOOP_PARAM] != isa.NO_PARAM)):
        number, limit = int(part[pc, _LOOP_PARAM]), int(counts[pc])
        value = int(params[number]) if number < len(params) else 0
        if value > limit:
            raise ExecutionError(
                f"instruction {start + pc} (loop): parameter {number} is {value}, the loop runs at most {limit} times"
            )
        counts[pc] = value
    return counts


def loop_partners(table: np.ndarray, start: int, stop: int) -> np.ndarray:
    """For each loop of [start, stop) its endloop and the other way round, relative to `start`; -1 elsewhere.

    Raises `ExecutionError` if loops are not nested properly.
    """
    partner = np.full(stop - start, -1, np.int64)
    open_loops: list[int] = []
    for pc in np.flatnonzero((table[start:stop, 0] == Opcode.LOOP) | (table[start:stop, 0] == Opcode.ENDLOOP)):
        if table[start + pc, 0] == Opcode.LOOP:
            open_loops.append(int(pc))
        elif open_loops:
            partner[pc] = open_loops.pop()
            partner[partner[pc]] = pc
        else:
            raise ExecutionError(f"instruction {start + pc} (endloop) closes no loop")
    if open_loops:
        raise ExecutionError(f"instruction {start + open_loops[-1]} (loop) is not closed")
    return partner


def executions(table: np.ndarray, start: int, stop: int, params: np.ndarray) -> np.ndarray:
    """How often each instruction of [start, stop) runs, int64; loop and endloop: how often the loop is entered."""
    counts = loop_counts(table, start, stop, params)
    partner = loop_partners(table, start, stop)
    times = np.ones(stop - start, np.int64)
    for pc in np.flatnonzero(table[start:stop, 0] == Opcode.LOOP):
        times[pc + 1 : partner[pc]] *= counts[pc]
    return times


def dynamic_stream(table: np.ndarray, start: int, stop: int, params: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unroll [start, stop): (pc int32 [n], loop indices int32 [n, LOOP_LEVELS]) in program order.

    `pc` counts from the start of the table; the indices of levels that are not open are 0.
    """
    counts = loop_counts(table, start, stop, params)
    partner = loop_partners(table, start, stop)
    times = executions(table, start, stop, params)
    n = int(times[partner < 0].sum())
    pc = np.empty(n, np.int32)
    index = np.empty((n, isa.LOOP_LEVELS), np.int32)
    _unroll(partner, counts, table[start:stop, _LOOP_LEVEL].copy(), start, pc, index)
    return pc, index


@njit(cache=True)
def _unroll(
    partner: np.ndarray, counts: np.ndarray, level: np.ndarray, start: int, pc_out: np.ndarray, index_out: np.ndarray
) -> None:
    index = np.zeros(index_out.shape[1], np.int32)
    pc, n = 0, 0
    while pc < len(partner):
        other = partner[pc]
        if other < 0:
            pc_out[n] = start + pc
            for i in range(len(index)):
                index_out[n, i] = index[i]
            n += 1
        elif other > pc:
            if counts[pc] == 0:
                pc = other
        else:
            index[level[pc]] += 1
            if index[level[pc]] < counts[other]:
                pc = other
            else:
                index[level[pc]] = 0
        pc += 1
