"""Semaphores: what they order is judged by the hazard check, which knows instructions and no schedules."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings

from pintac import isa
from pintac.backend.allocate import allocate
from pintac.backend.emit import Emitter
from pintac.backend.sync import Synchronizer
from pintac.backend.tile import Item, Loop, Sync
from pintac.hazards import Verdict, check_listing
from pintac.isa import Queue, Semaphore, Space
from pintac.machine import Machine
from tests.backend.schedules import ROWS, TRIPS, dram, load, move, schedules, sram, store

MACHINE = Machine.default()
DRAM_BYTES = 1 << 16


def verdict(items: list[Item], semaphores: list[Semaphore]) -> Verdict:
    emitter = Emitter(MACHINE, {})
    emitter.emit(items)
    table = isa.decode_table(emitter.instructions)
    memory = (DRAM_BYTES, MACHINE.sram_kib * 1024, MACHINE.psum_kib * 1024)
    params = np.zeros(isa.PARAMS, np.uint32)
    everything = [(Space.DRAM, 0, DRAM_BYTES)]
    return check_listing(table, 0, len(table), semaphores, params, memory, initial=everything, objects=everything)


def synchronized(items: list[Item]) -> tuple[list[Item], list[Semaphore]]:
    allocate(items, MACHINE)
    synchronizer = Synchronizer()
    return synchronizer.insert(items), synchronizer.semaphores


def counts(items: list[Item], times: int = 1) -> Counter[tuple[int, bool]]:
    out: Counter[tuple[int, bool]] = Counter()
    for item in items:
        if isinstance(item, Sync):
            out[item.semaphore, item.signal] += times
        elif isinstance(item, Loop):
            out += counts(item.body, times * item.count)
    return out


def without(items: list[Item], semaphore: int) -> list[Item]:
    out: list[Item] = []
    for item in items:
        if isinstance(item, Loop):
            out.append(Loop(item.level, item.count, without(item.body, semaphore), item.name))
        elif not isinstance(item, Sync) or item.semaphore != semaphore:
            out.append(item)
    return out


def pipeline(ring: int) -> list[Item]:
    """Tiles through load, vector unit and store in one loop."""
    source, out = dram("source", 0, ROWS * TRIPS), dram("out", 4096, ROWS * TRIPS)
    a, b = sram("a", ROWS, ring), sram("b", ROWS, ring)
    return [Loop(0, TRIPS, [load(source, a, ROWS), move(a, b), store(b, out, ROWS)])]


def nested(ring: int) -> list[Item]:
    source, out = dram("source", 0, ROWS * TRIPS), dram("out", 4096, ROWS * TRIPS)
    kept, a, b = sram("kept"), sram("a", ROWS, ring, 1), sram("b", ROWS, ring, 1)
    inner = Loop(1, TRIPS, [load(source, a, ROWS, 1), move(a, b), store(b, out, ROWS, 1)])
    return [Loop(0, 2, [load(source, kept), inner, move(kept, kept), store(kept, dram("rest", 8192))])]


SCHEDULES = {
    "read after write": lambda: [load(dram("x", 0), (a := sram("a"))), move(a, sram("b"))],
    "write after read": lambda: [
        load(dram("x", 0), (a := sram("a"))), move(a, (b := sram("b"))), store(b, dram("y", 1024)), move(a, b),
    ],
    "write after write": lambda: [
        load(dram("x", 0), (a := sram("a"))), move((b := sram("b")), a), load(dram("y", 1024), b),
    ],
    "through DRAM": lambda: [
        load(dram("x", 0), (a := sram("a"))), store(a, (x := dram("y", 1024))), load(x, (b := sram("b"))), move(b, a),
    ],
    "one slot": lambda: pipeline(1),
    "two slots": lambda: pipeline(2),
    "nested, one slot": lambda: nested(1),
    "nested, two slots": lambda: nested(2),
    "loop of a loop": lambda: [
        Loop(0, 2, [Loop(1, TRIPS, [load(dram("x", 0), (a := sram("a"))), move(a, sram("b"))])]),
    ],
}  # fmt: skip


def orders_only(found: Verdict) -> bool:
    """No conflict is unordered (buffers that a test reads before writing are its own affair)."""
    return found.name != "hazard" and not any("semaphore" in p.kind for p in found.problems)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_conflict_is_ordered_and_every_semaphore_needed(name: str) -> None:
    items, semaphores = synchronized(SCHEDULES[name]())
    assert semaphores and orders_only(verdict(items, semaphores)), verdict(items, semaphores)
    assert not all(orders_only(verdict(without(items, s.number), semaphores)) for s in semaphores)


@given(schedules())
@settings(max_examples=100)
def test_drawn_schedules_are_clean_and_balanced(items: list[Item]) -> None:
    result, semaphores = synchronized(items)
    assert orders_only(verdict(result, semaphores)), verdict(result, semaphores)
    found = counts(result)
    for s in semaphores:
        assert found[s.number, True] == found[s.number, False] > 0
        assert s.credit in (0, 1, 2)


def test_a_second_slot_lets_the_load_run_ahead() -> None:
    """With one slot the next load waits for this move (credit 1), with two for the one before (credit 2)."""
    for ring in (1, 2):
        _, semaphores = synchronized(pipeline(ring))
        (back,) = (s for s in semaphores if (s.source, s.target) == (Queue.VPU, Queue.LOAD))
        assert back.credit == ring


def test_one_queue_needs_no_semaphore() -> None:
    a, b, c = (sram(name) for name in "abc")
    _, semaphores = synchronized([move(a, b), move(b, c), Loop(0, 2, [move(c, a)])])
    assert not semaphores
