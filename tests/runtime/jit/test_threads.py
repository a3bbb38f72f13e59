"""Any number of threads leaves the bits of one: cuts, barriers, and a team that neither hangs nor races."""

from dataclasses import replace

import numpy as np
import pytest

from pintac import isa, smx
from pintac.api.emitting import emit
from pintac.api.lowering import lower
from pintac.errors import ExecutionError, UsageError
from pintac.isa import Kind, MicroOp, Opcode, Operand, Sink, Space
from pintac.machine import Machine
from pintac.program import Program
from pintac.runtime.jit import JitEngine, interpreter, parallel
from pintac.runtime.jit.regions import Access, accesses, disjoint
from pintac.runtime.jit.split import COLUMNS, ROWS, split
from pintac.runtime.session import Session
from pintac.runtime.state import MachineState
from tests.end_to_end.test_bits import Case
from tests.runtime.jit.engines import AVAILABLE, run_both
from tests.runtime.listing import REG, SRC, Listing, uop
from tests.runtime.programs import assert_same_memory, random_program


def _numbers(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("seed", range(10))
def test_random_programs(seed: int, threads: int) -> None:
    run_both(random_program(2000 + seed, 1 + seed % 6), AVAILABLE[0], threads=threads)


STEPS = {
    "tensor trains": Case(),
    "gated": Case(gated=True, width=6, K=6, points=(3, 1, 2), bits="8/8/8/12"),
    "dense": Case(scheme="dense", rank=3),
    "several groups of tiles": Case(K=540, points=(1, 1), width=6),
    "tiny machine": Case(machine="tiny", hard=True, K=4, points=(3, 2, 2)),
}


@pytest.mark.parametrize("name", STEPS)
def test_training_steps(name: str) -> None:
    case = STEPS[name]
    program = emit(lower(case.step(), case.options()), Machine.load(case.machine).replace(**case.keys))
    one, two = (Session(program, "jit", threads=n) for n in (1, 2))
    for session in (one, two):
        session.step(2)
    assert_same_memory(two.state, one.state)
    assert two.state.status[0] == one.state.status[0]


def test_more_threads_than_processors_or_rows() -> None:
    listing = Listing()
    source = listing.source(_numbers(8, 40))
    total = listing.source(np.zeros((1, 40), np.float32))
    with listing.loop(50):
        listing.vpu((8, 40), [source], [], [(replace(total, kind=Sink.SUM_ROWS), SRC)], acc0=1)
        product = [uop(MicroOp.MUL, SRC, SRC + 1)]
        listing.vpu((8, 40), [source, replace(total, hi=0)], product, [(_written(source), REG)])
    run_both(listing.program(), AVAILABLE[0], threads=8)


def _written(o: Operand) -> Operand:
    return replace(o, kind=Sink.WRITE)


def _chain(listing: Listing) -> None:
    """Row cuts would do, but for a sum over rows in the middle and a transposed reader."""
    x = listing.source(_numbers(32, 48))
    packed, weights = listing.sink((32, 48), bits=8), listing.source(_numbers(48, 32, 1), 8)
    square, sums = listing.sink((32, 32)), listing.source(np.zeros((1, 32), np.float32))
    product = listing.sink((48, 32))
    gradient = listing.sink((32, 32), bits=12)

    def tensor(o: Operand) -> Operand:
        return replace(o, kind=Kind.TENSOR)

    with listing.loop(7):
        listing.vpu((32, 48), [x], [], [(packed, SRC)])
        listing.matmul(32, 32, 48, tensor(packed), weights, tensor(square))
        sinks = [(gradient, SRC), (replace(sums, kind=Sink.SUM_ROWS), SRC)]
        listing.vpu((32, 32), [tensor(square)], [], sinks, acc1=1)
        listing.matmul(48, 32, 32, tensor(packed), tensor(gradient), tensor(product), ta=1)
        across = replace(tensor(product), hi=1, cstep=32)
        listing.vpu((32, 48), [x, across], [uop(MicroOp.SUB, SRC, SRC + 1)], [(_written(x), REG)])


@pytest.mark.parametrize("threads", [2, 4])
def test_a_chain_that_has_to_meet(threads: int) -> None:
    listing = Listing()
    _chain(listing)
    program = listing.program()
    shares = _shares(program, threads)
    assert shares.barriers
    run_both(program, AVAILABLE[0], threads=threads)


def _shares(program: Program, threads: int) -> parallel.Shares:
    state = MachineState(program)
    return parallel.share(program, "step", threads, [state.size(s) for s in Space])


def test_without_barriers_the_same_program_is_wrong() -> None:
    """So the barriers of the chain are there for a reason: its parts one after the other give other bits."""
    listing = Listing()
    _chain(listing)
    program = listing.program()
    expected, actual = MachineState(program), MachineState(program)
    JitEngine(program, expected).run("step")
    engine = JitEngine(program, actual, threads=2)
    engine.prepare("step")
    plans = engine._plans["step"]
    for plan in plans:
        plan.steps[plan.steps[:, 0] == interpreter.BARRIER, 1] = 0  # barriers of no threads
    for thread, plan in enumerate(plans):
        assert engine._run(thread, plan) == -1
    assert not np.array_equal(actual.sram, expected.sram)


def test_parts_write_what_the_whole_writes_and_nothing_twice() -> None:
    for seed in range(6):
        program = random_program(3000 + seed, 3)
        for instruction in program.instructions:
            if instruction.opcode not in (Opcode.MATMUL, Opcode.VPU, Opcode.LOAD, Opcode.STORE):
                continue
            whole = _bytes(instruction)
            for axis in (ROWS, COLUMNS):
                parts = split(instruction, axis, 3)
                if parts is not None:
                    pieces = [_bytes(p) for p in parts if p is not None]
                    assert set().union(*pieces) == whole
                    assert sum(len(p) for p in pieces) == len(whole)


def _bytes(instruction: isa.Instruction) -> set[tuple[int, int]]:
    """(space, byte) of everything an instruction writes at index 0."""
    return {(a.space, byte) for a in accesses(instruction, [], [0, 0, 0]) if a.write for byte in _members(a)}


def _members(a: Access) -> set[int]:
    starts = {a.base}
    for stride, count in a.terms:
        starts = {s + stride * i for s in starts for i in range(count)}
    return {s + i for s in starts for i in range(a.run)}


def test_disjoint_is_never_wrongly_true() -> None:
    draw = np.random.default_rng(0)
    found = 0

    def one() -> Access:
        strides = draw.choice([1, 4, 6, 8, 16, 24], draw.integers(0, 3)).tolist()
        terms = tuple((stride, int(draw.integers(2, 5))) for stride in strides)
        return Access(1, True, int(draw.integers(0, 40)), terms, int(draw.integers(1, 7)), 0)

    for _ in range(3000):
        a, b = one(), one()
        apart = not _members(a) & _members(b)
        assert apart or not disjoint(a, b)
        found += disjoint(a, b) and a.base < b.end and b.base < a.end
    assert found > 50  # and not only where the intervals are apart


def test_a_bad_row_ends_all_threads() -> None:
    listing = Listing()
    data = listing.constant(np.arange(64, dtype=np.float32).reshape(8, 8))
    index, _ = listing.on_chip(np.array([[0, 3, 1 << 20]], np.int32))
    target = listing.allocate(Space.SRAM, 96)
    source = Operand(space=Space.DRAM, addr=data.addr, hi=32)
    operands = {"s0": source, "s1": Operand(addr=index), "d0": Operand(addr=target, hi=32)}
    x = listing.source(_numbers(32, 64))
    sink = listing.sink((1, 64), Sink.SUM_ROWS)
    listing.emit(Opcode.LOAD, operands, size=32, count=3, outer=1, gather=1)
    for _ in range(3):
        listing.vpu((32, 64), [x], [], [(sink, SRC)])
        both = [x, replace(sink, kind=Kind.TENSOR, hi=0)]
        listing.vpu((32, 64), both, [uop(MicroOp.ADD, SRC, SRC + 1)], [(_written(x), REG)])
    program = listing.program()
    engine = JitEngine(program, MachineState(program), threads=3)
    for _ in range(2):  # and the team can be used again
        with pytest.raises(ExecutionError, match="outside DRAM"):
            engine.run("step")


def test_flags_of_every_thread_count() -> None:
    x = _numbers(32, 64)
    x[30, 60] = np.inf
    listing = Listing()
    listing.vpu((32, 64), [listing.source(x)], [], [(listing.sink((32, 64), bits=8), SRC)])
    state = run_both(listing.program(), AVAILABLE[0], threads=2)
    assert state.status[0] == smx.FLAG_NONFINITE


def test_no_threads() -> None:
    program = Listing().program()
    with pytest.raises(UsageError, match="0 threads"):
        JitEngine(program, MachineState(program), threads=0)
