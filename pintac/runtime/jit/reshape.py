"""Other shapes of VPU instructions that do the same: kernels take 16 columns at a time, which narrow ones waste."""

from __future__ import annotations

from dataclasses import replace

from pintac import isa
from pintac.isa import Instruction, Kind, Operand, Sink
from pintac.runtime.jit.codegen import LANES

_TRANSPOSED_SINK = {
    Sink.WRITE: Sink.WRITE,
    Sink.SUM_COLS: Sink.SUM_ROWS,
    Sink.MAX_COLS: Sink.MAX_ROWS,
}
_SINGLE = {Sink.SUM_ROWS: Sink.SUM_COLS, Sink.MAX_ROWS: Sink.MAX_COLS}


def widened(instruction: Instruction) -> Instruction:
    """The instruction, or an equal one (same elements, same order of sums) whose columns fill vectors better."""
    rows, cols = instruction["rows"], instruction["cols"]
    if cols >= LANES or rows < LANES:
        return instruction
    sources = {g: o for g in ("s0", "s1", "s2", "s3", "s4") if (o := instruction.operand(g)).kind != Kind.NONE}
    sinks = {g: o for g in ("d0", "d1") if (o := instruction.operand(g)).kind != Sink.NONE}
    if any(o.bits for o in (*sources.values(), *sinks.values())):
        return instruction  # blocks have their shape
    for g, o in sinks.items():
        if o.kind in _SINGLE and o.inner == cols == 1:  # each element is a sum of one element, of rows or of columns
            sinks[g] = replace(o, kind=_SINGLE[Sink(o.kind)], inner=0)
    if any(o.inner for o in (*sources.values(), *sinks.values())):
        return instruction
    if all(_linear(o, cols) for o in sources.values()) and all(
        o.kind == Sink.WRITE and _linear(o, cols) for o in sinks.values()
    ):
        if flat := _flat_shape(rows * cols):
            return _flattened(instruction, {**sources, **sinks}, *flat)
    if all(o.kind in _TRANSPOSED_SINK for o in sinks.values()):
        return _transposed(instruction, sources, sinks)
    return instruction


def _linear(o: Operand, cols: int) -> bool:
    """Whether the operand's elements lie one behind the other (or are all the same)."""
    return o.hi == cols * o.cstep


def _flat_shape(elements: int) -> tuple[int, int] | None:
    """Rows and columns in whole vectors, in strips of four rows if that is possible."""
    for rows in (4, 1):
        if elements % (rows * LANES) == 0:
            return rows, elements // rows
    return None


def _flattened(instruction: Instruction, operands: dict[str, Operand], rows: int, cols: int) -> Instruction:
    changed = {g: replace(o, hi=cols * o.cstep) for g, o in operands.items()}
    return _rebuilt(instruction, changed, rows, cols)


def _transposed(instruction: Instruction, sources: dict[str, Operand], sinks: dict[str, Operand]) -> Instruction:
    changed = {g: replace(o, hi=o.cstep, cstep=o.hi) for g, o in sources.items()}
    for g, o in sinks.items():
        changed[g] = replace(o, kind=_TRANSPOSED_SINK[Sink(o.kind)], hi=o.cstep, cstep=o.hi)
    return _rebuilt(instruction, changed, instruction["cols"], instruction["rows"])


def _rebuilt(instruction: Instruction, operands: dict[str, Operand], rows: int, cols: int) -> Instruction:
    header = {f.name: instruction[f.name] for f in isa.DEFS[instruction.opcode].header}
    return isa.make(instruction.opcode, operands, **(header | {"rows": rows, "cols": cols}))
