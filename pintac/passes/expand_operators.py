"""expand-operators: gradients and Laplacians of the residual become sampled evaluations (NUMERICS 7).

`gradient(y, x)` and `laplacian(y, x)` are expanded by `graph.attrs["estimator"]`. The estimator is applied to the
network, not to known functions around it. Seen from x, a value is *constant* (does not depend on x), *known* (depends
on x, on no state) or *network*. Derivatives of known values are exact. For a network value the pass walks down

- add, sub, neg, slice, concat, reshape, pad, broadcast, permute: linear, exact;
- mul by, or div by, a constant or known value: the product or quotient rule, exact;
- mul of two network values, div by one, sum: by the exact rule if a known value takes part further down, else a leaf;

to its leaves (everything else: matmul, tanh, ...), which are estimated as a whole. So in u = g(x) + d(x) net(x) only
`net` is sampled. Leaves at one x share samples, the rows of one perturbed evaluation (see `sampling`):

    delta [N, P, d] (see `directions`); +delta and -delta stacked: [N, 2, P, d]
    u+-: the leaf's ops on perturb(x, delta)        difference(u+-, u): [N, 2, P, m]
    odd part u+ - u-, even part u+ + u- - 2u: sums over the sign dimension of the differences, never of the values
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pintac.errors import PassError
from pintac.ir import Builder, Graph, Node, ancestors
from pintac.ir.attrs import integer
from pintac.passes.base import Pass
from pintac.passes.dataflow import descendants, without_dead
from pintac.passes.derivatives import Columns, Derivatives
from pintac.passes.directions import directions
from pintac.passes.lifting import lift_op
from pintac.passes.sampling import Block, Demand, Estimator, Plan, plan_rows

_OPERATORS = ("gradient", "laplacian")
_LINEAR = ("add", "sub", "neg", "slice", "concat", "reshape", "pad", "broadcast", "permute")
_DECOMPOSED = (*_LINEAR, "mul", "div", "sum")


@dataclass(frozen=True)
class ExpandOperators(Pass):
    """Expands every `gradient` and `laplacian`; a graph without them is returned as it is."""

    name: ClassVar[str] = "expand-operators"

    def run(self, graph: Graph) -> Graph:
        graph = without_dead(graph)
        operators = graph.of(*_OPERATORS)
        if not operators:
            return graph
        _refuse_nested(graph, operators)
        estimator = Estimator.from_attrs(graph.attrs, operators[0].loc)
        builder = Builder(graph.name, graph.attrs, reserved=(node.name for node in graph.nodes))
        new: dict[Node, Node] = {}
        points: dict[Node, _Points] = {}
        for x, term, index in _point_tensors(graph, operators):
            demand = _demand(graph, x)
            at = next(node.loc for node in operators if node.operands[1] is x)
            plan = plan_rows(estimator, x.shape[1], demand, term, index, at)
            points[x] = _Points(graph, builder, new, x, estimator, plan)
        for node in graph.nodes:
            with builder.at(node.loc):
                if node.op == "gradient":
                    if not _only_sliced(graph, node):
                        new[node] = points[node.operands[1]].first(node.operands[0], (0, node.shape[2]))
                elif node.op == "slice" and node.operands[0].op == "gradient" and node.operands[0] not in new:
                    y, x = node.operands[0].operands
                    columns = (integer(node.attrs, "start"), integer(node.attrs, "stop"))
                    new[node] = points[x].first(y, columns)
                elif node.op == "laplacian":
                    y, x = node.operands
                    columns = (integer(node.attrs, "start"), integer(node.attrs, "stop"))
                    new[node] = points[x].second(y, columns)
                else:
                    new[node] = builder.copy(node, [new[operand] for operand in node.operands])
        for key, node in graph.outputs.items():
            builder.output(key, new[node])
        return without_dead(builder.finish())


def _refuse_nested(graph: Graph, operators: tuple[Node, ...]) -> None:
    for node in operators:
        y, x = node.operands
        if y is not x and x not in ancestors(y):
            raise PassError(
                f"{node.op}: u does not depend on the points x",
                location=node.loc,
                hint="differentiate with respect to the tensor that u was evaluated at",
            )
        inner = [other for other in operators if other in ancestors(y)]
        if inner:
            raise PassError(
                f"{node.op} of a {inner[0].op} ({inner[0].loc}): derivatives of derivatives are not estimated",
                location=node.loc,
                hint="laplacian(u, x, dims) gives second derivatives; third derivatives need another formulation",
            )


def _only_sliced(graph: Graph, node: Node) -> bool:
    """Whether a gradient is read only through slices of its columns: then only those are estimated."""
    users = graph.users(node)
    sliced = all(user.op == "slice" and user.attrs["axis"] == 2 for user in users)
    return bool(users) and sliced and all(node is not output for output in graph.outputs.values())


def _demand(graph: Graph, x: Node) -> Demand:
    demand = Demand([], [])
    for node in graph.of(*_OPERATORS):
        if node.operands[1] is not x:
            continue
        if node.op == "laplacian":
            demand.laplacians.append((integer(node.attrs, "start"), integer(node.attrs, "stop")))
        elif _only_sliced(graph, node):
            for user in graph.users(node):
                demand.gradients.append((integer(user.attrs, "start"), integer(user.attrs, "stop")))
        else:
            demand.gradients.append((0, node.shape[2]))
    return demand


def _point_tensors(graph: Graph, operators: tuple[Node, ...]) -> list[tuple[Node, int, int]]:
    """Every x that something is differentiated at, the number of its term, its number within the term."""
    terms = [str(term["name"]) for term in graph.attrs.get("terms", ())]
    keys = list(graph.outputs)
    found: list[tuple[Node, int, int]] = []
    counts: dict[int, int] = {}
    for node in operators:
        x = node.operands[1]
        if any(x is other for other, _, _ in found):
            continue
        below = descendants(graph, [node])
        key = next(key for key in keys if graph.outputs[key] in below)
        name = key.removeprefix("residual:")
        term = terms.index(name) if name in terms else keys.index(key)
        found.append((x, term, counts.get(term, 0)))
        counts[term] = counts.get(term, 0) + 1
    return found


class _Points(Derivatives):
    """The derivatives at one x, its samples and perturbed evaluations; everything is built when first needed, once."""

    def __init__(
        self,
        graph: Graph,
        builder: Builder,
        new: dict[Node, Node],
        x: Node,
        estimator: Estimator,
        plan: Plan,
    ) -> None:
        super().__init__(builder, x)
        self.graph = graph
        self.new = new
        self.estimator = estimator
        self.plan = plan
        self.dependent = descendants(graph, [x])
        self.trained = descendants(graph, graph.of("state"))
        self._has_known: dict[Node, bool] = {}
        self._draws: dict[Block, Node] = {}
        self._lifted: dict[Node, Node] = {}
        self._differences: dict[Node, Node] = {}
        self._parts: dict[tuple[Node, str], Node] = {}

    def first(self, y: Node, columns: Columns) -> Node:
        """dy/dx at full shape [N, m, columns]."""
        return self.full(y, self.gradient(y, columns), columns)

    def second(self, y: Node, columns: Columns) -> Node:
        """The Laplacian at full shape [N, m]."""
        return self.full(y, self.laplacian(y, columns))

    # ---- what is estimated

    def value(self, node: Node) -> Node:
        return self.new[node]

    def depends(self, node: Node) -> bool:
        return node in self.dependent

    def network(self, node: Node) -> bool:
        return node in self.dependent and node in self.trained

    def leaf(self, node: Node) -> bool:
        if not self.network(node):
            return False
        if node.op in _LINEAR:
            return False
        networks = [operand for operand in node.operands if self.network(operand)]
        if (node.op == "mul" and len(networks) == 1) or (node.op == "div" and networks == [node.operands[0]]):
            return False
        return not (node.op in ("mul", "div", "sum") and self.has_known(node))

    def has_known(self, node: Node) -> bool:
        """Whether a known value takes part in a network value above its leaves."""
        if node not in self._has_known:
            self._has_known[node] = node.op in _DECOMPOSED and any(
                self.has_known(operand) if self.network(operand) else self.depends(operand) for operand in node.operands
            )
        return self._has_known[node]

    # ---- estimates (NUMERICS 7)

    def leaf_gradient(self, node: Node, columns: Columns) -> Node:
        b, sigma = self.b, self.estimator.sigma
        odd = self._odd(node)  # [N, P, m]
        parts: list[tuple[list[int], Node]] = []
        for block in self.plan.blocks:
            position = block.positions(*columns)
            if position is not None:
                total = self._contracted(odd, self._cut(block, position))
                inside = list(block.columns[position[0] : position[1]])
                parts.append((inside, b.mul(total, 1.0 / (2.0 * sigma**2 * block.pairs))))
        alone = [column for column in self.plan.alone if columns[0] <= column < columns[1]]
        if alone:
            weights = [[0.0] * len(alone) for _ in range(self.plan.pairs)]
            for index, column in enumerate(alone):
                weights[self.plan.row(column)][index] = 1.0 / (2.0 * sigma)  # sigma (u+ - u-) / (2 sigma^2)
            parts.append((alone, self._contracted(odd, self._row_weights(weights))))
        return b.reshape(_by_column(b, parts), (*node.shape, columns[1] - columns[0]))

    def _contracted(self, odd: Node, weights: Node) -> Node:
        """The sum over pairs of odd [N, P, m] times weights [N or 1, P, c]: [N, m, c]."""
        b = self.b
        if odd.shape[2] == 1:
            return b.sum(b.mul(odd, weights), (1,), keepdims=True)
        left = b.reshape(odd, (*odd.shape, 1))
        right = b.reshape(weights, (*weights.shape[:2], 1, weights.shape[2]))
        return b.sum(b.mul(left, right), (1,))

    def leaf_laplacian(self, node: Node, columns: Columns) -> Node:
        b, sigma, plan = self.b, self.estimator.sigma, self.plan
        even = self._even(node)  # [N, P, m]
        if self.estimator.kind == "stein":
            (block,) = plan.blocks
            position = block.positions(*columns)
            assert position is not None
            delta = self._cut(block, position)
            weight = b.sub(b.sum(b.mul(delta, delta), (2,), keepdims=True), (position[1] - position[0]) * sigma**2)
            total = b.mul(b.sum(b.mul(even, weight), (1,)), 1.0 / (2.0 * sigma**4 * block.pairs))
        else:
            weights = [0.0] * plan.pairs
            for block in plan.blocks:
                if block.positions(*columns) is not None:
                    weights[block.start : block.stop] = [1.0 / (sigma**2 * block.pairs)] * block.pairs
            for column in plan.alone:
                if columns[0] <= column < columns[1]:
                    weights[plan.row(column)] = 1.0 / sigma**2
            if len(set(weights)) == 1:
                total = b.mul(b.sum(even, (1,)), weights[0])
            else:
                total = b.sum(b.mul(even, self._row_weights([[weight] for weight in weights])), (1,))
        return b.reshape(total, node.shape) if total.shape != node.shape else total

    def _row_weights(self, weights: list[list[float]]) -> Node:
        """A weight for each pair and column: [1, P, c]."""
        return self.b.const([weight for row in weights for weight in row], (1, len(weights), len(weights[0])))

    # ---- samples

    def _draw(self, block: Block) -> Node:
        """delta of the plus rows, in the block's columns: [N, P, c]."""
        if block not in self._draws:
            points, kind, sigma = self.x.shape[0], self.estimator.kind, self.estimator.sigma
            self._draws[block] = directions(self.b, kind, block, points, self.plan.pairs, sigma)
        return self._draws[block]

    def _cut(self, block: Block, position: tuple[int, int]) -> Node:
        """Some columns of a block's delta."""
        delta = self._draw(block)
        return delta if position == (0, len(block.columns)) else self.b.slice(delta, 2, *position)

    def _delta(self) -> Node:
        """delta of all rows, plus and minus, in all columns of x: [N, 2, P, d]."""
        b, (points, d) = self.b, self.x.shape
        shape = (points, 2, self.plan.pairs, d)
        single: Node | None = None
        if self.plan.alone:
            rows = np.zeros(shape[2:])
            for column in self.plan.alone:
                rows[self.plan.row(column), column] = self.estimator.sigma
            if not self.plan.blocks:
                both = np.stack([rows, -rows]) + 0.0  # no negative zeros
                return b.broadcast(b.const(both.ravel().tolist(), (1, *shape[1:])), shape)
            single = b.const(rows.ravel().tolist(), (1, 1, *rows.shape))
        drawn = self._columns()
        plus = b.reshape(drawn, (points, 1, *drawn.shape[1:]))
        if single is not None:
            plus = b.add(plus, single)
        return b.mul(plus, b.const((1.0, -1.0), (1, 2, 1, 1)))

    def _columns(self) -> Node:
        """delta of the plus rows that are drawn, in all columns of x: [N, P, d]."""
        b, d = self.b, self.x.shape[1]
        if len(self.plan.blocks) == 1:
            (block,) = self.plan.blocks
            first, last = block.columns[0], block.columns[-1]
            if last - first + 1 == len(block.columns):
                drawn = self._draw(block)
                return drawn if len(block.columns) == d else b.pad(drawn, 2, first, d - 1 - last)
        source = {column: block for block in self.plan.blocks for column in block.columns}
        columns = []
        for column in range(d):
            if column in source:
                index = source[column].columns.index(column)
                columns.append(self._cut(source[column], (index, index + 1)))
            else:
                columns.append(b.const(0.0, (self.x.shape[0], self.plan.pairs, 1)))
        return b.concat(columns, 2)

    def _difference(self, node: Node) -> Node:
        """u(x + delta) - u(x) of a leaf u [N, ...] as [N, 2, P, m]."""
        if node not in self._differences:
            b, n = self.b, node.shape[0]
            perturbed, base = self._perturbed(node), self.new[node]
            m = node.type.size // n
            if node.type.rank != 2:
                perturbed = b.reshape(perturbed, (*perturbed.shape[:3], m))
            self._differences[node] = b.difference(perturbed, b.reshape(base, (n, 1, 1, m)))
        return self._differences[node]

    def _even(self, node: Node) -> Node:
        """u+ + u- - 2u: [N, P, m]."""
        if (node, "even") not in self._parts:
            self._parts[node, "even"] = self.b.sum(self._difference(node), (1,))
        return self._parts[node, "even"]

    def _odd(self, node: Node) -> Node:
        """u+ - u-: [N, P, m]."""
        if (node, "odd") not in self._parts:
            signs = self.b.const((1.0, -1.0), (1, 2, 1, 1))
            self._parts[node, "odd"] = self.b.sum(self.b.mul(self._difference(node), signs), (1,))
        return self._parts[node, "odd"]

    def _perturbed(self, leaf: Node) -> Node:
        """The leaf at the perturbed points; every op between x and it is built once."""
        b, lifted = self.b, self._lifted
        if self.x not in lifted:
            lifted[self.x] = b.perturb(self.new[self.x], self._delta())
        needed = ancestors(leaf) & self.dependent
        for node in self.graph.nodes:
            if node in needed and node not in lifted:
                with b.at(node.loc):
                    lifted[node] = lift_op(b, node, self.new, lifted, self.plan.pairs)
        return lifted[leaf]


def _by_column(b: Builder, parts: list[tuple[list[int], Node]]) -> Node:
    """One tensor [N, m, columns] from parts that hold some of the columns each."""
    if len(parts) == 1:
        return parts[0][1]
    runs: list[tuple[int, Node]] = []
    for columns, part in parts:
        start = 0
        for index in range(1, len(columns) + 1):
            if index == len(columns) or columns[index] != columns[index - 1] + 1:
                whole = start == 0 and index == len(columns)
                runs.append((columns[start], part if whole else b.slice(part, 2, start, index)))
                start = index
    return b.concat([part for _, part in sorted(runs, key=lambda run: run[0])], 2)
