"""An inverse problem: how well does a rod conduct heat, by noisy temperatures at some places and times?

u_t = k u_xx on [0, 1] x [0, 1], k = 0.2 is to be found; 200 measurements of exp(-k pi^2 t) sin(pi x), noise of 0.01.

    pintac train examples/diffusivity.py:step --twin float
"""

import math

import numpy as np
import torch

import pintac
from pintac import (
    Adam,
    Boundary,
    OrthonormalDirections,
    Points,
    Problem,
    Term,
    TrainStep,
    Uniform,
    dt,
    laplacian,
    linear_decay,
)

TRUE = 0.2
BOX = [(0.0, 1.0), (0.0, 1.0)]


def measured(count: int = 200, noise: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    """Places and times [count, 2], temperatures [count, 1]."""
    random = np.random.default_rng(0)
    x = random.random((count, 2))
    u = np.exp(-TRUE * math.pi**2 * x[:, 1:]) * np.sin(math.pi * x[:, :1])
    return x, u + noise * random.standard_normal((count, 1))


class Rod(Problem):
    def __init__(self):
        self.k = torch.nn.Parameter(torch.tensor(0.5))
        self.places, self.temperatures = measured()

    def terms(self):
        return [
            Term("heat", Uniform(BOX), self.heat, points=64),
            Term("measured", Points(self.places), self.misfit, values=self.temperatures, weight=100.0),
            Term("ends", Boundary(BOX, axes=[0]), lambda u, x: u(x), points=32, weight=10.0),
        ]

    def heat(self, u, x):
        return dt(u, x) - self.k * laplacian(u, x, dims=slice(0, 1))

    def misfit(self, u, x, values):
        return u(x) - values

    def exact(self, x):
        return torch.exp(-TRUE * math.pi**2 * x[:, 1:]) * torch.sin(math.pi * x[:, :1])


net = torch.nn.Sequential(
    torch.nn.Linear(2, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1)
)
step = TrainStep(net, Rod(), Adam(5e-3, schedule=linear_decay(5000)), OrthonormalDirections(K=4, sigma=0.02))

if __name__ == "__main__":
    r = pintac.train(step)
    print(r.l2, r.parameters["problem.k"])
