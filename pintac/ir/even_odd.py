"""Even/odd DiffQuant (NUMERICS 5; our extension, not the paper's): how the halves of an antithetic pair pass an op.

The two evaluations of a pair, at x + delta and x - delta, have the differences d+ and d- from the base value Y. Carried
are their odd half a = (d+ - d-) / 2 and their even half b = (d+ + d-) / 2, so d+- = b +- a. Second derivatives live in
b, which is smaller than a by a factor sigma: apart, each is quantised on a scale of its own.

A half has the shape of the difference with 1 in place of the two signs: [N, 1, P, w]. None is zero: b at the input.
`EVEN_ODD_RULES` says for each op how the halves of its result come from those of its operands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from pintac.errors import IRError
from pintac.ir.attrs import integer, ints
from pintac.ir.builder import Builder
from pintac.ir.deltas import DELTA_RULES, Refusal
from pintac.ir.node import Node
from pintac.ir.ops import DELTA_FUNCTIONS

SIGN_AXIS = 1


@dataclass(frozen=True)
class Halves:
    """The odd and the even half of the differences of a value; None is zero."""

    odd: Node | None
    even: Node | None

    @property
    def perturbed(self) -> bool:
        return self.odd is not None or self.even is not None


UNPERTURBED = Halves(None, None)

Operand = tuple[Node, Halves]
"""(base, halves of the difference)."""

EvenOddRule = Callable[[Builder, Node, Sequence[Operand]], Halves]


def even_odd_rule(builder: Builder, node: Node, operands: Sequence[Operand]) -> Halves:
    """The halves of `node`'s differences.

    `node` is the op of the perturbed evaluation, of shape [N, 2, P, w]; `operands` belong to its operands: bases
    [N, 1, 1, w] (or anything that broadcasts) and halves [N, 1, P, w]. Raises IRError at the node's location for an op
    that has no cancellation-free difference.
    """
    if not any(halves.perturbed for _, halves in operands):
        return UNPERTURBED
    rule = EVEN_ODD_RULES[node.op]
    if isinstance(rule, Refusal):
        raise IRError(f"{node.op}: {rule.reason}", location=node.loc, hint=rule.hint)
    with builder.at(node.loc):
        halves = rule(builder, node, operands)
        shape = half_shape(node.shape)
        return Halves(_full(builder, halves.odd, shape), _full(builder, halves.even, shape))


def half_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of one half of a value of `shape` [N, 2, ...]."""
    return (*shape[:SIGN_AXIS], 1, *shape[SIGN_AXIS + 1 :])


def _full(b: Builder, half: Node | None, shape: tuple[int, ...]) -> Node | None:
    return half if half is None or half.shape == shape else b.broadcast(half, shape)


# ---------------------------------------------------------------------------------------------- sums where None is zero


def _plus(b: Builder, x: Node | None, y: Node | None) -> Node | None:
    if x is None or y is None:
        return y if x is None else x
    return b.add(x, y)


def _minus(b: Builder, x: Node | None, y: Node | None) -> Node | None:
    if y is None:
        return x
    return b.neg(y) if x is None else b.sub(x, y)


def _times(b: Builder, x: Node | None, y: Node | None) -> Node | None:
    return None if x is None or y is None else b.mul(x, y)


def _over(b: Builder, x: Node | None, y: Node) -> Node | None:
    return None if x is None else b.div(x, y)


def _shifted(b: Builder, base: Node, even: Node | None) -> Node:
    """Y + b, the value about which the pair is symmetric."""
    return base if even is None else b.add(base, even)


# ---------------------------------------------------------------------------------------------- rules


def _add(b: Builder, node: Node, operands: Sequence[Operand]) -> Halves:
    (_, x), (_, y) = operands
    return Halves(_plus(b, x.odd, y.odd), _plus(b, x.even, y.even))


def _sub(b: Builder, node: Node, operands: Sequence[Operand]) -> Halves:
    (_, x), (_, y) = operands
    return Halves(_minus(b, x.odd, y.odd), _minus(b, x.even, y.even))


def _mul(b: Builder, node: Node, operands: Sequence[Operand]) -> Halves:
    # even: X b_y + b_x (Y + b_y) + a_x a_y        odd: (X + b_x) a_y + a_x (Y + b_y)
    (x, dx), (y, dy) = operands
    right = _shifted(b, y, dy.even)
    even = _plus(b, _times(b, x, dy.even), _times(b, dx.even, right))
    odd = None if dy.odd is None else b.mul(_shifted(b, x, dx.even), dy.odd)
    return Halves(_plus(b, odd, _times(b, dx.odd, right)), _plus(b, even, _times(b, dx.odd, dy.odd)))


def _div(b: Builder, node: Node, operands: Sequence[Operand]) -> Halves:
    # the change of x / y is e / (y + d_y) with e = d_x - (x / y) d_y, for either sign; with c = y + b_y
    #   even: (e_b c - e_a a_y) / (c^2 - a_y^2)      odd: (e_a c - e_b a_y) / (c^2 - a_y^2)
    (x, dx), (y, dy) = operands
    centre = _shifted(b, y, dy.even)
    odd, even = dx.odd, dx.even
    if dy.perturbed:
        ratio = b.div(x, y)
        odd, even = _minus(b, odd, _times(b, ratio, dy.odd)), _minus(b, even, _times(b, ratio, dy.even))
    if dy.odd is None:
        return Halves(_over(b, odd, centre), _over(b, even, centre))
    divisor = b.sub(b.mul(centre, centre), b.mul(dy.odd, dy.odd))
    new_even = _minus(b, _times(b, even, centre), _times(b, odd, dy.odd))
    new_odd = _minus(b, _times(b, odd, centre), _times(b, even, dy.odd))
    return Halves(_over(b, new_odd, divisor), _over(b, new_even, divisor))


def _activation(fn: str) -> EvenOddRule:
    def rule(b: Builder, node: Node, operands: Sequence[Operand]) -> Halves:
        base, d = operands[0]
        if d.odd is None:
            assert d.even is not None
            return Halves(None, b.delta_act(fn, base, d.even))
        plus = d.odd if d.even is None else b.add(d.even, d.odd)
        minus = b.neg(d.odd) if d.even is None else b.sub(d.even, d.odd)
        after_plus, after_minus = b.delta_act(fn, base, plus), b.delta_act(fn, base, minus)
        odd = b.mul(b.sub(after_plus, after_minus), 0.5)
        return Halves(odd, b.mul(b.add(after_plus, after_minus), 0.5))

    return rule


def _select(b: Builder, node: Node, operands: Sequence[Operand]) -> Halves:
    (condition, dc), (_, x), (_, y) = operands
    if dc.perturbed:
        raise IRError(
            "select: the condition depends on the perturbed point",
            location=node.loc,
            hint="let the branch depend on the base point only",
        )

    def choose(left: Node | None, right: Node | None) -> Node | None:
        if left is None and right is None:
            return None
        return b.select(condition, 0.0 if left is None else left, 0.0 if right is None else right)

    return Halves(choose(x.odd, y.odd), choose(x.even, y.even))


def _linear(b: Builder, node: Node, operands: Sequence[Operand]) -> Halves:
    """An op that is linear in its first operand: the same op on each half."""
    attrs = dict(node.attrs)
    if "shape" in attrs:
        attrs["shape"] = half_shape(ints(node.attrs, "shape"))
    halves = operands[0][1]

    def apply(half: Node | None) -> Node | None:
        return None if half is None else b.add_op(node.op, [half], attrs)

    return Halves(apply(halves.odd), apply(halves.even))


def _product(b: Builder, node: Node, operands: Sequence[Operand]) -> Halves:
    """matmul and tt_matmul: each half by itself, with the same weights."""
    start = operands[2][1] if node.op == "matmul" and len(operands) == 3 else UNPERTURBED
    weights = operands[1:2] if node.op == "matmul" else operands[1:]
    if any(weight.perturbed for _, weight in weights):
        raise IRError(
            f"{node.op}: a weight depends on the perturbed point",
            location=node.loc,
            hint="only the left operand of a matmul can be perturbed",
        )
    attrs = {**node.attrs, "lhs_role": "delta"}

    def apply(half: Node | None, acc: Node | None) -> Node | None:
        if half is None:
            return acc
        return b.add_op(node.op, [half, *(weight for weight, _ in weights), *([] if acc is None else [acc])], attrs)

    halves = operands[0][1]
    return Halves(apply(halves.odd, start.odd), apply(halves.even, start.even))


def _concat(b: Builder, node: Node, operands: Sequence[Operand]) -> Halves:
    """The halves one after another; an operand that has none contributes zeros."""
    axis = integer(node.attrs, "axis")

    def join(parts: Sequence[Node | None]) -> Node | None:
        if all(part is None for part in parts):
            return None
        zero = [
            b.const(0.0, half_shape(operand.shape)) if p is None else p
            for operand, p in zip(node.operands, parts, strict=True)
        ]
        return b.concat(zero, axis)

    return Halves(join([d.odd for _, d in operands]), join([d.even for _, d in operands]))


def _difference(b: Builder, node: Node, operands: Sequence[Operand]) -> Halves:
    (_, perturbed), (_, base) = operands
    if base.perturbed:
        raise IRError("difference: the base evaluation is perturbed", location=node.loc)
    return perturbed


_RULES: Mapping[str, EvenOddRule] = {
    **{fn: _activation(fn) for fn in DELTA_FUNCTIONS},
    **dict.fromkeys(("neg", "reshape", "permute", "slice", "broadcast", "pad", "sum"), _linear),
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "select": _select,
    "matmul": _product,
    "tt_matmul": _product,
    "concat": _concat,
    "difference": _difference,
    "perturb": lambda b, node, operands: _refuse_perturb(node),
}


def _refuse_perturb(node: Node) -> Halves:
    raise IRError(
        "perturb: a perturbed point is perturbed again", location=node.loc, hint="nest no perturbed evaluations"
    )


if _missing := [op for op, rule in DELTA_RULES.items() if not isinstance(rule, Refusal) and op not in _RULES]:
    raise AssertionError(f"ir/deltas.py has a rule for {', '.join(_missing)}, ir/even_odd.py needs one too")

EVEN_ODD_RULES: Mapping[str, EvenOddRule | Refusal] = MappingProxyType(
    {op: rule if isinstance(rule, Refusal) else _RULES[op] for op, rule in DELTA_RULES.items()}
)
"""How the halves pass through each op: what has no delta rule has none here, for the same reason."""


# ---------------------------------------------------------------------------------------------- given differences


def halves_of(b: Builder, delta: Node) -> Halves:
    """The halves of differences [N, 2, P, w] that are given as a value: the perturbation of the points.

    Where delta- = -delta+ is evident, the odd half is delta+ without its sign and the even half is zero.
    """
    with b.at(delta.loc):
        odd = _antithetic(b, delta)
        if odd is not None:
            return Halves(odd, None)
        plus, minus = b.slice(delta, SIGN_AXIS, 0, 1), b.slice(delta, SIGN_AXIS, 1, 2)
        return Halves(b.mul(b.sub(plus, minus), 0.5), b.mul(b.add(plus, minus), 0.5))


def both_signs(b: Builder, halves: Halves, shape: tuple[int, ...]) -> Node:
    """The differences d+ = b + a, d- = b - a as one value of `shape` [N, 2, P, w]."""
    if not halves.perturbed:
        return b.const(0.0, shape)
    plus, minus = _plus(b, halves.even, halves.odd), _minus(b, halves.even, halves.odd)
    assert plus is not None and minus is not None
    return b.concat([plus, minus], SIGN_AXIS)


def is_sign(node: Node) -> bool:
    """Whether a constant is +1 for plus rows and -1 for minus rows, [1, 2, 1, ...]."""
    return (
        node.op == "const"
        and node.shape == (1, 2, *(1,) * (node.type.rank - 2))
        and node.attrs["values"] == (1.0, -1.0)
    )


def _antithetic(b: Builder, delta: Node) -> Node | None:
    """delta+ [N, 1, ...] if delta- = -delta+ can be seen from how delta was made."""
    if delta.type.rank < 2 or delta.shape[SIGN_AXIS] != 2:
        return None
    if delta.op == "mul":
        for signs, other in (delta.operands, delta.operands[::-1]):
            if is_sign(signs) and other.type.rank == delta.type.rank and other.shape[SIGN_AXIS] == 1:
                return other
        return None
    if delta.op == "const":
        return _antithetic_const(b, delta)
    if delta.op in ("neg", "pad", "slice", "broadcast", "concat") and delta.attrs.get("axis") != SIGN_AXIS:
        parts = [_antithetic(b, operand) for operand in delta.operands]
        if any(part is None for part in parts):
            return None
        attrs = dict(delta.attrs)
        if "shape" in attrs:
            attrs["shape"] = half_shape(delta.shape)
        return b.add_op(delta.op, [part for part in parts if part is not None], attrs)
    return None


def _antithetic_const(b: Builder, delta: Node) -> Node | None:
    values = cast("tuple[float, ...]", delta.attrs["values"])
    if len(values) == 1:
        return b.const(0.0, half_shape(delta.shape)) if values[0] == 0 else None
    if delta.shape[0] != 1:
        return None
    half = len(values) // 2
    if any(plus != -minus for plus, minus in zip(values[:half], values[half:], strict=True)):
        return None
    return b.const(values[:half], half_shape(delta.shape))
