"""lower-delta: what the machine has no op for becomes elementary ops, after the gradients were taken.

`delta_act` by its one definition in `ir.deltas`; `perturb` and `difference` (left by split-stein{form=none}) to add and
sub. What depends on the base value Y alone (tanh Y, 1 - tanh^2 Y, ...) is computed at Y's own rows [N, w], once, and
then reshaped to [N, 1, 1, w]: `canonicalize` joins it with the base path's own tanh Y.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pintac.ir import Builder, Graph, Node, rewrite
from pintac.ir.deltas import lower_delta_act
from pintac.passes.base import Pass


@dataclass(frozen=True)
class LowerDelta(Pass):
    """Expands `delta_act`, `perturb` and `difference`. Runs after `differentiate`, whose rules know `delta_act`."""

    name: ClassVar[str] = "lower-delta"
    preserves: ClassVar[bool] = True

    def run(self, graph: Graph) -> Graph:
        if not graph.of("delta_act", "perturb", "difference"):
            return graph

        def lower(b: Builder, node: Node, operands: tuple[Node, ...]) -> Node | None:
            if node.op == "delta_act":
                return lower_delta_act(b, str(node.attrs["fn"]), *operands)
            if node.op == "perturb":
                x, delta = operands
                return b.add(b.reshape(x, (x.shape[0], 1, 1, x.shape[1])), delta)
            if node.op == "difference":
                return b.sub(*operands)
            return None

        return rewrite(graph, lower)
