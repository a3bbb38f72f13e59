"""The verifier: each rule broken once, and all problems reported together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings

from pintac.errors import IRError
from pintac.ir import Builder, Graph, Location, Node, f32, verify
from tests.ir.strategies import graphs

HERE, THERE = Location("net.py", 12), Location("net.py", 20)


def build() -> Graph:
    b = Builder("g")
    with b.at(HERE):
        w = b.state("w", (3, 4))
        y = b.tanh(b.matmul(b.input("x", (5, 3)), w), loc=THERE)
        b.output("state:w", b.mul(w, b.sum(y)))
    return b.finish()


def change(graph: Graph, changed: str, /, **parts: object) -> Graph:
    """The graph with parts of one node changed behind the builder's back; its users read the changed node."""
    new: dict[Node, Node] = {}
    for node in graph.nodes:
        operands = tuple(new.get(operand, operand) for operand in node.operands)
        new[node] = replace(node, **{"operands": operands, **(parts if node.name == changed else {})})  # type: ignore[arg-type]
    outputs = {key: new[node] for key, node in graph.outputs.items()}
    return replace(graph, nodes=tuple(new.values()), outputs=outputs)


def reordered(graph: Graph) -> Graph:
    return replace(graph, nodes=graph.nodes[::-1])


def with_output(graph: Graph, key: str, name: str) -> Graph:
    return replace(graph, outputs={**graph.outputs, key: graph.node(name)})


def derivative(of: str) -> Graph:
    """The Laplacian of a state with respect to another one."""
    b = Builder("g")
    with b.at(HERE):
        b.laplacian(b.state(of, (3, 4)), b.state("y", (3, 2)), 0, 1)
    return b.finish()


def test_a_valid_graph_is_returned() -> None:
    graph = build()
    assert verify(graph) is graph


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        (
            lambda g: change(g, "tanh_0", type=f32(5, 5)),
            "net.py:20: invalid graph @g: %tanh_0: its type is f32[5,5], tanh makes f32[5,4]",
        ),
        (lambda g: change(g, "tanh_0", op="tahn"), "unknown op 'tahn'"),
        (lambda g: change(g, "tanh_0", name="w"), "two nodes are called %w"),
        (lambda g: change(g, "tanh_0", name="a b"), "'a b' cannot be written"),
        (lambda g: change(g, "tanh_0", loc=None), "%tanh_0 has no location"),
        (lambda g: change(g, "tanh_0", loc=Location("", 3)), "%tanh_0 has no location"),
        (lambda g: change(g, "tanh_0", attrs={"axis": 1}), "tanh has no attribute 'axis'"),
        (lambda g: change(g, "sum_0", attrs={"axes": [0, 1], "keepdims": False}), "not in canonical form"),
        (lambda g: change(g, "sum_0", attrs={"axes": (-1, 0)}), "axis -1 is outside rank 2"),
        (lambda g: change(g, "matmul_0", attrs={"lhs_role": "bias"}), "'lhs_role' cannot be 'bias'"),
        (lambda g: change(g, "tanh_0", operands=()), "tanh takes 1 operands, got 0"),
        (reordered, "which does not come before it"),
        (lambda g: replace(g, nodes=(*g.nodes, g.nodes[0])), "%w is listed twice"),
        (lambda g: replace(g, nodes=g.nodes[:-1]), "'state:w' is not a node of the graph"),
        (lambda g: with_output(g, "state:v", "tanh_0"), "next value of a state that does not exist"),
        (lambda g: with_output(g, "state:x", "x"), "next value of a state that does not exist"),
        (lambda g: with_output(g, "state:w", "tanh_0"), "'state:w' is f32[5,4], the state f32[3,4]"),
        (
            lambda g: change(g, "x", attrs={"name": "w", "shape": (5, 3)}),
            "two of the states, inputs and data are called 'w'",
        ),
        (lambda g: derivative("w"), "%laplacian_0: %w does not depend on %y"),
        (lambda g: replace(g, name="a b"), "cannot be written in the text form"),
        (lambda g: replace(g, attrs={"net": object()}), "attrs are not JSON"),
    ],
)
def test_each_rule(breakage: Callable[[Graph], Graph], message: str) -> None:
    with pytest.raises(IRError) as caught:
        verify(breakage(build()))
    assert message in str(caught.value)


def test_all_problems_are_reported_at_once() -> None:
    graph = change(change(build(), "tanh_0", type=f32(1)), "matmul_0", type=f32(5, 4, 1))
    with pytest.raises(IRError) as caught:
        verify(graph)
    text = str(caught.value)
    assert "problems:" in text
    assert "net.py:12: %matmul_0: its type is f32[5,4,1]" in text and "net.py:20: %tanh_0: its type is f32[1]" in text


def rows(make: Callable[[Builder, Callable[..., Node]], Node]) -> Graph:
    b = Builder("g")
    with b.at(HERE):
        b.quantize(make(b, lambda *shape: b.input(f"x{len(b.finish().nodes)}", shape)), 8)
    return b.finish()


@pytest.mark.parametrize(
    "make",
    [
        lambda b, x: b.concat([x(6, 4), x(2, 4)], 0),
        lambda b, x: b.concat([x(3, 2, 4), x(3, 4, 4)], 1),
        lambda b, x: b.tanh(b.add(b.concat([x(6, 4), x(2, 4)], 0), x(4))),
        lambda b, x: b.matmul(b.concat([x(6, 4), x(2, 4)], 0), x(4, 5)),
        lambda b, x: b.slice(b.concat([x(8, 4), x(4, 4)], 0), 0, 1, 12),
        lambda b, x: b.concat([b.concat([x(6, 1), x(2, 1)], 0), x(8, 2)], 1),
        lambda b, x: b.pad(x(6, 4), 0, 2, 0),
        lambda b, x: b.concat([x(2, 4), b.concat([x(2, 4), x(4, 4)], 0)], 0),
        lambda b, x: b.broadcast(b.concat([x(6, 4), x(2, 4)], 0), (3, 8, 4)),
        lambda b, x: b.decode(b.quantize(b.matmul(b.concat([x(6, 4), x(2, 4)], 0), x(4, 5)), 8)),
    ],
)
def test_a_block_must_not_span_row_groups(make: Callable[[Builder, Callable[..., Node]], Node]) -> None:
    with pytest.raises(IRError, match="a quantised block spans row groups"):
        verify(rows(make))


@pytest.mark.parametrize(
    "make",
    [
        lambda b, x: b.concat([x(8, 4), x(2, 4)], 0),
        lambda b, x: b.concat([x(3, 2, 4), x(5, 2, 4)], 0),
        lambda b, x: b.concat([x(6, 3), x(6, 2)], 1),
        lambda b, x: b.slice(b.concat([x(6, 4), x(4, 4)], 0), 0, 0, 6),
        lambda b, x: b.slice(b.concat([x(6, 4), x(8, 4)], 0), 0, 2, 14),
        lambda b, x: b.matmul(x(5, 6), b.concat([x(6, 3)], 0)),
        lambda b, x: b.concat([x(3, 1, 5, 2), x(3, 1, 5, 2)], 1),
    ],
)
def test_groups_on_block_boundaries_are_fine(make: Callable[[Builder, Callable[..., Node]], Node]) -> None:
    verify(rows(make))


@given(graphs(max_ops=8))
@settings(max_examples=80)
def test_what_the_builder_makes_is_valid_but_for_row_groups(graph: Graph) -> None:
    try:
        verify(graph)
    except IRError as error:
        assert "a quantised block spans row groups" in error.message
        assert graph.of("concat", "pad")
