"""Korteweg-de Vries, an equation of third order, as a system of two of second order.

u_t + 6 u u_x + u_xxx = 0 on [-5, 5] x [0, 2]; the soliton u = sech^2((x - t) / 2) / 2 is exact. v = u_xx is the
network's second output, so that no derivative is higher than the second: u_t + 6 u u_x + v_x = 0, v = u_xx.

    pintac train examples/kdv_soliton.py:step --twin float
"""

import torch

import pintac
from pintac import (
    Adam,
    At,
    Boundary,
    OrthonormalDirections,
    Problem,
    Product,
    Term,
    TrainStep,
    TTLinear,
    Uniform,
    dt,
    grad,
    laplacian,
    linear_decay,
)

SPACE, TIME = [(-5.0, 5.0)], [(0.0, 2.0)]


class KortewegDeVries(Problem):
    def terms(self):
        return [
            Term("pde", Uniform(SPACE + TIME), self.pde, points=128),
            Term("start", Product(Uniform(SPACE), At(0.0)), self.known, points=64, weight=10.0),
            Term("ends", Boundary(SPACE + TIME, axes=[0]), self.known, points=32, weight=10.0),
        ]

    def pde(self, u, x):
        w, first = u(x), grad(u, x)  # [n, 2], [n, 2, 2]
        u_x, v_x = first[:, 0, :1], first[:, 1, :1]
        u_xx = laplacian(u, x, dims=slice(0, 1))[:, :1]
        return torch.cat([dt(u, x)[:, :1] + 6 * w[:, :1] * u_x + v_x, w[:, 1:] - u_xx], -1)

    def known(self, u, x):
        return u(x) - self.exact(x)

    def exact(self, x):
        z = x[:, :1] - x[:, 1:]
        u = 2 / (torch.exp(z / 2) + torch.exp(-z / 2)) ** 2
        return torch.cat([u, u - 3 * u * u], -1)


net = torch.nn.Sequential(
    torch.nn.Linear(2, 64),
    torch.nn.Tanh(),
    TTLinear(64, 64, rank=16),
    torch.nn.Tanh(),
    TTLinear(64, 64, rank=16),
    torch.nn.Tanh(),
    torch.nn.Linear(64, 2),
)
step = TrainStep(
    net, KortewegDeVries(), Adam(3e-3, schedule=linear_decay(4000)), OrthonormalDirections(K=4, sigma=0.02)
)

if __name__ == "__main__":
    r = pintac.train(step)
    print(r.l2, r.cycles, r.energy)
