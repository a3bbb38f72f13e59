"""A hand-written training program, and the same run in NumPy.

step:  w <- w * (1 - lr_t) + lr_t * uniform(seed, step);  loss <- sum of w * w
infer: u = 2 x + first row of w, five points at a time
"""

from __future__ import annotations

import numpy as np

from pintac import isa, rng
from pintac.isa import Kind, MicroOp, Opcode, Operand, Sink, Space
from pintac.program import Program
from tests.runtime.listing import IMM, PAR, REG, SRC, Listing, fp32, uop

F32 = np.float32
STREAM, TERM, STEPS, CHUNK = 7, 2, 6, 5
W = np.arange(16, dtype=F32).reshape(4, 4) / 16
RATES = np.linspace(0.5, 0.1, STEPS).astype(F32)
TEST_X = np.random.RandomState(3).standard_normal((13, 4)).astype(F32)
TEST_U = (2 * TEST_X + 0.5).astype(F32)


def toy_program(name: str = "toy") -> Program:
    """The program; `name` goes to its metadata."""
    table = np.zeros((STEPS, 3), np.uint32)
    table[:, 2] = RATES.view(np.uint32)
    listing = Listing(("lr",), table)
    w = listing.symbol("w", (4, 4), kind="state")
    loss = listing.symbol("loss", (1, 1), kind="metric")
    x = listing.symbol("x", (CHUNK, 4), kind="input")
    u = listing.symbol("u", (CHUNK, 4), kind="output")
    w_at = listing.allocate(Space.SRAM, 64)
    loss_at = listing.allocate(Space.SRAM, 4)
    x_at = listing.allocate(Space.SRAM, 80)

    def store(source: int, target: int, size: int) -> None:
        dram = Operand(space=Space.DRAM, addr=target)
        listing.emit(Opcode.STORE, {"s0": Operand(addr=source), "d0": dram}, size=size, count=1, outer=1)

    listing.load(w.addr, w_at, 64)
    listing.vpu(
        (4, 4),
        [fp32(w_at, 4), Operand(Kind.INDEX, hi=4, cstep=1)],
        [
            uop(MicroOp.SUB, IMM, PAR),
            uop(MicroOp.MUL, SRC, REG),
            uop(MicroOp.PHILOX_U, SRC + 1, IMM + 1),
            uop(MicroOp.MUL, REG + 2, PAR),
            uop(MicroOp.ADD, REG + 1, REG + 3),
            uop(MicroOp.MUL, REG + 4, REG + 4),
        ],
        [(fp32(w_at, 4, kind=Sink.WRITE), REG + 4), (Operand(Sink.SUM_ALL, addr=loss_at, hi=1, cstep=1), REG + 5)],
        imm0=isa.float_bits(1.0),
        imm1=STREAM | TERM << 16,
        scalar0=2,
    )
    store(w_at, w.addr, 64)
    store(loss_at, loss.addr, 4)
    step_end = len(listing.instructions)
    listing.load(w.addr, w_at, 64)
    listing.load(x.addr, x_at, 80)
    listing.vpu(
        (CHUNK, 4),
        [fp32(x_at, 4), fp32(w_at, 0)],
        [uop(MicroOp.ADD, SRC, SRC), uop(MicroOp.ADD, REG, SRC + 1)],
        [(fp32(x_at, 4, kind=Sink.WRITE), REG + 1)],
    )
    store(x_at, u.addr, 80)
    return listing.program(
        entries={"step": (0, step_end), "infer": (step_end, len(listing.instructions))},
        init={"w": W},
        test_x=TEST_X,
        test_u=TEST_U,
        meta={"name": name},
    )


def expected_w(steps: int, seed: int) -> np.ndarray:
    """w after so many steps."""
    w = W
    for step in range(steps):
        rate = RATES[min(step, STEPS - 1)]
        noise = rng.uniform(seed=seed, stream=STREAM, step=step, term=TERM, shape=(4, 4))
        w = w * (F32(1) - rate) + noise * rate
    return w


def expected_loss(w: np.ndarray) -> float:
    """Sums of four columns, then of four rows."""
    squares = w * w
    rows = (squares[:, 0] + squares[:, 1]) + (squares[:, 2] + squares[:, 3])
    return float((rows[0] + rows[1]) + (rows[2] + rows[3]))
