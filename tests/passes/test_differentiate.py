"""Reverse mode: gradients against autograd, the loss, the order of sums."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pintac.errors import IRError, PassError
from pintac.ir import Builder, Graph, Location, Node
from pintac.ir.evaluate import evaluate
from pintac.ir.verify import verify
from pintac.passes.differentiate import Differentiate
from pintac.passes.expand_operators import ExpandOperators
from pintac.passes.reorder_tt import ReorderTT
from pintac.passes.split_stein import SplitStein
from tests.passes.models import PARAMS, distance, feeds_for, linear, mlp, poisson, run, shared_state, step_graph, values
from tests.passes.networks import NETWORKS


def difference_quotient(graph: Graph, direction: dict[str, np.ndarray], step: float = 1e-6) -> float:
    """The derivative of the loss along a direction of all states, by a central difference in float64."""
    feeds = feeds_for(graph)
    losses = [
        evaluate(graph, {name: feeds[name] + sign * step * direction[name] for name in feeds}, PARAMS)["metric:loss"]
        for sign in (1, -1)
    ]
    return float(losses[0] - losses[1]) / (2 * step)


@pytest.mark.parametrize("form", ["plus-minus", "even-odd", "none"])
@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_gradients_are_those_of_the_loss(network: str, form: str) -> None:
    """Along three random directions; every form of the perturbed path."""
    graph = poisson(NETWORKS[network], estimator={"kind": "second-difference", "K": 4, "sigma": 0.1}, points=3)
    graph = verify(run(graph, ExpandOperators(), SplitStein(form), ReorderTT(), Differentiate()))
    found = values(graph)
    rng = np.random.default_rng(0)
    for _ in range(3):
        direction = {name: rng.standard_normal(node.shape) for name, node in graph.states().items()}
        along = sum(float((direction[name] * found[f"grad:{name}"]).sum()) for name in direction)
        expected = difference_quotient(graph, direction)
        assert abs(along - expected) <= 1e-6 * abs(expected)


def test_split_and_naive_have_equal_gradients() -> None:
    graph = ExpandOperators().run(poisson(mlp(5, 5, 1), points=3))
    found = [values(run(graph, SplitStein(form), Differentiate())) for form in ("plus-minus", "even-odd", "none")]
    for key in found[0]:
        assert distance(found[0][key], found[2][key]) < 1e-9 and distance(found[1][key], found[2][key]) < 1e-9


def test_the_backward_of_even_and_odd_halves() -> None:
    """NUMERICS 5, written out: g+- = (gb +- ga) / 2, grad b = r+ + r-, grad a = r+ - r- with r+- = g+- fn'(Y + d+-)."""
    rng = np.random.default_rng(0)
    y, a, b, ga, gb = (0.3 * rng.standard_normal((2, 1, 3, 4)) for _ in range(5))
    builder = Builder("g", {"terms": [{"name": "r", "points": 2, "weight": 1.0}]})
    with builder.at(Location("model.py", 1)):
        nodes = [builder.state(name, (2, 1, 3, 4)) for name in ("y", "a", "b")]
        plus, minus = builder.add(nodes[2], nodes[1]), builder.sub(nodes[2], nodes[1])
        after = [builder.delta_act("tanh", nodes[0], d) for d in (plus, minus)]
        odd = builder.mul(builder.sub(*after), 0.5)
        even = builder.mul(builder.add(*after), 0.5)
        weighted = [builder.mul(odd, builder.data("ga", ga.shape)), builder.mul(even, builder.data("gb", gb.shape))]
        builder.output("loss", builder.sum(builder.add(*weighted)))
    found = evaluate(Differentiate().run(builder.finish()), {"y": y, "a": a, "b": b, "ga": ga, "gb": gb}, PARAMS)
    g_plus, g_minus = (gb + ga) / 2, (gb - ga) / 2
    slope = {name: 1 - np.tanh(y + d) ** 2 for name, d in (("plus", b + a), ("minus", b - a), ("base", 0 * a))}
    r_plus, r_minus = g_plus * slope["plus"], g_minus * slope["minus"]
    expected_y = g_plus * (slope["plus"] - slope["base"]) + g_minus * (slope["minus"] - slope["base"])
    for name, expected in (("a", r_plus - r_minus), ("b", r_plus + r_minus), ("y", expected_y)):
        np.testing.assert_allclose(found[f"grad:{name}"], expected, rtol=1e-9, atol=1e-12)


def test_the_loss_is_the_weighted_mean_of_squares() -> None:
    graph = poisson(mlp(3, 1), points=4, weights={"interior": 2.0, "boundary": 30.0})
    residuals = values(ExpandOperators().run(graph))
    result = Differentiate().run(ExpandOperators().run(graph))
    assert list(result.outputs)[:3] == ["metric:loss", "metric:loss:interior", "metric:loss:boundary"]
    assert not any(key.startswith("residual:") for key in result.outputs)
    metrics = values(result)
    parts = {
        name: weight * np.mean(residuals[f"residual:{name}"] ** 2)
        for name, weight in (("interior", 2.0), ("boundary", 30.0))
    }
    for name, part in parts.items():
        assert metrics[f"metric:loss:{name}"] == pytest.approx(part, rel=1e-14)
    assert metrics["metric:loss"] == pytest.approx(sum(parts.values()), rel=1e-14)


def test_the_mean_is_over_points_and_components() -> None:
    graph = step_graph({"r": mlp(3, 2)}, points=4)
    r = values(graph)["residual:r"]
    assert r.shape == (4, 2)
    assert values(Differentiate().run(graph))["metric:loss"] == pytest.approx(np.mean(r**2), rel=1e-14)


def test_the_adjoint_does_not_read_the_loss() -> None:
    """The seed is r times a constant: rows stay independent of one another."""
    graph = run(poisson(mlp(3, 1)), ExpandOperators(), Differentiate())
    totals = [node for node in graph.of("sum") if node.shape == ()]
    assert totals
    below = set(totals)
    for node in graph.nodes:
        if any(operand in below for operand in node.operands):
            below.add(node)
    assert not any(node.type.rank for node in below)


def test_a_coupled_loss_is_differentiated_from_its_node() -> None:
    def build(coupled: bool) -> Graph:
        b = Builder("step", {"terms": [{"name": "r", "points": 4, "weight": 1.0}]})
        with b.at(Location("model.py", 1)):
            x = b.random("uniform", 1, 0, (4, 2))
            r = linear(b, x, "0", 1)
            b.output("residual:r", r)
            if coupled:
                b.output("loss", b.exp(b.mul(b.sum(b.mul(r, r)), 0.25)))
        return b.finish()

    plain, coupled = (values(verify(Differentiate().run(build(flag)))) for flag in (False, True))
    assert coupled["metric:loss"] == pytest.approx(np.exp(plain["metric:loss"]))
    assert coupled["metric:loss:r"] == pytest.approx(plain["metric:loss:r"])
    for name in ("grad:0.weight", "grad:0.bias"):
        assert distance(plain[name] * np.exp(plain["metric:loss"]), coupled[name]) < 1e-14


def test_the_order_of_sums() -> None:
    """Terms in order; within a term perturbed rows before base rows; last layer first where a weight is used twice."""

    def net(b: Builder, x: Node) -> Node:
        w = shared_state(b, "w", (2, 2))
        h = b.tanh(b.matmul(x, w, lhs_role="base", rhs_role="weight"))
        h = b.tanh(b.matmul(h, w, lhs_role="base", rhs_role="weight"))
        return linear(b, h, "out", 1)

    graph = run(poisson(net, points=3), ExpandOperators(), SplitStein(), Differentiate())
    chain = []
    node = graph.outputs["grad:w"]
    while node.op == "add":
        chain.append(node.operands[1])
        node = node.operands[0]
    chain.append(node)
    order = [(matmul.loc.line, str(matmul.attrs["lhs_role"])) for matmul in reversed(chain)]
    assert all(matmul.op == "matmul_tn" for matmul in chain)
    assert order == [(10, "delta")] * 2 + [(10, "base")] * 2 + [(11, "base")] * 2
    first, second = chain[-1], chain[-2]
    assert first.operands[0].shape == second.operands[0].shape == (3, 2, 4, 2)
    assert graph.nodes.index(first) < graph.nodes.index(second)
    assert first.operands[0].op == "delta_act"  # the second layer's input


def test_reconstruction_is_differentiated_once() -> None:
    graph = run(poisson(NETWORKS["tensor train"], points=3), ExpandOperators(), SplitStein(), ReorderTT())
    result = Differentiate().run(graph)
    roles = [(node.op, node.attrs["lhs_role"], node.attrs["rhs_role"]) for node in result.of("matmul", "matmul_tn")]
    reconstructions = roles.count(("matmul", "weight", "weight"))
    assert reconstructions == 2
    assert roles.count(("matmul", "grad", "weight")) == reconstructions + 6 + 2
    assert roles.count(("matmul_tn", "weight", "grad")) == reconstructions


def test_terms_that_share_points_share_the_backward_pass() -> None:
    b = Builder("step", {"terms": [{"name": name, "points": 4, "weight": 1.0} for name in ("one", "two")]})
    with b.at(Location("model.py", 1)):
        x = b.random("uniform", 1, 0, (4, 2))
        h = b.tanh(linear(b, x, "0", 3))
        b.output("residual:one", linear(b, h, "1", 1))
        b.output("residual:two", linear(b, h, "2", 1))
    graph = Differentiate().run(b.finish())
    assert len(graph.of("matmul_tn")) == 3
    found, direction = values(graph), {name: np.ones(node.shape) for name, node in graph.states().items()}
    along = sum(float(found[f"grad:{name}"].sum()) for name in direction)
    assert along == pytest.approx(difference_quotient(graph, direction), rel=1e-6)


def test_a_state_that_the_loss_does_not_read_has_a_zero_gradient() -> None:
    graph = step_graph({"r": lambda b, x: b.laplacian(mlp(3, 1)(b, x), x, 0, 2)})
    found = values(run(graph, ExpandOperators(), SplitStein(), Differentiate()))
    assert found["grad:1.bias"].tolist() == [0.0]
    assert np.abs(found["grad:0.bias"]).min() > 0


def test_what_must_be_expanded_before() -> None:
    with pytest.raises(IRError, match="expand-operators") as caught:
        Differentiate().run(poisson(mlp(3, 1)))
    assert caught.value.location is not None
    tt = run(poisson(NETWORKS["tensor train"]), ExpandOperators(), SplitStein())
    with pytest.raises(IRError, match="reorder-tt"):
        Differentiate().run(tt)


def test_a_residual_that_is_no_term() -> None:
    graph = step_graph({"r": mlp(3, 1)})
    attrs = {**graph.attrs, "terms": [{"name": "q"}]}
    with pytest.raises(PassError, match="'r' is not among the terms"):
        Differentiate().run(Graph(graph.name, graph.nodes, graph.outputs, attrs))


def test_a_graph_without_a_loss_is_left_alone() -> None:
    b = Builder("infer")
    with b.at(Location("model.py", 1)):
        b.output("u", linear(b, b.input("x", (4, 2)), "0", 1))
    graph = b.finish()
    assert Differentiate().run(graph) is graph


def test_golden(golden: Callable[[str, str], None]) -> None:
    graph = run(poisson(mlp(3, 1), points=3), ExpandOperators(), SplitStein(), Differentiate())
    golden("passes/differentiate.ir", str(graph))
