"""Which values are in on-chip memory when: lifetimes of written regions, from the events of a timed run.

A program has addresses, not buffers. What an instruction writes is a value from the start of the write to the end of
the last read of any of its bytes that nothing has overwritten; a value that is accumulated into lives on.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pintac import isa
from pintac.cost import instruction_of
from pintac.isa import Opcode, Space
from pintac.isa.regions import Region, regions
from pintac.program import Program
from pintac.report.explain.ledger import TRANSFER_VERBS
from pintac.stream import loop_counts
from pintac.timeline_core import EVENT_OP

MOST_ROWS = 32
"""Rows of a region that are told apart; a region of more counts from its first to its last byte."""


@dataclass
class Resident:
    """A value in `space`: its name, its bytes (first, one past the last) and cycles from its write to its last use."""

    name: str
    space: Space
    start: int
    stop: int
    bytes: int
    since: int
    until: int


class _Map:
    """Which value each byte of a memory holds: disjoint segments in order of address."""

    def __init__(self) -> None:
        self.low: list[int] = []
        self.high: list[int] = []
        self.owner: list[Resident] = []

    def overlapping(self, low: int, high: int) -> range:
        """Segments that share a byte with [low, high)."""
        return range(bisect_right(self.high, low), bisect_left(self.low, high))

    def put(self, low: int, high: int, owner: Resident) -> None:
        """[low, high) now belongs to `owner`."""
        old = self.overlapping(low, high)
        lows, highs, owners = [low], [high], [owner]
        if len(old):
            first, last = old[0], old[-1]
            if self.low[first] < low:
                lows.insert(0, self.low[first])
                highs.insert(0, low)
                owners.insert(0, self.owner[first])
            if self.high[last] > high:
                lows.append(high)
                highs.append(self.high[last])
                owners.append(self.owner[last])
        at = slice(old.start, old.stop) if len(old) else slice(bisect_left(self.low, low), bisect_left(self.low, low))
        self.low[at], self.high[at], self.owner[at] = lows, highs, owners


def residents(program: Program, entry: str, params: np.ndarray, events: np.ndarray) -> list[Resident]:
    """The values in SRAM and PSUM during the recorded events, in the order in which they were written.

    `events` are those of a run from its beginning, in order of time (ties in the order of their queue).
    """
    start, stop = program.entry(entry)
    nests = _nests(program.table, start, stop, params)
    instructions = {pc: instruction_of(program.table[pc]) for pc in np.unique(events[events[:, 0] == EVENT_OP, 2])}
    seen: dict[int, int] = {}
    maps = {Space.SRAM: _Map(), Space.PSUM: _Map()}
    out: list[Resident] = []
    for row in events[events[:, 0] == EVENT_OP].tolist():
        pc, begin, complete = row[2], row[3], row[5]
        number = seen[pc] = seen.get(pc, -1) + 1
        instruction = instructions[pc]
        touched = regions(instruction, _index(nests[pc - start], number))
        for region in touched:
            if not region.write and region.space in maps:
                _use(maps[region.space], region, complete)
        names = iter(_names(program.origin(pc).op or instruction.opcode.name.lower(), instruction))
        for writes in _by_operand(instruction, touched):
            name, accumulates = next(names)
            if writes[0].space not in maps:
                continue
            place = maps[writes[0].space]
            if accumulates and all(_use(place, region, complete) for region in writes):
                continue
            low, high = min(r.start for r in writes), max(r.end for r in writes)
            size = sum(r.size * r.count * r.outer for r in writes)
            value = Resident(name, writes[0].space, low, high, size, begin, complete)
            out.append(value)
            for region in writes:
                for first, last in _rows(region):
                    place.put(first, last, value)
    return out


def peak(values: Sequence[Resident], space: Space) -> tuple[int, list[Resident]]:
    """(cycle, values): the first moment at which most bytes of a memory are alive, and what is alive then."""
    mine = [v for v in values if v.space == space]
    changes: dict[int, int] = {}
    for value in mine:
        changes[value.since] = changes.get(value.since, 0) + value.bytes
        changes[value.until] = changes.get(value.until, 0) - value.bytes
    alive = most = at = 0
    for cycle in sorted(changes):
        alive += changes[cycle]
        if alive > most:
            most, at = alive, cycle
    return at, [v for v in mine if v.since <= at < v.until]


def _use(place: _Map, region: Region, until: int) -> bool:
    """Lengthen the lives of the values in a region; whether there are any."""
    found = False
    for low, high in _rows(region):
        for i in place.overlapping(low, high):
            place.owner[i].until = max(place.owner[i].until, until)
            found = True
    return found


def _rows(region: Region) -> Iterator[tuple[int, int]]:
    """(first byte, one past the last) of each row, or of the whole."""
    contiguous = region.count == 1 or region.stride == region.size
    if region.count * region.outer > MOST_ROWS or (contiguous and region.outer == 1):
        yield region.start, region.end
        return
    for j in range(region.outer):
        for i in range(region.count):
            low = region.start + j * region.outer_stride + i * region.stride
            yield low, low + region.size


def _by_operand(instruction: isa.Instruction, touched: Sequence[Region]) -> list[list[Region]]:
    """The regions written, by destination: an SMX destination writes two planes."""
    writes = [r for r in touched if r.write]
    groups = [g for g in ("d0", "d1") if g in isa.DEFS[instruction.opcode].groups and instruction.operand(g).kind]
    if len(groups) < 2:
        return [writes] if writes else []
    planes = 2 if instruction.operand("d0").bits else len(writes) - (2 if instruction.operand("d1").bits else 1)
    return [writes[:planes], writes[planes:]]


def _names(op: str, instruction: isa.Instruction) -> list[tuple[str, bool]]:
    """(name, whether it accumulates) of what each destination holds: `a` and `b` of an instruction called `a+b`."""
    for verb in TRANSFER_VERBS:
        op = op.removeprefix(verb)
    parts = op.split("+")
    if instruction.opcode is Opcode.VPU:
        return [(parts[i] if i < len(parts) else op, bool(instruction[f"acc{i}"])) for i in range(isa.SINKS)]
    return [(op, bool(instruction["acc"]) if instruction.opcode is Opcode.MATMUL else False)]


def _nests(table: np.ndarray, start: int, stop: int, params: np.ndarray) -> list[tuple[int, ...]]:
    """Counts of the loops around each instruction, the outermost first."""
    counts = loop_counts(table, start, stop, params)
    open_loops: list[int] = []
    out: list[tuple[int, ...]] = []
    for pc in range(start, stop):
        out.append(tuple(open_loops))
        if table[pc, 0] == Opcode.LOOP:
            open_loops.append(int(counts[pc - start]))
        elif table[pc, 0] == Opcode.ENDLOOP:
            open_loops.pop()
    return out


def _index(counts: tuple[int, ...], number: int) -> list[int]:
    """Loop indices of the execution of that number."""
    index = [0] * isa.LOOP_LEVELS
    for level in range(len(counts) - 1, -1, -1):
        number, index[level] = divmod(number, counts[level])
    return index
