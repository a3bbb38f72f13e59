"""A 100-D heat equation that ranks methods: u_t = laplacian u on [-1, 1]^100, u = exp(-|k|^2 t) sin(k.x).

k = (1, ..., 1) / 10, so |k| = 1; t in [0, 1]. The solution is known at the start and on the faces of the box.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pintac.frontend.operators import dt, laplacian
from pintac.frontend.problem import Problem, Term, TrainStep
from pintac.frontend.problems.common import training_step
from pintac.frontend.samplers import At, Boundary, Product, Uniform

SPACE = 100


class Heat100Wave(Problem):
    """Points (x, t) with 100 + 1 coordinates."""

    def __init__(
        self,
        interior: int = 50,
        initial: int = 50,
        surface: int = 50,
        initial_weight: float = 1000.0,
        surface_weight: float = 1000.0,
    ) -> None:
        self.interior, self.initial, self.surface = interior, initial, surface
        self.initial_weight, self.surface_weight = initial_weight, surface_weight

    def terms(self) -> list[Term]:
        box = [(-1.0, 1.0)] * SPACE
        time = Uniform([(0.0, 1.0)])
        start, surface = Product(Uniform(box), At(0.0)), Product(Boundary(box), time)
        return [
            Term("interior", Product(Uniform(box), time), self.pde, points=self.interior),
            Term("initial", start, self.known, points=self.initial, weight=self.initial_weight),
            Term("surface", surface, self.known, points=self.surface, weight=self.surface_weight),
        ]

    def pde(self, u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return dt(u, x) - laplacian(u, x, dims=slice(0, SPACE))

    def known(self, u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The condition u = exact, at the start and on the faces."""
        return u(x) - self.exact(x)

    def exact(self, x: Tensor) -> Tensor:
        return torch.exp(-x[:, SPACE:]) * torch.sin(x[:, :SPACE].sum(-1, keepdim=True) / 10)


def heat100_wave(
    width: int = 256,
    hidden: int = 3,
    rank: int = 16,
    scheme: str = "prs",
    K: int = 512,
    sigma: float = 0.01,
    estimator: str = "stein",
    lr: float = 1e-3,
    schedule_steps: int = 1000,
    interior: int = 50,
    initial: int = 50,
    surface: int = 50,
    initial_weight: float = 1000.0,
    surface_weight: float = 1000.0,
) -> TrainStep:
    """The training step; options as in `training_step`."""
    return training_step(
        "heat100-wave",
        Heat100Wave(interior, initial, surface, initial_weight, surface_weight),
        SPACE + 1,
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
