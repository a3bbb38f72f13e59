"""Cycle counts of small listings on the 2x2-engine machine, each derived by hand in the comments.

Costs used throughout (see test_cost.py): a 64-byte transfer takes the bus for 4 cycles and completes 10 later; an 8x8x8
INT8 matmul takes the array for 8, its results 4 more, the way through the array 2; an 8x8 vector instruction takes 4
cycles and completes 4 later; two transfers may be outstanding.
"""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pintac import isa
from pintac.errors import ExecutionError, MachineError
from pintac.isa import Dataflow, Instruction, Kind, Opcode, Operand, Queue, Semaphore, Space, make
from pintac.isa.encoding import decode_table
from pintac.machine import Machine
from pintac.timeline import PC_CAUSE_NAMES, Timing, simulate_listing
from tests.machine import cycle_stepped
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
)  # fmt: skip

TINY = Machine.load("tiny")
LEFT, RIGHT = smx(8, 0x1000, 0x1400, 2), smx(8, 0x1200, 0x1500, 2)


def timed(listing: list[Instruction], semaphores: tuple[Semaphore, ...] = (), events: int = 0) -> Timing:
    timing = simulate_listing(decode_table(listing), 0, len(listing), semaphores, TINY, PARAMS, events=events)
    for queue, busy in timing.busy.items():
        assert busy + sum(timing.stalls[queue].values()) == timing.cycles, queue
    attributed(listing, timing)
    return timing


def attributed(listing: list[Instruction], timing: Timing) -> None:
    """What is told by instruction adds up to what is told by queue."""
    queue_of = {pc: i.queue.name.lower() for pc, i in enumerate(listing) if i.queue is not None}
    for queue, stalls in timing.stalls.items():
        mine = [pc for pc, q in queue_of.items() if q == queue]
        assert timing.pc_busy[mine].sum() == timing.busy[queue]
        for column, cause in enumerate(PC_CAUSE_NAMES):
            stalled = timing.pc_stalls[mine, column].sum()
            if cause == "wait":
                assert stalled == sum(cycles for name, cycles in stalls.items() if name.startswith("wait "))
            elif cause == "issue":
                assert stalled <= stalls.get("issue", 0)  # the rest is behind the last instruction that does something
            else:
                assert stalled == stalls.get(cause, 0), cause
    waited = np.zeros(len(listing), np.int64)
    for wait_pc, signal_pc, cycles in timing.pairs.tolist():
        assert cycles > 0 and listing[wait_pc]["sem"] == listing[signal_pc]["sem"]
        waited[wait_pc] += cycles
    assert waited.tolist() == timing.pc_stalls[:, PC_CAUSE_NAMES.index("wait")].tolist()


def mm(
    d: int = 0, m: int = 8, k: int = 8, bits: int = 8, acc: int = 0, flow: Dataflow = Dataflow.OUTPUT
) -> Instruction:
    left, right = smx(bits, 0x1000, 0x1400, 2), smx(bits, 0x1200, 0x1500, 2)
    return matmul(m, k, 8, left, right, fp32(d, 8, Space.PSUM), flow, acc)


def add(source: int, to: int, size: int = 8) -> Instruction:
    return vpu(size, size, [fp32(source, size)], [write(fp32(to, size))])


def test_one_load() -> None:
    t = timed([load(0, 0, 64)])
    assert t.cycles == 14
    assert (t.busy["load"], t.stalls["load"]) == (4, {"end": 10})
    assert t.stalls["tcu"] == {"end": 14}
    assert (t.dram_bytes, t.instructions, t.macs) == (64, 1, 0)


CHAIN = [
    load(0, 0, 64), signal(Queue.LOAD, 0),
    wait(Queue.TCU, 0), mm(), signal(Queue.TCU, 1),
    wait(Queue.VPU, 1), vpu(8, 8, [fp32(0, 8, Space.PSUM)], [write(fp32(0x200, 8))]), signal(Queue.VPU, 2),
    wait(Queue.STORE, 2), store(0x200, 0, 64),
]  # fmt: skip
CHAIN_SEMAPHORES = (
    semaphore(0, Queue.LOAD, Queue.TCU), semaphore(1, Queue.TCU, Queue.VPU), semaphore(2, Queue.VPU, Queue.STORE),
)  # fmt: skip


def test_a_chain_through_all_queues() -> None:
    # load complete at 14; the wait takes a cycle: matmul 15-23, results 27, through the array 29; vector 30-34, done
    # 38; store 39-43, complete 53
    t = timed(CHAIN, CHAIN_SEMAPHORES)
    assert t.cycles == 53
    assert t.busy == {"load": 4, "tcu": 8, "vpu": 4, "store": 4}
    assert t.stalls["load"] == {"end": 49}
    assert t.stalls["tcu"] == {"wait sem0": 14, "issue": 1, "end": 30}
    assert t.stalls["vpu"] == {"wait sem1": 29, "issue": 1, "end": 19}
    assert t.stalls["store"] == {"wait sem2": 38, "issue": 1, "end": 10}
    assert t.waits == {"load": {}, "tcu": {"load": 14}, "vpu": {"tcu": 29}, "store": {"vpu": 38}}
    assert (t.macs, t.instructions, t.dram_bytes) == (512, 10, 128)
    assert t.pc_busy.tolist() == [4, 0, 0, 8, 0, 0, 4, 0, 0, 4]
    assert t.pc_stall.tolist() == [0, 0, 14, 0, 0, 29, 0, 0, 38, 0]
    assert t.pairs.tolist() == [[2, 1, 14], [5, 4, 29], [8, 7, 38]]


def test_waits_go_to_the_signal_that_ended_them() -> None:
    # One semaphore, two signals in the listing: loads complete at 14 and 18 (bus 0-4 and 4-8). The tensor unit waits
    # 0-14, works 15-23, and the second wait, taken at 16, finds its signal at 18, while the array works: no stall.
    listing = [
        load(0, 0, 64), signal(Queue.LOAD, 0), load(0, 64, 64), signal(Queue.LOAD, 0),
        wait(Queue.TCU, 0), mm(), wait(Queue.TCU, 0), mm(256),
    ]  # fmt: skip
    t = timed(listing, (semaphore(0, Queue.LOAD, Queue.TCU),))
    assert t.pairs.tolist() == [[4, 1, 14]]
    # The vector unit waits twice for one wait of a loop: for the first signal (14) and the second (18).
    listing = [*listing[:4], loop(0, 2), wait(Queue.VPU, 0), add(0, 512, 4), end(0)]
    t = timed(listing, (semaphore(0, Queue.LOAD, Queue.VPU),))  # 15-16; free at 16, waits until 18
    assert t.pairs.tolist() == [[5, 1, 14], [5, 3, 2]]


def test_histogram_of_the_chain() -> None:
    # busy: load 0-4, tensor 15-23, vector 30-34, store 39-43, of 53 cycles: six buckets of nine
    table = decode_table(CHAIN)
    t = simulate_listing(table, 0, len(table), CHAIN_SEMAPHORES, TINY, PARAMS, buckets=6)
    assert (t.cycles, t.bucket_cycles) == (53, 9)
    assert t.histogram.tolist() == [
        [4, 0, 0, 0, 0, 0],
        [0, 3, 5, 0, 0, 0],
        [0, 0, 0, 4, 0, 0],
        [0, 0, 0, 0, 4, 0],
    ]  # fmt: skip
    # four short matmuls with three cycles between them in which the result port holds up the array (below)
    table = decode_table([mm(256 * i, k=4, bits=4) for i in range(4)])
    t = simulate_listing(table, 0, len(table), (), TINY, PARAMS, buckets=19)
    assert np.flatnonzero(t.histogram[1]).tolist() == [0, 1, 5, 9]


def test_back_to_back_matmuls_hide_drain_and_skew() -> None:
    # arrays 0-8 and 8-16; the second's results 20, complete 22 (twice 14 would be 28)
    t = timed([mm(0), mm(256)])
    assert t.cycles == 22
    assert (t.busy["tcu"], t.stalls["tcu"]) == (16, {"end": 6})


def test_result_port_holds_up_short_matmuls() -> None:
    # INT4, one k-block: 1 cycle of array, 4 of results. Array done at 1; then each result waits for the one before:
    # 5, 9, 13, 17, and 2 hops: 19. The array stands 3 of every 4 cycles from the second on.
    t = timed([mm(256 * i, k=4, bits=4) for i in range(4)])
    assert t.cycles == 19
    assert (t.busy["tcu"], t.stalls["tcu"]) == (4, {"result writes": 9, "end": 6})


def test_a_long_matmul_hides_the_results_of_a_short_one() -> None:
    # short: array 0-1, results until 5; long: array 1-9, results 13, complete 15
    t = timed([mm(0, k=4, bits=4), mm(256)])
    assert t.cycles == 15
    assert t.stalls["tcu"] == {"end": 6}


def test_stationary_operands_are_preloaded_beside_work() -> None:
    # preload 2, array 2-18, last step's results 2, hops 2: 22. The second is preloaded meanwhile: array 18-34, 38.
    first, second = (mm(d, m=16, flow=Dataflow.WEIGHT) for d in (0, 512))
    assert timed([first]).cycles == 22
    t = timed([first, second])
    assert t.cycles == 38
    assert t.stalls["tcu"] == {"preload": 2, "end": 4}


def test_accumulation_waits_for_the_same_result() -> None:
    # The first result is written at 8 + 4 + 2 = 14, read back in 4: array 18-26, results 30, complete 32
    t = timed([mm(), mm(acc=1)])
    assert t.cycles == 32
    assert t.stalls["tcu"] == {"dependency": 6, "preload": 4, "end": 6}
    # With two passes only the first pass's result counts: 14 + 4 = 18, two cycles after the array is free at 16.
    t = timed([mm(m=16), mm(m=16, acc=1)])
    assert t.cycles == 18 + 16 + 4 + 2
    assert t.stalls["tcu"] == {"preload": 2, "end": 6}
    # Another destination does not wait: its old value (4 cycles) comes while the array works.
    assert timed([mm(), mm(256, acc=1)]).cycles == 22


def test_vector_dependency_shows_the_pipeline() -> None:
    assert timed([add(0, 256), add(512, 768)]).cycles == 12  # 0-4, 4-8, complete 12
    t = timed([add(0, 256), add(256, 768)])  # 0-4, complete 8; 8-12, complete 16
    assert t.cycles == 16
    assert t.stalls["vpu"] == {"dependency": 4, "end": 4}
    # 4x4: a cycle each. The third reads what the first completes at 5: 5-6, complete 10.
    assert timed([add(0, 256, 4), add(512, 768, 4), add(256, 1024, 4)]).cycles == 10


def test_bus_is_shared_and_transfers_limited() -> None:
    # Both ask at 0: load 0-4 (complete 14), store 4-8 (18). The second load asks at 1, has the bus at 8, but only two
    # may be outstanding: 14-18, complete 28.
    t = timed([load(0, 0, 64), store(0x100, 0x100, 64), load(0, 0x200, 64)])
    assert t.cycles == 28
    assert t.stalls["load"] == {"bus": 4, "outstanding transfers": 6, "end": 10}
    assert t.stalls["store"] == {"bus": 4, "end": 20}


def test_gather_waits_for_its_index_vector() -> None:
    # index complete at 14; six rows of a burst: 14-20, complete 30
    remote, near = Operand(kind=Kind.TENSOR, space=Space.DRAM, hi=8), Operand(kind=1, space=Space.SRAM, hi=8)
    gather = make(
        Opcode.LOAD, {"s0": remote, "s1": fp32(256, 1), "d0": near}, size=8, count=6, outer=1, gather=isa.Gather.INDEX
    )
    t = timed([load(0, 256, 64), gather])
    assert t.cycles == 30
    assert t.stalls["load"] == {"dependency": 10, "end": 10}


DOUBLE_BUFFERED = [
    loop(0, 3),
    wait(Queue.LOAD, 0), load(0, 0, 64), signal(Queue.LOAD, 1),
    wait(Queue.VPU, 1), add(0, 512), signal(Queue.VPU, 0),
    end(0),
]  # fmt: skip


def double_buffer(credit: int) -> tuple[Semaphore, ...]:
    return semaphore(0, Queue.VPU, Queue.LOAD, credit), semaphore(1, Queue.LOAD, Queue.VPU)


def test_double_buffering_overlaps() -> None:
    # load: wait 0-1, 1-5 (complete 15); 5-9 (19); the third needs the first buffer back
    # vector: wait until 15, +1: 16-20 (complete 24), the next at 20-24 (28); back at 24
    # load: 25-29 (39); vector 40-44 (48)
    t = timed(DOUBLE_BUFFERED, double_buffer(2))
    assert t.cycles == 48
    assert t.stalls["load"] == {"issue": 2, "wait sem0": 15, "end": 19}
    assert t.stalls["vpu"] == {"wait sem1": 30, "issue": 2, "end": 4}
    assert t.executed.tolist() == [0, 3, 3, 3, 3, 3, 3, 0]


def test_single_buffering_does_not() -> None:
    # Each round: wait 1, load 4 + 10, wait 1, vector 4 + 4 = 24
    assert timed(DOUBLE_BUFFERED, double_buffer(1)).cycles == 3 * 24


def test_deadlock_is_an_error() -> None:
    with pytest.raises(ExecutionError, match=r"load at instruction 1 \(semaphore 0\), vpu at instruction 4"):
        timed(DOUBLE_BUFFERED, double_buffer(0))


def test_a_machine_has_only_so_many_semaphores() -> None:
    few = TINY.replace(semaphores=1)
    table = decode_table(DOUBLE_BUFFERED)
    with pytest.raises(MachineError, match="2 semaphores are used, machine 'tiny' has 1"):
        simulate_listing(table, 0, len(table), double_buffer(2), few, PARAMS)


def test_zero_iterations_and_unrolled_loops() -> None:
    params = PARAMS.copy()
    listing = [loop(0, 5, param=7), *DOUBLE_BUFFERED[1:-1], end(0)]
    for count in (0, 1, 4):
        params[7] = count
        table = decode_table(listing)
        t = simulate_listing(table, 0, len(listing), double_buffer(2), TINY, params)
        flat = DOUBLE_BUFFERED[1:-1] * count
        assert t.cycles == simulate_listing(decode_table(flat), 0, len(flat), double_buffer(2), TINY, params).cycles
        assert t.instructions == 6 * count


def test_events_tell_the_same_story() -> None:
    t = timed(CHAIN, CHAIN_SEMAPHORES, events=100)
    ops = {int(e[2]): tuple(int(x) for x in e[3:6]) for e in t.events if e[0] == 0}
    assert ops == {0: (0, 4, 14), 3: (15, 23, 29), 6: (30, 34, 38), 9: (39, 43, 53)}
    assert len(timed(CHAIN, CHAIN_SEMAPHORES, events=3).events) == 3
    signals = {(int(e[6]), int(e[7])): int(e[4]) for e in t.events if e[0] == 1}
    assert signals == {(0, 0): 14, (1, 0): 29, (2, 0): 38}


@st.composite
def listings(draw: st.DrawFn) -> tuple[list[Instruction], tuple[Semaphore, ...]]:
    """Straight-line listings over all queues in which every signal precedes its wait."""
    sems = tuple(semaphore(4 * a + b, Queue(a), Queue(b)) for a in range(4) for b in range(4) if a != b)
    pending: list[int] = []
    out: list[Instruction] = []
    for _ in range(draw(st.integers(1, 30))):
        kind = draw(st.integers(0, 6))
        slot = draw(st.integers(0, 3))
        if kind == 0:
            out.append(load(64 * slot, 64 * slot, 64))
        elif kind == 1:
            rows, k, bits = draw(
                st.sampled_from([(8, 8, 8), (16, 8, 8), (13, 8, 8), (16, 4, 4), (4, 4, 4), (8, 8, 12)])
            )
            flow = draw(st.sampled_from(list(Dataflow)))
            out.append(mm(256 * slot, rows, k, bits, acc=draw(st.integers(0, 1)), flow=flow))
        elif kind == 2:
            out.append(add(256 * slot, 256 * draw(st.integers(0, 3)), draw(st.sampled_from([4, 8]))))
        elif kind == 3:
            out.append(store(64 * slot, 64 * slot, 64))
        elif kind == 4 and pending:
            number = pending.pop(draw(st.integers(0, len(pending) - 1)))
            out.append(wait(Queue(number % 4), number))
        else:
            number = draw(st.sampled_from([s.number for s in sems]))
            out.append(signal(Queue(number // 4), number))
            pending.append(number)
    return out, sems


@given(listings())
def test_accounts_balance_and_bounds_hold(case: tuple[list[Instruction], tuple[Semaphore, ...]]) -> None:
    t = timed(*case)  # busy + stalls = cycles
    table = decode_table(case[0])
    in_parts = simulate_listing(table, 0, len(table), case[1], TINY, PARAMS, buckets=5)
    assert in_parts.histogram.sum(axis=1).tolist() == list(t.busy.values()) and in_parts.cycles == t.cycles
    assert in_parts.histogram.max() <= in_parts.bucket_cycles
    assert t.cycles >= max(t.busy.values())
    alone = sum(timed([i]).cycles for i in case[0] if i.opcode not in (Opcode.SIGNAL, Opcode.WAIT))
    assert t.cycles <= alone + 2 * len(case[0])  # in-order units with overlap are never slower than one after the other


@settings(max_examples=300)
@given(listings())
def test_agrees_with_the_rules_played_cycle_by_cycle(case: tuple[list[Instruction], tuple[Semaphore, ...]]) -> None:
    t = timed(*case, events=1000)
    cycles, starts = cycle_stepped.run(*case, TINY)
    assert t.cycles == cycles
    for queue, expected in starts.items():
        ops = t.events[(t.events[:, 0] == 0) & (t.events[:, 1] == queue)]
        assert ops[:, 3].tolist() == expected, queue


def test_speed() -> None:
    big = [loop(0, 1000), loop(1, 40), *DOUBLE_BUFFERED[1:-1], end(1), end(0)]
    timed(big[:1] + big[2:-2] + big[-1:], double_buffer(2))  # compiled
    started = time.perf_counter()
    t = timed(big, double_buffer(2))
    assert t.instructions == 240_000
    assert time.perf_counter() - started < 2.0
    assert np.isclose(t.cycles / 40_000, 12, rtol=0.5)
