"""Ops that take points apart or put them together: refused at the user's line, whatever fits into a tile."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pintac.api.emitting import emit
from pintac.api.evaluator import EvaluatorSession
from pintac.api.lowering import lower
from pintac.errors import PintacError
from pintac.frontend import Adam, Problem, SecondDifference, Term, TrainStep, Uniform, grad
from pintac.machine import Machine
from pintac.runtime.session import Session
from tests.end_to_end.agreement import step_together

BOX = [(0.0, 1.0)] * 2
SIZES = (20, 100)
"""Points: of one tile and of several."""
Residual = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]


def sides(x: Tensor) -> tuple[Tensor, Tensor]:
    """The points moved to x_0 = 0 and to x_0 = 1."""
    zero = torch.zeros_like(x[:, :1])
    return torch.cat([zero, x[:, 1:]], 1), torch.cat([zero + 1, x[:, 1:]], 1)


def joined(u: Callable, x: Tensor) -> Tensor:
    y = u(torch.cat(sides(x)))  # here
    return y[: len(x)] - y[len(x) :]


def rolled(u: Callable, x: Tensor) -> Tensor:
    v = u(x)
    return v - v.roll(1, 0)  # here


def shifted(u: Callable, x: Tensor) -> Tensor:
    v = u(x)
    return v - torch.nn.functional.pad(v[4:], (0, 0, 0, 4))  # here


def one_point(u: Callable, x: Tensor) -> Tensor:
    v = u(x)
    return v - v[:1]  # here


def two_calls(u: Callable, x: Tensor) -> Tensor:
    xl, xr = sides(x)
    return u(xl) - u(xr)


def slopes(u: Callable, x: Tensor) -> Tensor:
    xl, xr = sides(x)
    return grad(u, xl)[..., 0] - grad(u, xr)[..., 0]


def centred(u: Callable, x: Tensor) -> Tensor:
    v = u(x)
    return v - v.mean(0, keepdim=True)


def turned_twice(u: Callable, x: Tensor) -> Tensor:
    return torch.tanh(torch.cat([u(x), x], 1).reshape(-1, 1)).reshape(-1, 3)


def step(residual: Residual, points: int) -> TrainStep:
    class Periodic(Problem):
        def terms(self) -> list[Term]:
            return [Term("sides", Uniform(BOX), residual, points=points)]

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    return TrainStep(net, Periodic(), Adam(1e-3), SecondDifference(K=4, sigma=0.05))


@pytest.mark.parametrize("points", SIZES)
@pytest.mark.parametrize("residual", [joined, rolled, shifted, one_point])
def test_what_mixes_points_is_refused_where_it_is_written(residual: Residual, points: int) -> None:
    lines, start = inspect.getsourcelines(residual)
    with pytest.raises(PintacError) as caught:
        emit(lower(step(residual, points)), Machine.default(), effort=0)
    place = caught.value.location
    assert place is not None and place.file.endswith("test_mixing.py")
    assert place.line == start + next(i for i, line in enumerate(lines) if "# here" in line)
    assert "u(xl) - u(xr)" in (caught.value.hint or "")


@pytest.mark.parametrize("points", SIZES)
@pytest.mark.parametrize("residual", [two_calls, slopes, centred, turned_twice])
def test_what_does_not_has_the_bits_of_the_evaluator(residual: Residual, points: int) -> None:
    lowered = lower(step(residual, points))
    session = Session(emit(lowered, Machine.default(), effort=0), "jit")
    step_together(session, EvaluatorSession(lowered), steps=2)
