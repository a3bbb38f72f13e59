"""Cutting an instruction into parts that write different bytes: the same results, whoever computes which part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from pintac import isa
from pintac.isa import Instruction, Kind, Opcode, Operand, Sink

ROWS, COLUMNS = range(2)
_BLOCK = 4
_CHUNK = 16  # columns that a kernel handles together
_LINE = 64  # bytes

_WHOLE_ROWS = (Sink.SUM_COLS, Sink.MAX_COLS, Sink.SUM_ALL, Sink.MAX_ALL)
_WHOLE_COLUMNS = (Sink.SUM_ROWS, Sink.MAX_ROWS, Sink.SUM_ALL, Sink.MAX_ALL)


def split(instruction: Instruction, axis: int, parts: int) -> list[Instruction | None] | None:
    """`parts` instructions (None: nothing left to do) along the rows or columns of the result.

    None if it cannot be cut that way. A sum is never cut: only dimensions are that every destination keeps.
    """
    op = instruction.opcode
    if op is Opcode.MATMUL:
        return _matmul(instruction, axis, parts)
    if op is Opcode.VPU:
        return _vpu(instruction, axis, parts)
    if op in (Opcode.LOAD, Opcode.STORE):
        return _transfer(instruction, axis, parts)
    return None


def _cuts(size: int, parts: int, grain: int) -> list[tuple[int, int]] | None:
    """[first, last) of each part, cut at multiples of `grain`; None if there is only one part."""
    units = -(-size // grain)
    if units < 2:
        return None
    edges = [min(units * i // parts * grain, size) for i in range(parts + 1)]
    return list(pairwise(edges))


def _rebuilt(instruction: Instruction, operands: Mapping[str, Operand], **header: int) -> Instruction:
    values = {f.name: instruction[f.name] for f in isa.DEFS[instruction.opcode].header}
    return isa.make(instruction.opcode, operands, **(values | header))


def _moved(o: Operand, row: int, col: int) -> Operand:
    """The operand from this element on; rows and columns of SMX are multiples of 4."""
    if o.bits:
        block = row // _BLOCK * o.hi + col // _BLOCK
        return replace(o, addr=o.addr + block * 2 * o.bits, eaddr=o.eaddr + block)
    down = row * o.hi
    if o.inner:
        down = row // o.inner * o.hi + row % o.inner * o.lo
    offset = down + col * o.cstep
    if o.kind == Kind.INDEX:
        return replace(o, addr=(o.addr + offset) % 2**32)
    return replace(o, addr=o.addr + 4 * offset)


def _matmul(instruction: Instruction, axis: int, parts: int) -> list[Instruction | None] | None:
    size = "m" if axis == ROWS else "n"
    grain = _BLOCK if axis == ROWS else _CHUNK if instruction["n"] > _CHUNK else _BLOCK
    cuts = _cuts(instruction[size], parts, grain)
    if cuts is None:
        return None
    left, right, result = (instruction.operand(g) for g in ("s0", "s1", "d0"))
    out: list[Instruction | None] = []
    for first, last in cuts:
        if axis == ROWS:
            moved = {
                "s0": _moved(left, 0, first) if instruction["ta"] else _moved(left, first, 0),
                "s1": right,
                "d0": _moved(result, first, 0),
            }
        else:
            moved = {
                "s0": left,
                "s1": _moved(right, first, 0) if instruction["tb"] else _moved(right, 0, first),
                "d0": _moved(result, 0, first),
            }
        out.append(_rebuilt(instruction, moved, **{size: last - first}) if last > first else None)
    return out


def _vpu(instruction: Instruction, axis: int, parts: int) -> list[Instruction | None] | None:
    rows, cols = instruction["rows"], instruction["cols"]
    sources = {g: o for g in ("s0", "s1", "s2", "s3", "s4") if (o := instruction.operand(g)).kind != Kind.NONE}
    sinks = {g: o for g in ("d0", "d1") if (o := instruction.operand(g)).kind != Sink.NONE}
    if axis == COLUMNS:
        if any(o.kind in _WHOLE_ROWS for o in sinks.values()):
            return None
        cuts = _cuts(cols, parts, _CHUNK if cols > _CHUNK else _BLOCK)
    else:
        if any(o.kind in _WHOLE_COLUMNS and o.inner in (0, rows) for o in sinks.values()):
            return None
        if any(o.kind in (Sink.SUM_ALL, Sink.MAX_ALL) for o in sinks.values()):
            return None
        cuts = _cuts(rows, parts, _row_grain(rows, [*sources.values(), *sinks.values()]))
    if cuts is None:
        return None
    out: list[Instruction | None] = []
    for first, last in cuts:
        at = (first, 0) if axis == ROWS else (0, first)
        moved = {g: _moved(o, *at) for g, o in sources.items()}
        moved |= {g: _moved_sink(o, *at) for g, o in sinks.items()}
        size = {"rows": last - first} if axis == ROWS else {"cols": last - first}
        out.append(_rebuilt(instruction, moved, **size) if last > first else None)
    return out


def _row_grain(rows: int, operands: Sequence[Operand]) -> int:
    """Rows may be cut between multiples of this: at blocks, and at the groups of every operand that has some."""
    grain = _BLOCK
    for o in operands:
        if 0 < o.inner < rows:
            while grain % o.inner:
                grain += _BLOCK
    return grain


def _moved_sink(o: Operand, row: int, col: int) -> Operand:
    if o.kind == Sink.WRITE:
        return _moved(replace(o, kind=Kind.TENSOR), row, col)  # the same number as a destination that is written
    plain = replace(o, kind=Kind.TENSOR, inner=0)
    if o.kind in (Sink.SUM_ROWS, Sink.MAX_ROWS):
        row = row // o.inner if o.inner else 0
    moved = _moved(plain, row, 0 if o.kind in _WHOLE_ROWS else col)
    return replace(moved, kind=o.kind, inner=o.inner)


def _transfer(instruction: Instruction, axis: int, parts: int) -> list[Instruction | None] | None:
    """Rows of the transfer, or bytes of its single row; an indexed one stays whole."""
    if axis != ROWS or instruction["gather"] or instruction["outer"] != 1:
        return None
    source, target = instruction.operand("s0"), instruction.operand("d0")
    single = instruction["count"] == 1
    size = "size" if single else "count"
    cuts = _cuts(instruction[size], parts, _LINE if single else 1)
    if cuts is None:
        return None
    out: list[Instruction | None] = []
    for first, last in cuts:
        moved = {
            group: replace(o, addr=o.addr + (first if single else first * o.hi))
            for group, o in (("s0", source), ("d0", target))
        }
        out.append(_rebuilt(instruction, moved, **{size: last - first}) if last > first else None)
    return out


def split_in_rows(instruction: Instruction, stride: int, parts: int) -> list[Instruction | None] | None:
    """A transfer of one row, seen as rows of `stride` bytes and cut along those."""
    size = instruction["size"]
    single = instruction["outer"] == instruction["count"] == 1
    if instruction["gather"] or not single or size % stride or size == stride:
        return None
    cuts = _cuts(stride, parts, _BLOCK)
    if cuts is None:
        return None
    out: list[Instruction | None] = []
    for first, last in cuts:
        moved = {g: replace(instruction.operand(g), hi=stride) for g in ("s0", "d0")}
        moved = {g: replace(o, addr=o.addr + first) for g, o in moved.items()}
        out.append(_rebuilt(instruction, moved, size=last - first, count=size // stride) if last > first else None)
    return out
