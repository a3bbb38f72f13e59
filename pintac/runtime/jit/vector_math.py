"""The VPU micro-operations on vectors in registers: the same bits as the definitions in `vmath` and `rng`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pintac import isa
from pintac.isa import MicroOp
from pintac.runtime.jit import transcendental
from pintac.runtime.jit.codegen import I32, I64, LANES, PTR, VF, VI, Emitter, Val, internal_function, vec


def minimum(e: Emitter, a: Val, b: Val) -> Val:
    """The smaller one; -0 is smaller than +0; NaN if one is."""
    equal = e.select(a.lt(b), a.bits(), e.select(b.lt(a), b.bits(), a.bits() | b.bits())).as_float()
    return e.select(e.unordered(a, b), a + b, equal)


def maximum(e: Emitter, a: Val, b: Val) -> Val:
    """The larger one; +0 is larger than -0; NaN if one is."""
    equal = e.select(a.gt(b), a.bits(), e.select(b.gt(a), b.bits(), a.bits() & b.bits())).as_float()
    return e.select(e.unordered(a, b), a + b, equal)


_WHOLE = 2.0**23  # from here on every fp32 number is whole


def rounded(e: Emitter, x: Val) -> Val:
    """The nearest whole number, of two the even one, with the sign of x."""
    whole = (e.fabs(x) + _WHOLE) - _WHOLE
    signed = (whole.bits() | (x.bits() & -0x80000000)).as_float()
    return e.select(e.fabs(x).lt(_WHOLE), signed, x)


def floor(e: Emitter, x: Val) -> Val:
    """The largest whole number that is not larger than x; -0 stays what it is."""
    nearest = rounded(e, x)
    return e.select(nearest.gt(x), nearest - 1.0, nearest)


def _compare(name: str) -> Callable[[Emitter, Val, Val], Val]:
    def apply(e: Emitter, a: Val, b: Val) -> Val:
        return e.select(getattr(a, name)(b), e.f(1.0), 0.0)

    return apply


MICRO_OPS: Mapping[MicroOp, Callable[..., Val]] = {
    MicroOp.MOV: lambda e, a: a,
    MicroOp.ADD: lambda e, a, b: a + b,
    MicroOp.SUB: lambda e, a, b: a - b,
    MicroOp.MUL: lambda e, a, b: a * b,
    MicroOp.DIV: lambda e, a, b: a / b,
    MicroOp.NEG: lambda e, a: e.neg(a),
    MicroOp.ABS: lambda e, a: e.fabs(a),
    MicroOp.MIN: minimum,
    MicroOp.MAX: maximum,
    MicroOp.SQRT: lambda e, a: e.sqrt(a),
    MicroOp.EXP: transcendental.exp,
    MicroOp.LOG: transcendental.log,
    MicroOp.TANH: transcendental.tanh,
    MicroOp.SIGMOID: transcendental.sigmoid,
    MicroOp.SIN: transcendental.sin,
    MicroOp.COS: transcendental.cos,
    MicroOp.ERF: transcendental.erf,
    MicroOp.LT: _compare("lt"),
    MicroOp.LE: _compare("le"),
    MicroOp.GT: _compare("gt"),
    MicroOp.GE: _compare("ge"),
    MicroOp.EQ: _compare("eq"),
    MicroOp.NE: _compare("ne"),
    MicroOp.SELECT: lambda e, a, b, c: e.select(a.ne(0.0), b, c),
    MicroOp.FLOOR: floor,
    MicroOp.ROUND: rounded,
}


def micro_op(e: Emitter, op: MicroOp, *args: Val) -> Val:
    """The result of a micro-operation other than the Philox ones."""
    return MICRO_OPS[op](e, *args)


_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(e: Emitter, op: MicroOp, index: Val, stream_term: Val, params: Val) -> Val:
    """The uniform numbers of a Philox micro-op for the element numbers `index` (int32 lanes)."""
    name = op.name.lower()
    function = e.module.globals.get(name)
    if function is None:  # long, and rarely hot: one copy, called
        function = internal_function(e.module, name, VF, [VI, I32, PTR])
        inner = Emitter(function, e.lowering)
        inner.finish(_philox(inner, op, *inner.args()))
    return e.call(function, [index, stream_term, params])


def _philox(e: Emitter, op: MicroOp, index: Val, stream_term: Val, params: Val) -> Val:
    """Words are kept in 64-bit lanes, whose upper halves may hold anything: products take the lower ones."""
    step, seed = (e.load(I32, params, 4 * place).zext(I64) for place in (isa.PARAM_STEP, isa.PARAM_SEED))
    half, low = LANES // 2, 0xFFFFFFFF
    first_keys = (seed, (stream_term & 0xFFFF).zext(I64))
    keys = [[((k + n * w) & low) for n in range(_ROUNDS)] for k, w in zip(first_keys, _WEYL, strict=True)]
    tops = []
    for first in (0, half):
        word = [
            index.shuffle(range(first, first + half)).zext(I64),
            e.splat(step, half),
            e.splat((stream_term >> 16).zext(I64), half),
            e.const(vec(I64, half), 0),
        ]
        for n in range(_ROUNDS):
            key = [e.splat(k[n], half) for k in keys]
            products = [(word[2 * i] & low) * m for i, m in enumerate(_MULTIPLIERS)]
            word = [
                (products[1] >> 32) ^ word[1] ^ key[0],
                products[1],
                (products[0] >> 32) ^ word[3] ^ key[1],
                products[0],
            ]
        tops.append(word[1 if op is MicroOp.PHILOX_U2 else 0].trunc(I32))
    top = e.concat(tops) >> 8
    if op is MicroOp.PHILOX_U1:
        top = top + 1
    return top.to_float() * 2.0**-24
