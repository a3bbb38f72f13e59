"""Who waited for whom: the stalls of each unit, by cause and by pair of ops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pintac.isa import Queue
from pintac.report.explain.ledger import NO_OP, Ledger
from pintac.report.purpose import NO_LAYER
from pintac.timeline import Timing

WAIT = "wait "
FOR_UNIT = "waiting for "


@dataclass(frozen=True)
class Wait:
    """Cycles that `unit` waited, before `op`, for `source_op` of the unit `source`; `semaphore` as the program has it.

    `layer` and `phase` are those of the op that waited, `source_layer` and `source_phase` of the one waited for.
    """

    unit: str
    op: str
    layer: str
    phase: str
    source: str
    source_op: str
    source_layer: str
    source_phase: str
    semaphores: tuple[str, ...]
    cycles: int

    def to_dict(self) -> dict[str, object]:
        """JSON-able."""
        return {**vars(self), "semaphores": list(self.semaphores)}


def stall_causes(timing: Timing) -> dict[str, dict[str, int]]:
    """Unit -> cause -> cycles, the longest first; waits for semaphores are summed by the unit that signals them."""
    out: dict[str, dict[str, int]] = {}
    for unit, stalls in timing.stalls.items():
        causes = {cause: cycles for cause, cycles in stalls.items() if not cause.startswith(WAIT)}
        causes |= {FOR_UNIT + source: cycles for source, cycles in timing.waits[unit].items()}
        undeclared = sum(c for cause, c in stalls.items() if cause.startswith(WAIT)) - sum(timing.waits[unit].values())
        if undeclared:
            causes["waiting for undeclared semaphores"] = undeclared
        out[unit] = dict(sorted(causes.items(), key=lambda x: (-x[1], x[0])))
    return out


def op_pairs(ledger: Ledger, timing: Timing) -> list[Wait]:
    """Waits for other units by pair of ops, the longest first."""
    names: Mapping[int, str] = {s.number: s.name or str(s.number) for s in ledger.program.semaphores}
    found: dict[tuple[_End, _End], tuple[int, set[str]]] = {}
    for wait_pc, signal_pc, cycles in timing.pairs.tolist():
        wait, signal = wait_pc - ledger.start, signal_pc - ledger.start
        key = _end(ledger, wait, ledger.after(wait)), _end(ledger, signal, ledger.before(signal))
        number = ledger.program.instructions[wait_pc]["sem"]
        total, semaphores = found.get(key, (0, set()))
        found[key] = total + cycles, semaphores | {names.get(number, str(number))}
    waits = [Wait(*a, *b, tuple(sorted(names)), cycles) for (a, b), (cycles, names) in found.items()]
    return sorted(waits, key=lambda w: (-w.cycles, w.unit, w.op, w.source, w.source_op))


_End = tuple[str, str, str, str]


def _end(ledger: Ledger, sync: int, op: int | None) -> _End:
    """(unit, op, layer, phase) of one end of a wait."""
    unit = Queue(int(ledger.queue[sync])).name.lower()
    if op is None:
        return unit, NO_OP, NO_LAYER, ""
    layer, phase = ledger.purposes[op]
    return unit, ledger.op(op), layer, phase
