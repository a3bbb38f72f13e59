"""split-stein: DiffQuant (NUMERICS 5). A perturbed evaluation becomes its base evaluation and a path of differences.

`difference(p, b)` is replaced by the delta of p. The perturbed ops between `perturb` and p and the base ops below b are
the same ops (expand-operators made the one from the other), so the two are walked side by side: the base of a perturbed
value is the counterpart met there. Each op's delta rule (`ir.deltas`) then gives its delta. Biases and everything else
that is not perturbed stay on the base path; linear ops act on the delta alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pintac.errors import PassError
from pintac.ir import Builder, Graph, Node
from pintac.ir.deltas import Pair, delta_rule
from pintac.passes.base import Pass
from pintac.passes.dataflow import ancestors, descendants, without_dead

_ORDER = "run split-stein right after expand-operators"


@dataclass(frozen=True)
class SplitStein(Pass):
    """`plus-minus`: d+ and d- are rows of one tensor [N, 2, P, w]. `none` leaves X + delta (naive quantisation)."""

    name: ClassVar[str] = "split-stein"
    preserves: ClassVar[bool] = True

    form: Literal["plus-minus", "none"] = "plus-minus"

    def run(self, graph: Graph) -> Graph:
        if self.form == "none" or not graph.of("difference"):
            return graph
        perturbed = descendants(graph, graph.of("perturb"))
        builder = Builder(graph.name, graph.attrs, reserved=(node.name for node in graph.nodes))
        new: dict[Node, Node] = {}
        bases: dict[Node, Node] = {}
        deltas: dict[Node, Node] = {}
        for node in graph.nodes:
            if node.op == "difference":
                p, b = node.operands
                _pair(p, b, perturbed, bases)
                _deltas(graph, builder, p, perturbed, bases, new, deltas)
                new[node] = deltas[p]
            else:
                new[node] = builder.copy(node, [new[operand] for operand in node.operands])
        for key, output in graph.outputs.items():
            builder.output(key, new[output])
        return without_dead(builder.finish())


def _pair(p: Node, b: Node, perturbed: set[Node], bases: dict[Node, Node]) -> None:
    """Fills `bases`: perturbed node -> the base node that it perturbs."""
    if b.op != "reshape":
        raise PassError(
            f"the base %{b.name} of a difference is not a reshape of a base value", location=b.loc, hint=_ORDER
        )
    pending = [(p, b.operands[0])]
    while pending:
        p, b = pending.pop()
        if p in bases:
            continue
        if p.op == "perturb":
            bases[p] = p.operands[0]
            continue
        bases[p] = b
        if p.op == b.op and len(p.operands) == len(b.operands):
            both = zip(p.operands, b.operands, strict=True)
            pending += [(p_operand, b_operand) for p_operand, b_operand in both if p_operand in perturbed]
        elif p.op == "reshape":  # to [N, 2, P, m], the form of differences
            pending.append((p.operands[0], b))
        else:
            raise PassError(
                f"the perturbed {p.op} %{p.name} has no counterpart in the base evaluation, which has {b.op} %{b.name}",
                location=p.loc,
                hint=_ORDER,
            )


def _deltas(
    graph: Graph,
    builder: Builder,
    p: Node,
    perturbed: set[Node],
    bases: Mapping[Node, Node],
    new: Mapping[Node, Node],
    deltas: dict[Node, Node],
) -> None:
    """Fills `deltas` for p and everything perturbed below it."""
    rows: dict[Node, Node] = {}

    def base_rows(node: Node) -> Node:
        """The base value of a perturbed node, [N, 1, 1, ...]."""
        if node not in rows:
            value = new[bases[node]]
            rows[node] = builder.reshape(value, (value.shape[0], 1, 1, *value.shape[1:]), loc=value.loc)
        return rows[node]

    below = ancestors(graph, [p])
    for node in graph.nodes:
        if node not in perturbed or node not in below or node in deltas:
            continue
        if node.op == "perturb":
            deltas[node] = new[node.operands[1]]
            continue
        pairs: list[Pair] = [
            (base_rows(operand), deltas[operand]) if operand in perturbed else (new[operand], None)
            for operand in node.operands
        ]
        delta = delta_rule(builder, node, pairs)
        assert delta is not None
        deltas[node] = delta
