"""What would help: the same program, instruction by instruction, on variants of its machine.

Nothing is compiled again, so tile sizes and the order of work stay those chosen for the program's own machine: what a
variant gains here is what is left without changing the schedule. Memory sizes and the length of chains decide what the
program is; they are not among the variants, but that transfers of values that SRAM had no room for take no time is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from pintac.cost import CostTable
from pintac.errors import MachineError
from pintac.isa import Opcode
from pintac.machine import KEYS, Machine
from pintac.report.explain.ledger import SPILL, Ledger
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
STAYS = "values that go through DRAM stay in SRAM"
_SPANS = ("busy", "latency", "compute", "drain", "preload", "skew")


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


def what_if(ledger: Ledger, params: np.ndarray, cycles: int) -> list[WhatIf]:
    """Every variant of the ledger's machine, the most helpful first; `cycles` are those on the machine itself."""
    program, machine, costs, part = ledger.program, ledger.machine, ledger.costs, ledger.table
    start, stop = ledger.start, ledger.stop

    def run(on: Machine, given: CostTable | None = None) -> int:
        timing = simulate_listing(program.table, start, stop, program.semaphores, on, params, costs=given)
        return timing.cycles

    found = [(name, REAL, run(changed)) for name, changed in _machines(machine)]
    opcode = part[:, 0]
    transfer = np.isin(opcode, (Opcode.LOAD, Opcode.STORE))
    no_pipeline = machine.replace(vpu_pipeline_cycles=0)
    found.append(("tensor unit infinitely fast", IDEAL, run(machine, _instant(costs, opcode == Opcode.MATMUL))))
    found.append(("vector unit infinitely fast", IDEAL, run(no_pipeline, _instant(costs, opcode == Opcode.VPU))))
    found.append(("DRAM infinitely fast", IDEAL, run(machine, _instant(costs, transfer))))
    spills = np.array([phase == SPILL for _, phase in ledger.purposes], bool)
    if spills.any():
        found.append((STAYS, IDEAL, run(machine, _instant(costs, spills))))
    prompt = {"skew": np.zeros_like(costs["skew"]), "latency": np.where(transfer, costs["busy"], costs["latency"])}
    found.append(
        ("no latency anywhere", IDEAL, run(no_pipeline, replace(costs, integers={**costs.integers, **prompt})))
    )
    kept = part[~np.isin(opcode, (Opcode.SIGNAL, Opcode.WAIT))]
    unordered = simulate_listing(kept, 0, len(kept), (), machine, params).cycles
    found.append(("units never wait for each other", IDEAL, unordered))
    variants = [WhatIf(name, kind, taken, cycles - taken) for name, kind, taken in found]
    return sorted(variants, key=lambda w: (-w.saved, w.name))


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


def _instant(costs: CostTable, chosen: np.ndarray) -> CostTable:
    """Costs in which these instructions take no time."""
    return replace(costs, integers={k: np.where(chosen, 0, v) if k in _SPANS else v for k, v in costs.integers.items()})
