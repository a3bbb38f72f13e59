"""Training steps in eager fp32 PyTorch: what simulated steps are compared with. Prints JSON.

    python benchmarks/torch_step.py [--workload poisson] [--chunk 4] [--threads 1] [--compile]

Plain evaluation of all perturbed points, tensor-train layers as (x B) A, autograd, Adam: the same network on the same
number of points and evaluations as the simulated step. `--chunk` takes that many points at a time, so that activations
stay in cache; the environment may tune malloc (see step_ratio.py).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

WIDTH, RANK, SIGMA, LAYERS = 256, 16, 0.01, 3


@dataclass(frozen=True)
class Workload:
    """inputs     coordinates of a point
    points     points at which the equation is evaluated
    pairs      antithetic pairs of normal perturbations of a point's space coordinates
    known      points at which the solution is known
    time       the last coordinate is a time, with a pair of perturbations of its own
    dense      the inner layers are dense, not tensor trains
    """

    inputs: int
    points: int
    pairs: int
    known: int
    time: bool = False
    dense: bool = False


WORKLOADS = {
    "poisson": Workload(2, 100, 256, 100),
    "poisson-dense": Workload(2, 100, 256, 100, dense=True),
    "heat100": Workload(101, 50, 256, 100, time=True),
}


class Network:
    """inputs-256-256-256-1; inner layers dense, or tensor trains of 16 x 16 | 16 x 16."""

    def __init__(self, work: Workload) -> None:
        g = torch.Generator().manual_seed(0)

        def normal(*shape: int, std: float) -> Tensor:
            return (torch.randn(*shape, generator=g) * std).requires_grad_()

        self.dense = work.dense
        self.first = normal(work.inputs, WIDTH, std=(2 / (work.inputs + WIDTH)) ** 0.5)
        self.last = normal(WIDTH, 1, std=(2 / (1 + WIDTH)) ** 0.5)
        self.biases = [torch.zeros(n, requires_grad=True) for n in (*[WIDTH] * LAYERS, 1)]
        inner = LAYERS - 1
        self.layers: list[list[Tensor]]
        if work.dense:
            self.layers = [[normal(WIDTH, WIDTH, std=(1 / WIDTH) ** 0.5)] for _ in range(inner)]
        else:
            side, std = 16, (1 / WIDTH / RANK**3) ** 0.125
            shapes = [(1, side, RANK), (RANK, side, RANK), (RANK, side, RANK), (RANK, side, 1)]
            self.layers = [[normal(*shape, std=std) for shape in shapes] for _ in range(inner)]
        self.parameters = [self.first, self.last, *self.biases, *(p for layer in self.layers for p in layer)]

    def matrices(self) -> list[list[Tensor]]:
        """What each inner layer multiplies by, one after the other."""
        if self.dense:
            return self.layers
        pairs = []
        for a, b, c, d in self.layers:
            left = (a.reshape(-1, RANK) @ b.reshape(RANK, -1)).reshape(-1, RANK)
            right = (c.reshape(-1, RANK) @ d.reshape(RANK, -1)).reshape(RANK, -1)
            pairs.append([left, right])
        return pairs

    def __call__(self, x: Tensor, matrices: list[list[Tensor]]) -> Tensor:
        h = torch.tanh(x @ self.first + self.biases[0])
        for layer, bias in zip(matrices, self.biases[1:LAYERS], strict=True):
            for matrix in layer:
                h = h @ matrix
            h = torch.tanh(h + bias)
        return h @ self.last + self.biases[LAYERS]


def make_step(work: Workload, chunk: int, compiled: bool) -> Callable[[], None]:
    """One training step on `chunk` points at a time."""
    net = Network(work)
    optimizer = torch.optim.Adam(net.parameters, 1e-3)
    generator = torch.Generator().manual_seed(1)
    space = work.inputs - work.time

    def known(edge: Tensor) -> Tensor:
        exact = torch.sin(edge.sum(1, keepdim=True)) / 2
        return 300 * (net(edge, net.matrices()) - exact).square().mean()

    def equation(points: Tensor, delta: Tensor) -> Tensor:
        matrices = net.matrices()
        moved = (points[:, None] + delta).reshape(-1, work.inputs)
        u = net(points, matrices)
        around = net(moved, matrices).view(len(points), -1)
        laplacian = (around[:, : 2 * work.pairs] - u).sum(1) / (SIGMA**2 * work.pairs)
        residual = laplacian + torch.sin(points[:, :space].sum(1))
        if work.time:
            residual = residual - (around[:, -2] - around[:, -1]) / (2 * SIGMA)
        return residual.square().sum() / work.points

    if compiled:
        known, equation = torch.compile(known), torch.compile(equation)

    def perturbations() -> Tensor:
        half = torch.zeros(work.points, work.pairs, work.inputs)
        half[..., :space] = SIGMA * torch.randn(work.points, work.pairs, space, generator=generator)
        if not work.time:
            return torch.cat([half, -half], 1)
        later = torch.zeros(work.points, 1, work.inputs)
        later[..., space] = SIGMA
        return torch.cat([half, -half, later, -later], 1)

    def step() -> None:
        optimizer.zero_grad()
        x = torch.rand(work.points, work.inputs, generator=generator)
        edge = torch.rand(work.known, work.inputs, generator=generator)
        delta = perturbations()
        known(edge).backward()
        for i in range(0, work.points, chunk):
            equation(x[i : i + chunk], delta[i : i + chunk]).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=list(WORKLOADS), default="poisson")
    parser.add_argument("--chunk", type=int, help="points at a time (default: all)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="torch.compile the loss terms")
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    work = WORKLOADS[options.workload]
    step = make_step(work, options.chunk or work.points, options.compile)
    step()
    seconds = []
    for _ in range(options.steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"min": min(seconds), "median": statistics.median(seconds)}))


if __name__ == "__main__":
    main()
