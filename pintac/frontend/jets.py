"""Forward Laplacian: value, gradient and Laplacian of a function of points, carried through its operations.

A jet of v [N, ...] at x [N, d] holds the first derivatives J [N or 1, d, ...] and, for each range of columns asked for,
the Laplacian L [N, ...] (None: zero). An operation of the network maps jets to jets,

    y = f(v):  J_y = f'(v) J,  L_y = f'(v) L + f''(v) sum_i J_i^2        y = v W:  J_y = J W,  L_y = L W

so a Laplacian costs one evaluation of the network on N (d + 2) rows, without a backward pass for each coordinate.
J of the points is the identity, one row for all of them, until the first function of several points' own values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pintac.errors import IRError
from pintac.frontend.layers import chain
from pintac.ir import Graph, Node
from pintac.ir.attrs import integer, ints
from pintac.ir.ops import STEPS

Range = tuple[int, int]


@dataclass(frozen=True)
class Jet:
    """First derivatives `jacobian` [N or 1, d, ...] and Laplacians [N or 1, ...] by range of columns."""

    jacobian: Tensor
    laplacians: tuple[Tensor | None, ...]


class Jets:
    """The jets of everything that depends on one node `x` of a graph, each made when first asked for."""

    def __init__(self, graph: Graph, x: Node, values: Mapping[Node, Tensor]) -> None:
        self.x = x
        self.values = values
        self.rows = x.shape[0]
        self.ranges: list[Range] = sorted(
            {
                (integer(node.attrs, "start"), integer(node.attrs, "stop"))
                for node in graph.of("laplacian")
                if node.operands[1] is x
            }
        )
        self._dependent = descendants(graph, x)
        point = values[x]
        identity = torch.eye(point.shape[1], dtype=point.dtype, device=point.device)[None]
        self._known: dict[Node, Jet] = {x: Jet(identity, (None,) * len(self.ranges))}

    def gradient(self, y: Node) -> Tensor:
        """[N, m, d]."""
        jacobian = self.jet(y).jacobian
        return jacobian.transpose(1, 2).expand(self.rows, -1, self.x.shape[1])  # one zero for all of a constant

    def laplacian(self, y: Node, start: int, stop: int) -> Tensor:
        """[N, m]."""
        found = self.jet(y).laplacians[self.ranges.index((start, stop))]
        return torch.zeros_like(self.values[y]) if found is None else found.expand(self.values[y].shape)

    def jet(self, node: Node) -> Jet:
        """The jet of a node that depends on x; its operands' are made first. Raises IRError for an op without one."""
        stack = [node]
        while stack:
            current = stack[-1]
            missing = [o for o in current.operands if o in self._dependent and o not in self._known]
            if current in self._known:
                stack.pop()
            elif missing:
                stack.extend(missing)
            else:
                self._known[current] = self._rule(current)
                stack.pop()
        return self._known[node]

    # ---- rules

    def _rule(self, node: Node) -> Jet:
        op = node.op
        if op in _LINEAR:
            return self._linear(node, _LINEAR[op])
        if op in _DERIVATIVES:
            first, second = _DERIVATIVES[op](self.values[node.operands[0]], self.values[node])
            return self._unary(self._known[node.operands[0]], first, second)
        if op in STEPS:
            return self._constant(node)
        rule = getattr(self, f"_{op}", None)
        if rule is None:
            raise IRError(f"{op} has no forward Laplacian", location=node.loc, hint="derivatives=autograd takes it")
        result: Jet = rule(node)
        return result

    def _unary(self, jet: Jet, first: Tensor, second: Tensor | None) -> Jet:
        """f(v) from f'(v) and f''(v) (None: zero)."""
        jacobian = _across(first) * jet.jacobian
        laplacians = []
        for (start, stop), carried in zip(self.ranges, jet.laplacians, strict=True):
            part = None if carried is None else first * carried
            if second is not None:
                bent = second * (jet.jacobian[:, start:stop] ** 2).sum(1)
                part = bent if part is None else part + bent
            laplacians.append(part)
        return Jet(jacobian, tuple(laplacians))

    def _linear(self, node: Node, rule: _LinearRule) -> Jet:
        """The same operation on values and on derivatives, which have one more dimension behind the points'."""
        if any(operand in self._dependent for operand in node.operands[1:]) or (
            node.op == "matmul" and len(node.operands) == 3
        ):
            raise IRError(f"{node.op}: only its left operand may depend on the points", location=node.loc)
        jet = self._known[node.operands[0]]
        others = [self.values[operand] for operand in node.operands[1:]]
        jacobian = rule(node, jet.jacobian, others, 1)
        return Jet(jacobian, tuple(None if part is None else rule(node, part, others, 0) for part in jet.laplacians))

    def _add(self, node: Node) -> Jet:
        a, b = (self._operand(node, operand) for operand in node.operands)
        return _together(a, b)

    def _sub(self, node: Node) -> Jet:
        a, b = (self._operand(node, operand) for operand in node.operands)
        minus = None if b is None else Jet(-b.jacobian, tuple(None if p is None else -p for p in b.laplacians))
        return _together(a, minus)

    def _operand(self, node: Node, operand: Node) -> Jet | None:
        """The jet of an operand in the node's shape, None where it does not depend on x."""
        if operand not in self._dependent:
            return None
        return self._broadcast_to(self._known[operand], operand.shape, node)

    def _broadcast_to(self, jet: Jet, shape: Sequence[int], node: Node) -> Jet:
        """A jet of a value of `shape` as one of the node's shape."""
        if tuple(shape[1:]) == tuple(node.shape[1:]):
            return jet
        if len(shape) != len(node.shape):
            raise IRError(f"{node.op}: a value of rank {len(shape)} at each point is not one", location=node.loc)
        rest = node.shape[1:]
        jacobian = jet.jacobian.expand(*jet.jacobian.shape[:2], *rest)
        return Jet(jacobian, tuple(None if p is None else p.expand(p.shape[0], *rest) for p in jet.laplacians))

    def _mul(self, node: Node) -> Jet:
        a, b = node.operands
        if a not in self._dependent or b not in self._dependent:
            known, other = (a, b) if a in self._dependent else (b, a)
            return self._scaled(node, self._known[known], self.values[other], known.shape)
        return self._product(self._known[a], self._known[b], self.values[a], self.values[b])

    def _div(self, node: Node) -> Jet:
        a, b = node.operands
        below = self.values[b]
        if b not in self._dependent:
            return self._scaled(node, self._known[a], 1.0 / below, a.shape)
        inverse = 1.0 / below
        jet = self._unary(self._known[b], -inverse * inverse, 2.0 * inverse**3)
        if a not in self._dependent:
            return self._scaled(node, jet, self.values[a], b.shape)
        return self._product(self._known[a], jet, self.values[a], inverse)

    def _scaled(self, node: Node, jet: Jet, factor: Tensor, shape: Sequence[int]) -> Jet:
        wide = self._broadcast_to(jet, shape, node)
        across = _across(factor) if factor.ndim == len(node.shape) else factor
        return Jet(
            across * wide.jacobian,
            tuple(None if part is None else factor * part for part in wide.laplacians),
        )

    def _product(self, a: Jet, b: Jet, u: Tensor, v: Tensor) -> Jet:
        jacobian = _across(v) * a.jacobian + _across(u) * b.jacobian
        laplacians = []
        for (start, stop), p, q in zip(self.ranges, a.laplacians, b.laplacians, strict=True):
            total = 2.0 * (a.jacobian[:, start:stop] * b.jacobian[:, start:stop]).sum(1)
            total = total if p is None else total + v * p
            laplacians.append(total if q is None else total + u * q)
        return Jet(jacobian, tuple(laplacians))

    def _select(self, node: Node) -> Jet:
        mask, a, b = node.operands
        return self._chosen(node, self.values[mask] != 0, a, b)

    def _min(self, node: Node) -> Jet:
        a, b = node.operands
        return self._chosen(node, self.values[a] <= self.values[b], a, b)

    def _max(self, node: Node) -> Jet:
        a, b = node.operands
        return self._chosen(node, self.values[a] >= self.values[b], a, b)

    def _chosen(self, node: Node, mask: Tensor, a: Node, b: Node) -> Jet:
        inside = mask.to(self.values[node].dtype)
        if a not in self._dependent and b not in self._dependent:  # only the choice depends on the points
            return self._constant(node)
        return _together(self._masked(node, inside, a), self._masked(node, 1.0 - inside, b))

    def _masked(self, node: Node, inside: Tensor, operand: Node) -> Jet | None:
        if operand not in self._dependent:
            return None
        return self._scaled(node, self._known[operand], inside, operand.shape)

    def _amax(self, node: Node) -> Jet:
        """The derivatives of the largest value; equal ones share it, as in torch."""
        (operand,) = node.operands
        axes, keep = ints(node.attrs, "axes"), bool(node.attrs["keepdims"])
        _within_point(node, min(axes, default=1))
        value, jet = self.values[operand], self._known[operand]
        largest = (value == value.amax(axes, keepdim=True)).to(value.dtype)
        share = largest / largest.sum(axes, keepdim=True)
        jacobian = (_across(share) * jet.jacobian).sum([axis + 1 for axis in axes], keepdim=keep)
        return Jet(jacobian, tuple(None if p is None else (share * p).sum(axes, keepdim=keep) for p in jet.laplacians))

    def _constant(self, node: Node) -> Jet:
        """Constant between its jumps."""
        return Jet(torch.zeros_like(self.values[node])[:, None], (None,) * len(self.ranges))

    def _concat(self, node: Node) -> Jet:
        axis = _within_point(node, integer(node.attrs, "axis"))
        columns = self.x.shape[1]
        jacobians = []
        for operand in node.operands:
            rest = operand.shape[1:]
            if operand in self._dependent:
                jacobians.append(self._known[operand].jacobian.expand(self.rows, columns, *rest))
            else:
                jacobians.append(self.values[operand].new_zeros(self.rows, columns, *rest))
        laplacians: list[Tensor | None] = []
        for index in range(len(self.ranges)):
            parts = [self._known[o].laplacians[index] if o in self._dependent else None for o in node.operands]
            if all(part is None for part in parts):
                laplacians.append(None)
                continue
            whole = [
                torch.zeros_like(self.values[o]) if p is None else p.expand(o.shape)
                for o, p in zip(node.operands, parts, strict=True)
            ]
            laplacians.append(torch.cat(whole, axis))
        return Jet(torch.cat(jacobians, axis + 1), tuple(laplacians))


_LinearRule = Callable[[Node, Tensor, "list[Tensor]", int], Tensor]


def _within_point(node: Node, axis: int) -> int:
    if axis == 0:
        raise IRError(f"{node.op} mixes points", location=node.loc, hint="slice and reshape within a point")
    return axis


def _matmul(node: Node, x: Tensor, others: list[Tensor], more: int) -> Tensor:
    return x @ (others[0].T if node.attrs["transpose_b"] else others[0])


def _tt_matmul(node: Node, x: Tensor, others: list[Tensor], more: int) -> Tensor:
    count = len(ints(node.attrs, "in_factors"))
    return (x @ chain(others[:count])) @ chain(others[count:], left=False)


def _neg(node: Node, x: Tensor, others: list[Tensor], more: int) -> Tensor:
    return -x


def _reshape(node: Node, x: Tensor, others: list[Tensor], more: int) -> Tensor:
    shape = ints(node.attrs, "shape")
    if not shape or shape[0] != node.operands[0].shape[0]:
        raise IRError("reshape mixes points", location=node.loc, hint="reshape within a point")
    return x.reshape(*x.shape[: 1 + more], *shape[1:])


def _broadcast(node: Node, x: Tensor, others: list[Tensor], more: int) -> Tensor:
    shape = ints(node.attrs, "shape")
    if len(shape) != len(node.operands[0].shape) or shape[0] != node.operands[0].shape[0]:
        raise IRError("broadcast mixes points", location=node.loc)
    return x.expand(*x.shape[: 1 + more], *shape[1:])


def _permute(node: Node, x: Tensor, others: list[Tensor], more: int) -> Tensor:
    perm = ints(node.attrs, "perm")
    _within_point(node, 0 if perm[0] != 0 else 1)
    return x.permute(*range(1 + more), *(axis + more for axis in perm[1:]))


def _slice(node: Node, x: Tensor, others: list[Tensor], more: int) -> Tensor:
    axis, start, stop = (integer(node.attrs, name) for name in ("axis", "start", "stop"))
    return x.narrow(_within_point(node, axis) + more, start, stop - start)


def _pad(node: Node, x: Tensor, others: list[Tensor], more: int) -> Tensor:
    axis, before, after = (integer(node.attrs, name) for name in ("axis", "before", "after"))
    _within_point(node, axis)
    return torch.nn.functional.pad(x, [0, 0] * (len(node.shape) - 1 - axis) + [before, after])


def _sum(node: Node, x: Tensor, others: list[Tensor], more: int) -> Tensor:
    axes = ints(node.attrs, "axes")
    if not axes:
        return x
    _within_point(node, min(axes))
    return x.sum([axis + more for axis in axes], keepdim=bool(node.attrs["keepdims"]))


_LINEAR: dict[str, _LinearRule] = {
    "neg": _neg,
    "matmul": _matmul,
    "tt_matmul": _tt_matmul,
    "reshape": _reshape,
    "broadcast": _broadcast,
    "permute": _permute,
    "slice": _slice,
    "pad": _pad,
    "sum": _sum,
}

_Pair = tuple[Tensor, "Tensor | None"]


def _tanh(v: Tensor, y: Tensor) -> _Pair:
    first = 1.0 - y * y
    return first, -2.0 * y * first


def _sigmoid(v: Tensor, y: Tensor) -> _Pair:
    first = y * (1.0 - y)
    return first, first * (1.0 - 2.0 * y)


def _erf(v: Tensor, y: Tensor) -> _Pair:
    first = 2.0 / math.sqrt(math.pi) * torch.exp(-v * v)
    return first, -2.0 * v * first


def _log(v: Tensor, y: Tensor) -> _Pair:
    first = 1.0 / v
    return first, -first * first


def _sqrt(v: Tensor, y: Tensor) -> _Pair:
    first = 0.5 / y
    return first, -0.5 * first / v


_DERIVATIVES: dict[str, Callable[[Tensor, Tensor], _Pair]] = {
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "sin": lambda v, y: (torch.cos(v), -y),
    "cos": lambda v, y: (-torch.sin(v), -y),
    "exp": lambda v, y: (y, y),
    "log": _log,
    "sqrt": _sqrt,
    "abs": lambda v, y: (torch.sign(v), None),
    "erf": _erf,
}


def _across(value: Tensor) -> Tensor:
    """[N, ...] as [N, 1, ...], to multiply derivatives with."""
    return value.unsqueeze(1) if value.ndim else value


def _together(a: Jet | None, b: Jet | None) -> Jet:
    """The sum of two jets, one of which may be zero."""
    if a is None or b is None:
        only = b if a is None else a
        assert only is not None
        return only
    pairs = zip(a.laplacians, b.laplacians, strict=True)
    return Jet(a.jacobian + b.jacobian, tuple(q if p is None else p if q is None else p + q for p, q in pairs))


def descendants(graph: Graph, x: Node) -> set[Node]:
    """x and everything computed from it."""
    found: set[Node] = {x}
    for node in graph.nodes:
        if any(operand in found for operand in node.operands):
            found.add(node)
    return found
