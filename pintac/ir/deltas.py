"""DiffQuant's meaning of each op (NUMERICS 5): how a difference passes through it, without cancellation.

A perturbed value is a pair (base Y, delta d) with the value Y + d. `DELTA_RULES` says for each op how the delta of the
result comes from the pairs of the operands; `lower_delta_act` is the one definition of `delta_act` in elementary ops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from pintac.errors import IRError
from pintac.ir.attrs import integer
from pintac.ir.builder import Builder
from pintac.ir.node import Node
from pintac.ir.ops import DELTA_FUNCTIONS, OPS

Pair = tuple[Node, Node | None]
"""(base, delta); delta None: the value is not perturbed."""

DeltaRule = Callable[[Builder, Node, Sequence[Pair]], Node]


@dataclass(frozen=True)
class Refusal:
    """An op through which no delta can pass, why, and what the user can do."""

    reason: str
    hint: str


def delta_rule(builder: Builder, node: Node, pairs: Sequence[Pair]) -> Node | None:
    """The delta of `node`, or None when no operand is perturbed.

    `node` is the op of the perturbed evaluation, of shape [N, 2, P, w]; `pairs` belong to its operands: bases
    [N, 1, 1, w] (or anything that broadcasts), deltas of the operand's full shape. The result has the full shape too.
    Raises IRError at the node's location for an op that has no cancellation-free difference.
    """
    if all(delta is None for _, delta in pairs):
        return None
    rule = DELTA_RULES[node.op]
    if isinstance(rule, Refusal):
        raise IRError(f"{node.op}: {rule.reason}", location=node.loc, hint=rule.hint)
    with builder.at(node.loc):
        return _full(builder, rule(builder, node, pairs), node.shape)


def _full(b: Builder, delta: Node, shape: tuple[int, ...]) -> Node:
    return delta if delta.shape == shape else b.broadcast(delta, shape)


def _refuse(node: Node, what: str, hint: str) -> IRError:
    return IRError(f"{node.op}: {what}", location=node.loc, hint=hint)


# ---------------------------------------------------------------------------------------------- rules


def _add(b: Builder, node: Node, pairs: Sequence[Pair]) -> Node:
    (_, dx), (_, dy) = pairs
    if dx is None or dy is None:
        only = dx if dx is not None else dy
        assert only is not None
        return only
    return b.add(dx, dy)


def _sub(b: Builder, node: Node, pairs: Sequence[Pair]) -> Node:
    (_, dx), (_, dy) = pairs
    if dy is None:
        assert dx is not None
        return dx
    return b.neg(dy) if dx is None else b.sub(dx, dy)


def _mul(b: Builder, node: Node, pairs: Sequence[Pair]) -> Node:
    (x, dx), (y, dy) = pairs
    if dy is None:
        assert dx is not None
        return b.mul(dx, y)
    if dx is None:
        return b.mul(x, dy)
    # X dy + dx Y + dx dy
    return b.add(b.mul(x, dy), b.mul(dx, b.add(y, dy)))


def _div(b: Builder, node: Node, pairs: Sequence[Pair]) -> Node:
    (x, dx), (y, dy) = pairs
    if dy is None:
        assert dx is not None
        return b.div(dx, y)
    change = b.mul(b.div(x, y), dy)
    return b.div(b.neg(change) if dx is None else b.sub(dx, change), b.add(y, dy))


def _activation(fn: str) -> DeltaRule:
    def rule(b: Builder, node: Node, pairs: Sequence[Pair]) -> Node:
        base, delta = pairs[0]
        assert delta is not None
        return b.delta_act(fn, base, delta)

    return rule


def _select(b: Builder, node: Node, pairs: Sequence[Pair]) -> Node:
    (c, dc), (_, dx), (_, dy) = pairs
    if dc is not None:
        raise _refuse(
            node, "the condition depends on the perturbed point", "let the branch depend on the base point only"
        )
    return b.select(c, 0.0 if dx is None else dx, 0.0 if dy is None else dy)


def _linear(b: Builder, node: Node, pairs: Sequence[Pair]) -> Node:
    """An op that is linear in its first operand: the same op on the delta."""
    delta = pairs[0][1]
    assert delta is not None
    return b.add_op(node.op, [delta], node.attrs)


def _matmul(b: Builder, node: Node, pairs: Sequence[Pair]) -> Node:
    (_, dx), (w, dw) = pairs[:2]
    if dw is not None:
        raise _refuse(
            node, "the weight depends on the perturbed point", "only the left operand of a matmul can be perturbed"
        )
    acc = pairs[2][1] if len(pairs) == 3 else None
    if dx is None:
        assert acc is not None
        return acc
    return b.matmul(
        dx, w, acc, transpose_b=bool(node.attrs["transpose_b"]), lhs_role="delta", rhs_role=str(node.attrs["rhs_role"])
    )


def _tt_matmul(b: Builder, node: Node, pairs: Sequence[Pair]) -> Node:
    delta = pairs[0][1]
    if delta is None or any(core_delta is not None for _, core_delta in pairs[1:]):
        raise _refuse(node, "a core depends on the perturbed point", "only the input of a TT layer can be perturbed")
    return b.add_op("tt_matmul", [delta, *(core for core, _ in pairs[1:])], {**node.attrs, "lhs_role": "delta"})


def _concat(b: Builder, node: Node, pairs: Sequence[Pair]) -> Node:
    """The deltas one after another; an operand that is not perturbed contributes zeros."""
    parts = [
        b.const(0.0, operand.shape) if delta is None else delta
        for operand, (_, delta) in zip(node.operands, pairs, strict=True)
    ]
    return b.concat(parts, integer(node.attrs, "axis"))


def _difference(b: Builder, node: Node, pairs: Sequence[Pair]) -> Node:
    (_, delta), (_, base_delta) = pairs
    if delta is None or base_delta is not None:
        raise _refuse(node, "the base evaluation is perturbed", "difference takes a perturbed value and its base")
    return delta


def _perturb(b: Builder, node: Node, pairs: Sequence[Pair]) -> Node:
    raise _refuse(node, "a perturbed point is perturbed again", "nest no perturbed evaluations")


_KINK = Refusal(
    "has a kink, its difference has no cancellation-free form",
    "use a smooth function: for relu tanh, softplus, SiLU or nn.GELU(approximate='tanh'), for abs sqrt(x**2 + eps)",
)
_STEP = Refusal("jumps, its difference has no cancellation-free form", "let it depend on the base point only")
_LATE = Refusal("deltas are split before precision is chosen", "run split-stein before insert-smx")
_SOURCE = Refusal("a source has no operands", "this is a bug in the pass")
_OPERATOR = Refusal(
    "an operator inside a perturbed evaluation", "run expand-operators first; third derivatives are not supported"
)

DELTA_RULES: Mapping[str, DeltaRule | Refusal] = MappingProxyType(
    {
        **{name: _SOURCE for name, op in OPS.items() if op.category == "source"},
        **{fn: _activation(fn) for fn in DELTA_FUNCTIONS},
        "add": _add,
        "sub": _sub,
        "mul": _mul,
        "div": _div,
        "neg": _linear,
        "select": _select,
        "min": _KINK,
        "max": _KINK,
        "abs": _KINK,
        "amax": _KINK,
        "floor": _STEP,
        "round": _STEP,
        "compare": Refusal("compares a perturbed value", "let branches depend on the base point only"),
        "erf": Refusal(
            "no cancellation-free difference of erf is defined", "use tanh, or for GELU nn.GELU(approximate='tanh')"
        ),
        "delta_act": Refusal("a difference of a difference", "nest no perturbed evaluations"),
        "matmul": _matmul,
        "tt_matmul": _tt_matmul,
        "matmul_tn": Refusal("contracts the rows of a perturbed value", "reduce over points only after the estimator"),
        "gradient": _OPERATOR,
        "laplacian": _OPERATOR,
        "perturb": _perturb,
        "difference": _difference,
        "reshape": _linear,
        "permute": _linear,
        "slice": _linear,
        "broadcast": _linear,
        "pad": _linear,
        "sum": _linear,
        "concat": _concat,
        "quantize": _LATE,
        "decode": _LATE,
    }
)
"""How a delta passes through each op."""


# ---------------------------------------------------------------------------------------------- delta_act


def lower_delta_act(b: Builder, fn: str, y: Node, d: Node) -> Node:
    """fn(Y + D) - fn(Y) in elementary ops, without cancellation: the definition of `delta_act` (NUMERICS 5).

    `y` and `d` broadcast against each other. At most 8 elementary ops depend on D, one VPU instruction (MACHINE 2);
    what depends on Y alone is computed once a base row. The order of operations is meaning: evaluator and machine
    agree bit for bit.
    """
    return _DELTA_ACT[fn](b, y, d)


def _delta_tanh(b: Builder, y: Node, d: Node) -> Node:
    t, td = b.tanh(y), b.tanh(d)
    return b.div(b.mul(td, b.sub(1.0, b.mul(t, t))), b.add(b.mul(t, td), 1.0))


def _delta_sigmoid(b: Builder, y: Node, d: Node) -> Node:
    # sigmoid(x) = (1 + tanh(x/2)) / 2
    t, td = b.tanh(b.mul(y, 0.5)), b.tanh(b.mul(d, 0.5))
    slope = b.mul(b.sub(1.0, b.mul(t, t)), 0.5)
    return b.div(b.mul(td, slope), b.add(b.mul(t, td), 1.0))


def _delta_sin(b: Builder, y: Node, d: Node) -> Node:
    half = b.mul(d, 0.5)
    return b.mul(b.mul(b.cos(b.add(y, half)), b.sin(half)), 2.0)


def _delta_cos(b: Builder, y: Node, d: Node) -> Node:
    half = b.mul(d, 0.5)
    return b.mul(b.mul(b.sin(b.add(y, half)), b.sin(half)), -2.0)


def _delta_exp(b: Builder, y: Node, d: Node) -> Node:
    # e^D - 1 = tanh(D/2) (e^D + 1): sound for every D, where 2t/(1-t) cancels for large ones
    return b.mul(b.tanh(b.mul(d, 0.5)), b.add(b.exp(b.add(y, d)), b.exp(y)))


def _delta_log(b: Builder, y: Node, d: Node) -> Node:
    # Kahan's log1p: log(u) r / (u - 1) with u = fl(1 + r); the errors of u and of u - 1 cancel
    ratio = b.div(d, y)
    one_plus = b.add(ratio, 1.0)
    step = b.sub(one_plus, 1.0)
    return b.select(b.compare("eq", step, 0.0), ratio, b.div(b.mul(b.log(one_plus), ratio), step))


def _delta_sqrt(b: Builder, y: Node, d: Node) -> Node:
    return b.div(d, b.add(b.sqrt(b.add(y, d)), b.sqrt(y)))


_DELTA_ACT: Mapping[str, Callable[[Builder, Node, Node], Node]] = MappingProxyType(
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
