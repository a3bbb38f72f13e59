"""Models and problems as people combine them, drawn part by part (hypothesis)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from pintac import (
    Adam,
    Boundary,
    OrthonormalDirections,
    Problem,
    QuasiRandom,
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
from pintac.machine import Machine
from pintac.passes import PipelineOptions

Residual = Callable[[Any, Tensor], Tensor]


class Layer(nn.Module):
    """What a hidden layer makes of features h [N, w]: subclasses also get those of the first layer, and the points."""

    inputs = 1  # layer widths of features that its linear layer reads

    def __init__(self, width: int, dims: int) -> None:
        super().__init__()
        self.width = width
        self.linear: nn.Module = nn.Linear(self.inputs * width, width)

    def forward(self, h: Tensor, first: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(h))


class TensorTrain(Layer):
    def __init__(self, width: int, dims: int) -> None:
        super().__init__(width, dims)
        self.linear = TTLinear(width, width, rank=3)


class Residuals(Layer):
    def forward(self, h: Tensor, first: Tensor, x: Tensor) -> Tensor:
        return h + torch.tanh(self.linear(h))


class Gated(Layer):
    def __init__(self, width: int, dims: int) -> None:
        super().__init__(width, dims)
        self.gate = nn.Linear(dims, width)

    def forward(self, h: Tensor, first: Tensor, x: Tensor) -> Tensor:
        z = torch.sigmoid(self.gate(x))
        return z * h + (1 - z) * torch.tanh(self.linear(h))


class ByCoordinate(Layer):
    def forward(self, h: Tensor, first: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(h)) * (1 + x[:, :1])


class Joined(Layer):
    inputs = 2

    def forward(self, h: Tensor, first: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(torch.cat([h, first], -1)))


class ByFeature(Layer):
    def forward(self, h: Tensor, first: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(h)) * h[:, 1:2]


class Summed(Layer):
    def forward(self, h: Tensor, first: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(h) + h.sum(-1, keepdim=True))


class Halved(Layer):
    def forward(self, h: Tensor, first: Tensor, x: Tensor) -> Tensor:
        a, b = torch.tanh(self.linear(h)).chunk(2, -1)
        return torch.cat([b, a * b], -1)


class Twice(Layer):
    def forward(self, h: Tensor, first: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(torch.tanh(self.linear(h))))


class Transposed(Layer):
    def forward(self, h: Tensor, first: Tensor, x: Tensor) -> Tensor:
        parts = torch.tanh(self.linear(h)).reshape(-1, 4, self.width // 4)
        return parts.transpose(1, 2).reshape(-1, self.width)


class Slope(Layer):
    def __init__(self, width: int, dims: int) -> None:
        super().__init__(width, dims)
        self.slope = nn.Parameter(torch.tensor([0.7]))

    def forward(self, h: Tensor, first: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.slope * self.linear(h))


class Normed(Layer):
    def forward(self, h: Tensor, first: Tensor, x: Tensor) -> Tensor:
        return self.linear(h) / (1 + (h * h).sum(-1, keepdim=True)).sqrt()


class SiLU(Layer):
    def forward(self, h: Tensor, first: Tensor, x: Tensor) -> Tensor:
        return nn.functional.silu(self.linear(h))


class Softplus(Layer):
    def forward(self, h: Tensor, first: Tensor, x: Tensor) -> Tensor:
        return nn.functional.softplus(self.linear(h))


class Waves(Layer):
    def forward(self, h: Tensor, first: Tensor, x: Tensor) -> Tensor:
        a, b = self.linear(h).chunk(2, -1)
        return torch.cat([torch.sin(a), torch.cos(b)], -1)


class Shifted(Layer):
    def forward(self, h: Tensor, first: Tensor, x: Tensor) -> Tensor:
        return torch.cat([torch.tanh(self.linear(h))[:, 3:], h[:, :3]], -1)


class Parallel(Layer):
    def forward(self, h: Tensor, first: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(h)) + torch.tanh(self.linear(first))


class Mish(Layer):
    def forward(self, h: Tensor, first: Tensor, x: Tensor) -> Tensor:
        return nn.functional.mish(self.linear(h))


class Weighted(Layer):
    def forward(self, h: Tensor, first: Tensor, x: Tensor) -> Tensor:
        return torch.softmax(self.linear(h), -1) * first


class LayerNormed(Layer):
    def __init__(self, width: int, dims: int) -> None:
        super().__init__(width, dims)
        self.norm = nn.LayerNorm(width, eps=0.01)

    def forward(self, h: Tensor, first: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.linear(h)))


class WeightNormed(Layer):
    def __init__(self, width: int, dims: int) -> None:
        super().__init__(width, dims)
        self.linear = nn.utils.parametrizations.weight_norm(nn.Linear(width, width))


LAYERS: tuple[type[Layer], ...] = (Layer, *Layer.__subclasses__())

EQUATIONS: dict[str, Residual] = {
    "poisson": lambda u, x: laplacian(u, x) - 1,
    "advection": lambda u, x: grad(u, x).sum(-1),
    "burgers": lambda u, x: dt(u, x) + u(x) * grad(u, x)[..., 0] - 0.1 * laplacian(u, x, slice(0, 1)),
    "allen-cahn": lambda u, x: laplacian(u, x) + u(x) - u(x) ** 3,
    "eikonal": lambda u, x: (grad(u, x) ** 2).sum(-1) - 1,
    "wave": lambda u, x: laplacian(u, x, slice(0, 1)) - laplacian(u, x, slice(-1, None)) + torch.sin(u(x)),
}
CONDITIONS: dict[str, Residual] = {
    "value": lambda u, x: u(x) - x[:, :1],
    "slope": lambda u, x: grad(u, x)[..., 0],
    "both": lambda u, x: u(x) + grad(u, x)[..., 0],
    "rate": lambda u, x: dt(u, x),
    "value and rate": lambda u, x: torch.cat([u(x), dt(u, x)], -1),
}


class Net(nn.Module):
    def __init__(self, dims: int, width: int, layers: tuple[type[Layer], ...], outputs: int) -> None:
        super().__init__()
        self.embed = nn.Linear(dims, width)
        self.layers = nn.ModuleList([layer(width, dims) for layer in layers])
        self.out = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        first = h = torch.tanh(self.embed(x))
        for layer in self.layers:
            h = layer(h, first, x)
        return self.out(h)


class Drawn(Problem):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def terms(self) -> list[Term]:
        box = [(0.0, 1.0)] * self.model.dims
        conditions = [
            Term(f"condition{i}", Boundary(box), CONDITIONS[name], points=points, weight=10.0)
            for i, (name, points) in enumerate(self.model.conditions)
        ]
        return [Term("pde", Uniform(box), EQUATIONS[self.model.equation], points=self.model.points), *conditions]

    def u(self, net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return x[:, :1] + (1 - x[:, :1] ** 2) * net(x) if self.model.hard else net(x)


@dataclass(frozen=True)
class Model:
    """A training step and how it is compiled."""

    dims: int
    width: int
    layers: tuple[type[Layer], ...]
    outputs: int
    equation: str
    points: int
    conditions: tuple[tuple[str, int], ...]
    hard: bool
    estimator: type
    K: int
    options: PipelineOptions
    sram_kib: int

    @property
    def machine(self) -> Machine:
        """The default machine, or the small one with memory for what is drawn here."""
        return Machine.load("tiny").replace(sram_kib=self.sram_kib) if self.sram_kib < 384 else Machine.default()

    def step(self) -> TrainStep:
        """With the same initial weights every time."""
        torch.manual_seed(0)
        net = Net(self.dims, self.width, self.layers, self.outputs)
        return TrainStep(net, Drawn(self), Adam(1e-3), self.estimator(K=self.K, sigma=0.02), init="module")


def options() -> st.SearchStrategy[PipelineOptions]:
    """Every switch by itself, and packed rows, which only even/odd has."""
    return st.sampled_from(
        [
            PipelineOptions(),
            PipelineOptions(quant="even-odd"),
            PipelineOptions(quant="even-odd", rows="packed"),
            PipelineOptions(quant="naive"),
            PipelineOptions(scheme="sequential"),
            PipelineOptions(scheme="dense"),
            PipelineOptions(saved="f32"),
            PipelineOptions(base=8, delta=4),
        ]
    )


def models() -> st.SearchStrategy[Model]:
    """Networks of up to three hidden layers with terms of few points."""
    few = st.sampled_from([1, 3, 4, 5, 8, 13])
    return st.builds(
        Model,
        dims=st.sampled_from([2, 1, 3, 5]),
        width=st.sampled_from([8, 12, 20]),
        layers=st.lists(st.sampled_from(LAYERS), min_size=1, max_size=3).map(tuple),
        outputs=st.integers(1, 3),
        equation=st.sampled_from(sorted(EQUATIONS)),
        points=few,
        conditions=st.lists(st.tuples(st.sampled_from(sorted(CONDITIONS)), few), max_size=2).map(tuple),
        hard=st.booleans(),
        estimator=st.sampled_from([Stein, SecondDifference, OrthonormalDirections, QuasiRandom]),
        K=st.sampled_from([4, 6, 10, 20]),
        options=options(),
        sram_kib=st.sampled_from([384, 64]),
    )
