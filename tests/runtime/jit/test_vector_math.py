"""Every micro-operation on arbitrary bit patterns gives the bits of its definition."""

import numpy as np
import pytest

from pintac import isa
from pintac.isa import ARITY, Kind, MicroOp, Operand
from tests.runtime.jit.engines import AVAILABLE, run_both
from tests.runtime.listing import IMM, REG, SRC, Listing

ROWS, COLS = 128, 256
_BOUNDS = [3.4028235e38, 1.1754944e-38, 1e-45, 32768.0, 32769.0, 89.0, 104.0, 9.25, 4.0, 2.0, 1.0, 0.0]
_BOUNDS += [0.5, 1.5, 2.5, 8388607.5, 8388608.0, 8388609.0]  # where floor and round turn
SPECIAL = np.array([np.inf, -np.inf, np.nan, *_BOUNDS, *(-x for x in _BOUNDS)], np.float32)


def _patterns(seed: int) -> np.ndarray:
    """fp32 [ROWS, COLS]: random bits, moderate numbers, special values."""
    draw = np.random.default_rng(seed)
    x = draw.integers(0, 2**32, (ROWS, COLS), np.uint32).view(np.float32).copy()
    x[::2] = (draw.standard_normal((ROWS // 2, COLS)) * np.exp2(draw.integers(-8, 8, (ROWS // 2, COLS)))).astype(
        np.float32
    )
    x[1, : len(SPECIAL)] = SPECIAL
    x[2] = draw.choice(SPECIAL, COLS)
    x[3] = draw.integers(-(2**25), 2**25, COLS) * np.float32(0.5)
    return x


UNARY = [op for op in MicroOp if ARITY[op] == 1]
OTHER = [op for op in MicroOp if ARITY[op] > 1 and op not in isa.PHILOX]


@pytest.mark.parametrize("name", AVAILABLE)
@pytest.mark.parametrize("ops", [UNARY[:6], UNARY[6:], OTHER[:7], OTHER[7:]], ids=lambda ops: ops[0].name.lower())
def test_micro_ops(ops: list[MicroOp], name: str) -> None:
    listing = Listing()
    arguments = [listing.source(_patterns(i)) for i in range(3)]
    for op in ops:
        micro = isa.micro_op(op, *(SRC + i for i in range(ARITY[op])))
        listing.vpu((ROWS, COLS), arguments[: ARITY[op]], [micro], [(listing.sink((ROWS, COLS)), REG)])
    run_both(listing.program(), name)


@pytest.mark.parametrize("name", AVAILABLE)
def test_philox(name: str) -> None:
    listing = Listing()
    stream = 7 | 65535 << 16
    for op, first in ((MicroOp.PHILOX_U, 0), (MicroOp.PHILOX_U1, 2**32 - 5), (MicroOp.PHILOX_U2, 123456)):
        counter = Operand(kind=Kind.INDEX, addr=first, hi=37, cstep=1)
        micro = isa.micro_op(op, SRC, IMM + 3)
        listing.vpu((11, 37), [counter], [micro], [(listing.sink((11, 37)), REG)], imm3=stream)
    table = np.array([[0, 0]], np.uint32)
    run_both(listing.program(param_table=table), name)
