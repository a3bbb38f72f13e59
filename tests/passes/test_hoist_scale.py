"""hoist-scale: powers of two before products of few columns; every bit stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pintac.ir import Builder, Graph, Node
from pintac.ir.evaluate import evaluate
from pintac.ir.verify import verify
from pintac.passes import PipelineOptions, default_pipeline
from pintac.passes.hoist_scale import HoistScale
from tests.passes.models import LOC, PARAMS, feeds_for, mlp, poisson, run

Body = Callable[[Builder, Node, Node], Node]


def graph_of(body: Body, columns: int = 1, quantized: bool = True) -> Graph:
    """`body` of g [8, columns] and w [columns, 12]; what it made of g is read by a weight gradient, too."""
    b = Builder("g")
    with b.at(LOC):
        g, w = b.input("g", (8, columns)), b.input("w", (columns, 12))
        if quantized:
            g, w = b.quantize(g, 12), b.quantize(w, 8)
        b.output("y", body(b, g, w))
        b.output("z", b.matmul_tn(g, g))
    return b.finish()


def product(b: Builder, g: Node, w: Node) -> Node:
    return b.matmul(g, w, lhs_role="grad", rhs_role="weight")


def scaled(factor: float) -> Body:
    return lambda b, g, w: b.mul(product(b, g, w), factor)


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("factor", [0.5, -0.25, 4.0])
def test_the_factor_multiplies_the_narrow_operand(factor: float, quantized: bool) -> None:
    graph = graph_of(scaled(factor), quantized=quantized)
    hoisted = verify(HoistScale().run(graph))
    (mul,), (made,) = hoisted.of("mul"), hoisted.of("matmul")
    assert mul.shape == (8, 1) and hoisted.outputs["y"] is made and made.attrs == graph.of("matmul")[0].attrs
    rng = np.random.default_rng(0)
    feeds = {"g": rng.standard_normal((8, 1)), "w": rng.standard_normal((1, 12))}
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    before, after = (evaluate(g, feeds, {}, "smx" if quantized else "float32") for g in (graph, hoisted))
    for key in ("y", "z"):
        assert before[key].tobytes() == after[key].tobytes()


@pytest.mark.parametrize(
    ("body", "columns"),
    [
        (scaled(0.3), 1),  # no power of two
        (scaled(0.5), 8),  # two blocks of columns
        (lambda b, g, w: b.mul(product(b, g, w), product(b, g, w)), 1),  # no constant
        (lambda b, g, w: (lambda p: b.add(b.mul(p, 0.5), p))(product(b, g, w)), 1),  # the product is read twice
        (lambda b, g, w: b.mul(b.matmul(g, w, b.matmul(g, w)), 0.5), 1),  # it adds onto something
    ],
)
def test_what_stays(body: Body, columns: int) -> None:
    graph = graph_of(body, columns)
    assert HoistScale().run(graph) is graph


@pytest.mark.parametrize("rows", ["apart", "packed"])
def test_a_step_keeps_its_bits(rows: str) -> None:
    """Even/odd halves of the last layer: one wide multiplication less, and the same new parameters."""
    passes = default_pipeline(PipelineOptions(quant="even-odd", rows=rows))
    step = poisson(mlp(6, 2))
    plain, hoisted = (run(step, *(p for p in passes if keep or p.name != "hoist-scale")) for keep in (False, True))

    def wide(graph: Graph) -> int:
        return sum(node.type.rank == 4 and node.shape[-1] > 4 for node in graph.of("mul"))

    assert wide(hoisted) == wide(plain) - 1
    feeds = feeds_for(plain)
    before, after = (evaluate(graph, feeds, PARAMS, "smx") for graph in (plain, hoisted))
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert value.tobytes() == after[key].tobytes(), key


def test_golden(golden: Callable[[str, str], None]) -> None:
    golden("passes/hoist-scale.ir", str(HoistScale().run(graph_of(scaled(0.5)))))
