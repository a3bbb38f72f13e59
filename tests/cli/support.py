"""What the tests of the command line share: a tiny training step, and the outcome of a command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

TINY = """\
import torch
from pintac import Adam, Boundary, Problem, SecondDifference, Term, TrainStep, TTLinear, Uniform
from pintac import laplacian, linear_decay


class Tiny(Problem):
    def terms(self):
        box = [(0.0, 1.0), (0.0, 1.0)]
        return [
            Term("interior", Uniform(box), self.pde, points=3),
            Term("boundary", Boundary(box), self.bc, points=2, weight=10.0),
        ]

    def pde(self, u, x):
        return laplacian(u, x) + torch.sin(x.sum(-1, keepdim=True))

    def bc(self, u, x):
        return u(x) - self.exact(x)

    def exact(self, x):
        return torch.sin(x.sum(-1, keepdim=True)) / 2


def make(tt_rank=2):
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), TTLinear(8, 8, rank=tt_rank), torch.nn.Tanh(),
                              torch.nn.Linear(8, 1))
    return TrainStep(net, Tiny(), Adam(1e-3, schedule=linear_decay(5)), SecondDifference(K=4, sigma=0.01))


step = make()
not_a_step = 3
"""


@dataclass
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]
