"""The op table, and that the tables beside it cover the same ops."""

from __future__ import annotations

from pintac.ir import OPS, Builder
from pintac.ir.deltas import DELTA_RULES
from pintac.ir.evaluate import EVALUATORS
from pintac.ir.gradients import GRADIENTS
from pintac.ir.ops import REDUCTIONS
from pintac.ir.type_rules import TYPE_RULES


def test_the_tables_cover_the_same_ops() -> None:
    assert set(TYPE_RULES) == set(GRADIENTS) == set(DELTA_RULES) == set(EVALUATORS) == set(OPS)
    assert all(hasattr(Builder, name) for name in OPS)
    assert all(op.name == name and op.doc for name, op in OPS.items())
    assert {op.name for op in OPS.values() if op.category == "reduction"} == set(REDUCTIONS)
