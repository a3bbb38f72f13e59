"""lower-delta: elementary ops, the same bits, functions of the base value once a base row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pintac.ir import Builder, Graph, Node
from pintac.ir.evaluate import evaluate
from pintac.ir.ops import DELTA_FUNCTIONS
from pintac.ir.verify import verify
from pintac.passes.canonicalize import Canonicalize
from pintac.passes.differentiate import Differentiate
from pintac.passes.expand_operators import ExpandOperators
from pintac.passes.lower_delta import LowerDelta
from pintac.passes.split_stein import SplitStein
from tests.passes.models import LOC, mlp, poisson, run


def one(fn: str) -> Graph:
    b = Builder("one")
    with b.at(LOC):
        y, d = b.input("y", (3, 1, 1, 4)), b.input("d", (3, 2, 5, 4))
        b.output("z", b.delta_act(fn, y, d))
    return b.finish()


@pytest.mark.parametrize("mode", ["float32", "smx"])
@pytest.mark.parametrize("fn", DELTA_FUNCTIONS)
def test_lowered_and_unlowered_have_the_same_bits(fn: str, mode: str) -> None:
    rng = np.random.default_rng(0)
    y = (rng.random((3, 1, 1, 4)) + 0.5).astype(np.float32)
    d = (rng.standard_normal((3, 2, 5, 4)) * 0.05).astype(np.float32)
    lowered = verify(LowerDelta().run(one(fn)))
    assert not lowered.of("delta_act")
    before, after = (evaluate(graph, {"y": y, "d": d}, {}, mode)["z"] for graph in (one(fn), lowered))
    assert before.tobytes() == after.tobytes()


@pytest.mark.parametrize("fn", DELTA_FUNCTIONS)
def test_at_most_eight_micro_ops_a_perturbed_row(fn: str) -> None:
    wide = [node for node in LowerDelta().run(one(fn)).nodes if node.shape == (3, 2, 5, 4) and node.op != "input"]
    assert len(wide) <= 8


def _wide(graph: Graph, kinds: tuple[str, ...], below: set[Node]) -> list[str]:
    return [node.op for node in graph.nodes if node.op in kinds and node.type.rank == 4 and node in below]


def test_a_tanh_layer_costs_five_micro_ops_forward_and_seven_backward() -> None:
    """MACHINE 3: DiffQuant's backward is 7 micro-ops a perturbed element, its forward 5."""
    arithmetic = ("add", "sub", "mul", "div", "neg", "tanh")
    graph = run(
        poisson(mlp(6, 1), estimator={"kind": "second-difference", "K": 8, "sigma": 0.1}),
        ExpandOperators(),
        SplitStein(),
        Differentiate(),
        LowerDelta(),
        Canonicalize(),
    )
    wide = [node for node in graph.nodes if node.op in arithmetic and node.shape == (5, 2, 4, 6)]
    assert sorted(node.op for node in wide) == sorted(
        ["tanh", "mul", "mul", "add", "div"] + ["add", "mul", "sub", "mul"] + ["mul", "sub", "mul"]
    )
    assert (
        len([node for node in graph.of("tanh") if node.shape == (5, 6)]) == 2
    )  # one a term: shared with the base path


def test_perturb_and_difference_of_the_naive_form() -> None:
    naive = ExpandOperators().run(poisson(mlp(6, 1)))
    lowered = LowerDelta().run(naive)
    assert not lowered.of("perturb", "difference")
    feeds = {name: np.random.default_rng(0).standard_normal(node.shape) for name, node in naive.states().items()}
    before, after = (evaluate(graph, feeds, {"seed": 0, "step": 0})["residual:interior"] for graph in (naive, lowered))
    assert np.array_equal(before, after)


def test_golden(golden: Callable[[str, str], None]) -> None:
    golden("passes/lower-delta.ir", str(LowerDelta().run(one("tanh"))))


def test_a_graph_without_deltas_is_left_alone() -> None:
    b = Builder("plain")
    with b.at(LOC):
        b.output("x", b.input("x", (2, 2)))
    graph = b.finish()
    assert LowerDelta().run(graph) is graph
