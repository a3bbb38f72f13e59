"""Static checks of a program: is its result the listing's, however the four queues run against each other?

The unrolled stream of an entry is walked once with a vector clock a queue: what of the other queues is certainly
complete when an instruction starts (queue order and matched semaphores, nothing else). Memory is divided into *atoms*,
the classes of bytes that exactly the same accesses touch (found exactly, strides included, from all distinct regions of
the stream), so that interleaved strided rows are no conflict and an access costs a few atoms whatever its size. For
each atom the last write and the last reads of each queue are known; an access that is not ordered behind a conflicting
one is a hazard, and the clocks give an order of execution, legal for queues and semaphores, in which the two run the
other way round. Also found: accesses out of bounds, reads of what nothing wrote, semaphores that can exceed their
capacity, and waits that no earlier signal of the listing matches.

This file shares no code with what makes programs. Within a queue, hardware keeps order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from pintac import hazards_core, isa
from pintac.cost import instruction_of
from pintac.hazards_core import RECORD_COLUMNS, SLOT_COLUMNS
from pintac.isa import Kind, Opcode, Operand, Queue, Semaphore, Sink, Space
from pintac.program import Program
from pintac.stream import dynamic_stream, executions, queues
from pintac.timeline import parameter_block

KINDS = (
    "read before its write",
    "write before an earlier read",
    "writes in the wrong order",
    "uninitialised read",
    "semaphore over its capacity",
    "wait without a signal",
)
OUT_OF_BOUNDS = "out of bounds"
ORDERINGS = KINDS[:3]
MAX_PROBLEMS = 20

Range = tuple[Space, int, int]
"""A space and bytes [low, high) of it."""


@dataclass(frozen=True, eq=False)
class Problem:
    """One thing that is wrong.

    `first` and `second` are positions in the stream (`first` -1 where one instruction is enough), `pcs` their
    instructions, `address` a byte they touch. `order` is the witness of a hazard: all positions in an order that queues
    and semaphores allow and in which `second` runs before `first`.
    """

    kind: str
    message: str
    first: int
    second: int
    pcs: tuple[int, ...]
    space: Space | None = None
    address: int = -1
    order: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the checker says: no problems means identical memory under every timing of the queues."""

    problems: tuple[Problem, ...]
    positions: int

    @property
    def name(self) -> str:
        """ "clean", "hazard" (some order gives other results) or "error" (wrong in every order)."""
        if not self.problems:
            return "clean"
        return "hazard" if any(p.kind in ORDERINGS for p in self.problems) else "error"

    @property
    def clean(self) -> bool:
        return not self.problems

    @property
    def witness(self) -> Problem | None:
        """The first problem with an order to replay."""
        return next((p for p in self.problems if p.order is not None), None)

    def __str__(self) -> str:
        return "\n".join([self.name, *(p.message for p in self.problems)])


def check(program: Program, entry: str = "step", params: np.ndarray | None = None) -> Verdict:
    """Check an entry of a program. States, inputs and data count as initialised."""
    start, stop = program.entry(entry)
    known = [
        (Space.DRAM, low, low + size)
        for symbol in program.symbols.values()
        for low, size in symbol.planes
        if symbol.kind in ("state", "input", "data")
    ]
    objects = [(Space.DRAM, low, low + size) for symbol in program.symbols.values() for low, size in symbol.planes]
    return check_listing(
        program.table,
        start,
        stop,
        program.semaphores,
        parameter_block(program) if params is None else params,
        (program.dram_bytes, program.sram_bytes, program.psum_bytes),
        initial=known,
        objects=objects,
    )


def check_listing(
    table: np.ndarray,
    start: int,
    stop: int,
    semaphores: Sequence[Semaphore],
    params: np.ndarray,
    sizes: tuple[int, int, int],
    *,
    initial: Sequence[Range] = (),
    objects: Sequence[Range] = (),
) -> Verdict:
    """Check [start, stop) of a decoded listing.

    `sizes` are the bytes of DRAM, SRAM and PSUM, `initial` what is written before the entry starts. A gather or scatter
    may touch all of the object (of `objects`) that its address lies in, else all DRAM from there.
    """
    pc, index = dynamic_stream(table, start, stop, params)
    first, slots = _slots(table, start, stop, sizes[Space.DRAM], objects)
    per_position = (first[1:] - first[:-1])[pc] if len(pc) else np.zeros(0, np.int64)
    accesses = int(per_position.sum())
    slot, where = np.empty(accesses, np.int64), np.empty(accesses, np.int64)
    hazards_core.addresses(pc, index, first, slots, slot, where)
    shapes, shape_of_slot = np.unique(
        slots[:, [hazards_core.SPACE, *range(hazards_core.SIZE, hazards_core.OUTER_STRIDE + 1)]],
        axis=0,
        return_inverse=True,
    )
    shape = shape_of_slot.reshape(-1)[slot] if accesses else np.zeros(0, np.int64)
    region, example = hazards_core.distinct(shape, where, 2 * accesses + 3)
    outside = _outside(pc, per_position, shapes, shape[example], where[example], example, sizes)
    if outside:
        return Verdict(tuple(outside), len(pc))
    atoms = _Atoms(shapes[shape[example]], where[example], initial, sizes)

    kind, sem, credit, capacity = _semaphores(table, semaphores)
    times = np.zeros(len(table), np.int64)
    times[start:stop] = executions(table, start, stop, params)

    def room(wanted: int) -> np.ndarray:
        chosen = kind == wanted
        counts = np.bincount(sem[chosen], weights=times[chosen], minlength=len(credit)).astype(np.int64)
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    records = np.zeros((MAX_PROBLEMS, RECORD_COLUMNS), np.int64)
    queue = queues(table)
    found = hazards_core.check(
        pc, queue, kind, sem, credit, capacity, room(hazards_core.SIGNAL), room(hazards_core.WAIT), first, slots,
        region, atoms.first, atoms.members, atoms.initial, records,
    )  # fmt: skip
    names = {s.number: s.name or str(s.number) for s in semaphores}
    return Verdict(tuple(_problem(r, pc, queue[pc], table, atoms, names) for r in records[:found]), len(pc))


def legal_orders(
    table: np.ndarray, start: int, stop: int, semaphores: Sequence[Semaphore], params: np.ndarray, random: int = 100
) -> Iterator[np.ndarray]:
    """Orders of execution that queues and semaphores allow: 24 extreme ones, then `random` random ones.

    The extreme ones let each queue run as early or as late as possible, in every order of preference. An order holds
    positions of `dynamic_stream`; it is shorter than the stream if the queues block for good.
    """
    pc, _ = dynamic_stream(table, start, stop, params)
    kind, sem, credit, _ = _semaphores(table, semaphores)
    queue = queues(table)
    choices = [(np.array(p, np.int64), -1) for p in permutations(range(4))]
    choices += [(np.arange(4), seed) for seed in range(random)]
    for priority, seed in choices:
        order = np.empty(len(pc), np.int64)
        done = hazards_core.legal_order(pc, queue, kind, sem, credit, priority, seed, order)
        yield order[:done]


def is_legal(order: np.ndarray, table: np.ndarray, start: int, stop: int, semaphores: Sequence[Semaphore],
             params: np.ndarray) -> bool:  # fmt: skip
    """Whether queues and semaphores allow this order of all positions."""
    pc, _ = dynamic_stream(table, start, stop, params)
    kind, sem, credit, _ = _semaphores(table, semaphores)
    queue = queues(table)[pc]
    if not np.array_equal(np.sort(order), np.arange(len(pc))):
        return False
    if any((np.diff(order[queue[order] == q]) < 0).any() for q in range(4)):
        return False
    value = credit.copy()
    for i in pc[order]:
        if kind[i] == hazards_core.SIGNAL:
            value[sem[i]] += 1
        elif kind[i] == hazards_core.WAIT:
            value[sem[i]] -= 1
            if value[sem[i]] < 0:
                return False
    return True


def _semaphores(
    table: np.ndarray, semaphores: Sequence[Semaphore]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(kind, semaphore) of each instruction and (credit, capacity) of each semaphore."""
    opcode = table[:, 0]
    kind = np.where(opcode == Opcode.SIGNAL, hazards_core.SIGNAL, hazards_core.OTHER)
    kind = np.where(opcode == Opcode.WAIT, hazards_core.WAIT, kind)
    sem = np.where(kind != hazards_core.OTHER, table[:, isa.column(Opcode.SIGNAL, "sem")], 0)
    size = max([int(sem.max(initial=0)), *(s.number for s in semaphores)]) + 1
    credit, capacity = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for s in semaphores:
        credit[s.number], capacity[s.number] = s.credit, s.capacity
    return kind, sem, credit, capacity


# -- regions -----------------------------------------------------------------------------------------------------------

_Shape = tuple[int, int, int, int, int, int]  # start, size, count, stride, outer, outer stride


def _tensor(o: Operand, rows: int, cols: int) -> Iterator[tuple[int, _Shape]]:
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


def _accesses(row: np.ndarray) -> Iterator[tuple[Operand, int, _Shape, bool, bool]]:
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
            yield from ((o, unit, region, False, False) for unit, region in _tensor(o, *shape))
        for write in (False, True) if instruction["acc"] else (True,):
            yield from ((d, unit, region, write, False) for unit, region in _tensor(d, m, n))
    elif opcode is Opcode.VPU:
        rows, cols = instruction["rows"], instruction["cols"]
        for i in range(isa.SOURCES):
            if instruction[f"s{i}.kind"] == Kind.TENSOR:
                o = instruction.operand(f"s{i}")
                yield from ((o, unit, region, False, False) for unit, region in _tensor(o, rows, cols))
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
                    yield from ((o, unit, region, False, False) for unit, region in _tensor(o, *shape))
            sinks.append((o, shape))
        for o, shape in sinks:
            yield from ((o, unit, region, True, False) for unit, region in _tensor(o, *shape))


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
        for o, unit, region, write, gathered in _accesses(table[pc]):
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


def _outside(
    pc: np.ndarray,
    per_position: np.ndarray,
    shapes: np.ndarray,
    shape: np.ndarray,
    where: np.ndarray,
    example: np.ndarray,
    sizes: tuple[int, int, int],
) -> list[Problem]:
    """Regions that leave their space, one an instruction."""
    space, size, count, stride, outer, outer_stride = shapes[shape].T
    span = size + np.maximum(0, (count - 1) * stride) + np.maximum(0, (outer - 1) * outer_stride)
    low = where + np.minimum(0, (count - 1) * stride) + np.minimum(0, (outer - 1) * outer_stride)
    bad = np.flatnonzero((low < 0) | (where + span > np.array(sizes)[space]))
    begin = np.cumsum(per_position) - per_position
    problems: dict[int, Problem] = {}
    for i in bad:
        position = int(np.searchsorted(begin, example[i], side="right")) - 1
        number = int(pc[position])
        place = Space(int(space[i]))
        problems.setdefault(
            number,
            Problem(
                OUT_OF_BOUNDS,
                f"instruction {number}, position {position}: bytes {low[i]} to {where[i] + span[i]} "
                f"of {place.name}, which has {sizes[place]}",
                -1, position, (number,), place, int(low[i]),
            ),
        )  # fmt: skip
    return list(problems.values())[:MAX_PROBLEMS]


class _Atoms:
    """Bytes that exactly the same regions cover, as numbers.

    Cells are the pieces between all ends of all rows; cells with equal sets of covering regions are one atom. A set is
    known by the 64-bit sum of random numbers of its members.
    """

    def __init__(
        self, shapes: np.ndarray, where: np.ndarray, initial: Sequence[Range], sizes: tuple[int, int, int]
    ) -> None:
        self._base = np.array([0, sizes[0], sizes[0] + sizes[1]], np.int64)
        extra = [(space, high - low, 1, 0, 1, 0) for space, low, high in initial if high > low]
        shapes = np.vstack([shapes.reshape(-1, 6), np.array(extra, np.int64).reshape(-1, 6)])
        where = np.concatenate([where, np.array([low for _, low, high in initial if high > low], np.int64)])
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
        self._address = cuts[cell] if len(cuts) else cuts
        total = int((high - low).sum())
        first, members = hazards_core.region_atoms(low, high, row_first, atom, len(cell), total)
        self.first, self.members = first[: regions + 1], members
        self.initial = np.zeros(len(cell), np.bool_)
        self.initial[members[first[regions] :]] = True

    def place(self, atom: int) -> tuple[Space, int]:
        """A byte of the atom."""
        address = int(self._address[atom])
        space = Space(int(np.searchsorted(self._base, address, side="right")) - 1)
        return space, address - int(self._base[space])


def _problem(
    record: np.ndarray, pc: np.ndarray, queue: np.ndarray, table: np.ndarray, atoms: _Atoms, names: dict[int, str]
) -> Problem:
    kind, first, second, atom = (int(v) for v in record[:4])
    clock = record[hazards_core.R_CLOCK0 :]
    b = int(pc[second])
    where = f"instruction {b} ({_name(table, b)}), position {second}"
    if kind in (hazards_core.CAPACITY, hazards_core.UNMATCHED):
        what = (
            "can raise it above its capacity"
            if kind == hazards_core.CAPACITY
            else "waits for a signal that no earlier instruction of the listing gives"
        )
        return Problem(
            KINDS[kind], f"{KINDS[kind]}: semaphore {names.get(atom, str(atom))}, {where} {what}", -1, second, (b,)
        )
    space, address = atoms.place(atom)
    place = f"byte {address} of {space.name}"
    if kind == hazards_core.UNINITIALISED:
        return Problem(
            KINDS[kind], f"{KINDS[kind]}: {where} reads {place}, which nothing wrote", -1, second, (b,), space, address
        )
    a = int(pc[first])
    # Everything that must come before `second`, in listing order; then `second`; then the rest.
    past = np.arange(len(pc)) <= clock[queue]
    past[second] = False
    order = np.concatenate([np.flatnonzero(past), [second], np.flatnonzero(~past & (np.arange(len(pc)) != second))])
    return Problem(
        KINDS[kind],
        f"{KINDS[kind]}: nothing makes {where} wait for instruction {a} ({_name(table, a)}), position {first}; "
        f"both touch {place}",
        first, second, (a, b), space, address, order,
    )  # fmt: skip


def _name(table: np.ndarray, pc: int) -> str:
    opcode = Opcode(int(table[pc, 0]))
    return f"{opcode.name.lower()} on {Queue(int(queues(table[pc : pc + 1])[0])).name.lower()}"
