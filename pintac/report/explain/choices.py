"""What the compiler chose, as a program shows it: dataflows, fused kernels, what goes through DRAM, memory in use.

All of this is read off the instructions, so it holds for any program; what only the compiler knows (tile sizes, the
fractions of the lower bound) is handed on from `meta["backend"]` as it stands there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pintac import isa
from pintac.cost import instruction_of
from pintac.cost_matmul import Mapping as Placement
from pintac.cost_matmul import Matmul, map_matmul
from pintac.isa import Dataflow, Opcode, Space
from pintac.isa.encoding import column
from pintac.isa.regions import regions
from pintac.machine import Machine
from pintac.program import Program
from pintac.report import purpose
from pintac.report.explain.ledger import SPILL, Ledger, names_in
from pintac.report.explain.residency import peak, residents
from pintac.report.purpose import NO_LAYER
from pintac.stream import loop_counts
from pintac.timeline_core import EVENT_OP

PEAK_INSTRUCTIONS = 8000
"""Executions among which the peak of SRAM is looked for: several rounds of every loop."""


@dataclass(frozen=True)
class MatmulChoice:
    """One shape of matmul instruction of an op, and why its dataflow: cycles of one by itself in each of the three.

    `rectangle` is the engines it forms, `limit` what sets its pace, `efficiency` padded block products by what the
    array could have done meanwhile.
    """

    op: str
    layer: str
    phase: str
    m: int
    k: int
    n: int
    bits_a: int
    bits_b: int
    accumulate: bool
    result: str
    dataflow: str
    rectangle: tuple[int, int]
    limit: str
    executed: int
    busy: int
    efficiency: float
    cycles_by_dataflow: Mapping[str, int]


@dataclass(frozen=True)
class Traffic:
    """A value that goes through DRAM and is no state, input or result: bytes that a run writes and reads."""

    value: str
    layer: str
    stored: int
    loaded: int


@dataclass(frozen=True)
class Memory:
    """One on-chip memory: its size, the highest byte that an instruction can touch, and bytes that some can touch."""

    bytes: int
    top: int
    touched: int


@dataclass(frozen=True)
class Holding:
    """A value in SRAM at the moment at which most bytes are alive, with all its copies (tiles, ring slots)."""

    value: str
    layer: str
    copies: int
    bytes: int


@dataclass(frozen=True)
class Choices:
    """What was chosen; see the classes.

    `micro_ops` is VPU cycles by micro-ops an instruction. `peak` is what is alive in SRAM at cycle `peak_cycle`, looked
    for among the first `PEAK_INSTRUCTIONS` instructions.
    """

    settings: Mapping[str, Any]
    crossing: tuple[Mapping[str, Any], ...]
    matmuls: tuple[MatmulChoice, ...]
    micro_ops: Mapping[int, int]
    spilled: tuple[Traffic, ...]
    memory: Mapping[str, Memory]
    peak_cycle: int
    peak: tuple[Holding, ...]

    def to_dict(self) -> dict[str, object]:
        """JSON-able."""
        return {
            "settings": dict(self.settings),
            "crossing": [dict(c) for c in self.crossing],
            "matmuls": [
                {**vars(m), "rectangle": list(m.rectangle), "cycles_by_dataflow": dict(m.cycles_by_dataflow)}
                for m in self.matmuls
            ],
            "micro_ops": {str(count): cycles for count, cycles in self.micro_ops.items()},
            "spilled": [vars(t) for t in self.spilled],
            "memory": {name: vars(m) for name, m in self.memory.items()},
            "peak_cycle": self.peak_cycle,
            "peak": [vars(h) for h in self.peak],
        }


def choices(ledger: Ledger, params: np.ndarray, events: np.ndarray) -> Choices:
    """What was chosen for the entry of a ledger; `events` are those of its run."""
    peak_cycle, held = _peak(ledger, params, events)
    described = backend_meta(ledger.program, ledger.entry)
    bound = described.get("bound")
    crossing = bound.get("crossing", ()) if isinstance(bound, Mapping) else ()
    return Choices(
        settings={key: value for key, value in sorted(described.items()) if key != "bound"},
        crossing=tuple(c for c in crossing if isinstance(c, Mapping)),
        matmuls=tuple(_matmuls(ledger)),
        micro_ops=_micro_ops(ledger),
        spilled=tuple(_spilled(ledger)),
        peak_cycle=peak_cycle,
        peak=tuple(held),
        memory=memory_use(ledger.program.table, ledger.start, ledger.stop, params, ledger.machine),
    )


def backend_meta(program: Program, entry: str) -> Mapping[str, Any]:
    """What the backend wrote down of an entry; nothing may rely on a key of it."""
    backend = program.meta.get("backend")
    described = backend.get(entry) if isinstance(backend, Mapping) else None
    return described if isinstance(described, Mapping) else {}


def _matmuls(ledger: Ledger) -> list[MatmulChoice]:
    found: dict[tuple[Any, ...], list[int]] = {}
    placed: dict[tuple[Any, ...], tuple[Matmul, Placement]] = {}
    for pc in np.flatnonzero((ledger.table[:, 0] == Opcode.MATMUL) & (ledger.executed > 0)):
        task, flow = _task(ledger, int(pc))
        key = (ledger.op(int(pc)), task, flow)
        placed[key] = task, map_matmul(task, flow, ledger.machine)
        found.setdefault(key, []).append(int(pc))
    out = []
    for key, pcs in found.items():
        task, placement = placed[key]
        layer, phase = ledger.purposes[pcs[0]]
        busy = int(ledger.busy[pcs].sum())
        out.append(
            MatmulChoice(
                op=key[0], layer=layer, phase=phase, m=task.m, k=task.k, n=task.n, bits_a=task.bits_a,
                bits_b=task.bits_b, accumulate=task.acc, result="SRAM" if task.to_sram else "PSUM",
                dataflow=placement.dataflow.name.lower(), rectangle=(placement.rows, placement.cols),
                limit=placement.limit, executed=int(ledger.executed[pcs].sum()), busy=busy,
                efficiency=float(ledger.ideal[pcs].sum()) / busy if busy else 0.0,
                cycles_by_dataflow={f.name.lower(): map_matmul(task, f, ledger.machine).busy for f in Dataflow},
            )
        )  # fmt: skip
    return sorted(out, key=lambda m: (-m.busy, m.op, m.m, m.k, m.n))


def _task(ledger: Ledger, pc: int) -> tuple[Matmul, Dataflow]:
    """The matmul of an instruction as the cost model sees it (`pintac.cost`; a test compares the two)."""
    i = ledger.program.instructions[ledger.start + pc]
    left, right, out = (i.operand(group) for group in ("s0", "s1", "d0"))
    task = Matmul(
        i["m"], i["k"], i["n"], left.bits, right.bits, bool(i["acc"]), out.space == Space.SRAM,
        0 if i["ta"] else left.hi * 2 * left.bits, right.hi * 2 * right.bits if i["tb"] else 0,
    )  # fmt: skip
    return task, Dataflow(i["dataflow"])


def _micro_ops(ledger: Ledger) -> dict[int, int]:
    out: dict[int, int] = {}
    used = column(Opcode.VPU, "uops")
    for pc in np.flatnonzero((ledger.table[:, 0] == Opcode.VPU) & (ledger.executed > 0)):
        count = int(ledger.table[pc, used])
        out[count] = out.get(count, 0) + int(ledger.busy[pc])
    return dict(sorted(out.items()))


def _spilled(ledger: Ledger) -> list[Traffic]:
    found: dict[str, list[int]] = {}
    layers: dict[str, str] = {}
    for pc in np.flatnonzero(ledger.is_data):
        layer, phase = ledger.purposes[pc]
        if phase == SPILL:
            value = names_in(ledger.op(int(pc)))[0]
            layers.setdefault(value, layer)
            amounts = found.setdefault(value, [0, 0])
            amounts[0] += int(ledger.costs["dram_write"][pc] * ledger.executed[pc])
            amounts[1] += int(ledger.costs["dram_read"][pc] * ledger.executed[pc])
    traffic = [Traffic(value, layers[value], stored, loaded) for value, (stored, loaded) in found.items()]
    return sorted(traffic, key=lambda t: (-t.stored - t.loaded, t.value))


def _peak(ledger: Ledger, params: np.ndarray, events: np.ndarray) -> tuple[int, list[Holding]]:
    begun = events[events[:, 0] == EVENT_OP]
    begun = begun[np.argsort(begun[:, 3], kind="stable")][:PEAK_INSTRUCTIONS]
    cycle, values = peak(residents(ledger.program, ledger.entry, params, begun), Space.SRAM)
    known = purpose.from_meta(ledger.program.meta, ledger.entry)
    found: dict[str, list[int]] = {}
    for value in values:
        found.setdefault(value.name, []).append(value.bytes)
    holdings = []
    for name, sizes in found.items():
        layer = next((known[n][0] for n in names_in(name) if n in known), NO_LAYER)
        holdings.append(Holding(name, layer, len(sizes), sum(sizes)))
    return cycle, sorted(holdings, key=lambda h: (-h.bytes, h.value))


def memory_use(table: np.ndarray, start: int, stop: int, params: np.ndarray, machine: Machine) -> dict[str, Memory]:
    """What the instructions [start, stop) can touch of SRAM and PSUM, over all loop indices.

    An operand that moves with loops counts from its lowest to its highest byte.
    """
    counts = loop_counts(table, start, stop, params)
    seen = {Space.SRAM: np.zeros(1, bool), Space.PSUM: np.zeros(1, bool)}
    depth: list[int] = []
    for pc in range(start, stop):
        opcode = Opcode(int(table[pc, 0]))
        if opcode is Opcode.LOOP:
            depth.append(int(counts[pc - start]))
        elif opcode is Opcode.ENDLOOP:
            depth.pop()
        elif opcode in isa.QUEUE_OF and all(depth):
            instruction = instruction_of(table[pc])
            top = [*(n - 1 for n in depth), *[0] * (isa.LOOP_LEVELS - len(depth))]
            for low, high in zip(
                regions(_at(instruction, top, False), [0] * isa.LOOP_LEVELS),
                regions(_at(instruction, top, True), [0] * isa.LOOP_LEVELS),
                strict=True,
            ):
                if low.space in seen:
                    _mark(seen, low.space, low.start, high.end)
    sizes = {Space.SRAM: machine.sram_bytes, Space.PSUM: machine.psum_bytes}
    return {
        space.name.lower(): Memory(
            sizes[space], int(np.flatnonzero(bits)[-1]) + 1 if bits.any() else 0, int(np.count_nonzero(bits))
        )
        for space, bits in seen.items()
    }


def _mark(seen: dict[Space, np.ndarray], space: Space, low: int, high: int) -> None:
    if high > len(seen[space]):
        seen[space] = np.concatenate([seen[space], np.zeros(2 * high - len(seen[space]), bool)])
    seen[space][low:high] = True


def _at(instruction: isa.Instruction, top: list[int], highest: bool) -> isa.Instruction:
    """The instruction with every operand where it lies lowest (highest) over all loop indices up to `top`."""
    values = dict(instruction.values)
    for group in isa.DEFS[instruction.opcode].groups:
        o = instruction.operand(group)
        if not o.kind:
            continue
        moves = [n * s for n, s in zip(top, o.steps, strict=True)]
        if o.ring_size:
            moves.append(min(o.ring_size - 1, top[o.ring_level]) * o.ring_step)
        offset = sum(max(m, 0) if highest else min(m, 0) for m in moves)
        unit = 2 * o.bits if o.bits else 1
        values[f"{group}.addr"] = o.addr + offset * unit
        values[f"{group}.eaddr"] = o.eaddr + (offset if o.bits else 0)
        for level in range(isa.LOOP_LEVELS):
            values.pop(f"{group}.step{level}", None)
        values.pop(f"{group}.ring_size", None)
    return isa.Instruction(instruction.opcode, values)
