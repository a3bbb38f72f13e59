"""A timeline as a Chrome/Perfetto trace: open the file in ui.perfetto.dev or chrome://tracing.

Each queue has a track of its instructions, one of its waits and signals, and one of the times at which its unit stood
still, each with its cause; an arrow leads from each signal to the wait it releases. The critical path of the run has a
track, and values in SRAM and PSUM one each, from their write to their last use. Counters show how many units work, what
the DRAM bus carries and how many bytes are alive. A microsecond of the trace is a microsecond of the machine.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from pintac.cost import cost_table
from pintac.isa import Opcode, Queue
from pintac.machine import Machine
from pintac.program import Program
from pintac.report.explain.path import path_of
from pintac.report.explain.residency import Resident, residents
from pintac.timeline import CAUSE_NAMES, Timing, parameter_block, program_machine, simulate
from pintac.timeline_core import EVENT_OP, EVENT_SIGNAL, EVENT_WAIT, ISSUE

MAX_EVENTS = 50_000
_PROCESS = 1
_SEMAPHORE_TRACK = 10
_STALL_TRACK = 20
_PATH_TRACK = 30

Event = dict[str, Any]


def trace_json(program: Program, entry: str = "step", machine: Machine | None = None, events: int = MAX_EVENTS) -> str:
    """The trace of one run of an entry as JSON, ends in a newline; long runs are cut at `events` events."""
    chosen = machine or program_machine(program)
    timing = simulate(program, entry, chosen, events=events)
    return json.dumps(trace(program, entry, chosen, timing, events), separators=(",", ":"), sort_keys=True) + "\n"


def trace(program: Program, entry: str, machine: Machine, timing: Timing, limit: int = MAX_EVENTS) -> dict[str, Any]:
    """The trace object of a timing that recorded events."""
    rows = _complete(timing.events, limit)
    us = 1e-3 / machine.clock_ghz

    def name_track(tid: int, name: str) -> Event:
        return {"ph": "M", "pid": _PROCESS, "tid": tid, "name": "thread_name", "args": {"name": name}}

    out: list[Event] = [
        {"ph": "M", "pid": _PROCESS, "tid": 0, "name": "process_name", "args": {"name": f"{machine.name}: {entry}"}}
    ]
    for q in Queue:
        out.append(name_track(1 + q, q.name.lower()))
        out.append(name_track(_SEMAPHORE_TRACK + q, f"{q.name.lower()} semaphores"))
        out.append(name_track(_STALL_TRACK + q, f"{q.name.lower()} stalls"))
    start, stop = program.entry(entry)
    costs = cost_table(program.table[start:stop], machine)
    names = {s.number: s.name or f"semaphore {s.number}" for s in program.semaphores}
    for row in rows:
        kind, queue, pc, begin, end, done, cause, match = (int(v) for v in row)
        if kind == EVENT_OP:
            origin = program.origin(pc)
            opcode = Opcode(int(program.table[pc, 0])).name.lower()
            out.append({
                "ph": "X", "pid": _PROCESS, "tid": 1 + queue, "cat": opcode, "name": origin.op or opcode,
                "ts": begin * us, "dur": (end - begin) * us,
                "args": {
                    "pc": pc, "op": origin.op, "source": f"{origin.file}:{origin.line}" if origin.file else "",
                    "stall": CAUSE_NAMES[cause] if cause else "", "limit": costs.limits[pc - start],
                    "complete": done * us,
                },
            })  # fmt: skip
        else:
            signalled = kind == EVENT_SIGNAL
            at = {"pid": _PROCESS, "tid": _SEMAPHORE_TRACK + queue, "cat": "semaphore"}
            verb = "signal" if signalled else "wait"
            out.append({
                **at, "ph": "X", "name": f"{verb} {names.get(cause, str(cause))}",
                "ts": (end if signalled else begin) * us, "dur": us if signalled else max(end - begin, 1) * us,
                "args": {"pc": pc, "semaphore": cause, "count": match},
            })  # fmt: skip
    out += _flows(rows, us, names)
    out += _counters(rows, costs["dram_read"] + costs["dram_write"], start, us)
    horizon = int(rows[-1, 3]) if len(rows) else 0
    sources = {s.number: s.source.name.lower() for s in program.semaphores}
    for queue, pc, begin, end, cause, semaphore in stalls(timing.events, horizon):
        name = CAUSE_NAMES[cause] if semaphore < 0 else f"waiting for {sources.get(semaphore, 'a semaphore')}"
        args = {"pc": pc} if semaphore < 0 else {"pc": pc, "semaphore": semaphore}
        out.append({
            "ph": "X", "pid": _PROCESS, "tid": _STALL_TRACK + queue, "cat": "stall", "name": name, "ts": begin * us,
            "dur": (end - begin) * us, "args": args,
        })  # fmt: skip
    out.append(name_track(_PATH_TRACK, "critical path"))
    for segment in path_of(program, entry, machine):
        if segment.start < rows[:, 5].max(initial=0):
            op = program.origin(segment.pc).op
            out.append({
                "ph": "X", "pid": _PROCESS, "tid": _PATH_TRACK, "cat": "path", "ts": segment.start * us,
                "dur": (segment.stop - segment.start) * us, "args": {"pc": segment.pc, "op": op},
                "name": f"{segment.queue.name.lower()} {segment.kind}",
            })  # fmt: skip
    out += _residency(residents(program, entry, parameter_block(program), rows), us)
    return {
        "displayTimeUnit": "ns",
        "otherData": {
            "machine": machine.name, "machine_hash": machine.hash, "cycles": timing.cycles, "events": len(rows),
            "complete": len(timing.events) < limit,
        },
        "traceEvents": out,
    }  # fmt: skip


def _complete(events: np.ndarray, limit: int) -> np.ndarray:
    """The recorded events up to the time at which the first queue's record was cut, in order of time."""
    if len(events) == limit and limit:
        horizon = min(events[events[:, 1] == q, 3].max() for q in range(4) if (events[:, 1] == q).any())
        events = events[events[:, 3] <= horizon]
    return events[np.lexsort((events[:, 2], events[:, 1], events[:, 3]))]


def stalls(events: np.ndarray, horizon: int) -> list[tuple[int, int, int, int, int, int]]:
    """(queue, instruction, from, to, cause, semaphore or -1) of each time at which a unit stood still.

    Events of a queue are in the order in which they were recorded, which is that of its listing. What starts after
    `horizon` is left out, and so are the cycles in which a sequencer only takes the next instruction.
    """
    out: list[tuple[int, int, int, int, int, int]] = []
    for q in Queue:
        idle = 0
        for kind, _, pc, begin, end, _, cause, _ in events[events[:, 1] == q].tolist():
            if begin > horizon:
                break
            if kind == EVENT_WAIT:
                idle = max(idle, begin)
                if end > idle:
                    out.append((int(q), pc, idle, end, ISSUE, cause))
                    idle = end
            elif kind == EVENT_OP:
                if begin > idle and cause != ISSUE:
                    out.append((int(q), pc, idle, begin, cause, -1))
                idle = end
    return out


def _residency(values: list[Resident], us: float) -> list[Event]:
    """A slice for each value on a track of its name, and the bytes alive in each memory."""
    out: list[Event] = []
    changes: dict[str, dict[int, int]] = {}
    for number, value in enumerate(values):
        memory = value.space.name
        both = {"pid": _PROCESS, "tid": 0, "cat": memory.lower(), "name": f"{memory} {value.name}", "id": number}
        args = {"first": value.start, "last": value.stop - 1, "bytes": value.bytes}
        out.append({**both, "ph": "b", "ts": value.since * us, "args": args})
        out.append({**both, "ph": "e", "ts": value.until * us})
        of = changes.setdefault(f"{memory} bytes alive", {})
        of[value.since] = of.get(value.since, 0) + value.bytes
        of[value.until] = of.get(value.until, 0) - value.bytes
    for name, of in changes.items():
        alive = 0
        for at in sorted(of):
            alive += of[at]
            out.append({"ph": "C", "pid": _PROCESS, "tid": 0, "name": name, "ts": at * us, "args": {"bytes": alive}})
    return out


def _flows(rows: np.ndarray, us: float, names: dict[int, str]) -> list[Event]:
    """Arrows from signal k to the wait that took it."""
    signals = {(int(r[6]), int(r[7])): r for r in rows if r[0] == EVENT_SIGNAL}
    out: list[Event] = []
    for row in rows:
        key = (int(row[6]), int(row[7]))
        if row[0] == EVENT_WAIT and key in signals:
            name = names.get(key[0], str(key[0]))
            both = {"pid": _PROCESS, "cat": "semaphore", "name": name, "id": f"{key[0]}.{key[1]}"}
            source = signals[key]
            out.append({**both, "ph": "s", "tid": _SEMAPHORE_TRACK + int(source[1]), "ts": int(source[4]) * us})
            last = max(int(row[4]) - 1, int(row[3]))
            out.append({**both, "ph": "f", "bp": "e", "tid": _SEMAPHORE_TRACK + int(row[1]), "ts": last * us})
    return out


def _counters(rows: np.ndarray, dram_bytes: np.ndarray, start: int, us: float) -> list[Event]:
    """Units at work, and bytes a cycle on the bus, whenever they change."""
    working: dict[int, int] = {}
    carried: dict[int, float] = {}
    for row in rows:
        _, queue, pc, begin, end, *_rest = (int(v) for v in row)
        if row[0] != EVENT_OP or end == begin:
            continue
        working[begin] = working.get(begin, 0) + 1
        working[end] = working.get(end, 0) - 1
        if queue in (Queue.LOAD, Queue.STORE):
            rate = float(dram_bytes[pc - start]) / (end - begin)
            carried[begin] = carried.get(begin, 0.0) + rate
            carried[end] = carried.get(end, 0.0) - rate
    out: list[Event] = []
    for name, unit, changes in (("units busy", "units", working), ("DRAM bytes a cycle", "bytes", carried)):
        value = 0.0
        for at in sorted(changes):
            value += changes[at]
            counted = round(value, 6) + 0.0
            out.append({"ph": "C", "pid": _PROCESS, "tid": 0, "name": name, "ts": at * us, "args": {unit: counted}})
    return out
