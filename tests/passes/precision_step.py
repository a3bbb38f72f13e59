"""A small training step for the tests of bits by tensor; also a user file of the command line."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pintac.frontend import (
    Adam,
    Boundary,
    OrthonormalDirections,
    Problem,
    Term,
    TrainStep,
    TTLinear,
    Uniform,
    laplacian,
    linear_decay,
)


class Poisson(Problem):
    """-laplacian u = sin(x + y) on the unit square."""

    def terms(self) -> list[Term]:
        box = [(0.0, 1.0)] * 2
        return [
            Term("interior", Uniform(box), self.pde, points=8),
            Term("boundary", Boundary(box), self.bc, points=8, weight=300.0),
        ]

    def pde(self, u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return laplacian(u, x) + torch.sin(x.sum(-1, keepdim=True))

    def bc(self, u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return u(x) - torch.sin(x.sum(-1, keepdim=True)) / 2


def make(width: int = 16, rank: int = 4, K: int = 4) -> TrainStep:
    """A dense, a tensor-train and a dense layer."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(2, width), nn.Tanh(), TTLinear(width, width, rank=rank), nn.Tanh(), nn.Linear(width, 1)
    )
    return TrainStep(net, Poisson(), Adam(1e-3, schedule=linear_decay(100)), OrthonormalDirections(K=K, sigma=0.01))


step = make()
