"""Gradients with loops of their own: which they are, where their columns are cut, and that no bit changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pintac.api.emitting import emit
from pintac.api.evaluator import EvaluatorSession
from pintac.api.lowering import lower
from pintac.backend.bodies.deferred import STRIP, Tiles, chain_of, deferrable, strips
from pintac.backend.grouping.prepare import prepare
from pintac.backend.grouping.units import Units, accumulator
from pintac.hazards import check
from pintac.machine import Machine
from pintac.runtime.session import Session
from tests.end_to_end.agreement import assert_same_bits
from tests.end_to_end.test_bits import Case


@given(st.integers(1, 700), st.integers(1, 700), st.integers(8192, 1 << 20))
def test_strips_are_the_columns(rows: int, cols: int, capacity: int) -> None:
    found = strips((rows, cols), capacity)
    assert [c for at, width in found for c in range(at, at + width)] == list(range(cols))
    assert all(at % 4 == 0 for at, _ in found)
    assert all(width <= 4 or 4 * rows * (width - 4) <= STRIP * capacity for _, width in found)


def test_tiles_get_smaller_until_they_cannot() -> None:
    tiles = Tiles()
    while tiles.smaller() != tiles:
        assert tiles.smaller().rows * tiles.smaller().count < tiles.rows * tiles.count
        tiles = tiles.smaller()
    assert tiles.count == 1


def test_a_chain_is_one_unit_behind_all_rows() -> None:
    """The rows of both terms, perturbed and not, and the optimizer's work on the gradient alone behind them."""
    case = Case(width=16, points=(3, 2), K=8)
    graph = prepare(lower(case.step(), case.options()).graphs["step"])
    chains = [c for n in graph.of("matmul_tn") if accumulator(n) is None for c in [chain_of(graph, n)] if len(c) > 1]
    plain = Units(graph)
    chosen = tuple(c for c in chains if deferrable(c, plain))[:2]
    assert len(chosen) == 2
    units = Units(graph, deferred=chosen)
    kinds = [unit.kind for unit in units.units]
    assert kinds.count("deferred") == 2 and set(units.of) == set(plain.of)
    assert [tuple(u.nodes) for u in units.units if u.kind == "deferred"] == list(chosen)
    place = {node: i for i, unit in enumerate(units.units) for node in unit.nodes}
    for node, at in place.items():
        assert all(place.get(o, -1) <= at for o in node.operands)
    rows = max(i for i, kind in enumerate(kinds) if kind in ("points", "evaluations"))
    assert kinds.index("deferred") > rows
    first, second = (i for i, kind in enumerate(kinds) if kind == "deferred")
    between = {node for unit in units.units[first + 1 : second] for node in unit.nodes}
    assert between & set(units.executed_users(chosen[0][-1])), "a gradient is used before the next one needs its room"


@pytest.mark.parametrize(
    ("case", "kib", "stored"),
    [
        (Case(dims=2, width=128, points=(3, 2), K=10, depth=1, scheme="dense"), 96, False),
        (Case(dims=2, width=128, points=(3, 2), K=10, depth=1, scheme="dense"), 80, True),
        (Case(dims=2, width=128, points=(5, 2), K=8, depth=1, scheme="dense", quant="even-odd"), 96, True),
    ],
    ids=["in SRAM", "in strips", "even-odd"],
)
def test_bits(case: Case, kib: int, stored: bool) -> None:
    lowered = lower(case.step(), case.options())
    program = emit(lowered, Machine.default().replace(sram_kib=kib))
    decided = program.meta["backend"]["step"]
    assert decided["deferred"] and stored == (set(decided["deferred"]) <= set(decided["in_dram"]))
    assert check(program).clean
    jit, reference, evaluator = Session(program, "jit"), Session(program, "reference"), EvaluatorSession(lowered)
    for session in (jit, reference, evaluator):
        session.step()
    assert_same_bits(jit, evaluator)
    assert_same_bits(reference, evaluator)
