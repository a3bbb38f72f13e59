"""dce: only what outputs need stays, and the interface."""

from __future__ import annotations

from collections.abc import Callable

from pintac.ir import Builder, Graph
from pintac.passes.dce import DeadCodeElimination
from tests.passes.models import LOC


def with_dead_nodes() -> Graph:
    b = Builder("g")
    with b.at(LOC):
        x, w = b.input("x", (2, 2)), b.state("w", (2,))
        b.state("unread", (3,))
        b.input("ignored", (1,))
        dead = b.tanh(b.add(x, w))
        b.add(dead, b.random("uniform", 1, 0, (2, 2)))
        b.output("y", b.sin(x, name="kept"))
    return b.finish()


def test_dead_nodes_go_states_and_inputs_stay() -> None:
    graph = DeadCodeElimination().run(with_dead_nodes())
    assert [node.op for node in graph.nodes] == ["input", "state", "state", "input", "sin"]
    assert graph.outputs["y"].name == "kept"
    assert DeadCodeElimination().run(graph) is graph


def test_golden(golden: Callable[[str, str], None]) -> None:
    golden("passes/dce.ir", str(DeadCodeElimination().run(with_dead_nodes())))
