"""fold-accumulate: sums with a matmul that nothing else reads start that matmul; the rounding is the chain's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pintac import smx
from pintac.ir import Builder, Graph, Node
from pintac.ir.evaluate import evaluate
from pintac.ir.verify import verify
from pintac.passes import PipelineOptions, default_pipeline
from pintac.passes.fold_accumulate import FoldAccumulate
from tests.passes.models import LOC, PARAMS, distance, feeds_for, mlp, poisson, run
from tests.passes.networks import NETWORKS


def graph_of(body: Callable[[Builder, Node, Node], Node], quantized: bool = False) -> Graph:
    b = Builder("g")
    with b.at(LOC):
        x, g = b.input("x", (8, 4)), b.input("g", (8, 4))
        if quantized:
            x, g = b.quantize(x, 12), b.quantize(g, 12)
        b.output("y", body(b, x, g))
    return b.finish()


def product(b: Builder, x: Node, g: Node) -> Node:
    return b.matmul_tn(x, g, lhs_role="base", rhs_role="grad")


def chain(b: Builder, x: Node, g: Node) -> Node:
    """((x'x + x'g) + g'g)"""
    return b.add(b.add(product(b, x, x), product(b, x, g)), product(b, g, g))


def test_a_sum_of_products_becomes_one_chain_in_its_order() -> None:
    graph = verify(FoldAccumulate().run(graph_of(chain)))
    first, second, third = graph.of("matmul_tn")
    assert not graph.of("add")
    assert third.operands[2] is second and second.operands[2] is first and len(first.operands) == 2
    assert graph.outputs["y"] is third


def test_the_chain_is_rounded_as_one_contraction() -> None:
    """As the TCU does it: the accumulator goes on, once rounded a block."""
    graph = graph_of(chain, quantized=True)
    rng = np.random.default_rng(0)
    scale = np.array([1.0] * 4 + [1e-3] * 4)[:, None]  # blocks of different exponents: sums are rounded
    feeds = {name: (rng.standard_normal((8, 4)) * scale).astype(np.float32) for name in ("x", "g")}
    planes = {name: smx.quantize(value, 12)[:2] for name, value in feeds.items()}
    expected = None
    for left, right in (("x", "x"), ("x", "g"), ("g", "g")):
        expected = smx.matmul_tn(planes[left], planes[right], expected, m=4, n=4)
    folded, unfolded = (evaluate(g, feeds, {}, "smx")["y"] for g in (FoldAccumulate().run(graph), graph))
    assert folded.tobytes() == np.asarray(expected).tobytes()
    assert folded.tobytes() != unfolded.tobytes() and distance(unfolded, folded) < 1e-6


@pytest.mark.parametrize(
    ("body", "adds"),
    [
        (lambda b, x, g: b.add(product(b, x, g), b.matmul_tn(g, g)), 0),
        (lambda b, x, g: b.add(b.slice(x, 0, 0, 4), product(b, x, g)), 0),
        (lambda b, x, g: b.add(b.matmul(x, b.slice(g, 0, 0, 4)), b.sin(x)), 0),
        # a weight gradient never starts from what was added after it: terms would accumulate in two orders
        (lambda b, x, g: b.add(product(b, x, g), b.slice(x, 0, 0, 4)), 1),
        (lambda b, x, g: b.sub(product(b, x, g), b.slice(x, 0, 0, 4)), 0),
        # the product is read twice, or the shapes differ, or there is an accumulator already
        (lambda b, x, g: (lambda p: b.add(b.add(p, b.slice(x, 0, 0, 4)), p))(product(b, x, g)), 2),
        (lambda b, x, g: (lambda p: b.add(p, p))(product(b, x, g)), 1),
        (lambda b, x, g: b.add(product(b, x, g), b.slice(x, 0, 0, 1)), 1),
        (lambda b, x, g: b.add(b.matmul_tn(x, g, b.slice(x, 0, 0, 4)), b.slice(g, 0, 0, 4)), 1),
    ],
)
def test_what_is_folded(body: Callable[[Builder, Node, Node], Node], adds: int) -> None:
    graph = graph_of(body)
    result = FoldAccumulate().run(graph)
    assert len(result.of("add")) == adds
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((8, 4)) for name in ("x", "g")}
    assert distance(evaluate(graph, feeds)["y"], evaluate(result, feeds)["y"]) < 1e-14


def test_scope() -> None:
    def rows(b: Builder, x: Node, g: Node) -> Node:
        w = b.state("w", (4, 4))
        return b.add(b.matmul(x, w, lhs_role="base", rhs_role="weight"), g)

    assert len(FoldAccumulate("all").run(graph_of(rows)).of("add")) == 0
    graph = graph_of(rows)
    assert FoldAccumulate("weights").run(graph) is graph


def test_an_output_is_not_moved_into_a_chain() -> None:
    b = Builder("g")
    with b.at(LOC):
        x = b.input("x", (4, 4))
        p = product(b, x, x)
        b.output("p", p)
        b.output("y", b.add(x, p))
    graph = b.finish()
    assert FoldAccumulate().run(graph) is graph


@pytest.mark.parametrize("network", ["mlp", "tensor train", "gated"])
def test_every_weight_accumulates_in_the_same_order(network: str) -> None:
    """Interior before boundary, perturbed before base rows, and no sum of weight gradients is left."""
    graph = run(poisson(NETWORKS[network], points=3), *default_pipeline(PipelineOptions(scheme="prs")))
    chains = [node for node in graph.of("matmul_tn") if not any(user.op == "matmul_tn" for user in graph.users(node))]
    assert chains
    for node in chains:
        places = []
        while node.op == "matmul_tn":
            role = str(node.attrs["lhs_role"])
            places.append((node.loc.line, {"delta": 0, "base": 1, "weight": 2}[role]))
            if len(node.operands) == 2:
                break
            node = node.operands[2]
        assert places == sorted(places, reverse=True)


@pytest.mark.parametrize("network", ["mlp", "gated"])
def test_steps_stay_the_same_to_rounding(network: str) -> None:
    pipeline = default_pipeline()
    graph = run(poisson(NETWORKS[network], points=3), *pipeline[:-1])
    feeds = feeds_for(graph)
    for mode, limit in (("float64", 1e-12), ("smx", 1e-3)):
        before, after = (evaluate(g, feeds, PARAMS, mode) for g in (graph, pipeline[-1].run(graph)))
        for key in before:
            assert distance(before[key], after[key]) < limit


def test_products_added_out_of_order_accumulate_in_the_order_of_the_graph() -> None:
    def mixed(b: Builder, x: Node, g: Node) -> Node:
        first, second, third = product(b, x, x), product(b, x, g), product(b, g, g)
        return b.add(third, b.add(second, first))

    graph = verify(FoldAccumulate().run(graph_of(mixed)))
    last, chain = graph.outputs["y"], []
    while True:
        chain.append(tuple(operand.name for operand in last.operands[:2]))
        if len(last.operands) == 2:
            break
        last = last.operands[2]
    assert chain == [("g", "g"), ("x", "g"), ("x", "x")]


def test_products_over_the_same_perturbed_rows_stay_apart() -> None:
    """Odd and even halves: two accumulators filled in one loop over the points, then added, then the base rows."""
    options = PipelineOptions(quant="even-odd")
    graph = run(poisson(mlp(5, 4, 1), points=3), *default_pipeline(options))
    rows = [node for node in graph.of("matmul_tn") if node.operands[0].type.rank == 4]
    assert [node.shape for node in rows].count((5, 4)) == 2
    assert all(len(node.operands) == 2 for node in rows)
    (total,) = [node for node in graph.of("add") if set(node.operands) <= set(rows) and node.shape == (5, 4)]
    chained = [node for node in graph.of("matmul_tn") if len(node.operands) == 3 and node.shape == (5, 4)]
    assert len(chained) == 2 and any(node.operands[2] is total for node in chained)
    plus_minus = run(poisson(mlp(5, 4, 1), points=3), *default_pipeline())
    assert not [node for node in plus_minus.of("add") if node.shape == (5, 4) and node.operands[0].op == "matmul_tn"]


def test_golden(golden: Callable[[str, str], None]) -> None:
    golden("passes/fold-accumulate.ir", str(FoldAccumulate().run(graph_of(chain, quantized=True))))
