"""The VPU micro-operations of the reference engine: fp32 arrays to fp32 arrays (NUMERICS 3 and 8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from pintac import isa, rng, vmath
from pintac.isa import MicroOp

_F = np.ndarray


def _ieee(ufunc: Callable[..., _F]) -> Callable[..., _F]:
    """A correctly rounded operation of NumPy, quiet about infinities and NaNs."""

    def apply(*args: _F) -> _F:
        with np.errstate(all="ignore"):
            return ufunc(*args)

    return apply


def _compare(ufunc: Callable[[_F, _F], _F]) -> Callable[[_F, _F], _F]:
    """1 or 0 (0 when an operand is a NaN, except for `ne`)."""
    return lambda a, b: ufunc(a, b).astype(np.float32)


def _select(a: _F, b: _F, c: _F) -> _F:
    return np.where(a != 0, b, c)


MICRO_OPS: Mapping[MicroOp, Callable[..., _F]] = {
    MicroOp.MOV: lambda a: a,
    MicroOp.ADD: _ieee(np.add),
    MicroOp.SUB: _ieee(np.subtract),
    MicroOp.MUL: _ieee(np.multiply),
    MicroOp.DIV: _ieee(np.divide),
    MicroOp.NEG: np.negative,
    MicroOp.ABS: np.abs,
    MicroOp.MIN: vmath.minimum,
    MicroOp.MAX: vmath.maximum,
    MicroOp.SQRT: _ieee(np.sqrt),
    MicroOp.EXP: vmath.exp,
    MicroOp.LOG: vmath.log,
    MicroOp.TANH: vmath.tanh,
    MicroOp.SIGMOID: vmath.sigmoid,
    MicroOp.SIN: vmath.sin,
    MicroOp.COS: vmath.cos,
    MicroOp.ERF: vmath.erf,
    MicroOp.LT: _compare(np.less),
    MicroOp.LE: _compare(np.less_equal),
    MicroOp.GT: _compare(np.greater),
    MicroOp.GE: _compare(np.greater_equal),
    MicroOp.EQ: _compare(np.equal),
    MicroOp.NE: _compare(np.not_equal),
    MicroOp.SELECT: _select,
    MicroOp.FLOOR: _ieee(np.floor),
    MicroOp.ROUND: _ieee(np.rint),
}


def philox(op: MicroOp, index: np.ndarray, stream_term: int, params: np.ndarray) -> _F:
    """Uniform numbers of a Philox micro-op for the element numbers `index` (uint32).

    `stream_term` holds stream | term << 16; seed and step come from the parameter block.
    """
    words = rng.words(
        seed=int(params[isa.PARAM_SEED]),
        stream=stream_term & 0xFFFF,
        step=int(params[isa.PARAM_STEP]),
        term=stream_term >> 16,
        index=index,
    )
    if op is MicroOp.PHILOX_U2:
        return (words[..., 1] >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
    top = words[..., 0] >> np.uint32(8)
    return (top + np.uint32(op is MicroOp.PHILOX_U1)).astype(np.float32) * np.float32(2**-24)
