"""The critical path of a run: the work and waiting, from the last cycle back to the first, that set its length.

Each cycle of the run stands in one segment of the chain: an instruction keeping its unit, its way through the pipeline
or the DRAM's latency after that, reading a stationary operand, writing the results that the next matmul's stand behind,
or a sequencer passing signals and waits. Where two things ended at the same time, the unit itself goes before the wait.
What has no segment could take no time, and the run would last as long (but for the order on the bus).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pintac.cost import cost_table
from pintac.isa import Queue
from pintac.machine import Machine
from pintac.program import Program
from pintac.report.explain.ledger import Ledger
from pintac.stream import executions
from pintac.timeline import parameter_block, simulate
from pintac.timeline_core import (
    BUS,
    DEPENDENCY,
    EVENT_OP,
    EVENT_SIGNAL,
    EVENT_WAIT,
    INFLIGHT,
    OUTSTANDING,
    PRELOADING,
)

BUSY, LATENCY, PRELOAD, RESULTS, SYNC = "busy", "latency", "preload", "result port", "signals, waits, issue"
MOST_EVENTS = 2_000_000
"""Longer runs have no path: their events would take too much memory."""
_DMA = (Queue.LOAD, Queue.STORE)


@dataclass(slots=True)
class _Item:
    """An event of a queue with what the sequencer knew: `now` before it, `issue` of an instruction."""

    kind: int
    pc: int
    start: int
    end: int
    done: int
    cause: int
    match: int
    now: int
    issue: int = 0
    before: int = -1  # the instruction before it in its queue
    latest: int = -1  # a signal: the instruction before it that completes last
    turn: int = -1  # a transfer: its turn on the bus


class Segment(NamedTuple):
    """A piece of the path: cycles [start, stop) of an instruction (of the listing) in a queue."""

    start: int
    stop: int
    queue: Queue
    pc: int
    kind: str


@dataclass(frozen=True)
class Part:
    """Cycles of the path: instructions with these labels, on this unit (`dram` is the bus, `all` every sequencer)."""

    labels: tuple[str, ...]
    unit: str
    kind: str
    cycles: int

    def to_dict(self) -> dict[str, object]:
        """JSON-able."""
        return {**vars(self), "labels": list(self.labels)}


@dataclass(frozen=True)
class Path:
    """The path by unit and kind, and by labels (those of `Ledger.groups`) as well; the longest parts first."""

    by_unit: tuple[Part, ...]
    by_labels: tuple[Part, ...]

    @property
    def cycles(self) -> int:
        """The length of the path: all cycles of the run."""
        return sum(part.cycles for part in self.by_unit)

    def to_dict(self) -> dict[str, object]:
        """JSON-able."""
        return {"by_unit": [p.to_dict() for p in self.by_unit], "by_labels": [p.to_dict() for p in self.by_labels]}


def critical_path(ledger: Ledger, events: np.ndarray, by: str) -> Path:
    """The path of a run of which every event was recorded."""
    found: dict[tuple[int, str, str], int] = {}
    for start, stop, queue, pc, kind in path_segments(ledger, events):
        unit = "all" if kind == SYNC else "dram" if queue in _DMA else queue.name.lower()
        found[pc, unit, kind] = found.get((pc, unit, kind), 0) + stop - start
    units: dict[tuple[tuple[str, ...], str, str], int] = {}
    labels: dict[tuple[tuple[str, ...], str, str], int] = {}
    for (pc, unit, kind), cycles in found.items():
        units[(), unit, kind] = units.get(((), unit, kind), 0) + cycles
        at = pc - ledger.start
        if ledger.is_data[at]:
            key = ledger.labels(at, by), unit, kind
            labels[key] = labels.get(key, 0) + cycles

    def parts(of: Mapping[tuple[tuple[str, ...], str, str], int]) -> tuple[Part, ...]:
        return tuple(Part(*key, cycles) for key, cycles in sorted(of.items(), key=lambda x: (-x[1], x[0])))

    return Path(parts(units), parts(labels))


def path_segments(ledger: Ledger, events: np.ndarray) -> list[Segment]:
    """The pieces of the path in order of time: each begins where the one before ends, from 0 to the last cycle."""
    return _Walk(ledger, events, ledger.machine.dram_outstanding).segments[::-1]


def path_of(program: Program, entry: str, machine: Machine) -> list[Segment]:
    """The pieces of the path of an entry on a machine; none for a run of more than `MOST_EVENTS`."""
    start, stop = program.entry(entry)
    steps = int(executions(program.table, start, stop, parameter_block(program)).sum())
    if steps > MOST_EVENTS:
        return []
    timing = simulate(program, entry, machine, events=steps)
    return path_segments(
        Ledger(program, entry, machine, timing, cost_table(program.table[start:stop], machine)), timing.events
    )


class _Walk:
    def __init__(self, ledger: Ledger, events: np.ndarray, outstanding: int) -> None:
        self.segments: list[Segment] = []  # the last first
        self.outstanding = outstanding
        costs, first = ledger.costs, ledger.start
        later = (costs["passes"] - 1) * np.maximum(costs["compute"], costs["drain"])
        self.later_passes = {first + i: int(cycles) for i, cycles in enumerate(later)}
        self.compute = {first + i: int(cycles) for i, cycles in enumerate(costs["compute"])}
        self.preload = {first + i: int(cycles) for i, cycles in enumerate(costs["preload"])}
        self.items: dict[Queue, list[_Item]] = {}
        self.signals: dict[tuple[int, int], tuple[Queue, int]] = {}
        self.bus: list[tuple[Queue, int]] = []  # transfers in the order of their turns
        finish: list[tuple[int, bool, Queue, int]] = []
        for q in Queue:
            finish += self._read(q, events[events[:, 1] == q].tolist())
        self.bus.sort(key=lambda at: (self._at(at).start, self._at(at).end))
        for turn, at in enumerate(self.bus):
            self._at(at).turn = turn
        if finish:
            time, whole, q, i = max(finish)
            self._back(time, whole, q, i)

    def _read(self, q: Queue, rows: list[list[int]]) -> list[tuple[int, bool, Queue, int]]:
        """Replay a queue's sequencer; (time, whether it is an instruction's, queue, item) of its last moments."""
        items: list[_Item] = []
        now, started, last, latest = 0, 0, -1, -1
        for kind, _, pc, start, end, done, cause, match in rows:
            item = _Item(kind, pc, start, end, done, cause, match, now)
            if kind == EVENT_SIGNAL:
                item.latest = latest
                self.signals[cause, match] = q, len(items)
                now += 1
            elif kind == EVENT_WAIT:
                now = end + 1
            else:
                item.issue = max(now, started)
                item.before = last
                now, started, last = item.issue + 1, start, len(items)
                if latest < 0 or done >= items[latest].done:
                    latest = len(items)
                if q in _DMA:
                    self.bus.append((q, len(items)))
            items.append(item)
        self.items[q] = items
        ends = [(now, False, q, len(items))] if items else []
        return ends + ([(items[latest].done, True, q, latest)] if latest >= 0 else [])

    def _at(self, at: tuple[Queue, int]) -> _Item:
        return self.items[at[0]][at[1]]

    def _add(self, start: int, stop: int, q: Queue, pc: int, kind: str) -> None:
        if stop > start:
            self.segments.append(Segment(start, stop, q, pc, kind))

    def _back(self, time: int, whole: bool, q: Queue, i: int) -> None:
        """Walk back from a moment: `whole` if an instruction ended then, else its sequencer stood before item `i`."""
        while time > 0:
            if whole:
                time, whole, q, i = self._work(q, i, time)
            else:
                time, whole, q, i = self._before_item(q, i, time)

    def _work(self, q: Queue, i: int, time: int) -> tuple[int, bool, Queue, int]:
        """The part of instruction `i` up to `time`, and what that waited for: as `_back` takes it."""
        item = self.items[q][i]
        end = min(time, item.end)
        self._add(item.end, time, q, item.pc, LATENCY)
        taken = item.end - self.later_passes[item.pc]  # its first pass leaves the array
        if q is Queue.TCU and item.before >= 0 and taken > item.start + self.compute[item.pc]:
            before = self.items[q][item.before]
            self._add(taken, end, q, item.pc, BUSY)
            self._add(before.end, taken, q, before.pc, RESULTS)
            return before.end, True, q, item.before
        self._add(item.start, end, q, item.pc, BUSY)
        return self._before_start(q, i)

    def _before_start(self, q: Queue, i: int) -> tuple[int, bool, Queue, int]:
        """What an instruction's start waited for: (time, whole, queue, item) as `_back` takes them."""
        items, item = self.items[q], self.items[q][i]
        time = item.start
        if q in _DMA:
            if item.turn > 0 and self._at(self.bus[item.turn - 1]).end == time:
                return time, True, *self.bus[item.turn - 1]
            if item.cause == OUTSTANDING and item.turn >= self.outstanding:
                return time, True, *self.bus[item.turn - self.outstanding]
        elif item.before >= 0 and items[item.before].end == time:
            return time, True, q, item.before
        if item.cause == PRELOADING:
            time -= self.preload[item.pc]
            self._add(time, item.start, q, item.pc, PRELOAD)
        if item.cause in (DEPENDENCY, PRELOADING, BUS, OUTSTANDING) and time > item.issue:
            return time, True, q, self._finished(q, i, time)
        return item.issue, False, q, i

    def _finished(self, q: Queue, i: int, time: int) -> int:
        """The instruction before `i` in its queue that was complete, or far enough, at `time`."""
        items, at = self.items[q], self.items[q][i].before
        for _ in range(INFLIGHT):
            if at < 0 or items[at].done == time:
                break
            at = items[at].before
        return at if at >= 0 and items[at].done == time else items[i].before

    def _before_item(self, q: Queue, i: int, time: int) -> tuple[int, bool, Queue, int]:
        """What a sequencer that stood before item `i` at `time` did just before."""
        items = self.items[q]
        if i < len(items) and items[i].kind == EVENT_OP and items[i].issue == time > items[i].now:
            return self._before_start(q, items[i].before)  # it waited for the instruction before to start
        i -= 1
        item = items[i]
        if item.kind == EVENT_WAIT:
            self._add(item.end, time, q, item.pc, SYNC)
            if item.end == item.now:
                return item.end, False, q, i
            source, signal = self.signals[item.cause, item.match]
            sent = self.items[source][signal]
            if sent.latest >= 0 and self.items[source][sent.latest].done == sent.end:
                return sent.end, True, source, sent.latest
            self._add(sent.now, sent.end, source, sent.pc, SYNC)
            return sent.now, False, source, signal
        passed = item.issue if item.kind == EVENT_OP else item.now
        self._add(passed, time, q, item.pc, SYNC)
        if item.kind == EVENT_OP and item.issue > item.now:
            return self._before_start(q, item.before)
        return passed, False, q, i
