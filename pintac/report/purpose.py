"""What each op of a graph is for: the network layer and the phase of the step it belongs to.

Found from the dataflow of the graph after all passes and the roles of matmul operands; no pass leaves a mark for it.
A program carries the answer (`meta["purposes"]`), so that it can be explained where there is no graph.

- points: drawing collocation points; perturbations: drawing and quantising what the estimator adds to them
- weights: quantising weights, contracting tensor-train cores
- forward base, forward delta: the network on the points, and on the perturbations of the points
- residual: sums over evaluations, the user's equation, the loss, and its first derivative
- backward base, backward delta: gradients of activations; weight gradient: of weights, biases and reconstructed weights
- weights backward: from the gradient of a reconstructed weight to those of its cores
- optimizer: parameters and moments
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pintac.ir import Graph, Node, ancestors
from pintac.passes.dataflow import descendants, live
from pintac.passes.expand_optimizer import MOMENTS
from pintac.passes.tensors import layer_of
from pintac.rng import STREAM_DELTA

PHASES = (
    "points", "perturbations", "weights", "forward base", "forward delta", "residual", "backward delta",
    "backward base", "weight gradient", "weights backward", "optimizer",
)  # fmt: skip
NO_LAYER = "-"

Purpose = tuple[str, str]
"""(layer, phase)."""

_CONTRACTIONS = ("matmul", "matmul_tn")
_CONSTANT = ("const", "scalar")


def is_moment(state: str) -> bool:
    """Whether a state is the optimizer's own."""
    return state.startswith(MOMENTS)


def to_meta(graphs: Mapping[str, Graph]) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Entry -> phase -> layer -> names of ops, as JSON."""
    out: dict[str, dict[str, dict[str, list[str]]]] = {}
    for entry, graph in graphs.items():
        phases: dict[str, dict[str, list[str]]] = {}
        for name, (layer, phase) in purposes(graph).items():
            phases.setdefault(phase, {}).setdefault(layer, []).append(name)
        out[entry] = phases
    return out


def from_meta(meta: Mapping[str, Any], entry: str) -> dict[str, Purpose]:
    """Name of an op -> what it is for; empty for a program that does not say."""
    phases = meta.get("purposes", {}).get(entry, {})
    return {
        name: (layer, phase) for phase, layers in phases.items() for layer, names in layers.items() for name in names
    }


def purposes(graph: Graph) -> dict[str, Purpose]:
    """Name -> (layer, phase) of every op but constants."""
    return _Purposes(graph).found


class _Purposes:
    """The sets that the phases are made of, each by one walk over the graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        needed = live(graph)
        self.nodes = [n for n in graph.nodes if n in needed]
        self.number = {node: i for i, node in enumerate(self.nodes)}
        values = [n for key, n in graph.outputs.items() if not key.startswith("state:")]
        self.value_nodes = ancestors(*values)  # what is computed forward: backward is what only states need
        self.weights = self._weights()
        self.anchors = {n: layer for n in self.nodes if (layer := self._anchor(n)) is not None}
        self.gradients = [n for n in self.nodes if n.op in _CONTRACTIONS and "grad" in _roles(n)]
        forward = [n for n in self.anchors if n in self.value_nodes]
        self.before_network = ancestors(*forward)
        self.behind_network = descendants(self.graph, forward)
        self.before_gradient = ancestors(*self.gradients)
        self.behind_gradient = descendants(self.graph, self.gradients)
        weight_gradients = [n for n in self.gradients if n.op == "matmul_tn" and _roles(n)[0] != "weight"]
        self.behind_weight_gradient = descendants(self.graph, weight_gradients)
        self.optimizer = self._optimizer()
        self.rows = {o.shape[:-1] for n in forward if _roles(n)[0] == "delta" for o in n.operands[:1]}
        self.perturbations = descendants(graph, [n for n in graph.of("random") if n.attrs["stream"] == STREAM_DELTA])
        self.above = self._layers_above()
        self.below = self._layers_below()
        network = self.before_network | set(self.weights)
        self.residual = {n for n in self.nodes if n in self.value_nodes and n not in network and self.gradients}
        self.behind_residual = descendants(self.graph, self.residual)
        self.found = {n.name: self._purpose(n) for n in self.nodes if n.op not in _CONSTANT}

    def _weights(self) -> dict[Node, str]:
        """Nodes that depend on parameters alone -> layer."""
        found: dict[Node, str] = {}
        for node in self.nodes:
            if node.op == "state" and not is_moment(str(node.attrs["name"])):
                found[node] = layer_of(str(node.attrs["name"]))
            elif node.operands and all(o in found or o.op in _CONSTANT for o in node.operands):
                layers = dict.fromkeys(found[o] for o in node.operands if o in found)
                if layers:
                    found[node] = "+".join(layers)
        return found

    def _anchor(self, node: Node) -> str | None:
        """The layer of a contraction with exactly one weight."""
        if node.op not in _CONTRACTIONS or node in self.weights:
            return None
        layers = [self.weights[o] for o in node.operands[:2] if o in self.weights]
        return layers[0] if layers else None

    def _optimizer(self) -> set[Node]:
        """What depends on moments or on the learning rate, and the products with constants that only this reads."""
        moments = [n for n in self.nodes if n.op == "state" and is_moment(str(n.attrs["name"]))]
        rates = [n for n in self.nodes if n.op == "scalar" and n.attrs["name"] == "lr"]
        found = set(moments) | descendants(self.graph, [*moments, *rates])
        outputs = set(self.graph.outputs.values())
        for node in reversed(self.nodes):
            users = self.graph.users(node)
            if node.op == "mul" and users and node not in outputs and all(u in found for u in users):
                found.add(node)
        return found

    def _layers_above(self) -> dict[Node, str]:
        """The layer of the last network matmul that a node depends on."""
        latest: dict[Node, tuple[int, str]] = {}
        for node in self.nodes:
            if node in self.anchors:
                latest[node] = self.number[node], self.anchors[node]
            elif before := [latest[o] for o in node.operands if o in latest]:
                latest[node] = max(before)
        return {node: layer for node, (_, layer) in latest.items()}

    def _layers_below(self) -> dict[Node, str]:
        """The layer of the first contraction with a weight, else of the first parameter, that depends on a node."""
        first: dict[Node, tuple[float, int, str]] = {}
        for key, node in self.graph.outputs.items():
            if key.startswith("state:"):
                first[node] = math.inf, self.number[node], layer_of(key.removeprefix("state:"))
        for node in reversed(self.nodes):
            for user in self.graph.users(node):
                anchor = (self.number[user], 0, self.anchors[user]) if user in self.anchors else None
                found = anchor or first.get(user)
                if found is not None and (node not in first or found < first[node]):
                    first[node] = found
        return {node: layer for node, (_, _, layer) in first.items()}

    def _purpose(self, node: Node) -> Purpose:
        if node in self.optimizer:
            return self._below(node), "optimizer"
        if node in self.weights:
            return self.weights[node], "weights"
        if node in self.value_nodes:
            return self._forward(node)
        return self._backward(node)

    def _forward(self, node: Node) -> Purpose:
        if node in self.residual:
            return NO_LAYER, "residual"
        if node not in self.behind_network:
            return NO_LAYER, "perturbations" if node in self.perturbations else "points"
        return self.above.get(node, NO_LAYER), f"forward {self._path(node)}"

    def _backward(self, node: Node) -> Purpose:
        if node.op in _CONTRACTIONS and "grad" in _roles(node):
            if node.op == "matmul_tn":
                return self._below(node), "weights backward" if _roles(node)[0] == "weight" else "weight gradient"
            if node not in self.behind_weight_gradient:
                return self.anchors.get(node, NO_LAYER), f"backward {self._path(node)}"
        if node in self.behind_weight_gradient:
            return self._below(node), "weights backward"
        if node not in self.before_gradient:
            return self._below(node), "weight gradient"  # a sum that a bias is updated with
        if node in self.behind_gradient:
            return self._below(node), f"backward {self._path(node)}"
        if node in self.behind_residual:
            return NO_LAYER, "residual"
        return self.above.get(node, NO_LAYER), f"backward {self._path(node)}"

    def _below(self, node: Node) -> str:
        return self.below.get(node, NO_LAYER)

    def _path(self, node: Node) -> str:
        """Whether it works on rows of perturbations: `delta` or `base`."""
        return "delta" if any(n.shape[:-1] in self.rows for n in (node, *node.operands)) else "base"


def _roles(node: Node) -> tuple[str, str]:
    return str(node.attrs.get("lhs_role", "")), str(node.attrs.get("rhs_role", ""))
