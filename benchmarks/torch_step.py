"""The Poisson training step of the README in eager fp32 PyTorch, one thread: what a simulated step is compared with.

Plain evaluation of all 512 perturbed points, tensor-train layers as (x B) A, autograd, Adam. `--chunk` takes that many
points at a time, so that activations stay in cache; the environment may tune malloc (see step_ratio.py). Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from torch import Tensor

POINTS, EVALUATIONS, WIDTH, RANK, SIGMA = 100, 512, 256, 16, 0.01


class Network:
    """2-256-256-256-1, two tensor-train layers of 16 x 16 | 16 x 16."""

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)

        def normal(*shape: int, std: float) -> Tensor:
            return (torch.randn(*shape, generator=g) * std).requires_grad_()

        side = 16
        std = (1 / WIDTH / RANK**3) ** 0.125
        shapes = [(1, side, RANK), (RANK, side, RANK), (RANK, side, RANK), (RANK, side, 1)]
        self.first = normal(2, WIDTH, std=(2 / (2 + WIDTH)) ** 0.5)
        self.last = normal(WIDTH, 1, std=(2 / (1 + WIDTH)) ** 0.5)
        self.cores = [[normal(*shape, std=std) for shape in shapes] for _ in range(2)]
        self.biases = [torch.zeros(n, requires_grad=True) for n in (WIDTH, WIDTH, WIDTH, 1)]
        self.parameters = [self.first, self.last, *self.biases, *(c for layer in self.cores for c in layer)]

    def matrices(self) -> list[tuple[Tensor, Tensor]]:
        """B [256, R] and A [R, 256] of each tensor-train layer."""
        pairs = []
        for a, b, c, d in self.cores:
            left = (a.reshape(-1, RANK) @ b.reshape(RANK, -1)).reshape(-1, RANK)
            right = (c.reshape(-1, RANK) @ d.reshape(RANK, -1)).reshape(RANK, -1)
            pairs.append((left, right))
        return pairs

    def __call__(self, x: Tensor, matrices: list[tuple[Tensor, Tensor]]) -> Tensor:
        h = torch.tanh(x @ self.first + self.biases[0])
        for (left, right), bias in zip(matrices, self.biases[1:3], strict=True):
            h = torch.tanh((h @ left) @ right + bias)
        return h @ self.last + self.biases[3]


def make_step(chunk: int):
    """One training step on `chunk` interior points at a time."""
    net = Network()
    optimizer = torch.optim.Adam(net.parameters, 1e-3)
    generator = torch.Generator().manual_seed(1)

    def step() -> None:
        optimizer.zero_grad()
        x = torch.rand(POINTS, 2, generator=generator)
        edge = torch.rand(POINTS, 2, generator=generator)
        half = SIGMA * torch.randn(POINTS, EVALUATIONS // 2, 2, generator=generator)
        delta = torch.cat([half, -half], 1)
        exact = torch.sin(edge.sum(1, keepdim=True)) / 2
        boundary = 300 * (net(edge, net.matrices()) - exact).square().mean()
        boundary.backward()
        for i in range(0, POINTS, chunk):
            points = x[i : i + chunk]
            matrices = net.matrices()
            moved = (points[:, None] + delta[i : i + chunk]).reshape(-1, 2)
            u = net(points, matrices)
            around = net(moved, matrices).view(len(points), EVALUATIONS)
            laplacian = (around - u).sum(1) / (SIGMA**2 * (EVALUATIONS // 2))
            residual = laplacian + torch.sin(points.sum(1))
            (residual.square().sum() / POINTS).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunk", type=int, default=POINTS, help="points at a time (default: all)")
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    step = make_step(options.chunk)
    step()
    seconds = []
    for _ in range(options.steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"chunk": options.chunk, "min": min(seconds), "median": statistics.median(seconds)}))


if __name__ == "__main__":
    main()
