"""TT orders: every order is the dense layer, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from pintac.ir import Builder, Graph
from pintac.ir.evaluate import evaluate
from pintac.ir.verify import verify
from pintac.passes import parse_pipeline
from pintac.passes.reorder_tt import ReorderTT
from tests.passes.models import LOC, distance, feeds_for, poisson, run, tt_linear
from tests.passes.networks import NETWORKS

LAYERS = [
    ((6,), (5,), (1,)),
    ((6,), (5,), (3,)),
    ((2, 3), (3, 2), (1, 1, 1)),
    ((2, 3), (3, 2), (2, 3, 3)),
    ((4, 4), (2, 2), (3, 3, 3)),
    ((2, 3, 2), (2, 1, 3), (3, 3, 3, 3, 3)),
    ((1, 3, 2), (2, 2, 2), (1, 1, 1, 1, 1)),
    ((2, 3), (4,), (2, 3)),
    ((5,), (2, 3), (3, 2)),
]


def layer(rows: Sequence[int], inputs: Sequence[int], outputs: Sequence[int], ranks: Sequence[int]) -> Graph:
    b = Builder("layer")
    with b.at(LOC):
        x = b.input("x", (*rows, int(np.prod(inputs))))
        b.output("y", tt_linear(b, x, "tt", inputs, outputs, ranks))
    return b.finish()


def dense_weight(feeds: dict[str, np.ndarray], inputs: Sequence[int], outputs: Sequence[int]) -> np.ndarray:
    """W [N, M] by contracting the cores as they are defined, one after another."""
    tensor = np.ones((1, 1))
    for k in range(len(inputs) + len(outputs)):
        core = feeds[f"tt.{k}"]
        tensor = np.tensordot(tensor, core, axes=(tensor.ndim - 1, 0))
    return tensor.reshape(int(np.prod(inputs)), int(np.prod(outputs)))


@pytest.mark.parametrize("order", ["prs", "sequential", "dense"])
@pytest.mark.parametrize("rows", [(7,), (3, 2, 5)])
@pytest.mark.parametrize(("inputs", "outputs", "ranks"), LAYERS)
def test_every_order_is_the_dense_layer(order, rows, inputs, outputs, ranks) -> None:
    graph = layer(rows, inputs, outputs, ranks)
    expanded = verify(ReorderTT(order).run(graph))
    assert not expanded.of("tt_matmul")
    feeds = feeds_for(graph)
    feeds["x"] = np.random.default_rng(1).standard_normal(graph.node("x").shape)
    y = evaluate(expanded, feeds)["y"]
    assert distance(feeds["x"] @ dense_weight(feeds, inputs, outputs), y) < 1e-13


def row_macs(graph: Graph) -> int:
    return sum(
        node.type.size * node.operands[0].shape[-1] for node in graph.of("matmul") if node.attrs["lhs_role"] == "base"
    )


def test_multiply_adds_a_row() -> None:
    graph = layer((1,), (16, 16), (16, 16), (16, 16, 16))
    assert row_macs(ReorderTT("prs").run(graph)) == 2 * 256 * 16
    assert row_macs(ReorderTT("sequential").run(graph)) == 4 * 16**3
    assert row_macs(ReorderTT("dense").run(graph)) == 256 * 256


def test_roles_and_one_reconstruction_for_all_uses() -> None:
    b = Builder("two")
    with b.at(LOC):
        for key in ("x", "y"):
            x = b.input(key, (4, 4))
            b.output(key, tt_linear(b, x, "tt", (2, 2), (2, 2), (2, 2, 2)))
    graph = ReorderTT().run(b.finish())
    roles = [(str(node.attrs["lhs_role"]), str(node.attrs["rhs_role"])) for node in graph.of("matmul")]
    assert roles.count(("weight", "weight")) == 2
    assert roles.count(("base", "weight")) == 4


@pytest.mark.parametrize("order", ["prs", "sequential"])
def test_golden(order: str, golden: Callable[[str, str], None]) -> None:
    golden(f"passes/reorder-tt-{order}.ir", str(ReorderTT(order).run(layer((3,), (2, 3), (3, 2), (2, 3, 2)))))


def test_a_graph_without_layers_is_left_alone() -> None:
    b = Builder("plain")
    with b.at(LOC):
        b.output("x", b.input("x", (2, 2)))
    graph = b.finish()
    assert ReorderTT().run(graph) is graph


def test_gradients_of_sequential_cores_add_up_as_matrices() -> None:
    """So that they can accumulate in one chain: no reshape stands between the products and their sum."""
    text = "expand-operators,split-stein,reorder-tt{order=sequential},differentiate,fold-accumulate"
    graph = run(poisson(NETWORKS["tensor train"], points=3), *parse_pipeline(text))
    for k in range(4):
        gradient = graph.outputs[f"grad:tt.{k}"]
        while gradient.op == "reshape":
            gradient = gradient.operands[0]
        chain = 0
        while gradient.op == "matmul_tn":
            chain, gradient = chain + 1, gradient.operands[-1]
        assert chain == 3  # interior perturbed, interior base, boundary
