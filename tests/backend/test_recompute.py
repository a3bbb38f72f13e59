"""Saved activations computed again: the same bits, in the sweep that reads them, and chosen where the bus is short."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pintac.api.lowering import lower
from pintac.backend.grouping.prepare import prepare
from pintac.backend.grouping.recompute import recomputable, recomputed
from pintac.backend.grouping.units import Units
from pintac.backend.scheduling import fit
from pintac.ir import Graph, verify
from pintac.ir.evaluate import evaluate
from pintac.machine import Machine
from pintac.timeline import simulate
from tests.backend.test_fit import losses, program
from tests.end_to_end.test_bits import Case

MACHINE = Machine.default()
CASE = Case(width=16, points=(3, 2), K=40, depth=2)


def step_of(case: Case) -> Graph:
    return prepare(lower(case.step(), case.options()).graphs["step"])


@pytest.mark.parametrize("quant", ["diff", "even-odd", "naive"])
def test_copies_run_in_the_sweep_that_reads_them(quant: str) -> None:
    units = Units(step_of(Case(width=16, points=(3, 2), K=40, depth=2, quant=quant)))
    values = recomputable(units)
    assert len(values) >= 2
    for count in range(1, len(values) + 1):
        found = recomputed(units, values[:count])
        verify(found.graph)
        again = Units(found.graph, again=found.again)
        assert any(found.new[value] in again.of for value in values)
        for value in values[:count]:
            kept = found.new[value]
            if kept not in again.of:
                continue  # it had later readers alone
            unit, sweep = again.of[kept]
            assert {again.of[u][1] for u in again.executed_users(kept)} == {sweep}, "a later reader is left"
            copies = [n for n in found.again if n.op == "quantize" and n.loc == value.loc and n.type == value.type]
            assert copies
            assert all(unit.sweeps.index(again.of[n][1]) > unit.sweeps.index(sweep) for n in copies)


def test_copies_have_equal_bits() -> None:
    graph = step_of(CASE)
    feeds = {
        str(n.attrs["name"]): np.linspace(-0.5, 0.5, n.type.size, dtype=np.float32).reshape(n.shape)
        for n in graph.nodes
        if n.op in ("state", "input", "data")
    }
    params = {str(n.attrs["name"]): 0.5 for n in graph.of("scalar")} | {"seed": 3, "step": 1}
    expected = evaluate(graph, feeds, params, mode="smx")
    units = Units(graph)
    values = recomputable(units)
    for chosen in itertools.chain(([v] for v in values), [values]):
        found = evaluate(recomputed(units, chosen).graph, feeds, params, mode="smx")
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value, err_msg=key)


def test_a_slow_bus_makes_values_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved activations have no room in 64 KiB; at an eighth of the bandwidth it is faster to make them again."""
    case, slow = Case(width=64, points=(6, 4), K=512, depth=2), MACHINE.replace(sram_kib=64, dram_gb_per_s=3.2)
    made = program(case, slow)
    assert made.meta["backend"]["step"]["recomputed"]
    assert losses(made) == losses(program(case, MACHINE))
    monkeypatch.setattr(fit, "_recomputing", lambda _: [])
    without = program(case, slow)
    assert not without.meta["backend"]["step"]["recomputed"]
    assert simulate(made).cycles < simulate(without).cycles / 3
