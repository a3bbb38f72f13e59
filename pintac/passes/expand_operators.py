"""expand-operators: gradients and Laplacians of the residual become sampled evaluations (NUMERICS 7).

`gradient(y, x)` and `laplacian(y, x)` are expanded by `graph.attrs["estimator"]`. The estimator is applied to the
network, not to known functions around it. Seen from x, a value is *constant* (does not depend on x), *known* (depends
on x, on no state) or *network*. Derivatives of known values are exact. For a network value the pass walks down

- add, sub, neg, slice, concat, reshape, pad, broadcast, permute: linear, exact;
- mul by, or div by, a constant or known value: the product or quotient rule, exact;
- mul of two network values, div by one, sum: by the exact rule if a known value takes part further down, else a leaf;

to its leaves (everything else: matmul, tanh, ...), which are estimated as a whole. So in u = g(x) + d(x) net(x) only
`net` is sampled. Leaves at one x share samples; each group of pairs (see `sampling`) is one perturbed evaluation:

    z [N, P, c] normal (stream 2)   delta = sigma z; +delta and -delta stacked: [N, 2, P, d]
    u+-: the leaf's ops on perturb(x, delta)        difference(u+-, u): [N, 2, P, m]
    odd part u+ - u-, even part u+ + u- - 2u: sums over the sign dimension of the differences, never of the values
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pintac.errors import PassError
from pintac.ir import Builder, Graph, Node
from pintac.ir.ops import integer
from pintac.passes.base import Pass
from pintac.passes.dataflow import ancestors, descendants, without_dead
from pintac.passes.derivatives import Columns, Derivatives
from pintac.passes.lifting import lift_op
from pintac.passes.sampling import STREAM_DELTA, Demand, Estimator, Group, plan_groups

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
            groups = plan_groups(estimator, x.shape[1], demand, term, index, at)
            points[x] = _Points(graph, builder, new, x, estimator, groups)
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
        if y is not x and x not in ancestors(graph, [y]):
            raise PassError(
                f"{node.op}: u does not depend on the points x",
                location=node.loc,
                hint="differentiate with respect to the tensor that u was evaluated at",
            )
        inner = [other for other in operators if other in ancestors(graph, [y])]
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
        groups: tuple[Group, ...],
    ) -> None:
        super().__init__(builder, x)
        self.graph = graph
        self.new = new
        self.estimator = estimator
        self.groups = groups
        self.dependent = descendants(graph, [x])
        self.trained = descendants(graph, graph.of("state"))
        self._has_known: dict[Node, bool] = {}
        self._draws: dict[Group, Node] = {}
        self._lifted: dict[Group, dict[Node, Node]] = {}
        self._differences: dict[tuple[Node, Group], Node] = {}
        self._parts: dict[tuple[Node, Group, str], Node] = {}

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
        m = node.type.size // node.shape[0]
        parts = []
        for group in self.groups:
            position = group.positions(*columns)
            if position is None:
                continue
            odd = self._odd(node, group)  # [N, P, m]
            if group.key is None:
                # sigma (u+ - u-) / (2 sigma^2)
                part = b.reshape(b.mul(odd, 1.0 / (2.0 * sigma)), (node.shape[0], m, 1))
            else:
                delta = self._draw(group)
                if position != (0, len(group.columns)):
                    delta = b.slice(delta, 2, *position)
                width = position[1] - position[0]
                if m == 1:
                    total = b.sum(b.mul(odd, delta), (1,), keepdims=True)
                else:
                    left = b.reshape(odd, (*odd.shape, 1))
                    right = b.reshape(delta, (*delta.shape[:2], 1, width))
                    total = b.sum(b.mul(left, right), (1,))
                part = b.mul(total, 1.0 / (2.0 * sigma**2 * group.pairs))
            inside = [column for column in group.columns if columns[0] <= column < columns[1]]
            parts.append((inside, part))
        return b.reshape(_by_column(b, parts), (*node.shape, columns[1] - columns[0]))

    def leaf_laplacian(self, node: Node, columns: Columns) -> Node:
        b, sigma = self.b, self.estimator.sigma
        parts = []
        for group in self.groups:
            position = group.positions(*columns)
            if position is None:
                continue
            even = self._even(node, group)  # [N, P, m]
            if self.estimator.kind == "stein":
                delta = self._draw(group)
                if position != (0, len(group.columns)):
                    delta = b.slice(delta, 2, *position)
                size = position[1] - position[0]
                weight = b.sub(b.sum(b.mul(delta, delta), (2,), keepdims=True), size * sigma**2)
                parts.append(b.mul(b.sum(b.mul(even, weight), (1,)), 1.0 / (2.0 * sigma**4 * group.pairs)))
            else:
                parts.append(b.mul(b.sum(even, (1,)), 1.0 / (sigma**2 * group.pairs)))
        total = parts[0]
        for part in parts[1:]:
            total = b.add(total, part)
        return b.reshape(total, node.shape) if total.shape != node.shape else total

    # ---- samples

    def _draw(self, group: Group) -> Node:
        """delta of the plus rows, in the group's columns: [N, P, c]."""
        if group not in self._draws:
            b = self.b
            assert group.key is not None
            shape = (self.x.shape[0], group.pairs, len(group.columns))
            normal = b.random("normal", STREAM_DELTA, group.key, shape)
            self._draws[group] = b.mul(normal, self.estimator.sigma)
        return self._draws[group]

    def _delta(self, group: Group) -> Node:
        """delta of all rows, plus and minus, in all columns of x: [N, 2, P, d]."""
        b, (points, d) = self.b, self.x.shape
        if group.key is None:
            sigma, zeros = self.estimator.sigma, [0.0] * d
            rows = [zeros[:] for _ in range(2)]
            rows[0][group.columns[0]], rows[1][group.columns[0]] = sigma, -sigma
            return b.broadcast(b.const(rows[0] + rows[1], (1, 2, 1, d)), (points, 2, 1, d))
        drawn = self._draw(group)
        signed = b.mul(b.reshape(drawn, (points, 1, *drawn.shape[1:])), self._signs(4))
        first, last = group.columns[0], group.columns[-1]
        if last - first + 1 == len(group.columns):
            return signed if len(group.columns) == d else b.pad(signed, 3, first, d - 1 - last)
        zero = b.const(0.0, (*signed.shape[:3], 1))
        columns = [
            b.slice(signed, 3, group.columns.index(c), group.columns.index(c) + 1) if c in group.columns else zero
            for c in range(d)
        ]
        return b.concat(columns, 3)

    def _signs(self, rank: int) -> Node:
        return self.b.const((1.0, -1.0), (1, 2, *(1,) * (rank - 2)))

    def _difference(self, node: Node, group: Group) -> Node:
        """u(x + delta) - u(x) of a leaf u [N, ...] as [N, 2, P, m]."""
        if (node, group) not in self._differences:
            b, n = self.b, node.shape[0]
            perturbed, base = self._perturbed(node, group), self.new[node]
            m = node.type.size // n
            if node.type.rank != 2:
                perturbed = b.reshape(perturbed, (*perturbed.shape[:3], m))
            self._differences[node, group] = b.difference(perturbed, b.reshape(base, (n, 1, 1, m)))
        return self._differences[node, group]

    def _even(self, node: Node, group: Group) -> Node:
        """u+ + u- - 2u: [N, P, m]."""
        key = (node, group, "even")
        if key not in self._parts:
            self._parts[key] = self.b.sum(self._difference(node, group), (1,))
        return self._parts[key]

    def _odd(self, node: Node, group: Group) -> Node:
        """u+ - u-: [N, P, m]."""
        key = (node, group, "odd")
        if key not in self._parts:
            self._parts[key] = self.b.sum(self.b.mul(self._difference(node, group), self._signs(4)), (1,))
        return self._parts[key]

    def _perturbed(self, leaf: Node, group: Group) -> Node:
        """The leaf at the perturbed points; every op between x and it is built once a group."""
        b = self.b
        lifted = self._lifted.setdefault(group, {})
        if self.x not in lifted:
            lifted[self.x] = b.perturb(self.new[self.x], self._delta(group))
        needed = ancestors(self.graph, [leaf]) & self.dependent
        for node in self.graph.nodes:
            if node in needed and node not in lifted:
                with b.at(node.loc):
                    lifted[node] = lift_op(b, node, self.new, lifted, group.pairs)
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
