"""differentiate: the loss of the residuals and its gradients, in reverse mode over the closed op set.

Outputs `residual:<term>` = r [N, m] become `metric:loss`, `metric:loss:<term>` = weight * mean(r^2), and `grad:<state>`
for every trainable state. The adjoint of r starts as r * (2 weight / size): it does not read the loss, so each point's
backward can start when its forward is done. A weight that is scheduled is the scalar `weight:<term>`, a factor of its
own. A graph with an output `loss` (a scalar that couples points) is differentiated from that node instead.

Order of sums is meaning (it decides rounding and the chains of fold-accumulate): a gradient adds its contributions in
the order in which the backward pass makes them, term after term, last op first; perturbed rows so come before the base
rows they were split from. Parameter-only computations (TT reconstruction) are differentiated once, after all terms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

from pintac.errors import PassError
from pintac.ir import Builder, Graph, Node, ancestors
from pintac.ir.gradients import grad_rule
from pintac.passes.base import Pass
from pintac.passes.dataflow import continue_from, descendants

_RESIDUAL, _LOSS = "residual:", "loss"
_ROW_SOURCES = ("random", "data", "input")


@dataclass(frozen=True)
class Differentiate(Pass):
    """Adds the loss and the gradients; the residuals are no outputs afterwards.

    Every state is trained; one that the loss does not depend on gets a zero gradient.
    """

    name: ClassVar[str] = "differentiate"

    def run(self, graph: Graph) -> Graph:
        residuals = {
            key.removeprefix(_RESIDUAL): node for key, node in graph.outputs.items() if key.startswith(_RESIDUAL)
        }
        if not residuals and _LOSS not in graph.outputs:
            return graph
        builder, new = continue_from(graph)
        for key, node in graph.outputs.items():
            if key != _LOSS and not key.startswith(_RESIDUAL):
                builder.output(key, new[node])
        seeds = _loss(graph, builder, new, residuals)
        trainable = graph.states()
        gradients = _Reverse(graph, builder, new, trainable.values()).run(seeds)
        for name, state in trainable.items():
            gradient = gradients.get(state)
            if gradient is None:
                gradient = builder.const(0.0, state.shape, loc=state.loc)
            builder.output(f"grad:{name}", gradient)
        return builder.finish()


@dataclass
class _Seed:
    """Where reverse mode starts: a node, its adjoint in the builder, the number of its term."""

    node: Node
    adjoint: Node
    term: int


def _loss(graph: Graph, b: Builder, new: Mapping[Node, Node], residuals: Mapping[str, Node]) -> list[_Seed]:
    """Builds the metrics; the seeds in order of the terms."""
    weights = _weights(graph.attrs.get("terms", ()), residuals)
    total: Node | None = None
    parts: dict[str, Node] = {}
    seeds: list[_Seed] = []
    for number, (name, node) in enumerate(residuals.items()):
        r = new[node]
        weight = weights[name]
        scale = (1.0 if weight is None else weight) / prod(r.shape)
        with b.at(node.loc):
            scheduled = b.scalar(f"weight:{name}") if weight is None else None
            parts[name] = _scaled(b, b.mul(b.sum(b.mul(r, r)), scale), scheduled)
            total = parts[name] if total is None else b.add(total, parts[name])
            if _LOSS not in graph.outputs:
                seeds.append(_Seed(node, _scaled(b, b.mul(r, 2.0 * scale), scheduled), number))
    if _LOSS in graph.outputs:
        loss = graph.outputs[_LOSS]
        if loss.shape:
            raise PassError(f"the loss must be a scalar, it is {loss.type}", location=loss.loc)
        total = new[loss]
        seeds = [_Seed(loss, b.const(1.0, (), loc=loss.loc), 0)]
    assert total is not None
    b.output("metric:loss", total)
    for name, part in parts.items():
        b.output(f"metric:loss:{name}", part)
    return seeds


def _weights(terms: Sequence[Mapping[str, Any]], residuals: Mapping[str, Node]) -> dict[str, float | None]:
    """The weights of the terms, None for one that is scheduled."""
    given = {str(term["name"]): _weight(term.get("weight", 1.0)) for term in terms}
    for name, node in residuals.items():
        if terms and name not in given:
            raise PassError(f"the residual {name!r} is not among the terms {sorted(given)}", location=node.loc)
    return {name: given.get(name, 1.0) for name in residuals}


def _scaled(b: Builder, node: Node, factor: Node | None) -> Node:
    return node if factor is None else b.mul(node, factor)


def _weight(weight: object) -> float | None:
    return float(weight) if isinstance(weight, (int, float)) else None


Contributions = dict[Node, list[Node]]
"""node -> the summands of its adjoint, in the order in which they are added."""


class _Reverse:
    """Reverse mode over the graph's nodes; adjoints are built beside the copies of the nodes in the builder."""

    def __init__(self, graph: Graph, builder: Builder, new: Mapping[Node, Node], trainable: Iterable[Node]) -> None:
        self.graph = graph
        self.b = builder
        self.new = new
        self.active = descendants(graph, trainable)
        self.rows = descendants(graph, graph.of(*_ROW_SOURCES))
        self.parameters: Contributions = {}

    def run(self, seeds: Sequence[_Seed]) -> dict[Node, Node]:
        """state -> gradient, for every state that a seed depends on."""
        for group in self._independent(seeds):
            self._walk_rows(group)
        return self._walk_parameters()

    def _independent(self, seeds: Sequence[_Seed]) -> list[list[_Seed]]:
        """The seeds in groups that share no row computation; terms normally have their own points."""
        groups: list[tuple[set[Node], list[_Seed]]] = []
        for seed in seeds:
            reach = ancestors(seed.node) & self.active & self.rows
            members = [seed]
            apart = []
            for other_reach, other in groups:
                if other_reach & reach:
                    reach, members = reach | other_reach, [*other, *members]
                else:
                    apart.append((other_reach, other))
            groups = [*apart, (reach, members)]
        return sorted((members for _, members in groups), key=lambda members: members[0].term)

    def _walk_rows(self, seeds: Sequence[_Seed]) -> None:
        pending: Contributions = {}
        for seed in seeds:
            if seed.node in self.active:
                self._into(pending, seed.node).append(seed.adjoint)
        for node in reversed(self.graph.nodes):
            if node in pending:
                self._propagate(node, self._total(pending.pop(node)), pending)

    def _walk_parameters(self) -> dict[Node, Node]:
        gradients: dict[Node, Node] = {}
        for node in reversed(self.graph.nodes):
            if node in self.parameters:
                total = self._total(self.parameters.pop(node))
                if node.op == "state":
                    gradients[node] = total
                else:
                    self._propagate(node, total, self.parameters)
        return gradients

    def _propagate(self, node: Node, adjoint: Node, pending: Contributions) -> None:
        operands = [self.new[operand] for operand in node.operands]
        needed = [operand in self.active for operand in node.operands]
        parts = grad_rule(self.b, self.new[node], operands, adjoint, needed)
        for operand, part in zip(node.operands, parts, strict=True):
            if part is not None:
                self._into(pending, operand).append(part)

    def _into(self, pending: Contributions, node: Node) -> list[Node]:
        """The contributions to a node's adjoint: of row values in `pending`, of parameters in those of all terms."""
        return (pending if node in self.rows else self.parameters).setdefault(node, [])

    def _total(self, parts: Sequence[Node]) -> Node:
        result = parts[0]
        for part in parts[1:]:
            result = self.b.add(result, part, loc=part.loc)
        return result
