"""Semaphores: what they order is judged by the hazard check, which knows instructions and no schedules."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pintac import isa
from pintac.api.emitting import emit
from pintac.api.lowering import lower
from pintac.backend.listing.allocate import allocate
from pintac.backend.listing.emit import Emitter
from pintac.backend.listing.sync import Synchronizer, TooManySemaphoresError, displacements, distances
from pintac.backend.tiles.tile import Item, Loop, Sync
from pintac.hazards import Verdict, check, check_listing
from pintac.isa import Queue, Semaphore, Space
from pintac.isa.encoding import decode_table
from pintac.machine import Machine
from pintac.program import Program
from tests.backend.schedules import COLS, ROWS, TRIPS, dram, load, move, schedules, sram, store
from tests.backend.test_fit import losses
from tests.end_to_end.test_bits import CASES, Case

MACHINE = Machine.default()
DRAM_BYTES = 1 << 16


def verdict(items: list[Item], semaphores: list[Semaphore]) -> Verdict:
    emitter = Emitter(MACHINE, {})
    emitter.emit(items)
    table = decode_table(emitter.instructions)
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
    unneeded = [s for s in semaphores if orders_only(verdict(without(items, s.number), semaphores))]
    # In nests, what the inner loop signals can order the outer one as well.
    assert len(unneeded) <= (3 if "nested" in name else 0)


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


# ---- distances


@st.composite
def loop_nests(draw: st.DrawFn) -> list[Loop]:
    """One to three nested loops, outermost first, of at most 60 executions."""
    counts = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    return [Loop(level, count) for level, count in enumerate(counts)]


def indices(loops: list[Loop]) -> list[tuple[int, ...]]:
    """Loop indices of each execution of the body."""
    return list(itertools.product(*(range(loop.count) for loop in loops)))


@given(loop_nests(), st.integers(0, 130))
def test_displacements_are_those_of_the_enumeration(loops: list[Loop], distance: int) -> None:
    every = indices(loops)
    expected = {
        tuple(b - a for a, b in zip(first, second, strict=True))
        for first, second in zip(every, every[distance:], strict=False)
    }
    found = displacements(distance, loops)
    assert set(found) == expected and len(found) == len(expected)


def test_without_loops_a_body_runs_once() -> None:
    assert displacements(0, ()) == [()] and displacements(1, ()) == [] and distances(()) == [0]


@st.composite
def moving_accesses(draw: st.DrawFn) -> tuple[list[Loop], tuple[int, ...], int]:
    """Loops, what an iteration of each moves an access on, and its rows: row-major tiles, loops may repeat them."""
    loops = draw(loop_nests())
    rows = draw(st.integers(1, 4))
    steps = []
    extent = rows
    for loop in reversed(loops):
        moves = draw(st.booleans())
        steps.append(extent if moves else 0)
        extent *= loop.count if moves else 1
    return loops, tuple(reversed(steps)), rows


@given(moving_accesses(), st.integers(0, 3), st.integers(1, 4))
def test_the_nearest_conflict_is_at_a_listed_distance(
    drawn: tuple[list[Loop], tuple[int, ...], int], shift: int, rows: int
) -> None:
    """Two accesses moved alike: all conflicts further apart than the nearest one are ordered through it."""
    loops, steps, size = drawn
    every = [sum(i * s for i, s in zip(index, steps, strict=True)) for index in indices(loops)]
    rows, shift = min(rows, size), min(shift, size - 1)
    conflicts = [
        d
        for d in range(1, len(every))
        if any(a < b + shift + rows and b + shift < a + size for a, b in zip(every, every[d:], strict=False))
    ]
    listed = distances(loops)
    assert listed == sorted(set(listed)) and all(0 <= d < len(every) for d in listed)
    if conflicts:
        assert conflicts[0] in listed


# ---- nested loops, and semaphores used again


@st.composite
def nested_schedules(draw: st.DrawFn) -> list[Item]:
    """Loops in loops over rings, kept values and values that move with some of the loops."""
    counts = [draw(st.integers(1, 4)) for _ in range(2)]
    rows = ROWS * counts[0] * counts[1]
    source, out = dram("source", 0, rows), dram("out", 4 * COLS * rows, rows)
    kept = [sram(f"kept{i}") for i in range(2)]
    items: list[Item] = [load(source, kept[0]), load(source, kept[1])]

    def body(level: int, tag: str) -> list[Item]:
        made = list(kept)
        ops: list[Item] = []
        for number in range(draw(st.integers(1, 5))):
            kind = draw(st.sampled_from(["load", "load", "move", "move", "store", "again"]))
            new = sram(f"{tag}{number}", ROWS, draw(st.integers(1, 3)), level)
            step = ROWS * (counts[1] if level == 0 else 1)
            if kind == "load":
                ops.append(load(source, new, step, level))
                made.append(new)
            elif kind == "move":
                ops.append(move(draw(st.sampled_from(made)), new))
                made.append(new)
            elif kind == "again":
                old, over = draw(st.sampled_from(made)), draw(st.sampled_from(kept))
                if old is not over:
                    ops.append(move(old, over))
            else:
                ops.append(store(draw(st.sampled_from(made)), out, step, level))
        return ops

    for number in range(draw(st.integers(1, 3))):
        inner = [Loop(1, counts[1], body(1, f"i{number}.{k}.")) for k in range(draw(st.integers(0, 2)))]
        before, after = body(0, f"b{number}."), body(0, f"a{number}.")
        items.append(Loop(0, counts[0], [*before, *inner, *after]))
    return [*items, store(kept[0], out), store(kept[1], out)]


@given(nested_schedules())
@settings(max_examples=60, deadline=None)
def test_drawn_nests_are_clean_and_balanced(items: list[Item]) -> None:
    result, semaphores = synchronized(items)
    assert orders_only(verdict(result, semaphores)), verdict(result, semaphores)
    found = counts(result)
    assert all(found[s.number, True] == found[s.number, False] > 0 for s in semaphores)


def rows_of(items: list[Item]) -> list[set[int]]:
    """Semaphores of each body, those of the bodies inside left out."""
    own = {i.semaphore for i in items if isinstance(i, Sync)}
    return [own, *(s for i in items if isinstance(i, Loop) for s in rows_of(i.body))]


def test_bodies_one_after_the_other_use_the_same_semaphores() -> None:
    _, semaphores = synchronized(pipeline(2))
    again, more = synchronized([*pipeline(2), *pipeline(2), *pipeline(2)])
    assert orders_only(verdict(again, more))
    inside = [s for s in rows_of(again) if s][-3:]
    assert inside[0] == inside[1] == inside[2] == {s.number for s in semaphores}


@given(nested_schedules())
@settings(max_examples=40, deadline=None)
def test_bodies_in_each_other_share_no_semaphore(items: list[Item]) -> None:
    result, _ = synchronized(items)

    def disjoint(body: list[Item], around: set[int]) -> bool:
        own = {i.semaphore for i in body if isinstance(i, Sync)}
        inside = [i.body for i in body if isinstance(i, Loop)]
        return not own & around and all(disjoint(b, around | own) for b in inside)

    assert disjoint(result, set())


def test_credits_of_a_semaphore_used_again_are_those_of_its_bodies() -> None:
    """One slot and two slots: the way back has credit 1 in one body and 2 in the other, so they cannot share it."""
    items, semaphores = synchronized([*pipeline(1), *pipeline(2)])
    assert orders_only(verdict(items, semaphores))
    back = sorted(s.credit for s in semaphores if (s.source, s.target) == (Queue.VPU, Queue.LOAD))
    assert back[-2:] == [1, 2]


def numbers(program: Program, entry: str) -> set[int]:
    """The semaphores that an entry signals."""
    start, stop = program.entry(entry)
    return {i["sem"] for i in program.instructions[start:stop] if i.opcode == isa.Opcode.SIGNAL}


def with_semaphores(case: Case, count: int, entries: Sequence[str] = ("step", "infer")) -> Program:
    machine = MACHINE.replace(semaphores=count, **case.keys)
    lowered = lower(case.step(), case.options())
    program = emit(replace(lowered, graphs={entry: lowered.graphs[entry] for entry in entries}), machine, effort=0)
    assert all(check(program, entry).clean for entry in entries)
    assert all(max(numbers(program, entry)) < count for entry in entries)
    return program


def test_with_fewer_semaphores_bodies_have_fewer_tiles() -> None:
    case = CASES["several groups of tiles"]
    many = with_semaphores(case, 1024, ["step"])
    few = with_semaphores(case, len(numbers(many, "step")) - 1, ["step"])
    chosen = [p.meta["backend"]["step"] for p in (many, few)]
    assert chosen[1]["tiles_interleaved"] < chosen[0]["tiles_interleaved"]
    assert losses(many) == losses(few)


def test_an_entry_uses_those_of_earlier_ones_where_there_are_no_more() -> None:
    case = Case(width=16, points=(6, 4), K=64)
    many = with_semaphores(case, 1024)
    assert not numbers(many, "step") & numbers(many, "infer")
    few = with_semaphores(case, len(many.semaphores) - 4)
    assert numbers(few, "step") == numbers(many, "step")
    assert numbers(few, "step") & numbers(few, "infer")


@pytest.mark.parametrize("name", ["several groups of tiles", "streamed weights, no whole blocks"])
def test_too_few_semaphores_are_an_error(name: str) -> None:
    """Tiles get fewer only as long as there are fewer: where weights stream they were the same again and again."""
    with pytest.raises(TooManySemaphoresError, match="more than the 3 semaphores of the machine") as caught:
        with_semaphores(CASES[name], 3)
    assert "semaphores=" in (caught.value.hint or "")
