"""The builder and the rewriter: names, places, graphs that stay as they are."""

from __future__ import annotations

import pytest

from pintac.errors import IRError
from pintac.ir import Builder, Graph, Location, Node, rewrite

HERE = Location("net.py", 12)


def test_an_unknown_op_is_reported_at_the_source_line() -> None:
    b = Builder("g")
    with pytest.raises(IRError, match=r"net\.py:12: unknown op 'matmull'"), b.at(HERE):
        b.add_op("matmull", (b.input("x", (4,)),))


def test_a_wrong_attribute_is_reported_at_the_source_line() -> None:
    b = Builder("g")
    with pytest.raises(IRError, match=r"net\.py:12: slice needs the attribute 'stop'"), b.at(HERE):
        b.add_op("slice", (b.input("x", (4,)),), {"axis": 0, "start": 1})


def test_a_node_needs_a_location_and_operands_of_its_builder() -> None:
    b, other = Builder("g"), Builder("h")
    with pytest.raises(IRError, match="no location"):
        b.scalar("lr")
    stranger = other.scalar("lr", loc=HERE)
    with pytest.raises(IRError, match="of another graph"):
        b.tanh(stranger, loc=HERE)
    with pytest.raises(IRError, match="not a node of this graph"):
        b.output("y", stranger)
    b.output("y", b.scalar("lr", loc=HERE))
    with pytest.raises(IRError, match="exists already"):
        b.output("y", b.scalar("lr", loc=HERE))


def test_names_are_unique_deterministic_and_printable() -> None:
    b = Builder("g")
    with b.at(HERE):
        names = [b.scalar("lr").name, b.scalar("lr").name, b.state("0.weight", ()).name, b.state("a b", ()).name]
        names += [
            b.add_op("scalar", (), {"name": "s"}, name="lr_5").name,
            b.add_op("scalar", (), {"name": "s"}, name="lr_5").name,
        ]
    assert names == ["lr", "lr_0", "0.weight", "a_b", "lr_5", "lr_1"]


def test_nodes_are_immutable() -> None:
    node = Builder("g").scalar("lr", loc=HERE)
    with pytest.raises(AttributeError):
        node.name = "x"  # type: ignore[misc]
    with pytest.raises(TypeError):
        node.attrs["name"] = "x"  # type: ignore[index]


def small() -> Graph:
    b = Builder("g", {"terms": ["a"]})
    with b.at(HERE):
        x = b.state("x", (2, 3))
        y = b.tanh(x)
        b.output("state:x", b.add(y, y))
        b.output("y", y)
    return b.finish()


def test_graph_queries() -> None:
    graph = small()
    x, y, z = graph.nodes
    assert graph.users(x) == (y,) and graph.users(y) == (z,) and graph.users(z) == ()
    assert graph.states() == {"x": x} and graph.node("tanh_0") is y and graph.of("tanh", "add") == (y, z)
    with pytest.raises(IRError, match="no node %tan_0"):
        graph.node("tan_0")


def test_rewrite_replaces_keeps_names_and_leaves_the_original() -> None:
    graph = small()

    def to_sin(b: Builder, node: Node, operands: tuple[Node, ...]) -> Node | None:
        return b.sin(b.mul(operands[0], 2.0)) if node.op == "tanh" else None

    new = rewrite(graph, to_sin)
    assert [node.op for node in graph.nodes] == ["state", "tanh", "add"]
    assert [node.op for node in new.nodes] == ["state", "const", "mul", "sin", "add"]
    assert new.outputs["y"].op == "sin" and new.outputs["state:x"].operands == (new.outputs["y"],) * 2
    assert new.attrs == {"terms": ["a"]} and new.node("add_0").loc == HERE and new.node("sin_0").loc == HERE


def test_rewrite_never_takes_the_name_of_a_node_to_come() -> None:
    b = Builder("g")
    with b.at(HERE):
        x = b.state("x", (2,))
        b.output("z", b.add_op("tanh", (b.add_op("neg", (x,), name="first"),), name="sin_0"))
    new = rewrite(b.finish(), lambda b, node, ops: b.sin(ops[0]) if node.op == "neg" else None)
    assert [node.name for node in new.nodes] == ["x", "sin_1", "sin_0"]
    assert new.node("sin_0").op == "tanh"
