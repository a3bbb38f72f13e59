"""The training step by automatic differentiation: what sampled evaluations are compared with.

The same traced step as the float twin's (weights, random words, points, optimizer, schedule); only gradients and
Laplacians of the residual are exact derivatives instead of estimates. Four ways that agree up to rounding:

nested    torch.autograd inside torch.autograd, a backward pass for each coordinate of a Laplacian: the usual way
batched   the same, all coordinates in one vectorised backward pass
forward   forward Laplacian (`jets`): value, gradient and Laplacian in one evaluation
taylor    torch.func: forward over forward mode, a second-order jet for each coordinate, vectorised
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pintac.errors import UsageError, suggest
from pintac.frontend.interpret import Operators, value_of
from pintac.frontend.jets import Jets, descendants
from pintac.frontend.problem import TrainStep
from pintac.frontend.twin import SampledStep
from pintac.ir import Graph, Node
from pintac.ir.attrs import integer

METHODS = ("nested", "batched", "forward", "taylor")


class AutodiffStep(SampledStep):
    """The training step of `step` with exact derivatives by `method`; otherwise as `SampledStep`.

    Raises UsageError for an unknown method; IRError for a network whose operations mix points.
    """

    def __init__(
        self,
        step: TrainStep,
        method: str = "nested",
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        chunk: int | None = None,
        weights: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        if method not in METHODS:
            raise UsageError(f"unknown way to differentiate {method!r}", hint=suggest(method, list(METHODS)))
        self.method = method
        super().__init__(step, _as_it_is, seed=seed, dtype=dtype, chunk=chunk, weights=weights)

    def _operators(self, graph: Graph) -> Operators:
        return operators_of(self.method, graph)


def _as_it_is(graph: Graph) -> Graph:
    return graph


def operators_of(method: str, graph: Graph) -> Operators:
    """What `gradient` and `laplacian` mean in one evaluation of `graph`."""
    if method == "taylor":
        return TaylorMode(graph)
    return ForwardLaplacian(graph) if method == "forward" else NestedAutograd(batched=method == "batched")


class NestedAutograd:
    """Derivatives by reverse mode, differentiable again; one value and one gradient are shared by all operators."""

    def __init__(self, batched: bool = False) -> None:
        self.batched = batched
        self._gradients: dict[tuple[Node, Node], Tensor] = {}

    def at(self, node: Node, x: Tensor) -> Tensor:
        return x if x.requires_grad else x.detach().requires_grad_(True)

    def apply(self, node: Node, values: Mapping[Node, Tensor]) -> Tensor:
        y, x = node.operands
        first = self._gradient(y, x, values)
        if node.op == "gradient":
            return first
        start, stop = integer(node.attrs, "start"), integer(node.attrs, "stop")
        return torch.stack([self._laplacian(first[:, j], values[x], start, stop) for j in range(first.shape[1])], 1)

    def _gradient(self, y: Node, x: Node, values: Mapping[Node, Tensor]) -> Tensor:
        """[N, m, d]."""
        if (y, x) not in self._gradients:
            value, at = values[y], values[x]
            rows = [_backward(value[:, j].sum(), at) for j in range(value.shape[1])]
            self._gradients[y, x] = torch.stack(rows, 1)
        return self._gradients[y, x]

    def _laplacian(self, slope: Tensor, x: Tensor, start: int, stop: int) -> Tensor:
        """The sum of second derivatives from the gradient [N, d] of one component: [N]."""
        if not slope.requires_grad:  # an affine function
            return torch.zeros_like(slope[:, 0])
        if self.batched:
            columns = torch.eye(slope.shape[1], dtype=slope.dtype, device=slope.device)[start:stop]
            ones = columns[:, None].expand(-1, slope.shape[0], -1)
            (hessian,) = torch.autograd.grad(
                slope, x, ones, create_graph=True, is_grads_batched=True, materialize_grads=True
            )
            return hessian.diagonal(offset=start, dim1=0, dim2=2).sum(1)
        parts = [_backward(slope[:, i].sum(), x)[:, i] for i in range(start, stop)]
        return torch.stack(parts).sum(0)


def _backward(total: Tensor, x: Tensor) -> Tensor:
    """The derivative of a sum over points at each of them; zero where x does not take part."""
    if not total.requires_grad:
        return torch.zeros_like(x)
    (found,) = torch.autograd.grad(total, x, create_graph=True, materialize_grads=True)
    return found


class ForwardLaplacian:
    """Derivatives by jets, all operators at the same points sharing theirs."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._jets: dict[Node, Jets] = {}

    def at(self, node: Node, x: Tensor) -> Tensor:
        return x

    def apply(self, node: Node, values: Mapping[Node, Tensor]) -> Tensor:
        y, x = node.operands
        if x not in self._jets:
            self._jets[x] = Jets(self.graph, x, values)
        if node.op == "gradient":
            return self._jets[x].gradient(y)
        return self._jets[x].laplacian(y, integer(node.attrs, "start"), integer(node.attrs, "stop"))


class TaylorMode:
    """Derivatives by torch.func: the jet of second order along every coordinate, all in one vectorised evaluation."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._jets: dict[tuple[Node, Node], tuple[Tensor, Tensor]] = {}

    def at(self, node: Node, x: Tensor) -> Tensor:
        return x

    def apply(self, node: Node, values: Mapping[Node, Tensor]) -> Tensor:
        y, x = node.operands
        if (y, x) not in self._jets:
            self._jets[y, x] = self._along(y, x, values)
        first, second = self._jets[y, x]  # [d, N, m]
        if node.op == "gradient":
            return first.permute(1, 2, 0)
        return second[integer(node.attrs, "start") : integer(node.attrs, "stop")].sum(0)

    def _along(self, y: Node, x: Node, values: Mapping[Node, Tensor]) -> tuple[Tensor, Tensor]:
        """First and second derivatives of y along each coordinate of x: [d, N, m] each."""
        at = values[x]
        dependent = descendants(self.graph, x)
        given = {node: value for node, value in values.items() if node not in dependent}

        def u(points: Tensor) -> Tensor:
            return value_of(self.graph, y, {**given, x: points}, at.dtype)

        def jet(direction: Tensor) -> tuple[Tensor, Tensor]:
            def slope(points: Tensor) -> Tensor:
                along: Tensor = torch.func.jvp(u, (points,), (direction,))[1]
                return along

            first, second = torch.func.jvp(slope, (at,), (direction,))[:2]
            return first, second

        directions = torch.eye(at.shape[1], dtype=at.dtype, device=at.device)[:, None].expand(-1, *at.shape)
        found: tuple[Tensor, Tensor] = torch.func.vmap(jet)(directions)
        return found
