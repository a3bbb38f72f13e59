"""What a program sees of the machine: queues, semaphores, loops, address spaces and the parameter block."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

LOOP_LEVELS = 5
MAX_SEMAPHORES = 1024
PARAMS = 64  # entries of the parameter block, 32 bits each
NO_PARAM = 255  # where an instruction names an entry: none

# Entries of the parameter block that the instruction set itself reads (Philox key and counter).
PARAM_SEED = 0
PARAM_STEP = 1


class Queue(IntEnum):
    """The four in-order instruction queues. Loops belong to all of them."""

    LOAD = 0
    TCU = 1
    VPU = 2
    STORE = 3


@dataclass(frozen=True)
class Semaphore:
    """A counting semaphore from one queue to another.

    The k-th wait (from 0) matches signal k - credit. Exceeding `capacity` is an error, never blocking.
    """

    number: int
    source: Queue
    target: Queue
    credit: int
    capacity: int
    name: str = ""


class Space(IntEnum):
    """Address spaces."""

    DRAM = 0
    SRAM = 1
    PSUM = 2
