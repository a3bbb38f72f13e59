"""Weight gradients of several products over the same points: each starts when the one before has seen every point.

Directions from tables, where perturbed and base rows share a loop over points, and a network evaluated at two places.
Moments are compared, not weights alone: Adam's first step hides the last bits of a gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pintac.api.emitting import emit
from pintac.api.evaluator import EvaluatorSession
from pintac.api.lowering import lower
from pintac.backend.grouping.prepare import prepare
from pintac.backend.grouping.units import Units, accumulator
from pintac.frontend import (
    Adam,
    OrthonormalDirections,
    Problem,
    QuasiRandom,
    Stein,
    Term,
    TrainStep,
    Uniform,
    laplacian,
    linear_decay,
)
from pintac.frontend.estimators import Estimator
from pintac.machine import Machine
from pintac.passes import PipelineOptions
from pintac.runtime.session import Session
from tests.end_to_end.agreement import step_together


class Mirrored(Problem):
    """laplacian(u) = u at some points, u(x) = u(1 - x) sin(sum x) at others."""

    def __init__(self, points: int) -> None:
        self.points = points

    def terms(self) -> list[Term]:
        box = [(0.0, 1.0)] * 2
        return [
            Term("inside", Uniform(box), self.equation, points=self.points),
            Term("mirror", Uniform(box), self.mirror, points=self.points, weight=3.0),
        ]

    def equation(self, u: Callable, x: Tensor) -> Tensor:
        return laplacian(u, x) - u(x) + 1

    def mirror(self, u: Callable, x: Tensor) -> Tensor:
        return u(x) - u(1 - x) * torch.sin(x.sum(-1, keepdim=True))


def training_step(estimator: Estimator, points: int, widths: tuple[int, int] = (16, 8)) -> TrainStep:
    torch.manual_seed(0)
    first, second = widths
    net = nn.Sequential(nn.Linear(2, first), nn.Tanh(), nn.Linear(first, second), nn.Tanh(), nn.Linear(second, 1))
    return TrainStep(net, Mirrored(points), Adam(1e-3, schedule=linear_decay(10)), estimator)


@pytest.mark.parametrize("quant", ["diff", "even-odd"])
@pytest.mark.parametrize(
    ("estimator", "points"),
    [
        (OrthonormalDirections(K=4, sigma=0.05), 35),
        (OrthonormalDirections(K=6, sigma=0.05), 17),
        (OrthonormalDirections(K=6, sigma=0.05), 75),  # a tile half a turn behind
        (OrthonormalDirections(K=8, sigma=0.05), 33),
        (OrthonormalDirections(K=24, sigma=0.05), 5),  # a loop over pairs
        (QuasiRandom(K=4, sigma=0.05), 35),
        (Stein(K=4, sigma=0.05), 35),
    ],
    ids=str,
)
def test_bits(estimator: Estimator, points: int, quant: str) -> None:
    same_bits(training_step(estimator, points), quant, Machine.default())


def test_a_chain_of_gradients_that_sram_has_no_room_for() -> None:
    step = training_step(OrthonormalDirections(K=4, sigma=0.05), 5, (128, 128))
    same_bits(step, "even-odd", Machine.default().replace(sram_kib=80))


class TwoPlaces(Problem):
    """Derivatives at x and at 1 - x: evaluations of two places whose gradients are one chain."""

    def terms(self) -> list[Term]:
        return [Term("inside", Uniform([(0.0, 1.0)] * 2), self.equation, points=7)]

    def equation(self, u: Callable, x: Tensor) -> Tensor:
        return laplacian(u, x) + laplacian(u, 1 - x) - u(x)


@pytest.mark.parametrize("estimator", [Stein(K=8, sigma=0.05), OrthonormalDirections(K=24, sigma=0.05)], ids=str)
def test_derivatives_at_two_places(estimator: Estimator) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1))
    step = TrainStep(net, TwoPlaces(), Adam(1e-3, schedule=linear_decay(10)), estimator)
    same_bits(step, "even-odd", Machine.default())


def same_bits(step: TrainStep, quant: str, machine: Machine) -> None:
    """One step on the machine and by the evaluator: loss, weights and moments."""
    lowered = lower(step, PipelineOptions.from_bits("8/16/8/12", quant=quant))
    engine, evaluator = Session(emit(lowered, machine), "reference"), EvaluatorSession(lowered)
    step_together(engine, evaluator)
    states = engine.state_arrays()
    assert any(key.startswith("adam.m") for key in states) and all(np.isfinite(v).all() for v in states.values())


@pytest.mark.parametrize(
    ("K", "quant", "looped"),
    [(4, "diff", False), (16, "diff", False), (18, "diff", True), (16, "even-odd", False), (18, "even-odd", True)],
)
def test_no_loop_holds_two_links_of_a_chain(K: int, quant: str, looped: bool) -> None:
    options = PipelineOptions.from_bits("8/16/8/12", quant=quant)
    graph = prepare(lower(training_step(OrthonormalDirections(K=K, sigma=0.05), 35), options).graphs["step"])
    units = Units(graph)
    links = [(node, accumulator(node)) for node in graph.of("matmul_tn")]
    chained = [(node, start) for node, start in links if start is not None and start.op == "matmul_tn"]
    assert chained
    assert all(units.of[node][0] is not units.of[start][0] for node, start in chained)
    kinds = {unit.kind for unit in units.units}
    assert ("evaluations" in kinds) == looped
