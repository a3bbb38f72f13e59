"""Loads that go ahead of the last loop: what the schedule leaves in memory is what it left before."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from pintac.backend.listing.prefetch import movable, prefetch
from pintac.backend.tiles.tile import Buffer, CopyOp, Item, Loop, TileOp, View, VpuOp
from pintac.machine import Machine
from tests.backend.schedules import TRIPS, dram, load, move, schedules, sram, store

Memory = dict[tuple[Buffer, int], object]


def places(view: View, index: dict[int, int]) -> list[tuple[Buffer, int]]:
    """The elements of a view in order, with the loops at these indices."""
    buffer = view.buffer
    first = view.offset + sum(index[level] * step for level, step in view.steps)
    first += index.get(buffer.ring_level, 0) % buffer.ring * buffer.size
    found = itertools.product(*map(range, view.shape))
    return [(buffer, first + sum(i * s for i, s in zip(at, view.strides, strict=True))) for at in found]


def left(items: list[Item]) -> Memory:
    """What a schedule of copies leaves in memory; what nothing wrote is a value of its own place."""
    memory: Memory = {}

    def run(level: list[Item], index: dict[int, int]) -> None:
        for item in level:
            if isinstance(item, Loop):
                for i in range(item.count):
                    run(item.body, {**index, item.level: i})
                continue
            assert isinstance(item, (CopyOp, VpuOp))
            source, target = (item.reads()[0], item.writes()[0])
            values = [memory.get(place, place) for place in places(source, index)]
            memory.update(zip(places(target, index), values, strict=True))

    run(items, {})
    return memory


@st.composite
def reuses(draw: st.DrawFn) -> list[Item]:
    """Loads, moves and stores between few buffers, each used again and again, some in loops."""
    far, near = [dram(f"far{i}", 1024 * i) for i in range(2)], [sram(f"near{i}") for i in range(3)]

    def one() -> Item:
        kind = draw(st.sampled_from([load, load, move, store]))
        sources, targets = (near if kind in (move, store) else far), (far if kind is store else near)
        source = draw(st.sampled_from(sources))
        return kind(source, draw(st.sampled_from([b for b in targets if b is not source])))

    items: list[Item] = []
    for _ in range(draw(st.integers(1, 10))):
        looped = draw(st.integers(0, 3)) == 0
        items.append(Loop(0, TRIPS, [one() for _ in range(draw(st.integers(1, 3)))]) if looped else one())
    return items


@settings(max_examples=400)
@given(reuses(), st.integers(0, 3))
def test_what_moves_changes_nothing(items: list[Item], at: int) -> None:
    at = min(at, len(items))
    ahead = movable(items, at)
    rest = [item for item in items[at:] if item not in ahead]
    assert left([*items[:at], *ahead, *rest]) == left(items)


@given(schedules())
def test_the_schedule_means_what_it_meant(items: list[Item]) -> None:
    expected = left(items)
    found, _ = prefetch(items, Machine.default())
    assert sorted(map(id, found)) == sorted(map(id, items))
    assert left(found) == expected


def test_which_loads_move() -> None:
    """Not those of what is written before them, nor those into memory that is in use; the others do."""
    weights, moments, out = dram("weights", 0), dram("moments", 1024), dram("out", 2048)
    a, b, c, d = (sram(name) for name in "abcd")
    free, after_store, in_use, again = load(weights, a), load(moments, b), load(weights, c), load(weights, a)
    body: list[Item] = [move(c, d)]
    items: list[Item] = [load(weights, d), load(weights, c), Loop(0, TRIPS, body), store(d, moments)]
    items += [free, after_store, in_use, store(a, out), again]
    assert movable(items, 2) == [free]
    assert movable(items, len(items)) == []
    found, _ = prefetch(items, Machine.default())
    assert found.index(free) < next(i for i, item in enumerate(found) if isinstance(item, Loop))
    assert all(isinstance(item, (TileOp, Loop)) for item in found)
