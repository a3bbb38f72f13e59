"""Which bytes an instruction touches over all indices of the loops around it, and whether two such sets can meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pintac import isa
from pintac.isa import Instruction, Kind, Opcode, Operand, Sink, Space

Moves = Sequence[tuple[int, int]]  # (bytes, times) of each loop and ring


@dataclass(frozen=True, eq=False)
class Access:
    """Bytes base + i1 * stride1 + i2 * stride2 + ... + [0, run) of an address space, 0 <= i < count for each term."""

    space: int
    write: bool
    base: int
    terms: tuple[tuple[int, int], ...]  # (stride > 0, count > 1)
    run: int
    bytes: int  # how many at one index of the loops around, of a row that is repeated once

    @property
    def end(self) -> int:
        return self.base + self.run + sum(stride * (count - 1) for stride, count in self.terms)


def _access(space: int, write: bool, base: int, inside: Sequence[tuple[int, int]], moves: Moves, run: int) -> Access:
    kept, size = [], run
    for stride, count in inside:
        size *= count if stride else 1
    for stride, count in (*inside, *moves):
        if count > 1 and stride:
            base += min(stride, 0) * (count - 1)
            kept.append((abs(stride), count))
    return Access(space, write, base, tuple(kept), run, size)


def disjoint(a: Access, b: Access) -> bool:
    """Whether no byte can be in both. Never wrongly true; false also where this test cannot tell.

    Apart from the plain intervals, both sets are looked at modulo each of their strides: there a term whose stride is a
    multiple vanishes, and what is left of each set is an interval on a circle.
    """
    if a.space != b.space or a.end <= b.base or b.end <= a.base:
        return True
    return any(_disjoint_modulo(a, b, g) for g in sorted({stride for stride, _ in (*a.terms, *b.terms)}, reverse=True))


def _disjoint_modulo(a: Access, b: Access, modulus: int) -> bool:
    length = [x.run + sum(s * (n - 1) for s, n in x.terms if s % modulus) for x in (a, b)]
    distance = (b.base - a.base) % modulus
    return length[0] <= distance and length[1] <= modulus - distance


def accesses(instruction: Instruction, counts: Sequence[int], sizes: Sequence[int]) -> list[Access]:
    """Everything an instruction reads and writes; `counts` of the open loops, `sizes` of the address spaces."""
    op = instruction.opcode
    if op is Opcode.MATMUL:
        return list(_matmul(instruction, counts))
    if op is Opcode.VPU:
        return list(_vpu(instruction, counts))
    if op in (Opcode.LOAD, Opcode.STORE):
        return list(_transfer(instruction, counts, sizes))
    return []


def _moves(o: Operand, counts: Sequence[int], unit: int) -> Moves:
    terms = [(o.steps[level] * unit, count) for level, count in enumerate(counts)]
    if o.ring_size and o.ring_level < len(counts):
        terms.append((o.ring_step * unit, min(o.ring_size, counts[o.ring_level])))
    return terms


def _tensor(o: Operand, rows: int, cols: int, write: bool, counts: Sequence[int]) -> Iterator[Access]:
    if o.bits:
        down, across = -(-rows // 4), -(-cols // 4)
        for start, unit in ((o.addr, 2 * o.bits), (o.eaddr, 1)):
            moves = _moves(o, counts, unit)
            yield _access(o.space, write, start, [(o.hi * unit, down)], moves, across * unit)
        return
    terms = [(4 * o.hi, rows)]
    if o.inner:
        terms = [(4 * o.hi, -(-rows // o.inner)), (4 * o.lo, min(o.inner, rows))]
    if o.cstep != 1:
        terms.append((4 * o.cstep, cols))
    yield _access(o.space, write, o.addr, terms, _moves(o, counts, 1), 4 * cols if o.cstep == 1 else 4)


def _matmul(instruction: Instruction, counts: Sequence[int]) -> Iterator[Access]:
    m, n, k = (instruction[name] for name in "mnk")
    left, right, result = (instruction.operand(g) for g in ("s0", "s1", "d0"))
    yield from _tensor(left, *((k, m) if instruction["ta"] else (m, k)), False, counts)
    yield from _tensor(right, *((n, k) if instruction["tb"] else (k, n)), False, counts)
    yield from _tensor(result, m, n, True, counts)


def _vpu(instruction: Instruction, counts: Sequence[int]) -> Iterator[Access]:
    rows, cols = instruction["rows"], instruction["cols"]
    for i in range(isa.SOURCES):
        o = instruction.operand(f"s{i}")
        if o.kind == Kind.TENSOR:
            yield from _tensor(o, rows, cols, False, counts)
    for i in range(isa.SINKS):
        o = instruction.operand(f"d{i}")
        if o.kind == Sink.WRITE:
            yield from _tensor(o, rows, cols, True, counts)
        elif o.kind != Sink.NONE:
            extent = isa.sink_shape(o.kind, rows, cols, o.inner)
            yield from _tensor(replace(o, inner=0, bits=0), *extent, True, counts)


def _transfer(instruction: Instruction, counts: Sequence[int], sizes: Sequence[int]) -> Iterator[Access]:
    load = instruction.opcode is Opcode.LOAD
    spaces = (Space.DRAM, Space.SRAM) if load else (Space.SRAM, Space.DRAM)
    indexed = ("s0" if load else "d0") if instruction["gather"] else ""
    for group, space in zip(("s0", "d0"), spaces, strict=True):
        o, write = instruction.operand(group), group == "d0"
        if group == indexed:
            yield Access(int(space), write, 0, (), sizes[space], instruction["size"] * instruction["count"])
            continue
        terms = [(o.hi, instruction["count"]), (o.lo, instruction["outer"])]
        yield _access(int(space), write, o.addr, terms, _moves(o, counts, 1), instruction["size"])
    if indexed:
        vector = instruction.operand("s1")
        yield _access(int(Space.SRAM), False, vector.addr, [], _moves(vector, counts, 1), 4 * instruction["count"])
