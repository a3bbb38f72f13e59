"""Exact first derivatives and Laplacians of values along columns of the points x, by forward rules.

The derivatives of a value v [N, *s] with respect to the columns start..stop of x [N, d] are a gradient
[N, *s, stop - start] and a Laplacian [N, *s], the sum of the second derivatives over those columns. None is zero.
Gradients may have any shape that broadcasts to the full one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from pintac.errors import PassError
from pintac.ir import OPS, Builder, Node
from pintac.ir.attrs import integer, ints
from pintac.ir.ops import STEPS

Columns = tuple[int, int]
"""A range start..stop of columns of x."""

Slopes = Callable[[Builder, Node, Node], tuple[Node, Node | None]]


def _sign(b: Builder, v: Node, y: Node) -> tuple[Node, None]:
    return b.sub(b.compare("gt", v, 0.0), b.compare("lt", v, 0.0)), None


def _sqrt(b: Builder, v: Node, y: Node) -> tuple[Node, Node]:
    return b.div(0.5, y), b.div(-0.25, b.mul(y, v))


def _log(b: Builder, v: Node, y: Node) -> tuple[Node, Node]:
    first = b.div(1.0, v)
    return first, b.neg(b.mul(first, first))


def _tanh(b: Builder, v: Node, y: Node) -> tuple[Node, Node]:
    first = b.sub(1.0, b.mul(y, y))
    return first, b.mul(b.mul(y, -2.0), first)


def _sigmoid(b: Builder, v: Node, y: Node) -> tuple[Node, Node]:
    first = b.mul(y, b.sub(1.0, y))
    return first, b.mul(first, b.sub(1.0, b.mul(y, 2.0)))


def _erf(b: Builder, v: Node, y: Node) -> tuple[Node, Node]:
    first = b.mul(b.exp(b.neg(b.mul(v, v))), 2.0 / math.sqrt(math.pi))
    return first, b.mul(b.mul(v, -2.0), first)


SLOPES: Mapping[str, Slopes] = {
    "sqrt": _sqrt,
    "abs": _sign,
    "exp": lambda b, v, y: (y, y),
    "log": _log,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "sin": lambda b, v, y: (b.cos(v), b.neg(y)),
    "cos": lambda b, v, y: (b.neg(b.sin(v)), b.neg(y)),
    "erf": _erf,
}
"""fn'(v) and fn''(v) (None: zero) given y = fn(v). At the kink of abs the derivative is 0."""


class Derivatives(ABC):
    """Derivatives of the values of one graph with respect to one x; each is built once.

    `value` gives the counterpart, in the builder, of a node of the graph. A subclass says which nodes do not depend on
    x and which are leaves with derivatives of their own.
    """

    def __init__(self, builder: Builder, x: Node) -> None:
        self.b = builder
        self.x = x
        self._gradients: dict[tuple[Node, Columns], Node | None] = {}
        self._laplacians: dict[tuple[Node, Columns], Node | None] = {}

    @abstractmethod
    def value(self, node: Node) -> Node: ...

    @abstractmethod
    def depends(self, node: Node) -> bool: ...

    @abstractmethod
    def leaf(self, node: Node) -> bool: ...

    @abstractmethod
    def leaf_gradient(self, node: Node, columns: Columns) -> Node: ...

    @abstractmethod
    def leaf_laplacian(self, node: Node, columns: Columns) -> Node: ...

    def gradient(self, node: Node, columns: Columns) -> Node | None:
        key = (node, columns)
        if key not in self._gradients:
            with self.b.at(node.loc):
                self._gradients[key] = self._gradient(node, columns)
        return self._gradients[key]

    def laplacian(self, node: Node, columns: Columns) -> Node | None:
        key = (node, columns)
        if key not in self._laplacians:
            with self.b.at(node.loc):
                self._laplacians[key] = self._laplacian(node, columns)
        return self._laplacians[key]

    def full(self, node: Node, derivative: Node | None, columns: Columns | None = None) -> Node:
        """A derivative at its full shape: zeros for None."""
        shape = node.shape if columns is None else (*node.shape, columns[1] - columns[0])
        if derivative is None:
            return self.b.const(0.0, shape)
        return derivative if derivative.shape == shape else self.b.broadcast(derivative, shape)

    # ---- first derivatives

    def _gradient(self, node: Node, columns: Columns) -> Node | None:
        b = self.b
        if not self.depends(node):
            return None
        if node is self.x:
            return self._identity(0, node.shape[1], columns)
        if self.leaf(node):
            return self.leaf_gradient(node, columns)
        parts = [self.gradient(operand, columns) for operand in node.operands]
        if all(part is None for part in parts) or node.op in STEPS:
            return None
        if node.op == "slice" and node.operands[0] is self.x and integer(node.attrs, "axis") == 1:
            start, stop = integer(node.attrs, "start"), integer(node.attrs, "stop")
            apart = stop <= columns[0] or columns[1] <= start
            return None if apart else self._identity(start, stop, columns)
        if node.op in SLOPES:
            return b.mul(self._column(self._slopes(node)[0]), _some(parts[0]))
        if OPS[node.op].category == "elementwise":
            return self._elementwise(node, parts, self._column)
        return self._linear(node, parts, columns)

    def _identity(self, start: int, stop: int, columns: Columns) -> Node:
        """d x[:, start:stop] / d x[:, columns]: [1, stop - start, columns]."""
        values = [float(row == column) for row in range(start, stop) for column in range(*columns)]
        return self.b.const(values, (1, stop - start, columns[1] - columns[0]))

    def _column(self, value: Node) -> Node:
        """A value as a factor of gradients: [..., 1]."""
        return value if value.type.rank == 0 else self.b.reshape(value, (*value.shape, 1))

    def _slopes(self, node: Node) -> tuple[Node, Node | None]:
        return SLOPES[node.op](self.b, self.value(node.operands[0]), self.value(node))

    # ---- Laplacians

    def _laplacian(self, node: Node, columns: Columns) -> Node | None:
        b = self.b
        if not self.depends(node) or node is self.x:
            return None
        if self.leaf(node):
            return self.leaf_laplacian(node, columns)
        parts = [self.laplacian(operand, columns) for operand in node.operands]
        if node.op in SLOPES:
            first, second = self._slopes(node)
            slope = self.gradient(node.operands[0], columns)
            terms = [None if parts[0] is None else b.mul(first, parts[0])]
            if slope is not None and second is not None:
                terms.append(b.mul(second, self._dot(slope, slope)))
            return self._total(terms)
        if node.op == "mul":
            terms = [self._elementwise(node, parts, lambda value: value)]
            slopes = [self.gradient(operand, columns) for operand in node.operands]
            if slopes[0] is not None and slopes[1] is not None:
                terms.append(b.mul(self._dot(slopes[0], slopes[1]), 2.0))
            return self._total(terms)
        if node.op == "div":
            # with q = u / v: (lap u - 2 grad q . grad v - q lap v) / v
            result = self._elementwise(node, parts, lambda value: value)
            quotient, divisor = self.gradient(node, columns), self.gradient(node.operands[1], columns)
            if quotient is not None and divisor is not None:
                cross = b.div(b.mul(self._dot(quotient, divisor), -2.0), self.value(node.operands[1]))
                return self._total([result, cross])
            return result
        if all(part is None for part in parts) or node.op in STEPS:
            return None
        if OPS[node.op].category == "elementwise":
            return self._elementwise(node, parts, lambda value: value)
        return self._linear(node, parts, None)

    def _dot(self, left: Node, right: Node) -> Node:
        return self.b.sum(self.b.mul(left, right), (-1,))

    def _total(self, terms: Sequence[Node | None]) -> Node | None:
        result: Node | None = None
        for term in terms:
            if term is not None:
                result = term if result is None else self.b.add(result, term)
        return result

    # ---- rules that are the same for both

    def _elementwise(self, node: Node, parts: Sequence[Node | None], factor: Callable[[Node], Node]) -> Node | None:
        """The part of the rule that is linear in the operands' derivatives; `factor` makes a value multiply them."""
        b = self.b
        if node.op == "neg":
            return b.neg(_some(parts[0])) if parts[0] is not None else None
        if node.op == "add":
            return self._total(parts)
        if node.op == "sub":
            left, right = parts
            if right is None:
                return left
            return b.neg(right) if left is None else b.sub(left, right)
        if node.op == "mul":
            u, v = (self.value(operand) for operand in node.operands)
            terms = [
                None if part is None else b.mul(part, factor(other)) for part, other in zip(parts, (v, u), strict=True)
            ]
            return self._total(terms)
        if node.op == "div":
            divisor = factor(self.value(node.operands[1]))
            left, right = parts
            if right is None:
                return None if left is None else b.div(left, divisor)
            change = b.mul(factor(self.value(node)), right)
            return b.div(b.neg(change) if left is None else b.sub(left, change), divisor)
        if node.op in ("min", "max"):
            u, v = (self.value(operand) for operand in node.operands)
            chosen = b.compare("le" if node.op == "min" else "ge", u, v)
            return self._choose(factor(chosen), parts)
        if node.op == "select":
            return self._choose(factor(self.value(node.operands[0])), parts[1:])
        raise self._unknown(node)

    def _choose(self, condition: Node, parts: Sequence[Node | None]) -> Node | None:
        if all(part is None for part in parts):
            return None
        left, right = (0.0 if part is None else part for part in parts)
        return self.b.select(condition, left, right)

    def _linear(self, node: Node, parts: Sequence[Node | None], columns: Columns | None) -> Node | None:
        """An op that is linear in its one operand (or the operands of concat): the same op on derivatives.

        With `columns` they are gradients, whose last dimension, the columns of x, the op leaves alone.
        """
        b = self.b
        operand = node.operands[0]
        extra = () if columns is None else (columns[1] - columns[0],)
        if node.op == "concat":
            full = [self.full(part_of, part, columns) for part_of, part in zip(node.operands, parts, strict=True)]
            return b.concat(full, integer(node.attrs, "axis"))
        if parts[0] is None:
            raise self._unknown(node)
        part = self.full(operand, parts[0], columns)
        if node.op in ("reshape", "broadcast"):
            shape = ints(node.attrs, "shape")
            if node.op == "broadcast" and columns is not None and len(shape) != operand.type.rank:
                part = b.reshape(part, (*(1,) * (len(shape) - operand.type.rank), *part.shape))
            return b.add_op(node.op, [part], {"shape": (*shape, *extra)})
        if node.op == "permute":
            perm = ints(node.attrs, "perm")
            return b.permute(part, (*perm, *((len(perm),) if columns is not None else ())))
        if node.op in ("slice", "pad", "sum"):
            return b.add_op(node.op, [part], node.attrs)
        if node.op == "matmul" and not self.depends(node.operands[1]) and len(node.operands) == 2:
            weight = self.value(node.operands[1])
            if columns is None:
                return b.add_op("matmul", [part, weight], node.attrs)
            rank = part.type.rank
            swap = (*range(rank - 2), rank - 1, rank - 2)
            return b.permute(b.add_op("matmul", [b.permute(part, swap), weight], node.attrs), swap)
        raise self._unknown(node)

    def _unknown(self, node: Node) -> PassError:
        return PassError(
            f"no exact derivative of {node.op} is known here",
            location=node.loc,
            hint="a known function in u may use elementwise functions, slice, sum, concat and reshape",
        )


def _some(part: Node | None) -> Node:
    assert part is not None
    return part
