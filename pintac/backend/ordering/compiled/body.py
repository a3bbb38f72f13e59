# mypy: ignore-errors
"""A loop body as the compiled functions have it, and how the tensor unit goes on."""

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
FAR = 1 << 60

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
