"""Buffers in the memory that has been free longest: what is in use together stays apart, and waits are shorter."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pintac.backend.listing.allocate import allocate
from pintac.backend.listing.check import check
from pintac.backend.listing.spread import Place, spread
from pintac.backend.tiles.tile import Item
from pintac.machine import Machine
from tests.backend.schedules import schedules

MACHINE = Machine.default()


def together(a: Place, b: Place) -> bool:
    return a.first <= b.last and b.first <= a.last


def free_since(places: list[Place], i: int) -> int:
    """The last use, before those of place i, of anything where it lies."""
    at = places[i]
    below = [p.last for p in places if p.start < at.end and at.start < p.end and p.last < at.first]
    return max(below, default=-1)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[Place], int]:
    """Places by first fit, and some memory beyond them."""
    places: list[Place] = []
    for _ in range(draw(st.integers(1, 12))):
        first, size = draw(st.integers(0, 30)), 64 * draw(st.integers(1, 4))
        life = first + draw(st.integers(0, 10))
        start = 0
        for other in sorted(places, key=lambda p: p.start):
            if together(Place(0, 0, first, life), other) and other.start < start + size and start < other.end:
                start = other.end
        places.append(Place(start, start + size, first, life))
    return places, max(p.end for p in places) + 64 * draw(st.integers(0, 4))


@given(layouts(), st.data())
def test_what_is_in_use_together_stays_apart(layout: tuple[list[Place], int], data: st.DataObject) -> None:
    places, capacity = layout
    movable = [i for i in range(len(places)) if data.draw(st.booleans())]
    starts = spread(places, movable, capacity)
    moved = [Place(s, s + p.end - p.start, p.first, p.last) for s, p in zip(starts, places, strict=True)]
    for i, a in enumerate(moved):
        assert a.start >= 0 and a.end <= capacity
        assert i in movable or a == places[i]
        for b in moved[i + 1 :]:
            assert not together(a, b) or a.end <= b.start or b.end <= a.start


def test_a_buffer_leaves_what_was_used_last() -> None:
    """The third lies where the second was, in use until just before; the first's memory is free since 1."""
    places = [Place(0, 64, 0, 1), Place(64, 128, 2, 8), Place(64, 128, 9, 9)]
    assert spread(places, [2], 128) == [0, 64, 0]
    assert spread(places, [2], 192) == [0, 64, 128], "memory that nothing has used is free longest"
    assert free_since(places, 2) == 8


def test_nothing_moves_without_need() -> None:
    places = [Place(0, 64, 0, 5), Place(64, 128, 3, 9)]
    assert spread(places, [0, 1], 1024) == [0, 64]


@given(schedules())
def test_the_checker_agrees(items: list[Item]) -> None:
    plain = allocate(items, MACHINE)
    assert allocate(items, MACHINE, apart=True) <= MACHINE.sram_kib * 1024
    check(items, MACHINE)
    assert plain <= MACHINE.sram_kib * 1024
