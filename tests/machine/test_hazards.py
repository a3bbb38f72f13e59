"""The hazard check on hand-written double-buffered programs, against replays on the reference engine.

`clean` must mean that every legal order leaves the listing's memory, `hazard` that the witness does not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from pintac import isa
from pintac.footprint import accesses, tensor_regions
from pintac.hazards import (
    ORDERINGS,
    OUT_OF_BOUNDS,
    Verdict,
    check,
    check_listing,
    is_legal,
    legal_orders,
)  # fmt: skip
from pintac.isa import Instruction, Kind, Opcode, Operand, Queue, Semaphore, Sink, Space, make
from pintac.isa.encoding import decode_table, encode_program
from pintac.isa.regions import regions
from pintac.program import Program, Symbol
from pintac.runtime.reference import ReferenceEngine
from pintac.runtime.state import MachineState
from pintac.stream import dynamic_stream
from tests.machine.listings import (
    PARAMS,
    end,
    fp32,
    load,
    loop,
    matmul,
    semaphore,
    signal,
    smx,
    store,
    vpu,
    wait,
    write,
)

L, T, V, S = Queue.LOAD, Queue.TCU, Queue.VPU, Queue.STORE
TILES = 4
TILE = 256  # bytes of an 8x8 fp32 tile
X, Y, W = 0, TILES * TILE, 2 * TILES * TILE  # DRAM
IN, OUT, RAW, QUANT, QUANT_E, WEIGHT, WEIGHT_E = 0, 1024, 1536, 2048, 2304, 2560, 2688  # SRAM; PSUM from 0


def ring(size: int) -> dict[str, int]:
    return {"ring_level": 0, "ring_size": 2, "ring_step": size}


def quantise(source: Operand, to: Operand) -> Instruction:
    return vpu(8, 8, [source], [write(to)])


# x tiles come in, are quantised, multiplied by W, doubled, and go out; every buffer has two slots.
PIPELINE = [
    load(W, RAW, TILE), signal(L, 8), wait(V, 8), quantise(fp32(RAW, 8), smx(8, WEIGHT, WEIGHT_E, 2)), signal(V, 9),
    wait(T, 9),
    loop(0, TILES),
    wait(L, 0), load(X, IN, TILE, dram_steps=(TILE, 0, 0, 0, 0), **ring(TILE)), signal(L, 1),
    wait(V, 1), wait(V, 2), quantise(fp32(IN, 8, **ring(TILE)), smx(8, QUANT, QUANT_E, 2, **ring(4))), signal(V, 0),
    signal(V, 3),
    wait(T, 3), wait(T, 4),
    matmul(
        8, 8, 8, smx(8, QUANT, QUANT_E, 2, **ring(4)), smx(8, WEIGHT, WEIGHT_E, 2), fp32(0, 8, Space.PSUM, **ring(TILE))
    ),
    signal(T, 2), signal(T, 5),
    wait(V, 5), wait(V, 6), vpu(8, 8, [fp32(0, 8, Space.PSUM, **ring(TILE))], [write(fp32(OUT, 8, **ring(TILE)))]),
    signal(V, 4), signal(V, 7),
    wait(S, 7), store(OUT, Y, TILE, dram_steps=(TILE, 0, 0, 0, 0), **ring(TILE)), signal(S, 6),
    end(0),
]  # fmt: skip
SEMAPHORES = (
    semaphore(0, V, L, 2, 2), semaphore(1, L, V, 0, 2), semaphore(2, T, V, 2, 2), semaphore(3, V, T, 0, 2),
    semaphore(4, V, T, 2, 2), semaphore(5, T, V, 0, 2), semaphore(6, S, V, 2, 2), semaphore(7, V, S, 0, 2),
    semaphore(8, L, V, 0, 1), semaphore(9, V, T, 0, 1),
)  # fmt: skip
# The vector unit copies the result of tile i before it quantises tile i + 2, and the weights first of all: the
# "free" signals between it and the tensor unit and the weights' own order nothing that is not ordered already.
REDUNDANT = (2, 4, 9)


def program(listing: Sequence[Instruction], semaphores: Sequence[Semaphore]) -> Program:
    rng = np.random.default_rng(1)
    tensors = {"x": (X, TILES), "y": (Y, TILES), "w": (W, 1)}
    return Program(
        code=encode_program(listing),
        entries={"step": (0, len(listing))},
        dram_bytes=W + TILE,
        sram_bytes=4096,
        psum_bytes=1024,
        semaphores=tuple(semaphores),
        symbols={n: Symbol(n, a, (k, 8, 8), "f32", "output" if n == "y" else "state") for n, (a, k) in tensors.items()},
        init={n: rng.standard_normal((k, 8, 8)).astype(np.float32) for n, (_, k) in tensors.items() if n != "y"},
    )


def replay(p: Program, order: np.ndarray | None = None) -> bytes:
    """Memory after executing the entry's positions in this order (default: the listing's) on the reference engine."""
    state = MachineState(p)
    engine = ReferenceEngine(p, state)
    start, stop = p.entry("step")
    pc, index = dynamic_stream(p.table, start, stop, PARAMS)
    engine._values = {s.number: 1 << 20 for s in p.semaphores}  # order is what is tested here, not counting
    engine._semaphores = {s.number: replace(s, capacity=1 << 30) for s in p.semaphores}
    for position in range(len(pc)) if order is None else order:
        decoded = engine._decode(int(pc[position]))
        engine._execute[decoded.instruction.opcode](decoded, tuple(int(i) for i in index[position]))
    return state.dram.tobytes() + state.sram.tobytes() + state.psum.tobytes()


def orders(p: Program, random: int) -> Iterator[np.ndarray]:
    start, stop = p.entry("step")
    return legal_orders(p.table, start, stop, p.semaphores, PARAMS, random)


def judged(p: Program, random: int = 4) -> Verdict:
    """The verdict, after making sure by execution that it is right."""
    verdict = check(p)
    start, stop = p.entry("step")
    if verdict.clean:
        expected = replay(p)
        for order in orders(p, random):
            assert len(order) == verdict.positions
            assert replay(p, order) == expected
    elif verdict.name == "hazard":
        expected = replay(p)
        witnesses = [problem for problem in verdict.problems if problem.order is not None]
        for problem in witnesses:
            assert problem.order is not None
            assert is_legal(problem.order, p.table, start, stop, p.semaphores, PARAMS)
            at = {int(position): i for i, position in enumerate(problem.order)}
            assert at[problem.second] < at[problem.first]
        assert any(replay(p, problem.order) != expected for problem in witnesses), str(verdict)
    return verdict


def test_pipeline_is_clean_in_100_random_and_24_extreme_orders() -> None:
    p = program(PIPELINE, SEMAPHORES)
    assert judged(p, random=100).clean
    assert len({order.tobytes() for order in orders(p, 100)}) > 50  # the queues really run in different orders


@pytest.mark.parametrize("number", range(10))
def test_deleting_a_semaphore_is_a_hazard(number: int) -> None:
    kept = [i for i in PIPELINE if i.opcode not in (Opcode.SIGNAL, Opcode.WAIT) or i["sem"] != number]
    assert len(kept) == len(PIPELINE) - 2
    verdict = judged(program(kept, SEMAPHORES))
    if number in REDUNDANT:
        assert verdict.clean
    else:
        assert verdict.name == "hazard"
        assert verdict.problems[0].kind in ORDERINGS


@pytest.mark.parametrize("number", range(8))
def test_one_credit_more_is_found(number: int) -> None:
    changed = [replace(s, credit=s.credit + 1) if s.number == number else s for s in SEMAPHORES]
    assert any(p.kind == "semaphore over its capacity" for p in check(program(PIPELINE, changed)).problems)
    roomy = [replace(s, capacity=8) for s in changed]
    assert judged(program(PIPELINE, roomy)).clean == (number in REDUNDANT)


@pytest.mark.parametrize("number", [0, 2, 4, 6])
def test_one_credit_less_is_slower_and_right(number: int) -> None:
    changed = [replace(s, credit=s.credit - 1) if s.number == number else s for s in SEMAPHORES]
    assert judged(program(PIPELINE, changed)).clean
    none = [replace(s, credit=0) if s.number == number else s for s in SEMAPHORES]
    verdict = judged(program(PIPELINE, none))
    assert [p.kind for p in verdict.problems] == ["wait without a signal"]
    assert all(len(order) < verdict.positions for order in orders(program(PIPELINE, none), 0))


def moves() -> Iterator[tuple[int, int]]:
    """(from, to) of every wait or signal moved past its neighbour of the same queue's next or previous instruction."""
    for at, i in enumerate(PIPELINE):
        if i.opcode in (Opcode.SIGNAL, Opcode.WAIT):
            for direction in (-1, 1):
                to = at + direction
                while 0 <= to < len(PIPELINE) and PIPELINE[to].queue not in (i.queue, None):
                    to += direction
                if 0 <= to < len(PIPELINE) and PIPELINE[to].queue is not None:
                    yield at, to


@pytest.mark.parametrize(("at", "to"), list(moves()))
def test_moving_a_wait_or_a_signal_by_one_is_judged_rightly(at: int, to: int) -> None:
    moved = [i for j, i in enumerate(PIPELINE) if j != at]
    moved.insert(to, PIPELINE[at])
    verdict = judged(program(moved, SEMAPHORES))
    work = (Opcode.LOAD, Opcode.STORE, Opcode.MATMUL, Opcode.VPU)
    outward = (to > at) == (PIPELINE[at].opcode is Opcode.WAIT)  # a later wait, an earlier signal: less is ordered
    if PIPELINE[to].opcode in work and PIPELINE[at]["sem"] not in REDUNDANT:
        assert verdict.clean != outward, (at, to, str(verdict))


def shifts() -> Iterator[tuple[int, str]]:
    for at, i in enumerate(PIPELINE):
        for group in isa.GROUPS:
            if i.opcode not in (Opcode.SIGNAL, Opcode.WAIT) and i[f"{group}.kind"]:
                yield at, group


@pytest.mark.parametrize(("at", "group"), list(shifts()))
def test_shifting_an_address_by_a_tile_is_found_or_harmless(at: int, group: str) -> None:
    i = PIPELINE[at]
    step = 64 if i[f"{group}.bits"] else TILE
    shifted = Instruction(i.opcode, {**i.values, f"{group}.addr": i[f"{group}.addr"] + step})
    verdict = judged(program([*PIPELINE[:at], shifted, *PIPELINE[at + 1 :]], SEMAPHORES))
    # Only the parameters' and outputs' places in DRAM can move without touching what another instruction uses.
    assert not verdict.clean or (i.opcode in (Opcode.LOAD, Opcode.STORE) and group in ("s0", "d0"))
    if i[f"{group}.space"] == Space.SRAM:
        assert not verdict.clean


def tiny_check(listing: list[Instruction], initial: Sequence[tuple[Space, int, int]] = (), **sems: int) -> Verdict:
    semaphores = (semaphore(0, L, V, 0, sems.get("capacity", 8)),)
    return check_listing(
        decode_table(listing), 0, len(listing), semaphores, PARAMS, (4096, 4096, 1024), initial=initial
    )


DRAM = [(Space.DRAM, 0, 4096)]


def test_strided_rows_that_interleave_are_no_conflict() -> None:
    # two transfers of 4 rows of 16 bytes, 32 apart, 16 bytes shifted: no byte in common
    even = load(0, 0, 16, count=4, stride=16, local=32)
    add = vpu(4, 4, [fp32(1024, 4)], [write(fp32(16, 8))])
    assert tiny_check([even, add], [*DRAM, (Space.SRAM, 1024, 1088)]).clean
    overlapping = vpu(4, 4, [fp32(1024, 4)], [write(fp32(12, 8))])
    verdict = tiny_check([even, overlapping], [*DRAM, (Space.SRAM, 1024, 1088)])
    assert [p.kind for p in verdict.problems] == ["writes in the wrong order"]
    assert verdict.problems[0].address % 32 in range(12, 16)


def test_uninitialised_reads() -> None:
    read = vpu(4, 4, [fp32(0, 4)], [write(fp32(256, 4))])
    half = [load(0, 0, 32), signal(L, 0), wait(V, 0), read]
    assert [p.kind for p in tiny_check(half, DRAM).problems] == ["uninitialised read"]
    assert tiny_check([load(0, 0, 64), *half[1:]], DRAM).clean
    verdict = tiny_check([load(0, 0, 64), *half[1:]])
    assert "instruction 0 (load on load), position 0 reads byte 0 of DRAM" in verdict.problems[0].message
    assert verdict.name == "error"


def test_bounds() -> None:
    verdict = tiny_check([loop(0, 3), load(0, 0, 64, sram_steps=(2032, 0, 0, 0, 0)), end(0)], DRAM)
    assert [(p.kind, p.second, p.space) for p in verdict.problems] == [(OUT_OF_BOUNDS, 2, Space.SRAM)]
    assert "bytes 4064 to 4128 of SRAM, which has 4096" in verdict.problems[0].message
    assert tiny_check([loop(0, 3), load(0, 0, 64, sram_steps=(2016, 0, 0, 0, 0)), end(0)], DRAM).clean


def test_capacity_counts_what_cannot_have_been_taken() -> None:
    assert tiny_check([signal(L, 0), signal(L, 0)], capacity=2).clean
    verdict = tiny_check([signal(L, 0), signal(L, 0), signal(L, 0)], capacity=2)
    assert [(p.kind, p.second) for p in verdict.problems] == [("semaphore over its capacity", 2)]
    # the wait in between does not help: nothing makes the third signal come after it
    verdict = tiny_check([signal(L, 0), signal(L, 0), wait(V, 0), signal(L, 0)], capacity=2)
    assert [p.second for p in verdict.problems] == [3]


def test_gathers_may_touch_their_whole_object() -> None:
    remote = Operand(kind=Kind.TENSOR, space=Space.DRAM, addr=1024, hi=8)
    near = Operand(kind=Sink.WRITE, space=Space.SRAM, addr=512, hi=8)
    gather = make(
        Opcode.LOAD, {"s0": remote, "s1": fp32(0, 1), "d0": near}, size=8, count=6, outer=1, gather=isa.Gather.INDEX
    )
    put = store(0, 2000, 16)
    known = [*DRAM, (Space.SRAM, 0, 64)]
    assert [p.kind for p in tiny_check([gather, put], known).problems] == ["write before an earlier read"]
    assert check_listing(
        decode_table([gather, put]), 0, 2, (), PARAMS, (4096, 4096, 1024), initial=known,
        objects=[(Space.DRAM, 1024, 2000)],
    ).clean  # fmt: skip


def test_regions_are_those_of_the_instruction_table() -> None:
    """Two independent derivations of what an instruction touches give the same bytes."""

    def covered(touched: list[tuple[int, int, int, int, int, int, int, bool]]) -> set[tuple[int, int, bool]]:
        return {
            (space, start + j * outer_stride + i * stride + byte, write)
            for space, start, size, count, stride, outer, outer_stride, write in touched
            for j in range(outer)
            for i in range(count)
            for byte in range(size)
        }

    more = [
        vpu(10, 5, [fp32(0, 40, inner=4, lo=7), fp32(4, 9, cstep=2)], [write(fp32(1000, 5), Sink.SUM_ROWS)], acc0=1),
        vpu(
            10, 5, [fp32(0, 3, inner=4, lo=0, cstep=0)], [write(smx(12, 500, 900, 2)), write(fp32(0, 1), Sink.MAX_COLS)]
        ),
        vpu(7, 3, [fp32(0, 40, inner=4, lo=7, cstep=3)], [write(fp32(1000, 0), Sink.SUM_ALL)]),
    ]
    for i in [*PIPELINE, *more]:
        if i.opcode in (Opcode.SIGNAL, Opcode.WAIT, Opcode.LOOP, Opcode.ENDLOOP):
            continue
        row = decode_table([i])[0]
        ours = [(o.space, *shape, write) for o, _, shape, write, _ in accesses(row)]
        table = [
            (r.space, r.start, r.size, r.count, r.stride, r.outer, r.outer_stride, r.write)
            for r in regions(i, [0] * isa.LOOP_LEVELS)
        ]
        assert covered(ours) == covered(table)
    assert [unit for unit, _ in tensor_regions(smx(12, 0, 64, 1), 4, 4)] == [24, 1]


def test_speed_at_two_hundred_thousand_positions() -> None:
    body = PIPELINE[7:-1]
    listing = [*PIPELINE[:6], loop(0, 2), loop(1, 5000), *body, end(1), end(0)]
    fast = [Instruction(i.opcode, {k: v for k, v in i.values.items() if k != "s0.step0"}) for i in listing]
    fast = [Instruction(i.opcode, {k: v for k, v in i.values.items() if k != "d0.step0"}) for i in fast]
    fast = [
        Instruction(i.opcode, {k: 1 if k.endswith("ring_level") else v for k, v in i.values.items()}
                    | ({f"{g}.ring_level": 1 for g in ("s0", "d0") if i[f"{g}.ring_size"]}))
        for i in fast
    ]  # fmt: skip
    p = program(fast, SEMAPHORES)
    started = time.perf_counter()
    verdict = check(p)
    assert verdict.positions == 6 + 10_000 * len(body) > 200_000
    assert verdict.clean, str(verdict)
    assert time.perf_counter() - started < 5.0
