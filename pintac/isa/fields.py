"""The fields of an instruction: their bits in its word, their columns in a decoded row.

An instruction is one fixed-size word of `WORD_BYTES` bytes, little-endian, seen as 96 unsigned 32-bit words: a header
of 12 words, then seven operand groups of 12 words each (`s0`-`s4`, `d0`, `d1`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from pintac.isa.programmers_model import LOOP_LEVELS

WORD_BYTES = 384

GROUPS = ("s0", "s1", "s2", "s3", "s4", "d0", "d1")
HEADER_COLUMNS = 48
GROUP_COLUMNS = 20
COLUMNS = HEADER_COLUMNS + len(GROUPS) * GROUP_COLUMNS

# (name, bits, signed, doc) of an operand group, twelve 32-bit words.
OPERAND_FIELDS: tuple[tuple[str, int, bool, str], ...] = (
    ("kind", 3, False, "source: none/tensor/index; destination: none/write/reduction"),
    ("space", 2, False, "address space"),
    ("bits", 5, False, "0: fp32; 4, 8, 12 or 16: SMX"),
    ("ring_level", 3, False, "loop level whose index selects the ring slot"),
    ("ring_size", 3, False, "slots of the ring; 0: none"),
    ("inner", 16, False, "rows of the inner row group; 0: none. Row reductions: rows a group"),
    ("addr", 32, False, "byte address (index operands: first element number)"),
    ("eaddr", 32, False, "byte address of the exponent plane (SMX)"),
    ("hi", 32, True, "row stride: fp32 elements, SMX blocks, transfers bytes"),
    ("lo", 32, True, "stride inside a row group (elements); transfers: stride of the outer count (bytes)"),
    ("cstep", 32, True, "column stride (elements)"),
    *((f"step{i}", 32, True, f"address step of loop level {i}") for i in range(LOOP_LEVELS)),
    ("ring_step", 32, True, "address step of one ring slot"),
)


@dataclass(frozen=True)
class Field:
    """One bit field: `bits` wide at bit `lo` of the instruction word; `column` is its place in a decoded row."""

    name: str
    bits: int
    lo: int
    column: int
    signed: bool = False
    doc: str = ""
    enum: type[IntEnum] | None = None
    is_float: bool = False


def header_fields(*specs: tuple) -> tuple[Field, ...]:
    """Header fields (name, bits, doc, options of `Field`) one after another, none across two 32-bit words."""
    out, bit = [], 8
    for column, spec in enumerate(specs, start=1):
        name, bits, doc, *rest = spec
        options = rest[0] if rest else {}
        if bit // 32 != (bit + bits - 1) // 32:
            bit = (bit + 31) // 32 * 32
        out.append(Field(name, bits, bit, column, doc=doc, **options))
        bit += bits
    if bit > 12 * 32:
        raise AssertionError(f"header too wide: {bit} bits")
    return tuple(out)


def group_fields(groups: Iterable[str]) -> Iterator[Field]:
    """The fields of operand groups: `OPERAND_FIELDS` of each, as `s0.addr`."""
    for group in groups:
        number = GROUPS.index(group)
        bit = 12 * 32 * (number + 1)
        first = HEADER_COLUMNS + GROUP_COLUMNS * number
        for i, (name, bits, signed, doc) in enumerate(OPERAND_FIELDS):
            yield Field(f"{group}.{name}", bits, bit, first + i, signed=signed, doc=doc)
            bit += bits
