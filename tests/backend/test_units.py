"""Units and sweeps: loops over points are shared as long as no result needs all points."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest

from pintac.api.compiling import Compiled
from pintac.api.emitting import emit
from pintac.api.lowering import Lowered, lower
from pintac.backend.grouping.axes import Axes
from pintac.backend.grouping.prepare import prepare
from pintac.backend.grouping.units import EXECUTED, Units
from pintac.backend.lower import Dram
from pintac.backend.lower import lower as to_program
from pintac.backend.tiles.tile import Buffer
from pintac.errors import DoesNotFitError, IRError
from pintac.ir import Builder, Graph, Location, verify
from pintac.ir.evaluate import evaluate
from pintac.isa import Opcode
from pintac.machine import Machine
from pintac.program import Program
from pintac.runtime.reference import ReferenceEngine
from pintac.runtime.state import MachineState
from tests.end_to_end.test_bits import Case

HERE = Location("net.py", 12)
MACHINE = Machine.default()
N, WIDTH = 70, 6


@pytest.fixture(scope="module")
def lowered() -> Lowered:
    return lower(Case(points=(6, 5), K=32).step(), Case().options())


def coupled(divide: bool) -> Graph:
    """One descent step on the sum of squares of z = y or y / mean(y), y = x w over N points."""
    b = Builder("step")
    with b.at(HERE):
        w = b.state("w", (WIDTH, 1))
        x = b.random("uniform", 3, 0, (N, WIDTH))
        qx = b.quantize(x, 8)
        y = b.matmul(qx, b.quantize(w, 8))
        z = b.div(y, b.mul(b.sum(y, (0,), keepdims=True), 1.0 / N)) if divide else y
        b.output("metric:loss", b.sum(b.mul(z, z)))
        b.output("state:w", b.sub(w, b.mul(b.matmul_tn(qx, b.quantize(z, 12)), 1e-3)))
    return verify(b.finish())


def compiled(graph: Graph, init: Mapping[str, np.ndarray], machine: Machine = MACHINE) -> Program:
    return to_program(
        {"step": graph}, machine=machine, init=init, data={}, params=("seed", "step"),
        param_table=np.zeros((1, 2), np.uint32),
    )  # fmt: skip


def test_a_loss_of_single_points_is_one_unit_a_term(lowered: Lowered) -> None:
    """Interior: base forward, evaluations, base backward. Boundary: forward and backward of its points in one loop."""
    units = Units(prepare(lowered.graphs["step"]))
    of_points = [u for u in units.units if u.axis is not None and u.axis.kind == "points"]
    spaces = {u.axis.space for u in of_points if u.axis is not None}
    by_space = {s: [u.kind for u in of_points if u.axis is not None and u.axis.space == s] for s in spaces}
    assert ["points", "evaluations", "points"] in by_space.values()
    assert any(kinds == ["points"] for kinds in by_space.values())
    (evaluations,) = (u for u in of_points if u.kind == "evaluations")
    assert sum(len(s.axes) == 2 for s in evaluations.sweeps) == 2, "forward over all evaluations, then backward"


def test_every_op_belongs_to_one_sweep(lowered: Lowered) -> None:
    for graph in map(prepare, lowered.graphs.values()):
        units = Units(graph)
        nodes = [n for u in units.units for n in u.nodes]
        assert len(nodes) == len(set(nodes)) and set(nodes) == {n for n in graph.nodes if n.op in EXECUTED}


@pytest.mark.parametrize("divide", [False, True])
def test_a_coupled_loss_sweeps_the_points_twice(divide: bool) -> None:
    graph = coupled(divide)
    loops = [u for u in Units(prepare(graph)).units if u.kind == "points"]
    assert len(loops) == (2 if divide else 1)
    init = {"w": np.linspace(0.2, 1.3, WIDTH, dtype=np.float32)[:, None]}
    program = compiled(graph, init)
    state = MachineState(program)
    state.set_step(0, seed=5)
    ReferenceEngine(program, state).run("step")
    out = evaluate(graph, init, {"seed": 5, "step": 0}, mode="smx")
    assert np.isfinite(out["metric:loss"]) and (out["state:w"] != init["w"]).any()
    np.testing.assert_array_equal(state.read("w").view(np.uint32), out["state:w"].view(np.uint32))
    np.testing.assert_array_equal(state.read("loss"), out["metric:loss"])


def test_a_gradient_that_is_an_output_stays_in_sram() -> None:
    """Of all that is in SRAM it is the largest, and tiles get smaller rather than that it leaves."""
    b = Builder("step")
    with b.at(HERE):
        w = b.state("w", (64, 64))
        x = b.quantize(b.random("normal", 3, 0, (2, 2, 256, 64)), 8)
        y = b.tanh(b.matmul(x, b.quantize(w, 8)))
        z = b.mul(y, b.sum(y, (1, 2), keepdims=True))
        b.output("metric:loss", b.sum(b.mul(z, z)))
        b.output("grad", b.matmul_tn(x, b.quantize(z, 12)))
    graph = verify(b.finish())
    init = {"w": np.linspace(-0.2, 0.3, 64 * 64, dtype=np.float32).reshape(64, 64)}
    program = compiled(graph, init, MACHINE.replace(sram_kib=24))
    state = MachineState(program)
    state.set_step(0, seed=5)
    ReferenceEngine(program, state).run("step")
    out = evaluate(graph, init, {"seed": 5, "step": 0}, mode="smx")
    np.testing.assert_array_equal(state.read("grad").view(np.uint32), out["grad"].view(np.uint32))


def test_rows_of_two_point_sets_do_not_mix() -> None:
    b = Builder("step")
    with b.at(HERE):
        x, y = (b.random("uniform", i, i, (N, 2)) for i in range(2))
        kept = b.sum(x, (1,), keepdims=True)
        b.output("metric:loss", b.sum(b.mul(b.permute(kept, (1, 0)), b.sum(y, (1,), keepdims=True))))
    with pytest.raises(IRError, match="mixes rows of 2 point sets"):
        Units(prepare(b.finish()))


def test_terms_share_no_rows_through_a_constant() -> None:
    """Equal constants of two terms are one value before the backend."""
    b = Builder("step")
    with b.at(HERE):
        signs = b.const((1.0, -1.0), (1, 2, 1, 1))
        for term in range(2):
            delta = b.random("normal", 1, term, (4 + term, 9, 3))
            pair = b.mul(b.reshape(delta, (4 + term, 1, 9, 3)), signs)
            b.output(f"metric:{term}", b.sum(pair))
    graph = prepare(b.finish())
    axes, products = Axes(graph), graph.of("mul")
    assert len(graph.of("const")) == 2
    assert [[str(t) for t in axes.tags(p)] for p in products] == [
        [f"points{s}", f"sign{s}", f"pairs{s}", "None"] for s in (0, 1)
    ]


def test_size_does_not_grow_with_points_and_evaluations() -> None:
    """The same operations and loops for twice the points and twice the pairs, with equal remainders.

    A few signals may differ: larger buffers share other bytes, and what shares bytes must be ordered.
    """

    def instructions(points: int, pairs: int) -> list[Opcode]:
        case = Case(points=(points, points), K=2 * pairs, width=6)
        lowered = lower(case.step(), case.options())
        return [i.opcode for i in emit(lowered, MACHINE).instructions]

    small, large = instructions(256, 512), instructions(512, 1024)
    assert abs(len(small) - len(large)) < 0.03 * len(small)
    small, large = ([o for o in found if o not in (Opcode.SIGNAL, Opcode.WAIT)] for found in (small, large))
    assert small == large


def test_what_cannot_fit_is_one_clear_error() -> None:
    case = Case(width=600, scheme="dense", points=(4,))
    lowered = lower(case.step(), case.options())
    with pytest.raises(DoesNotFitError, match=r"SRAM: \d+ bytes are needed at once, 32768 are there") as caught:
        emit(lowered, Machine.load("tiny"))
    assert caught.value.hint


def test_tiles_as_text(lowered: Lowered) -> None:
    text = Compiled(lowered, MACHINE, 0.0).tiles()
    for expected in ("loop i0 <", "matmul ", "load ", "store ", "vpu ", "philox", "sum_rows+"):
        assert expected in text, expected
    assert text == Compiled(lowered, MACHINE, 0.0).tiles()
    assert text.count("{") == text.count("}") > 3


def test_dram_places_nothing_twice() -> None:
    dram = Dram()
    buffers = [dram.place(Buffer(f"b{i}", size, bits)) for i, (size, bits) in enumerate([(3, 0), (5, 8), (1, 12)])]
    spans = [(b.addr or 0, (b.addr or 0) + b.bytes) for b in buffers]
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert spans[-1][1] <= dram.top and all(start % 64 == 0 for start, _ in spans)
