"""Small graphs as the frontend makes them, built by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pintac.ir import Builder, Graph, Location, Node
from pintac.ir.evaluate import evaluate
from pintac.passes import Pass

ADAM = {"kind": "adam", "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
LOC = Location("model.py", 1)

Net = Callable[[Builder, Node], Node]


def linear(b: Builder, x: Node, name: str, outputs: int, role: str = "base") -> Node:
    """x W + bias with states <name>.weight [in, out] and <name>.bias [out]."""
    w = shared_state(b, f"{name}.weight", (x.shape[-1], outputs))
    bias = shared_state(b, f"{name}.bias", (outputs,))
    return b.add(b.matmul(x, w, lhs_role=role, rhs_role="weight"), bias)


def shared_state(b: Builder, name: str, shape: Sequence[int]) -> Node:
    """The state of this name, made on first use."""
    for node in b.finish().of("state"):
        if node.attrs["name"] == name:
            return node
    return b.state(name, shape)


def tt_linear(
    b: Builder, x: Node, name: str, inputs: Sequence[int], outputs: Sequence[int], ranks: Sequence[int]
) -> Node:
    factors, bonds = (*inputs, *outputs), (1, *ranks, 1)
    cores = [shared_state(b, f"{name}.{k}", (bonds[k], factors[k], bonds[k + 1])) for k in range(len(factors))]
    return b.tt_matmul(x, cores, inputs, outputs, ranks, lhs_role="base")


def mlp(*widths: int, activation: str = "tanh") -> Net:
    """A network with hidden layers `widths[:-1]` and `widths[-1]` outputs."""

    def net(b: Builder, x: Node) -> Node:
        h = x
        for index, width in enumerate(widths):
            h = linear(b, h, str(index), width)
            if index < len(widths) - 1:
                h = b.unary(activation, h)
        return h

    return net


def step_graph(
    residuals: Mapping[str, Callable[[Builder, Node], Node]],
    *,
    points: int = 5,
    dims: int = 2,
    estimator: Mapping[str, Any] | None = None,
    weights: Mapping[str, float] | None = None,
) -> Graph:
    """A graph with a residual a term, each at its own random points."""
    terms = [{"name": name, "points": points, "weight": (weights or {}).get(name, 1.0)} for name in residuals]
    chosen = estimator or {"kind": "second-difference", "K": 8, "sigma": 0.01}
    b = Builder("step", {"terms": terms, "estimator": dict(chosen), "optimizer": ADAM})
    for number, (name, residual) in enumerate(residuals.items()):
        with b.at(Location("model.py", 10 + number)):
            x = b.random("uniform", 1, number, (points, dims))
            b.output(f"residual:{name}", residual(b, x))
    return b.finish()


def poisson(net: Net, **options: Any) -> Graph:
    """lap u + sin(x + y) inside, u at the boundary."""

    def interior(b: Builder, x: Node) -> Node:
        lap = b.laplacian(net(b, x), x, 0, x.shape[1])
        return b.add(lap, b.sin(b.sum(x, (1,), keepdims=True)))

    options.setdefault("weights", {"boundary": 300.0})
    return step_graph({"interior": interior, "boundary": net}, **options)


def feeds_for(graph: Graph, seed: int = 0, scale: float = 0.6) -> dict[str, np.ndarray]:
    """Values of the states by name, independent of which others there are."""
    feeds = {}
    for name, node in graph.states().items():
        value = np.random.default_rng([seed, *name.encode()]).standard_normal(node.shape) * scale
        feeds[name] = np.abs(value) * 0.01 if name.startswith("adam.v:") else value
    return feeds


PARAMS = {"seed": 3, "step": 0, "lr": 1e-3, "bc1": 10.0, "bc2": 1000.0}


def values(graph: Graph, mode: str = "float64", **params: float) -> dict[str, np.ndarray]:
    return evaluate(graph, feeds_for(graph), {**PARAMS, **params}, mode)


def run(graph: Graph, *passes: Pass) -> Graph:
    for pass_ in passes:
        graph = pass_.run(graph)
    return graph


def distance(left: np.ndarray, right: np.ndarray) -> float:
    """Relative, norm-wise."""
    return float(np.linalg.norm(left - right) / max(np.linalg.norm(left), 1e-300))
