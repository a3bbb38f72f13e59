"""What would help: the same program, instruction by instruction, on variants of its machine.

Nothing is compiled again, so tile sizes and the order of work stay those chosen for the program's own machine: what a
variant gains here is what is left without changing the schedule. Memory sizes and the length of chains decide what the
program is; they are not among the variants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from pintac.cost import CostTable, cost_table
from pintac.errors import MachineError
from pintac.isa import Opcode
from pintac.machine import KEYS, Machine
from pintac.program import Program
from pintac.timeline import simulate_listing

REAL, IDEAL = "machine", "ideal"

_DOUBLED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("DRAM bandwidth x2", ("dram_gb_per_s",)),
    ("outstanding transfers x2", ("dram_outstanding",)),
    ("tensor unit: engines x2", ("bme_cols",)),
    ("tensor unit: SRAM read rate x2", ("tcu_sram_read_bytes_per_cycle",)),
    ("tensor unit: PSUM write rate x2", ("psum_write_fp32_per_cycle",)),
    ("vector unit: lanes x2", ("vpu_lanes",)),
    ("vector unit: quantiser x2", ("quantise_blocks_per_cycle",)),
    ("vector unit: SRAM ports x2", ("vpu_sram_read_bytes_per_cycle", "vpu_sram_write_bytes_per_cycle")),
    (
        "vector unit: lanes, ports and quantiser x2",
        (
            "vpu_lanes", "quantise_blocks_per_cycle", "vpu_sram_read_bytes_per_cycle", "vpu_sram_write_bytes_per_cycle",
            "sram_bank_bytes_per_cycle",
        ),
    ),
)  # fmt: skip
_ZEROED = (
    ("DRAM latency 0", ("dram_latency_ns",)),
    ("vector pipeline 0 cycles", ("vpu_pipeline_cycles",)),
)
_UNITS = {
    "tensor unit infinitely fast": (Opcode.MATMUL,),
    "vector unit infinitely fast": (Opcode.VPU,),
    "DRAM infinitely fast": (Opcode.LOAD, Opcode.STORE),
}
_SPANS = ("busy", "compute", "drain", "preload", "skew")


@dataclass(frozen=True)
class WhatIf:
    """A variant and its cycles: `kind` is `machine` (keys that a machine file can have) or `ideal` (no machine)."""

    name: str
    kind: str
    cycles: int
    saved: int

    def to_dict(self) -> dict[str, object]:
        """JSON-able."""
        return dict(vars(self))


def what_if(program: Program, entry: str, machine: Machine, params: np.ndarray, cycles: int) -> list[WhatIf]:
    """Every variant, the most helpful first; `cycles` are those on `machine`."""
    start, stop = program.entry(entry)
    costs = cost_table(program.table[start:stop], machine)

    def run(on: Machine, given: CostTable | None = None, table: np.ndarray = program.table) -> int:
        return simulate_listing(table, start, stop, program.semaphores, on, params, costs=given).cycles

    variants: list[tuple[str, str, Callable[[], int]]] = []
    for name, changed in _machines(machine):
        variants.append((name, REAL, lambda on=changed: run(on)))  # type: ignore[misc]
    for name, opcodes in _UNITS.items():
        free = machine.replace(dram_latency_ns=0.0) if Opcode.LOAD in opcodes else machine
        free = free.replace(vpu_pipeline_cycles=0) if Opcode.VPU in opcodes else free
        instant = _instant(program.table[start:stop], costs, opcodes)
        variants.append((name, IDEAL, lambda on=free, given=instant: run(on, given)))  # type: ignore[misc]
    quick = machine.replace(dram_latency_ns=0.0, vpu_pipeline_cycles=0)
    no_skew = replace(costs, integers={**costs.integers, "skew": np.zeros_like(costs["skew"])})
    variants.append(("no latency anywhere", IDEAL, lambda: run(quick, no_skew)))
    variants.append(
        ("units never wait for each other", IDEAL, lambda: _unordered(program, start, stop, machine, params))
    )
    found = [WhatIf(name, kind, taken, cycles - taken) for name, kind, go in variants for taken in (go(),)]
    return sorted(found, key=lambda w: (-w.saved, w.name))


def _machines(machine: Machine) -> Iterator[tuple[str, Machine]]:
    """Variants that differ in a few keys, as far as there can be such machines."""
    variants = [(name, {key: 2 * getattr(machine, key) for key in keys}) for name, keys in _DOUBLED]
    variants += [(name, {key: KEYS[key].kind(0) for key in keys}) for name, keys in _ZEROED]
    for name, changes in variants:
        try:
            changed = machine.replace(**changes)
        except MachineError:  # out of range, or more than the banks of the scratchpad deliver
            continue
        yield name, changed


def _instant(part: np.ndarray, costs: CostTable, opcodes: tuple[Opcode, ...]) -> CostTable:
    """Costs in which these instructions take no time."""
    chosen = np.isin(part[:, 0], opcodes)
    return replace(costs, integers={k: np.where(chosen, 0, v) if k in _SPANS else v for k, v in costs.integers.items()})


def _unordered(program: Program, start: int, stop: int, machine: Machine, params: np.ndarray) -> int:
    """Cycles without signals and waits."""
    table = program.table[start:stop]
    kept = table[~np.isin(table[:, 0], (Opcode.SIGNAL, Opcode.WAIT))]
    return simulate_listing(kept, 0, len(kept), (), machine, params).cycles
