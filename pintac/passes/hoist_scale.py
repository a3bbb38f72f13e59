"""hoist-scale: a product times a power of two becomes a product whose narrower operand was multiplied with it.

What even/odd halves leave behind the last layer is such a product: the adjoint of a few outputs, times the layer's
weight, times 1/2. A multiplication of all its columns is an instruction of its own there, one of the outputs is next to
nothing. Powers of two change exponents only, so quantised values are the same but for one whose exponent is at the end
of its range (NUMERICS 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from pintac.ir import Builder, Graph, Node, rewrite
from pintac.passes.base import Pass
from pintac.passes.dataflow import without_dead

_NARROW = 4
"""Columns of a left operand up to which it is worth it: where that has one reader more, it is quantised once more."""


@dataclass(frozen=True)
class HoistScale(Pass):
    """Moves factors before products. Runs behind `insert-smx`: the factor then multiplies what is quantised."""

    name: ClassVar[str] = "hoist-scale"
    preserves: ClassVar[bool] = True

    def run(self, graph: Graph) -> Graph:
        found = {node: factor for node in graph.of("mul") if (factor := _factor(graph, node)) is not None}
        if not found:
            return graph

        def hoist(b: Builder, node: Node, operands: tuple[Node, ...]) -> Node | None:
            if node not in found:
                return None
            product, factor = operands if operands[0].op == "matmul" else operands[::-1]
            left, right = product.operands
            value = left.operands[0] if left.op == "quantize" else left
            scaled = b.mul(value, factor)
            if left.op == "quantize":
                scaled = b.add_op("quantize", [scaled], left.attrs)
            return b.add_op("matmul", [scaled, right], product.attrs)

        return without_dead(rewrite(graph, hoist))


def _factor(graph: Graph, node: Node) -> Node | None:
    """The power of two that a product which nothing else reads is multiplied with, where it is better done before."""
    for product, factor in (node.operands, node.operands[::-1]):
        if product.op != "matmul" or factor.op != "const" or factor.type.size != 1 or len(product.operands) != 2:
            continue
        (value,) = {float(v) for v in factor.attrs["values"]}  # type: ignore[union-attr]
        wide = product.operands[0].shape[-1] <= _NARROW < product.shape[-1]
        alone = len(graph.users(product)) == 1 and product not in graph.outputs.values()
        if wide and alone and value and abs(math.frexp(value)[0]) == 0.5 and node.shape == product.shape:
            return factor
    return None
