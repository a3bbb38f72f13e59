"""What each instruction of an entry did in a timed run, and sums of it: the accounts that `explain` prints.

Every cycle of a unit stands in exactly one place. A unit's cycles are its busy cycles, those that it waited before one
of its instructions, and a tail after its last one; so the groups of a unit and its tail add up to the run's cycles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pintac import isa
from pintac.cost import COST_ENERGIES, CostTable
from pintac.isa import Opcode, Queue
from pintac.isa.encoding import column
from pintac.machine import Machine
from pintac.program import Program, Symbol
from pintac.report import purpose
from pintac.report.purpose import NO_LAYER
from pintac.stream import loop_partners, queues
from pintac.timeline import PC_CAUSE_NAMES, Timing

BY = ("layer", "op", "line", "unit")
BLOCK_MACS = 64
NO_OP = "(no op)"
SPILL, INPUTS, OUTPUTS = "spill", "inputs", "results"
TRANSFER_VERBS = ("load ", "store ", "output ", "start ", "hold ")


@dataclass(frozen=True)
class Group:
    """What the instructions of one unit with the same labels took.

    labels        what they have in common: layer and phase, op, or source line
    executed      instructions executed
    busy          cycles that the unit was taken
    ideal         cycles of the same work at the unit's peak: padded block products over all engines, elements over all
                  lanes, bytes over the bus
    useful        as `ideal`, without the padding of blocks (tensor unit)
    waited        cycles that the unit stood still before these instructions, by cause
    bytes         by memory
    """

    labels: tuple[str, ...]
    unit: str
    executed: int
    busy: int
    ideal: float
    useful: float
    waited: Mapping[str, int]
    macs: int
    sram_bytes: int
    psum_bytes: int
    dram_bytes: int
    joules: float

    @property
    def stalled(self) -> int:
        """All cycles waited."""
        return sum(self.waited.values())

    @property
    def utilisation(self) -> float:
        """Useful work by what the unit could have done while it was busy."""
        return self.useful / self.busy if self.busy else 0.0

    @property
    def padding(self) -> float:
        """The part of the busy time that went into padding of blocks."""
        return (self.ideal - self.useful) / self.busy if self.busy else 0.0

    @property
    def gap(self) -> float:
        """Cycles of the unit beyond the ideal ones."""
        return self.busy + self.stalled - self.ideal

    def to_dict(self, bound: int | None) -> dict[str, object]:
        """JSON-able; `share_of_bound` is null without a bound."""
        names = ("unit", "executed", "busy", "macs", "sram_bytes", "psum_bytes", "dram_bytes", "joules")
        return {
            **{name: getattr(self, name) for name in names},
            "labels": list(self.labels),
            "ideal": self.ideal,
            "useful": self.useful,
            "utilisation": self.utilisation,
            "padding": self.padding,
            "waited": dict(self.waited),
            "stalled": self.stalled,
            "gap": self.gap,
            "share_of_bound": self.ideal / bound if bound else None,
        }


class Ledger:
    """The instructions [start, stop) of an entry with what they took; arrays are indexed from `start`."""

    def __init__(self, program: Program, entry: str, machine: Machine, timing: Timing, costs: CostTable) -> None:
        start, stop = program.entry(entry)
        self.program, self.entry, self.machine = program, entry, machine
        self.start, self.stop = start, stop
        self.table = program.table[start:stop]
        self.queue = queues(self.table)
        self.is_data = np.isin(self.table[:, 0], tuple(isa.QUEUE_OF))
        self.executed = timing.executed[start:stop]
        self.busy = timing.pc_busy[start:stop]
        self.costs = costs
        self._partners = loop_partners(program.table, start, stop)
        self.ideal, self.useful = self._peak_cycles()
        self.waited = self._waited(timing.pc_stalls[start:stop])
        self.purposes = self._purposes()

    # --- instruction by instruction -----------------------------------------------------------------------------------

    def _peak_cycles(self) -> tuple[np.ndarray, np.ndarray]:
        """(with the padding of blocks, without): cycles of each instruction's work at the peak of its unit."""
        machine, opcode = self.machine, self.table[:, 0]
        ideal = np.zeros(len(self.table))
        matmul, vector = opcode == Opcode.MATMUL, opcode == Opcode.VPU
        transfer = (opcode == Opcode.LOAD) | (opcode == Opcode.STORE)
        ideal[matmul] = self.costs["work"][matmul] / machine.bmes
        ideal[vector] = self.costs["work"][vector] / machine.vpu_lanes
        moved = self.costs["dram_read"] + self.costs["dram_write"]
        ideal[transfer] = moved[transfer] / machine.dram_bytes_per_cycle
        useful = ideal.copy()
        a, b = (column(Opcode.MATMUL, f"{group}.bits") for group in ("s0", "s1"))
        for pc in np.flatnonzero(matmul):
            cycles = machine.product_cycles(int(self.table[pc, a]), int(self.table[pc, b]))
            useful[pc] = self.costs["macs"][pc] * cycles / (BLOCK_MACS * machine.bmes)
        return ideal * self.executed, useful * self.executed

    def _waited(self, stalls: np.ndarray) -> np.ndarray:
        """Stalls by cause; those at a wait go to the instruction that it holds up."""
        out = stalls.copy()
        for pc in np.flatnonzero(~self.is_data & stalls.any(axis=1)):
            target = self.after(int(pc))
            if target is not None:
                out[target] += out[pc]
                out[pc] = 0
        return out

    def after(self, pc: int) -> int | None:
        """The instruction that a wait holds up: the next one of its queue, round the loop if none is behind it."""
        return self._neighbour(pc, 1)

    def before(self, pc: int) -> int | None:
        """The instruction whose end a signal tells: the last one of its queue."""
        return self._neighbour(pc, -1)

    def _neighbour(self, pc: int, step: int) -> int | None:
        mine = self.is_data & (self.queue == self.queue[pc])
        at = pc + step
        while 0 <= at < len(self.table):
            if mine[at]:
                return at
            partner = int(self._partners[at])
            if partner >= 0 and (partner - at) * step < 0:  # leaving a loop: first look through it again
                inside = np.flatnonzero(mine[min(partner, pc) : max(partner, pc)])
                if len(inside):
                    return min(partner, pc) + int(inside[0 if step > 0 else -1])
            at += step
        return None

    # --- names --------------------------------------------------------------------------------------------------------

    def op(self, pc: int) -> str:
        """The op that instruction `pc` (from `start`) belongs to."""
        return self.program.origin(self.start + pc).op or NO_OP

    def line(self, pc: int) -> str:
        """Its source line, `file:line`."""
        origin = self.program.origin(self.start + pc)
        return f"{origin.file}:{origin.line}" if origin.file else NO_OP

    def unit(self, pc: int) -> str:
        """The name of its queue."""
        return Queue(int(self.queue[pc])).name.lower()

    def _purposes(self) -> list[purpose.Purpose]:
        known = purpose.from_meta(self.program.meta, self.entry)
        symbols = list(self.program.symbols.values())
        return [self._purpose(int(pc), known, symbols) for pc in range(len(self.table))]

    def _purpose(self, pc: int, known: Mapping[str, purpose.Purpose], symbols: Sequence[Symbol]) -> purpose.Purpose:
        """(layer, phase) of an instruction: the first op of its name that is known; transfers by what they move."""
        opcode = Opcode(int(self.table[pc, 0]))
        if not self.is_data[pc]:
            return NO_LAYER, ""
        found = next((known[name] for name in names_in(self.op(pc)) if name in known), None)
        if opcode not in (Opcode.LOAD, Opcode.STORE):
            return found or (NO_LAYER, opcode.name.lower())
        group = "s0" if opcode is Opcode.LOAD else "d0"
        at = int(self.table[pc, column(opcode, f"{group}.addr")])
        symbol = next((s for s in symbols for low, size in s.planes if low <= at < low + size), None)
        if symbol is None:
            return (found[0] if found else NO_LAYER), SPILL
        if symbol.kind == "state":
            trained = purpose.is_moment(symbol.name) or opcode is Opcode.STORE
            layer = purpose.layer_of(symbol.name)
            layer = found[0] if found and layer == NO_LAYER else layer
            return layer, "optimizer" if trained else "weights"
        return NO_LAYER, OUTPUTS if opcode is Opcode.STORE else INPUTS

    def labels(self, pc: int, by: str) -> tuple[str, ...]:
        """What groups by `by` (of `BY`) an instruction belongs to."""
        label: dict[str, Callable[[int], tuple[str, ...]]] = {
            "layer": lambda pc: self.purposes[pc],
            "op": lambda pc: (self.op(pc),),
            "line": lambda pc: (self.line(pc),),
            "unit": lambda pc: (),
        }
        return label[by](pc)

    # --- sums ---------------------------------------------------------------------------------------------------------

    def groups(self, by: str) -> list[Group]:
        """The groups, the longest first."""
        members: dict[tuple[str, tuple[str, ...]], list[int]] = {}
        for pc in np.flatnonzero(self.is_data & (self.executed > 0)):
            members.setdefault((self.unit(int(pc)), self.labels(int(pc), by)), []).append(int(pc))
        found = [self._sum(unit, labels, pcs) for (unit, labels), pcs in members.items()]
        return sorted(found, key=lambda g: (-g.busy, -g.stalled, g.unit, g.labels))

    def _sum(self, unit: str, labels: tuple[str, ...], pcs: list[int]) -> Group:
        times = self.executed[pcs]

        def total(*columns: str) -> int:
            return sum(int((self.costs[c][pcs] * times).sum()) for c in columns)

        waited = self.waited[pcs].sum(axis=0)
        return Group(
            labels=labels,
            unit=unit,
            executed=int(times.sum()),
            busy=int(self.busy[pcs].sum()),
            ideal=float(self.ideal[pcs].sum()),
            useful=float(self.useful[pcs].sum()),
            waited={cause: int(c) for cause, c in zip(PC_CAUSE_NAMES, waited, strict=True) if c},
            macs=total("macs"),
            sram_bytes=total("sram_read", "sram_write"),
            psum_bytes=total("psum_read", "psum_write"),
            dram_bytes=total("dram_read", "dram_write"),
            joules=sum(float((self.costs[c][pcs] * times).sum()) for c in COST_ENERGIES) * 1e-12,
        )

    def lost_by_limit(self, unit: str) -> dict[str, float]:
        """Cycles that a unit was busy beyond its peak, by what held its instructions up."""
        out: dict[str, float] = {}
        for pc in np.flatnonzero(self.is_data & (self.queue == Queue[unit.upper()])):
            lost = float(self.busy[pc] - self.ideal[pc])
            out[self.costs.limits[pc]] = out.get(self.costs.limits[pc], 0.0) + lost
        return {limit: cycles for limit, cycles in sorted(out.items(), key=lambda x: (-x[1], x[0])) if cycles}


def names_in(text: str) -> list[str]:
    """The names of ops that an instruction's name is made of: verbs, `+` and suffixes taken away step by step."""
    for verb in TRANSFER_VERBS:
        text = text.removeprefix(verb)
    out: list[str] = []
    for part in text.split("+"):
        out.append(part)
        stem = part
        while "." in stem:
            stem = stem.rpartition(".")[0]
            out.append(stem)
    return out
