"""split-stein: DiffQuant (NUMERICS 5). A perturbed evaluation becomes its base evaluation and a path of differences.

`difference(p, b)` is replaced by the delta of p. The perturbed ops between `perturb` and p and the base ops below b are
the same ops (expand-operators made the one from the other), so the two are walked side by side: the base of a perturbed
value is the counterpart met there. Each op's delta rule (`ir.deltas`) then gives its delta. Biases and everything else
that is not perturbed stay on the base path; linear ops act on the delta alone.

Even/odd (ours, not the paper's): instead of d+ and d- the halves a = (d+ - d-) / 2 and b = (d+ + d-) / 2 are carried,
by the rules of `ir.even_odd`, as values of their own, [N, 1, P, w] each; b starts as zero and has no first matmul. The
estimator's sums over the sign, u+ + u- - 2u and u+ - u-, become 2 b and 2 a.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from pintac.errors import PassError
from pintac.ir import Builder, Graph, Node, ancestors
from pintac.ir.deltas import Pair, delta_rule
from pintac.ir.even_odd import SIGN_AXIS, UNPERTURBED, Halves, Operand, both_signs, even_odd_rule, halves_of, is_sign
from pintac.passes.base import Pass
from pintac.passes.dataflow import descendants, without_dead

_ORDER = "run split-stein right after expand-operators"


@dataclass(frozen=True)
class SplitStein(Pass):
    """`plus-minus`: d+ and d- are rows of one tensor [N, 2, P, w]. `even-odd`: their half difference and half sum are
    tensors of their own. `none` leaves X + delta (naive quantisation).
    """

    name: ClassVar[str] = "split-stein"
    preserves: ClassVar[bool] = True

    form: Literal["plus-minus", "even-odd", "none"] = "plus-minus"

    def run(self, graph: Graph) -> Graph:
        if self.form == "none" or not graph.of("difference"):
            return graph
        split = _EvenOdd(graph) if self.form == "even-odd" else _PlusMinus(graph)
        for node in graph.nodes:
            split.visit(node)
        for key, output in graph.outputs.items():
            split.b.output(key, split.new[output])
        return without_dead(split.b.finish())


class _Split(ABC):
    """A copy of the graph in which differences come from a path of their own."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.perturbed = descendants(graph, graph.of("perturb"))
        self.b = Builder(graph.name, graph.attrs, reserved=(node.name for node in graph.nodes))
        self.new: dict[Node, Node] = {}
        self.bases: dict[Node, Node] = {}
        self._rows: dict[Node, Node] = {}

    def visit(self, node: Node) -> None:
        if node.op == "difference":
            p, b = node.operands
            _pair(p, b, self.perturbed, self.bases)
            below = ancestors(p)
            for part in self.graph.nodes:
                if part in self.perturbed and part in below:
                    self.carry(part)
            self.new[node] = self.difference(node)
        else:
            self.new[node] = self.b.copy(node, [self.new[operand] for operand in node.operands])

    @abstractmethod
    def carry(self, node: Node) -> None:
        """Makes the differences of a perturbed node, unless they are made."""

    @abstractmethod
    def difference(self, node: Node) -> Node:
        """What stands for the op `difference`: [N, 2, P, m]."""

    def base_rows(self, node: Node) -> Node:
        """The base value of a perturbed node, [N, 1, 1, ...]."""
        if node not in self._rows:
            value = self.new[self.bases[node]]
            shape = (value.shape[0], 1, 1, *value.shape[1:])
            self._rows[node] = self.b.reshape(value, shape, loc=value.loc)
        return self._rows[node]


class _PlusMinus(_Split):
    """d+ and d- as rows of one value."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.deltas: dict[Node, Node] = {}

    def carry(self, node: Node) -> None:
        if node in self.deltas:
            return
        if node.op == "perturb":
            self.deltas[node] = self.new[node.operands[1]]
            return
        pairs: list[Pair] = [
            (self.base_rows(operand), self.deltas[operand]) if operand in self.perturbed else (self.new[operand], None)
            for operand in node.operands
        ]
        delta = delta_rule(self.b, node, pairs)
        assert delta is not None
        self.deltas[node] = delta

    def difference(self, node: Node) -> Node:
        return self.deltas[node.operands[0]]


class _EvenOdd(_Split):
    """Half difference and half sum as two values."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.halves: dict[Node, Halves] = {}

    def carry(self, node: Node) -> None:
        if node in self.halves:
            return
        if node.op == "perturb":
            self.halves[node] = halves_of(self.b, self.new[node.operands[1]])
            return
        operands: list[Operand] = [
            (self.base_rows(operand), self.halves[operand])
            if operand in self.perturbed
            else (self.new[operand], UNPERTURBED)
            for operand in node.operands
        ]
        self.halves[node] = even_odd_rule(self.b, node, operands)

    def difference(self, node: Node) -> Node:
        self.halves[node] = self.halves[node.operands[0]]
        with self.b.at(node.loc):
            return both_signs(self.b, self.halves[node], node.shape)

    def visit(self, node: Node) -> None:
        if node.op == "sum" and node.attrs["axes"] == (SIGN_AXIS,):
            halves, source = None, node.operands[0]
            if source.op == "difference":
                halves = self.halves[source].even
            elif source.op == "mul":
                for signs, other in (source.operands, source.operands[::-1]):
                    if other.op == "difference" and is_sign(signs):
                        halves, source = self.halves[other].odd, other
            if source.op == "difference":
                with self.b.at(node.loc):
                    self.new[node] = self._twice(halves, node.shape)
                return
        super().visit(node)

    def _twice(self, half: Node | None, shape: tuple[int, ...]) -> Node:
        if half is None:
            return self.b.const(0.0, shape)
        return self.b.reshape(self.b.mul(half, 2.0), shape)


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
