"""The packed right operand of a matmul is kept through a loop only where nothing can change it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pintac import isa
from pintac.isa import MicroOp, Operand, Sink
from pintac.program import Program
from pintac.runtime.jit import JitEngine
from pintac.runtime.state import MachineState
from tests.runtime.jit.engines import run_both
from tests.runtime.listing import REG, SRC, Listing, uop

N = 8
Body = Callable[[Listing, Operand, Operand, Callable[[], None]], None]


def _numbers(seed: int, rows: int = N) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, N)).astype(np.float32)


def _program(body: Body) -> Program:
    """A loop of 3 around `body(listing, weights, values of the weights, multiply)`; the product accumulates."""
    listing = Listing()
    left, right = listing.source(_numbers(1), 8), listing.source(_numbers(2), 8)
    total, fresh = listing.source(_numbers(3)), listing.source(_numbers(4))

    def multiply() -> None:
        listing.matmul(N, N, N, left, right, total, acc=1)

    with listing.loop(3):
        body(listing, right, fresh, multiply)
    return listing.program()


def _kept(program: Program) -> int:
    return len(JitEngine(program, MachineState(program)).prepare("step").flags) - 1


def _rewrite(listing: Listing, weights: Operand, fresh: Operand) -> None:
    """Change the fresh values, quantise them into the weights."""
    sink = replace(fresh, kind=Sink.WRITE)
    listing.vpu((N, N), [fresh], [uop(MicroOp.ADD, SRC, SRC)], [(sink, REG)])
    listing.vpu((N, N), [fresh], [], [(replace(weights, kind=Sink.WRITE), SRC)])


def _alone(listing: Listing, weights: Operand, fresh: Operand, multiply: Callable[[], None]) -> None:
    multiply()


def _written_before(listing: Listing, weights: Operand, fresh: Operand, multiply: Callable[[], None]) -> None:
    _rewrite(listing, weights, fresh)
    multiply()


def _written_after(listing: Listing, weights: Operand, fresh: Operand, multiply: Callable[[], None]) -> None:
    multiply()
    _rewrite(listing, weights, fresh)


def _inner_loop(listing: Listing, weights: Operand, fresh: Operand, multiply: Callable[[], None]) -> None:
    with listing.loop(2):
        multiply()
    _rewrite(listing, weights, fresh)


def _exponents_written(listing: Listing, weights: Operand, fresh: Operand, multiply: Callable[[], None]) -> None:
    """Only the exponent plane changes: a load of four other codes over it."""
    multiply()
    codes = listing.constant(np.array([[0x7C7D7E7F]], np.int32))
    listing.load(codes.addr, weights.eaddr, 4)


def _last_byte_written(listing: Listing, weights: Operand, fresh: Operand, multiply: Callable[[], None]) -> None:
    """The product itself is put over the last four mantissas at the last index only."""
    multiply()
    last = Operand(Sink.WRITE, addr=weights.addr + 16 * 4 - 4 - 8, hi=1, cstep=1, steps=(4, 0, 0, 0, 0))
    listing.vpu((1, 1), [fresh], [], [(last, SRC)])


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (_alone, 1),
        (_written_before, 0),
        (_written_after, 0),
        (_inner_loop, 1),
        (_exponents_written, 0),
        (_last_byte_written, 0),
    ],
)
def test_writers_in_the_loop(body: Body, kept: int) -> None:
    program = _program(body)
    assert _kept(program) == kept
    run_both(program, "auto")


def test_a_second_run_packs_again() -> None:
    """What is written between two runs counts."""
    program = _program(_alone)
    state = MachineState(program)
    engine = JitEngine(program, state)
    engine.run("step")
    first = state.sram.copy()
    matmul = next(i for i in program.instructions if i.opcode is isa.Opcode.MATMUL)
    state.dram[:] = np.roll(state.dram, 64)
    engine.run("step")
    assert not np.array_equal(state.sram, first)
    again = MachineState(program)
    again.dram[:] = state.dram
    JitEngine(program, again).run("step")
    assert np.array_equal(again.sram, state.sram)
    assert matmul["acc"] == 1


@pytest.mark.parametrize(("level", "kept"), [(0, 1), (1, 0)])
def test_an_operand_that_moves_with_the_loop(level: int, kept: int) -> None:
    """Moving with the outer loop, it stays through the inner one."""
    listing = Listing()
    left, right = listing.source(_numbers(1), 8), listing.source(_numbers(2, 5 * N), 12)
    steps = tuple(4 if i == level else 0 for i in range(isa.LOOP_LEVELS))
    total = listing.source(_numbers(3))
    with listing.loop(2), listing.loop(3):
        listing.matmul(N, N, N, left, replace(right, steps=steps), total, acc=1)
    program = listing.program()
    assert _kept(program) == kept
    run_both(program, "auto")


def test_a_ring_operand_is_packed_each_time() -> None:
    listing = Listing()
    left, right = listing.source(_numbers(1), 8), listing.source(_numbers(2, 5 * N), 8)
    total = listing.source(_numbers(3))
    with listing.loop(5):
        moved = replace(right, ring_level=0, ring_size=3, ring_step=8)
        listing.matmul(N, N, N, left, moved, total, acc=1)
    program = listing.program()
    assert _kept(program) == 0
    run_both(program, "auto")


@pytest.mark.parametrize("seed", range(25))
def test_random_writers_into_shared_memory(seed: int) -> None:
    """Products read, and quantised writes hit, random places of one pool at any loop level."""
    draw = np.random.default_rng(seed)
    listing = Listing()
    left = listing.source(_numbers(1), 8)
    pool = listing.source(_numbers(2, 16 * N), 8)  # 64 blocks; an operand has 4
    values = listing.source(_numbers(3))
    totals = [listing.source(_numbers(4 + i)) for i in range(3)]

    def moved(kind: int) -> Operand:
        first, steps = int(draw.integers(0, 40)), [0] * isa.LOOP_LEVELS
        for level in range(2):
            steps[level] = int(draw.choice([0, 0, 1, 4]))
        where = {"addr": pool.addr + 16 * first, "eaddr": pool.eaddr + first}
        return replace(pool, kind=kind, steps=tuple(steps), **where)

    def some() -> None:
        for _ in range(draw.integers(0, 3)):
            if draw.random() < 0.6:
                listing.matmul(N, N, N, left, moved(isa.Kind.TENSOR), totals[draw.integers(0, 3)], acc=1)
            else:
                listing.vpu((4, 4), [values], [], [(moved(Sink.WRITE), SRC)])
                listing.vpu((N, N), [values], [uop(MicroOp.NEG, SRC)], [(replace(values, kind=Sink.WRITE), REG)])

    for _ in range(2):
        with listing.loop(3):
            some()
            with listing.loop(2):
                some()
            some()
    run_both(listing.program(), "auto")
