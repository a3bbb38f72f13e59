"""100-D heat equation in the unit ball: u_t = laplacian u, u = |x|^2 / 200 + t at the start, on the surface and inside.

It does not rank methods: u = t alone, and an affine function, come close to the solution (docs/PROBLEMS.md).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pintac.frontend.operators import dt, laplacian
from pintac.frontend.problem import Problem, Term, TrainStep
from pintac.frontend.problems.common import training_step
from pintac.frontend.samplers import At, Ball, Product, Sphere, Uniform

SPACE = 100


class Heat100(Problem):
    """Points (x, t) with 100 + 1 coordinates; t in [0, 1]."""

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
        time = Uniform([(0.0, 1.0)])
        start, surface = Product(Ball(SPACE), At(0.0)), Product(Sphere(SPACE), time)
        return [
            Term("interior", Product(Ball(SPACE), time), self.pde, points=self.interior),
            Term("initial", start, self.known, points=self.initial, weight=self.initial_weight),
            Term("surface", surface, self.known, points=self.surface, weight=self.surface_weight),
        ]

    def pde(self, u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return dt(u, x) - laplacian(u, x, dims=slice(0, SPACE))

    def known(self, u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The condition u = exact, at the start and on the surface."""
        return u(x) - self.exact(x)

    def exact(self, x: Tensor) -> Tensor:
        return (x[:, :SPACE] ** 2).sum(-1, keepdim=True) / 200 + x[:, SPACE:]


def heat100(
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
        "heat100",
        Heat100(interior, initial, surface, initial_weight, surface_weight),
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
