"""What every check of programs comes down to: an engine and the evaluator hold the same bits."""

from __future__ import annotations

import numpy as np

from pintac.api.evaluator import EvaluatorSession
from pintac.runtime.session import Session


def assert_same_bits(session: Session, evaluator: EvaluatorSession) -> None:
    """Losses, weights and moments."""
    assert session.metrics() == evaluator.metrics()
    found, expected = session.state_arrays(), evaluator.state_arrays()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.shape == expected[name].shape
        np.testing.assert_array_equal(value.view(np.uint32), expected[name].view(np.uint32), err_msg=name)


def step_together(session: Session, evaluator: EvaluatorSession, steps: int = 1) -> None:
    """Train both, and compare them after each step."""
    for _ in range(steps):
        session.step()
        evaluator.step()
        assert_same_bits(session, evaluator)
