"""What quantising the perturbed path does to the Laplacian: DiffQuant against its even/odd form, bits by bits.

A 2-256-256-256-1 network with low-rank inner layers (rank 16) is fitted to sin(x + y) / 2; then its sampled Laplacian
at random points is evaluated in SMX by the IR evaluator, and in float64 with the same quantised weights and the same
samples. Figures are relative to the mean |laplacian|.

    python benchmarks/laplacian_error.py [--estimator second-difference] [--points 32] [--K 512]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from pintac import smx
from pintac.frontend import Adam, Problem, Term, TrainStep, TTLinear, Uniform, laplacian
from pintac.frontend.estimators import ESTIMATORS
from pintac.frontend.tracing import trace_step
from pintac.frontend.twin import SampledStep
from pintac.ir.evaluate import evaluate
from pintac.passes import parse_pipeline
from pintac.passes.expand_operators import ExpandOperators

PIPELINE = (
    "expand-operators,split-stein{form=%s},reorder-tt,lower-delta,insert-smx{weight=8,base=%d,delta=%d},"
    "canonicalize,dce"
)


class Curvature(Problem):
    """The residual is the Laplacian itself."""

    def __init__(self, points: int) -> None:
        self.points = points

    def terms(self) -> list[Term]:
        return [Term("r", Uniform([(0.0, 1.0)] * 2), self.pde, points=self.points)]

    def pde(self, u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return laplacian(u, x)


def fitted(width: int, rank: int, steps: int) -> nn.Sequential:
    """A network that is close to a solution: a regression of sin(x + y) / 2."""
    torch.manual_seed(0)

    def inner() -> nn.Module:  # a factor a side: reconstruction is trivial, so the reference has the same weights
        return TTLinear(width, width, rank=rank, in_factors=(width,), out_factors=(width,))

    layers: list[nn.Module] = [nn.Linear(2, width), nn.Tanh(), inner(), nn.Tanh(), inner(), nn.Tanh()]
    net = nn.Sequential(*layers, nn.Linear(width, 1))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(steps):
        x = torch.rand(256, 2)
        loss = ((net(x) - torch.sin(x.sum(-1, keepdim=True)) / 2) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def quantised(weights: np.ndarray, bits: int = 8) -> np.ndarray:
    """decode(Q(w)) for matrices and cores as the matmuls read them; biases as they are."""
    if weights.ndim < 2:
        return weights
    matrix = weights.reshape(weights.shape[-2:] if weights.shape[0] == 1 else weights.shape[:2])
    return smx.dequantize(matrix.astype(np.float32), bits).reshape(weights.shape)


def errors(
    net: nn.Sequential, estimator: str, points: int, K: int, cases: list[tuple[str, int, int]], sigma: float = 0.01
) -> list[float]:
    """The rms error of the Laplacian over its mean magnitude for each case (form, base bits, delta bits)."""
    step = TrainStep(net, Curvature(points), Adam(1e-3), ESTIMATORS[estimator](K=K, sigma=sigma), init="module")
    graph, data = trace_step(step)
    states = {name: s.detach().numpy() for name, s in SampledStep(step, ExpandOperators().run).states.items()}
    feeds = {**data, **{name: quantised(value) for name, value in states.items()}}
    params = {"seed": 0, "step": 0}

    def run(form: str, base: int, delta: int, mode: str) -> np.ndarray:
        lowered = graph
        for pass_ in parse_pipeline(PIPELINE % (form, base, delta)):
            lowered = pass_.run(lowered)
        return np.asarray(evaluate(lowered, feeds, params, mode)["residual:r"], np.float64)

    exact = run("plus-minus", 16, 16, "float64")
    size = np.abs(exact).mean()
    return [float(np.sqrt(((run(*case, "smx") - exact) ** 2).mean()) / size) for case in cases]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--estimator", choices=sorted(ESTIMATORS), default="stein")
    parser.add_argument("--points", type=int, default=32)
    parser.add_argument("--K", type=int, default=512)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [(form, base, delta) for base in (8, 16) for form in ("plus-minus", "even-odd") for delta in (4, 8, 12)]
    net = fitted(options.width, options.rank, options.steps)
    found = errors(net, options.estimator, options.points, options.K, cases)
    print("form        base delta  rms error of the laplacian / mean |laplacian|")
    for (form, base, delta), error in zip(cases, found, strict=True):
        print(f"{form:11} {base:4} {delta:5}  {error:.2e}")


if __name__ == "__main__":
    main()
