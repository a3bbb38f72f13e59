"""Hypothesis strategies for passes: their options, and the training steps of drawn networks that they are tried on."""

from __future__ import annotations

import typing
from typing import Any

from hypothesis import strategies as st

from pintac.ir import Builder, Graph, Node
from pintac.passes import PASSES, Pass, PassManager, PipelineOptions, default_pipeline
from pintac.passes.pipeline import QUANTISATIONS, SCHEMES, option_fields
from tests.passes.models import linear, poisson, tt_linear

FACTORS = st.sampled_from([0.5, -2.0, 0.25, 3.0, -0.75])
LAYERS = st.one_of(
    st.tuples(st.sampled_from(["linear", "residual", "gate"]), st.sampled_from(["tanh", "sin", "sigmoid"])),
    st.tuples(st.just("scaled"), st.tuples(FACTORS, FACTORS)),
    st.tuples(st.sampled_from(["tt", "pieces", "twice"]), st.none()),
)


def option_values(type_: object) -> st.SearchStrategy[Any]:
    """Values of an option of this type."""
    if type_ is float:
        return st.floats(0.0, 1.0)
    if type_ is bool:
        return st.booleans()
    if type_ is int:
        return st.integers(0, 8)
    if type_ is str:
        return st.sampled_from(["", "2.delta=4", "*.base=16,2.grad.delta.even.0=8"])
    return st.sampled_from(typing.get_args(type_))


def passes_of(pass_type: type[Pass], *, rare: bool = True) -> st.SearchStrategy[Pass]:
    """The pass with drawn options; without `rare` those that pipelines seldom print keep their defaults."""
    types = typing.get_type_hints(pass_type)
    fields = [field for field in option_fields(pass_type) if rare or not field.metadata.get("rare")]
    return st.builds(pass_type, **{field.name: option_values(types[field.name]) for field in fields})


def layer(b: Builder, h: Node, x: Node, name: str, kind: str, how: Any) -> Node:
    """One layer of a drawn network behind h [N, w], at the points x."""
    n, width = h.shape
    if kind == "linear":
        return b.unary(how, linear(b, h, name, 4))
    if kind == "residual":
        return b.add(h, b.unary(how, linear(b, h, name, width)))
    if kind == "gate":
        return b.mul(h, b.unary(how, linear(b, h, name, width)))
    if kind == "scaled":
        return b.mul(b.mul(h, how[0]), how[1])
    if kind == "tt":
        return b.tanh(tt_linear(b, linear(b, h, name, 6), f"{name}.tt", (2, 3), (3, 2), (2, 3, 2)))
    if kind == "twice":
        w = b.reshape(linear(b, h, name, width), (n, 1, width))
        return b.add(b.reshape(w, (n, width)), linear(b, h, name, width))
    if kind == "pieces":
        mean = b.broadcast(b.sum(b.neg(h), (1,), keepdims=True), (n, 1))
        return b.concat([b.slice(h, 1, width // 2, width), mean, b.slice(x, 1, 0, 1)], 1)
    raise AssertionError(kind)


@st.composite
def steps(draw: st.DrawFn) -> Graph:
    """The step of a drawn network, as the frontend leaves it: residuals with a Laplacian inside, u on the boundary."""
    layers = draw(st.lists(LAYERS, max_size=4))
    outputs = draw(st.integers(1, 2))
    estimator = {
        "kind": draw(st.sampled_from(["second-difference", "stein", "orthonormal"])),
        "K": draw(st.sampled_from([2, 4, 8])),
        "sigma": 0.1,
    }

    def net(b: Builder, x: Node) -> Node:
        h = b.tanh(linear(b, x, "in", 5))
        for index, (kind, how) in enumerate(layers):
            h = layer(b, h, x, str(index), kind, how)
        return linear(b, h, "out", outputs)

    return poisson(net, points=draw(st.integers(2, 5)), estimator=estimator)


@st.composite
def before(draw: st.DrawFn, name: str) -> Graph:
    """A drawn step where this pass runs: behind those default passes that the table of passes has above it (all, for a
    pass that is not in the table); at times right behind expand-operators, before which a graph has no values.

    At times an output is missing, and so nothing reads what only it was made of.
    """
    quant = draw(st.sampled_from(["even-odd", *QUANTISATIONS]))
    options = PipelineOptions(quant=quant, scheme=draw(st.sampled_from(SCHEMES)))
    order = list(PASSES)
    above = set(order[: order.index(name)] if name in PASSES else order) if draw(st.integers(0, 3)) else {order[0]}
    graph = PassManager([p for p in default_pipeline(options) if p.name in above]).run(draw(steps()))
    missing = draw(st.sampled_from([None, *graph.outputs]))
    return Graph(graph.name, graph.nodes, {k: v for k, v in graph.outputs.items() if k != missing}, graph.attrs)
