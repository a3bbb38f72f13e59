"""Where the cycles of a program go: busy, idle, bound and gap by layer and unit, who waits for whom, what would help.

It needs the program file only: the file carries its machine, its lower bound and where each instruction comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pintac.cost import cost_table
from pintac.errors import MachineError
from pintac.machine import Machine
from pintac.program import Program
from pintac.report.explain.choices import Memory, backend_meta, choices, memory_use
from pintac.report.explain.facts import BUS, UNITS, Bound, Facts, Unit
from pintac.report.explain.ledger import Ledger
from pintac.report.explain.path import MOST_EVENTS, critical_path
from pintac.report.explain.stalls import op_pairs, stall_causes
from pintac.report.explain.text import render
from pintac.report.explain.whatif import what_if
from pintac.stream import executions
from pintac.timeline import Timing, parameter_block, program_machine, simulate

COLUMNS = 60  # of the picture of a run


class Explanation(Facts):
    """What is known (`Facts`), to be read: `text` and `to_dict` show it."""

    def text(self, top: int = 20) -> str:
        """The report; `top` lines of each long table."""
        return render(self, top)


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
