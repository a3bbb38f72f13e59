"""Instruction words: encode and decode are inverse for every field of every opcode."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pintac import isa
from pintac.errors import ProgramError
from pintac.isa import DEFS, Instruction, Opcode
from pintac.isa.encoding import decode, encode


@st.composite
def instructions(draw: st.DrawFn) -> Instruction:
    opcode = draw(st.sampled_from(list(Opcode)))
    chosen = draw(
        st.lists(st.sampled_from(list(DEFS[opcode].fields.values())), max_size=12, unique_by=lambda f: f.name)
    )
    values = {}
    for f in chosen:
        low, high = (-(1 << f.bits - 1), (1 << f.bits - 1) - 1) if f.signed else (0, (1 << f.bits) - 1)
        if value := draw(st.sampled_from([low, high, 1]) | st.integers(low, high)):
            values[f.name] = value
    return Instruction(opcode, values)


@given(instructions())
@settings(max_examples=150, deadline=None)
def test_words_decode_to_what_was_encoded(instruction: Instruction) -> None:
    word = encode(instruction)
    assert len(word) == isa.WORD_BYTES
    assert decode(word) == instruction


@pytest.mark.parametrize("opcode", list(Opcode))
def test_fields_of_an_instruction_share_no_bit_and_no_column(opcode: Opcode) -> None:
    used, columns = 0xFF, {0}
    for f in DEFS[opcode].fields.values():
        mask = ((1 << f.bits) - 1) << f.lo
        assert not used & mask, f.name
        used |= mask
        assert f.column not in columns, f.name
        columns.add(f.column)
    assert used < 1 << 8 * isa.WORD_BYTES
    assert max(columns) < isa.COLUMNS


def test_a_value_that_does_not_fit_names_its_field() -> None:
    with pytest.raises(ProgramError, match=r"matmul: m = 65536 does not fit its field \(0 to 65535\)"):
        isa.make(Opcode.MATMUL, m=65536)
    with pytest.raises(ProgramError, match="load has no field 'rows'"):
        isa.make(Opcode.LOAD, rows=1)


def test_bits_outside_the_fields_are_refused() -> None:
    word = bytearray(encode(isa.make(Opcode.ENDLOOP, level=2)))
    word[100] = 1
    with pytest.raises(ProgramError, match="bits outside"):
        decode(bytes(word))
    with pytest.raises(ProgramError, match="unknown opcode 77"):
        decode(bytes([77]) + bytes(isa.WORD_BYTES - 1))


def test_micro_ops_split_into_what_they_were_made_of() -> None:
    for op in isa.MicroOp:
        assert isa.split_micro_op(isa.micro_op(op, 7, 19, 31)) == (op, 7, 19, 31)
