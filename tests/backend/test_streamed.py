"""Weights that SRAM cannot hold together are read strip by strip; what fits is not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pintac.api.emitting import emit
from pintac.api.lowering import lower
from pintac.backend.bodies import streamed
from pintac.backend.tiles.tile import CopyOp, Item, MatmulOp, walk
from pintac.backend.tiles.transfer import runs
from pintac.errors import DoesNotFitError
from pintac.hazards import check
from pintac.isa import Space
from pintac.machine import Machine
from pintac.program import Program
from pintac.runtime.session import Session
from tests.end_to_end.test_bits import Case, Deep

MACHINE = Machine.default()
SMALL = MACHINE.replace(sram_kib=48)
CASE = Case(other=Deep, width=128, points=(3, 2), K=16)


def compiled(machine: Machine) -> tuple[Program, list[Item]]:
    seen: list[Item] = []
    lowered = lower(CASE.step(), CASE.options())
    made = emit(lowered, machine, lambda name, items: seen.extend(items) if name == "step" else None, 0)
    assert check(made).clean
    return made, seen


def loss(made: Program) -> float:
    session = Session(made, "jit")
    session.step()
    return session.metrics()["loss"]


def test_strips_are_a_small_part_of_sram() -> None:
    """Four weights of 17 KiB in 48 KiB: each product of those that stream takes columns of one strip."""
    made, items = compiled(SMALL)
    names = made.meta["backend"]["step"]["streamed"]
    assert names and set(names) <= set(made.meta["backend"]["step"]["in_dram"])
    loads = [op for op, _ in walk(items) if isinstance(op, CopyOp) and op.source.buffer.name in names]
    loads = [op for op in loads if op.target.buffer.space == Space.SRAM]
    strips = {op.target.buffer for op in loads}
    assert all(buffer.bytes <= 2 * SMALL.sram_kib * 1024 // streamed.STRIP for buffer in strips)
    products = [op for op, _ in walk(items) if isinstance(op, MatmulOp) and op.b.buffer in strips]
    assert products and all(op.b.shape == (op.n, op.k) if op.tb else (op.k, op.n) for op in products)
    assert {op.tb for op in products} == {False, True}  # forward and backward
    assert max(op.n for op in products) < 128
    forward = {op.b.buffer for op in products if not op.tb}
    assert all(runs(op).dims[1][0] == 1 for op in loads if op.target.buffer in forward), "one run each"


@pytest.mark.parametrize("width", [116, 128, 129])
def test_bits_with_a_last_strip_that_is_narrower(width: int) -> None:
    """Strips have 16 columns: the last one has 4, none is left over, the last one has 1."""
    case = replace(CASE, width=width)
    programs = [emit(lower(case.step(), case.options()), machine, None, 0) for machine in (MACHINE, SMALL)]
    assert [bool(p.meta["backend"]["step"]["streamed"]) for p in programs] == [False, True]
    assert check(programs[1]).clean
    assert loss(programs[0]) == loss(programs[1])


def test_bits_are_those_of_weights_in_sram(monkeypatch: pytest.MonkeyPatch) -> None:
    resident, _ = compiled(MACHINE)
    assert not resident.meta["backend"]["step"]["streamed"]
    assert loss(resident) == loss(compiled(SMALL)[0])
    monkeypatch.setattr("pintac.backend.bodies.placement.weights", lambda *_: frozenset())
    with pytest.raises(DoesNotFitError):
        compiled(SMALL)


@pytest.mark.parametrize(("depth", "bits"), [(1, 4), (100, 8), (512, 8), (4096, 16)])
def test_strips_are_whole_blocks(depth: int, bits: int) -> None:
    columns = streamed.strip_columns(depth, bits, MACHINE.sram_kib * 1024)
    assert columns >= 4 and columns % 4 == 0
    column = depth * (bits / 8 + 1 / 16)
    assert columns == 4 or math.isclose(columns * column, MACHINE.sram_kib * 1024 / streamed.STRIP, rel_tol=0.5)
