"""Drawn models: programs and the evaluator agree to the bit in the loss, the parameters and the moments of Adam."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings

from pintac.api.compiling import emit
from pintac.api.evaluator import EvaluatorSession
from pintac.api.lowering import lower
from pintac.hazards import check
from pintac.runtime.session import Session
from tests.end_to_end.drawn_models import Model, models

EXAMPLES = 30


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(models())
def test_a_step_has_the_bits_of_the_evaluator(model: Model) -> None:
    lowered = lower(model.step(), model.options)
    program = emit(lowered, model.machine, effort=0)
    assert all(check(program, entry).clean for entry in program.entries)
    jit, evaluator = Session(program, "jit"), EvaluatorSession(lowered)
    for session in (jit, evaluator):
        session.step()
    assert jit.metrics() == evaluator.metrics()
    expected = evaluator.state_arrays()
    for name, value in jit.state_arrays().items():
        np.testing.assert_array_equal(value.view(np.uint32), expected[name].view(np.uint32), err_msg=name)
