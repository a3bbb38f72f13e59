"""dce: nodes that no output depends on are removed, except states and inputs, the graph's interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pintac.ir import Graph
from pintac.passes.base import Pass
from pintac.passes.dataflow import without_dead


@dataclass(frozen=True)
class DeadCodeElimination(Pass):
    """Keeps the nodes that an output depends on, states and inputs, under their names. No op has a side effect."""

    name: ClassVar[str] = "dce"
    preserves: ClassVar[bool] = True
    forward: ClassVar[bool] = True

    def run(self, graph: Graph) -> Graph:
        return without_dead(graph)
