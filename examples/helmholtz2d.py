"""2-D Helmholtz with a gated network: laplacian u + k^2 u = q on the unit square, u = 0 on its boundary.

u = sin(pi x) sin(pi y), so q = (k^2 - 2 pi^2) u. The network multiplies two branches (a gate): DiffQuant carries it as
a product of two perturbed values.

    pintac train examples/helmholtz2d.py:step --twin float
"""

import math

import torch
from torch import nn

import pintac
from pintac import (
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

K2 = 4.0  # k squared


class Helmholtz2D(Problem):
    box = ((0.0, 1.0), (0.0, 1.0))

    def terms(self):
        return [
            Term("interior", Uniform(self.box), self.pde, points=64),
            Term("boundary", Boundary(self.box), self.bc, points=64, weight=100.0),
        ]

    def pde(self, u, x):
        return laplacian(u, x) + K2 * u(x) - (K2 - 2 * math.pi**2) * self.exact(x)

    def bc(self, u, x):
        return u(x)

    def exact(self, x):
        return torch.sin(math.pi * x[:, :1]) * torch.sin(math.pi * x[:, 1:])


class Gated(nn.Module):
    """tanh layers whose output is gated by a sigmoid branch."""

    def __init__(self, width=64, rank=8):
        super().__init__()
        self.lift = nn.Linear(2, width)
        self.gate = nn.Linear(2, width)
        self.middle = TTLinear(width, width, rank=rank)
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        h = torch.tanh(self.lift(x)) * torch.sigmoid(self.gate(x))
        return self.head(h + torch.tanh(self.middle(h)))


step = TrainStep(
    Gated(),
    Helmholtz2D(),
    Adam(3e-3, schedule=linear_decay(4000)),
    OrthonormalDirections(K=4, sigma=0.01),
    name="helmholtz2d",
)

if __name__ == "__main__":
    r = pintac.train(step)
    print(r.l2, r.cycles, r.energy)
