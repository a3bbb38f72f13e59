"""Instructions as words, and as rows of a table of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pintac.errors import ProgramError
from pintac.isa.definition import DEFS, Opcode
from pintac.isa.fields import COLUMNS, WORD_BYTES
from pintac.isa.instruction import Instruction, check_fields


def encode(instruction: Instruction) -> bytes:
    """The instruction word, `WORD_BYTES` long. Raises `ProgramError` as `check_fields` does."""
    check_fields(instruction)
    definition = DEFS[instruction.opcode]
    word = int(instruction.opcode)
    for name, value in instruction.values.items():
        f = definition.fields[name]
        word |= (value & ((1 << f.bits) - 1)) << f.lo
    return word.to_bytes(WORD_BYTES, "little")


def decode(word: bytes) -> Instruction:
    """The instruction of a word. Raises `ProgramError` for an unknown opcode or bits outside the declared fields."""
    raw = int.from_bytes(word, "little")
    try:
        opcode = Opcode(raw & 255)
    except ValueError:
        raise ProgramError(f"unknown opcode {raw & 255}") from None
    values, seen = {}, 255
    for f in DEFS[opcode].fields.values():
        mask = (1 << f.bits) - 1
        value = raw >> f.lo & mask
        seen |= mask << f.lo
        if f.signed and value >> f.bits - 1:
            value -= 1 << f.bits
        if value:
            values[f.name] = value
    if raw & ~seen:
        raise ProgramError(f"{DEFS[opcode].mnemonic}: bits outside its fields are set")
    return Instruction(opcode, values)


def encode_program(instructions: Sequence[Instruction]) -> bytes:
    """The listing as bytes, one word an instruction."""
    return b"".join(encode(i) for i in instructions)


def decode_program(code: bytes) -> list[Instruction]:
    """The listing of a program's bytes."""
    if len(code) % WORD_BYTES:
        raise ProgramError(f"the code is {len(code)} bytes, not a multiple of {WORD_BYTES}")
    return [decode(code[i : i + WORD_BYTES]) for i in range(0, len(code), WORD_BYTES)]


def decode_table(instructions: Sequence[Instruction]) -> np.ndarray:
    """The listing as int64 [instructions, COLUMNS]: column 0 the opcode, `column(opcode, name)` each field."""
    table = np.zeros((len(instructions), COLUMNS), np.int64)
    for row, instruction in zip(table, instructions, strict=True):
        row[0] = instruction.opcode
        definition = DEFS[instruction.opcode]
        for name, value in instruction.values.items():
            row[definition.fields[name].column] = value
    return table


def column(opcode: Opcode, name: str) -> int:
    """The decoded column of a field, e.g. `column(Opcode.MATMUL, "s0.addr")`."""
    return DEFS[opcode].fields[name].column
