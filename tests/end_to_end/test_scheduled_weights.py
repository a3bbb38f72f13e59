"""Weights of loss terms that change from step to step, on every way from the description to a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import pintac
from pintac import Adam, Boundary, Problem, Stein, Term, TrainStep, Uniform, laplacian, linear_decay, piecewise, warmup
from pintac.api.calibration import Calibration
from pintac.api.emitting import emit
from pintac.api.evaluator import EvaluatorSession
from pintac.api.lowering import lower, pipeline
from pintac.frontend import SampledStep
from pintac.machine import Machine
from pintac.passes import PipelineOptions
from pintac.passes.expand_operators import ExpandOperators
from pintac.runtime.session import Session
from tests.end_to_end.agreement import step_together
from tests.frontend.eager_step import EagerStep

BOX = [(0.0, 1.0), (0.0, 1.0)]
UNQUANTISED = "expand-operators,split-stein,differentiate,expand-optimizer,lower-delta,canonicalize,dce"
RAMP = warmup(4, then=piecewise({0: 200.0}))
LATE = piecewise({0: 0.0, 2: 5.0})


class Weighted(Problem):
    def terms(self) -> list[Term]:
        return [
            Term("pde", Uniform(BOX), lambda u, x: laplacian(u, x) - 1.0, points=5, weight=2),
            Term("edge", Boundary(BOX), lambda u, x: u(x) - 1.0, points=4, weight=RAMP),
            Term("late", Uniform(BOX), lambda u, x: u(x) - 2.0, points=3, weight=LATE),
        ]


@pytest.fixture
def step() -> TrainStep:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    return TrainStep(net, Weighted(), Adam(1e-2, schedule=linear_decay(20)), Stein(K=6, sigma=0.1))


def test_the_program_is_the_evaluator_to_the_bit(step: TrainStep) -> None:
    lowered = lower(step)
    assert {"weight:edge", "weight:late"} < set(lowered.params)
    session, evaluator = Session(emit(lowered, Machine.load("pinta"))), EvaluatorSession(lowered)
    step_together(session, evaluator, steps=6)


def test_losses_have_the_weights_of_their_step(step: TrainStep) -> None:
    """Residuals of the float twin, weighted by hand, beside the evaluator and eager torch."""
    twin = SampledStep(step, ExpandOperators().run, dtype=torch.float64)
    exact = EvaluatorSession(lower(step, passes=UNQUANTISED), mode="float64")
    expected_weights = [(2, 50 * min(t + 1, 4), 0 if t < 2 else 5) for t in range(6)]
    optimisation = twin.steps(6)
    for t, weights in enumerate(expected_weights):
        squares = [(r**2).mean().item() for r in twin.residuals(t).values()]
        loss = sum(weight * square for weight, square in zip(weights, squares, strict=True))
        assert twin.loss(t).item() == pytest.approx(loss, rel=1e-12)
        eager = EagerStep(step, dtype=torch.float64, weights=twin.weights())
        assert eager.loss_and_gradients(t)[0] == pytest.approx(loss, rel=1e-5)
        exact.step()
        assert exact.metrics()["loss"] == pytest.approx(loss, rel=1e-5)
        assert exact.metrics()["loss:late"] == pytest.approx(weights[2] * squares[2], rel=1e-5)
        assert next(optimisation) == pytest.approx(loss, rel=1e-12)


def test_training_and_calibration_take_them(step: TrainStep) -> None:
    result = pintac.train(step, 6, progress=False, twin=True)
    losses, beside = ([loss for _, loss, *_ in rows] for rows in (result.history, result.details["history_twin"]))
    assert losses == pytest.approx(beside, rel=0.2)
    calibration = Calibration(step, pipeline(PipelineOptions()), states=None)
    assert np.isfinite(calibration.predicted(dict.fromkeys(calibration.tensors, 8)).largest)
