"""Types, the op table, the builder and the rewriter: every shape rule, kept and broken."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pintac.errors import IRError
from pintac.ir import OPS, Builder, Graph, Location, Node, TensorType, f32, parse_type, rewrite
from pintac.ir.deltas import DELTA_RULES
from pintac.ir.gradients import GRADIENTS
from pintac.ir.ops import REDUCTIONS

HERE = Location("net.py", 12)


def test_types_print_and_parse() -> None:
    for text in ("f32[]", "f32[100,2,256,256]", "smx8[256,16]", "i32[7]", "smx12[1,1]"):
        assert str(parse_type(text)) == text
    assert parse_type(" f32 [ 3 , 4 ]") == f32(3, 4)
    assert (f32(2, 3).rank, f32(2, 3).size, f32().size, f32(2, 3).is_smx) == (2, 6, 1, False)
    quantised = TensorType("smx12", (7, 5, 3))
    assert (quantised.padded_shape, quantised.bits, quantised.size) == ((7, 8, 4), 12, 105)
    assert f32(5, 3).padded_shape == (5, 3)


@pytest.mark.parametrize("text", ["f32", "f32[", "f32[-1]", "f32[1,]]", "smx8[3]", "smx9[4,4]", "f16[2]", "f32[a]", ""])
def test_what_is_not_a_type_is_refused(text: str) -> None:
    with pytest.raises(IRError):
        parse_type(text)


def test_the_tables_cover_the_same_ops() -> None:
    from pintac.ir.evaluate import EVALUATORS

    assert set(GRADIENTS) == set(DELTA_RULES) == set(EVALUATORS) == set(OPS)
    assert all(hasattr(Builder, name) for name in OPS)
    assert all(op.name == name and op.doc for name, op in OPS.items())
    assert {op.name for op in OPS.values() if op.category == "reduction"} == set(REDUCTIONS)


Make = Callable[[Builder, Callable[..., Node]], Node]

GOOD: list[tuple[str, Make, str]] = [
    ("state", lambda b, x: b.state("w", (2, 3)), "f32[2,3]"),
    ("scalar", lambda b, x: b.scalar("lr"), "f32[]"),
    ("const", lambda b, x: b.const([1, 2], (2,)), "f32[2]"),
    ("splat", lambda b, x: b.const(1.0, (2, 3)), "f32[2,3]"),
    ("random", lambda b, x: b.random("normal", 1, 0, (4, 2)), "f32[4,2]"),
    ("broadcasting", lambda b, x: b.add(x(4, 1, 1, 8), x(2, 5, 8)), "f32[4,2,5,8]"),
    ("scalar operand", lambda b, x: b.mul(2, x(3)), "f32[3]"),
    ("compare", lambda b, x: b.compare("le", x(3, 1), x(1, 4)), "f32[3,4]"),
    ("select", lambda b, x: b.select(x(2, 1), x(1, 3), 0.0), "f32[2,3]"),
    ("delta_act", lambda b, x: b.delta_act("exp", x(4, 1, 1, 8), x(4, 2, 3, 8)), "f32[4,2,3,8]"),
    ("matmul", lambda b, x: b.matmul(x(4, 2, 5, 3), x(3, 7)), "f32[4,2,5,7]"),
    ("matmul transposed", lambda b, x: b.matmul(x(5, 3), x(7, 3), transpose_b=True), "f32[5,7]"),
    ("matmul acc", lambda b, x: b.matmul(x(5, 3), x(3, 7), x(5, 7)), "f32[5,7]"),
    ("matmul smx", lambda b, x: b.matmul(b.quantize(x(5, 3), 8), b.quantize(x(3, 7), 12)), "f32[5,7]"),
    ("matmul_tn", lambda b, x: b.matmul_tn(x(4, 2, 5, 3), x(4, 2, 5, 7)), "f32[3,7]"),
    ("tt", lambda b, x: b.tt_matmul(x(5, 6), [x(1, 2, 3), x(3, 3, 1), x(1, 4, 1)], (2, 3), (4,), (3, 1)), "f32[5,4]"),
    ("gradient", lambda b, x: b.gradient(x(5, 2), x(5, 3)), "f32[5,2,3]"),
    ("laplacian", lambda b, x: b.laplacian(x(5, 2), x(5, 3), 1, 3), "f32[5,2]"),
    ("perturb", lambda b, x: b.perturb(x(5, 3), x(5, 2, 4, 3)), "f32[5,2,4,3]"),
    ("difference", lambda b, x: b.difference(x(5, 2, 4, 3), x(5, 1, 1, 3)), "f32[5,2,4,3]"),
    ("reshape", lambda b, x: b.reshape(x(4, 6), (2, 12)), "f32[2,12]"),
    ("permute", lambda b, x: b.permute(x(4, 6, 3), (2, 0, 1)), "f32[3,4,6]"),
    ("slice", lambda b, x: b.slice(x(4, 6), -1, 2, 5), "f32[4,3]"),
    ("concat", lambda b, x: b.concat([x(4, 6), x(4, 1), x(4, 2)], -1), "f32[4,9]"),
    ("broadcast", lambda b, x: b.broadcast(x(1, 6), (3, 4, 6)), "f32[3,4,6]"),
    ("pad", lambda b, x: b.pad(x(4, 6), 0, 1, 2), "f32[7,6]"),
    ("sum all", lambda b, x: b.sum(x(4, 6)), "f32[]"),
    ("sum", lambda b, x: b.sum(x(4, 6, 3), (-1, 0)), "f32[6]"),
    ("amax", lambda b, x: b.amax(x(4, 6, 3), (1,), keepdims=True), "f32[4,1,3]"),
    ("quantize", lambda b, x: b.quantize(x(3, 4, 6), 4), "smx4[3,4,6]"),
    ("decode", lambda b, x: b.decode(b.quantize(x(4, 6), 16)), "f32[4,6]"),
]

BAD: list[tuple[str, Make, str]] = [
    ("const size", lambda b, x: b.const([1, 2], (3,)), "2 values for the shape"),
    ("random kind", lambda b, x: b.random("gamma", 1, 0, (4,)), "cannot be 'gamma'"),
    ("broadcasting", lambda b, x: b.add(x(4, 3), x(2, 3)), "do not broadcast"),
    ("smx operand", lambda b, x: b.add(b.quantize(x(4, 4), 8), x(4, 4)), "works on f32"),
    ("compare kind", lambda b, x: b.compare("lte", x(3), x(3)), "cannot be 'lte'"),
    ("delta_act fn", lambda b, x: b.delta_act("erf", x(3), x(3)), "cannot be 'erf'"),
    ("matmul inner", lambda b, x: b.matmul(x(4, 3), x(4, 3)), "contracts 3 with 4"),
    ("matmul transposed inner", lambda b, x: b.matmul(x(4, 3), x(3, 4), transpose_b=True), "contracts 3 with 4"),
    ("matmul rank", lambda b, x: b.matmul(x(3), x(3, 4)), "rank 2 or more"),
    ("matmul rhs rank", lambda b, x: b.matmul(x(2, 4, 3), x(2, 3, 4)), "b of rank 2"),
    ("matmul mixed", lambda b, x: b.matmul(b.quantize(x(4, 3), 8), x(3, 4)), "both f32 or both smx"),
    ("matmul acc", lambda b, x: b.matmul(x(4, 3), x(3, 4), x(4)), "start value must be f32[4,4]"),
    ("matmul role", lambda b, x: b.matmul(x(4, 3), x(3, 4), lhs_role="bias"), "cannot be 'bias'"),
    ("matmul_tn rows", lambda b, x: b.matmul_tn(x(2, 4, 3), x(8, 3)), "must agree"),
    ("matmul_tn acc", lambda b, x: b.matmul_tn(x(4, 3), x(4, 2), x(2, 3)), "start value must be f32[3,2]"),
    (
        "tt core",
        lambda b, x: b.tt_matmul(x(5, 2), [x(1, 2, 3), x(2, 4, 1)], (2,), (4,), (3,)),
        "core 2 must be f32[3,4,1]",
    ),
    ("tt cores", lambda b, x: b.tt_matmul(x(5, 2), [x(1, 2, 3), x(3, 4, 1)], (2,), (4,), (3, 1)), "as many cores"),
    ("tt input", lambda b, x: b.tt_matmul(x(5, 3), [x(1, 2, 3), x(3, 4, 1)], (2,), (4,), (3,)), "must be [..., 2]"),
    ("gradient rows", lambda b, x: b.gradient(x(5, 2), x(4, 3)), "needs y [N, m]"),
    ("laplacian columns", lambda b, x: b.laplacian(x(5, 2), x(5, 3), 1, 4), "columns 1..4"),
    ("perturb", lambda b, x: b.perturb(x(5, 3), x(5, 2, 3)), "perturb needs"),
    ("difference", lambda b, x: b.difference(x(5, 2, 4, 3), x(5, 3)), "difference needs"),
    ("reshape", lambda b, x: b.reshape(x(4, 6), (5, 5)), "number of elements"),
    ("permute", lambda b, x: b.permute(x(4, 6), (0, 0)), "not a permutation"),
    ("slice empty", lambda b, x: b.slice(x(4, 6), 1, 3, 3), "slice 3..3"),
    ("slice axis", lambda b, x: b.slice(x(4, 6), 2, 0, 1), "axis 2 is outside"),
    ("concat", lambda b, x: b.concat([x(4, 6), x(3, 6)], 1), "does not fit"),
    ("broadcast", lambda b, x: b.broadcast(x(2, 6), (3, 6)), "do not broadcast"),
    ("broadcast to less", lambda b, x: b.broadcast(x(2, 6), (1, 6)), "does not broadcast to"),
    ("pad", lambda b, x: b.pad(x(4), 0, -1, 0), "negative"),
    ("sum twice", lambda b, x: b.sum(x(4, 6), (1, -1)), "once each"),
    ("sum axis", lambda b, x: b.sum(x(4, 6), (2,)), "outside rank"),
    ("quantize vector", lambda b, x: b.quantize(x(4), 8), "two dimensions"),
    ("quantize bits", lambda b, x: b.quantize(x(4, 4), 7), "cannot be 7"),
    ("decode", lambda b, x: b.decode(x(4, 4)), "needs an smx value"),
    ("arity", lambda b, x: b.add_op("tanh", (x(1), x(1))), "takes 1 operands, got 2"),
    ("missing attr", lambda b, x: b.add_op("slice", (x(4),), {"axis": 0, "start": 1}), "needs the attribute 'stop'"),
    ("unknown attr", lambda b, x: b.add_op("tanh", (x(4),), {"axis": 0}), "no attribute 'axis'"),
    ("attr kind", lambda b, x: b.add_op("reshape", (x(4),), {"shape": (2.0, 2)}), "a tuple of integers"),
    ("bool is no int", lambda b, x: b.add_op("quantize", (x(4, 4),), {"bits": True}), "an integer"),
    ("unknown op", lambda b, x: b.add_op("matmull", (x(4),)), "unknown op"),
]


def source(b: Builder) -> Callable[..., Node]:
    return lambda *shape: b.input(f"x{len(b.finish().nodes)}", shape)


@pytest.mark.parametrize(("make", "type_"), [case[1:] for case in GOOD], ids=[case[0] for case in GOOD])
def test_shape_rules(make: Make, type_: str) -> None:
    b = Builder("g")
    with b.at(HERE):
        node = make(b, source(b))
    assert str(node.type) == type_
    assert node.loc == HERE


@pytest.mark.parametrize(("make", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_broken_rules_are_reported_at_the_source_line(make: Make, message: str) -> None:
    b = Builder("g")
    with pytest.raises(IRError) as caught, b.at(HERE):
        make(b, source(b))
    assert message in caught.value.message
    assert str(caught.value).startswith("net.py:12: ")


def test_every_op_is_among_the_shape_rule_cases() -> None:
    b = Builder("g")
    with b.at(HERE):
        ops = {make(b, source(b)).op for _, make, _ in GOOD}
    untested = {name for name, op in OPS.items() if name not in ops and op.category != "elementwise"}
    assert untested == {"input", "data"}  # the rule of state


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
