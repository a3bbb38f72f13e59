"""fold-accumulate: add(matmul, x) becomes a matmul that starts from x (NUMERICS 2).

Only this pass moves a sum into an accumulator, because it changes the rounding: the chain is one contraction, rounded
once a block. A gradient's sum over terms and paths, ((a + b) + c), becomes c(acc = b(acc = a)). Its order is that in
which the products stand in the graph, term by term, whatever way they were added: so every weight's gradient
accumulates over terms in the same order, and the backend can run one term after another.

Two products over the same perturbed rows (odd and even halves of a pair, a layer used twice) stay apart: chained, the
second could start only when the first has seen every point, and one loop over the points would become two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from pintac.ir import Builder, Graph, Node
from pintac.passes.base import Pass
from pintac.passes.dataflow import live, without_dead

_MATMULS = ("matmul", "matmul_tn")


@dataclass(frozen=True)
class FoldAccumulate(Pass):
    """Folds a sum into a matmul that nothing else reads and that has no accumulator yet.

    `scope=weights` folds sums of weight gradients only (`matmul_tn`), `all` every such sum.
    """

    name: ClassVar[str] = "fold-accumulate"
    preserves: ClassVar[bool] = True
    forward: ClassVar[bool] = True

    scope: Literal["weights", "all"] = "all"

    def run(self, graph: Graph) -> Graph:
        graph = self._sorted_sums(graph)
        folds = self._folds(graph)
        if not folds:
            return graph
        builder = Builder(graph.name, graph.attrs, reserved=(node.name for node in graph.nodes))
        new: dict[Node, Node] = {}
        # a folded matmul moves to the place of its add, where the value it starts from exists
        moved = {matmul for matmul, _ in folds.values()}
        for node in graph.nodes:
            if node in folds:
                matmul, start = folds[node]
                new[node] = builder.copy(matmul, [*(new[operand] for operand in matmul.operands), new[start]])
            elif node not in moved:
                new[node] = builder.copy(node, [new[operand] for operand in node.operands])
        for key, node in graph.outputs.items():
            builder.output(key, new[node])
        return without_dead(builder.finish())

    def _sorted_sums(self, graph: Graph) -> Graph:
        """The graph with every sum of weight gradients in the order of its products."""
        place = _places(graph)
        kept = set(graph.outputs.values())
        alive = live(graph)

        def users(node: Node) -> list[Node]:
            return [user for user in graph.users(node) if user in alive]

        def leaves(node: Node) -> list[Node]:
            if node.op != "add":
                return [node]
            parts = [leaves(o) if len(users(o)) == 1 and o not in kept else [o] for o in node.operands]
            return parts[0] + parts[1]

        order: dict[Node, list[Node]] = {}
        for node in graph.of("add"):
            inner = [u for u in users(node) if u.op == "add"]
            if node not in alive or (len(users(node)) == 1 and inner and node not in kept):
                continue  # part of a larger sum
            parts = leaves(node)
            products = all(p.op == "matmul_tn" and len(p.operands) == 2 and len(users(p)) == 1 for p in parts)
            wanted = sorted(parts, key=place.__getitem__)
            if products and len(set(parts)) == len(parts) and parts != wanted:
                order[node] = wanted
        if not order:
            return graph
        builder = Builder(graph.name, graph.attrs, reserved=(node.name for node in graph.nodes))
        new: dict[Node, Node] = {}
        for node in graph.nodes:
            if node in order:
                first, *rest = order[node]
                total = new[first]
                for part in rest:
                    total = builder.add(total, new[part], loc=node.loc, name=node.name)
                new[node] = total
            else:
                new[node] = builder.copy(node, [new[operand] for operand in node.operands])
        for key, node in graph.outputs.items():
            builder.output(key, new[node])
        return without_dead(builder.finish())

    def _folds(self, graph: Graph) -> dict[Node, tuple[Node, Node]]:
        """add -> (the matmul it becomes, the value that matmul starts from)."""
        kept = set(graph.outputs.values())
        alive = live(graph)
        kinds = ("matmul_tn",) if self.scope == "weights" else _MATMULS

        def free(operand: Node, add: Node) -> bool:
            """A matmul of the sum's shape that only this add reads."""
            users = [user for user in graph.users(operand) if user in alive]
            single = users == [add] and operand not in kept and add.operands[0] is not add.operands[1]
            return operand.op in kinds and len(operand.operands) == 2 and operand.type == add.type and single

        folds: dict[Node, tuple[Node, Node]] = {}
        chains: dict[Node, set[tuple[object, ...]]] = {}  # sum -> rows that it contracts
        rows = _Rows(graph)
        for node in graph.of("add"):
            if node not in alive:
                continue
            left, right = node.operands
            contracted = [chains.get(operand, {rows.of(operand)} - {()}) for operand in (left, right)]
            chains[node] = contracted[0] | contracted[1]
            if contracted[0] & contracted[1]:
                continue
            if free(right, node) and left.type == node.type:
                folds[node] = (right, left)
            elif left.op == "matmul" and free(left, node) and right.type == node.type:
                folds[node] = (left, right)  # never for weight gradients: it would reverse the order of the terms
        return folds


def _places(graph: Graph) -> dict[Node, tuple[int, int]]:
    """Where each weight gradient comes in a sum: those of one set of points together, as they stand in the graph.

    Products are of one set where they depend on a common draw of points.
    """
    draws = _draws(graph, lambda n: n.op == "random" or (n.op == "data" and str(n.attrs["name"]).startswith("points.")))
    set_of: dict[Node, Node] = {}  # draw -> one that stands for its set

    def found(draw: Node) -> Node:
        while set_of.setdefault(draw, draw) is not draw:
            draw = set_of[draw]
        return draw

    products: list[tuple[int, Node, Node]] = []
    for position, node in enumerate(graph.nodes):
        inherited = draws[node]
        if node.op == "matmul_tn" and inherited:
            products.append((position, min(inherited, key=lambda draw: draw.name), node))
            first, *rest = sorted((found(draw) for draw in inherited), key=lambda draw: draw.name)
            for other in rest:
                set_of[other] = first
    first_of: dict[Node, int] = {}
    out = {node: (position, position) for position, node in enumerate(graph.nodes)}
    for position, draw, node in products:
        out[node] = first_of.setdefault(found(draw), position), position
    return out


def _draws(graph: Graph, is_draw: Callable[[Node], bool]) -> dict[Node, frozenset[Node]]:
    """The draws that each value depends on, but for those that a weight gradient has folded: it is of no points."""
    out: dict[Node, frozenset[Node]] = {}
    for node in graph.nodes:
        inherited = frozenset().union(*(out[operand] for operand in node.operands if operand.op != "matmul_tn"))
        out[node] = inherited | {node} if is_draw(node) else inherited
    return out


class _Rows:
    """Which perturbed rows a product contracts."""

    def __init__(self, graph: Graph) -> None:
        self._draws = _draws(graph, lambda node: node.op == "random")

    def of(self, product: Node) -> tuple[object, ...]:
        """The row dimensions and random draws of a contraction of perturbed rows; empty for anything else."""
        if product.op != "matmul_tn" or product.operands[0].type.rank < 4:
            return ()
        left = product.operands[0]
        return (left.shape[:-1], min((draw.name for draw in self._draws[left]), default=""))
