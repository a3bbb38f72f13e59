"""How much an entry executes: counts, not times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pintac.isa import Opcode
from pintac.isa.encoding import column
from pintac.program import Program
from pintac.stream import executions


@dataclass(frozen=True)
class Work:
    """Executed instructions (loop bookkeeping left out), multiply-accumulates of the TCU, elements through the VPU."""

    instructions: int
    macs: int
    vpu_elements: int


def count_work(program: Program, entry: str, params: np.ndarray) -> Work:
    """The work of one run of an entry with this parameter block, from its listing alone."""
    start, stop = program.entry(entry)
    table = program.table[start:stop]
    times = executions(program.table, start, stop, params)
    opcode = table[:, 0]

    def total(op: Opcode, *sizes: str) -> int:
        chosen = opcode == op
        per_run = np.prod([table[chosen, column(op, size)] for size in sizes], axis=0)
        return int((times[chosen] * per_run).sum())

    loops = (opcode == Opcode.LOOP) | (opcode == Opcode.ENDLOOP)
    return Work(
        instructions=int(times[~loops].sum()),
        macs=total(Opcode.MATMUL, "m", "n", "k"),
        vpu_elements=total(Opcode.VPU, "rows", "cols"),
    )
