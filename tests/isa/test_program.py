"""The program container: round trip, damage, and the rules checked at load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pintac import isa
from pintac import program as program_module
from pintac.container import seal, unseal
from pintac.errors import ProgramError
from pintac.isa import Kind, MicroOp, Opcode, Operand, Queue, Sink, Space
from pintac.isa.encoding import column, encode
from pintac.program import Origin, Program, Symbol
from pintac.program_file import from_bytes, load
from pintac.program_rules import validated
from tests.runtime.listing import IMM, REG, SRC, Listing, uop
from tests.runtime.programs import random_program


def rich_program() -> Program:
    """Every part of the container in use."""
    listing = Listing(("lr",), np.arange(6, dtype=np.uint32).reshape(2, 3))
    listing.semaphores.append(isa.Semaphore(3, Queue.LOAD, Queue.VPU, 0, 2, "tiles"))
    w = listing.symbol("w", (2, 3), kind="state")
    listing.symbol("q", (5, 6), "smx12")
    source = listing.source(np.ones((2, 3), np.float32))
    listing.emit(Opcode.SIGNAL, queue=Queue.LOAD, sem=3)
    listing.emit(Opcode.WAIT, queue=Queue.VPU, sem=3)
    listing.vpu((2, 3), [source], [uop(MicroOp.TANH, SRC)], [(listing.sink((2, 3)), REG)])
    return listing.program(
        init={w.name: np.full((2, 3), 0.1, np.float32)},
        test_x=np.zeros((4, 2), np.float32),
        test_u=np.ones((4, 1), np.float32),
        meta={"bits": [8, 16], "digest": '"!digest": "', "x": 0.1, "name": "π"},
    )


PROGRAM = rich_program()
FILE = PROGRAM.to_bytes()


def test_a_program_survives_its_file(tmp_path: Path) -> None:
    PROGRAM.save(tmp_path / "p.pinta")
    back = load(tmp_path / "p.pinta")
    assert back == PROGRAM
    assert back.digest == PROGRAM.digest
    assert back.instructions == PROGRAM.instructions
    assert back.symbols == PROGRAM.symbols
    assert back.semaphores == PROGRAM.semaphores
    assert back.debug == PROGRAM.debug
    assert back.entries == PROGRAM.entries
    assert back.meta == PROGRAM.meta
    assert back.test_x is not None and back.test_u is not None
    np.testing.assert_array_equal(back.init["w"], PROGRAM.init["w"])
    np.testing.assert_array_equal(back.param_table, PROGRAM.param_table)
    assert [p.name for p in tmp_path.iterdir()] == ["p.pinta"]


def test_the_table_holds_the_decoded_fields() -> None:
    pc = len(PROGRAM.instructions) - 1
    row = PROGRAM.table[pc]
    assert row[0] == Opcode.VPU
    assert row[column(Opcode.VPU, "rows")] == 2
    assert row[column(Opcode.VPU, "s0.hi")] == 3
    with pytest.raises(ValueError, match="read-only"):
        PROGRAM.table[0, 0] = 1


@given(st.integers(0, 8 * len(FILE) - 1))
@settings(max_examples=300, deadline=None)
def test_one_flipped_bit_is_noticed(bit: int) -> None:
    raw = bytearray(FILE)
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProgramError):
        from_bytes(bytes(raw))


@given(st.integers(0, len(FILE) - 1))
@settings(max_examples=100, deadline=None)
def test_a_truncated_file_is_noticed(length: int) -> None:
    with pytest.raises(ProgramError):
        from_bytes(FILE[:length])


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_other_bytes_are_no_program(raw: bytes) -> None:
    with pytest.raises(ProgramError, match="not a usable program"):
        from_bytes(raw)


def test_extra_bytes_are_noticed() -> None:
    with pytest.raises(ProgramError):
        from_bytes(FILE + b"\0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"isa_hash": "0123"}, "made for ISA 0123"),
        ({"format": 99}, "format 99"),
        ({"entries": 3}, "malformed: entries is 3, not an object"),
        ({"entries": {"step": [0, "x"]}}, r"malformed: entries.step\[1\] is 'x', not a whole number"),
        ({"bytes": ["1", 2, 3]}, r"malformed: bytes\[0\] is '1'"),
        ({"bytes": [1, True, 3]}, r"malformed: bytes\[1\] is True"),
        ({"symbols": {"w": [0, 3, "f32", "state", 0]}}, r"malformed: symbols.w\[1\] is 3, not a list"),
        ({"semaphores": [[3, 0, 2]]}, r"malformed: semaphores\[0\]"),
        ({"params": ["seed", "step", 3]}, r"malformed: params\[2\] is 3, not a string"),
        ({"meta": 3}, "malformed: meta is 3, not an object"),
        ({"strings": []}, "lacks something"),
    ],
)
def test_well_sealed_files_of_another_kind_are_refused(change: dict[str, object], message: str) -> None:
    header, tensors = unseal(program_module.MAGIC_KEY, FILE)
    raw, _digest = seal(program_module.MAGIC_KEY, header | change, tensors)
    with pytest.raises(ProgramError, match=message):
        from_bytes(raw, "p.pinta")


META = [
    ({"machine": 3}, "machine is 3, not an object"),
    ({"machine": {"name": "m"}}, "the program's machine: .* lacks"),
    ({"seed": "x"}, "seed is 'x', not a whole number"),
    ({"seed": -1}, "seed is -1"),
    ({"export": []}, "export is .*, not an object"),
    ({"export": {"a": {}}}, "export.a lacks 'state'"),
    ({"optimizer": 3}, "optimizer is 3, not an object"),
    ({"optimizer": {"schedule": {"steps": "x"}}}, "optimizer.schedule.steps is 'x'"),
    ({"estimator": 5}, "estimator is 5"),
    ({"problem": {"a": 1}}, "problem is .*, not a string"),
    ({"scheme": [1]}, "scheme is"),
    ({"terms": 3}, "terms is 3, not a list"),
    ({"terms": [{}]}, r"terms\[0\] lacks 'name'"),
    ({"backend": 3}, "backend is 3, not an object"),
    ({"backend": {"step": 3}}, "backend.step is 3, not an object"),
    ({"backend": {"step": {"bound": {"cycles": "x"}}}}, "backend.step.bound.cycles is 'x', not a finite number"),
    ({"purposes": {"step": 3}}, "purposes.step is 3"),
    ({"purposes": {"step": {"p": {"l": "ops"}}}}, "purposes.step.p.l is 'ops', not a list"),
    ({"probe": "zzz"}, "probe is no compressed text"),
    ({"precision": {"budget": 1.0}}, "precision lacks 'bits'"),
    ({"precision": {"budget": 1, "bits": {}, "predicted": {}, "observed": {}}}, "needs errors of residuals and"),
    ({"anything": "\ud800"}, "is not JSON"),
]


@pytest.mark.parametrize(("meta", "message"), META)
def test_what_a_program_says_of_itself_is_checked_once(meta: dict[str, object], message: str) -> None:
    """Readers rely on the kinds of values, so a file that has others is refused."""
    header, tensors = unseal(program_module.MAGIC_KEY, FILE)
    raw, _digest = seal(program_module.MAGIC_KEY, header | {"meta": meta}, tensors)
    with pytest.raises(ProgramError, match=message):
        from_bytes(raw, "p.pinta")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"cannot read .*none\.pinta"):
        load(tmp_path / "none.pinta")
    with pytest.raises(ProgramError, match="cannot write"):
        PROGRAM.save(tmp_path / "no" / "p.pinta")


def test_saving_is_deterministic_and_meta_order_does_not_matter() -> None:
    shuffled = replace(
        PROGRAM,
        meta=dict(reversed(PROGRAM.meta.items())),
        symbols=dict(reversed(PROGRAM.symbols.items())),
        data=dict(reversed(PROGRAM.data.items())),
    )
    assert shuffled.to_bytes() == FILE
    assert replace(PROGRAM, meta={}) != PROGRAM


BASE: dict[str, object] = {"dram_bytes": 64, "sram_bytes": 1024, "psum_bytes": 64}
WRITE = Operand(Sink.WRITE, cstep=1, hi=4)
X = Operand(Kind.TENSOR, addr=64, hi=4, cstep=1)
Q = Operand(Kind.TENSOR, bits=8, hi=1, cstep=1)


def instruction(opcode: Opcode, operands: dict[str, Operand] | None = None, **header: int) -> bytes:
    return encode(isa.make(opcode, operands, **header))


def vpu(operands: dict[str, Operand] | None = None, **header: int) -> bytes:
    given = {"sel0": IMM, "rows": 4, "cols": 4} | header
    return instruction(Opcode.VPU, {"d0": WRITE} | (operands or {}), **given)


def matmul(operands: dict[str, Operand] | None = None, **header: int) -> bytes:
    given = {"m": 4, "n": 4, "k": 4} | header
    return instruction(Opcode.MATMUL, {"s0": Q, "s1": Q, "d0": replace(WRITE, addr=512)} | (operands or {}), **given)


def transfer(operands: dict[str, Operand] | None = None, **header: int) -> bytes:
    given = {"size": 4, "count": 1, "outer": 1} | header
    return instruction(Opcode.LOAD, {"s0": Operand(space=Space.DRAM), "d0": Operand()} | (operands or {}), **given)


LOOP = {"level": 0, "count": 2, "param": isa.NO_PARAM}

BROKEN: list[tuple[str, bytes]] = [
    ("a loop's count is at least 1", instruction(Opcode.LOOP, **LOOP | {"count": 0})),
    ("level 1 inside 0 loops", instruction(Opcode.LOOP, **LOOP | {"level": 1})),
    ("parameter 7 of 2", instruction(Opcode.LOOP, **LOOP | {"param": 7})),
    ("does not close a loop", instruction(Opcode.ENDLOOP)),
    ("are not closed", instruction(Opcode.LOOP, **LOOP)),
    ("at most 5", b"".join(instruction(Opcode.LOOP, **LOOP | {"level": n}) for n in range(6))),
    ("semaphore 9 is not declared", instruction(Opcode.SIGNAL, sem=9)),
    ("queue TCU does not own this end", instruction(Opcode.WAIT, sem=1, queue=Queue.TCU)),
    ("s0 must lie in DRAM", transfer({"s0": Operand()})),
    ("size, count and outer", transfer(outer=0)),
    ("one group of rows", transfer(outer=2, gather=1)),
    ("unknown row addressing 3", transfer(gather=3)),
    ("negative stride", transfer({"d0": Operand(hi=-4)})),
    ("m, n and k", matmul(k=0)),
    ("ta and tb not both", matmul(ta=1, tb=1)),
    ("s0 must be SMX", matmul({"s0": X})),
    ("s1 must lie in SRAM", matmul({"s1": replace(Q, space=Space.PSUM)})),
    ("d0 must be fp32", matmul({"d0": replace(WRITE, cstep=2)})),
    ("7 bits; SMX has", matmul({"s0": replace(Q, bits=7)})),
    ("unknown dataflow 3", matmul(dataflow=3)),
    ("no sink", instruction(Opcode.VPU, rows=1, cols=1)),
    ("rows and cols", vpu(cols=0)),
    ("d0 must lie in SRAM or PSUM", vpu({"d0": replace(WRITE, space=Space.DRAM)})),
    ("multiples of 4", vpu({"d0": replace(WRITE, addr=2)})),
    ("multiples of 4", vpu({"d0": replace(WRITE, steps=(0, 0, 6, 0, 0))})),
    ("only reductions accumulate", vpu(acc0=1)),
    ("reads r0 before it is written", vpu(sel0=0)),
    ("reads s0, which is not a tensor", vpu(uops=1, uop0=isa.micro_op(MicroOp.ABS, SRC))),
    ("reads r1 before", vpu(uops=1, uop0=isa.micro_op(MicroOp.ABS, REG + 1))),
    ("a nop leaves undefined", vpu(uops=1, sel0=0)),
    ("selector 13 names nothing", vpu(sel0=13)),
    ("unknown micro-operation 63", vpu(uops=1, uop0=63)),
    ("at most 8", vpu(uops=9)),
    ("counter is an index operand", vpu(uops=1, uop0=isa.micro_op(MicroOp.PHILOX_U, SRC, IMM))),
    (
        "stream is an immediate",
        vpu({"s0": Operand(Kind.INDEX)}, uops=1, uop0=isa.micro_op(MicroOp.PHILOX_U, SRC, SRC)),
    ),
    ("reductions write fp32", vpu({"d0": replace(Q, kind=Sink.SUM_ALL)})),
    ("not a multiple of the group of 3", vpu({"d0": replace(WRITE, kind=Sink.SUM_ROWS, inner=3)})),
    ("only row reductions have groups", vpu({"d0": replace(WRITE, kind=Sink.MAX_COLS, inner=2)})),
    ("SMX tensors have no row groups", vpu({"s0": replace(Q, inner=4, addr=64)})),
    ("unknown kind 5", vpu({"s0": replace(X, kind=5)})),
    ("ring level 6", vpu({"s0": replace(X, ring_level=6, ring_size=2)})),
]


@pytest.mark.parametrize(("message", "code"), BROKEN, ids=[f"{n}-{m}" for n, (m, _c) in enumerate(BROKEN)])
def test_broken_listings_are_refused(message: str, code: bytes) -> None:
    semaphore = isa.Semaphore(1, Queue.LOAD, Queue.VPU, 0, 1)
    program = Program(code=code, entries={"step": (0, 0)}, semaphores=(semaphore,), **BASE)  # type: ignore[arg-type]
    with pytest.raises(ProgramError, match=message):
        validated(program)


def test_the_pieces_of_the_broken_listings_are_sound_by_themselves() -> None:
    code = vpu() + matmul() + transfer()
    validated(Program(code=code, entries={"step": (0, 3)}, **BASE))  # type: ignore[arg-type]


ChangeProgram = Callable[[Program], Program]
WRONG: list[tuple[str, ChangeProgram]] = [
    ("no entry", lambda p: replace(p, entries={})),
    (r"is \[0, 99\)", lambda p: replace(p, entries={"step": (0, 99)})),
    ("outside the DRAM", lambda p: replace(p, symbols=dict(p.symbols, z=Symbol("z", p.dram_bytes - 4, (2,))))),
    ("not a multiple of 4", lambda p: replace(p, symbols=dict(p.symbols, z=Symbol("z", 2, (1,))))),
    ("is malformed", lambda p: replace(p, symbols=dict(p.symbols, z=Symbol("y", 0, (1,))))),
    ("is malformed", lambda p: replace(p, symbols=dict(p.symbols, z=Symbol("z", 0, (1,), "f64")))),
    ("impossible shape", lambda p: replace(p, symbols=dict(p.symbols, z=Symbol("z", 0, (4,), "smx8")))),
    ("no symbol 'v'", lambda p: replace(p, init={"v": np.zeros(1, np.float32)})),
    ("init of 'w' is float64", lambda p: replace(p, init={"w": np.zeros((2, 3))})),
    ("starts with", lambda p: replace(p, params=("step", "seed", "lr"))),
    ("parameter table", lambda p: replace(p, param_table=np.zeros((0, 3), np.uint32))),
    ("parameter table", lambda p: replace(p, param_table=np.zeros((1, 3), np.float32))),
    ("distinct names", lambda p: replace(p, params=("seed", "step", "seed"))),
    ("declared twice", lambda p: replace(p, semaphores=p.semaphores * 2)),
    ("do not agree", lambda p: replace(p, semaphores=(replace(p.semaphores[0], credit=3),))),
    ("to itself", lambda p: replace(p, semaphores=(replace(p.semaphores[0], target=Queue.LOAD),))),
    ("1 debug records for", lambda p: replace(p, debug=(Origin("a", "b", 1),))),
    ("test_u values of 3", lambda p: replace(p, test_u=np.ones((3, 1), np.float32))),
    ("debug records", lambda p: replace(p, debug=(Origin("a", "b", 1),) * (len(p.instructions) + 1))),
    ("test_x is", lambda p: replace(p, test_x=np.zeros(3, np.float32))),
    ("SRAM of -1 bytes", lambda p: replace(p, sram_bytes=-1)),
    ("not a multiple of 384", lambda p: replace(p, code=p.code + b"x")),
]


@pytest.mark.parametrize(("message", "change"), WRONG, ids=[f"{n}-{m}" for n, (m, _c) in enumerate(WRONG)])
def test_inconsistent_programs_are_refused(message: str, change: ChangeProgram) -> None:
    with pytest.raises(ProgramError, match=message):
        validated(change(PROGRAM))


def test_an_entry_may_not_begin_inside_a_loop() -> None:
    listing = Listing()
    with listing.loop(2):
        listing.vpu((1, 1), (), (), [(listing.sink((1, 1)), IMM)])
    with pytest.raises(ProgramError, match="inside a loop"):
        listing.program(entries={"step": (1, 3)})


def test_an_error_in_an_instruction_names_the_source_line() -> None:
    code = matmul(k=0)
    program = Program(code=code, entries={"step": (0, 1)}, debug=(Origin("mm", "net.py", 12),), **BASE)  # type: ignore[arg-type]
    with pytest.raises(ProgramError, match=r"^net\.py:12: instruction 0 \(matmul\)"):
        validated(program)


def test_a_symbol_knows_its_planes() -> None:
    assert Symbol("a", 8, (2, 3)).planes == ((8, 24),)
    assert Symbol("a", 64, (3, 5, 6), "smx12", eaddr=1000).planes == ((64, 12 * 24), (1000, 12))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_random_programs_survive_their_bytes(seed: int) -> None:
    program = random_program(seed)
    assert from_bytes(program.to_bytes()).to_bytes() == program.to_bytes()
