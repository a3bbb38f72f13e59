"""How long an entry takes: an event simulation of the four in-order queues, exact to the cycle of the cost model.

Rules (the numbered statements in `ASSUMPTIONS`; docs/MACHINE.md prints them):

Each queue runs its projection of the listing. Its sequencer takes loops for free and a cycle an instruction, and may
run ahead of its unit by one instruction: past waits and signals, not past a second instruction that has not started.
Every cycle of a queue is busy or has one stall cause, so busy + stalls = cycles for each queue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pintac import isa, timeline_core
from pintac.cost import COST_ENERGIES, CostTable, cost_table, instruction_of
from pintac.errors import ExecutionError, MachineError
from pintac.isa import Kind, Opcode, Queue, Semaphore, Sink
from pintac.isa.encoding import column
from pintac.machine import Machine
from pintac.program import Program
from pintac.stream import executions, loop_counts, queues
from pintac.timeline_core import CAUSES, EVENT_COLUMNS, RANGE_COLUMNS, RANGES, ROW_COLUMNS

ASSUMPTIONS: tuple[str, ...] = (
    "Sequencers: loops cost nothing, every other instruction one cycle of its own queue. A sequencer runs ahead of its "
    "unit by one instruction, so waits and signals hide behind work.",
    "A signal is visible when everything before it in its queue is complete, at the earliest one cycle after it was "
    "reached; a wait takes one cycle after that.",
    "A unit starts its next instruction when the last one no longer takes new operands; results of both are in flight. "
    "A vector instruction that reads what one of the last sixteen still writes waits for it (ranges from first to last "
    "byte), and so does an accumulating matmul for the first pass of the same destination.",
    "One DRAM bus for loads and stores, first asked first served, load before store; a queue asks for its next "
    "transfer when the last one has begun. A transfer completes its latency after its bytes; no more than the "
    "outstanding limit are incomplete. A gather or scatter waits for the transfers before it in its queue.",
    "An entry starts with idle queues and semaphores at their credit and ends when everything is complete; entries do "
    "not overlap.",
)

CAUSE_NAMES = ("issue", "dependency", "preload", "result writes", "bus", "outstanding transfers", "end")
assert len(CAUSE_NAMES) == CAUSES
PC_CAUSE_NAMES = (*CAUSE_NAMES[: timeline_core.WAITING], "wait")
assert len(PC_CAUSE_NAMES) == timeline_core.PC_CAUSES

KINDS = {
    Opcode.LOOP: timeline_core.LOOP,
    Opcode.ENDLOOP: timeline_core.ENDLOOP,
    Opcode.SIGNAL: timeline_core.SIGNAL,
    Opcode.WAIT: timeline_core.WAIT,
    **dict.fromkeys(isa.QUEUE_OF, timeline_core.DATA),
}


@dataclass(frozen=True, eq=False)
class Timing:
    """What an entry takes on a machine.

    cycles        from start to the completion of everything
    busy          cycles each unit is taken, by queue name
    stalls        queue name -> cause -> cycles; causes are `CAUSE_NAMES` or "wait <semaphore>"
    waits         queue name -> name of the queue it waited for -> cycles (the semaphores of `stalls` by their source)
    energy_j      by part: tcu, vpu, sram, psum, dram
    executed, pc_busy    int64 by instruction of the listing: executions, cycles of its unit
    pc_stalls     int64 [instructions, PC_CAUSES]: cycles its queue waited for it, by cause (`PC_CAUSE_NAMES`); these
                  and the cycles after a queue's last instruction are all stalls
    pairs         int64 [n, 3]: wait, the signal it waited for (both instructions of the listing), cycles
    histogram     int64 [4, buckets]: busy cycles of each unit in each bucket of `bucket_cycles` cycles
    events        int64 [recorded, EVENT_COLUMNS] (see `timeline_core`), in no particular order
    """

    cycles: int
    busy: Mapping[str, int]
    stalls: Mapping[str, Mapping[str, int]]
    waits: Mapping[str, Mapping[str, int]]
    dram_bytes: int
    sram_bytes: int
    psum_bytes: int
    macs: int
    instructions: int
    energy_j: Mapping[str, float]
    executed: np.ndarray
    pc_busy: np.ndarray
    pc_stalls: np.ndarray
    pairs: np.ndarray
    histogram: np.ndarray
    bucket_cycles: int
    events: np.ndarray

    @property
    def joules(self) -> float:
        """All energy."""
        return sum(self.energy_j.values())

    @property
    def pc_stall(self) -> np.ndarray:
        """Cycles that each instruction's queue waited for something other than its own sequencer."""
        return np.asarray(self.pc_stalls[:, timeline_core.ISSUE + 1 :].sum(axis=1))

    def to_dict(self) -> dict[str, object]:
        """The scalar results as JSON-able values."""
        counts = ("cycles", "dram_bytes", "sram_bytes", "psum_bytes", "macs", "instructions")
        out: dict[str, object] = {name: getattr(self, name) for name in counts}
        stalls = {queue: dict(causes) for queue, causes in self.stalls.items()}
        waits = {queue: dict(sources) for queue, sources in self.waits.items()}
        return out | {"busy": dict(self.busy), "stalls": stalls, "waits": waits, "energy_j": dict(self.energy_j)}


def simulate(
    program: Program,
    entry: str = "step",
    machine: Machine | None = None,
    params: np.ndarray | None = None,
    events: int = 0,
    buckets: int = 0,
) -> Timing:
    """Time an entry of a program on `machine` (default: the one it was compiled for); see `simulate_listing`."""
    start, stop = program.entry(entry)
    return simulate_listing(
        program.table,
        start,
        stop,
        program.semaphores,
        machine or program_machine(program),
        parameter_block(program) if params is None else params,
        events=events,
        buckets=buckets,
    )


def program_machine(program: Program) -> Machine:
    """The machine a program was compiled for; the default one if it does not say."""
    described = program.meta.get("machine")
    if not described:
        return Machine.default()
    again = "it was compiled by another version of pintac: compile it again"
    return Machine.from_dict(described, "the program's machine", again)


def parameter_block(program: Program, step: int = 0) -> np.ndarray:
    """The parameter block of a step: uint32 [isa.PARAMS]."""
    params = np.zeros(isa.PARAMS, np.uint32)
    row = program.param_table[min(step, len(program.param_table) - 1)]
    params[: len(row)] = row
    params[isa.PARAM_STEP] = step
    return params


def simulate_listing(
    table: np.ndarray,
    start: int,
    stop: int,
    semaphores: Sequence[Semaphore],
    machine: Machine,
    params: np.ndarray,
    *,
    events: int = 0,
    buckets: int = 0,
    costs: CostTable | None = None,
) -> Timing:
    """Time [start, stop) of a decoded listing.

    `events` is how many events to keep, `buckets` how many parts the time is divided into for the histogram; `costs`
    are those of [start, stop), if they are known or shall be others than the machine's.

    Raises `ExecutionError` if the queues block for good, `MachineError` for what the machine cannot execute.
    """
    part = table[start:stop]
    costs = costs or cost_table(part, machine)
    used = set(part[_is(part, Opcode.SIGNAL, Opcode.WAIT), _SEM].tolist())
    if len(used) > machine.semaphores:
        raise MachineError(f"{len(used)} semaphores are used, machine {machine.name!r} has {machine.semaphores}")
    rows, ranges, first = _listings(table, start, stop, costs, params)
    numbers = [s.number for s in semaphores]
    size = max([*numbers, *part[_is(part, Opcode.SIGNAL, Opcode.WAIT), _SEM].tolist(), -1]) + 1
    credit = np.zeros(size, np.int64)
    for s in semaphores:
        credit[s.number] = s.credit
    times = executions(table, start, stop, params)
    is_signal = _is(part, Opcode.SIGNAL)
    signalled = np.bincount(part[is_signal, _SEM], weights=times[is_signal], minlength=size).astype(np.int64)
    posted_at = np.concatenate([[0], np.cumsum(signalled)]).astype(np.int64)
    is_wait = _is(part, Opcode.WAIT)
    senders = np.bincount(part[is_signal, _SEM], minlength=size)
    receivers = np.bincount(part[is_wait, _SEM], minlength=size)
    pairs_at = np.concatenate([[0], np.cumsum(senders * receivers)]).astype(np.int64)

    def play(events: int, buckets: int, bucket_cycles: int) -> _Played:
        played = _Played(
            stalls=np.zeros((4, CAUSES + size), np.int64),
            busy=np.zeros(4, np.int64),
            pc_busy=np.zeros(len(table), np.int64),
            pc_stalls=np.zeros((len(table), timeline_core.PC_CAUSES), np.int64),
            pairs=np.zeros(int(pairs_at[-1]), np.int64),
            histogram=np.zeros((4, buckets), np.int64),
            events=np.zeros((events, EVENT_COLUMNS), np.int64),
            blocked=np.zeros(4, np.int64),
        )
        played.cycles, recorded = timeline_core.run(
            rows, ranges, first, credit, np.zeros(int(posted_at[-1]) + 1, np.int64), posted_at,
            machine.dram_outstanding, machine.vpu_pipeline_cycles, played.stalls, played.busy, played.pc_busy,
            played.pc_stalls, senders, pairs_at, played.pairs, played.histogram, bucket_cycles, played.events,
            played.blocked,
        )  # fmt: skip
        played.events = played.events[:recorded]
        return played

    run = play(0 if buckets else events, 0, 1)
    bucket_cycles = max(1, -(-run.cycles // buckets)) if buckets else 0
    if buckets and run.cycles >= 0:
        run = play(events, buckets, bucket_cycles)  # the width of a bucket follows from the first run
    cycles = run.cycles
    if cycles < 0:
        stuck = [
            f"{Queue(q).name.lower()} at instruction {rows[row, timeline_core.PC]} "
            f"(semaphore {rows[row, timeline_core.SEM]})"
            for q, row in enumerate(run.blocked)
            if row >= 0
        ]
        raise ExecutionError(f"the queues wait for each other: {', '.join(stuck)}")
    names = {s.number: s.name or str(s.number) for s in semaphores}
    causes = [*CAUSE_NAMES, *(f"wait {names.get(k, str(k))}" for k in range(size))]
    executed = np.zeros(len(table), np.int64)
    executed[start:stop] = np.where(_is(part, Opcode.LOOP, Opcode.ENDLOOP), 0, times)

    waits: dict[str, dict[str, int]] = {q.name.lower(): {} for q in Queue}
    for sem in semaphores:
        of = waits[sem.target.name.lower()]
        source = sem.source.name.lower()
        if waited := int(run.stalls[sem.target, CAUSES + sem.number]):
            of[source] = of.get(source, 0) + waited

    def total(*columns: str) -> int:
        return sum(int((costs[c] * times).sum()) for c in columns)

    return Timing(
        cycles=cycles,
        busy={q.name.lower(): int(run.busy[q]) for q in Queue},
        stalls={
            q.name.lower(): {cause: int(c) for cause, c in zip(causes, run.stalls[q], strict=True) if c} for q in Queue
        },
        waits=waits,
        dram_bytes=total("dram_read", "dram_write"),
        sram_bytes=total("sram_read", "sram_write"),
        psum_bytes=total("psum_read", "psum_write"),
        macs=total("macs"),
        instructions=int(executed.sum()),
        energy_j={c.removesuffix("_pj"): float((costs[c] * times).sum()) * 1e-12 for c in COST_ENERGIES},
        executed=executed,
        pc_busy=run.pc_busy,
        pc_stalls=run.pc_stalls,
        pairs=_pairs(part, start, run.pairs, pairs_at),
        histogram=run.histogram,
        bucket_cycles=bucket_cycles,
        events=run.events,
    )


@dataclass
class _Played:
    """What one run of the queues leaves; see `timeline_core.run`."""

    stalls: np.ndarray
    busy: np.ndarray
    pc_busy: np.ndarray
    pc_stalls: np.ndarray
    pairs: np.ndarray
    histogram: np.ndarray
    events: np.ndarray
    blocked: np.ndarray
    cycles: int = -1


def _pairs(part: np.ndarray, start: int, cycles: np.ndarray, pairs_at: np.ndarray) -> np.ndarray:
    """Cycles by wait and signal of each semaphore -> rows of (wait, signal, cycles), those of no cycles left out."""
    ends: dict[tuple[int, int], list[int]] = {}
    for pc in np.flatnonzero(_is(part, Opcode.SIGNAL, Opcode.WAIT)):
        ends.setdefault((int(part[pc, 0]), int(part[pc, _SEM])), []).append(start + int(pc))
    out: list[tuple[int, int, int]] = []
    for at in np.flatnonzero(cycles):
        sem = int(np.searchsorted(pairs_at, at, "right")) - 1
        signals = ends[Opcode.SIGNAL, sem]
        wait, signal = divmod(int(at - pairs_at[sem]), len(signals))
        out.append((ends[Opcode.WAIT, sem][wait], signals[signal], int(cycles[at])))
    return np.array(sorted(out), np.int64).reshape(-1, 3)


_SEM = column(Opcode.SIGNAL, "sem")
assert column(Opcode.WAIT, "sem") == _SEM
_LEVEL = column(Opcode.LOOP, "level")
assert column(Opcode.ENDLOOP, "level") == _LEVEL
_GATHER = column(Opcode.LOAD, "gather")
_ACC = {
    Opcode.MATMUL: (column(Opcode.MATMUL, "acc"),),
    Opcode.VPU: (column(Opcode.VPU, "acc0"), column(Opcode.VPU, "acc1")),
}


def _is(table: np.ndarray, *opcodes: Opcode) -> np.ndarray:
    return np.isin(table[:, 0], opcodes)


def _listings(
    table: np.ndarray, start: int, stop: int, costs: CostTable, params: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The four queues' listings one after the other: (rows, address ranges, where each begins).

    Loops in which a queue has nothing to do are left out.
    """
    part = table[start:stop]
    queue = queues(part)
    counts = loop_counts(table, start, stop, params)
    rows: list[list[int]] = []
    ranges: list[np.ndarray] = []
    first = [0]
    ordinals = _ordinals(part)
    for q in Queue:
        open_loops: list[int] = []  # row numbers
        for pc in range(stop - start):
            opcode = Opcode(int(part[pc, 0]))
            row = [0] * ROW_COLUMNS
            row[timeline_core.KIND] = KINDS[opcode]
            row[timeline_core.PC] = start + pc
            if opcode in (Opcode.LOOP, Opcode.ENDLOOP):
                row[timeline_core.LEVEL] = int(part[pc, _LEVEL])
                row[timeline_core.COUNT] = int(counts[pc])
                if opcode is Opcode.LOOP:
                    open_loops.append(len(rows))
                else:
                    begin = open_loops.pop()
                    if begin == len(rows) - 1:
                        rows.pop()
                        ranges.pop()
                        continue
                    row[timeline_core.PARTNER] = begin
                    rows[begin][timeline_core.PARTNER] = len(rows)
            elif queue[pc] != q:
                continue
            area = _NOTHING
            if opcode in (Opcode.SIGNAL, Opcode.WAIT):
                row[timeline_core.SEM] = int(part[pc, _SEM])
                row[timeline_core.ORDINAL] = ordinals[pc]
            elif row[timeline_core.KIND] == timeline_core.DATA:
                row[timeline_core.BUSY] = int(costs["busy"][pc])
                for name in ("passes", "compute", "drain", "preload", "skew"):
                    row[getattr(timeline_core, name.upper())] = int(costs[name][pc])
                row[timeline_core.ACC] = int(any(part[pc, c] for c in _ACC.get(opcode, ())))
                if opcode in (Opcode.LOAD, Opcode.STORE):
                    row[timeline_core.TAIL] = int(costs["latency"][pc] - costs["busy"][pc])
                    row[timeline_core.GATHER] = int(part[pc, _GATHER] != 0)
                else:
                    area = _ranges(part[pc].tobytes())
            rows.append(row)
            ranges.append(area)
        first.append(len(rows))
    return (
        np.array(rows, np.int64).reshape(-1, ROW_COLUMNS),
        np.array(ranges, np.int64).reshape(-1, RANGES, RANGE_COLUMNS),
        np.array(first, np.int64),
    )


def _ordinals(part: np.ndarray) -> dict[int, int]:
    """For each signal (wait) its number among the signals (waits) of its semaphore, by its place in `part`."""
    out: dict[int, int] = {}
    seen: dict[tuple[int, int], int] = {}
    for pc in np.flatnonzero(_is(part, Opcode.SIGNAL, Opcode.WAIT)):
        key = int(part[pc, 0]), int(part[pc, _SEM])
        out[int(pc)] = seen[key] = seen.get(key, -1) + 1
    return out


_NOTHING = np.zeros((RANGES, RANGE_COLUMNS), np.int64)
_NOTHING[:, timeline_core.SPACE] = timeline_core.NOWHERE
_NOTHING.flags.writeable = False


@lru_cache(maxsize=8192)
def _ranges(row: bytes) -> np.ndarray:
    """First to last byte of each operand at loop indices 0, and how it moves: int64 [RANGES, RANGE_COLUMNS].

    Remembered, because one program is often timed on many machines.
    """
    out = _NOTHING.copy()
    instruction = instruction_of(np.frombuffer(row, np.int64))
    matmul = instruction.opcode is Opcode.MATMUL
    for slot, group in enumerate(isa.GROUPS):
        o = instruction.operand(group)
        if matmul:
            if group != "d0":
                continue
            shape = instruction["m"], instruction["n"]
        elif group[0] == "s":
            if o.kind != Kind.TENSOR:
                continue
            shape = instruction["rows"], instruction["cols"]
        else:
            if o.kind == Sink.NONE:
                continue
            shape = isa.sink_shape(o.kind, instruction["rows"], instruction["cols"], o.inner)
        unit = 2 * o.bits if o.bits else 1
        low, high = o.addr, o.addr + _extent(o, *shape)
        out[slot] = (
            o.space, low, high, *(s * unit for s in o.steps), o.ring_level, o.ring_size, o.ring_step * unit,
        )  # fmt: skip
    return out


def _extent(o: isa.Operand, rows: int, cols: int) -> int:
    """Bytes from an operand's first to its last byte (for SMX the mantissas)."""
    if o.bits:
        return ((-(-rows // 4) - 1) * o.hi + -(-cols // 4)) * 2 * o.bits
    if o.inner and o.kind in (Kind.TENSOR, Sink.WRITE):
        last = (rows - 1) // o.inner * o.hi + (min(rows, o.inner) - 1) * o.lo
    else:
        last = (rows - 1) * o.hi
    return 4 * (last + (cols - 1) * o.cstep + 1)
