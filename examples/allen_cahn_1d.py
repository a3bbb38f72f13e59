"""Steady 1-D Allen-Cahn, a nonlinear equation with a hard boundary constraint.

eps^2 u'' + u - u^3 = 0 on [-1, 1], u(+-1) = +-tanh(1 / (eps sqrt 2)); the exact solution is tanh(x / (eps sqrt 2)).

    pintac train examples/allen_cahn_1d.py:step --twin float
"""

import math

import torch

import pintac
from pintac import Adam, Problem, SecondDifference, Term, TrainStep, TTLinear, Uniform, laplacian, linear_decay

EPS = 0.5


class AllenCahn1D(Problem):
    edge = math.tanh(1 / (EPS * math.sqrt(2)))

    def terms(self):
        return [Term("interior", Uniform([(-1.0, 1.0)]), self.pde, points=64)]

    def u(self, net, x):
        """Right at the ends, whatever the network does there."""
        return self.edge * x + (1 - x * x) * net(x)

    def pde(self, u, x):
        v = u(x)
        return EPS**2 * laplacian(u, x) + v - v**3

    def exact(self, x):
        return torch.tanh(x / (EPS * math.sqrt(2)))


net = torch.nn.Sequential(
    torch.nn.Linear(1, 64),
    torch.nn.Tanh(),
    TTLinear(64, 64, rank=8),
    torch.nn.Tanh(),
    torch.nn.Linear(64, 1),
)
step = TrainStep(net, AllenCahn1D(), Adam(3e-3, schedule=linear_decay(1000)), SecondDifference(K=64, sigma=0.01))

if __name__ == "__main__":
    r = pintac.train(step)
    print(r.l2, r.cycles, r.energy)
