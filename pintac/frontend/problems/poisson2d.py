"""2-D Poisson: -laplacian u = sin(x + y) on the unit square, u = sin(x + y) / 2 on its boundary and inside."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pintac.frontend.operators import laplacian
from pintac.frontend.problem import Problem, Term, TrainStep
from pintac.frontend.problems.common import training_step
from pintac.frontend.samplers import Boundary, Uniform


class Poisson2D(Problem):
    """laplacian u + sin(x + y) = 0 in the unit square, u known on the boundary."""

    def __init__(self, interior: int = 100, boundary: int = 100, weight: float = 300.0) -> None:
        self.interior, self.boundary, self.weight = interior, boundary, weight

    def terms(self) -> list[Term]:
        box = [(0.0, 1.0), (0.0, 1.0)]
        return [
            Term("interior", Uniform(box), self.pde, points=self.interior),
            Term("boundary", Boundary(box), self.bc, points=self.boundary, weight=self.weight),
        ]

    def pde(self, u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return laplacian(u, x) + torch.sin(x.sum(-1, keepdim=True))

    def bc(self, u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return u(x) - self.exact(x)

    def exact(self, x: Tensor) -> Tensor:
        return torch.sin(x.sum(-1, keepdim=True)) / 2


def poisson2d(
    width: int = 256,
    hidden: int = 3,
    rank: int = 16,
    scheme: str = "prs",
    K: int = 512,
    sigma: float = 0.01,
    estimator: str = "stein",
    lr: float = 1e-3,
    schedule_steps: int = 1000,
    interior: int = 100,
    boundary: int = 100,
    weight: float = 300.0,
) -> TrainStep:
    """The training step of the measurement protocol (NUMERICS 9); options as in `training_step`."""
    return training_step(
        "poisson2d",
        Poisson2D(interior, boundary, weight),
        2,
        width=width,
        hidden=hidden,
        rank=rank,
        scheme=scheme,
        K=K,
        sigma=sigma,
        estimator=estimator,
        lr=lr,
        schedule_steps=schedule_steps,
    )
