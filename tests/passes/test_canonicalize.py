"""canonicalize: every bit is kept, signs of zero included; a second run changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pintac.ir import Builder, Graph, Node
from pintac.ir.evaluate import evaluate
from pintac.ir.verify import verify
from pintac.passes import default_pipeline, parse_pipeline
from pintac.passes.canonicalize import Canonicalize
from tests.passes.models import LOC, PARAMS, feeds_for, poisson, run
from tests.passes.networks import NETWORKS

Body = Callable[[Builder, Node], Node]


def graph_of(body: Body) -> Graph:
    b = Builder("g")
    with b.at(LOC):
        b.output("y", body(b, b.input("x", (2, 3))))
    return b.finish()


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes if node.op not in ("input", "const")]


AWKWARD = np.array([[0.0, -0.0, 1.5], [-2.0, np.inf, 1e-41]], np.float32)


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (lambda b, x: b.mul(x, 1.0), []),
        (lambda b, x: b.mul(1.0, x), []),
        (lambda b, x: b.div(x, 1.0), []),
        (lambda b, x: b.sub(x, 0.0), []),
        (lambda b, x: b.add(x, -0.0), []),
        (lambda b, x: b.add(x, 0.0), ["add"]),
        (lambda b, x: b.sub(x, -0.0), ["sub"]),
        (lambda b, x: b.div(1.0, x), ["div"]),
        (lambda b, x: b.mul(x, 0.0), ["mul"]),
        (lambda b, x: b.mul(x, b.const((1.0, 2.0, 1.0), (3,))), ["mul"]),
        (lambda b, x: b.mul(b.const(1.0, (2, 1)), x), []),
        (lambda b, x: b.mul(b.slice(x, 0, 0, 1), b.const(1.0, (2, 3))), ["slice", "mul"]),
        (lambda b, x: b.neg(b.neg(x)), []),
        (lambda b, x: b.add(b.sin(x), b.neg(x)), ["sin", "sub"]),
        (lambda b, x: b.add(b.neg(x), b.sin(x)), ["sin", "sub"]),
        (lambda b, x: b.sub(x, b.neg(b.sin(x))), ["sin", "add"]),
        (lambda b, x: b.add(b.sin(x), b.sin(x)), ["sin", "add"]),
        (lambda b, x: b.reshape(b.reshape(x, (3, 2)), (2, 3)), []),
        (lambda b, x: b.reshape(b.reshape(x, (6,)), (3, 2)), ["reshape"]),
        (lambda b, x: b.permute(b.permute(x, (1, 0)), (1, 0)), []),
        (lambda b, x: b.permute(b.permute(b.reshape(x, (1, 2, 3)), (1, 2, 0)), (1, 2, 0)), ["reshape", "permute"]),
        (lambda b, x: b.slice(x, 1, 0, 3), []),
        (lambda b, x: b.slice(b.slice(x, 1, 1, 3), 1, 1, 2), ["slice"]),
        (lambda b, x: b.slice(b.concat([x, b.sin(x)], 1), 1, 0, 3), []),
        (lambda b, x: b.slice(b.concat([x, b.sin(x)], 1), 1, 4, 6), ["sin", "slice"]),
        (lambda b, x: b.slice(b.concat([x, b.sin(x)], 1), 1, 2, 4), ["sin", "concat", "slice"]),
        (lambda b, x: b.broadcast(x, (2, 3)), []),
        (lambda b, x: b.broadcast(b.broadcast(x, (1, 2, 3)), (4, 2, 3)), ["broadcast"]),
        (lambda b, x: b.add(b.broadcast(b.slice(x, 0, 0, 1), (2, 3)), x), ["slice", "add"]),
        (lambda b, x: b.sin(b.broadcast(x, (4, 2, 3))), ["broadcast", "sin"]),
        (lambda b, x: b.pad(x, 1, 0, 0), []),
        (lambda b, x: b.reshape(b.sum(x, (1,), keepdims=True), (2,)), ["sum"]),
        (lambda b, x: b.reshape(b.amax(x, (0,)), (1, 3)), ["amax"]),
        (lambda b, x: b.tanh(b.reshape(x, (2, 1, 1, 3))), ["tanh", "reshape"]),
        (lambda b, x: b.mul(b.reshape(x, (2, 1, 1, 3)), b.reshape(b.sin(x), (2, 1, 1, 3))), ["sin", "mul", "reshape"]),
        (lambda b, x: b.tanh(b.reshape(x, (1, 2, 3))), ["reshape", "tanh"]),
        (lambda b, x: b.mul(b.reshape(x, (6,)), 2.0), ["reshape", "mul"]),
        (
            lambda b, x: b.reshape(b.broadcast(b.slice(x, 1, 0, 1), (2, 3)), (2, 1, 3)),
            ["slice", "reshape", "broadcast"],
        ),
        (lambda b, x: b.reshape(b.broadcast(b.slice(x, 1, 0, 1), (2, 3)), (3, 2)), ["slice", "broadcast", "reshape"]),
        (lambda b, x: b.mul(b.slice(x, 1, 1, 3), b.slice(b.const((2.0, 2.0, 1.0, 1.0), (1, 4)), 1, 2, 4)), ["slice"]),
        (lambda b, x: b.add(x, b.permute(b.reshape(b.const(tuple(range(6)), (6,)), (3, 2)), (1, 0))), ["add"]),
        (lambda b, x: b.add(x, b.broadcast(b.const((5.0, 6.0), (2, 1)), (2, 3))), ["add"]),
        (lambda b, x: b.mul(b.neg(b.const((5.0, 0.0), (2, 1))), x), ["mul"]),
    ],
)
def test_rewrites_keep_every_bit(body: Body, left: list[str]) -> None:
    graph = graph_of(body)
    result = verify(Canonicalize().run(graph))
    assert ops(result) == left
    before, after = (evaluate(g, {"x": AWKWARD}, {}, "float32")["y"] for g in (graph, result))
    assert before.shape == after.shape and bits(before) == bits(after)


def bits(value: np.ndarray) -> bytes:
    """Every bit, but one NaN: which one an operation makes is the processor's business."""
    return np.where(np.isnan(value), np.float32(np.nan), value).tobytes()


def test_equal_sources_are_one() -> None:
    b = Builder("g")
    with b.at(LOC):
        draws = [b.random("normal", 1, term, (2, 2)) for term in (0, 0, 1)]
        b.output("y", b.add(b.add(draws[0], draws[1]), draws[2]))
    assert len(Canonicalize().run(b.finish()).of("random")) == 2


def test_matmuls_of_different_roles_stay_apart() -> None:
    b = Builder("g")
    with b.at(LOC):
        x, w = b.input("x", (2, 2)), b.state("w", (2, 2))
        for role in ("base", "base", "delta"):
            b.output(f"{role}{len(b.finish().nodes)}", b.matmul(x, w, lhs_role=role, rhs_role="weight"))
    assert len(Canonicalize().run(b.finish()).of("matmul")) == 2


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_whole_steps_keep_their_bits_and_a_second_run_changes_nothing(network: str) -> None:
    pipeline = default_pipeline()
    cut = [pass_.name for pass_ in pipeline].index("canonicalize")
    graph = run(poisson(NETWORKS[network], points=3), *pipeline[:cut])
    result = verify(Canonicalize().run(graph))
    assert Canonicalize().run(result) is result
    feeds = feeds_for(graph)
    before, after = (evaluate(g, feeds, PARAMS, "smx") for g in (graph, result))
    for key, value in before.items():
        assert value.tobytes() == after[key].tobytes()


def test_golden(golden: Callable[[str, str], None]) -> None:
    text = "expand-operators,split-stein,differentiate,lower-delta,canonicalize"
    golden("passes/canonicalize.ir", str(run(poisson(NETWORKS["mlp"], points=3), *parse_pipeline(text))))
