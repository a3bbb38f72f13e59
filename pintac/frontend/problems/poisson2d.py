"""2-D Poisson: -laplacian u = sin(x + y) on the unit square, u = sin(x + y) / 2 on its boundary and inside."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pintac.errors import UsageError, suggest
from pintac.frontend.estimators import Estimator, SecondDifference, Stein
from pintac.frontend.layers import TTLinear
from pintac.frontend.operators import laplacian
from pintac.frontend.problem import Adam, Problem, Term, TrainStep
from pintac.frontend.samplers import Boundary, Uniform
from pintac.frontend.schedules import linear_decay

ESTIMATORS: dict[str, type[Estimator]] = {"stein": Stein, "second-difference": SecondDifference}


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


def network(inputs: int, outputs: int, width: int, hidden: int, rank: int, scheme: str) -> nn.Sequential:
    """A tanh network with `hidden` hidden layers; first and last layer dense, those between TT layers (or dense)."""
    layers: list[nn.Module] = [nn.Linear(inputs, width), nn.Tanh()]
    for _ in range(hidden - 1):
        layers += [nn.Linear(width, width) if scheme == "dense" else TTLinear(width, width, rank=rank), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


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
    """The training step of the measurement protocol (NUMERICS 9).

    `hidden` counts hidden layers: 3 is 2-256-256-256-1 with two TT layers. `scheme` "prs" and "sequential" have TT
    layers (their order of contraction is chosen when compiling), "dense" has Linear ones. `schedule_steps` is the N of
    the linear decay of the learning rate.
    """
    if scheme not in ("prs", "sequential", "dense"):
        raise UsageError(f"unknown scheme {scheme!r}", hint=suggest(scheme, ["prs", "sequential", "dense"]))
    if estimator not in ESTIMATORS:
        raise UsageError(f"unknown estimator {estimator!r}", hint=suggest(estimator, list(ESTIMATORS)))
    if hidden < 1 or width < 1:
        raise UsageError(f"poisson2d needs at least one hidden layer and unit, got hidden={hidden}, width={width}")
    net = network(2, 1, width, hidden, rank, scheme)
    problem = Poisson2D(interior, boundary, weight)
    sampling = ESTIMATORS[estimator](K=K, sigma=sigma)
    return TrainStep(net, problem, Adam(lr, schedule=linear_decay(schedule_steps)), sampling, name="poisson2d")
