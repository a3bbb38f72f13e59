"""Loops, parameters, entries and refusals of the jit engine; the object cache."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pintac import isa
from pintac.errors import ExecutionError, UsageError
from pintac.isa import MicroOp, Opcode, Operand, Sink, Space
from pintac.runtime.jit import JitEngine, compiler, interpreter
from pintac.runtime.state import MachineState
from tests.runtime.jit.engines import AVAILABLE, run_both, words
from tests.runtime.listing import IMM, PAR, REG, SRC, Listing, uop


def _count(listing: Listing, sink: Operand) -> None:
    """Add 1 to a number in SRAM."""
    listing.vpu((1, 1), [], [], [(sink, IMM)], imm0=isa.float_bits(1.0), acc0=1)


@pytest.mark.parametrize("loops", [(3,), (2, 3), (1, 2, 3, 2, 4)])
def test_nested_loops_run_their_product(loops: tuple[int, ...]) -> None:
    listing = Listing()
    start = listing.source(np.zeros((1, 1), np.float32))
    sink = Operand(Sink.SUM_ALL, addr=start.addr, hi=1, cstep=1)

    def nest(rest: tuple[int, ...]) -> None:
        if rest:
            with listing.loop(rest[0]):
                nest(rest[1:])
        _count(listing, sink)

    nest(loops)
    program = listing.program()
    state = run_both(program, "auto")
    expected, product = 1, 1
    for n in loops:
        product *= n
        expected += product
    assert words(state, Space.SRAM, sink.addr, 1)[0] == expected
    assert JitEngine(program, state).prepare("step").executed == 1 + expected  # and one load


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_parameter_sets_the_count(count: int) -> None:
    listing = Listing(("rows",), np.array([[0, 0, count]], np.uint32))
    start = listing.source(np.zeros((1, 1), np.float32))
    sink = Operand(Sink.SUM_ALL, addr=start.addr, hi=1, cstep=1)
    with listing.loop(4, param=2), listing.loop(2):
        _count(listing, sink)
    state = run_both(listing.program(), "auto")
    assert words(state, Space.SRAM, sink.addr, 1)[0] == 2 * count


def test_a_parameter_above_its_maximum_is_refused() -> None:
    listing = Listing(("rows",), np.array([[0, 0, 5]], np.uint32))
    with listing.loop(4, param=2):
        _count(listing, listing.sink((1, 1), Sink.SUM_ALL))
    program = listing.program()
    with pytest.raises(ExecutionError, match="'rows' is 5"):
        JitEngine(program, MachineState(program)).run("step")


def test_parameters_are_read_at_every_run() -> None:
    table = np.array([[0, 0, isa.float_bits(0.5)], [0, 0, isa.float_bits(-2.0)]], np.uint32)
    listing = Listing(("lr",), table)
    sink = listing.sink((1, 3))
    listing.vpu((1, 3), [], [uop(MicroOp.ADD, PAR, IMM)], [(sink, REG)], scalar0=2, imm0=isa.float_bits(1.0))
    program = listing.program()
    state = MachineState(program)
    engine = JitEngine(program, state)
    for step, value in ((0, 1.5), (1, -1.0), (9, -1.0)):
        state.set_step(step)
        engine.run("step")
        assert (words(state, Space.SRAM, sink.addr, 3) == value).all()


def test_entries_run_by_themselves() -> None:
    listing = Listing()
    sink = listing.sink((1, 1), Sink.SUM_ALL)
    listing.vpu((1, 1), [], [], [(sink, IMM)], imm0=isa.float_bits(5.0))
    _count(listing, sink)
    program = listing.program(entries={"set": (0, 1), "step": (1, 2)})
    state = MachineState(program)
    engine = JitEngine(program, state)
    for entry in ("set", "step", "step"):
        engine.run(entry)
    assert words(state, Space.SRAM, sink.addr, 1)[0] == 7


@pytest.mark.parametrize("group", ["s0", "d0"])
def test_an_access_outside_memory_is_refused_with_its_place(group: str) -> None:
    """At the last loop index only: nothing may be touched before that is known."""
    listing = Listing()
    source, sink = listing.source(np.ones((4, 8), np.float32)), listing.sink((4, 8))
    size = listing.program().sram_bytes
    operands = {"s0": source, "d0": sink}
    moved = operands[group]
    step = (size - moved.addr) // 2 // 4 * 4
    operands[group] = Operand(moved.kind, moved.space, 0, moved.addr, hi=moved.hi, cstep=1, steps=(step, 0, 0, 0, 0))
    with listing.loop(3):
        listing.vpu((4, 8), [operands["s0"]], [], [(operands["d0"], SRC)])
    program = listing.program()
    state = MachineState(program)
    before = state.sram.copy()
    with pytest.raises(ExecutionError, match=rf"listing.py:3: instruction 2 \(vpu of op2\): {group} touches"):
        JitEngine(program, state).run("step")
    assert np.array_equal(state.sram, before)


def test_a_gathered_row_outside_memory_is_refused() -> None:
    listing = Listing()
    data = listing.constant(np.arange(64, dtype=np.float32).reshape(8, 8))
    index, _ = listing.on_chip(np.array([[0, 3, 1 << 20]], np.int32))
    target = listing.allocate(Space.SRAM, 96)
    operands = {
        "s0": Operand(space=Space.DRAM, addr=data.addr, hi=32),
        "s1": Operand(addr=index),
        "d0": Operand(addr=target, hi=32),
    }
    listing.emit(Opcode.LOAD, operands, size=32, count=3, outer=1, gather=1)
    program = listing.program()
    with pytest.raises(ExecutionError, match=r"instruction 1 .*outside DRAM"):
        JitEngine(program, MachineState(program)).run("step")


def test_macs_count_loops() -> None:
    listing = Listing()
    a, b = (listing.source(np.ones((8, 8), np.float32), 8) for _ in range(2))
    with listing.loop(5):
        listing.matmul(6, 7, 8, a, b, listing.sink((6, 7)))
    program = listing.program()
    assert JitEngine(program, MachineState(program)).macs("step") == 5 * 6 * 7 * 8


def test_unknown_instruction_set() -> None:
    with pytest.raises(UsageError, match="no instruction set 'avx1024'"):
        compiler.lowering("avx1024")


def test_portable_code_names_no_processor_instruction() -> None:
    from pintac.runtime.jit import gemm

    shape = gemm.MatmulShape(8, 8, False, False)
    text = compiler.library("portable").assembly(lambda *a: gemm.write_matmul(shape, *a))
    assert "zmm" not in text and "vpdp" not in text


@pytest.mark.parametrize("name", AVAILABLE)
def test_subnormals_are_kept_even_if_the_caller_flushes_them(name: str) -> None:
    torch = pytest.importorskip("torch")
    listing = Listing()
    source = listing.source(np.full((4, 4), 1.5e-38, np.float32))
    sink = listing.sink((4, 4))
    listing.vpu((4, 4), [source], [uop(MicroOp.MUL, SRC, IMM)], [(sink, REG)], imm0=isa.float_bits(0.25))
    program = listing.program()
    state = MachineState(program)
    engine = JitEngine(program, state, isa=name)
    engine.prepare("step")
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        engine.run("step")
        still_flushed = float(torch.tensor(1.5e-38) * 0.25) == 0.0
    finally:
        torch.set_flush_denormal(False)
    assert (words(state, Space.SRAM, sink.addr, 16) == np.float32(1.5e-38) * np.float32(0.25)).all()
    assert still_flushed  # the caller's mode is the caller's again


# --- cache


def _library(cache: Path | None) -> compiler.Library:
    library = compiler.Library(compiler.lowering(AVAILABLE[0]), cache)
    library.addresses({"interpreter": interpreter.write_interpreter})
    return library


def test_objects_are_kept_and_damaged_ones_made_again(tmp_path: Path) -> None:
    assert _library(tmp_path).compiled == 1
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    assert _library(tmp_path).compiled == 0
    file.write_bytes(good[:-100] + bytes(100))
    assert _library(tmp_path).compiled == 1
    assert file.read_bytes() == good
    assert _library(None).compiled == 1
    assert _library(tmp_path / "does" / "not" / "exist").compiled == 1


def test_the_cache_folder_depends_on_sources_and_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = {str(compiler.cache_directory(compiler.lowering(name))) for name in AVAILABLE}
    monkeypatch.setattr(compiler, "_sources_digest", lambda: "edited")
    names |= {str(compiler.cache_directory(compiler.lowering(name))) for name in AVAILABLE}
    assert len(names) == 2 * len(AVAILABLE)
    assert all(name.startswith(str(tmp_path / "pintac" / "jit")) for name in names)


def test_without_a_writable_cache_the_engine_still_runs(tmp_path: Path) -> None:
    """A file stands where the cache folder should be."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    code = (
        "from pintac.runtime.jit import compiler as c, interpreter as i\n"
        "library = c.library()\n"
        "assert library.cache is None\n"
        "library.addresses({'interpreter': i.write_interpreter})\n"
        "assert library.compiled == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "XDG_CACHE_HOME": str(blocked)})
