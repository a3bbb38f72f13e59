"""Which bytes every dynamic instruction of an entry touches, exactly: strides, loop indices and rings included.

An access is a *region* (rows of bytes in one space); the distinct regions of a stream are few. Memory is divided into
*atoms*, the classes of bytes that exactly the same regions cover, so that interleaved strided rows share nothing and an
access costs a few atoms whatever its size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit

from pintac import isa
from pintac.cost import instruction_of
from pintac.isa import LOOP_LEVELS, Kind, Opcode, Operand, Sink, Space
from pintac.stream import dynamic_stream

Range = tuple[Space, int, int]
"""A space and bytes [low, high) of it."""

# Integer columns of a slot: one region that a static instruction touches.
SPACE, START, SIZE, COUNT, STRIDE, OUTER, OUTER_STRIDE, WRITE, RING_LEVEL, RING_SIZE, RING_STEP, MAY, STEP0 = range(13)
SLOT_COLUMNS = 13 + LOOP_LEVELS - 1
_SHAPE = [SPACE, *range(SIZE, OUTER_STRIDE + 1)]


@dataclass(frozen=True, eq=False)
class Footprint:
    """The accesses of a stream (`stream.dynamic_stream`), in order; those of an instruction: reads first.

    Access n of instruction i is slot `first[i] + n` of `slots` [slots, SLOT_COLUMNS]; `slot` [accesses] is that number.
    `region` [accesses] numbers the distinct regions; `shapes` [regions, 6] are their space, size, count, stride, outer
    and outer stride, `where` their first bytes, `example` the access that came first.
    """

    pc: np.ndarray
    index: np.ndarray
    first: np.ndarray
    slots: np.ndarray
    per_position: np.ndarray
    slot: np.ndarray
    region: np.ndarray
    shapes: np.ndarray
    where: np.ndarray
    example: np.ndarray


def footprint(
    table: np.ndarray, start: int, stop: int, params: np.ndarray, dram_bytes: int, objects: Sequence[Range] = ()
) -> Footprint:
    """The accesses of [start, stop) of a decoded listing.

    A gather or scatter may touch all of the object (of `objects`) that its address lies in, else all DRAM from there.
    """
    pc, index = dynamic_stream(table, start, stop, params)
    first, slots = _slots(table, start, stop, dram_bytes, objects)
    per_position = (first[1:] - first[:-1])[pc] if len(pc) else np.zeros(0, np.int64)
    accesses = int(per_position.sum())
    slot, where = np.empty(accesses, np.int64), np.empty(accesses, np.int64)
    _addresses(pc, index, first, slots, slot, where)
    shapes, shape_of_slot = np.unique(slots[:, _SHAPE], axis=0, return_inverse=True)
    shape = shape_of_slot.reshape(-1)[slot] if accesses else np.zeros(0, np.int64)
    region, example = _distinct(shape, where, 2 * accesses + 3)
    shapes, where = shapes[shape[example]], where[example]
    return Footprint(pc, index, first, slots, per_position, slot, region, shapes, where, example)


_Shape = tuple[int, int, int, int, int, int]  # start, size, count, stride, outer, outer stride


def tensor_regions(o: Operand, rows: int, cols: int) -> Iterator[tuple[int, _Shape]]:
    """(bytes of an address step, region) of each piece of an operand at loop indices 0."""
    if o.bits:
        block = 2 * o.bits
        down, across = -(-rows // 4), -(-cols // 4)
        yield block, (o.addr, across * block, down, o.hi * block, 1, 0)
        yield 1, (o.eaddr, across, down, o.hi, 1, 0)
        return
    groups = [(0, 1, rows, o.hi)]  # first row's offset, groups, rows of a group, row stride
    if o.inner:
        full, rest = divmod(rows, o.inner)
        groups = [(0, full, o.inner, o.lo)] if full else []
        groups += [(full * o.hi, 1, rest, o.lo)] if rest else []
    for offset, number, height, stride in groups:
        base = o.addr + 4 * offset
        if o.cstep in (0, 1):
            size = 4 * cols if o.cstep else 4
            yield 1, (base, size, height, 4 * stride, number, 4 * o.hi if o.inner else 0)
        else:
            for group in range(number):
                yield 1, (base + 4 * group * o.hi, 4, cols, 4 * o.cstep, height, 4 * stride)


def accesses(row: np.ndarray) -> Iterator[tuple[Operand, int, _Shape, bool, bool]]:
    """(operand, bytes of a step, region, write, gathered) of everything an instruction touches, reads first."""
    instruction = instruction_of(row)
    opcode = instruction.opcode
    if opcode in (Opcode.LOAD, Opcode.STORE):
        size, count, outer = instruction["size"], instruction["count"], instruction["outer"]
        gathered = bool(instruction["gather"])
        if gathered:
            o = instruction.operand("s1")
            yield o, 1, (o.addr, 4 * count, 1, 0, 1, 0), False, False
        for group, write in (("s0", False), ("d0", True)):
            o = instruction.operand(group)
            remote = gathered and (opcode is Opcode.LOAD) == (group == "s0")
            yield o, 1, (o.addr, size, count, o.hi, outer, o.lo), write, remote
    elif opcode is Opcode.MATMUL:
        m, n, k = instruction["m"], instruction["n"], instruction["k"]
        d = instruction.operand("d0")
        for group, shape in (
            ("s0", (k, m) if instruction["ta"] else (m, k)),
            ("s1", (n, k) if instruction["tb"] else (k, n)),
        ):
            o = instruction.operand(group)
            yield from ((o, unit, region, False, False) for unit, region in tensor_regions(o, *shape))
        for write in (False, True) if instruction["acc"] else (True,):
            yield from ((d, unit, region, write, False) for unit, region in tensor_regions(d, m, n))
    elif opcode is Opcode.VPU:
        rows, cols = instruction["rows"], instruction["cols"]
        for i in range(isa.SOURCES):
            if instruction[f"s{i}.kind"] == Kind.TENSOR:
                o = instruction.operand(f"s{i}")
                yield from ((o, unit, region, False, False) for unit, region in tensor_regions(o, rows, cols))
        sinks = []
        for i in range(isa.SINKS):
            if instruction[f"d{i}.kind"] == Sink.NONE:
                continue
            o = instruction.operand(f"d{i}")
            shape = isa.sink_shape(o.kind, rows, cols, o.inner)
            if o.kind != Sink.WRITE:  # a reduction's `inner` is its group, not an address split
                values = {name: getattr(o, name) for name in Operand.__dataclass_fields__}
                o = Operand(**(values | {"inner": 0}))
                if instruction[f"acc{i}"]:
                    yield from ((o, unit, region, False, False) for unit, region in tensor_regions(o, *shape))
            sinks.append((o, shape))
        for o, shape in sinks:
            yield from ((o, unit, region, True, False) for unit, region in tensor_regions(o, *shape))
    elif opcode not in isa.CONTROL:
        raise NotImplementedError(f"the bytes of {opcode.name} are not known here")


def _contiguous(shape: _Shape) -> _Shape:
    """The same bytes in as few rows as possible."""
    start, size, count, stride, outer, outer_stride = shape
    if outer == 1:
        outer_stride = 0
    if count > 1 and stride == size:
        size, count = size * count, 1
    if count > 1 and stride == 0:
        count = 1
    if count == 1:
        count, stride, outer, outer_stride = outer, outer_stride, 1, 0
        if count > 1 and stride == size:
            size, count = size * count, 1
        if count > 1 and stride == 0:
            count = 1
    if count == 1:
        stride = 0
    return start, size, count, stride, outer, outer_stride


def _slots(
    table: np.ndarray, start: int, stop: int, dram_bytes: int, objects: Sequence[Range]
) -> tuple[np.ndarray, np.ndarray]:
    """(first slot of each instruction [len(table) + 1], slots [n, SLOT_COLUMNS])."""
    first = np.zeros(len(table) + 1, np.int64)
    rows: list[list[int]] = []
    for pc in range(len(table)):
        first[pc] = len(rows)
        if not start <= pc < stop:
            continue
        for o, unit, region, write, gathered in accesses(table[pc]):
            shape = _contiguous(region)
            steps = [s * unit for s in o.steps]
            ring = [o.ring_level, o.ring_size, o.ring_step * unit]
            if gathered:
                low, high = next(
                    ((lo, hi) for space, lo, hi in objects if space == Space.DRAM and lo <= o.addr < hi),
                    (o.addr, dram_bytes),
                )
                shape, steps, ring = (low, high - low, 1, 0, 1, 0), [0] * isa.LOOP_LEVELS, [0, 0, 0]
            rows.append([o.space, *shape, int(write), *ring, int(gathered), *steps])
    first[len(table)] = len(rows)
    return first, np.array(rows, np.int64).reshape(-1, SLOT_COLUMNS)


class Atoms:
    """Bytes that exactly the same regions cover, as numbers.

    Cells are the pieces between all ends of all rows; cells with equal sets of covering regions are one atom. A set is
    known by the 64-bit sum of random numbers of its members.
    """

    def __init__(self, f: Footprint, initial: Sequence[Range], sizes: Sequence[int]) -> None:
        self._base = np.array([0, sizes[0], sizes[0] + sizes[1]], np.int64)
        extra = [(space, high - low, 1, 0, 1, 0) for space, low, high in initial if high > low]
        shapes = np.vstack([f.shapes.reshape(-1, 6), np.array(extra, np.int64).reshape(-1, 6)])
        where = np.concatenate([f.where, np.array([low for _, low, high in initial if high > low], np.int64)])
        regions = len(shapes) - len(extra)
        space, size, count, stride, outer, outer_stride = shapes.T
        rows = count * outer
        row_first = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        owner = np.repeat(np.arange(len(shapes)), rows)
        number = np.arange(row_first[-1]) - row_first[owner]
        starts = self._base[space[owner]] + where[owner]
        starts += number % count[owner] * stride[owner] + number // count[owner] * outer_stride[owner]
        ends = starts + size[owner]
        cuts, inverse = np.unique(np.concatenate([starts, ends]), return_inverse=True)
        inverse = inverse.reshape(-1)
        low, high = inverse[: len(starts)], inverse[len(starts) :]
        keys = np.random.default_rng(0).integers(1, 1 << 63, len(shapes), dtype=np.uint64)
        change = np.zeros(len(cuts), np.uint64)
        np.add.at(change, low, keys[owner])
        np.subtract.at(change, high, keys[owner])
        _, cell, atom = np.unique(np.cumsum(change, dtype=np.uint64)[:-1], return_index=True, return_inverse=True)
        atom = atom.reshape(-1).astype(np.int64)
        self._cuts, self._atom = cuts, atom
        self._address = cuts[cell] if len(cuts) else cuts
        total = int((high - low).sum())
        first, members = _region_atoms(low, high, row_first, atom, len(cell), total)
        self.first, self.members = first[: regions + 1], members
        self.initial = np.zeros(len(cell), np.bool_)
        self.initial[members[first[regions] :]] = True

    @cached_property
    def ranges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(space of each atom, its first range [atoms + 1], first byte and bytes of each range in its space)."""
        by = np.argsort(self._atom, kind="stable")
        first = np.concatenate([[0], np.cumsum(np.bincount(self._atom, minlength=len(self.initial)))]).astype(np.int64)
        space = np.searchsorted(self._base, self._address, side="right") - 1
        low = self._cuts[:-1][by] - self._base[space[self._atom[by]]]
        return space.astype(np.int64), first, low, np.diff(self._cuts)[by]

    def place(self, atom: int) -> tuple[Space, int]:
        """A byte of the atom."""
        address = int(self._address[atom])
        space = Space(int(np.searchsorted(self._base, address, side="right")) - 1)
        return space, address - int(self._base[space])


@njit(cache=True)
def _addresses(
    pc: np.ndarray, index: np.ndarray, first: np.ndarray, slots: np.ndarray, slot_out: np.ndarray, start_out: np.ndarray
) -> None:
    """(slot, start address) of every access of the stream, in order."""
    n = 0
    for position in range(len(pc)):
        for s in range(first[pc[position]], first[pc[position] + 1]):
            start = slots[s, START]
            for level in range(LOOP_LEVELS):
                start += slots[s, STEP0 + level] * index[position, level]
            if slots[s, RING_SIZE] > 0:
                start += (index[position, slots[s, RING_LEVEL]] % slots[s, RING_SIZE]) * slots[s, RING_STEP]
            slot_out[n] = s
            start_out[n] = start
            n += 1


@njit(cache=True)
def _distinct(shape: np.ndarray, start: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Number the distinct (shape, start) pairs: (number of each access, accesses that came first)."""
    table = np.full(capacity, -1, np.int64)
    number = np.empty(len(shape), np.int64)
    example = np.empty(len(shape), np.int64)
    count = 0
    for i in range(len(shape)):
        h = (start[i] * 0x2545F4914F6CDD1D + shape[i] * 0x1B873593) & 0x7FFFFFFFFFFFFFFF
        at = (h ^ (h >> 29)) % capacity
        while True:
            j = table[at]
            if j < 0:
                table[at] = count
                example[count] = i
                number[i] = count
                count += 1
                break
            e = example[j]
            if shape[e] == shape[i] and start[e] == start[i]:
                number[i] = j
                break
            at = (at + 1) % capacity
    return number, example[:count].copy()


@njit(cache=True)
def _region_atoms(
    starts: np.ndarray, ends: np.ndarray, row_first: np.ndarray, cell_atom: np.ndarray, atoms: int, total: int
) -> tuple[np.ndarray, np.ndarray]:
    """The atoms of each region, each once: (first of each region, atoms). Rows are cell ranges [start, end)."""
    regions = len(row_first) - 1
    first = np.zeros(regions + 1, np.int64)
    out = np.empty(total, np.int32)
    seen = np.full(atoms, -1, np.int64)
    n = 0
    for region in range(regions):
        for row in range(row_first[region], row_first[region + 1]):
            for cell in range(starts[row], ends[row]):
                atom = cell_atom[cell]
                if seen[atom] != region:
                    seen[atom] = region
                    out[n] = atom
                    n += 1
        first[region + 1] = n
    return first, out[:n].copy()
