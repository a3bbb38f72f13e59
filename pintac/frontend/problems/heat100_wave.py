"""A 100-D heat equation that ranks methods: u_t = laplacian u on [-1, 1]^100, u = exp(-|k|^2 t) sin(k.x).

k = (1, ..., 1) / 10, so |k| = 1; t in [0, 1]. The solution is known at the start and on the faces of the box.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pintac.frontend.problem import TrainStep
from pintac.frontend.problems.common import training_step
from pintac.frontend.problems.heat100 import SPACE, Heat100
from pintac.frontend.samplers import Boundary, Sampler, Uniform


class Heat100Wave(Heat100):
    """The same equation and terms in a box: points (x, t) with 100 + 1 coordinates."""

    def space(self) -> tuple[Sampler, Sampler]:
        """Where x is drawn from: inside, and on the faces."""
        box = [(-1.0, 1.0)] * SPACE
        return Uniform(box), Boundary(box)

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
