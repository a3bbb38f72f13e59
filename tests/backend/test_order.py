"""Orders of loop bodies: what depends stays in order, no two buffers in use share memory, the prediction is right."""

from __future__ import annotations

import concurrent.futures
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pintac import isa
from pintac.api.emitting import emit
from pintac.api.lowering import lower
from pintac.backend.listing.allocate import allocate
from pintac.backend.listing.emit import Emitter
from pintac.backend.listing.sync import Synchronizer
from pintac.backend.ordering import compiled as orders
from pintac.backend.ordering import straight
from pintac.backend.ordering.order import NoRoomError, Ordered, PsumFullError, Search, order
from pintac.backend.ordering.plain_order import plain_order
from pintac.backend.scheduling import regions
from pintac.backend.tiles.dependencies import dependencies
from pintac.backend.tiles.tile import Buffer, Item, Loop, TileOp, View
from pintac.backend.tiles.views import compact_view, narrow
from pintac.hazards import check_listing
from pintac.ir import Builder
from pintac.isa import Space
from pintac.isa.encoding import decode_table
from pintac.machine import Machine
from pintac.timeline import simulate_listing
from tests.backend.tile_ops import HERE, SIDE, TRIPS, BodyOfOps, bodies, conflict, elements, tile, whole
from tests.end_to_end.test_bits import CASES

MACHINE = Machine.default()
PSUM_BYTES = MACHINE.psum_kib * 1024


def sram_of(body: BodyOfOps) -> frozenset[Buffer]:
    return frozenset(b for b in body.local if b.space == Space.SRAM)


def respects(before: Sequence[TileOp], after: Sequence[TileOp]) -> bool:
    """Whether every two operations that conflict are in the order in which they were."""
    place = {op: i for i, op in enumerate(after)}
    return all(place[a] < place[b] for a, b in itertools.combinations(before, 2) if conflict(a, b))


def conflicting(ops: Sequence[TileOp]) -> Iterator[tuple[TileOp, TileOp]]:
    """As `conflict` for every two of many operations: by buffer, and first by the hull of what they touch."""
    uses: dict[Buffer, list[tuple[TileOp, View, bool]]] = {}
    for op in ops:
        for views, write in ((op.reads(), False), (op.writes(), True)):
            for view in views:
                uses.setdefault(view.buffer, []).append((op, view, write))
    for found in uses.values():
        hulls = []
        for _, view, _ in found:
            at = [elements(view, turn) for turn in range(TRIPS)]
            hulls.append((min(map(min, at)), max(map(max, at)), at))
        for (one, first), (two, second) in itertools.combinations(zip(found, hulls, strict=True), 2):
            if one[0] is not two[0] and (one[2] or two[2]) and first[0] <= second[1] and second[0] <= first[1]:
                if any(a & b for a, b in zip(first[2], second[2], strict=True)):
                    yield one[0], two[0]


def memory_is_exclusive(ops: Sequence[TileOp], local: frozenset[Buffer]) -> bool:
    """Whether buffers that share bytes are not in use at the same time, and lie inside their memory."""
    uses: dict[Buffer, list[int]] = {}
    for i, op in enumerate(ops):
        for view in (*op.reads(), *op.writes()):
            if view.buffer.space == Space.PSUM or view.buffer in local:
                uses.setdefault(view.buffer, []).append(i)
    spans: dict[Buffer, tuple[object, int, int]] = {}
    for buffer in uses:
        if buffer.space == Space.PSUM:
            assert buffer.addr is not None and buffer.addr >= 0 and buffer.addr + buffer.bytes <= PSUM_BYTES
            spans[buffer] = "psum", buffer.addr, buffer.addr + buffer.bytes
        else:
            assert buffer.arena is not None
            arena, at = buffer.arena
            assert at >= 0 and at + buffer.bytes <= arena.bytes
            spans[buffer] = arena, at, at + buffer.bytes
    for a, b in itertools.combinations(uses, 2):
        (where, low, high), (other, low2, high2) = spans[a], spans[b]
        if (
            where == other
            and low < high2
            and low2 < high
            and max(uses[a][0], uses[b][0]) <= min(uses[a][-1], uses[b][-1])
        ):
            return False
    return True


@given(bodies())
@settings(max_examples=80, deadline=None)
def test_straight_code_keeps_what_depends_in_order(body: BodyOfOps) -> None:
    try:
        ops = order(body.ops, MACHINE, Search(tries=-1, loop=False)).ops
    except PsumFullError:
        assert sum(b.bytes for b in body.local if b.space == Space.PSUM) > PSUM_BYTES
        return
    assert sorted(map(id, ops)) == sorted(map(id, body.ops))
    assert respects(body.ops, ops)
    assert memory_is_exclusive(ops, frozenset())


@given(bodies(), st.integers(0, 12), st.sampled_from([0, 2000, 60_000]))
@settings(max_examples=80, deadline=None)
def test_loop_bodies_keep_what_depends_in_order(body: BodyOfOps, kib: int, moves: int) -> None:
    local = sram_of(body)
    try:
        ops = order(
            body.ops, MACHINE, Search(tries=3, moves=moves, room=1024 * kib if kib else 1 << 40, local=local)
        ).ops
    except NoRoomError:
        assert kib and sum(b.bytes for b in local) > 1024 * kib
        return
    except PsumFullError:
        assert sum(b.bytes for b in body.local if b.space == Space.PSUM) > PSUM_BYTES
        return
    assert sorted(map(id, ops)) == sorted(map(id, body.ops))
    assert respects(body.ops, ops)
    assert memory_is_exclusive(ops, local)
    arenas = {b.arena[0] for b in local if b.arena is not None}
    assert len(arenas) <= 1 and all(a.bytes <= 1024 * kib for a in arenas if kib)


@pytest.mark.parametrize(
    "name", ["two steps", "points together, even-odd", "points half a turn behind", "48 KiB: small tiles"]
)
def test_compiled_bodies_keep_what_depends_in_order(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every order that is asked for: the same operations, and of those that meet in memory none before another."""
    checked = 0

    def noted(ops: Sequence[TileOp], machine: Machine, how: Search) -> Ordered:
        nonlocal checked
        found = order(ops, machine, how)
        assert sorted(map(id, found.ops)) == sorted(map(id, ops))
        place = {op: i for i, op in enumerate(found.ops)}
        for first, second in conflicting(ops):
            assert place[first] < place[second], (first.name, second.name)
            checked += 1
        return found

    for module in (regions, straight):
        monkeypatch.setattr(module, "order", noted)
    case = CASES[name]
    emit(lower(case.step(), case.options()), MACHINE.replace(**case.keys), effort=0.02)
    assert checked


def test_orders_do_not_depend_on_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches side by side or one after the other."""

    def ordered() -> tuple[list[int], list[int | None]]:
        body = layers(8, 4)
        found = order(body.ops, MACHINE, Search(moves=6000, local=sram_of(body))).ops
        number = {op: i for i, op in enumerate(body.ops)}
        return [number[op] for op in found], [b.addr for b in body.local if b.space == Space.PSUM]

    side_by_side = ordered()
    assert side_by_side == ordered()
    pool = concurrent.futures.ThreadPoolExecutor
    monkeypatch.setattr("pintac.backend.ordering.order.ThreadPoolExecutor", lambda workers: pool(1))
    assert side_by_side == ordered()


# ---- what does not fit


def crossing(results: int) -> BodyOfOps:
    """Results of 8 KiB in PSUM, all made from what the first of their readers overwrites: alive at the same time."""
    b = Builder("g")
    body = BodyOfOps()
    left, weight = tile("left", 8, rows=32), tile("weight", 8, cols=64)
    made = [body.new("result", space=Space.PSUM, rows=32, cols=64) for _ in range(results)]
    for i, buffer in enumerate(made):
        buffer.owner = b.state(f"w{i}", (4, 4), loc=HERE)
        body.matmul(whole(left, 32), whole(weight, cols=64), whole(buffer, 32, 64))
    for buffer in made:
        body.copy(narrow(whole(buffer, 32, 64), 1, 0, SIDE), whole(left, 32))
    return body


@pytest.mark.parametrize("search", [Search(tries=-1, loop=False), Search(moves=20)])
def test_psum_is_full(search: Search) -> None:
    body = crossing(PSUM_BYTES // 8192)
    assert memory_is_exclusive(order(body.ops, MACHINE, search).ops, frozenset())
    body = crossing(PSUM_BYTES // 8192 + 1)
    with pytest.raises(PsumFullError) as full:
        order(body.ops, MACHINE, search)
    assert full.value.owners == {buffer.owner for buffer in body.local}


def test_no_room() -> None:
    """Five values of a tile are copies of what the first of their readers overwrites."""

    def copies() -> BodyOfOps:
        body, shared = BodyOfOps(), tile("shared")
        made = [body.new("value") for _ in range(5)]
        for buffer in made:
            body.copy(whole(shared), whole(buffer))
        for buffer in made:
            body.copy(whole(buffer), whole(shared))
        return body

    room = 5 * made_bytes()
    body = copies()
    assert memory_is_exclusive(order(body.ops, MACHINE, Search(room=room, local=sram_of(body))).ops, sram_of(body))
    body = copies()
    with pytest.raises(NoRoomError):
        order(body.ops, MACHINE, Search(room=room - 1, local=sram_of(body)))


def made_bytes() -> int:
    return tile("value").bytes


def test_dead_values_make_room() -> None:
    """A chain of values, each read once: two of them are alive at a time, whatever their number."""
    body, source, out = BodyOfOps(), tile("source"), tile("out")
    chain = [source, *(body.new("value") for _ in range(9)), out]
    for a, b in itertools.pairwise(chain):
        body.copy(whole(a), whole(b))
    ops = order(body.ops, MACHINE, Search(room=2 * made_bytes(), local=sram_of(body))).ops
    assert ops == body.ops and memory_is_exclusive(ops, sram_of(body))


def test_little_memory_is_taken_tile_after_tile() -> None:
    """Tiles of three values, of which two are alive at a time: begun together, they fill memory and none goes on."""
    body, source = BodyOfOps(), tile("source")
    tiles: dict[TileOp, tuple[int, int]] = {}
    for i in range(6):
        chain = [source, *(body.new("value") for _ in range(3)), tile(f"out{i}")]
        begin = len(body.ops)
        for a, b in itertools.pairwise(chain):
            body.copy(whole(a), whole(b))
        tiles |= dict.fromkeys(body.ops[begin:], (0, i))
    search = Search(tries=-1, room=2 * made_bytes(), local=sram_of(body), tiles=tiles, window=6)
    with pytest.raises(NoRoomError):
        order(body.ops, MACHINE, replace(search, tight=False))
    ops = order(body.ops, MACHINE, search).ops
    assert respects(body.ops, ops) and memory_is_exclusive(ops, sram_of(body))


def test_parts_in_psum_are_read_before_others_are_made() -> None:
    """Two results of two parts are twice what fits; each part is read twice, after all are made in the listing."""
    b = Builder("g")
    body = BodyOfOps()
    left, weight = tile("left", 8, rows=32), tile("weight", 8, cols=128)
    parts = [[body.new("result", space=Space.PSUM, rows=32, cols=128) for _ in range(2)] for _ in range(2)]
    assert 2 * parts[0][0].bytes == PSUM_BYTES
    for i, result in enumerate(parts):
        for part in result:
            part.owner = b.state(f"w{i}", (4, 4), loc=HERE)
            body.matmul(whole(left, 32), whole(weight, cols=128), whole(part, 32, 128))
    for reader in range(2):
        for first, second in zip(*parts, strict=True):
            out = tile(f"out{reader}", rows=32, cols=128)
            for part in (first, second):
                body.copy(whole(part, 32, 128), whole(out, 32, 128))

    def most(ops: Sequence[TileOp]) -> int:
        """Bytes of PSUM in use at a time."""
        uses = {
            b: [i for i, op in enumerate(ops) for v in (*op.reads(), *op.writes()) if v.buffer is b] for b in body.local
        }
        return max(sum(b.bytes for b, at in uses.items() if at[0] <= i <= at[-1]) for i in range(len(ops)))

    before, after, _ = dependencies(body.ops)
    plain = plain_order(body.ops, before, after, [], body.local)
    assert respects(body.ops, [body.ops[i] for i in plain])
    assert most([body.ops[i] for i in plain]) <= PSUM_BYTES < most(body.ops)
    assert memory_is_exclusive(order(body.ops, MACHINE, Search(tries=-1)).ops, frozenset())


# ---- the prediction


def layers(trips: int, tiles: int, rows: int = SIDE, cols: int = 64, depth: int = 5, store: bool = False) -> BodyOfOps:
    """`tiles` tiles of `depth` layers: load, then quantise and product of each layer, copy, store."""
    body = BodyOfOps()
    every = rows * tiles * trips
    source = Buffer("x", every * cols, space=Space.DRAM, addr=0)
    out = Buffer("y", every * cols, space=Space.DRAM, addr=4 * every * cols)
    weight = tile("weight", 8, rows=cols, cols=cols)
    for i in range(tiles):
        step = (0, rows * tiles)
        x = Buffer(f"x{i}", rows * cols, ring=2)
        body.load(narrow(compact_view(source, (every, cols)), 0, i * rows, rows, step), whole(x, rows, cols))
        before = x
        for _ in range(depth):
            q = body.new("q", 8, rows=rows, cols=cols)
            body.copy(whole(before, rows, cols), whole(q, rows, cols))
            before = body.new("p", space=Space.PSUM, rows=rows, cols=cols)
            body.matmul(whole(q, rows, cols), whole(weight, cols, cols), whole(before, rows, cols))
        y = body.new("y", rows=rows, cols=cols)
        body.copy(whole(before, rows, cols), whole(y, rows, cols))
        if store:
            target = narrow(compact_view(out, (every, cols)), 0, i * rows, rows, step)
            body.store(whole(y, rows, cols), target)
    return body


def gradients(trips: int, tiles: int) -> BodyOfOps:
    """Products that fold all tiles into one result in SRAM, beside vector work that reads no result."""
    body = BodyOfOps()
    total = tile("total", cols=64)
    for i in range(tiles):
        value, left, right = tile(f"value{i}"), body.new("left", 8), body.new("right", 8, cols=64)
        wide = tile(f"wide{i}", cols=64)
        body.copy(whole(value), whole(left))
        body.copy(whole(wide, cols=64), whole(right, cols=64))
        body.matmul(whole(left), whole(right, cols=64), whole(total, cols=64), accumulate=True)
    return body


BODIES: dict[str, Callable[[int], BodyOfOps]] = {
    "one tile": lambda trips: layers(trips, 1),
    "two tiles": lambda trips: layers(trips, 2),
    "four tiles": lambda trips: layers(trips, 4),
    "large tiles": lambda trips: layers(trips, 2, rows=32),
    "narrow": lambda trips: layers(trips, 4, cols=SIDE, depth=8),
    "wide": lambda trips: layers(trips, 1, rows=32, cols=128),
    "loads are the limit": lambda trips: layers(trips, 2, depth=1),
    "loads and stores of one tile": lambda trips: layers(trips, 1, store=True),
    "loads and stores are the limit": lambda trips: layers(trips, 4, cols=SIDE, depth=1, store=True),
    "stores behind the next loads": lambda trips: layers(trips, 3, rows=32, depth=6, store=True),
    "gradients": lambda trips: gradients(trips, 2),
    "gradients of many tiles": lambda trips: gradients(trips, 6),
}


def timed(items: list[Item]) -> int:
    """Cycles of a schedule on the timeline; the hazard check finds nothing that is not ordered."""
    allocate(items, MACHINE)
    synchronizer = Synchronizer()
    emitter = Emitter(MACHINE, {})
    emitter.emit(synchronizer.insert(items))
    table = decode_table(emitter.instructions)
    params = np.zeros(isa.PARAMS, np.uint32)
    memory = (1 << 24, MACHINE.sram_kib * 1024, PSUM_BYTES)
    everything = [(Space.DRAM, 0, memory[0]), (Space.SRAM, 0, memory[1])]
    verdict = check_listing(
        table, 0, len(table), synchronizer.semaphores, params, memory, initial=everything, objects=everything
    )
    assert verdict.name != "hazard", verdict
    return simulate_listing(table, 0, len(table), synchronizer.semaphores, MACHINE, params).cycles


@pytest.mark.parametrize("moves", [0, 300, 20_000])
@pytest.mark.parametrize("name", BODIES)
def test_predicted_cycles_are_those_of_the_timeline(name: str, moves: int) -> None:
    """Cycles an iteration, as the search believes and as the loop takes once it goes round and round."""
    trips = 64
    body = BODIES[name](2 * trips)
    found = order(body.ops, MACHINE, Search(moves=moves, local=sram_of(body)))
    whole_loop, half = (timed([Loop(0, n, list(found.ops))]) for n in (2 * trips, trips))
    assert found.cycles == pytest.approx((whole_loop - half) / trips, rel=0.02)


@pytest.mark.parametrize("name", ["four tiles", "gradients of many tiles"])
def test_work_between_nests_is_waited_for(name: str) -> None:
    """The vector unit is away for 1,000 cycles before every iteration, or every other; what it reads ends late."""

    def cycles(pause: int, turns: int, ends: int) -> int:
        body = BODIES[name](64)
        read = frozenset(v.buffer for op in body.ops[-ends:] for v in op.writes()) if ends else frozenset[Buffer]()
        search = Search(moves=300, local=sram_of(body), pause=pause, turns=turns, ends=read)
        return order(body.ops, MACHINE, search).cycles

    alone = cycles(0, 2, 0)
    assert alone < cycles(1000, 2, 0) <= alone + 500
    assert cycles(1000, 2, 0) < cycles(1000, 1, 0) <= alone + 1000
    assert cycles(1000, 1, 0) <= cycles(1000, 1, 1)


@pytest.mark.parametrize("name", BODIES)
def test_moves_make_nothing_worse(name: str) -> None:
    def cycles(moves: int) -> int:
        body = BODIES[name](64)
        return order(body.ops, MACHINE, Search(moves=moves, local=sram_of(body))).cycles

    assert cycles(300) <= cycles(0)


def test_machine_code_is_renewed_when_any_of_the_sources_changes() -> None:
    """What numba keeps is in a folder named after all of them."""
    sources = sorted(Path(orders.__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    folder = orders.improve.stats.cache_path
    assert any(digest.startswith(part.removeprefix("orders-")) for part in Path(folder).parts if "orders-" in part)


def test_equal_bodies_are_scheduled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ways to fit that are compared have bodies in common; one with other costs is looked at by itself."""
    searched: list[int] = []
    search = orders.search

    def noted(*arguments: object) -> np.ndarray:
        searched.append(1)
        return search(*arguments)

    monkeypatch.setattr("pintac.backend.ordering.order._MEMORY", {})
    monkeypatch.setattr("pintac.backend.ordering.order.core.search", noted)

    def ordered(machine: Machine) -> list[str]:
        source, body = tile("source", space=Space.DRAM), BodyOfOps()
        for name in ("a", "b", "c"):
            loaded, copied = body.new(f"{name}.in"), body.new(name)
            body.load(whole(source), whole(loaded))
            body.copy(whole(loaded), whole(copied))
        return [op.writes()[0].buffer.name for op in order(body.ops, machine, Search(tries=2, loop=False)).ops]

    first = ordered(MACHINE)
    assert len(searched) == 1 and ordered(MACHINE) == first and len(searched) == 1
    ordered(MACHINE.replace(dram_latency_ns=200.0))
    assert len(searched) == 2
