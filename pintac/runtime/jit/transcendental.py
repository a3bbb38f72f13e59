"""exp, log, tanh, sigmoid, sin, cos and erf in registers: `vmath`'s sequences, operation by operation.

A NaN result may have any bits here: sinks store the canonical one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from llvmlite import ir

from pintac import vmath
from pintac.runtime.jit.codegen import F32, I32, I64, LANES, NAN_BITS, PTR, VF, VI, Emitter, Val, vec

MAGIC = 12582912.0
MAGIC_BITS = 0x4B400000
SIGN = -0x80000000
ABS = 0x7FFFFFFF


def lookups(e: Emitter, tables: Sequence[np.ndarray], index: Val, first: int = 0) -> list[Val]:
    """table[(index - first) % 32] of several tables of 32 fp32 entries."""
    if e.lowering.vnni:  # the instruction takes the low five bits, so a turned table saves the subtraction
        found = []
        for table in tables:
            turned = np.roll(table, first % 32)
            halves = [e.table([float(v) for v in half], F32) for half in (turned[:16], turned[16:])]
            found.append(e.intrinsic("llvm.x86.avx512.vpermi2var.ps.512", VF, halves[0], index, halves[1]))
        return found
    # One row of eight tables' entries for each index; eight such rows are then transposed.
    rows = np.zeros((32, 8), np.float32)
    rows[:, : len(tables)] = np.stack(tables, 1)
    words = rows.view(np.uint32).reshape(-1)
    name = "tables_" + hashlib.sha256(words.tobytes()).hexdigest()[:16]
    constant = e.module.globals.get(name)
    if constant is None:
        constant = ir.GlobalVariable(e.module, ir.ArrayType(I32, len(words)), name)
        constant.initializer = ir.Constant(constant.value_type, [int(w) for w in words])
        constant.global_constant, constant.linkage, constant.align = True, "internal", 64
    start = Val(e, e.b.bitcast(constant, PTR))
    offset = ((index - first) & 31) << 5
    loaded = [e.load(vec(F32, 8), start, offset.lane(i).zext(I64), align=32) for i in range(LANES)]
    columns = [_transposed(loaded[:8], len(tables)), _transposed(loaded[8:], len(tables))]
    return [e.concat(pair) for pair in zip(*columns, strict=True)]


def _transposed(rows: Sequence[Val], wanted: int) -> list[Val]:
    """The first `wanted` columns of 8 x 8."""
    quarters = []
    for half in (0, 4):
        joined = [
            rows[i].shuffle([half + j + 8 * k for k in range(2) for j in range(4)], rows[i + 4]) for i in range(4)
        ]
        for lanes in (0, 2):
            picked = [lanes + j // 2 + 8 * (j % 2) + 4 * k for k in range(2) for j in range(4)]
            a, b = joined[0].shuffle(picked, joined[1]), joined[2].shuffle(picked, joined[3])
            for pair in (0, 2):
                order = [pair + j % 2 + 8 * (j // 2) + 4 * k for k in range(2) for j in range(4)]
                quarters.append(a.shuffle(order, b))
    return quarters[:wanted]


def _horner(p: Val, x: Val, coefficients: Sequence[Val | float]) -> Val:
    for c in coefficients:
        p = p * x + c
    return p


def _row(name: str, row: int = 0) -> list[float]:
    return [float(v) for v in vmath.TABLES[name][row]]


def exp(e: Emitter, x: Val) -> Val:
    """`vmath.exp`."""
    (per_ln2, step_hi, step_lo), (c0, c1) = _row("exp_reduction"), _row("exp_tail")
    offset, value = vmath.TABLES["exp"]
    a = e.select(x.gt(89.0), e.f(89.0), x)
    a = e.select(a.lt(-104.0), e.f(-104.0), a)
    t = a * per_ln2 + MAGIC
    nf = t - MAGIC
    n = t.bits() - MAGIC_BITS
    k = n.ashr(5)
    added, v = lookups(e, [offset, value], n)
    r = (a - nf * step_hi) - nf * step_lo + added
    q = (r * c1 + c0) * (r * r) + r
    p = v * q + v
    half = k.ashr(1)
    return p * _power_of_two(half) * _power_of_two(k - half)


def _power_of_two(k: Val) -> Val:
    return ((k + 127) << 23).as_float()


def log(e: Emitter, x: Val) -> Val:
    """`vmath.log`."""
    c, (hi, lo) = _row("log"), _row("log_reduction")
    infinity = float("inf")
    small = x.lt(2.0**-126)
    y = e.select(small, x * 2.0**23, x)
    k = (y.bits() - 0x3F3504F3).ashr(23)
    f = (y.bits() - (k << 23)).as_float() - 1.0
    kf = (k - e.select(small, e.const(VI, 23), 0)).to_float()
    z = f * f
    p = _horner(e.f(c[8]), f, c[7::-1])
    p = p * f * z
    p = p + kf * lo
    p = p - z * 0.5
    p = f + p
    p = p + kf * hi
    p = e.select(x.eq(infinity), e.f(infinity), p)
    p = e.select(x.eq(0.0), e.f(-infinity), p)
    return e.select(x.ge(0.0), p, _nan(e))


def _nan(e: Emitter) -> Val:
    return e.const(VI, NAN_BITS).as_float()


def sigmoid(e: Emitter, x: Val) -> Val:
    """`vmath.sigmoid`."""
    low = x.lt(-2.0)
    y = exp(e, e.select(low, x, e.neg(x)))
    i = 1.0 / (y + 1.0)
    return e.select(low, y - y * (y * i), i)


def tanh(e: Emitter, x: Val) -> Val:
    """`vmath.tanh`."""
    centre, *c = vmath.TABLES["tanh"]
    first = (127 - 4) << 2
    a = e.fabs(x)
    a = e.select(a.gt(9.25), e.f(9.25), a)
    k = e.imax(a.bits() >> 21, first)  # all intervals above the one of 9.25 are the same constant
    middle, *rest = lookups(e, [centre, *c[::-1]], k, first)
    p = _horner(rest[0], a - middle, rest[1:])
    return (p.bits() | (x.bits() & SIGN)).as_float()


def erf(e: Emitter, x: Val) -> Val:
    """`vmath.erf`."""
    centre, *c = vmath.TABLES["erf"]
    first = (127 - 6) << 2
    b = x.bits() & ABS
    k = e.imin(e.imax(b >> 21, first), first + 31)
    a = b.as_float()
    a = e.select(a.gt(4.0), e.f(4.0), a)
    middle, *rest = lookups(e, [centre, *c[::-1]], k, first)
    d = a - middle
    p = _horner(rest[0], d, rest[1:5])
    p = p * d + e.select(k.eq(first), a, rest[5])
    return (p.bits() | (x.bits() & SIGN)).as_float()


def _sin_or_cos(e: Emitter, x: Val, quadrant_offset: int) -> tuple[Val, Val]:
    w, p1, p2, p3, p4 = _row("trig_reduction")
    (s0, s1, s2), (c0, c1, c2) = _row("sin"), _row("cos")
    a = e.fabs(x)
    t = a * w + MAGIC
    kf = t - MAGIC
    quadrant = t.bits() + quadrant_offset
    h = (a - kf * p1) - kf * p2
    g = kf * p3
    r = h - g
    lost = (h - r) - g
    r = r + (lost - kf * p4)
    u = r * r
    sine = _horner(e.f(s2), u, (s1, s0)) * u * r + r
    cosine = (_horner(e.f(c2), u, (c1, c0)) * u - 0.5) * u + 1.0
    y = e.select((quadrant & 1).ne(0), cosine, sine)
    return e.select(a.le(vmath.TRIG_LIMIT), y, _nan(e)), quadrant


def sin(e: Emitter, x: Val) -> Val:
    """`vmath.sin`."""
    y, quadrant = _sin_or_cos(e, x, 0)
    return (y.bits() ^ ((quadrant & 2) << 30) ^ (x.bits() & SIGN)).as_float()


def cos(e: Emitter, x: Val) -> Val:
    """`vmath.cos`."""
    y, quadrant = _sin_or_cos(e, x, 1)
    return (y.bits() ^ ((quadrant & 2) << 30)).as_float()
