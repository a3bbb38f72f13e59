"""The built-in problems on the simulator: every one compiles, trains, and does what the evaluator does, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

import pintac
from pintac.frontend import TrainStep
from pintac.frontend.problems import BUILTIN, options_of


def small(name: str, estimator: str, K: int) -> TrainStep:
    points = {key: 6 for key in ("interior", "initial", "surface", "boundary", "points") if key in options_of(name)}
    return BUILTIN[name](width=16, hidden=2, rank=2, estimator=estimator, K=K, **points)


@pytest.mark.parametrize("name", sorted(BUILTIN))
@pytest.mark.parametrize(("quant", "estimator"), [("diff", "stein"), ("even-odd", "second-difference")])
def test_two_steps_are_those_of_the_evaluator(name: str, quant: str, estimator: str) -> None:
    step = small(name, estimator, 16)
    on_engine, on_graph = (
        pintac.train(step, 2, quant=quant, engine=engine, progress=False) for engine in ("jit", "evaluator")
    )
    assert on_engine.l2 is not None and np.isfinite(on_engine.l2)
    found, expected = on_engine.state_dict(), on_graph.state_dict()
    assert set(found) == set(expected)
    for key in expected:
        np.testing.assert_array_equal(np.asarray(found[key]), np.asarray(expected[key]), err_msg=key)
