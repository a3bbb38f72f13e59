"""Small problems and networks, and the evaluation of traced graphs against torch."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from pintac.frontend.estimators import Estimator, Stein
from pintac.frontend.optimizers import Adam
from pintac.frontend.problem import Problem, Term, TrainStep
from pintac.frontend.samplers import Uniform
from pintac.frontend.tracing import trace_infer, trace_step
from pintac.frontend.weights import Layout
from pintac.ir.evaluate import evaluate


class OneTerm(Problem):
    """One term on the unit box with the given residual."""

    def __init__(self, residual: Callable, dims: int = 2, points: int = 7) -> None:
        self.residual, self.dims, self.points = residual, dims, points

    def terms(self) -> list[Term]:
        return [Term("only", Uniform([(0.0, 1.0)] * self.dims), self.residual, points=self.points)]


class Net(nn.Module):
    """forward(x) = fn(x, weight, scale): weight is a [k, 3] parameter, scale a [3] one."""

    def __init__(self, fn: Callable[[Tensor, Tensor, Tensor], Tensor], dims: int = 2) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.fn = fn
        self.weight = nn.Parameter(torch.randn(dims, 3, generator=generator))
        self.scale = nn.Parameter(torch.rand(3, generator=generator) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x, self.weight, self.scale)


def mlp(*widths: int, act: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), act()]
    return nn.Sequential(*layers[:-1])


def make_step(
    net: nn.Module, residual: Callable | None = None, dims: int = 2, estimator: Estimator | None = None, points: int = 7
) -> TrainStep:
    problem = OneTerm(residual or (lambda u, x: u(x)), dims, points)
    return TrainStep(net, problem, Adam(1e-3), estimator or Stein(K=8, sigma=0.1), init="module")


def ir_of_net(net: nn.Module, x: np.ndarray) -> np.ndarray:
    """net(x) by tracing `infer` and evaluating the IR in float64."""
    step = make_step(net, dims=x.shape[1])
    layout = Layout.of(net, step.problem)
    graph, data = trace_infer(step, layout, rows=len(x))
    return evaluate(graph, {**layout.from_module(), **data, "x": x}, {"seed": 0, "step": 0}, mode="float64")["u"]


def torch_of_net(net: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return copy.deepcopy(net).double()(torch.from_numpy(x)).numpy()


def trace_residual(residual: Callable, net: nn.Module | None = None, dims: int = 2, points: int = 7):
    """The `step` graph of a single residual."""
    return trace_step(make_step(net or mlp(dims, 4, 1), residual, dims, points=points))[0]


def points(rows: int, dims: int, seed: int = 0) -> np.ndarray:
    """Points in (0.05, 0.95), exactly representable in fp32."""
    return (np.random.default_rng(seed).random((rows, dims)) * 0.9 + 0.05).astype(np.float32).astype(np.float64)
