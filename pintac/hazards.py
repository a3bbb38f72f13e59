"""Static checks of a program: is its result the listing's, however the four queues run against each other?

The unrolled stream of an entry is walked once with a vector clock a queue: what of the other queues is certainly
complete when an instruction starts (queue order and matched semaphores, nothing else). For each atom of memory
(`footprint`) the last write and the last reads of each queue are known; an access that is not ordered behind a
conflicting one is a hazard, and the clocks give an order of execution, legal for queues and semaphores, in which the
two run the other way round. Also found: accesses out of bounds, reads of what nothing wrote, semaphores that can exceed
their capacity, and waits that no earlier signal of the listing matches.

This file shares no code with what makes programs. Within a queue, hardware keeps order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from pintac import hazards_core
from pintac.footprint import Atoms, Footprint, Range, footprint
from pintac.hazards_core import RECORD_COLUMNS
from pintac.isa import Opcode, Queue, Semaphore, Space
from pintac.isa.encoding import column
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
    f = footprint(table, start, stop, params, sizes[Space.DRAM], objects)
    outside = _outside(f, sizes)
    if outside:
        return Verdict(tuple(outside), len(f.pc))
    atoms = Atoms(f, initial, sizes)
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
        f.pc, queue, kind, sem, credit, capacity, room(hazards_core.SIGNAL), room(hazards_core.WAIT), f.first, f.slots,
        f.region, atoms.first, atoms.members, atoms.initial, records,
    )  # fmt: skip
    names = {s.number: s.name or str(s.number) for s in semaphores}
    problems = (_problem(r, f.pc, queue[f.pc], table, atoms, names) for r in records[:found])
    return Verdict(tuple(problems), len(f.pc))


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
    sem = np.where(kind != hazards_core.OTHER, table[:, column(Opcode.SIGNAL, "sem")], 0)
    size = max([int(sem.max(initial=0)), *(s.number for s in semaphores)]) + 1
    credit, capacity = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for s in semaphores:
        credit[s.number], capacity[s.number] = s.credit, s.capacity
    return kind, sem, credit, capacity


def _outside(f: Footprint, sizes: tuple[int, int, int]) -> list[Problem]:
    """Regions that leave their space, one an instruction."""
    where = f.where
    space, size, count, stride, outer, outer_stride = f.shapes.T
    span = size + np.maximum(0, (count - 1) * stride) + np.maximum(0, (outer - 1) * outer_stride)
    low = where + np.minimum(0, (count - 1) * stride) + np.minimum(0, (outer - 1) * outer_stride)
    bad = np.flatnonzero((low < 0) | (where + span > np.array(sizes)[space]))
    begin = np.cumsum(f.per_position) - f.per_position
    problems: dict[int, Problem] = {}
    for i in bad:
        position = int(np.searchsorted(begin, f.example[i], side="right")) - 1
        number = int(f.pc[position])
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


def _problem(
    record: np.ndarray, pc: np.ndarray, queue: np.ndarray, table: np.ndarray, atoms: Atoms, names: dict[int, str]
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
