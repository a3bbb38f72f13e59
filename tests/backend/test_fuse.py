"""Fusion of drawn element-wise graphs: limits respected, every op computed exactly once, before it is read."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from pintac import isa
from pintac.backend.grouping.fuse import MAX_STREAMS, Fuser, Index, KernelStep, NodeStep, Value
from pintac.backend.grouping.kinds import root
from pintac.ir import Builder, Graph, Location, Node

HERE = Location("net.py", 12)
UNARY = ("tanh", "exp", "neg", "sin", "sqrt")
BINARY = ("add", "sub", "mul", "div", "max")


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    b = Builder("g")
    with b.at(HERE):
        values = [b.input(f"x{i}", (8, 8)) for i in range(3)] + [b.input("row", (1, 8)), b.scalar("lr")]
        for i in range(draw(st.integers(1, 20))):
            kind = draw(st.sampled_from(["unary", "binary", "constant", "random", "quantize", "sum"]))
            x = draw(st.sampled_from(values))
            if kind == "unary":
                values.append(b.unary(draw(st.sampled_from(UNARY)), x))
            elif kind == "binary":
                values.append(b.add_op(draw(st.sampled_from(BINARY)), (x, draw(st.sampled_from(values)))))
            elif kind == "constant":
                values.append(b.mul(x, draw(st.sampled_from([0.5, 2.0, 3.0, 5.0, 7.0, 11.0]))))
            elif kind == "random":
                values.append(b.random(draw(st.sampled_from(["uniform", "normal"])), i, 0, (8, 8)))
            elif x.type.rank == 2 and kind == "quantize":
                values.append(b.decode(b.quantize(x, 8)))
            elif x.type.rank == 2:
                values.append(b.sum(x, (1,), keepdims=True))
        for i, node in enumerate(draw(st.lists(st.sampled_from(values), min_size=1, max_size=4, unique=True))):
            b.output(f"out{i}", node)
    return b.finish()


@given(graphs(), st.integers(1, 8))
@settings(max_examples=150)
def test_limits_and_coverage(graph: Graph, most: int) -> None:
    outputs = {root(n) for n in graph.outputs.values()}
    work = [n for n in graph.nodes if n.op not in ("input", "scalar", "const", "decode")]
    fuser = Fuser(work, lambda n: tuple(n.shape), lambda n: n in outputs, most)
    steps = fuser.steps()
    expected = sum(
        8 if n.op == "random" and n.attrs["kind"] == "normal" else 1 for n in work if n.op not in ("quantize", "sum")
    )
    kernels = [s for s in steps if isinstance(s, KernelStep)]
    assert len(kernels) == len(steps)
    assert sum(len(s.kernel.ops) for s in kernels) == expected
    stored: list[Node] = []
    for step in kernels:
        kernel = step.kernel
        assert len(kernel.ops) <= most and kernel.sources == len(step.sources) <= isa.SOURCES
        assert len(kernel.immediates) <= isa.IMMEDIATES and len(kernel.scalars) <= isa.SCALARS
        assert len(kernel.sinks) == len(step.targets) <= isa.SINKS
        shape = fuser.standins.get(step.shape_of, step.shape_of).shape
        whole = [s for s in step.sources if isinstance(s, Index) or fuser.standins.get(s.node, s.node).shape == shape]
        assert len(whole) <= MAX_STREAMS or len(kernel.ops) == 1
        for source in step.sources:
            if isinstance(source, Value) and root(source.node).op not in ("input", "scalar"):
                assert root(source.node) in stored, "read before it is written"
        for number, (_, args) in enumerate(kernel.ops):
            assert all(index < number for kind, index in args if kind == "reg")
        stored += step.targets
    assert len(stored) == len(set(stored))
    needed = {n for n in work if n in outputs or n.op in ("quantize", "sum")}
    assert needed <= set(stored)


def test_a_chain_is_one_kernel_and_a_limit_cuts_it() -> None:
    b = Builder("g")
    with b.at(HERE):
        x = y = b.input("x", (4, 4))
        for _ in range(8):
            y = b.tanh(y)
        b.output("y", y)
    for most in (1, 2, 3, 8):
        work = [n for n in b.finish().nodes if n is not x]
        steps = Fuser(work, lambda n: tuple(n.shape), lambda n: n is y, most).steps()
        assert len(steps) == math.ceil(8 / most)


def test_contractions_are_not_fused() -> None:
    b = Builder("g")
    with b.at(HERE):
        x, w = b.input("x", (4, 4)), b.input("w", (4, 4))
        y = b.tanh(b.matmul(b.quantize(x, 8), b.quantize(w, 8)))
        b.output("y", y)
    work = [n for n in b.finish().nodes if n.op != "input"]
    steps = Fuser(work, lambda n: tuple(n.shape), lambda n: n is y, 8).steps()
    assert [s.node.op for s in steps if isinstance(s, NodeStep)] == ["matmul"]
    assert [t.op for s in steps if isinstance(s, KernelStep) for t in s.targets] == ["quantize", "quantize", "tanh"]
