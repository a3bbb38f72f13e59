"""What the size of the perturbations, sigma, does to the derivatives of a step: measured on few points, in float64.

sigma is a length in the coordinates of the points. An estimate at sigma and one at sigma / 2 in the same directions
have the same sampling error up to their bias, which is proportional to sigma^2 (NUMERICS 7): what they differ by says
how far derivatives are from those of the network. The float twin shows nothing of it: it has the same sigma.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pintac.ir import Builder, Graph, Node
from pintac.ir.attrs import integer
from pintac.ir.evaluate import evaluate
from pintac.passes.dataflow import descendants, without_dead
from pintac.passes.expand_operators import ExpandOperators
from pintac.report.probe import Place
from pintac.report.purpose import NO_LAYER

Arrays = Mapping[str, np.ndarray]

RESOLUTION = 1e-9
"""Second differences below this part of u are rounding of the coordinates and of u, even in float64."""
HALVINGS = 14
"""So many times sigma is halved at most in search of one that is small enough."""
ENOUGH = 0.02
"""Change of an estimate at half the sigma, at which sigma is small enough to be recommended."""

_OPERATORS = {"gradient": "gradient", "laplacian": "Laplacian"}
_KEY = "sigma:"


@dataclass(frozen=True)
class Bias:
    """One derivative of a residual: `change` of its estimate at half the sigma, relative, rms over points.

    `better` is the largest sigma, of those halved, at which it changes little; None if there is none.
    """

    place: Place
    operator: str
    term: str
    sigma: float
    change: float
    better: float | None = None


class Derivatives:
    """The gradients and Laplacians of a step before any pass; `graph` has few points, `data` are its arrays."""

    def __init__(self, graph: Graph, data: Arrays) -> None:
        self.sigma = float(graph.attrs["estimator"]["sigma"])
        self._data = data
        self._operators: dict[str, tuple[Node, str]] = {}  # by output: the operator, the term that it is of
        self._read: list[Node] = []  # gradients, and the slices of gradients
        self._graph = self._watched(graph)
        self._expanded: dict[float, Graph] = {}

    def biases(self, seed: int, step: int, states: Arrays) -> list[Bias]:
        """What each derivative changes by at half the sigma, with these weights and the random numbers of a step."""
        if not self._operators:
            return []
        feeds = {**states, **self._data}
        whole, half = (self._values(self.sigma * scale, seed, step, feeds) for scale in (1.0, 0.5))
        return [
            Bias(Place(NO_LAYER, "residual", node.loc), _OPERATORS[node.op], term, self.sigma, change)
            for key, (node, term) in self._operators.items()
            if (change := self._change(key, whole, half)) is not None
        ]

    def with_better(self, bias: Bias, seed: int, step: int, states: Arrays) -> Bias:
        """The same with the sigma that is `better`."""
        feeds = {**states, **self._data}
        keys = [key for key, (node, _) in self._operators.items() if node.loc == bias.place.loc]
        coarse = self._values(self.sigma / 2, seed, step, feeds)
        for power in range(2, HALVINGS + 1):
            fine = self._values(self.sigma / 2**power, seed, step, feeds)
            changes = [self._change(key, coarse, fine) or 0.0 for key in keys]
            if max(changes, default=0.0) < ENOUGH:
                return replace(bias, better=self.sigma / 2 ** (power - 1))
            coarse = fine
        return bias

    def _values(self, sigma: float, seed: int, step: int, feeds: Arrays) -> dict[str, np.ndarray]:
        if sigma not in self._expanded:
            self._expanded[sigma] = _expanded(self._graph, sigma)
        graph = self._expanded[sigma]
        wanted = {str(node.attrs["name"]) for node in graph.of("state", "data")}
        with np.errstate(all="ignore"):
            return evaluate(graph, {name: feeds[name] for name in wanted}, {"seed": seed, "step": step})

    def _change(self, key: str, coarse: Arrays, fine: Arrays) -> float | None:
        """None where u has no such derivative, or is no number."""
        size, u = _rms(fine[key]), _rms(fine[f"{key}:u"])
        change = _rms(coarse[key] - fine[key])
        if not math.isfinite(change) or not size > 0:
            return None
        order = 2 if self._operators[key][0].op == "laplacian" else 1
        return change / size if change > RESOLUTION * u / self.sigma**order else None

    def columns(self) -> set[int]:
        """The coordinates that something is derived by."""
        found: set[int] = set()
        for node, _ in self._operators.values():
            if node.op == "laplacian":
                found.update(range(integer(node.attrs, "start"), integer(node.attrs, "stop")))
        for node in self._read:
            whole = node.op == "gradient"
            found.update(range(node.shape[2]) if whole else range(*(integer(node.attrs, k) for k in ("start", "stop"))))
        return found

    def _watched(self, graph: Graph) -> Graph:
        """The graph with each derivative that residuals read, and the u that it is of, as further outputs."""
        builder, new = _copied(graph, graph.attrs)
        for key, node in graph.outputs.items():
            builder.output(key, new[node])
        for node in graph.of(*_OPERATORS):
            # Of a gradient, the slices that are read: asking for all of it would need other samples.
            users = graph.users(node)
            sliced = node.op == "gradient" and all(u.op == "slice" and integer(u.attrs, "axis") == 2 for u in users)
            for read in users if sliced else [node]:
                key = f"{_KEY}{len(self._operators)}"
                self._operators[key] = node, _term_of(graph, node)
                if node.op == "gradient":
                    self._read.append(read)
                builder.output(key, new[read])
                builder.output(f"{key}:u", new[node.operands[0]])
        return builder.finish()


def _copied(graph: Graph, attrs: Mapping[str, Any]) -> tuple[Builder, dict[Node, Node]]:
    builder = Builder(graph.name, attrs, reserved=(node.name for node in graph.nodes))
    new: dict[Node, Node] = {}
    for node in graph.nodes:
        new[node] = builder.copy(node, [new[operand] for operand in node.operands])
    return builder, new


def _expanded(graph: Graph, sigma: float) -> Graph:
    """The estimates at this sigma: the outputs of `_watched` alone. The others were there for the order of draws."""
    builder, new = _copied(graph, {**graph.attrs, "estimator": {**graph.attrs["estimator"], "sigma": sigma}})
    for key, node in graph.outputs.items():
        builder.output(key, new[node])
    whole = ExpandOperators().run(builder.finish())
    builder, new = _copied(whole, whole.attrs)
    for key, node in whole.outputs.items():
        if key.startswith(_KEY):
            builder.output(key, new[node])
    return without_dead(builder.finish())


def _term_of(graph: Graph, node: Node) -> str:
    below = descendants(graph, [node])
    return next((key.removeprefix("residual:") for key, n in graph.outputs.items() if n in below), "")


def _rms(x: np.ndarray) -> float:
    return math.sqrt(float(np.mean(np.square(np.asarray(x, np.float64)))))
