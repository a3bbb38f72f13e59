"""reorder-tt: a tensor-train layer becomes matmuls in a chosen order of contraction.

The layer's cores are core_k [r_{k-1}, n_k, r_k]: those of the input factors first, then those of the output factors.
`prs` (partial reconstruction) multiplies the input cores to B [N, R] and the output cores to A [R, M] once a step and
applies Y = (X B) A to the rows. `sequential` contracts one core after another with the rows. `dense` reconstructs the
whole weight B A. Between matmuls everything is reshaped in fp32: an SMX block never sees another shape (NUMERICS 1).
Multiply-adds a row for 256 = 16 * 16 and ranks 16: prs 8,192, sequential 16,384, dense 65,536.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal

from pintac.ir import Builder, Graph, Node, rewrite
from pintac.ir.attrs import ints
from pintac.passes.base import Pass


@dataclass(frozen=True)
class ReorderTT(Pass):
    """Expands `tt_matmul`. It runs before `differentiate`: gradients reach the cores through the reconstruction."""

    name: ClassVar[str] = "reorder-tt"
    preserves: ClassVar[bool] = True
    forward: ClassVar[bool] = True

    order: Literal["prs", "sequential", "dense"] = "prs"

    def run(self, graph: Graph) -> Graph:
        if not graph.of("tt_matmul"):
            return graph
        reconstructed: dict[tuple[tuple[Node, ...], str], Node] = {}
        flat: dict[tuple[Node, tuple[int, ...]], Node] = {}

        def expand(b: Builder, node: Node, operands: tuple[Node, ...]) -> Node | None:
            if node.op != "tt_matmul":
                return None
            x, cores = operands[0], operands[1:]
            role = str(node.attrs["lhs_role"])
            d = len(ints(node.attrs, "in_factors"))
            if self.order == "sequential":
                return _sequential(b, x, cores[:d], cores[d:], role, flat)

            def shared(part: str) -> Node:
                """One reconstruction for every use of the layer."""
                key = (cores, part)
                if key not in reconstructed:
                    built = _input_factor(b, cores[:d]) if part == "B" else _output_factor(b, cores[d:])
                    reconstructed[key] = built
                return reconstructed[key]

            if self.order == "dense":
                if (cores, "W") not in reconstructed:
                    weight = b.matmul(shared("B"), shared("A"), lhs_role="weight", rhs_role="weight")
                    reconstructed[cores, "W"] = weight
                return b.matmul(x, reconstructed[cores, "W"], lhs_role=role, rhs_role="weight")
            z = b.matmul(x, shared("B"), lhs_role=role, rhs_role="weight")
            return b.matmul(z, shared("A"), lhs_role=role, rhs_role="weight")

        return rewrite(graph, expand)


def _view(b: Builder, x: Node, shape: Sequence[int]) -> Node:
    return x if x.shape == tuple(shape) else b.reshape(x, shape)


def _input_factor(b: Builder, cores: Sequence[Node]) -> Node:
    """B [N, R] from the input cores, first to last; rows in row-major order of the input factors."""
    first = cores[0]
    result = _view(b, first, (first.shape[1], first.shape[2]))
    for core in cores[1:]:
        left, size, right = core.shape
        flat = _view(b, core, (left, size * right))
        product = b.matmul(result, flat, lhs_role="weight", rhs_role="weight")
        result = _view(b, product, (result.shape[0] * size, right))
    return result


def _output_factor(b: Builder, cores: Sequence[Node]) -> Node:
    """A [R, M] from the output cores, last to first; columns in row-major order of the output factors."""
    last = cores[-1]
    result = _view(b, last, (last.shape[0], last.shape[1]))
    for core in reversed(cores[:-1]):
        left, size, right = core.shape
        flat = _view(b, core, (left * size, right))
        product = b.matmul(flat, result, lhs_role="weight", rhs_role="weight")
        result = _view(b, product, (left, size * result.shape[1]))
    return result


def _sequential(
    b: Builder,
    x: Node,
    inputs: Sequence[Node],
    outputs: Sequence[Node],
    role: str,
    flat: dict[tuple[Node, tuple[int, ...]], Node],
) -> Node:
    """One core at a time. The rows are x's leading dimensions; `rest` are the input factors not yet contracted.

    `flat` keeps the matrix views of cores, one for every use: their gradients add up as matrices.
    """

    def matrix(core: Node, shape: tuple[int, int]) -> Node:
        if (core, shape) not in flat:
            flat[core, shape] = _view(b, core, shape)
        return flat[core, shape]

    rows, rank = x.shape[:-1], x.type.rank - 1
    factors = [core.shape[1] for core in inputs]
    result = x
    bond = 1
    for index, core in enumerate(inputs):
        left, size, right = core.shape
        rest = factors[index + 1 :]
        if rest:
            # [rows, size, rest, bond] -> [rows, rest, bond, size]
            tensor = _view(b, result, (*rows, size, prod(rest), bond))
            if tensor.shape[rank] != 1:
                tensor = b.permute(tensor, (*range(rank), rank + 1, rank + 2, rank))
            result = _view(b, tensor, (*rows, prod(rest), bond * size))
        else:
            tensor = _view(b, result, (*rows, size, bond))
            if bond != 1 and size != 1:
                tensor = b.permute(tensor, (*range(rank), rank + 1, rank))
            result = _view(b, tensor, (*rows, bond * size))
        result = b.matmul(result, matrix(core, (left * size, right)), lhs_role=role, rhs_role="weight")
        bond = right
    pending = prod(rows)
    for core in outputs:
        left, size, right = core.shape
        result = b.matmul(result, matrix(core, (left, size * right)), lhs_role=role, rhs_role="weight")
        produced = result.type.size // (pending * right)
        result = _view(b, result, (*rows, produced, right))
    return _view(b, result, (*rows, result.type.size // pending))
