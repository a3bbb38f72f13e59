"""20-D Hamilton-Jacobi-Bellman equation: u_t + laplacian u - 0.05 |grad u|^2 = -2, u(x, 1) = sum x.

On [0, 1]^20 x [0, 1]; the solution is sum x + 1 - t. The terminal condition is built in:
u = sum x + (1 - t) net(x, t), so the network has to become the constant 1. It does not rank methods (docs/PROBLEMS.md).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from pintac.frontend.operators import dt, grad, laplacian
from pintac.frontend.problem import Problem, Term, TrainStep
from pintac.frontend.problems.common import training_step
from pintac.frontend.samplers import Uniform

SPACE = 20


class HJB20(Problem):
    """Points (x, t) with 20 + 1 coordinates."""

    def __init__(self, points: int = 100) -> None:
        self.points = points

    def terms(self) -> list[Term]:
        return [Term("interior", Uniform([(0.0, 1.0)] * (SPACE + 1)), self.pde, points=self.points)]

    def u(self, net: nn.Module, x: Tensor) -> Tensor:
        space, time = x[:, :SPACE], x[:, SPACE:]
        result: Tensor = space.sum(-1, keepdim=True) + (1 - time) * net(x)
        return result

    def pde(self, u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        slope = grad(u, x)[:, 0, :SPACE]
        return dt(u, x) + laplacian(u, x, dims=slice(0, SPACE)) - 0.05 * (slope**2).sum(-1, keepdim=True) + 2

    def exact(self, x: Tensor) -> Tensor:
        return x[:, :SPACE].sum(-1, keepdim=True) + 1 - x[:, SPACE:]


def hjb20(
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
) -> TrainStep:
    """The training step; options as in `training_step`."""
    return training_step(
        "hjb20",
        HJB20(points),
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
