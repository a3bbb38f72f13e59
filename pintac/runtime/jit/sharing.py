"""Which thread executes what of an entry's stream: an assignment that keeps what belongs together on one thread.

Every execution of an instruction is one thread's as a whole, so no sum is taken apart. Threads have memories of their
own (`team`): what a thread reads of another's results is copied, and buffers that are used again order nothing between
them. Only what is written once, and what rows are gathered from, lies in the machine's DRAM for all of them.

Executions are joined to *parts* along the values that flow between them, the largest first, up to so much work in so
long a piece of the stream: mostly what is done for one point. What is added up where it lies joins nothing; it goes
from part to part, in the order of the stream. Whole parts are dealt out evenly; what is in no part goes, one execution
after the other, where it would end first. Several sizes of parts are tried, and a simple model of the time that threads
compute, copy and wait chooses among them. The bits do not depend on any of this.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from pintac import isa
from pintac.footprint import MAY, SPACE, WRITE, Atoms, Footprint, footprint
from pintac.isa import MicroOp, Opcode, Sink, Space
from pintac.program import Program

TRIED = (
    (0, 1, 0.0), (25, 32, 0.1), (50, 8, 0.1), (50, 8, 0.5), (50, 32, 0.1), (100, 8, 0.1), (100, 8, 0.5), (100, 32, 0.1),
    (100, 32, 0.5), (200, 32, 0.1),
)  # fmt: skip
"""Sizes of parts: the work of an entry over the most that one may have (0: no parts), the length of the stream over the
most that one may reach over, and of that work the least that is dealt out as a whole."""
JUDGED = 400_000
"""Positions of the stream by which assignments are compared."""

# The model of time, in microseconds. Instructions: fitted to what kernels of three steps took (AVX-512, 2.6 GHz).
_CALL = 0.05  # an instruction, whatever it does
_INT8_MACS, _MACS = 120e3, 85e3  # multiply-accumulates in a microsecond, both operands INT8 or not
_LANES = 16  # fewer results in a row take as long
_TRANSFERRED = 30e3  # bytes of a transfer in a microsecond
_ELEMENT = 0.06e-3  # an element of a vector instruction, and more for each of:
_SMX_SOURCE, _SINK, _MICRO_OP, _ROOT, _TRANSCENDENTAL, _PHILOX = 0.03e-3, 0.06e-3, 0.03e-3, 0.13e-3, 0.2e-3, 3e-3
_FUNCTIONS = ("EXP", "LOG", "TANH", "SIGMOID", "SIN", "COS", "ERF")
_BYTES = 8e3  # bytes copied from another thread
_COPY = 2e3  # bytes whose copying would take as long as a copy takes, however small
_MEET = 0.3  # until a thread sees what another one did
_RELUCTANCE = 1e-3  # a byte that would have to be copied, over and above its time


class Stream(NamedTuple):
    """What executions touch, for compiled code: `footprint.Footprint` by atoms."""

    pc: np.ndarray  # int32 [positions]
    work: np.ndarray  # bool [instructions]: whether it does anything
    first: np.ndarray  # int64 [instructions + 1]: slots
    write: np.ndarray  # bool [slots]
    region: np.ndarray  # int64 [accesses]
    atom_first: np.ndarray  # int64 [regions + 1]
    atoms: np.ndarray  # int32: of all regions
    size: np.ndarray  # int64 [atoms]: bytes
    shared: np.ndarray  # bool [atoms]: in the machine's DRAM for all threads


class Shared(NamedTuple):
    """An entry's stream, its atoms, and the thread of each position (int64; -1: nothing to execute).

    `of_machine` are the transfers from or to DRAM that is the machine's for all threads.
    """

    footprint: Footprint
    atoms: Atoms
    stream: Stream
    thread: np.ndarray
    of_machine: frozenset[int]


def share(program: Program, entry: str, params: np.ndarray, threads: int, given: np.ndarray) -> Shared:
    """Share an entry out among threads, for this parameter block (uint32 [PARAMS]).

    `given` [instructions]: the thread of an instruction if it is not to be chosen, else -1.
    """
    start, stop = program.entry(entry)
    objects = [(Space.DRAM, low, low + size) for symbol in program.symbols.values() for low, size in symbol.planes]
    touched = footprint(program.table, start, stop, params, program.dram_bytes, objects)
    atoms = Atoms(touched, (), (program.dram_bytes, program.sram_bytes, program.psum_bytes))
    _, first_range, _, size = atoms.ranges
    shared, slots = _of_machine(touched, atoms)
    instruction = np.searchsorted(touched.first, np.flatnonzero(slots), side="right") - 1
    stream = Stream(
        touched.pc,
        ~np.isin(program.table[:, 0], list(isa.CONTROL)),
        touched.first,
        touched.slots[:, WRITE].astype(np.bool_),
        touched.region,
        atoms.first,
        atoms.members,
        np.add.reduceat(size, first_range[:-1]) if len(size) else size,
        shared,
    )
    cost = np.where(stream.work[touched.pc], _costs(program, start, stop)[touched.pc], 0.0)
    return Shared(touched, atoms, stream, _best(stream, cost, threads, given), frozenset(instruction.tolist()))


def _of_machine(f: Footprint, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """(atoms, slots) of DRAM that all threads share: bool, bool.

    That are bytes that are written at most once, so that nobody waits to overwrite them; those that a gather or scatter
    may touch; and all else that a transfer touches together with such.
    """
    dram, may = f.slots[:, SPACE] == Space.DRAM, f.slots[:, MAY] != 0
    writes = np.zeros(len(atoms.initial), np.int64)
    writing = dram & (f.slots[:, WRITE] != 0) & ~may
    _count(f.region[writing[f.slot]], atoms.first, atoms.members, writes)
    shared = (atoms.ranges[0] == Space.DRAM) & (writes <= 1)
    slots = np.zeros(len(f.slots), np.bool_)
    pairs = np.unique(np.column_stack([f.slot, f.region])[dram[f.slot]], axis=0)
    _spread(pairs, atoms.first, atoms.members, may, shared, slots)
    return shared, slots


@njit(cache=True)
def _count(regions: np.ndarray, atom_first: np.ndarray, members: np.ndarray, times: np.ndarray) -> None:
    """How often atoms are in these regions."""
    for region in regions:
        for m in range(atom_first[region], atom_first[region + 1]):
            times[members[m]] += 1


@njit(cache=True)
def _spread(
    pairs: np.ndarray,
    atom_first: np.ndarray,
    members: np.ndarray,
    may: np.ndarray,
    shared: np.ndarray,
    slots: np.ndarray,
) -> None:
    """Slots that touch shared atoms, or may touch anything, and all that these touch, until there are no more."""
    changed = True
    while changed:
        changed = False
        for p in range(len(pairs)):
            slot = pairs[p, 0]
            own = members[atom_first[pairs[p, 1]] : atom_first[pairs[p, 1] + 1]]
            if not slots[slot] and (may[slot] or shared[own].any()):
                slots[slot] = changed = True
            if slots[slot] and not shared[own].all():
                shared[own] = changed = True


def _best(stream: Stream, cost: np.ndarray, threads: int, given: np.ndarray) -> np.ndarray:
    """The assignment that should end first, judged by the first positions."""
    free = np.where(given[stream.pc] < 0, cost, 0.0)
    judged = min(len(cost), JUDGED)
    flows = _flows_of(stream, judged)
    found = []
    for pieces, reach, whole in TRIED:
        most = free[:judged].sum() / pieces if pieces else 0.0
        way = (most, judged // reach, whole * most if pieces else np.inf)
        found.append((_shared(stream, cost, free, threads, given, flows, judged, *way)[1], way))
    if judged < len(cost):
        flows = _flows_of(stream, len(cost))
    return _shared(stream, cost, free, threads, given, flows, len(cost), *min(found)[1])[0]


def _shared(
    stream: Stream,
    cost: np.ndarray,
    free: np.ndarray,
    threads: int,
    given: np.ndarray,
    flows: tuple[np.ndarray, np.ndarray, np.ndarray],
    stop: int,
    most: float,
    span: int,
    least: float,
) -> tuple[np.ndarray, float]:
    """(thread of each position before `stop`, when the last one ends) with parts of at most so much work and length.

    Of those with more than `least` work all is one thread's.
    """
    part = _parts(*flows, free[:stop], most, span)
    work = np.bincount(part, weights=free[:stop], minlength=stop)
    return _assign(stream, cost, threads, given, part, work, least, stop)


def _costs(program: Program, start: int, stop: int) -> np.ndarray:
    """Microseconds of each instruction, near enough."""
    cost = np.zeros(len(program.instructions))
    for pc in range(start, stop):
        instruction = program.instructions[pc]
        if instruction.opcode is Opcode.MATMUL:
            int8 = instruction.operand("s0").bits <= 8 and instruction.operand("s1").bits <= 8
            macs = instruction["m"] * max(instruction["n"], _LANES) * instruction["k"]
            cost[pc] = _CALL + macs / (_INT8_MACS if int8 else _MACS)
        elif instruction.opcode is Opcode.VPU:
            cost[pc] = _CALL + instruction["rows"] * instruction["cols"] * _element_cost(instruction)
        elif instruction.opcode in (Opcode.LOAD, Opcode.STORE):
            size = instruction["size"] * instruction["count"] * instruction["outer"]
            cost[pc] = _CALL + size / _TRANSFERRED
    return cost


def _element_cost(instruction: isa.Instruction) -> float:
    """Microseconds of an element of a vector instruction."""
    cost = _ELEMENT
    cost += _SMX_SOURCE * sum(instruction.operand(f"s{i}").bits > 0 for i in range(isa.SOURCES))
    cost += _SINK * sum(instruction.operand(f"d{i}").kind != Sink.NONE for i in range(isa.SINKS))
    for i in range(instruction["uops"]):
        op = isa.split_micro_op(instruction[f"uop{i}"])[0]
        cost += _COST_OF.get(op, _MICRO_OP)
    return cost


_COST_OF = {
    **dict.fromkeys((MicroOp.DIV, MicroOp.SQRT), _ROOT),
    **dict.fromkeys((m for m in MicroOp if m.name in _FUNCTIONS), _TRANSCENDENTAL),
    **dict.fromkeys((m for m in MicroOp if m.name.startswith("PHILOX")), _PHILOX),
}


def _flows_of(stream: Stream, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flows between positions before `stop`, the largest first: (order, position that wrote, position that reads).

    All but those of values that are changed where they lie.
    """
    room = len(stream.region) + 1
    while True:
        source, target, size = (np.zeros(room, np.int32) for _ in range(3))
        count = _flows(stream, stop, source, target, size)
        if count <= room:
            return np.argsort(-size[:count], kind="stable"), source[:count], target[:count]
        room = count


@njit(cache=True)
def _flows(s: Stream, stop: int, source: np.ndarray, target: np.ndarray, size: np.ndarray) -> int:
    """The number of flows, which are written as far as there is room."""
    writer = np.full(len(s.size), -1, np.int64)
    changed = np.full(len(s.size), -1, np.int64)
    n = count = 0
    for position in range(stop):
        i = s.pc[position]
        begin = n
        n += s.first[i + 1] - s.first[i]
        if not s.work[i]:
            continue
        for a in range(begin, n):
            if s.write[s.first[i] + a - begin]:
                for m in range(s.atom_first[s.region[a]], s.atom_first[s.region[a] + 1]):
                    changed[s.atoms[m]] = position
        own = count
        for a in range(begin, n):
            if s.write[s.first[i] + a - begin]:
                continue
            for m in range(s.atom_first[s.region[a]], s.atom_first[s.region[a] + 1]):
                atom = s.atoms[m]
                if writer[atom] < 0 or changed[atom] == position:
                    continue
                f = own
                while f < min(count, len(source)) and source[f] != writer[atom]:
                    f += 1
                if f < min(count, len(source)):
                    size[f] += s.size[atom]
                    continue
                if count < len(source):
                    source[count], target[count], size[count] = writer[atom], position, s.size[atom]
                count += 1
        for a in range(begin, n):
            if s.write[s.first[i] + a - begin]:
                for m in range(s.atom_first[s.region[a]], s.atom_first[s.region[a] + 1]):
                    writer[s.atoms[m]] = position
    return count


@njit(cache=True)
def _root(parent: np.ndarray, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True)
def _parts(
    order: np.ndarray, source: np.ndarray, target: np.ndarray, cost: np.ndarray, most: float, span: int
) -> np.ndarray:
    """The part of each position: joined along flows in this order while it has at most so much work and length."""
    count = len(cost)
    parent, work = np.arange(count), cost.copy()
    low, high = np.arange(count), np.arange(count)
    for f in order:
        a, b = _root(parent, source[f]), _root(parent, target[f])
        reach = max(high[a], high[b]) - min(low[a], low[b])
        if a != b and work[a] + work[b] <= most and reach <= span:
            parent[a] = b
            work[b] += work[a]
            low[b], high[b] = min(low[a], low[b]), max(high[a], high[b])
    return np.array([_root(parent, i) for i in range(count)])


@njit(cache=True)
def _assign(
    s: Stream,
    cost: np.ndarray,
    threads: int,
    given: np.ndarray,
    part: np.ndarray,
    work: np.ndarray,
    least: float,
    stop: int,
) -> tuple[np.ndarray, float]:
    """(thread of each position before `stop`, when the last one ends): parts of more than `least` work as a whole."""
    count = len(s.size)
    chosen = np.full(stop, -1, np.int64)  # of each part, by its number, and of each position that is in none
    thread = np.full(stop, -1, np.int64)
    present = np.zeros((count, threads), np.bool_)
    present[:, 0] = True
    holder = np.zeros(count, np.int64)  # who wrote it last
    made = np.zeros((count, threads))  # when what a thread has of it was there
    looked = np.zeros((count, threads))  # when it was last read from another thread's memory
    free = np.zeros(threads)
    promised = np.zeros(threads)
    n = 0
    for position in range(stop):
        i = s.pc[position]
        begin = n
        n += s.first[i + 1] - s.first[i]
        if not s.work[i]:
            continue
        whole = work[part[position]] > least and given[i] < 0
        at = part[position] if whole else position
        if given[i] >= 0:
            chosen[at] = given[i]
            promised[given[i]] += cost[position]
        if chosen[at] < 0:
            best = np.inf
            for t in range(threads):
                end = promised[t]
                if not whole:
                    ready, copied = _ready(s, begin, n, i, t, free[t], present, holder, made, looked)
                    end = ready + copied / _BYTES + copied * _RELUCTANCE
                if end < best:
                    best, chosen[at] = end, t
            promised[chosen[at]] += work[part[position]] if whole else cost[position]
        t = chosen[at]
        ready, copied = _ready(s, begin, n, i, t, free[t], present, holder, made, looked)
        copied_at = ready + copied / _BYTES
        end = copied_at + cost[position]
        for a in range(begin, n):
            write = s.write[s.first[i] + a - begin]
            for m in range(s.atom_first[s.region[a]], s.atom_first[s.region[a] + 1]):
                atom = s.atoms[m]
                if write:
                    present[atom, :] = False
                    present[atom, t], holder[atom], made[atom, t] = True, t, end
                elif s.shared[atom]:
                    looked[atom, t] = end
                elif not present[atom, t]:
                    looked[atom, t] = copied_at
                    present[atom, t], made[atom, t] = True, copied_at
        free[t], thread[position] = end, t
    return thread, free.max()


@njit(cache=True)
def _ready(
    s: Stream,
    begin: int,
    end: int,
    i: int,
    t: int,
    free: float,
    present: np.ndarray,
    holder: np.ndarray,
    made: np.ndarray,
    looked: np.ndarray,
) -> tuple[float, float]:
    """(when thread t can begin instruction i, whose accesses are [begin, end), bytes that it has to copy before)."""
    ready, copied = free, 0.0
    for a in range(begin, end):
        write = s.write[s.first[i] + a - begin]
        before = copied
        for m in range(s.atom_first[s.region[a]], s.atom_first[s.region[a] + 1]):
            atom = s.atoms[m]
            who = holder[atom]
            if write:
                for other in range(present.shape[1]):
                    if other != t and looked[atom, other] > 0.0:
                        ready = max(ready, looked[atom, other] + _MEET)
            if s.shared[atom]:
                if who != t and made[atom, who] > 0.0:
                    ready = max(ready, made[atom, who] + _MEET)
            elif not write and not present[atom, t]:
                copied += s.size[atom]
                ready = max(ready, made[atom, who] + _MEET)
        if copied > before:
            copied += _COPY
    return ready, copied
