"""Straight code between loops: ordered as one run, in the memory that is left, as far as its share deserves."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings

from pintac.backend.listing.allocate import allocate
from pintac.backend.ordering import straight
from pintac.backend.ordering.order import PsumFullError, Search, order
from pintac.backend.ordering.straight import DESERVES, LEAST_MOVES, joined
from pintac.backend.tiles.costs import work
from pintac.backend.tiles.tile import Item, Loop, TileOp, walk
from pintac.isa import Space
from pintac.machine import Machine
from tests.backend.tile_ops import BodyOfOps, bodies, conflict, tile, whole

MACHINE = Machine.default()
MOVES = 12_000


def unit(name: str, length: int = 6) -> BodyOfOps:
    """Loads and moves, one after the other: the vector unit waits for the bus, then the bus has nothing to do."""
    source, body = tile("source", space=Space.DRAM), BodyOfOps()
    source.addr = 0
    at = body.new(f"{name}.in")
    body.load(whole(source), whole(at))
    for _ in range(length):
        after = body.new(name)
        body.copy(whole(at), whole(after))
        at = after
    return body


def cycles_of(*runs: Sequence[TileOp]) -> dict[TileOp, int]:
    """Cycles predicted for each by itself, by its first operation."""
    return {run[0]: order(run, MACHINE, Search(tries=-1, loop=False)).cycles for run in runs}


def flat(items: Sequence[Item]) -> list[TileOp]:
    return [op for op, _ in walk(list(items)) if isinstance(op, TileOp)]


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[Search]:
    """What orders were looked for."""
    made: list[Search] = []

    def noted(ops: Sequence[TileOp], machine: Machine, how: Search) -> object:
        made.append(how)
        return order(ops, machine, how)

    monkeypatch.setattr(straight, "order", noted)
    return made


def test_units_of_straight_code_run_side_by_side() -> None:
    units = [unit(name).ops for name in "abcd"]
    items: list[Item] = [op for ops in units for op in ops]
    apart = cycles_of(*units)
    together, change = joined(items, MACHINE, MOVES, 1.0, apart, sum(apart.values()))
    assert sorted(map(id, flat(together))) == sorted(map(id, items))
    assert change < -0.3 * sum(apart.values())
    places = {op: i for i, op in enumerate(flat(together))}
    assert places[units[-1][0]] < places[units[0][-1]], "the last load is behind the first unit"


def test_loops_stay_where_they_are() -> None:
    before, inside, after = unit("before").ops, unit("inside").ops, unit("after").ops
    loop = Loop(0, 4, list(inside))
    items: list[Item] = [*before, loop, *after]
    found, _ = joined(items, MACHINE, MOVES, 1.0, cycles_of(before, after), 1)
    at = found.index(loop)
    assert loop.body == inside and set(found[:at]) == set(before) and set(found[at + 1 :]) == set(after)


@given(bodies(), bodies())
@settings(max_examples=40, deadline=None)
def test_what_depends_stays_in_order_and_has_memory_of_its_own(first: BodyOfOps, second: BodyOfOps) -> None:
    items: list[Item] = [*first.ops, *second.ops]
    try:
        apart = cycles_of(first.ops, second.ops)
    except PsumFullError:
        assume(False)
    found, _ = joined(items, MACHINE, MOVES, 1.0, apart, 1)
    place = {op: i for i, op in enumerate(flat(found))}
    assert len(place) == len(items)
    for ops in (first.ops, second.ops):
        for i, a in enumerate(ops):
            assert all(place[a] < place[b] for b in ops[i + 1 :] if conflict(a, b))
    allocate(found, MACHINE)  # it fits: some room is never more than there is


def test_a_run_gets_the_memory_that_nothing_else_has(searches: list[Search]) -> None:
    """What is alive across the run, and loops beside it, take theirs; its own buffers get the rest."""
    kept = BodyOfOps()
    across = kept.new("across", rows=64, cols=64)
    first = unit("first")
    begin, end = tile("source", space=Space.DRAM, rows=64, cols=64), tile("out", space=Space.DRAM, rows=64, cols=64)
    kept.load(whole(begin, 64, 64), whole(across, 64, 64))
    kept.store(whole(across, 64, 64), whole(end, 64, 64))
    inner = unit("inner", 1)
    items: list[Item] = [kept.ops[0], Loop(0, 2, list(inner.ops)), *first.ops, Loop(0, 2, []), kept.ops[1]]
    joined(items, MACHINE, MOVES, 1.0, {}, 1)
    sram = MACHINE.sram_kib * 1024
    between = searches[1]
    assert between.local == frozenset(first.local)
    assert between.room == sram - across.bytes - straight.SLACK


def test_too_little_work_or_too_few_moves_leave_a_run_as_it_is(searches: list[Search]) -> None:
    ops = unit("a").ops
    busy = work(ops, MACHINE)
    assert joined(ops, MACHINE, MOVES, busy + 1.0, {}, 1) == (ops, 0)
    assert joined(ops, MACHINE, LEAST_MOVES - 1, 1.0, {}, 1) == (ops, 0)
    entry = round(busy / DESERVES)
    assert joined(ops, MACHINE, LEAST_MOVES, 1.0, {}, 2 * entry) == (ops, 0)
    assert searches == []
    joined(ops, MACHINE, 4 * LEAST_MOVES, 1.0, {}, entry)
    joined(ops, MACHINE, 4 * LEAST_MOVES, 1.0, {}, 2 * entry)
    assert searches[0].moves == 4 * LEAST_MOVES
    assert searches[1].moves == pytest.approx(searches[0].moves / 2, rel=0.01)


def beside(rows: int) -> list[Item]:
    """Two units between loops, while so many rows of 64 live across."""
    big = BodyOfOps()
    across, source = big.new("across", rows=rows, cols=64), tile("source", space=Space.DRAM, rows=rows, cols=64)
    big.load(whole(source, rows, 64), whole(across, rows, 64))
    big.store(whole(across, rows, 64), whole(source, rows, 64))
    return [big.ops[0], Loop(0, 2, []), *unit("a").ops, *unit("b").ops, Loop(0, 2, []), big.ops[1]]


def test_a_run_without_room_stays_as_it_is() -> None:
    all_rows = MACHINE.sram_kib * 1024 // (64 * 4)
    roomy, full = beside(all_rows // 2), beside(all_rows - 4)
    assert joined(roomy, MACHINE, MOVES, 1.0, {}, 1)[0] != roomy
    assert joined(full, MACHINE, MOVES, 1.0, {}, 1)[0] == full


def test_runs_do_not_depend_on_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    units = [unit(name, n).ops for name, n in (("a", 3), ("b", 7), ("c", 5), ("d", 4))]
    items: list[Item] = [*units[0], *units[1], Loop(0, 2, []), *units[2], *units[3]]
    side_by_side = joined(items, MACHINE, MOVES, 1.0, {}, 1)
    pool = concurrent.futures.ThreadPoolExecutor
    monkeypatch.setattr(straight, "ThreadPoolExecutor", lambda workers: pool(1))
    monkeypatch.setattr("pintac.backend.ordering.order._MEMORY", {})
    assert joined(items, MACHINE, MOVES, 1.0, {}, 1) == side_by_side
