"""The simulated side: programs of the table, and what halving and doubling each assumed constant does to one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pintac.api.explaining import chosen_machine
from pintac.api.lowering import lower
from pintac.api.reuse import emit_or_reuse
from pintac.errors import DoesNotFitError, MachineError
from pintac.experiments.hardware.rows import Configuration, Workload
from pintac.machine import KEYS, Machine
from pintac.passes import PipelineOptions
from pintac.program import Program
from pintac.report.step_cost import step_cost
from pintac.timeline import Timing, simulate

Costs = dict[str, Any]

RECOMPILED = ("sram_kib", "psum_kib", "vpu_max_micro_ops", "vpu_philox", "semaphores")
"""Keys that decide what the program is: it is compiled again. For all others the same program runs on the variant, with
tiles and orders chosen for the default machine, so that a variant's gain is what is left without a new schedule."""

PUBLISHED = ("sram_kib", "vpu_lanes")
"""Published constants that are varied all the same: what a machine of another size would give."""

STATIC_WATTS = 1.0
"""Leakage, clock and control cost no energy in the model (docs/MACHINE.md); tornados show what this much would do."""


def program_of(
    workload: Workload, configuration: Configuration, machine_keys: Mapping[str, Any] | None = None
) -> Program:
    """Compiled, or found in the cache of programs. Raises DoesNotFitError for a machine that cannot hold it."""
    from pintac.frontend import builtin_step

    options = {"bits": "8/16/8/12", "quant": "diff", "scheme": "prs", **configuration.options}
    settings = {**(workload.improved if configuration.improved else {}), **configuration.settings}
    step = builtin_step(workload.problem, scheme=options["scheme"], **settings)
    machine = Machine.default().override(list(configuration.machine))
    if machine_keys:
        machine = machine.replace(**machine_keys)
    pipeline = PipelineOptions.from_bits(options["bits"], quant=options["quant"], scheme=options["scheme"])
    return emit_or_reuse(lower(step, pipeline), machine)


def costs_of(program: Program) -> Costs:
    """What a step costs, and the memory that the program uses."""
    timing = simulate(program)
    cost = step_cost(program, timing)
    used = program.meta.get("backend", {}).get("step", {}).get("sram_bytes")
    return {
        **_time_and_energy(timing, chosen_machine(program, None)),
        "bound": cost.lower_bound_cycles,
        "macs": cost.macs_per_step,
        "dram_traffic_bytes": cost.dram_bytes_per_step,
        "sram_bytes": used if isinstance(used, int) else program.sram_bytes,
        "psum_bytes": program.psum_bytes,
        "dram_bytes": program.dram_bytes,
        "energy_parts": {key: value for key, value in timing.energy_j.items() if key != "total"},
    }


def _time_and_energy(timing: Timing, machine: Machine) -> Costs:
    return {"cycles": timing.cycles, "seconds": machine.seconds(timing.cycles), "joules": timing.joules}


def cost_or_reason(workload: Workload, configuration: Configuration) -> Costs:
    """The costs of a configuration, or `{"note": why there are none}`."""
    try:
        return costs_of(program_of(workload, configuration))
    except DoesNotFitError as error:
        return {"note": f"does not fit: {error.message}"[:160]}


# ---------------------------------------------------------------------------------------------- tornado


@dataclass(frozen=True)
class Variation:
    """A key with another value; `side` is "low" or "high"."""

    key: str
    side: str
    value: Any

    @property
    def recompiled(self) -> bool:
        return self.key in RECOMPILED


def variations(machine: Machine) -> list[Variation]:
    """Half and double of every assumed key (and of `PUBLISHED`), the other value of a switch.

    Values that no machine can have are left out.
    """
    found = []
    for key in KEYS:
        if machine.provenance[key].tag != "assumed" and key not in PUBLISHED:
            continue
        value = getattr(machine, key)
        candidates: list[tuple[str, Any]]
        if isinstance(value, bool):
            candidates = [("low", not value)]
        elif isinstance(value, int):
            candidates = [("low", value // 2), ("high", value * 2)]
        else:
            candidates = [("low", value / 2), ("high", value * 2)]
        found += [Variation(key, side, v) for side, v in candidates if _possible(machine, key, v)]
    return found


def _possible(machine: Machine, key: str, value: Any) -> bool:
    try:
        machine.replace(**{key: value})
    except MachineError:
        return False
    return True


def varied(workload: Workload, configuration: Configuration, base: Program, variation: Variation) -> Costs:
    """Seconds and joules of a step with one constant changed; see `RECOMPILED`."""
    change = {variation.key: variation.value}
    if variation.recompiled:
        try:
            program = program_of(workload, configuration, change)
            machine = chosen_machine(program, None)
            timing = simulate(program)
        except (DoesNotFitError, MachineError) as error:  # too small, or without a part that the compiler asks for
            return {"value": variation.value, "note": f"no program: {error.message}"[:160]}
    else:
        machine = chosen_machine(base, None).replace(**change)
        timing = simulate(base, machine=machine)
    return {"value": variation.value, **_time_and_energy(timing, machine), "recompiled": variation.recompiled}


# ---------------------------------------------------------------------------------------------- orders of contraction


def contraction_macs(
    in_factors: tuple[int, ...], out_factors: tuple[int, ...], ranks: tuple[int, ...], order: str
) -> int:
    """Multiplications of one row through a TT layer, forward, without the reconstruction that all rows share.

    "prs": x B and then A, the two halves of the train multiplied out; "sequential": one core after the other.
    """
    split = len(in_factors)
    bonds = (1, *ranks, 1)
    inputs, outputs = _product(in_factors), _product(out_factors)
    if order == "prs":
        return (inputs + outputs) * bonds[split]
    total = 0
    for k, size in enumerate(in_factors):  # [bond k, size, what is left] by core [bond k, size, bond k + 1]
        total += bonds[k] * size * bonds[k + 1] * _product(in_factors[k + 1 :])
    for k, size in enumerate(out_factors, start=split):  # [what is done, bond k] by core [bond k, size, bond k + 1]
        total += _product(out_factors[: k - split]) * bonds[k] * size * bonds[k + 1]
    return total


def _product(sizes: tuple[int, ...]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
