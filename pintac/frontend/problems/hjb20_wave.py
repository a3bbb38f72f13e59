"""A 20-D Hamilton-Jacobi-Bellman equation that ranks methods: u_t + laplacian u - |grad u|^2 = 0.

By the Cole-Hopf transform u = -log v, where v solves the heat equation v_t + laplacian v = 0 backwards in time. Here
v = 1 + sin(k.x) exp(-(1 - t)) / 2 with |k| = 1, k = (1, ..., 1) / sqrt 20, on [-1, 1]^20 x [0, 1]: the reference is a
closed form. The terminal value g(x) = u(x, 1) is built in, u = g(x) + (1 - t) net(x, t); the solution is known on the
faces of the box, without which it would not be unique.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pintac.frontend.operators import dt, grad, laplacian
from pintac.frontend.problem import Problem, Term, TrainStep
from pintac.frontend.problems.common import training_step
from pintac.frontend.samplers import Boundary, Product, Uniform

SPACE = 20
WAVE_NUMBER = 1 / math.sqrt(SPACE)
"""Every component of k."""

AMPLITUDE = 0.5


class HJB20Wave(Problem):
    """Points (x, t) with 20 + 1 coordinates."""

    def __init__(self, points: int = 100, surface: int = 100, surface_weight: float = 100.0) -> None:
        self.points, self.surface, self.surface_weight = points, surface, surface_weight

    def terms(self) -> list[Term]:
        box = [(-1.0, 1.0)] * SPACE
        time = Uniform([(0.0, 1.0)])
        faces = Product(Boundary(box), time)
        return [
            Term("interior", Product(Uniform(box), time), self.pde, points=self.points),
            Term("surface", faces, self.known, points=self.surface, weight=self.surface_weight),
        ]

    def u(self, net: nn.Module, x: Tensor) -> Tensor:
        result: Tensor = self.terminal(x) + (1 - x[:, SPACE:]) * net(x)
        return result

    def terminal(self, x: Tensor) -> Tensor:
        """g(x) = u(x, 1)."""
        return -torch.log(1 + AMPLITUDE * self.wave(x))

    def wave(self, x: Tensor) -> Tensor:
        return torch.sin(WAVE_NUMBER * x[:, :SPACE].sum(-1, keepdim=True))

    def pde(self, u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        slope = grad(u, x)[:, 0, :SPACE]
        return dt(u, x) + laplacian(u, x, dims=slice(0, SPACE)) - (slope**2).sum(-1, keepdim=True)

    def known(self, u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The condition u = exact on the faces."""
        return u(x) - self.exact(x)

    def exact(self, x: Tensor) -> Tensor:
        return -torch.log(1 + AMPLITUDE * self.wave(x) * torch.exp(x[:, SPACE:] - 1))


def hjb20_wave(
    width: int = 256,
    hidden: int = 3,
    rank: int = 16,
    scheme: str = "prs",
    K: int = 512,
    sigma: float = 0.01,
    estimator: str = "stein",
    lr: float = 1e-3,
    schedule_steps: int = 1000,
    points: int = 100,
    surface: int = 100,
    surface_weight: float = 100.0,
) -> TrainStep:
    """The training step; options as in `training_step`."""
    return training_step(
        "hjb20-wave",
        HJB20Wave(points, surface, surface_weight),
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
