"""The modelled cost of one training step of a program."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from pintac import isa
from pintac.cost import COST_ENERGIES, cost_table
from pintac.isa import Opcode
from pintac.machine import Machine
from pintac.program import Program
from pintac.stream import executions


@dataclass(frozen=True)
class StepWork:
    """What a step executes, whatever its timing: sums over the listing with loops multiplied out.

    `queue_cycles` are the cycles that each unit is taken, by queue name.
    """

    instructions: int
    macs: int
    queue_cycles: dict[str, int]
    dram_bytes: int
    energy_pj: dict[str, float]


@dataclass(frozen=True)
class StepCost:
    """Cycles, bytes and joules of a step, as the machine file has them (docs/MACHINE.md).

    `lower_bound_cycles` is None for programs that do not carry a bound (hand-written ones).
    """

    cycles_per_step: int
    tcu_cycles_per_step: int
    vpu_cycles_per_step: int
    dram_bytes_per_step: int
    energy_j_per_step: float
    instructions_executed_per_step: int
    macs_per_step: int
    lower_bound_cycles: int | None


def machine_of(program: Program) -> Machine:
    """The machine that a program was compiled for; the default one for a program that does not say."""
    described = program.meta.get("machine")
    return Machine.from_dict(described, "the program's machine") if described else Machine.default()


def parameters(program: Program, step: int = 0) -> np.ndarray:
    """The parameter block of a step: uint32 [isa.PARAMS]."""
    params = np.zeros(isa.PARAMS, np.uint32)
    row = program.param_table[min(step, len(program.param_table) - 1)]
    params[: len(row)] = row
    params[isa.PARAM_STEP] = step
    return params


def step_work(program: Program, entry: str = "step") -> StepWork:
    """Sums over one run of an entry."""
    start, stop = program.entry(entry)
    table = program.table[start:stop]
    times = executions(program.table, start, stop, parameters(program))
    costs = cost_table(table, machine_of(program))
    control = np.isin(table[:, 0], [Opcode.LOOP, Opcode.ENDLOOP])
    cycles = {
        queue.name.lower(): int((costs["busy"] * times)[table[:, 0] == opcode].sum())
        for opcode, queue in isa.QUEUE_OF.items()
    }
    return StepWork(
        instructions=int(times[~control].sum()),
        macs=int((costs["macs"] * times).sum()),
        queue_cycles=cycles,
        dram_bytes=int(((costs["dram_read"] + costs["dram_write"]) * times).sum()),
        energy_pj={name.removesuffix("_pj"): float((costs[name] * times).sum()) for name in COST_ENERGIES},
    )


def step_cost(program: Program) -> StepCost:
    """The cost of a step in steady state."""
    from pintac.timeline import simulate

    work = step_work(program)
    bound = program.meta.get("backend", {}).get("step", {}).get("bound", {})
    return StepCost(
        cycles_per_step=int(simulate(program).cycles),
        tcu_cycles_per_step=work.queue_cycles["tcu"],
        vpu_cycles_per_step=work.queue_cycles["vpu"],
        dram_bytes_per_step=work.dram_bytes,
        energy_j_per_step=sum(work.energy_pj.values()) * 1e-12,
        instructions_executed_per_step=work.instructions,
        macs_per_step=work.macs,
        lower_bound_cycles=bound.get("cycles"),
    )


def stats_json(program: Program) -> str:
    """Timing, energy and stalls of a step as sorted JSON."""
    from pintac.timeline import simulate

    work = step_work(program)
    stats = {**vars(step_cost(program)), "queue_cycles": work.queue_cycles, "energy_pj": work.energy_pj}
    stats["timeline"] = simulate(program).to_dict()
    return json.dumps(stats, indent=2, sort_keys=True, allow_nan=False) + "\n"
