"""Points of few evaluations: several an iteration, or with all their evaluations in a loop over points alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pintac.api.emitting import emit
from pintac.api.lowering import lower
from pintac.backend.bodies.tiling import Tiling, points_together
from pintac.backend.grouping.axes import UNROLLED_PAIRS
from pintac.backend.grouping.prepare import prepare
from pintac.backend.grouping.units import Units
from pintac.backend.scheduling import fit, regions
from pintac.backend.tiles.tile import Item, Loop
from pintac.hazards import check
from pintac.ir import Builder, Graph, Location, verify
from pintac.ir.evaluate import evaluate
from pintac.machine import Machine
from pintac.runtime.reference import ReferenceEngine
from pintac.runtime.state import MachineState
from tests.backend.test_fit import losses
from tests.backend.test_stages import program_of
from tests.end_to_end.test_bits import Case

HERE = Location("net.py", 12)
MACHINE = Machine.default()


def graph_of(points: int, pairs: int, width: int, fold: tuple[int, ...]) -> Graph:
    """A forward nest, sums over a point's evaluations, a nest that reads them, sums over all points."""
    b = Builder("step")
    with b.at(HERE):
        normal = b.random("normal", 1, 0, (points, pairs, width))
        signs = b.const((1.0, -1.0), (1, 2, 1, 1))
        value = b.tanh(b.add(b.mul(b.reshape(normal, (points, 1, pairs, width)), signs), 0.5))
        square = b.mul(value, value)
        rows = b.add(b.sum(square, (1, 2), keepdims=True), 1.0)
        total = b.add(b.sum(square, fold, keepdims=True), 2.0)
        b.output("metric:loss", b.sum(b.div(b.mul(value, total), rows)))
    return verify(b.finish())


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 5), st.sampled_from([(1, 2), (1, 2, 3)]))
@settings(max_examples=30, deadline=None)
def test_points_together_compute_what_the_graph_says(
    points: int, pairs: int, width: int, fold: tuple[int, ...]
) -> None:
    """Two sums in one kernel, of which one folds the columns too, were one result for all points once."""
    graph = graph_of(points, pairs, width, fold)
    program = program_of(graph)
    assert check(program).clean
    state = MachineState(program)
    state.set_step(0, seed=5)
    ReferenceEngine(program, state).run("step")
    expected = evaluate(graph, {}, {"seed": 5, "step": 0}, mode="smx")["metric:loss"]
    np.testing.assert_array_equal(state.read("loss"), expected)


@pytest.mark.parametrize(
    ("pairs", "interleave", "together"),
    [(16, 4, 2), (32, 4, 2), (33, 4, 1), (40, 4, 1), (40, 8, 2), (16, 2, 1), (16, 1, 1)],
)
def test_as_many_points_as_fill_a_body(pairs: int, interleave: int, together: int) -> None:
    """A point has two signs of pairs, in tiles of 32: a body of four tiles holds two points of up to 32 pairs."""
    assert together_in(Case(points=(12, 2), K=2 * pairs), interleave) == together


def test_no_more_points_than_there_are() -> None:
    assert together_in(Case(points=(3, 2), K=32), 64) == 3


def together_in(case: Case, interleave: int) -> int:
    units = Units(prepare(lower(case.step(), case.options()).graphs["step"]))
    (unit,) = (u for u in units.units if u.kind == "evaluations")
    return points_together(Tiling(interleave=interleave), units, unit)


def test_smaller_parts_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results in PSUM cut twice as small where that is predicted to be faster; here whatever is predicted."""
    case = Case(width=32, points=(9, 5), K=24)
    machine = MACHINE.replace(psum_kib=8)

    def trained(worth: float) -> tuple[int, list[float]]:
        monkeypatch.setattr(fit, "WORTH", worth)
        program = emit(lower(case.step(), case.options()), machine)
        return len(program.instructions), losses(program, 3)

    monkeypatch.setattr(regions, "HOT", 0)
    monkeypatch.setattr(fit, "CLOSE", math.inf)
    (instructions, whole), (more, cut) = trained(1.0), trained(-1e9)
    assert more > instructions and whole == cut


def test_few_pairs_are_no_loop_of_their_own() -> None:
    for pairs, kind in ((UNROLLED_PAIRS, "points"), (UNROLLED_PAIRS + 1, "evaluations")):
        units = Units(prepare(graph_of(12, pairs, 4, (1, 2))))
        assert kind in {u.kind for u in units.units}


def test_the_last_points_come_behind_the_loop() -> None:
    """Five points, two an iteration: forward of two, both stages of two and two, backward of two, and one alone."""
    case = Case(points=(5, 2), K=40)
    seen: list[Item] = []
    lowered = lower(case.step(), case.options())
    emit(lowered, MACHINE, lambda name, items: seen.extend(items) if name == "step" else None)
    loops = [i for i in seen if isinstance(i, Loop) and i.name.startswith("points") and i.body]
    bodies = [{getattr(o, "name", "") for o in loop.body} for loop in loops if loop.count == 1]
    assert len(bodies) == 3
    assert bodies[0] < bodies[1]
    names = [getattr(i, "name", "") for i in seen if not isinstance(i, Loop)]
    products = {n for n in bodies[1] if n.startswith("matmul")}
    assert products
    assert products <= set(names), "the fifth point runs in straight code"
