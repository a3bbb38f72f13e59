"""Sums, means and maxima over points, parameters and axes of both: programs and the evaluator agree to the bit.

Whether points are rows or the last axis, few or of several tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pintac import Adam, Boundary, Points, Problem, SecondDifference, Term, TrainStep, grad, laplacian
from pintac.api.emitting import emit
from pintac.api.evaluator import EvaluatorSession
from pintac.api.lowering import lower
from pintac.hazards import check
from pintac.machine import Machine
from pintac.passes import PipelineOptions
from pintac.runtime.session import Session
from tests.end_to_end.agreement import step_together

SQUARE = [(0.0, 1.0), (0.0, 1.0)]


class Summed(Problem):
    """A residual of the problem, u and x, on `count` points, with a coefficient and the network at hand."""

    def __init__(self, net: nn.Module, residual: Callable[[Any, Any, Tensor], Tensor], count: int) -> None:
        self.net, self.residual, self.count = net, residual, count
        self.k = nn.Parameter(torch.tensor(0.5))

    def terms(self) -> list[Term]:
        points = Points(np.random.default_rng(0).random((self.count, 2)))
        return [
            Term("sums", points, lambda u, x: self.residual(self, u, x)),
            Term("boundary", Boundary(SQUARE), lambda u, x: u(x) - 1, points=5),
        ]


def squares(x: Tensor) -> Tensor:
    return x[:, :, None] * x[:, None, :]


RESIDUALS: dict[str, Callable[[Any, Any, Tensor], Tensor]] = {
    "a mean of all": lambda s, u, x: laplacian(u, x) - u(x).mean(),
    "a sum of all": lambda s, u, x: u(x) - u(x).sum() / 8,
    "nothing but a mean": lambda s, u, x: (u(x).mean() - 1) * torch.ones(s.count, 1),
    "a mean of derivatives": lambda s, u, x: u(x) - laplacian(u, x).mean(),
    "a norm": lambda s, u, x: laplacian(u, x) / u(x).pow(2).mean().sqrt(),
    "all parameters": lambda s, u, x: laplacian(u, x) + 1e-3 * sum(p.pow(2).sum() for p in s.net.parameters()),
    "a mean of one axis": lambda s, u, x: u(x)[:, 0] - u(x)[:, 0].mean(0, keepdim=True),
    "a coefficient of one axis": lambda s, u, x: s.k * u(x)[:, 0] - 1,
    "a product of two": lambda s, u, x: u(x) * torch.dot(u(x)[:, 0], x[:, 0]),
    "a maximum of one axis": lambda s, u, x: u(x) * x[:, 0].amax(),
    "points last": lambda s, u, x: u(x) * x.T.sum(1)[:1],
    "points last and all": lambda s, u, x: u(x) * x.T.sum(),
    "points last and kept": lambda s, u, x: (x * s.k * u(x)).T.sum(0) - 1,
    "a product of matrices": lambda s, u, x: u(x) * torch.einsum("ni,nj->ij", u(x), x)[:, :1],
    "an axis between": lambda s, u, x: u(x) * squares(x).mean((0, 2))[1:],
    "a maximum around one": lambda s, u, x: u(x) * squares(x).amax((0, 2))[1:],
    "an axis of one between": lambda s, u, x: u(x) * grad(u, x).sum((0, 2)),
    "two axes left": lambda s, u, x: u(x) * grad(u, x).mean(0)[:, :1],
}


@pytest.mark.parametrize("quantisation", ["diff", "even-odd"])
@pytest.mark.parametrize("count", [1, 7, 33])
@pytest.mark.parametrize("name", RESIDUALS)
def test_sums_in_a_residual(name: str, count: int, quantisation: str) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    step = TrainStep(net, Summed(net, RESIDUALS[name], count), Adam(1e-2), SecondDifference(K=8, sigma=0.01))
    lowered = lower(step, PipelineOptions(quant=quantisation))
    program = emit(lowered, Machine.default(), effort=0.0)
    assert check(program).clean
    step_together(Session(program), EvaluatorSession(lowered), steps=2)
