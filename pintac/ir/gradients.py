"""Reverse mode over the closed op set: the rule of each op, built from the same ops (NUMERICS 6).

`grad_rule` is what `differentiate` calls. Rules are lazy: a gradient that nobody needs is not built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from types import MappingProxyType

from pintac.errors import IRError
from pintac.ir.attrs import integer, ints
from pintac.ir.builder import Builder
from pintac.ir.deltas import Refusal
from pintac.ir.node import Node
from pintac.ir.ops import OPS, STEPS

Gradient = Callable[[], Node] | None
"""Builds the gradient of one operand when called, in any shape that broadcasting gives it; None: there is none."""

GradRule = Callable[[Builder, Node, Sequence[Node], Node], Sequence[Gradient]]


def grad_rule(
    builder: Builder, node: Node, operands: Sequence[Node], out_grad: Node, needed: Sequence[bool] | None = None
) -> list[Node | None]:
    """The gradients of the operands of `node`, f32 of the operands' shapes, given that of its result.

    `node` and `operands` stand in `builder` already; None where an op has no gradient (a condition, a compare) or where
    `needed` is false. Raises IRError at the node's location for an op that must be expanded before.
    """
    rule = GRADIENTS[node.op]
    if isinstance(rule, Refusal):
        raise IRError(f"{node.op}: {rule.reason}", location=node.loc, hint=rule.hint)
    gradients: list[Node | None] = []
    with builder.at(node.loc):
        for index, (operand, build) in enumerate(zip(operands, rule(builder, node, operands, out_grad), strict=True)):
            if build is None or (needed is not None and not needed[index]):
                gradients.append(None)
            else:
                gradients.append(sum_to(builder, build(), operand.shape))
    return gradients


def sum_to(b: Builder, x: Node, shape: tuple[int, ...]) -> Node:
    """The adjoint of broadcasting `shape` to the shape of x: sums over the dimensions that were added or stretched."""
    if x.shape == shape:
        return x
    extra = x.type.rank - len(shape)
    axes = tuple(range(extra)) + tuple(
        axis + extra for axis, size in enumerate(shape) if size == 1 and x.shape[axis + extra] != 1
    )
    if axes:
        x = b.sum(x, axes, keepdims=True)
    return x if x.shape == shape else b.reshape(x, shape)


def _value(b: Builder, x: Node) -> Node:
    """The f32 value of x."""
    return b.decode(x) if x.type.is_smx else x


# ---------------------------------------------------------------------------------------------- elementwise


def _add(b: Builder, node: Node, ops: Sequence[Node], g: Node) -> Sequence[Gradient]:
    return lambda: g, lambda: g


def _sub(b: Builder, node: Node, ops: Sequence[Node], g: Node) -> Sequence[Gradient]:
    return lambda: g, lambda: b.neg(g)


def _mul(b: Builder, node: Node, ops: Sequence[Node], g: Node) -> Sequence[Gradient]:
    return lambda: b.mul(g, ops[1]), lambda: b.mul(g, ops[0])


def _div(b: Builder, node: Node, ops: Sequence[Node], g: Node) -> Sequence[Gradient]:
    return lambda: b.div(g, ops[1]), lambda: b.neg(b.mul(b.div(g, ops[1]), node))


def _extremum(strict: str, weak: str) -> GradRule:
    """min or max: to the operand that is it, half to each where they are equal."""

    def rule(b: Builder, node: Node, ops: Sequence[Node], g: Node) -> Sequence[Gradient]:
        def share(x: Node, y: Node) -> Node:
            return b.mul(g, b.mul(b.add(b.compare(strict, x, y), b.compare(weak, x, y)), 0.5))

        return lambda: share(ops[0], ops[1]), lambda: share(ops[1], ops[0])

    return rule


def _unary(slope: Callable[[Builder, Node, Node, Node], Node]) -> GradRule:
    """`slope(b, x, y, g)` is g fn'(x) with y = fn(x)."""

    def rule(b: Builder, node: Node, ops: Sequence[Node], g: Node) -> Sequence[Gradient]:
        return (lambda: slope(b, ops[0], node, g),)

    return rule


def _abs(b: Builder, x: Node, y: Node, g: Node) -> Node:
    return b.mul(g, b.sub(b.compare("gt", x, 0.0), b.compare("lt", x, 0.0)))


def _erf(b: Builder, x: Node, y: Node, g: Node) -> Node:
    return b.mul(g, b.mul(b.exp(b.neg(b.mul(x, x))), 2.0 / math.sqrt(math.pi)))


def _select(b: Builder, node: Node, ops: Sequence[Node], g: Node) -> Sequence[Gradient]:
    return None, lambda: b.select(ops[0], g, 0.0), lambda: b.select(ops[0], 0.0, g)


def _no_gradient(b: Builder, node: Node, ops: Sequence[Node], g: Node) -> Sequence[Gradient]:
    return [None] * len(ops)


def _delta_act(b: Builder, node: Node, ops: Sequence[Node], g: Node) -> Sequence[Gradient]:
    return _DELTA_ACT[str(node.attrs["fn"])](b, ops[0], ops[1], node, g)


# delta_act: with d = fn(Y + D) - fn(Y), the gradients are g fn'(Y + D) for D and g (fn'(Y + D) - fn'(Y)) for Y, written
# with the saved d wherever fn' is a polynomial of fn. No difference of nearly equal numbers is formed.


def _delta_tanh(b: Builder, y: Node, x: Node, d: Node, g: Node) -> Sequence[Gradient]:
    t = b.tanh(y)

    def of_delta() -> Node:
        value = b.add(t, d)
        return b.mul(g, b.sub(1.0, b.mul(value, value)))

    # -g d (2t + d), the sign taken where t is: once a base row
    return lambda: b.mul(b.mul(g, d), b.sub(b.mul(t, -2.0), d)), of_delta


def _delta_sigmoid(b: Builder, y: Node, x: Node, d: Node, g: Node) -> Sequence[Gradient]:
    s = b.sigmoid(y)

    def of_delta() -> Node:
        value = b.add(s, d)
        return b.mul(g, b.mul(value, b.sub(1.0, value)))

    return lambda: b.mul(b.mul(g, d), b.sub(b.sub(1.0, b.mul(s, 2.0)), d)), of_delta


def _delta_sin(b: Builder, y: Node, x: Node, d: Node, g: Node) -> Sequence[Gradient]:
    return lambda: b.mul(g, b.delta_act("cos", y, x)), lambda: b.mul(g, b.cos(b.add(y, x)))


def _delta_cos(b: Builder, y: Node, x: Node, d: Node, g: Node) -> Sequence[Gradient]:
    return lambda: b.neg(b.mul(g, b.delta_act("sin", y, x))), lambda: b.neg(b.mul(g, b.sin(b.add(y, x))))


def _delta_exp(b: Builder, y: Node, x: Node, d: Node, g: Node) -> Sequence[Gradient]:
    return lambda: b.mul(g, d), lambda: b.mul(g, b.add(b.exp(y), d))


def _delta_log(b: Builder, y: Node, x: Node, d: Node, g: Node) -> Sequence[Gradient]:
    return lambda: b.neg(b.div(b.div(b.mul(g, x), b.add(y, x)), y)), lambda: b.div(g, b.add(y, x))


def _delta_sqrt(b: Builder, y: Node, x: Node, d: Node, g: Node) -> Sequence[Gradient]:
    s = b.sqrt(y)

    def of_delta() -> Node:
        return b.div(b.mul(g, 0.5), b.add(s, d))

    return lambda: b.neg(b.div(b.mul(of_delta(), d), s)), of_delta


_DELTA_ACT: Mapping[str, Callable[[Builder, Node, Node, Node, Node], Sequence[Gradient]]] = MappingProxyType(
    {
        "tanh": _delta_tanh,
        "sigmoid": _delta_sigmoid,
        "sin": _delta_sin,
        "cos": _delta_cos,
        "exp": _delta_exp,
        "log": _delta_log,
        "sqrt": _delta_sqrt,
    }
)


# ---------------------------------------------------------------------------------------------- contractions


def _matmul(b: Builder, node: Node, ops: Sequence[Node], g: Node) -> Sequence[Gradient]:
    """dX = G W^T and dW = X^T G: three matmuls read the same X, W and G, each quantised once (NUMERICS 6)."""
    x, w = ops[0], ops[1]
    transposed = bool(node.attrs["transpose_b"])
    x_role, w_role = str(node.attrs["lhs_role"]), str(node.attrs["rhs_role"])

    def of_x() -> Node:
        return b.matmul(g, _value(b, w), transpose_b=not transposed, lhs_role="grad", rhs_role=w_role)

    def of_w() -> Node:
        if transposed:
            return b.matmul_tn(g, _value(b, x), lhs_role="grad", rhs_role=x_role)
        return b.matmul_tn(_value(b, x), g, lhs_role=x_role, rhs_role="grad")

    return [of_x, of_w, lambda: g][: len(ops)]


def _matmul_tn(b: Builder, node: Node, ops: Sequence[Node], g: Node) -> Sequence[Gradient]:
    """With C = A^T B: dA = B G^T and dB = A G."""

    def of_a() -> Node:
        return b.matmul(_value(b, ops[1]), g, transpose_b=True, lhs_role=str(node.attrs["rhs_role"]), rhs_role="grad")

    def of_b() -> Node:
        return b.matmul(_value(b, ops[0]), g, lhs_role=str(node.attrs["lhs_role"]), rhs_role="grad")

    return [of_a, of_b, lambda: g][: len(ops)]


# ---------------------------------------------------------------------------------------------- the rest


def _perturb(b: Builder, node: Node, ops: Sequence[Node], g: Node) -> Sequence[Gradient]:
    def of_x() -> Node:
        return b.reshape(b.sum(g, (1, 2)), ops[0].shape)

    return of_x, lambda: g


def _reshape(b: Builder, node: Node, ops: Sequence[Node], g: Node) -> Sequence[Gradient]:
    return (lambda: b.reshape(g, ops[0].shape),)


def _permute(b: Builder, node: Node, ops: Sequence[Node], g: Node) -> Sequence[Gradient]:
    perm = ints(node.attrs, "perm")
    return (lambda: b.permute(g, [perm.index(axis) for axis in range(len(perm))]),)


def _slice(b: Builder, node: Node, ops: Sequence[Node], g: Node) -> Sequence[Gradient]:
    axis, start, stop = (integer(node.attrs, name) for name in ("axis", "start", "stop"))
    return (lambda: b.pad(g, axis, start, ops[0].shape[axis] - stop),)


def _pad(b: Builder, node: Node, ops: Sequence[Node], g: Node) -> Sequence[Gradient]:
    axis, before = integer(node.attrs, "axis"), integer(node.attrs, "before")
    return (lambda: b.slice(g, axis, before, before + ops[0].shape[axis]),)


def _concat(b: Builder, node: Node, ops: Sequence[Node], g: Node) -> Sequence[Gradient]:
    axis = integer(node.attrs, "axis")
    bounds = list(accumulate((operand.shape[axis] for operand in ops), initial=0))
    return [partial(b.slice, g, axis, start, stop) for start, stop in pairwise(bounds)]


def _kept(b: Builder, node: Node, x: Node, reduced: Node) -> Node:
    """The result of a reduction of x with its axes kept as size 1."""
    axes = ints(node.attrs, "axes")
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    return reduced if reduced.shape == shape else b.reshape(reduced, shape)


def _sum(b: Builder, node: Node, ops: Sequence[Node], g: Node) -> Sequence[Gradient]:
    return (lambda: b.broadcast(_kept(b, node, ops[0], g), ops[0].shape),)


def _amax(b: Builder, node: Node, ops: Sequence[Node], g: Node) -> Sequence[Gradient]:
    """To the largest elements, in equal shares where several are equal."""
    x = ops[0]

    def of_x() -> Node:
        largest = b.compare("eq", x, _kept(b, node, x, node))
        share = b.div(_kept(b, node, x, g), b.sum(largest, ints(node.attrs, "axes"), keepdims=True))
        return b.mul(largest, share)

    return (of_x,)


def _identity(b: Builder, node: Node, ops: Sequence[Node], g: Node) -> Sequence[Gradient]:
    """Also of quantize and decode: straight-through, no clip mask (NUMERICS 6)."""
    return (lambda: g,)


_OPERATOR = Refusal("its gradient is that of its expansion", "run expand-operators before differentiate")

GRADIENTS: Mapping[str, GradRule | Refusal] = MappingProxyType(
    {
        **{name: _no_gradient for name, op in OPS.items() if op.category == "source"},
        "add": _add,
        "sub": _sub,
        "mul": _mul,
        "div": _div,
        "min": _extremum("lt", "le"),
        "max": _extremum("gt", "ge"),
        "neg": _unary(lambda b, x, y, g: b.neg(g)),
        "sqrt": _unary(lambda b, x, y, g: b.div(b.mul(g, 0.5), y)),
        "abs": _unary(_abs),
        "exp": _unary(lambda b, x, y, g: b.mul(g, y)),
        "log": _unary(lambda b, x, y, g: b.div(g, x)),
        "tanh": _unary(lambda b, x, y, g: b.mul(g, b.sub(1.0, b.mul(y, y)))),
        "sigmoid": _unary(lambda b, x, y, g: b.mul(g, b.mul(y, b.sub(1.0, y)))),
        "sin": _unary(lambda b, x, y, g: b.mul(g, b.cos(x))),
        "cos": _unary(lambda b, x, y, g: b.neg(b.mul(g, b.sin(x)))),
        "erf": _unary(_erf),
        **dict.fromkeys(STEPS, _no_gradient),
        "select": _select,
        "delta_act": _delta_act,
        "matmul": _matmul,
        "matmul_tn": _matmul_tn,
        "tt_matmul": Refusal("its gradient is that of its factors", "run reorder-tt before differentiate"),
        "gradient": _OPERATOR,
        "laplacian": _OPERATOR,
        "perturb": _perturb,
        "difference": _sub,
        "reshape": _reshape,
        "permute": _permute,
        "slice": _slice,
        "concat": _concat,
        "broadcast": _identity,
        "pad": _pad,
        "sum": _sum,
        "amax": _amax,
        "quantize": _identity,
        "decode": _identity,
    }
)
"""The reverse rule of each op."""
