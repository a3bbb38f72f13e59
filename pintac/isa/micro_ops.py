"""The steps of a VPU instruction: micro-operations, the values that they select, and the bits of both."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import numpy as np

MAX_MICRO_OPS = 8
IMMEDIATES = 4
SCALARS = 3


class MicroOp(IntEnum):
    """VPU micro-operations. `a`, `b`, `c` are selectors (`SELECT_*`); the result is register r<position>."""

    NOP = 0
    MOV = 1
    ADD = 2
    SUB = 3
    MUL = 4
    DIV = 5
    NEG = 6
    ABS = 7
    MIN = 8
    MAX = 9
    SQRT = 10
    EXP = 11
    LOG = 12
    TANH = 13
    SIGMOID = 14
    SIN = 15
    COS = 16
    ERF = 17
    LT = 18
    LE = 19
    GT = 20
    GE = 21
    EQ = 22
    NE = 23
    SELECT = 24  # a != 0 ? b : c
    PHILOX_U = 25  # (word0 >> 8) * 2^-24 of the counter a; b: an immediate holding stream | term << 16
    PHILOX_U1 = 26  # ((word0 >> 8) + 1) * 2^-24
    PHILOX_U2 = 27  # (word1 >> 8) * 2^-24
    FLOOR = 28
    ROUND = 29  # halves to even


PHILOX = frozenset({MicroOp.PHILOX_U, MicroOp.PHILOX_U1, MicroOp.PHILOX_U2})
"""Micro-operations that draw random numbers: their operands are an index operand and an immediate."""

ARITY: Mapping[MicroOp, int] = {
    MicroOp[name]: arity
    for arity, names in (
        (0, "NOP"),
        (1, "MOV NEG ABS SQRT EXP LOG TANH SIGMOID SIN COS ERF FLOOR ROUND"),
        (2, "ADD SUB MUL DIV MIN MAX LT LE GT GE EQ NE PHILOX_U PHILOX_U1 PHILOX_U2"),
        (3, "SELECT"),
    )
    for name in names.split()
}

# Value selectors, five bits.
SELECT_REG = 0  # r0-r7
SELECT_SOURCE = 8  # s0-s4
SELECT_IMM = 16  # i0-i3: fp32 immediates
SELECT_SCALAR = 20  # p0-p2: fp32 entries of the parameter block, numbered by the fields scalar0-scalar2
SELECTORS = tuple(
    [f"r{i}" for i in range(8)]
    + [f"s{i}" for i in range(5)]
    + ["-", "-", "-"]
    + [f"i{i}" for i in range(4)]
    + [f"p{i}" for i in range(3)]
)


def micro_op(op: MicroOp, a: int = 0, b: int = 0, c: int = 0) -> int:
    """The 21 bits of a micro-op: selectors are 0-31 (`SELECT_REG` + i, `SELECT_SOURCE` + i, ...)."""
    return int(op) | a << 6 | b << 11 | c << 16


def split_micro_op(bits: int) -> tuple[MicroOp, int, int, int]:
    """Inverse of `micro_op`."""
    return MicroOp(bits & 63), bits >> 6 & 31, bits >> 11 & 31, bits >> 16 & 31


def float_bits(value: float) -> int:
    """The bits of an fp32 immediate."""
    return int(np.float32(value).view(np.uint32))


def bits_float(bits: int) -> float:
    """The fp32 value of an immediate field."""
    return float(np.uint32(bits).view(np.float32))
