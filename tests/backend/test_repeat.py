"""Long loop bodies: made of the order of half of them, with the same bits."""

from __future__ import annotations

from typing import Any

import pytest

from pintac.api import emitting
from pintac.api.emitting import emit, searches
from pintac.api.lowering import lower
from pintac.backend.ordering.repeat import repeated
from pintac.backend.tiles import vpu
from pintac.backend.tiles.tile import TileOp
from pintac.backend.tiles.views import compact_view
from pintac.hazards import check
from pintac.isa import Space
from pintac.machine import Machine
from pintac.program import Program
from pintac.timeline import simulate
from tests.backend.test_fit import losses
from tests.backend.tile_ops import HERE, tile
from tests.end_to_end.test_bits import Case


def moved(name: str) -> TileOp:
    return vpu.copy(compact_view(tile("from"), (4, 4)), compact_view(tile("to", space=Space.SRAM), (4, 4)), name, HERE)


def test_a_later_tile_takes_the_place_of_its_like() -> None:
    """Four tiles of two kinds of work, one of them twice a tile; the first tile has something of its own."""
    own = moved("once")
    work = {tile: [moved("a"), moved("b"), moved("a")] for tile in range(4)}
    ops = [own, *(op for found in work.values() for op in found)]
    tiles = {op: (0, tile) for tile, found in work.items() for op in found} | {own: (0, 0)}
    first = [work[1][0], own, work[0][0], work[1][1], work[0][2], work[0][1], work[1][2]]
    at = repeated(ops, first, tiles, 2)
    assert [at[op] for op in first] == [0, 1, 2, 3, 4, 5, 6]
    assert [at[op] for op in (*work[2], *work[3])] == [9, 12, 11, 7, 10, 13]


def test_what_has_no_like_comes_first_in_its_half() -> None:
    ops = [moved("a"), moved("a"), moved("last")]
    at = repeated(ops, ops[:1], {ops[0]: (0, 0), ops[1]: (0, 1), ops[2]: (0, 1)}, 1)
    assert [at[op] for op in ops] == [0, 1, 1]


@pytest.mark.parametrize("sram_kib", [384, 128])
def test_longer_bodies_lose_less_and_have_equal_bits(sram_kib: int) -> None:
    """256 evaluations of a sign: two iterations of four tiles, or one of eight. In 128 KiB they overlap less."""
    lowered = lower(Case(width=64, points=(6, 4), K=512).step(), Case(width=64, points=(6, 4), K=512).options())
    machine = Machine.default().replace(sram_kib=sram_kib)
    plain, longer = emit(lowered, machine, effort=0), emit(lowered, machine)
    backend = [program.meta["backend"]["step"] for program in (plain, longer)]
    assert [entry["tiles_interleaved"] for entry in backend] == [4, 8]
    assert check(longer).name == "clean"
    assert simulate(longer).cycles < simulate(plain).cycles
    assert losses(plain) == losses(longer)


@pytest.mark.parametrize(
    ("effort", "lengths"), [(0, [0]), (1, [1]), (1.5, [1, 1.5]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8])]
)
def test_an_effort_is_searches_of_growing_length(effort: float, lengths: list[float]) -> None:
    assert searches(effort) == lengths


def test_more_effort_never_makes_a_slower_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the programs of all searches the fastest in a simulation is taken, with its own tile schedule."""
    case = Case(width=64, points=(6, 4), K=512)
    lowered, machine = lower(case.step(), case.options()), Machine.default()
    made = []

    def noted(*arguments: Any) -> Program:
        made.append(one_search(*arguments))
        return made[-1]

    one_search = emitting._after_one_search
    monkeypatch.setattr(emitting, "_after_one_search", noted)
    shown: list[str] = []
    program = emit(lowered, machine, lambda entry, items: shown.append(entry), effort=3)
    cycles = [simulate(p).cycles for p in made]
    assert len(set(cycles)) > 1
    assert simulate(program).cycles == min(cycles)
    assert shown == list(program.entries)
