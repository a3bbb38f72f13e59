"""Where the cycles of a program go: busy, idle, bound and gap by layer and unit, who waits for whom, what would help.

It needs the program file only: the file carries its machine, its lower bound and where each instruction comes from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pintac.cost import cost_table
from pintac.errors import MachineError
from pintac.machine import Machine
from pintac.program import Program
from pintac.report.explain_choices import Choices, Memory, backend_meta, choices, memory_use
from pintac.report.explain_ledger import Group, Ledger
from pintac.report.explain_path import MOST_EVENTS, Path, critical_path
from pintac.report.explain_stalls import Wait, op_pairs, stall_causes
from pintac.report.explain_whatif import WhatIf, what_if
from pintac.stream import executions
from pintac.timeline import Timing, parameter_block, program_machine, simulate

COLUMNS = 60  # of the picture of a run
UNITS = ("load", "tcu", "vpu", "store")
BUS = "dram"


@dataclass(frozen=True)
class Unit:
    """A unit (or the DRAM bus, which loads and stores share) over the whole run.

    `ideal` are the cycles of its work at its peak, `bound` those that the lower bound counts (null for a unit without
    one), `stalls` its other cycles by cause; busy and stalls add up to the cycles of the run.
    """

    name: str
    busy: int
    ideal: float
    useful: float
    bound: float | None
    stalls: Mapping[str, int]
    busy_by_bucket: tuple[int, ...]


@dataclass(frozen=True)
class Bound:
    """The lower bound that the program carries, and how the cycles beyond it are made up.

    `gap` names parts that add up to cycles - `cycles` on the unit that sets the bound.
    """

    cycles: int
    limit: str
    ratio: float
    gap: Mapping[str, float]


@dataclass(frozen=True)
class Explanation:
    """All that `pintac explain` knows; `text` and `to_dict` show it.

    `same_machine` says whether `machine` is the one that the program was compiled for; only then there is a bound.
    `groups` are by labels of `by` and unit; `tails` the cycles of each unit that no instruction of its own waited for.
    `path` is None for runs that are too long for it. `precision` is what the compiler chose, if it chose the bits.
    """

    title: str
    entry: str
    by: str
    machine: Machine
    same_machine: bool
    timing: Timing
    bound: Bound | None
    predicted_cycles: int | None
    units: tuple[Unit, ...]
    groups: tuple[Group, ...]
    tails: Mapping[str, int]
    path: Path | None
    waits: tuple[Wait, ...]
    choices: Choices
    what_if: tuple[WhatIf, ...]
    precision: Mapping[str, Any] | None = None

    @property
    def prediction_error(self) -> float | None:
        """(predicted - simulated) / simulated cycles of the schedule's own cost model."""
        if self.predicted_cycles is None or not self.timing.cycles:
            return None
        return self.predicted_cycles / self.timing.cycles - 1.0

    def text(self, top: int = 20) -> str:
        """The report; `top` lines of each long table."""
        from pintac.report.explain_text import render

        return render(self, top)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values."""
        timing, bound = self.timing, self.bound
        cycles = bound.cycles if bound else None
        return {
            "title": self.title,
            "entry": self.entry,
            "by": self.by,
            "machine": self.machine.name,
            "machine_hash": self.machine.hash,
            "same_machine": self.same_machine,
            "cycles": timing.cycles,
            "seconds": self.machine.seconds(timing.cycles),
            "instructions": timing.instructions,
            "macs": timing.macs,
            "bytes": {"sram": timing.sram_bytes, "psum": timing.psum_bytes, "dram": timing.dram_bytes},
            "energy_j": dict(timing.energy_j),
            "bound": None if bound is None else {**vars(bound), "gap": dict(bound.gap)},
            "predicted_cycles": self.predicted_cycles,
            "prediction_error": self.prediction_error,
            "bucket_cycles": timing.bucket_cycles,
            "units": [
                {**vars(u), "stalls": dict(u.stalls), "busy_by_bucket": list(u.busy_by_bucket)} for u in self.units
            ],
            "groups": [g.to_dict(cycles) for g in self.groups],
            "tails": dict(self.tails),
            "critical_path": None if self.path is None else self.path.to_dict(),
            "waits": [w.to_dict() for w in self.waits],
            "choices": self.choices.to_dict(),
            "what_if": [w.to_dict() for w in self.what_if],
            "what_if_note": "same program, no recompilation",
            **({} if self.precision is None else {"precision": dict(self.precision)}),
        }

    def to_json(self) -> str:
        """`to_dict` as sorted JSON, ends in a newline."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, allow_nan=False) + "\n"


def explain(program: Program, entry: str = "step", machine: Machine | None = None, by: str = "layer") -> Explanation:
    """Explain an entry of a program, on `machine` if given, with groups by `explain_ledger.BY`.

    Raises `ProgramError` for an unknown entry, `MachineError` if the machine cannot execute the program as it is.
    """
    own = program_machine(program)
    chosen = machine or own
    start, stop = program.entry(entry)
    params = parameter_block(program)
    check_fits(memory_use(program.table, start, stop, params, chosen), chosen)
    steps = int(executions(program.table, start, stop, params).sum())
    events = steps if steps <= MOST_EVENTS else 0
    timing = simulate(program, entry, chosen, params, events=events, buckets=COLUMNS)
    ledger = Ledger(program, entry, chosen, timing, cost_table(program.table[start:stop], chosen))
    described = backend_meta(program, entry)
    stored = stored_bound(described) if chosen == own else {}
    groups = ledger.groups(by)
    units = _units(ledger, timing, stored)
    predicted = described.get("predicted_cycles") if chosen == own else None
    predicted = predicted if isinstance(predicted, (int, float)) else None
    return Explanation(
        title=_title(program),
        entry=entry,
        by=by,
        machine=chosen,
        same_machine=chosen == own,
        timing=replace(timing, events=timing.events[:0]),  # they are large and have been read
        bound=_bound(ledger, timing, units, stored) if stored else None,
        predicted_cycles=None if predicted is None else round(predicted),
        units=units,
        groups=tuple(groups),
        tails={unit: timing.cycles - sum(g.busy + g.stalled for g in groups if g.unit == unit) for unit in UNITS},
        path=critical_path(ledger, timing.events, by) if steps <= MOST_EVENTS else None,
        waits=tuple(op_pairs(ledger, timing)),
        choices=choices(ledger, params, timing.events),
        what_if=tuple(what_if(ledger, params, timing.cycles)),
        precision=program.meta.get("precision"),
    )


def check_fits(memory: Mapping[str, Memory], machine: Machine) -> None:
    """Raise `MachineError` if a program touches more on-chip memory than the machine has."""
    for name, used in memory.items():
        if used.top > used.bytes:
            raise MachineError(
                f"the program uses {used.top} bytes of {name.upper()}, machine {machine.name!r} has {used.bytes}",
                hint=f"a smaller {name}_kib needs a program that is compiled for it",
            )


def stored_bound(described: Mapping[str, Any]) -> Mapping[str, Any]:
    """The bound in what a backend wrote down of an entry; empty if there is none."""
    bound = described.get("bound")
    return bound if isinstance(bound, Mapping) and isinstance(bound.get("cycles"), (int, float)) else {}


def _title(program: Program) -> str:
    meta = program.meta
    words = [str(meta[key]) for key in ("problem", "quant", "scheme") if key in meta]
    return " ".join(words) + (f", bits {meta['bits']}" if "bits" in meta else "") or "program"


def _units(ledger: Ledger, timing: Timing, stored: Mapping[str, Any]) -> tuple[Unit, ...]:
    causes = stall_causes(timing)
    totals = {g.unit: g for g in ledger.groups("unit")}
    out = []
    for q, name in enumerate(UNITS):
        total = totals.get(name)
        ideal, useful = (total.ideal, total.useful) if total else (0.0, 0.0)
        buckets = tuple(int(b) for b in timing.histogram[q])
        out.append(Unit(name, timing.busy[name], ideal, useful, _number(stored, name), causes[name], buckets))
    load, store = out[0], out[3]
    busy = load.busy + store.busy
    out.append(
        Unit(
            BUS, busy, load.ideal + store.ideal, load.useful + store.useful, _number(stored, BUS),
            {"no transfer asked for or allowed": timing.cycles - busy},
            tuple(int(b) for b in np.asarray(load.busy_by_bucket) + np.asarray(store.busy_by_bucket)),
        )
    )  # fmt: skip
    return tuple(out)


def _number(stored: Mapping[str, Any], key: str) -> float | None:
    value = stored.get(key)
    return float(value) if isinstance(value, (int, float)) else None


def _bound(ledger: Ledger, timing: Timing, units: tuple[Unit, ...], stored: Mapping[str, Any]) -> Bound:
    """The stored bound, and its gap as parts of the time of the unit that sets it."""
    cycles, limit = round(stored["cycles"]), str(stored.get("limit", "tcu"))
    unit = next((u for u in units if u.name == limit), units[1])
    gap: dict[str, float] = {}
    if beyond := unit.ideal - cycles:
        gap[
            "work, or passes, that the bound does not count" if beyond > 0 else "work that the bound counts otherwise"
        ] = beyond
    names = ("load", "store") if unit.name == BUS else (unit.name,)
    for name in names:
        for what, lost in ledger.lost_by_limit(name).items():
            key = f"below its peak: {what}"
            gap[key] = gap.get(key, 0.0) + lost
    gap |= unit.stalls
    return Bound(cycles, unit.name, timing.cycles / cycles if cycles else 0.0, gap)
