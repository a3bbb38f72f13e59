"""Allocation: buffers that live at the same time share no byte, and the checker sees it when they do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pintac.backend.allocate import ALIGNMENT, SramFullError, allocate, lifetimes
from pintac.backend.check import check
from pintac.backend.tile import Buffer, Item, Loop, TileOp, walk
from pintac.errors import ExecutionError
from pintac.isa import Space
from pintac.machine import Machine
from tests.backend.schedules import dram, load, move, schedules, sram, store

MACHINE = Machine.default()


def in_sram(items: list[Item]) -> list[Buffer]:
    views = [v for op, _ in walk(items) if isinstance(op, TileOp) for v in (*op.reads(), *op.writes())]
    return list(dict.fromkeys(v.buffer for v in views if v.buffer.space == Space.SRAM))


@given(schedules())
def test_no_overlap(items: list[Item]) -> None:
    used = allocate(items, MACHINE)
    lives, buffers = lifetimes(items), in_sram(items)
    for i, a in enumerate(buffers):
        assert a.addr is not None and a.addr % ALIGNMENT == 0 and a.addr + a.bytes <= used
        for b in buffers[i + 1 :]:
            assert b.addr is not None
            apart = a.addr + a.bytes <= b.addr or b.addr + b.bytes <= a.addr
            assert apart or lives[a].last < lives[b].first or lives[b].last < lives[a].first
    check(items, MACHINE)


def straight() -> tuple[list[Item], list[Buffer]]:
    a, b, c = (sram(name) for name in "abc")
    source, out = dram("source", 0), dram("out", 1024)
    return [load(source, a), load(source, b), move(a, c), move(b, c), store(c, out)], [a, b, c]


def test_dead_buffers_are_reused() -> None:
    a, b, c = (sram(name) for name in "abc")
    source, out = dram("source", 0), dram("out", 1024)
    items: list[Item] = [load(source, a), move(a, b), move(b, c), store(c, out)]
    assert allocate(items, MACHINE) == 2 * a.bytes and a.addr == c.addr != b.addr


@pytest.mark.parametrize("shift", [0, 4, 16])
def test_the_checker_sees_a_wrong_address(shift: int) -> None:
    items, (a, b, _) = straight()
    allocate(items, MACHINE)
    check(items, MACHINE)
    assert a.addr is not None
    b.addr = a.addr + shift
    with pytest.raises(ExecutionError, match="reads a where b was written"):
        check(items, MACHINE)


def test_what_a_loop_reads_lives_through_it() -> None:
    """`kept` is read in every iteration: nothing else of the loop may lie on it."""
    kept, inside, later = sram("kept"), sram("inside"), sram("later")
    source, out = dram("source", 0), dram("out", 1024)
    loop = Loop(0, 3, [move(kept, inside), store(inside, out), load(source, later), store(later, out)])
    items: list[Item] = [load(source, kept), loop]
    allocate(items, MACHINE)
    assert len({kept.addr, inside.addr}) == len({kept.addr, later.addr}) == 2
    check(items, MACHINE)
    later.addr = kept.addr
    with pytest.raises(ExecutionError, match="reads kept where later was written"):
        check(items, MACHINE)


@given(st.integers(1, 40))
def test_what_does_not_fit_is_said_with_the_demand(extra: int) -> None:
    rows = MACHINE.sram_kib * 1024 // 32
    big, more, out = sram("big", rows), sram("more", extra), dram("out", 1 << 21, extra)
    items: list[Item] = [load(dram("x", 0, rows), big), load(dram("y", 1 << 20, extra), more), store(more, out)]
    items.append(store(big, dram("z", 1 << 22, rows)))
    with pytest.raises(SramFullError, match=f"SRAM: {rows * 32 + extra * 32} bytes are needed at once") as caught:
        allocate(items, MACHINE)
    assert caught.value.alive == {big, more}
