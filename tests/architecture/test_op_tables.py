"""An op of the IR has a meaning in every table that is about ops of its kind."""

from __future__ import annotations

import pytest

from pintac.backend.grouping import kinds
from pintac.backend.grouping.units import Units
from pintac.errors import IRError
from pintac.frontend import interpret, jets
from pintac.frontend.aten import RULES
from pintac.frontend.aten.table import aten
from pintac.ir import OPS, Builder, Location, deltas, evaluate, even_odd, gradients, ops
from pintac.passes.derivatives import SLOPES

UNARY, BINARY = set(ops.UNARY), set(ops.BINARY)
SMOOTH = UNARY - {"neg"} - set(ops.STEPS)
"""Functions with a slope of their own."""


def of(*categories: str) -> set[str]:
    return {op.name for op in OPS.values() if op.category in categories}


def test_elementwise_ops_are_those_that_are_named() -> None:
    assert of("elementwise") == UNARY | BINARY | {"compare", "select", "delta_act"}
    assert set(ops.STEPS) <= of("elementwise")


def test_values() -> None:
    assert set(evaluate._DOUBLE) == set(evaluate._SINGLE) == UNARY | BINARY
    assert (set(interpret._UNARY), set(interpret._BINARY)) == (UNARY, BINARY)
    assert set(interpret._COMPARE) == set(ops.COMPARISONS)
    beside = of("source") - {"const"} | {"gradient", "laplacian"}  # what `run_graph` gives values by itself
    assert set(interpret._RULES) == set(OPS) - UNARY - BINARY - beside


def test_every_function_can_be_traced() -> None:
    assert {name for name in UNARY if getattr(aten, name) in RULES} == UNARY


def test_derivatives() -> None:
    assert set(SLOPES) == set(jets._DERIVATIVES) == SMOOTH
    in_jets = {*jets._LINEAR, *jets._DERIVATIVES, *ops.STEPS}
    in_jets |= {name for name in OPS if callable(getattr(jets.Jets, f"_{name}", None))}
    assert of("elementwise", "structure", "reduction") - in_jets == {"delta_act"}


def test_differences() -> None:
    assert set(even_odd.EVEN_ODD_RULES) == set(deltas.DELTA_RULES) == set(OPS)
    assert set(deltas._DELTA_ACT) == set(gradients._DELTA_ACT) == set(ops.DELTA_FUNCTIONS)
    refused = {op for op, rule in deltas.DELTA_RULES.items() if isinstance(rule, deltas.Refusal)}
    assert set(ops.STEPS) <= refused
    assert UNARY - refused == {*ops.DELTA_FUNCTIONS, "neg"}


def test_the_backend() -> None:
    assert (set(kinds.UNARY), set(kinds.BINARY)) == (UNARY, BINARY | {"select"})
    known = kinds.ELEMENTWISE | kinds.SINKS | kinds.CONTRACTIONS | kinds.COPIES | kinds.VIEWS | kinds.SOURCES
    assert known | set(kinds.LOWERED_BY) == set(OPS) and not known & set(kinds.LOWERED_BY)


@pytest.mark.parametrize(("lowered", "hint"), [(True, "run lower-delta first"), (False, "name its micro-operation")])
def test_an_op_that_the_backend_does_not_know(lowered: bool, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not lowered:
        monkeypatch.delitem(kinds.LOWERED_BY, "delta_act")
    b = Builder("step")
    with b.at(Location("my.py", 3)):
        x = b.state("x", (4, 4))
        b.output("state:x", b.delta_act("tanh", x, x))
    graph = b.finish()
    with pytest.raises(IRError, match=r"my\.py:3: the backend has no rule for delta_act") as caught:
        Units(graph)
    assert caught.value.hint and hint in caught.value.hint
