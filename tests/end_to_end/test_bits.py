"""One quantised training step, bit for bit: IR evaluator in `smx` mode == reference engine == jit engine.

The engines must leave equal DRAM, SRAM and PSUM; the evaluator equal parameters, moments and losses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pintac.api.emitting import emit
from pintac.api.evaluator import EvaluatorSession
from pintac.api.lowering import lower
from pintac.frontend import (
    Adam,
    Boundary,
    Estimator,
    OrthonormalDirections,
    Problem,
    SecondDifference,
    Stein,
    Term,
    TrainStep,
    TTLinear,
    Uniform,
    grad,
    laplacian,
    linear_decay,
)
from pintac.hazards import check
from pintac.machine import Machine
from pintac.passes import PipelineOptions
from pintac.runtime.session import Session
from tests.end_to_end.agreement import assert_same_bits

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sin": torch.sin,
    "silu": nn.functional.silu,
}


class Block(nn.Module):
    """A TT layer with its activation; gated: times the sigmoid of a linear layer, plus its input."""

    def __init__(self, width: int, rank: int, activation: str, gated: bool) -> None:
        super().__init__()
        self.layer = TTLinear(width, width, rank=rank)
        self.gate = nn.Linear(width, width) if gated else None
        self.activation = ACTIVATIONS[activation]

    def forward(self, h: Tensor) -> Tensor:
        y = self.activation(self.layer(h))
        return y if self.gate is None else h + y * torch.sigmoid(self.gate(h))


class Parts(nn.Module):
    """The same layer on every four features of a point."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.part, self.last = nn.Linear(2, width), nn.Linear(4, 4), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        parts = torch.tanh(self.part(h.reshape(len(h), -1, 4)))
        return self.last(parts.reshape(len(h), -1))


class Columns(nn.Module):
    """Features times a column of their own, over their sum, times one of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(2, width), nn.Linear(2, 1), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.exp(torch.tanh(self.first(x)) * torch.sigmoid(self.gate(x)))
        h = h / h.sum(-1, keepdim=True)
        return self.last(h * h[..., 1:2])


class Fixed(nn.Module):
    """Fourier features, and a layer that is not trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(2, width))
        self.frozen, self.last = nn.Linear(2 * width, width), nn.Linear(width, 1)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        z = x @ self.frequencies
        return self.last(torch.tanh(self.frozen(torch.cat([torch.sin(z), torch.cos(z)], -1))))


class Deep(nn.Module):
    """More dense layers than SRAM has room for."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, width), nn.Linear(width, 1)
        self.between = nn.ModuleList([nn.Linear(width, width) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        for layer in self.between:
            h = torch.tanh(layer(h))
        return self.last(h)


class Network(nn.Module):
    def __init__(self, dims: int, width: int, rank: int, depth: int, outputs: int, activation: str, gated: bool):
        super().__init__()
        self.first = nn.Linear(dims, width)
        self.blocks = nn.Sequential(*[Block(width, rank, activation, gated) for _ in range(depth)])
        self.last = nn.Linear(width, outputs)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(self.activation(self.first(x))))


class Poisson(Problem):
    """Up to three terms: the equation inside, values on the boundary, a gradient norm; hard: zero on x_0 = 0, 1."""

    def __init__(self, dims: int, points: Sequence[int], hard: bool, outputs: int = 1) -> None:
        self.box = [(0.0, 1.0)] * dims
        self.points, self.hard, self.outputs = points, hard, outputs

    def terms(self) -> list[Term]:
        inside, rest = self.points[0], self.points[1:]
        terms = [Term("interior", Uniform(self.box), self.pde, points=inside)]
        if rest:
            terms.append(Term("boundary", Boundary(self.box), self.bc, points=rest[0], weight=300.0))
        if len(rest) > 1:
            terms.append(Term("slope", Uniform(self.box), self.slope, points=rest[1], weight=0.5))
        return terms

    def u(self, net: nn.Module, x: Tensor) -> Tensor:
        f = net(x)
        return f * x[:, :1] * (1 - x[:, :1]) + torch.sin(x.sum(-1, keepdim=True)) if self.hard else f

    def pde(self, u: Callable, x: Tensor) -> Tensor:
        return laplacian(u, x) + torch.sin(x.sum(-1, keepdim=True))

    def bc(self, u: Callable, x: Tensor) -> Tensor:
        return u(x) - torch.sin(x.sum(-1, keepdim=True)) / 2

    def slope(self, u: Callable, x: Tensor) -> Tensor:
        return (grad(u, x) ** 2).sum(-1) - u(x)

    def exact(self, x: Tensor) -> Tensor:
        return (torch.sin(x.sum(-1, keepdim=True)) / 2).expand(-1, self.outputs)


@dataclass(frozen=True)
class Case:
    """A training step and how it is compiled."""

    dims: int = 2
    width: int = 8
    rank: int = 2
    depth: int = 1
    outputs: int = 1
    activation: str = "tanh"
    gated: bool = False
    hard: bool = False
    points: tuple[int, ...] = (3, 2)
    estimator: type[Estimator] = Stein
    K: int = 8
    scheme: str = "prs"
    quant: str = "diff"
    bits: str = "8/16/8/12"
    saved: str = "smx"
    rows: str = "apart"
    other: type[nn.Module] | None = None
    machine: str = "pinta"
    keys: dict[str, Any] = field(default_factory=dict)
    steps: int = 1

    def step(self) -> TrainStep:
        torch.manual_seed(0)
        net: nn.Module
        if self.other is not None:
            net = self.other(self.width)
        else:
            net = Network(self.dims, self.width, self.rank, self.depth, self.outputs, self.activation, self.gated)
        problem = Poisson(self.dims, self.points, self.hard, self.outputs)
        return TrainStep(net, problem, Adam(1e-3, schedule=linear_decay(10)), self.estimator(K=self.K, sigma=0.05))

    def options(self) -> PipelineOptions:
        return PipelineOptions.from_bits(
            self.bits, quant=self.quant, scheme=self.scheme, saved=self.saved, rows=self.rows
        )


def _packed(**fields: Any) -> Case:
    return Case(**{"K": 4, "quant": "even-odd", "rows": "packed", **fields})


CASES = {
    "two steps": Case(steps=2),
    "odd shapes": Case(width=10, rank=3, K=6, points=(5, 3)),
    "width 7": Case(dims=3, width=7, K=4, points=(2, 2)),
    "dims 1": Case(dims=1, width=6, points=(6, 2), K=4),
    "1 point": Case(points=(1, 1), K=4),
    "1 point, 1 term": Case(points=(1,), K=10),
    "K=2": Case(K=2),
    "K=10": Case(K=10, rank=3),
    "rank 1": Case(rank=1, width=12),
    "rank 3": Case(rank=3, width=12, scheme="sequential"),
    "six layers": Case(depth=6, K=4, points=(2, 2)),
    "six layers, sequential": Case(depth=6, K=4, points=(2, 2), scheme="sequential"),
    "dense": Case(scheme="dense", rank=3),
    "sequential": Case(scheme="sequential"),
    "naive": Case(quant="naive", K=6),
    "naive dense": Case(quant="naive", scheme="dense", steps=2),
    "saved f32": Case(saved="f32", rank=3, width=10),
    "saved f32, dense": Case(saved="f32", scheme="dense"),
    "bits 8/8/8/12": Case(bits="8/8/8/12", steps=2),
    "bits 4/8/4/8": Case(bits="4/8/4/8", width=10),
    "bits 8/16/12/16": Case(bits="8/16/12/16"),
    "bits by tensor": Case(
        rank=3,
        depth=2,
        points=(3, 2),
        bits="8/16/8/12,*.delta.1=4,first.delta=16,blocks.0.*.grad.delta.*=8,*.grad.base*=16,*.core.0=4,"
        "*.grad.core.1=8,*.weight.0=12,blocks.1.*.base.1=12,last.base=8,last.weight=16",
    ),
    "bits by tensor, even-odd": Case(
        quant="even-odd",
        width=10,
        depth=2,
        K=6,
        bits="8/16/8/12,*.delta.even*=4,*.delta.odd.1=12,*.grad.delta.odd.0=4,*.grad.delta.even.*=8,*.saved=4,*.base=12",
    ),
    "bits by tensor, sequential and gated": Case(
        scheme="sequential", gated=True, K=4, bits="8/8/8/12,*.gate.*=12,*.weight.2=4,*.delta.1=16,*.grad.delta.1=8"
    ),
    "more than a tile of pairs": Case(K=276, points=(2, 2)),
    "points together": Case(K=40, points=(11, 3), width=10),
    "points together, even-odd": Case(K=26, points=(9, 2), quant="even-odd", depth=2),
    "points together, dense, naive": Case(K=20, points=(5, 2), scheme="dense", quant="naive", depth=2),
    "points together, gated": Case(K=24, points=(6, 3, 5), gated=True, bits="8/8/8/12"),
    "points together, vector output": Case(K=34, points=(7, 2), outputs=2, rank=3, saved="f32"),
    "points together, orthonormal": Case(
        K=42, points=(10, 2), estimator=OrthonormalDirections, quant="even-odd", width=10
    ),
    "points together, 40 KiB": Case(keys={"sram_kib": 40}, width=64, rank=4, points=(9, 3), K=36, quant="even-odd"),
    "points together, gradients by themselves": Case(
        keys={"sram_kib": 112}, width=64, scheme="dense", points=(6, 3), K=64, quant="even-odd", depth=2
    ),
    "1 point, 40 evaluations": Case(points=(1,), K=40),
    "several groups of tiles": Case(K=540, points=(1, 1), width=6),
    "several groups of tiles, points overlap": Case(K=1100, points=(3, 1), width=6),
    "more than a tile of points": Case(points=(70, 45), K=2, width=6),
    "gated, several points a product": Case(estimator=OrthonormalDirections, K=4, gated=True, points=(35, 9)),
    "several points a product": Case(estimator=OrthonormalDirections, K=4, width=10, points=(77, 9), quant="even-odd"),
    "points half a turn behind": Case(points=(150, 101), K=4, width=6, quant="even-odd"),
    "points half a turn behind, three terms": Case(
        points=(117, 75, 130), K=6, estimator=SecondDifference, width=10, rank=3, depth=2
    ),
    "points half a turn behind, 64 KiB": Case(
        points=(53, 33), K=6, width=64, rank=8, depth=2, quant="even-odd", keys={"sram_kib": 64}
    ),
    "packed": _packed(estimator=OrthonormalDirections, points=(77, 9), width=10),
    "packed, one pair": _packed(K=2, points=(37, 21)),
    "packed, five pairs, odd shapes": _packed(K=10, width=10, rank=3, points=(7, 2)),
    "packed, seven pairs, second difference": _packed(K=14, estimator=SecondDifference, points=(9, 4), depth=2),
    "packed, few points": _packed(K=6, points=(2, 1)),
    "packed, gated": _packed(gated=True, depth=2, points=(18, 5)),
    "packed, hard, gated, vector": _packed(hard=True, gated=True, outputs=2, points=(6, 3, 5)),
    "packed, three terms": _packed(K=6, points=(13, 6, 11), depth=2),
    "packed, sin": _packed(activation="sin", points=(11, 2), saved="f32"),
    "packed, sequential": _packed(rank=3, width=12, scheme="sequential", points=(10, 3)),
    "packed, points half a turn behind": _packed(points=(150, 101), width=6),
    "packed, 64 KiB": _packed(points=(53, 33), K=6, width=64, rank=8, depth=2, keys={"sram_kib": 64}),
    "packed, 48 KiB, dense": _packed(points=(21, 5), K=10, width=64, scheme="dense", keys={"sram_kib": 48}),
    "packed, 2 micro-ops": _packed(keys={"vpu_max_micro_ops": 2}, gated=True, points=(9, 4)),
    "packed, bits by tensor": _packed(bits="8/16/8/12,*.delta.even*=12,blocks.0.layer.weight*=4", points=(9, 4)),
    "packed, tiny": _packed(machine="tiny", points=(9, 3)),
    "parts": Case(other=Parts, width=12, points=(5, 3)),
    "parts, many evaluations": Case(other=Parts, width=20, points=(3, 2), K=40),
    "parts, even-odd": Case(other=Parts, width=12, points=(5, 3), quant="even-odd", K=4),
    "parts, packed": _packed(other=Parts, width=12, points=(9, 3)),
    "columns": Case(other=Columns, points=(5, 3)),
    "columns, even-odd": Case(other=Columns, points=(5, 3), quant="even-odd", K=4),
    "columns, naive": Case(other=Columns, width=10, points=(5, 3), quant="naive", K=6),
    "columns, many evaluations": Case(other=Columns, points=(3, 2), K=40, width=20),
    "columns, packed": _packed(other=Columns, points=(9, 3)),
    "columns, saved f32": Case(other=Columns, points=(5, 3), saved="f32"),
    "fixed matrices": Case(other=Fixed, width=12, points=(5, 3)),
    "fixed matrices, even-odd": Case(
        other=Fixed, points=(5, 3), quant="even-odd", K=4, bits="8/16/8/12,fixed.delta*=4"
    ),
    "random numbers for each sign": Case(dims=40, K=256, points=(3, 2, 2), width=96, scheme="dense"),
    "random numbers for each sign, spills": Case(
        dims=61, K=160, points=(4, 2), width=64, scheme="dense", keys={"sram_kib": 96}, hard=True
    ),
    "three terms": Case(points=(3, 2, 5), estimator=SecondDifference),
    "vector output": Case(outputs=2, rank=3),
    "vector output, three terms": Case(outputs=2, points=(2, 3, 1), K=6),
    "second difference": Case(estimator=SecondDifference, K=6),
    "gated": Case(gated=True, depth=2, K=4),
    "gated, naive": Case(gated=True, quant="naive", K=4, points=(2,)),
    "gated, odd": Case(gated=True, width=6, K=6, points=(3, 1, 2), bits="8/8/8/12"),
    "hard constraint": Case(hard=True, points=(3,)),
    "hard, gated, vector": Case(hard=True, gated=True, outputs=2, points=(2, 2), K=4),
    "sin": Case(activation="sin", K=4),
    "silu": Case(activation="silu", K=4),
    "silu, naive": Case(activation="silu", quant="naive", K=4),
    "192 KiB: spills": Case(keys={"sram_kib": 192}, width=64, rank=8, points=(2,), K=128, depth=3, saved="f32"),
    "slow bus: recomputed": Case(
        keys={"sram_kib": 48, "dram_gb_per_s": 3.2}, width=64, points=(4, 2), K=256, depth=2
    ),
    "slow bus, 1 point, many evaluations": Case(
        keys={"sram_kib": 20, "dram_gb_per_s": 1.6}, width=16, points=(1,), K=300
    ),
    "48 KiB: small tiles": Case(keys={"sram_kib": 48}, width=64, points=(1, 1), K=16, depth=2, scheme="dense"),
    "streamed weights": Case(other=Deep, keys={"sram_kib": 48}, width=128, points=(2, 2), K=16, steps=2),
    "streamed weights, no whole blocks": Case(
        other=Deep, keys={"sram_kib": 40}, width=101, points=(3, 2), K=6, bits="8/16/4/12"
    ),
    "streamed weights, even-odd": Case(
        other=Deep, keys={"sram_kib": 40}, width=100, points=(3, 2), K=4, quant="even-odd"
    ),
    "streamed weights, naive": Case(other=Deep, keys={"sram_kib": 48}, width=110, points=(5, 2), K=20, quant="naive"),
    "10 KiB": Case(keys={"sram_kib": 10}, width=16, points=(5, 3), K=36, depth=2),
    "1 micro-op": Case(keys={"vpu_max_micro_ops": 1}),
    "2 micro-ops": Case(keys={"vpu_max_micro_ops": 2}, gated=True, K=4),
    "4 micro-ops": Case(keys={"vpu_max_micro_ops": 4}, activation="silu", points=(3, 2, 2)),
    "tiny": Case(machine="tiny", K=12, points=(5, 3)),
    "tiny, gated": Case(machine="tiny", gated=True, hard=True, K=4, points=(3, 2, 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_bits(name: str) -> None:
    case = CASES[name]
    lowered = lower(case.step(), case.options())
    program = emit(lowered, Machine.load(case.machine).replace(**case.keys))
    decided = program.meta["backend"]["step"]
    apart = [q.shape for q in lowered.graphs["step"].of("quantize") if q.type.rank == 4 and q.shape[2] % 4]
    assert not apart or case.rows == "apart"
    assert decided["in_dram"] or "spills" not in name
    assert decided["streamed"] or "streamed" not in name
    assert decided["recomputed"] or "recomputed" not in name
    assert decided["per_sign"] or "for each sign" not in name
    assert decided["rows_per_tile"] < 32 or "small tiles" not in name
    assert (decided["deferred"] and decided["tiles_interleaved"] > 1) or "gradients by themselves" not in name
    assert all(check(program, entry).clean for entry in program.entries)
    jit, reference, evaluator = Session(program, "jit"), Session(program, "reference"), EvaluatorSession(lowered)
    before = {name: value.copy() for name, value in jit.state_arrays().items()}
    for _ in range(case.steps):
        for session in (jit, reference, evaluator):
            session.step()
        for memory in ("dram", "sram", "psum"):
            np.testing.assert_array_equal(getattr(jit.state, memory), getattr(reference.state, memory), err_msg=memory)
        assert jit.state.status == reference.state.status
        assert set(jit.metrics()) > {"loss"}
        assert_same_bits(jit, evaluator)
    states = evaluator.state_arrays()
    assert np.isfinite(jit.metrics()["loss"]) and not jit.nonfinite
    assert all((before[key] != states[key]).any() for key in before if key.endswith("weight"))
    x = np.random.default_rng(0).random((5, case.dims), np.float32)
    u = evaluator.infer(x)
    assert u.shape == (5, case.outputs)
    for session in (jit, reference):
        np.testing.assert_array_equal(session.infer(x).view(np.uint32), u.view(np.uint32))
