"""Assembly: text and bytes are inverse, and bad text is refused with its line."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pintac import isa
from pintac.asm import assemble, disassemble
from pintac.errors import AssemblyError
from pintac.isa import Opcode
from pintac.isa.encoding import decode
from tests.isa.test_program import PROGRAM
from tests.isa.test_words import instructions
from tests.runtime.programs import random_program

SMALL = """
; doubles a vector
.memory dram=0 sram=64 psum=0
.params "seed" "step"
.symbol "nothing" f32[0] scratch addr=0
.semaphore 1 vpu -> store credit=0 capacity=1
.meta {"name": "a; b"}
.array table u32[1,2]
|AAAA
  |AAAAAAA=
.begin "step"
vpu rows=1 cols=4 uops=1 uop0=mul(s0,i0) imm0=2.0 s0{kind=tensor space=sram hi=4 cstep=1} \
d0{kind=write space=sram addr=16 hi=4 cstep=1} ; in place would do
signal queue=vpu sem=1
wait queue=store sem=1
.end "step"
"""


def test_hand_written_text_assembles() -> None:
    program = assemble(SMALL)
    assert program.entries == {"step": (0, 3)}
    assert program.meta == {"name": "a; b"}
    assert program.instructions[0]["imm0"] == isa.float_bits(2.0)
    assert program.semaphores[0].target == isa.Queue.STORE
    assert disassemble(assemble(disassemble(program))) == disassemble(program)


def test_everything_in_a_program_comes_back() -> None:
    text = disassemble(PROGRAM)
    assert assemble(text).to_bytes() == PROGRAM.to_bytes()
    assert disassemble(assemble(text)) == text


def test_meta_data_are_a_line_a_key() -> None:
    """What is too long for a line is a line for each of its keys, and any division of the object reads back."""
    meta = {"a": 1, "b": {"c": ["x" * 60], "d": {}, "e": {"f": "y" * 150, "g": None}}, "h": {}}
    text = disassemble(dataclasses.replace(PROGRAM, meta=meta))
    lines = [line for line in text.splitlines() if line.startswith(".meta")]
    assert [line[: line.rindex(": ")] for line in lines] == [
        *('.meta {"a"', '.meta {"b": {"c"', '.meta {"b": {"d"', '.meta {"b": {"e": {"f"', '.meta {"b": {"e": {"g"'),
        '.meta {"h"',
    ]
    assert assemble(text).meta == meta
    whole = ".meta " + json.dumps(meta)
    assert assemble(text.replace("\n".join(lines), whole)).meta == meta
    for again in ('{"a": 1}', '{"b": 2}', '{"b": {"e": {"g": {}}}}'):
        with pytest.raises(AssemblyError, match=r"a second (a|b|b\.e\.g) in \.meta"):
            assemble(f"{text}.meta {again}\n")


def test_the_first_instruction_without_an_origin_is_named() -> None:
    text = disassemble(PROGRAM)
    lines = text.splitlines()
    marked = [number for number, line in enumerate(lines) if " @ " in line]
    assert len(marked) > 2
    for number in marked[1:]:
        lines[number] = lines[number].partition(" @ ")[0]
    with pytest.raises(AssemblyError, match="this instruction has no origin") as error:
        assemble("\n".join(lines) + "\n", "p.s")
    assert error.value.location is not None and error.value.location.line == marked[1] + 1


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_random_programs_come_back(seed: int) -> None:
    program = random_program(seed)
    assert assemble(disassemble(program)).to_bytes() == program.to_bytes()


@given(instructions())
@settings(max_examples=150, deadline=None)
def test_any_field_value_comes_back_from_its_text(instruction: isa.Instruction) -> None:
    """Also values that no valid program has: unused micro-ops, selectors that name nothing, NaN immediates."""
    from pintac.asm import parser, printer

    line = printer.print_instruction(instruction)
    (tree,) = parser._grammar().parse(line).children
    reader = parser._Assembler("line")
    reader._instruction(tree)
    assert decode(reader.words[0]) == instruction


def edited(old: str, new: str) -> str:
    assert old in SMALL
    return SMALL.replace(old, new)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (edited("signal", "signla"), 13, "unknown instruction 'signla'"),
        (edited("mul(", "mull("), 12, "unknown micro-operation 'mull'"),
        (edited("uops=1", "uopz=1"), 12, "no field 'uopz'"),
        (edited("cols=4", "cols=70000"), 12, "does not fit"),
        (edited("queue=vpu", "queue=gpu"), 13, "unknown queue 'gpu'"),
        (edited("sem=1\nwait", "sem=x\nwait"), 13, "x is not an integer"),
        (edited("s0,i0", "s0,q0"), 12, "'q0' is not a value"),
        (edited("imm0=2.0", "imm0=two"), 12, "two is not a number"),
        (edited("sram addr=16", "sram addr=16 addr=16"), 12, "given twice"),
        (edited("|AAAA\n", "|AAA\n"), 8, "not base64"),
        (edited("|AAAA\n", "|AAAAAAAA\n"), 8, "11 bytes of data"),
        (edited('.end "step"', '.end "stop"'), 15, "without .begin"),
        (edited('.end "step"', ""), 14, "has no .end"),
        (edited(".memory dram=0", ".memory"), 3, "malformed .memory"),
        (edited("u32[1,2]", "u32[1,]"), 8, "malformed type"),
        (edited('{"name"', "{name"), 7, "not JSON"),
        (edited('{"name"', '{"a": ' * 5000 + '{"name"'), 7, "nested too deep"),
        (edited("vpu -> store", "vpu store"), 6, "malformed .semaphore"),
        (edited("sem=1\nwait", "sem=2\nwait"), 13, "semaphore 2 is not declared"),
        (edited("rows=1 ", ""), 12, "rows and cols"),
        (edited("(s0,i0)", "(s0,i0"), 12, "unexpected"),
        (edited('"seed" "step"', '"seed "step"'), 4, "unexpected"),
        (edited("hi=4 cstep=1}", "hi=4 cstep=1"), 12, "unexpected"),
        ('.isa "beef"\n' + SMALL, 1, "made for ISA beef"),
        (".pintac 7\n" + SMALL, 1, "format 7"),
        ("", 1, "no .memory"),
        (edited("psum=0", "psum=0 psum=0"), 3, "psum is given twice"),
        (edited("u32[1,2]", "u32[1,99999999999999999999]"), 8, "8 bytes of data"),
        (edited('"a; b"', "1e999"), 7, "not JSON"),
        (edited('{"name": "a; b"}', '{"machine": 3}'), 7, "machine is 3, not an object"),
        (edited("sram=64", "sram=4294967295"), 1, "SRAM of 4294967295 bytes: .* at most 67108864"),
        (edited("psum=0", "psum=4294967295"), 1, "PSUM of 4294967295 bytes"),
        (edited('.begin "step"', '.begin "\\ud800"'), 11, "malformed string"),
        (edited(".end", "loop count=4294967295 param=255\nendloop\n.end"), 16, "instruction 3 executes 4294967295 ins"),
        (
            edited(
                ".end",
                "loop count=65536 param=255\nloop level=1 count=65536 param=255\nendloop level=1\nendloop\n.end",
            ),
            18,
            "begins at instruction 3 executes .* at most 268435456",
        ),
        (edited(".end", "load size=1 count=4294967295 outer=4294967295 d0{space=sram}\n.end"), 15, "less than 2.32"),
    ],
)
def test_bad_text_is_refused_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(AssemblyError, match=message) as error:
        assemble(text, "p.s")
    assert error.value.location is not None
    assert (error.value.location.file, error.value.location.line) == ("p.s", line)


def test_a_hint_names_what_can_be_written() -> None:
    with pytest.raises(AssemblyError) as error:
        assemble(edited("; doubles a vector", "$"), "p.s")
    assert error.value.hint is not None and "array" in error.value.hint
    assert "__" not in error.value.hint and "ignore" not in error.value.hint


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_any_damage_to_the_text_is_an_assembly_error_or_harmless(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(SMALL) - 1))
    piece = data.draw(st.sampled_from(["", "\n", "{", '"', "=", "9", "x", ";", "|", "@", " "]))
    try:
        assemble(SMALL[:at] + piece + SMALL[at + 1 :])
    except AssemblyError as error:
        assert error.location is not None


def test_loops_are_indented() -> None:
    listing = "\n".join(line for line in disassemble(random_program(7, 12)).splitlines() if not line.startswith("."))
    depths = {len(line) - len(line.lstrip()) for line in listing.splitlines() if line.strip().startswith("loop")}
    assert Opcode.LOOP in {i.opcode for i in random_program(7, 12).instructions}
    assert depths
