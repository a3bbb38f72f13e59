"""Training steps drawn at random: networks, hard constraints, terms of the loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from pintac.frontend import (
    Adam,
    Boundary,
    Problem,
    SecondDifference,
    Stein,
    Term,
    TrainStep,
    TTLinear,
    Uniform,
    dt,
    grad,
    laplacian,
)

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sin": torch.sin,
    "cos": torch.cos,
    "sigmoid": torch.sigmoid,
    "silu": nn.functional.silu,
    "exp": lambda z: torch.exp(-z * z),
}


class Layer(nn.Module):
    """A linear or TT layer, its activation, and how it joins what came before."""

    def __init__(self, inputs: int, outputs: int, activation: str, join: str, tt: Sequence[int] | None) -> None:
        super().__init__()
        self.main = make_linear(inputs, outputs, tt)
        self.gate = make_linear(inputs, outputs, None) if join in ("gate", "quotient") else None
        self.activation, self.join = ACTIVATIONS[activation], join

    def forward(self, h: Tensor) -> Tensor:
        y = self.activation(self.main(h))
        if self.gate is not None:
            gate = torch.sigmoid(self.gate(h))
            y = y * gate if self.join == "gate" else y / (gate + 0.5)
        if self.join == "concat":
            y = torch.cat([y[:, ::1], h[:, :1]], 1)
        return y + h if self.join == "residual" and y.shape == h.shape else y


def make_linear(inputs: int, outputs: int, tt: Sequence[int] | None) -> nn.Module:
    if tt is None:
        return nn.Linear(inputs, outputs)
    in_factors, out_factors = factors(inputs), factors(outputs)
    bonds = len(in_factors) + len(out_factors) - 1
    return TTLinear(
        inputs,
        outputs,
        in_factors=in_factors,
        out_factors=out_factors,
        ranks=[bound(rank, k, in_factors + out_factors) for k, rank in enumerate(itertools.islice(tt, bonds))],
    )


def factors(size: int) -> list[int]:
    """Prime factors, at most three numbers."""
    found, n, p = [], size, 2
    while n > 1:
        if n % p == 0:
            found.append(p)
            n //= p
        else:
            p += 1
    while len(found) > 3:
        found = sorted([found[0] * found[1], *found[2:]])
    return found or [1]


def bound(rank: int, k: int, sizes: Sequence[int]) -> int:
    """A rank that means something at bond k."""
    left, right = 1, 1
    for size in sizes[: k + 1]:
        left *= size
    for size in sizes[k + 1 :]:
        right *= size
    return min(rank, left, right)


class Network(nn.Module):
    def __init__(self, dims: int, layers: Sequence[dict[str, Any]], outputs: int) -> None:
        super().__init__()
        width = dims
        stack = []
        for layer in layers:
            stack.append(Layer(width, **layer))
            width = layer["outputs"] + (layer["join"] == "concat")
        self.stack = nn.Sequential(*stack)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stack(2.0 * x - 1.0))


class DrawnProblem(Problem):
    """Terms by name, a constraint by name; residuals of every kind that the operators allow."""

    def __init__(self, dims: int, constraint: str, terms: Sequence[str], points: Sequence[int]) -> None:
        self.dims, self.constraint, self.names, self.points = dims, constraint, terms, points

    def terms(self) -> list[Term]:
        box = [(0.0, 1.0)] * self.dims
        made = []
        for index, (name, points) in enumerate(zip(self.names, self.points, strict=False)):
            sampler = Boundary(box) if name == "boundary" else Uniform(box)
            made.append(Term(f"{name}_{index}", sampler, getattr(self, name), points=points, weight=1.0 + 2.5 * index))
        return made

    def u(self, net: nn.Module, x: Tensor) -> Tensor:
        f = net(x)
        distance = (x * (1 - x)).prod(1, keepdim=True) if self.dims == 1 else x[:, :1] * (1 - x[:, 1:2])
        if self.constraint == "product":
            return torch.sin(x.sum(1, keepdim=True)) - distance * (2.0 * f - x[:, :1])
        if self.constraint == "quotient":
            return f * torch.exp(-x[:, :1]) / (1 + distance)
        if self.constraint == "network product":
            return distance * f * torch.tanh(net(x))
        return f

    def poisson(self, u: Callable, x: Tensor) -> Tensor:
        return laplacian(u, x) + torch.sin(x.sum(-1, keepdim=True))

    def heat(self, u: Callable, x: Tensor) -> Tensor:
        if self.dims == 1:
            return dt(u, x) - u(x)
        return dt(u, x) - 0.3 * laplacian(u, x, dims=slice(0, -1))

    def burgers(self, u: Callable, x: Tensor) -> Tensor:
        return u(x) * grad(u, x)[..., 0] + u(x) ** 2 - torch.cos(x[:, :1])

    def eikonal(self, u: Callable, x: Tensor) -> Tensor:
        return (grad(u, x) ** 2).sum(-1) - 1.0

    def reaction(self, u: Callable, x: Tensor) -> Tensor:
        v = u(x)
        return 0.1 * laplacian(u, x) + v - v**3

    def boundary(self, u: Callable, x: Tensor) -> Tensor:
        return u(x) - torch.sin(3 * x[:, :1])


RESIDUALS = ("poisson", "heat", "burgers", "eikonal", "reaction", "boundary")


@st.composite
def train_steps(draw: st.DrawFn) -> TrainStep:
    """A TrainStep with 1 to 3 terms on a network of 1 to 3 layers of odd and even widths."""
    dims = draw(st.integers(1, 3))
    layer = st.fixed_dictionaries(
        {
            "outputs": st.integers(1, 9),
            "activation": st.sampled_from(sorted(ACTIVATIONS)),
            "join": st.sampled_from(["plain", "residual", "gate", "quotient", "concat"]),
            "tt": st.none() | st.lists(st.integers(1, 3), min_size=5, max_size=5),
        }
    )
    layers = draw(st.lists(layer, min_size=1, max_size=3))
    names = draw(st.lists(st.sampled_from(RESIDUALS), min_size=1, max_size=3))
    points = draw(st.lists(st.integers(1, 6), min_size=3, max_size=3))
    constraint = draw(st.sampled_from(["none", "product", "quotient", "network product"]))
    kind = draw(st.sampled_from([Stein, SecondDifference]))
    estimator = kind(K=2 * draw(st.integers(2, 5)), sigma=draw(st.sampled_from([0.01, 0.1])))
    net = Network(dims, layers, draw(st.integers(1, 2)))
    problem = DrawnProblem(dims, constraint, names, points)
    return TrainStep(net, problem, Adam(1e-3), estimator)
