"""Drawn models: programs and the evaluator agree to the bit in the loss, the parameters and the moments of Adam."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings

from pintac.api.emitting import emit
from pintac.api.evaluator import EvaluatorSession
from pintac.api.lowering import lower
from pintac.hazards import check
from pintac.runtime.session import Session
from tests.end_to_end.agreement import step_together
from tests.end_to_end.drawn_models import Model, models

EXAMPLES = 30


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(models())
def test_a_step_has_the_bits_of_the_evaluator(model: Model) -> None:
    lowered = lower(model.step(), model.options)
    program = emit(lowered, model.machine, effort=0)
    assert all(check(program, entry).clean for entry in program.entries)
    step_together(Session(program, "jit"), EvaluatorSession(lowered))
