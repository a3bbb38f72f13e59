"""The modelled cost of one training step of a program."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pintac.program import Program
from pintac.timeline import Timing, simulate


@dataclass(frozen=True)
class StepCost:
    """Cycles, bytes and joules of a step, as the machine file has them (docs/MACHINE.md).

    Unit cycles are those in which the unit is taken. `lower_bound_cycles` is None for a program without a bound
    (a hand-written one).
    """

    cycles_per_step: int
    tcu_cycles_per_step: int
    vpu_cycles_per_step: int
    dram_bytes_per_step: int
    energy_j_per_step: float
    instructions_executed_per_step: int
    macs_per_step: int
    lower_bound_cycles: int | None


def step_cost(program: Program, timing: Timing | None = None) -> StepCost:
    """The cost of a step; `timing` saves simulating it again."""
    timed = timing or simulate(program)
    return StepCost(
        cycles_per_step=timed.cycles,
        tcu_cycles_per_step=timed.busy["tcu"],
        vpu_cycles_per_step=timed.busy["vpu"],
        dram_bytes_per_step=timed.dram_bytes,
        energy_j_per_step=timed.joules,
        instructions_executed_per_step=timed.instructions,
        macs_per_step=timed.macs,
        lower_bound_cycles=lower_bound(program),
    )


def lower_bound(program: Program) -> int | None:
    """The bound that the backend stored, in whole cycles."""
    bound = program.meta.get("backend", {}).get("step", {}).get("bound", {}).get("cycles")
    return None if bound is None else round(bound)


def stats_json(program: Program) -> str:
    """Timing, energy and stalls of a step as sorted JSON."""
    timing = simulate(program)
    stats = {**vars(step_cost(program, timing)), **timing.to_dict()}
    return json.dumps(stats, indent=2, sort_keys=True, allow_nan=False) + "\n"
