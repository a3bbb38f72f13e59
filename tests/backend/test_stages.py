"""Software pipelining: every stage of every point runs once, behind what it needs; what has to be copied is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pintac.api.emitting import emit
from pintac.api.lowering import Lowered, lower
from pintac.backend.bodies.choices import Choices, Entry
from pintac.backend.bodies.placement import Placement
from pintac.backend.bodies.tiling import Tiling
from pintac.backend.grouping.kinds import SOURCES
from pintac.backend.grouping.prepare import prepare
from pintac.backend.grouping.units import Unit, Units
from pintac.backend.lower import lower as to_program
from pintac.backend.scheduling import loops
from pintac.backend.scheduling.stages import held_values, stages_of, windows
from pintac.backend.tiles.tile import Buffer, Item, Loop, TileOp
from pintac.hazards import check
from pintac.ir import Builder, Graph, Location, Node, verify
from pintac.ir.evaluate import evaluate
from pintac.isa import Space
from pintac.machine import Machine
from pintac.program import Program
from pintac.runtime.reference import ReferenceEngine
from pintac.runtime.state import MachineState
from tests.end_to_end.test_bits import Case

HERE = Location("net.py", 12)
MACHINE = Machine.default()


# ---- windows


def executions(stages: int, points: int) -> Iterator[tuple[int, int, int]]:
    """(iteration, stage, point) in the order in which a pipelined loop runs them: the later stage goes first."""
    iteration = 0
    for window in windows(stages, points):
        for i in range(window.count):
            for stage in sorted(window.starts, reverse=True):
                yield iteration, stage, i + window.starts[stage]
            iteration += 1


pipelines = st.integers(1, 5).flatmap(lambda s: st.tuples(st.just(s), st.integers(s, s + 12)))


@given(pipelines)
def test_every_stage_of_every_point_runs_once(shape: tuple[int, int]) -> None:
    stages, points = shape
    ran = [(stage, point) for _, stage, point in executions(stages, points)]
    assert len(ran) == len(set(ran)) == stages * points
    assert set(ran) == {(stage, point) for stage in range(stages) for point in range(points)}


@given(pipelines)
def test_stages_of_a_point_run_in_order_one_iteration_apart(shape: tuple[int, int]) -> None:
    """So the later stage, which goes first, reads what the earlier one left an iteration before."""
    stages, points = shape
    at = {(stage, point): iteration for iteration, stage, point in executions(stages, points)}
    assert all(at[stage, point] == at[stage - 1, point] + 1 for stage, point in at if stage)


@given(pipelines)
def test_points_keep_their_order(shape: tuple[int, int]) -> None:
    """Sums over points add in the order of the points (NUMERICS 3): in every stage, none is overtaken."""
    stages, points = shape
    for stage in range(stages):
        assert [p for _, s, p in executions(stages, points) if s == stage] == list(range(points))


@given(pipelines)
def test_the_pipeline_is_as_short_as_it_can_be(shape: tuple[int, int]) -> None:
    stages, points = shape
    assert sum(w.count for w in windows(stages, points)) == points + stages - 1
    assert all(w.count >= 1 and w.starts for w in windows(stages, points))


# ---- held values


@st.composite
def chains(draw: st.DrawFn) -> Graph:
    """Nests over the evaluations of a point: each scales a value of the nest before by sums of nests before it.

    The sums are read as they are or through work on a point alone.
    """
    points = draw(st.integers(1, 7))
    pairs, width = draw(st.integers(1, 40)), draw(st.integers(1, 5))
    b = Builder("step")
    with b.at(HERE):
        normal = b.random("normal", 1, 0, (points, pairs, width))
        signs = b.const((1.0, -1.0), (1, 2, 1, 1))
        values = [b.tanh(b.add(b.mul(b.reshape(normal, (points, 1, pairs, width)), signs), 0.5))]
        sums: list[Node] = []
        for number in range(draw(st.integers(1, 3))):
            axes = draw(st.sampled_from([(1, 2), (1, 2, 3)]))
            value = values[draw(st.integers(max(0, number - 1), number))]
            total = b.sum(b.mul(value, value), axes, keepdims=True)
            sums.append(b.sqrt(b.add(total, float(number + 1))) if draw(st.booleans()) else total)
            scale = draw(st.sampled_from(sums))
            if draw(st.booleans()):
                scale = b.mul(scale, draw(st.sampled_from(sums)))
            quotient = b.div(values[draw(st.integers(max(0, number - 1), number))], scale)
            values.append(b.sin(b.min(b.max(quotient, -9.0), 9.0)))  # of small scales, too, a finite sine
        b.output("metric:loss", b.sum(values[-1]))
        b.output("metric:sums", b.sum(b.mul(sums[-1], sums[0])))
    return verify(b.finish())


def program_of(graph: Graph) -> Program:
    return to_program(
        {"step": graph}, machine=MACHINE, init={}, data={}, params=("seed", "step"),
        param_table=np.zeros((1, 2), np.uint32),
    )  # fmt: skip


@given(chains())
@settings(max_examples=25)
def test_drawn_pipelines_compute_what_the_graph_says(graph: Graph) -> None:
    program = program_of(graph)
    assert check(program).clean
    state = MachineState(program)
    state.set_step(0, seed=5)
    ReferenceEngine(program, state).run("step")
    out = evaluate(graph, {}, {"seed": 5, "step": 0}, mode="smx")
    for name in ("loss", "sums"):
        assert np.isfinite(out[f"metric:{name}"])
        np.testing.assert_array_equal(state.read(name), out[f"metric:{name}"])


def three_stages(points: int, through: bool = False) -> Graph:
    """Three nests; the first sum is read behind the first two, `through`: the first nest's value in the last too."""
    b = Builder("step")
    with b.at(HERE):
        normal = b.random("normal", 1, 0, (points, 40, 3))
        pair = b.mul(b.reshape(normal, (points, 1, 40, 3)), b.const((1.0, -1.0), (1, 2, 1, 1)))
        first = b.tanh(b.add(pair, 0.5))
        early = b.sqrt(b.add(b.sum(b.mul(first, first), (1, 2), keepdims=True), 1.0))
        second = b.sin(b.div(first, early))
        late = b.sqrt(b.add(b.sum(b.mul(second, second), (1, 2), keepdims=True), 2.0))
        third = b.mul(b.sin(b.div(first if through else second, late)), early)
        b.output("metric:loss", b.sum(third))
    return verify(b.finish())


def evaluations(graph: Graph, spilled: frozenset[str] = frozenset()) -> tuple[Unit, Units, Placement]:
    """The unit over evaluations of a graph, and where its values live."""
    graph = prepare(graph)
    units = Units(graph)
    leaves = {n: Buffer(n.name, n.type.size, space=Space.DRAM) for n in graph.nodes if n.op in SOURCES}
    entry = Entry(graph, MACHINE, leaves, {})
    choices = Choices(Tiling(), frozenset(n for n in graph.nodes if n.name in spilled))
    placement = Placement(entry, choices, units, {})
    (unit,) = (u for u in units.units if u.kind == "evaluations")
    return unit, units, placement


def held_of(graph: Graph, spilled: frozenset[str] = frozenset()) -> dict[str, tuple[int, int]] | None:
    unit, units, placement = evaluations(graph, spilled)
    held = held_values(unit, units, placement.unit_home, unit.axis.size if unit.axis is not None else 1)
    return None if held is None else {node.name: stages for node, stages in held.items()}


def test_what_a_later_stage_reads_is_held() -> None:
    """`early` is made behind nest 0 and stands until nest 1 has read it; nest 2 reads a copy made behind nest 1."""
    graph = three_stages(5)
    assert held_of(graph) == {graph.of("sqrt")[0].name: (1, 2)}
    unit, _, _ = evaluations(graph)
    assert [[n.op for w in s.before for n in w.nodes] for s in stages_of(unit)] == [["random"], [], []]
    assert [len(s.nest.axes) for s in stages_of(unit)] == [2, 2, 2]


def test_what_cannot_be_pipelined() -> None:
    assert held_of(three_stages(5, through=True)) is None, "a tile's value would be overwritten before its last reader"
    assert held_of(three_stages(2)) is None, "fewer points than stages"
    assert held_of(three_stages(3)) is not None
    early = three_stages(5).of("sqrt")[0].name
    assert held_of(three_stages(5), frozenset({early})) is None, "copies are made in SRAM"


def loss_of(graph: Graph) -> np.ndarray:
    program = program_of(graph)
    state = MachineState(program)
    state.set_step(0, seed=5)
    ReferenceEngine(program, state).run("step")
    return state.read("loss")


@pytest.mark.parametrize("points", [1, 2, 3, 5])
@pytest.mark.parametrize("through", [False, True])
def test_three_stages_by_the_evaluator(points: int, through: bool) -> None:
    graph = three_stages(points, through)
    expected = evaluate(graph, {}, {"seed": 5, "step": 0}, mode="smx")["metric:loss"]
    np.testing.assert_array_equal(loss_of(graph), expected)


def test_without_the_copies_the_result_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = three_stages(5)
    right = loss_of(graph)
    monkeypatch.setattr(loops, "held_values", lambda *_: {})
    assert loss_of(graph) != right


def test_a_step_is_pipelined() -> None:
    """Forward of a point and backward of the one before share a loop: for five points one iteration, four, and one."""
    case = Case(points=(5, 2), K=160)
    lowered: Lowered = lower(case.step(), case.options())
    seen: list[Item] = []
    emit(lowered, MACHINE, lambda name, items: seen.extend(items) if name == "step" else None)
    loops = [i for i in seen if isinstance(i, Loop) and i.name.startswith("points") and i.body]
    nested = [i for i in loops if any(isinstance(o, Loop) for o in i.body)]
    assert [i.count for i in nested] == [1, 4, 1]

    def tiles(loop: Loop) -> set[str]:
        found: set[str] = set()
        for item in loop.body:
            found |= tiles(item) if isinstance(item, Loop) else {item.name} if isinstance(item, TileOp) else set()
        return found

    first, both, last = map(tiles, nested)
    assert both == first | last | {n for n in both if n.startswith("hold ")}


def test_a_sum_that_evaluations_read_ends_their_sweep() -> None:
    """Also where they read it as it is, with no work on a point alone between."""
    b = Builder("step")
    with b.at(HERE):
        value = b.tanh(b.random("uniform", 1, 0, (6, 9, 3)))
        value = b.mul(b.reshape(value, (6, 1, 9, 3)), b.const((1.0, -0.5), (1, 2, 1, 1)))
        b.output("metric:loss", b.sum(b.mul(value, b.sum(value, (1, 2), keepdims=True))))
    graph = verify(b.finish())
    unit, _, _ = evaluations(graph)
    assert len(stages_of(unit)) == 2
    expected = evaluate(graph, {}, {"seed": 5, "step": 0}, mode="smx")["metric:loss"]
    np.testing.assert_array_equal(loss_of(graph), expected)
