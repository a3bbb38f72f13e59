"""Random numbers made for both signs in the nest that reads them: much work, with equal bits, in less time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pintac.api.lowering import lower
from pintac.backend.grouping import per_sign
from pintac.backend.grouping.prepare import kept_in_part, prepare
from pintac.backend.grouping.units import Units
from pintac.ir import Builder, Graph, Location, verify
from pintac.ir.evaluate import evaluate
from pintac.machine import Machine
from pintac.timeline import simulate
from tests.backend.test_fit import losses, program
from tests.end_to_end.test_bits import Case

HERE = Location("net.py", 12)
MACHINE = Machine.default()
CASE = Case(dims=40, K=256, points=(6, 3, 4), width=128, rank=16, depth=2)


def units_of(case: Case) -> Units:
    return Units(prepare(lower(case.step(), case.options()).graphs["step"]))


@pytest.mark.parametrize("quant", ["diff", "naive"])
def test_random_numbers_are_in_the_first_nest(quant: str) -> None:
    units = units_of(replace(CASE, quant=quant))
    pairs = [n for n in units.graph.of("random") if any(a.kind == "pairs" for a in units.inner(n))]
    assert len(pairs) == 2, "of the equation, and of the gradient norm"
    for node in units.per_sign:
        unit, sweep = units.of[node]
        nests = [s for s in unit.sweeps if len(s.axes) == 2]
        assert sweep is nests[0]
        later = nests[1:]
        assert not any(units.of[u][1] in later for u in units.executed_users(node)), "of another point by then"
    assert set(pairs) <= units.per_sign


def test_little_work_stays_in_its_loop() -> None:
    units = units_of(replace(CASE, dims=2))
    assert not units.per_sign
    assert any([a.kind for a in s.axes] == ["pairs"] for u in units.units for s in u.sweeps)


def test_equal_bits_and_fewer_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    made = program(CASE, MACHINE)
    monkeypatch.setattr(per_sign, "WORTH", 1 << 40)
    without = program(CASE, MACHINE)
    assert losses(made) == losses(without)
    assert simulate(made).cycles < simulate(without).cycles


def sliced(columns: int) -> Graph:
    """Values of 3 points x 20 evaluations, of which a sum needs some columns after a sum over all has ended."""
    b = Builder("step")
    with b.at(HERE):
        x = b.random("uniform", 3, 0, (3, 1, 1))
        z = b.mul(b.random("normal", 4, 0, (3, 20, 16)), x)
        mean = b.sum(b.mul(z, z), (1, 2), keepdims=True)
        part = b.slice(z, 2, 0, columns)
        b.output("metric:loss", b.sum(b.mul(part, mean)))
    return verify(b.finish())


def test_what_later_loops_read_in_part_is_kept_in_part() -> None:
    params = {"seed": 3, "step": 1}
    for columns, copies in ((2, 1), (8, 1), (9, 0), (16, 0)):
        graph = sliced(columns)
        found = kept_in_part(graph)
        assert len(found.of("concat")) == copies, columns
        expected = evaluate(graph, {}, params)["metric:loss"]
        np.testing.assert_array_equal(evaluate(found, {}, params)["metric:loss"], expected)
