"""Equations as people write them: programs and the evaluator agree to the bit, whatever derivatives the terms have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pintac import (
    Adam,
    At,
    Boundary,
    Mixture,
    OrthonormalDirections,
    Problem,
    Product,
    SecondDifference,
    Term,
    TrainStep,
    Uniform,
    dt,
    grad,
    laplacian,
)
from pintac.api.emitting import emit
from pintac.api.evaluator import EvaluatorSession
from pintac.api.lowering import lower
from pintac.hazards import check
from pintac.machine import Machine
from pintac.passes import PipelineOptions
from pintac.program import Program
from pintac.program_file import from_bytes
from pintac.runtime.session import Session
from tests.end_to_end.agreement import step_together

SQUARE = [(0.0, 1.0), (0.0, 1.0)]
Residual = Callable[[Any, Tensor], Tensor]


class Equation(Problem):
    def __init__(self, *terms: Term, coefficient: bool = False) -> None:
        super().__init__()
        self.given = list(terms)
        self.k = nn.Parameter(torch.tensor(0.5)) if coefficient else None

    def terms(self) -> list[Term]:
        if self.k is not None:
            return [Term("pde", Uniform(SQUARE), lambda u, x: self.k * laplacian(u, x) - 1, points=6)]
        return self.given


class Ansatz(Equation):
    """A solution that is a network times what fixed coefficients make of the points."""

    def u(self, net: Any, x: Tensor) -> Tensor:
        return net(x) * (x @ PLANE_WAVE)[:, None] + torch.sin(x @ COEFFICIENTS).sum(-1, keepdim=True)


class Swapped(nn.Module):
    """Features cut in two and put together again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.tanh(self.first(x)).chunk(2, -1)
        return self.last(torch.cat([b, a * b], -1))


class Arctan(nn.Module):
    """An activation of many operations."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.atan(self.first(x)))


def mlp(outputs: int = 1) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, outputs))


def in_space(u: Any, x: Tensor) -> Tensor:
    return laplacian(u, x, dims=slice(0, 1))


def values_and_rate(u: Any, x: Tensor) -> Tensor:
    return torch.cat([u(x), dt(u, x)], -1)


HEAT = (
    Term("pde", Uniform(SQUARE), lambda u, x: dt(u, x) - in_space(u, x), points=8),
    Term("boundary", Boundary(SQUARE), lambda u, x: u(x), points=5),
)
WAVE = (
    Term("pde", Uniform(SQUARE), lambda u, x: laplacian(u, x, dims=slice(1, 2)) - in_space(u, x), points=8),
    Term("start", Product(Uniform(SQUARE[:1]), At(0.0)), values_and_rate, points=4, weight=10.0),
    Term("boundary", Boundary(SQUARE, axes=[0]), lambda u, x: u(x), points=4),
)
PRODUCT = (Term("pde", Uniform(SQUARE), lambda u, x: u(x) * grad(u, x)[..., 0], points=6),)
ANGLES = (
    Term("pde", Uniform(SQUARE), lambda u, x: laplacian(u, x) - torch.sign(x[:, :1] - 0.5), points=8),
    Term("boundary", Boundary(SQUARE), lambda u, x: u(x) - torch.atan2(x[:, 1:] - 0.5, x[:, :1] - 0.5), points=5),
)
CHECKERS = (
    Term("pde", Uniform(SQUARE), lambda u, x: laplacian(u, x) - torch.floor(4 * x).sum(1, keepdim=True) % 2, points=8),
    Term("edge", Boundary(SQUARE), lambda u, x: u(x) - torch.round(9 * u(x)) / 9 - torch.frac(2 * x[:, :1]), points=5),
)
EDGE = Boundary(SQUARE)
NEUMANN = (
    Term("pde", Mixture(Uniform(SQUARE), Uniform([(1.0, 2.0), (0.0, 1.0)])), lambda u, x: laplacian(u, x), points=8),
    Term("flux", EDGE, lambda u, x: (grad(u, x)[:, 0] * EDGE.normal(x)).sum(-1, keepdim=True) - 1, points=5),
)
CUT = (
    Term("pde", Uniform(SQUARE), lambda u, x: laplacian(u, x) - 1, points=8),
    Term("start", Boundary(SQUARE), values_and_rate, points=4),
)
COEFFICIENTS = torch.tensor([[1.0, 0.3, -0.2], [0.05, 2.0, 0.7]])
PLANE_WAVE = torch.tensor([0.3, 2.0])
DIFFUSION = (
    Term("pde", Uniform(SQUARE), lambda u, x: laplacian(u, x) + grad(u, x)[:, 0] @ COEFFICIENTS, points=20),
    Term("wave", Uniform(SQUARE), lambda u, x: u(x) - torch.sin(x @ PLANE_WAVE)[:, None], points=9),
)


def step(net: nn.Module, equation: Problem, estimator: Any = None) -> TrainStep:
    return TrainStep(net, equation, Adam(1e-2), estimator or SecondDifference(K=8, sigma=0.01))


STEPS: dict[str, Callable[[], TrainStep]] = {
    "heat, one direction": lambda: step(mlp(), Equation(*HEAT), OrthonormalDirections(K=4, sigma=0.01)),
    "heat": lambda: step(mlp(), Equation(*HEAT)),
    "wave": lambda: step(mlp(), Equation(*WAVE), SecondDifference(K=16, sigma=0.01)),
    "three outputs": lambda: step(mlp(3), Equation(*PRODUCT)),
    "features cut": lambda: step(Swapped(), Equation(*CUT)),
    "fixed coefficients": lambda: step(mlp(), Equation(*DIFFUSION)),
    "coefficients in the solution": lambda: step(mlp(), Ansatz(*HEAT)),
    "angles": lambda: step(Arctan(), Equation(*ANGLES)),
    "floor and round": lambda: step(mlp(), Equation(*CHECKERS)),
    "neumann on an L": lambda: step(mlp(), Equation(*NEUMANN)),
    "a coefficient": lambda: step(mlp(), Equation(coefficient=True)),
}
QUANTISATIONS: dict[str, dict[str, str]] = {
    "diff": {},
    "even-odd": {"quant": "even-odd"},
    "packed": {"quant": "even-odd", "rows": "packed"},
    "naive": {"quant": "naive"},
}


@pytest.mark.parametrize("quantisation", QUANTISATIONS)
@pytest.mark.parametrize("name", STEPS)
def test_program_and_evaluator_agree(name: str, quantisation: str) -> None:
    torch.manual_seed(1)
    lowered = lower(STEPS[name](), PipelineOptions(**QUANTISATIONS[quantisation]))
    program = emit(lowered, Machine.default())
    assert check(program).clean
    program = from_bytes(program.to_bytes())
    assert isinstance(program, Program)
    step_together(Session(program), EvaluatorSession(lowered), steps=3)
