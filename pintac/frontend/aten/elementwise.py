"""Elementwise ATen operations: arithmetic, functions, powers, comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pintac.frontend.aten.table import Arguments, Rule, aten, rule
from pintac.frontend.recorder import Recorder
from pintac.frontend.traced import Traced, Unsupported
from pintac.ir import Builder, Node
from pintac.ir.ops import UNARY


def _scaled(r: Recorder, value: object, alpha: float) -> object:
    """alpha * value where alpha is not 1 (the alpha of torch.add)."""
    if alpha == 1:
        return value
    if isinstance(value, Tensor):
        return Traced(value.value if isinstance(value, Traced) else value, r.builder.mul(r.node(value), float(alpha)))
    return alpha * value  # type: ignore[operator]


def _truth(r: Recorder, value: object) -> Node:
    """1 where a value is true, which for numbers is where it is not 0, else 0."""
    node = r.node(value)
    known = isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool)
    return node if known else r.builder.compare("ne", node, 0.0)


def _binary(op: str) -> Rule:
    def apply(r: Recorder, a: Arguments, result: Tensor) -> Node:
        left, right = r.node(a["self"]), r.node(a["other"])
        return r.builder.add_op(op, (left, right))

    return apply


for _name, _packet in (("mul", aten.mul), ("max", aten.maximum), ("min", aten.minimum)):
    rule(_packet)(_binary(_name))


@rule(aten.add)
def _add(r: Recorder, a: Arguments, result: Tensor) -> Node:
    left, right = r.node(a["self"]), r.node(_scaled(r, a["other"], a["alpha"]))
    if result.dtype == torch.bool:  # torch adds booleans as `or`
        return r.builder.max(left, right)
    return r.builder.add(left, right)


@rule(aten.sub)
def _sub(r: Recorder, a: Arguments, result: Tensor) -> Node:
    left, right = r.node(a["self"]), r.node(_scaled(r, a["other"], a["alpha"]))
    return r.builder.sub(left, right)


@rule(aten.rsub)
def _rsub(r: Recorder, a: Arguments, result: Tensor) -> Node:
    left, right = r.node(a["other"]), r.node(_scaled(r, a["self"], a["alpha"]))
    return r.builder.sub(left, right)


def _quotient(r: Recorder, a: Arguments, result: Tensor) -> Node:
    if not isinstance(a["other"], Tensor) and math.frexp(float(a["other"]))[0] in (0.5, -0.5):
        return r.builder.mul(r.node(a["self"]), 1.0 / float(a["other"]))  # exact for powers of two
    left, right = r.node(a["self"]), r.node(a["other"])
    return r.builder.div(left, right)


@rule(aten.div)
def _div(r: Recorder, a: Arguments, result: Tensor) -> Node:
    q = _quotient(r, a, result)
    mode = a.get("rounding_mode")
    return r.builder.floor(q) if mode == "floor" else _truncated(r.builder, q) if mode == "trunc" else q


@rule(aten.floor_divide)
def _floor_divide(r: Recorder, a: Arguments, result: Tensor) -> Node:
    return r.builder.floor(_quotient(r, a, result))


def _truncated(b: Builder, x: Node) -> Node:
    down = b.floor(x)  # first, so that a refusal speaks of it
    return b.select(b.compare("ge", x, 0.0), down, _ceiling(b, x))


def _ceiling(b: Builder, x: Node) -> Node:
    return b.neg(b.floor(b.neg(x)))


def _rest(whole: Callable[[Builder, Node], Node]) -> Rule:
    """What a division with a whole quotient leaves: exact where the quotient times the divisor is."""

    def apply(r: Recorder, a: Arguments, result: Tensor) -> Node:
        left, right = r.node(a["self"]), r.node(a["other"])
        return r.builder.sub(left, r.builder.mul(whole(r.builder, _quotient(r, a, result)), right))

    return apply


rule(aten.remainder)(_rest(lambda b, q: b.floor(q)))
rule(aten.fmod)(_rest(_truncated))


@rule(aten.round)
def _round(r: Recorder, a: Arguments, result: Tensor) -> Node:
    b, x, decimals = r.builder, r.node(a["self"]), int(a.get("decimals") or 0)
    if decimals == 0:
        return b.round(x)
    up = 10.0 ** abs(decimals)
    return b.div(b.round(b.mul(x, up)), up) if decimals > 0 else b.mul(b.round(b.div(x, up)), up)


for _name in UNARY:
    if _name != "round":
        rule(getattr(aten, _name))(lambda r, a, result, _fn=_name: r.builder.unary(_fn, r.node(a["self"])))  # type: ignore[misc]


def _derived(*packets: Any) -> Callable[[Callable[[Any, Node], Node]], object]:
    """A function of one value made of others: f(builder, x)."""

    def register(function: Callable[[Any, Node], Node]) -> object:
        return rule(*packets)(lambda r, a, result: function(r.builder, r.node(a["self"])))

    return register


_derived(aten.reciprocal)(lambda b, x: b.div(1.0, x))
_derived(aten.rsqrt)(lambda b, x: b.div(1.0, b.sqrt(x)))
_derived(aten.silu)(lambda b, x: b.mul(x, b.sigmoid(x)))
_derived(aten.relu)(lambda b, x: b.max(x, 0.0))
_derived(aten.mish)(lambda b, x: b.mul(x, b.tanh(_soft_plus(b, x, 1.0))))
_derived(aten.log1p)(lambda b, x: _log_of_one_plus(b, x))
_derived(aten.expm1)(lambda b, x: _exp_minus_one(b, x))
_derived(aten.ceil)(lambda b, x: _ceiling(b, x))
_derived(aten.trunc)(lambda b, x: _truncated(b, x))
_derived(aten.frac)(lambda b, x: b.sub(x, _truncated(b, x)))
_derived(aten.log2)(lambda b, x: b.mul(b.log(x), 1.0 / math.log(2.0)))
_derived(aten.log10)(lambda b, x: b.mul(b.log(x), 1.0 / math.log(10.0)))
_derived(aten.exp2)(lambda b, x: b.exp(b.mul(x, math.log(2.0))))
_derived(aten.sinh)(lambda b, x: b.mul(b.tanh(x), _cosh(b, x)))  # no difference of exponentials
_derived(aten.cosh)(lambda b, x: _cosh(b, x))
_derived(aten.tan)(lambda b, x: b.div(b.sin(x), b.cos(x)))
_derived(aten.atan)(lambda b, x: _arc_tangent(b, x))
_derived(aten.sign, aten.sgn)(lambda b, x: b.sub(b.compare("gt", x, 0.0), b.compare("lt", x, 0.0)))


def _cosh(b: Builder, x: Node) -> Node:
    return b.mul(b.add(b.exp(x), b.exp(b.neg(x))), 0.5)


def _exp_minus_one(b: Builder, x: Node) -> Node:
    """e^x - 1 = tanh(x / 2) (e^x + 1): nothing cancels near 0, and every part is smooth."""
    return b.mul(b.tanh(b.mul(x, 0.5)), b.add(b.exp(x), 1.0))


def _log_of_one_plus(b: Builder, x: Node) -> Node:
    """log(1 + x) as log(u) + c / u, where c is what rounding 1 + x to u has lost: nothing in exact arithmetic."""
    u = b.add(x, 1.0)
    return b.add(b.log(u), b.div(b.sub(x, b.sub(u, 1.0)), u))


_HALVINGS = 4


def _arc_tangent(b: Builder, x: Node) -> Node:
    """atan, good for |x| up to 1e19: the half-angle formula four times, then its series below tan(pi / 32).

    Every operation is smooth, so that a difference passes through it without cancellation; 1e-13 in float64.
    """
    for _ in range(_HALVINGS):
        x = b.div(x, b.add(b.sqrt(b.add(b.mul(x, x), 1.0)), 1.0))
    square = b.mul(x, x)
    series = b.scalar_const(_scale(11))
    for k in (9, 7, 5, 3, 1):
        series = b.add(b.mul(square, series), _scale(k))
    return b.mul(x, series)


def _scale(k: int) -> float:
    """The coefficient of x^k in the series, for the angle before it was halved."""
    return float(2.0**_HALVINGS * (-1) ** (k // 2) / k)


@rule(aten.atan2)
def _atan2(r: Recorder, a: Arguments, result: Tensor) -> Node:
    """The angle of (x, y): atan of the smaller over the larger of them, turned by quarters."""
    b = r.builder
    y, x = r.node(a["self"]), r.node(a["other"])
    flat = b.compare("ge", b.abs(x), b.abs(y))
    side = b.select(b.compare("lt", y, 0.0), -math.pi, math.pi)
    turn = b.select(flat, b.mul(b.compare("lt", x, 0.0), side), b.mul(side, 0.5))
    below = b.select(flat, x, y)
    below = b.select(b.compare("eq", below, 0.0), 1.0, below)  # the angle of (0, 0) is 0
    return b.add(_arc_tangent(b, b.div(b.select(flat, y, b.neg(x)), below)), turn)


@rule(aten.heaviside)
def _heaviside(r: Recorder, a: Arguments, result: Tensor) -> Node:
    b, x, at_zero = r.builder, r.node(a["self"]), r.node(a["values"])
    return b.select(b.compare("eq", x, 0.0), at_zero, b.compare("gt", x, 0.0))


@rule(aten.gelu)
def _gelu(r: Recorder, a: Arguments, result: Tensor) -> Node:
    b, x = r.builder, r.node(a["self"])
    if a["approximate"] == "tanh":
        cubic = b.mul(b.mul(b.mul(x, x), x), 0.044715)
        inner = b.tanh(b.mul(b.add(x, cubic), math.sqrt(2.0 / math.pi)))
    else:
        inner = b.erf(b.mul(x, math.sqrt(0.5)))
    return b.mul(b.mul(x, 0.5), b.add(inner, 1.0))


def _exponential_below(b: Builder, x: Node, scale: float, below: float, rate: float) -> Node:
    """scale x for x > 0, below (e^(rate x) - 1) for x < 0."""
    grown = _exp_minus_one(b, b.mul(b.min(x, 0.0), rate))
    return b.add(b.mul(b.max(x, 0.0), scale), b.mul(grown, below))


@rule(aten.elu)
def _elu(r: Recorder, a: Arguments, result: Tensor) -> Node:
    """Also SELU, which torch makes of it."""
    scale = float(a["scale"])
    return _exponential_below(r.builder, r.node(a["self"]), scale, scale * float(a["alpha"]), float(a["input_scale"]))


@rule(aten.celu)
def _celu(r: Recorder, a: Arguments, result: Tensor) -> Node:
    alpha = float(a["alpha"])
    return _exponential_below(r.builder, r.node(a["self"]), 1.0, alpha, 1.0 / alpha)


@rule(aten.leaky_relu)
def _leaky_relu(r: Recorder, a: Arguments, result: Tensor) -> Node:
    b, x = r.builder, r.node(a["self"])
    return b.add(b.max(x, 0.0), b.mul(b.min(x, 0.0), float(a["negative_slope"])))


@rule(aten.hardtanh)
def _hardtanh(r: Recorder, a: Arguments, result: Tensor) -> Node:
    return _clamped(r, r.node(a["self"]), a["min_val"], a["max_val"])


def _soft_plus(b: Builder, x: Node, beta: float) -> Node:
    """log(1 + e^(beta x)) as -log(sigmoid(-beta x)).

    Good up to beta x = 87, and a difference passes through each of its parts without cancellation.
    """
    return b.neg(b.log(b.sigmoid(b.mul(x, -beta))))


@rule(aten.softplus)
def _softplus(r: Recorder, a: Arguments, result: Tensor) -> Node:
    beta = float(a["beta"])
    y = _soft_plus(r.builder, r.node(a["self"]), beta)
    return y if beta == 1.0 else r.builder.mul(y, 1.0 / beta)


def _integer_power(r: Recorder, x: Node, n: int) -> Node:
    """x^n for n >= 1 by repeated squaring."""
    result: Node | None = None
    while True:
        if n & 1:
            result = x if result is None else r.builder.mul(result, x)
        n >>= 1
        if n == 0:
            assert result is not None
            return result
        x = r.builder.mul(x, x)


@rule(aten.pow)
def _pow(r: Recorder, a: Arguments, result: Tensor) -> Node:
    b, base, exponent = r.builder, a["self"], a["exponent"]
    if (
        isinstance(exponent, Tensor)
        and not isinstance(exponent, Traced)
        and r.parameter_name(exponent) is None
        and exponent.numel() == 1
    ):
        exponent = exponent.item()
    if isinstance(exponent, Tensor):  # c^y or x^y
        log = r.node(math.log(base)) if isinstance(base, (int, float)) and base > 0 else b.log(r.node(base))
        return b.exp(b.mul(r.node(exponent), log))
    x, power = r.node(base), float(exponent)
    if power == 0.0:
        return b.const(1.0, x.shape)
    whole, fraction = divmod(abs(power), 1.0)
    if fraction not in (0.0, 0.5) or whole > 64:
        return b.exp(b.mul(b.log(x), power))
    y = _integer_power(r, x, int(whole)) if whole else None
    if fraction:
        root = b.sqrt(x)
        y = root if y is None else b.mul(y, root)
    assert y is not None
    return y if power > 0 else b.div(1.0, y)


@rule(aten.clamp, aten.clamp_min, aten.clamp_max)
def _clamp(r: Recorder, a: Arguments, result: Tensor) -> Node:
    return _clamped(r, r.node(a["self"]), a.get("min"), a.get("max"))


def _clamped(r: Recorder, x: Node, low: object, high: object) -> Node:
    above = x if low is None else r.builder.max(x, r.node(low))
    return above if high is None else r.builder.min(above, r.node(high))


for _kind in ("lt", "le", "gt", "ge", "eq", "ne"):

    def _compare(r: Recorder, a: Arguments, result: Tensor, kind: str = _kind) -> Node:
        left, right = r.node(a["self"]), r.node(a["other"])
        return r.builder.compare(kind, left, right)

    rule(getattr(aten, _kind))(_compare)


def _logic(op: Callable[[Builder, Node, Node], Node]) -> Rule:
    def apply(r: Recorder, a: Arguments, result: Tensor) -> Node:
        return op(r.builder, _truth(r, a["self"]), _truth(r, a["other"]))

    return apply


rule(aten.bitwise_and, aten.logical_and)(_logic(lambda b, x, y: b.mul(x, y)))
rule(aten.bitwise_or, aten.logical_or)(_logic(lambda b, x, y: b.max(x, y)))
rule(aten.bitwise_xor, aten.logical_xor)(_logic(lambda b, x, y: b.compare("ne", x, y)))


@rule(aten.bitwise_not, aten.logical_not)
def _not(r: Recorder, a: Arguments, result: Tensor) -> Node:
    return r.builder.sub(1.0, _truth(r, a["self"]))


@rule(aten.masked_fill)
def _masked_fill(r: Recorder, a: Arguments, result: Tensor) -> Node:
    return r.builder.select(r.node(a["mask"]), r.node(a["value"]), r.node(a["self"]))


@rule(aten.where)
def _where(r: Recorder, a: Arguments, result: Tensor) -> Node:
    if a.get("self") is None:
        raise Unsupported(
            "torch.where with one argument finds indices that depend on values", "torch.where(condition, a, b)"
        )
    return r.builder.select(r.node(a["condition"]), r.node(a["self"]), r.node(a["other"]))


@rule(aten.addcmul)
def _addcmul(r: Recorder, a: Arguments, result: Tensor) -> Node:
    product = r.builder.mul(r.node(a["tensor1"]), r.node(a["tensor2"]))
    return r.builder.add(r.node(a["self"]), product if a["value"] == 1 else r.builder.mul(product, float(a["value"])))


@rule(aten.lerp)
def _lerp(r: Recorder, a: Arguments, result: Tensor) -> Node:
    start = r.node(a["self"])
    return r.builder.add(start, r.builder.mul(r.builder.sub(r.node(a["end"]), start), r.node(a["weight"])))


@rule(aten.clone, aten.alias, aten.detach, aten._to_copy)
def _same(r: Recorder, a: Arguments, result: Tensor) -> Node:
    return _truth(r, a["self"]) if result.dtype == torch.bool else r.node(a["self"])
