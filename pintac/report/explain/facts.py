"""What `pintac explain` knows, as data: units, bound and gap, groups of work, critical path, waits, choices."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pintac.machine import Machine
from pintac.report.explain.choices import Choices
from pintac.report.explain.ledger import Group
from pintac.report.explain.path import Path
from pintac.report.explain.stalls import Wait
from pintac.report.explain.whatif import WhatIf
from pintac.timeline import Timing

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
class Facts:
    """All that `pintac explain` knows of an entry of a program.

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
