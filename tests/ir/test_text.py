"""Text of graphs: it reads back as the same graph, and errors point at their place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings

from pintac.errors import IRError
from pintac.ir import OPS, Builder, Graph, Location, graphs_equal, parse_graph, parse_module, print_graph, print_module
from tests.ir.strategies import graphs


@given(graphs())
@settings(max_examples=150)
def test_text_reads_back_as_the_same_graph(graph: Graph) -> None:
    text = print_graph(graph)
    read = parse_graph(text)
    assert graphs_equal(read, graph)
    assert print_graph(read) == text


def every_op() -> Graph:
    """A graph with every op of the table in it."""
    b = Builder("every_op", {"terms": [{"name": "interior", "points": 4, "weight": 1.0}], "quant": "diff"})
    with b.at(Location("model.py", 3)):
        w, v = b.state("0.weight", (3, 8)), b.state("0.bias", (8,))
        x = b.input("x", (4, 3))
        lr = b.scalar("lr")
        z = b.random("normal", 2, 0, (4, 1, 5, 3))
        u = b.random("uniform", 1, 0, (4, 3))
        points = b.data("points", (4, 3))
        table = b.const([1.0, -0.5, 1e-30], (3,))
    with b.at(Location("model.py", 7, 5)):
        inside = b.min(b.max(b.add(b.mul(u, table), points), 0.0), 1.0)
        y = b.add(b.matmul(inside, w, lhs_role="base", rhs_role="weight"), v)
        unary = [b.unary(name, y) for name in ("tanh", "sigmoid", "sin", "cos", "exp", "erf", "abs", "neg")]
        b.floor(y), b.round(y)
        positive = b.sqrt(b.add(b.log(b.add(b.mul(y, y), 1.0)), lr))
        chosen = b.select(b.compare("gt", y, 0.0), unary[0], positive)
        ratio = b.div(chosen, b.sub(positive, unary[1]))
    with b.at(Location("model.py", 9)):
        b.gradient(y, x), b.laplacian(y, x, 0, 2)
        delta = b.concat([z, b.neg(z)], axis=1)
        p = b.matmul(b.perturb(inside, delta), w, lhs_role="delta", rhs_role="weight")
        difference = b.difference(p, b.reshape(y, (4, 1, 1, 8)))
        d = b.delta_act("tanh", b.reshape(y, (4, 1, 1, 8)), difference)
        cores = [b.state(f"core{k}", shape) for k, shape in enumerate([(1, 2, 3), (3, 4, 2), (2, 4, 1)])]
        tt = b.tt_matmul(ratio, cores, (2, 4), (4,), (3, 2), lhs_role="base")
    with b.at(Location.synthetic("insert-smx")):
        q8, q12 = b.quantize(d, 8), b.quantize(b.decode(b.quantize(d, 16)), 12)
        grad = b.matmul_tn(q8, q12, lhs_role="delta", rhs_role="grad")
        back = b.permute(b.broadcast(tt, (2, 4, 4)), (2, 0, 1))
        total = b.sum(b.amax(grad, (0,), keepdims=True))
        padded = b.pad(b.slice(w, 0, 1, 3), axis=-1, before=1, after=0)
    b.output("state:0.weight", b.sub(w, b.mul(lr, w, loc=Location("optimizer", 1)), loc=Location("optimizer", 1)))
    for key, node in (("metric:loss", total), ("back", back), ("padded", padded)):
        b.output(key, node)
    return b.finish()


def test_every_op_has_its_golden_text(golden: Callable[[str, str], None]) -> None:
    graph = every_op()
    assert {node.op for node in graph.nodes} == set(OPS)
    text = print_graph(graph)
    golden("ir/every_op.ir", text)
    assert graphs_equal(parse_graph(text), graph)


def test_a_module_holds_several_graphs() -> None:
    graphs_by_name = {}
    for name in ("step", "infer-2"):
        b = Builder(name)
        b.output("x", b.input("x", (2,), loc=Location("a.py", 1)))
        graphs_by_name[name] = b.finish()
    read = parse_module(print_module(graphs_by_name))
    assert list(read) == ["step", "infer-2"]
    assert all(graphs_equal(read[name], graph) for name, graph in graphs_by_name.items())


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b.add_op("add", b.operands, loc=b.loc, name="other"),
        lambda b: b.add_op("add", b.operands, loc=Location("a.py", 2), name="sum"),
        lambda b: b.add_op("add", b.operands[::-1], loc=b.loc, name="sum"),
        lambda b: b.add_op("sub", b.operands, loc=b.loc, name="sum"),
        lambda b: b.add_op("add", b.operands, {"backend.mark": 1}, loc=b.loc, name="sum"),
        lambda b: (b.attrs.update(a=1), b.add_op("add", b.operands, loc=b.loc, name="sum"))[1],
    ],
)
def test_graphs_equal_sees_every_part(change: Callable[..., object]) -> None:
    def build(last: Callable[..., object]) -> Graph:
        b = Builder("g")
        b.loc = Location("a.py", 1)  # type: ignore[attr-defined]
        b.operands = [b.input(name, (2,), loc=b.loc) for name in "xy"]  # type: ignore[attr-defined]
        last(b)
        return b.finish()

    plain = build(lambda b: b.add_op("add", b.operands, loc=b.loc, name="sum"))
    assert graphs_equal(plain, build(lambda b: b.add_op("add", b.operands, loc=b.loc, name="sum")))
    assert not graphs_equal(plain, build(change))


GOOD = """graph @g {k=[1, {"a": -0.0}]} { # comment
  %x = state {name="x", shape=(2, 3)} : f32[2,3] loc("a.py":1)
  %y = tanh(%x) : f32[2,3] loc("a.py":2:7)
  %c = const {shape=(), values=(-inf,)} : f32[] loc("a.py":2)
  output "state:x" = %y
}
"""


def test_the_text_that_the_bad_ones_come_from_is_good() -> None:
    graph = parse_graph(GOOD)
    assert graph.attrs == {"k": [1, {"a": 0.0}]}
    assert graph.node("y").loc == Location("a.py", 2, 7)


@pytest.mark.parametrize(
    ("old", "new", "place", "message", "hint"),
    [
        ("tanh(%x)", "tahn(%x)", "3:8", "unknown op 'tahn'", "did you mean 'tanh'?"),
        ("tanh(%x)", "tanh(%z)", "3:13", "%z is not defined here", "%x"),
        ("tanh(%x)", "tanh(%x, %x)", "3:8", "tanh takes 1 operands, got 2", ""),
        ("tanh(%x) : f32[2,3]", "tanh(%x) : f32[2,4]", "3:19", "%y is stated to be f32[2,4], tanh makes f32[2,3]", ""),
        ("tanh(%x) : f32[2,3]", "tanh(%x) : smx9[2,3]", "3:19", "unknown element type 'smx9'", "did you mean 'smx"),
        ("tanh(%x) : f32[2,3]", "tanh(%x) : smx8[3]", "3:19", "smx8 needs at least two dimensions", "reshape"),
        ("%y = tanh", "%x = tanh", "3:3", "%x is defined a second time", ""),
        ('name="x"', 'nam="x"', "2:8", "state has no attribute 'nam'", "did you mean 'name'?"),
        ('name="x"', "name=x", "2:20", "'x' is not a value", 'a string is written "x"'),
        ('name="x"', 'name="\\x"', "2:20", "not a string", "JSON"),
        ('name="x"', 'name="x", name="y"', "2:25", "'name' is given a second time", ""),
        ("shape=(2, 3)", "shape=2", "2:8", "must be a tuple of integers", ""),
        (' loc("a.py":2:7)', "", "4:3", "unexpected '%c'", "expected 'loc'"),
        ("= %y", "= %q", "5:10", "%q is not defined here", ""),
        ("}\n", "", "6:1", "unexpected the end of the text", "'}'"),
        ("graph @g", "graph g", "1:7", "unexpected 'g'", "a graph name such as @step"),
        ("%c = const", "%c ! const", "4:6", "unexpected '!'", "'='"),
    ],
)
def test_errors_have_place_and_remedy(old: str, new: str, place: str, message: str, hint: str) -> None:
    assert GOOD.count(old) >= 1
    head, _, tail = GOOD.rpartition(old)
    with pytest.raises(IRError) as caught:
        parse_graph(head + new + tail, "dump.ir")
    assert str(caught.value).startswith(f"dump.ir:{place}: ")
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_two_graphs_where_one_is_wanted_and_two_of_one_name() -> None:
    with pytest.raises(IRError, match="expected one graph, found 2"):
        parse_graph(GOOD + GOOD.replace("@g", "@h"))
    with pytest.raises(IRError, match=":7:7: a second graph @g"):
        parse_module(GOOD + GOOD)
