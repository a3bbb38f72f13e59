"""2-D Poisson: the file of the README.

python examples/poisson2d.py
pintac train examples/poisson2d.py:step --steps 100
"""

import torch

import pintac
from pintac import (
    Adam,
    Boundary,
    Problem,
    SecondDifference,
    Term,
    TrainStep,
    TTLinear,
    Uniform,
    laplacian,
    linear_decay,
)


class Poisson2D(Problem):
    def terms(self):
        box = [(0.0, 1.0), (0.0, 1.0)]
        return [
            Term("interior", Uniform(box), self.pde, points=100),
            Term("boundary", Boundary(box), self.bc, points=100, weight=300.0),
        ]

    def pde(self, u, x):
        return laplacian(u, x) + torch.sin(x.sum(-1, keepdim=True))

    def bc(self, u, x):
        return u(x) - self.exact(x)

    def exact(self, x):
        return torch.sin(x.sum(-1, keepdim=True)) / 2  # optional: no exact, no l2


net = torch.nn.Sequential(
    torch.nn.Linear(2, 256),
    torch.nn.Tanh(),
    TTLinear(256, 256, rank=16),
    torch.nn.Tanh(),
    TTLinear(256, 256, rank=16),
    torch.nn.Tanh(),
    torch.nn.Linear(256, 1),
)
step = TrainStep(net, Poisson2D(), Adam(1e-3, schedule=linear_decay(1000)), SecondDifference(K=512, sigma=0.01))

if __name__ == "__main__":
    r = pintac.train(step, steps=1000)  # progress bar in a terminal or a notebook
    print(r.l2, r.cycles, r.energy)
    net.load_state_dict(r.state_dict())
