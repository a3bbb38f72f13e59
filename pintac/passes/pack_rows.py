"""pack-rows: the evaluations of neighbouring points share SMX blocks (ours; NUMERICS 4 pads every point alone).

A value of the perturbed path is [N, 1, P, w] where odd and even halves are apart: the P pairs of a point are rows of
its own blocks. With two pairs half of every block, of the array's rows and of the vector lanes is empty. This pass
quantises such a value as [N * P, w]: blocks hold rows of neighbouring points, all of one kind. Products and weight
gradients then read these rows as one matrix; element-wise work keeps its shape, and so do the meaning and the order of
rows.

What it costs is accuracy: a block's exponent is that of its largest row, now of up to four points. Rows of both signs
([N, 2, P, w]) stay as they are, and so do those of points with more than `MOST_PAIRS` pairs in some value, which are
a hardware loop, and rows that fill their blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from pintac.ir import Builder, Graph, Node
from pintac.ir.types import SMX_BLOCK
from pintac.passes.base import Pass

MOST_PAIRS = 8
"""Pairs of a point that the backend can take whole; more are a loop, whose tiles would not begin with a block."""

_ROWS = 4
"""Dimensions of rows of evaluations: points, signs, pairs, width."""


@dataclass(frozen=True)
class PackRows(Pass):
    """Packs the rows of points with few pairs."""

    name: ClassVar[str] = "pack-rows"
    preserves: ClassVar[bool] = True

    def run(self, graph: Graph) -> Graph:
        packed = _packed(graph)
        if not packed:
            return graph
        builder = Builder(graph.name, graph.attrs, reserved=(node.name for node in graph.nodes))
        new: dict[Node, Node] = {}
        for node in graph.nodes:
            operands = [new[operand] for operand in node.operands]
            with builder.at(node.loc):
                if node in packed:
                    new[node] = builder.copy(node, [builder.reshape(operands[0], _matrix(node))])
                elif node.op in ("matmul", "decode") and node.operands[0] in packed:
                    starts = [builder.reshape(start, _matrix(node)) for start in operands[2:]]
                    product = builder.copy(node, [*operands[:2], *starts])
                    new[node] = builder.reshape(product, node.shape)
                else:
                    new[node] = builder.copy(node, operands)
        for key, node in graph.outputs.items():
            builder.output(key, new[node])
        return builder.finish()


def _packed(graph: Graph) -> set[Node]:
    """The quantised values whose rows do not fill their blocks."""
    rows = [node for node in graph.of("quantize") if node.type.rank == _ROWS and node.shape[0] > 1]
    looped = {node.shape[0] for node in rows if node.shape[2] > MOST_PAIRS}
    return {
        node for node in rows if node.shape[1] == 1 and node.shape[2] % SMX_BLOCK[0] and node.shape[0] not in looped
    }


def _matrix(node: Node) -> tuple[int, int]:
    return math.prod(node.shape[:-1]), node.shape[-1]
