"""Transfers, loops, rings, parameters, semaphores and refusals of the reference engine."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pintac import isa
from pintac.errors import ExecutionError, UsageError
from pintac.isa import Kind, MicroOp, Opcode, Operand, Queue, Sink, Space
from pintac.isa.regions import regions
from pintac.runtime.engine import make_engine
from pintac.runtime.listing import walk
from pintac.runtime.reference import ReferenceEngine
from pintac.runtime.state import FILL, MachineState
from pintac.runtime.work import count_work
from pintac.stream import dynamic_stream
from tests.runtime.execute import normal, run, words
from tests.runtime.listing import IMM, REG, SRC, Listing, fp32, uop
from tests.runtime.programs import assert_same_memory, random_program

F32 = np.float32


# --- transfers --------------------------------------------------------------------------------------------------------


def test_a_strided_load_and_store() -> None:
    listing = Listing()
    x = normal(2, 3, 8)
    source = listing.constant(x)
    target = listing.symbol("y", (3, 2, 4))
    sram = listing.allocate(Space.SRAM, 96)
    dram = Operand(space=Space.DRAM, addr=source.addr + 16, hi=32, lo=96)
    listing.emit(Opcode.LOAD, {"s0": dram, "d0": Operand(addr=sram, hi=16, lo=48)}, size=16, count=3, outer=2)
    back = Operand(space=Space.DRAM, addr=target.addr, hi=32, lo=16)
    listing.emit(Opcode.STORE, {"s0": Operand(addr=sram, hi=16, lo=48), "d0": back}, size=16, count=3, outer=2)
    np.testing.assert_array_equal(run(listing).read("y"), x[:, :, 4:].swapaxes(0, 1))


def test_gather_and_scatter() -> None:
    listing = Listing()
    x, picks = normal(6, 5), np.array([4, 0, 4, 5], np.int32)
    places = np.array([2, 7, 0, 3], np.int32)
    source, target = listing.constant(x), listing.symbol("y", (8, 5))
    sram = listing.allocate(Space.SRAM, 80)
    index = [Operand(addr=listing.on_chip(v[None])[0]) for v in (picks, places)]
    row = Operand(addr=sram, hi=20)
    where = {"size": 20, "count": 4, "outer": 1, "gather": 1}
    listing.emit(
        Opcode.LOAD, {"s0": Operand(space=Space.DRAM, addr=source.addr, hi=20), "s1": index[0], "d0": row}, **where
    )
    listing.emit(
        Opcode.STORE, {"s0": row, "s1": index[1], "d0": Operand(space=Space.DRAM, addr=target.addr, hi=20)}, **where
    )
    expected = np.zeros((8, 5), F32)
    expected[places] = x[picks]
    np.testing.assert_array_equal(run(listing).read("y"), expected)


# --- loops ------------------------------------------------------------------------------------------------------------


def counter(listing: Listing, steps: tuple[int, ...], hi: int = 1, **ring: int) -> Operand:
    """A one-element sink whose place the loops move."""
    return Operand(Sink.SUM_ALL, Space.SRAM, hi=hi, cstep=1, steps=steps, **ring)


def test_five_nested_loops_visit_every_index_in_order() -> None:
    counts = (2, 1, 3, 2, 2)
    listing = Listing()
    strides = [4 * int(np.prod(counts[level + 1 :])) for level in range(5)]
    addr, _ = listing.on_chip(np.zeros((1, 24), F32))
    total, _ = listing.on_chip(np.zeros((1, 1), F32))
    with ExitStack() as nest:
        for count in counts:
            nest.enter_context(listing.loop(count))
        # count the executions so far, and note the count at the place of these indices
        one = Operand(Sink.SUM_ALL, addr=total, cstep=1)
        listing.vpu((1, 1), (), (), [(one, IMM)], acc0=1, imm0=isa.float_bits(1.0))
        place = Operand(Sink.WRITE, addr=addr, hi=1, cstep=1, steps=tuple(strides))
        listing.vpu((1, 1), [fp32(total, 1)], (), [(place, SRC)])
    state = run(listing)
    np.testing.assert_array_equal(words(state, Operand(addr=addr), (1, 24))[0], np.arange(1, 25))


def test_a_ring_turns_with_its_loop() -> None:
    listing = Listing()
    x = normal(7, 3)
    slots = listing.allocate(Space.SRAM, 3 * 12)
    source = replace(listing.source(x), steps=(12, 0, 0, 0, 0))
    with listing.loop(7):
        ring = Operand(Sink.WRITE, addr=slots, hi=3, cstep=1, ring_level=0, ring_size=3, ring_step=12)
        listing.vpu((1, 3), [source], (), [(ring, SRC)])
    np.testing.assert_array_equal(words(run(listing), Operand(addr=slots), (3, 3)), x[[6, 4, 5]])


def test_smx_operands_step_in_blocks() -> None:
    listing = Listing()
    x = normal(4, 12)
    source = replace(listing.source(x, 12), steps=(1, 0, 0, 0, 0))
    sink = listing.sink((3 * 4, 4))
    with listing.loop(3):
        listing.vpu((4, 4), [source], (), [(replace(sink, steps=(64, 0, 0, 0, 0)), SRC)])
    from pintac import smx

    expected = smx.dequantize(x, 12).reshape(4, 3, 4).swapaxes(0, 1).reshape(12, 4)
    np.testing.assert_array_equal(words(run(listing), sink, (12, 4)), expected)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_parameter_counts_a_loop(count: int) -> None:
    listing = Listing(("rows",), np.array([[0, 0, 9], [0, 0, count]], np.uint32))
    addr, _ = listing.on_chip(np.zeros((1, 1), F32))
    with listing.loop(2), listing.loop(4, param=2):
        sink = Operand(Sink.SUM_ALL, addr=addr, cstep=1)
        listing.vpu((1, 1), (), (), [(sink, IMM)], acc0=1, imm0=isa.float_bits(1.0))
    state = run(listing, step=5)  # the last row of the table holds for later steps
    assert words(state, Operand(addr=addr), (1, 1))[0, 0] == 2 * count
    assert count_work(state.program, "step", state.params).vpu_elements == 2 * count
    with pytest.raises(ExecutionError, match=r"listing\.py:3: instruction 2 .*parameter 'rows' is 9.*at most 4"):
        run(listing, step=0)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_the_walk_agrees_with_the_compiled_unrolling(seed: int) -> None:
    program = random_program(seed)
    state = MachineState(program)
    walked = list(walk(program, "step", state.params))
    pcs, indices = dynamic_stream(program.table, *program.entries["step"], state.params)
    assert [pc for pc, _ in walked] == pcs.tolist()
    assert [list(index) for _, index in walked] == indices.tolist()
    assert count_work(program, "step", state.params).instructions == len(walked)


# --- semaphores -------------------------------------------------------------------------------------------------------


def with_semaphore(signals: int, waits: int, credit: int = 0, capacity: int = 2) -> Listing:
    listing = Listing()
    listing.semaphores.append(isa.Semaphore(4, Queue.VPU, Queue.STORE, credit, capacity))
    for _ in range(signals):
        listing.emit(Opcode.SIGNAL, queue=Queue.VPU, sem=4)
    for _ in range(waits):
        listing.emit(Opcode.WAIT, queue=Queue.STORE, sem=4)
    return listing


def test_semaphores_count() -> None:
    run(with_semaphore(2, 2))
    run(with_semaphore(1, 2, credit=1))
    with pytest.raises(ExecutionError, match="exceeds its capacity of 2"):
        run(with_semaphore(3, 3))
    with pytest.raises(ExecutionError, match="waited for before its signal"):
        run(with_semaphore(1, 2))


def test_every_run_starts_from_the_credit() -> None:
    program = with_semaphore(1, 0).program()
    engine = ReferenceEngine(program, MachineState(program))
    for _ in range(4):
        engine.run("step")


# --- refusals ---------------------------------------------------------------------------------------------------------


def refused(listing: Listing, message: str) -> None:
    with pytest.raises(ExecutionError, match=message) as error:
        run(listing)
    assert error.value.location is not None and error.value.location.file == "listing.py"


def test_out_of_bounds_accesses_name_the_instruction() -> None:
    for space, size in ((Space.SRAM, 64), (Space.PSUM, 64)):
        listing = Listing()
        listing.allocate(space, size)
        sink = Operand(Sink.WRITE, space, addr=16, hi=4, cstep=1, steps=(16, 0, 0, 0, 0))
        with listing.loop(4):
            listing.vpu((1, 4), (), (), [(sink, IMM)])
        refused(listing, rf"instruction 1 \(vpu of op1\): touches \[64, 80\) of {space.name}.*at loop indices \[3, 0")


def test_transfers_are_bounds_checked() -> None:
    listing = Listing()
    listing.allocate(Space.DRAM, 64)
    listing.allocate(Space.SRAM, 32)
    dram, sram = Operand(space=Space.DRAM, addr=0), Operand()
    listing.emit(Opcode.LOAD, {"s0": dram, "d0": sram}, size=40, count=1, outer=1)
    refused(listing, r"\[0, 40\) of SRAM")
    listing.instructions.clear()
    listing.emit(Opcode.STORE, {"s0": sram, "d0": replace(dram, hi=40)}, size=32, count=2, outer=1)
    refused(listing, r"\[0, 72\) of DRAM")


@pytest.mark.parametrize("pick", [-1, 6])
def test_gathered_rows_are_bounds_checked(pick: int) -> None:
    listing = Listing()
    source = listing.constant(normal(6, 4))
    index, _ = listing.on_chip(np.array([[0, pick]], np.int32))
    target = Operand(addr=listing.allocate(Space.SRAM, 32), hi=16)
    dram = Operand(space=Space.DRAM, addr=source.addr, hi=16)
    if pick > 0:
        listing._used[Space.DRAM] = source.addr + 96  # nothing behind the table
        listing.symbols = {source.name: source}
        listing.data = {source.name: listing.data[source.name]}
        listing.instructions = [i for i in listing.instructions if i.opcode is not Opcode.LOAD]
        one = Operand(Sink.WRITE, addr=index, hi=2, cstep=1)
        listing.vpu((1, 2), (), (), [(one, IMM)], imm0=pick)
    listing.emit(
        Opcode.LOAD, {"s0": dram, "s1": Operand(addr=index), "d0": target}, size=16, count=2, outer=1, gather=1
    )
    refused(listing, "of DRAM")


@pytest.mark.parametrize(
    ("sink", "message"),
    [
        (Operand(Sink.WRITE, addr=4, hi=4, cstep=1), "overlaps a source"),
        (Operand(Sink.SUM_ROWS, addr=0, hi=4, cstep=1), "overlaps a source"),
        (Operand(Sink.WRITE, bits=8, addr=128, eaddr=60, hi=1, cstep=1), "overlaps a source"),
    ],
)
def test_a_destination_may_not_overlap_other_elements_of_a_source(sink: Operand, message: str) -> None:
    """In the first turn it lies apart (else the program would not be valid), in the second one it does not."""
    listing = Listing()
    source = listing.source(normal(4, 4))
    assert source.addr == 0
    listing.allocate(Space.SRAM, 1024)
    blocks = 32 if sink.bits else 512
    moved = replace(
        sink, addr=sink.addr + 512, eaddr=sink.eaddr + 32 * (sink.bits > 0), steps=(-blocks, 0, 0, 0, 0)
    )
    with listing.loop(2):
        listing.vpu((4, 4), [source], (), [(moved, SRC)])
    refused(listing, message)


def test_two_destinations_may_not_overlap() -> None:
    listing = Listing()
    sink = listing.sink((2, 4))
    other = replace(sink, kind=Sink.SUM_COLS, addr=sink.addr + 32, steps=(-4, 0, 0, 0, 0))
    with listing.loop(2):
        listing.vpu((2, 4), (), (), [(sink, IMM), (other, IMM)])
    listing.allocate(Space.SRAM, 64)
    refused(listing, "two destinations overlap")


def test_interleaved_destinations_do_not_overlap() -> None:
    listing = Listing()
    sink = listing.sink((3, 8))
    even, odd = replace(sink, cstep=2), replace(sink, cstep=2, addr=sink.addr + 4)
    listing.vpu((3, 4), (), [uop(MicroOp.ADD, IMM, IMM)], [(even, IMM), (odd, REG)], imm0=isa.float_bits(1.0))
    np.testing.assert_array_equal(words(run(listing), sink, (3, 8)), np.tile(np.array([1, 2], F32), (3, 4)))


def test_unknown_engines_and_entries_are_refused() -> None:
    program = with_semaphore(0, 0).program()
    state = MachineState(program)
    with pytest.raises(UsageError, match=r"no engine 'jot'[\s\S]*did you mean 'jit'"):
        make_engine("jot", program, state)
    assert isinstance(make_engine("reference", program, state), ReferenceEngine)


# --- memory -----------------------------------------------------------------------------------------------------------


def touched(program_seed: int) -> None:
    """Memory changes only where `isa.regions.regions` says that an instruction writes."""
    program = random_program(program_seed, 3)
    state = MachineState(program)
    engine = ReferenceEngine(program, state)
    for pc, index in walk(program, "step", state.params):
        instruction = program.instructions[pc]
        rows: list[int] = []
        if instruction["gather"]:
            start = isa.operand_address(instruction.operand("s1"), index)[0]
            rows = state.sram[start : start + 4 * instruction["count"]].view(np.int32).tolist()
        allowed = {s: np.zeros(state.size(s), bool) for s in Space}
        for region in regions(instruction, index, rows):
            assert 0 <= region.start <= region.end <= state.size(region.space)
            for outer in range(region.outer):
                for i in range(region.count):
                    at = region.start + outer * region.outer_stride + i * region.stride
                    allowed[region.space][at : at + region.size] |= region.write
        before = {s: state.padded(s)[: state.size(s)].copy() for s in Space}
        engine._execute[instruction.opcode](engine._decode(pc), index)
        for s in Space:
            changed = state.padded(s)[: state.size(s)] != before[s]
            assert not (changed & ~allowed[s]).any(), (pc, instruction.opcode.name, s.name)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_instructions_write_only_their_declared_regions(seed: int) -> None:
    touched(seed)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_running_twice_from_the_same_state_gives_the_same_memory(seed: int) -> None:
    program = random_program(seed)
    states = [MachineState(program) for _ in range(2)]
    for state in states:
        state.set_step(1, seed)
        ReferenceEngine(program, state).run("step")
    assert_same_memory(states[0], states[1])


def test_the_comparison_of_memories_sees_one_bit() -> None:
    program = random_program(3)
    states = [MachineState(program) for _ in range(2)]
    states[0].sram[5] ^= 1
    with pytest.raises(AssertionError, match="SRAM differs in 1 words, first at byte 4"):
        assert_same_memory(states[0], states[1])


def test_memory_starts_filled_aligned_and_sized() -> None:
    listing = Listing()
    listing.symbol("q", (3, 5), "smx8", "data")
    listing.symbol("w", (2, 2), kind="state")
    listing.allocate(Space.SRAM, 70)
    listing.allocate(Space.PSUM, 4)
    listing.emit(Opcode.SIGNAL, queue=Queue.VPU, sem=0)
    listing.semaphores.append(isa.Semaphore(0, Queue.VPU, Queue.STORE, 0, 1))
    q = normal(3, 5)
    program = listing.program(data={"q": q}, init={"w": np.eye(2, dtype=F32)})
    state = MachineState(program)
    assert state.sram.size == 70 and (state.sram == FILL).all()
    assert all(state.padded(s).ctypes.data % 64 == 0 and state.padded(s).size % 64 == 0 for s in Space)
    from pintac import smx

    np.testing.assert_array_equal(state.read("q"), smx.dequantize(q, 8))
    np.testing.assert_array_equal(state.read("w"), np.eye(2))
    with pytest.raises(ExecutionError, match=r"'w' is f32\[2,2\], not of shape \[2\]"):
        state.write("w", np.zeros(2, F32))


def test_a_source_index_operand_is_no_tensor() -> None:
    listing = Listing()
    from pintac.errors import ProgramError

    listing.vpu((1, 1), [Operand(Kind.INDEX)], (), [(listing.sink((1, 1)), SRC)])
    with pytest.raises(ProgramError, match="not a tensor"):
        listing.program()
