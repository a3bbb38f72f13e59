"""Any number of threads leaves the bits of one: pieces, copies, waits, and a team that neither hangs nor races."""

from dataclasses import replace

import numpy as np
import pytest

from pintac import smx
from pintac.api.emitting import emit
from pintac.api.lowering import lower
from pintac.errors import ExecutionError, UsageError
from pintac.isa import Kind, MicroOp, Opcode, Operand, Sink, Space
from pintac.machine import Machine
from pintac.program import Program
from pintac.runtime.jit import JitEngine, split, team
from pintac.runtime.session import Session
from pintac.runtime.state import MachineState
from tests.end_to_end.test_bits import Case
from tests.runtime.jit.engines import AVAILABLE, run_both
from tests.runtime.jit.replay import Replay, WrongVersionError, touched
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


def _long_sums(listing: Listing) -> None:
    """Accumulations to cut, from operands that change: transposed and not, SMX8 and SMX12, no whole blocks."""
    x, y = listing.source(_numbers(22, 28)), listing.source(_numbers(22, 36, 1))
    left, right = listing.sink((22, 28), bits=8), listing.sink((22, 36), bits=12)
    total, other = listing.source(np.zeros((28, 36), np.float32)), listing.source(np.zeros((22, 22), np.float32))
    with listing.loop(3):
        listing.vpu((22, 28), [x], [uop(MicroOp.ADD, SRC, SRC)], [(left, SRC), (_written(x), REG)])
        listing.vpu((22, 36), [y], [], [(right, SRC)])
        a, b = replace(left, kind=Kind.TENSOR), replace(right, kind=Kind.TENSOR)
        listing.matmul(28, 36, 22, a, b, total, ta=1, acc=1)
        listing.matmul(22, 22, 28, a, a, other, tb=1, acc=1)


def _program(name: str) -> Program:
    if name.startswith("random"):
        return random_program(int(name.split()[1]), 4)
    listing = Listing()
    {"chain": _chain, "long sums": _long_sums}[name](listing)
    return listing.program()


PROGRAMS = ("chain", "long sums", *(f"random {seed}" for seed in range(2000, 2006)))


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("name", ["chain", "long sums"])
def test_hand_written_programs(name: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "LONG", 1)
    run_both(_program(name), AVAILABLE[0], threads=threads)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("name", PROGRAMS)
def test_whoever_is_faster_everybody_reads_what_the_listing_says(
    name: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replays of the rows byte by byte, with versions for values, in many orders that the waits allow."""
    monkeypatch.setattr(split, "LONG", 1)
    replay = Replay(_program(name), threads)
    assert all(len(rows) for rows in replay.rows)
    for seed in range(6):
        replay.run(seed)


@pytest.mark.parametrize("name", ["chain", "long sums"])
def test_without_any_of_its_waits_a_replay_finds_something_wrong(name: str) -> None:
    replay = Replay(_program(name), 2)
    waits = [(t, i) for t, rows in enumerate(replay.rows) for i in np.flatnonzero(rows[:, 0] == team.WAIT)]
    assert waits
    rows = replay.rows
    replay.rows = [r.copy() for r in rows]
    for t, i in waits:
        replay.rows[t][i, 2] = 0
    with pytest.raises(WrongVersionError):
        for seed in range(20):
            replay.run(seed)


def test_pieces_of_a_matmul_write_what_the_whole_writes_and_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "LONG", 1)
    cut = 0
    for name in PROGRAMS:
        program = _program(name)
        for threads in (2, 3):
            made = split.split(program, "step", threads)
            for pc in range(*program.entry("step")):
                pieces = [made.program.instructions[i] for i in np.flatnonzero(made.number == pc)]
                if len(pieces) > 1:
                    cut += 1
                    written = [byte for piece in pieces for byte in touched(piece, write=True)]
                    assert len(written) == len(set(written))
                    assert set(written) == touched(program.instructions[pc], write=True)
                else:
                    assert pieces == [program.instructions[pc]]
    assert cut > 5


def test_what_is_dealt_out_is_about_even_and_little_is_copied() -> None:
    """Two threads on a training step: near halves of the time that the model says, few bytes from one to the other."""
    program = emit(lower(Case(K=512, points=(12, 2), width=64).step(), Case().options()), Machine.default(), effort=0.1)
    engine = JitEngine(program, MachineState(program), threads=2)
    engine.run("step")
    (crew,) = engine._teams.values()
    executed = [int((rows[:, 0] == team.RUN).sum()) for rows in crew.rows]
    assert min(executed) > 0.3 * sum(executed)
    copied = sum(int((r[:, 4] * r[:, 5])[r[:, 0] == team.COPY].sum()) for r in crew.rows)
    moved = sum(len(touched(i, write=True)) for i in program.instructions)
    assert copied < 100 * moved


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
