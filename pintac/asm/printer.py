"""Programs to assembly text."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any

import numpy as np

from pintac import isa
from pintac.isa import ARITY, DEFS, GROUPS, Instruction, Kind, MicroOp, Opcode, Sink, Space
from pintac.program import FORMAT, Origin, Program

DATA_BYTES_PER_LINE = 3072
META_LINE = 120
"""Characters of an object of the meta data from which on its keys have lines of their own."""
TYPE_OF = {np.dtype(np.float32): "f32", np.dtype(np.int32): "i32", np.dtype(np.uint32): "u32"}


def disassemble(program: Program) -> str:
    """The whole program as text: `assemble` gives it back byte for byte."""
    return "\n".join([*_head(program), "", *_listing(program), "", *_arrays(program)]) + "\n"


def string(text: str) -> str:
    """A quoted string."""
    return json.dumps(text)


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _head(program: Program) -> Iterator[str]:
    yield f".pintac {FORMAT}"
    yield f".isa {string(isa.isa_hash())}"
    yield f".memory dram={program.dram_bytes} sram={program.sram_bytes} psum={program.psum_bytes}"
    yield f".params {' '.join(map(string, program.params))}"
    for s in program.semaphores:
        ends = f"{s.source.name.lower()} -> {s.target.name.lower()}"
        yield f".semaphore {s.number} {ends} credit={s.credit} capacity={s.capacity} {string(s.name)}"
    for name in sorted(program.symbols):
        symbol = program.symbols[name]
        planes = f"addr={symbol.addr}" + (f" eaddr={symbol.eaddr}" if symbol.eaddr else "")
        yield f".symbol {string(name)} {symbol.dtype}{_shape(symbol.shape)} {symbol.kind} {planes}"
    yield from (f".meta {text}" for text in _meta(program.meta))


def _meta(meta: Mapping[str, Any]) -> Iterator[str]:
    """JSON objects that are `meta` together: one a key, and one a key of those that are too long for a line."""
    for key in sorted(meta):
        entry = meta[key]
        text = json.dumps(entry, sort_keys=True, allow_nan=False)
        parts = _meta(entry) if isinstance(entry, dict) and len(text) > META_LINE else [text]
        yield from (f"{{{json.dumps(key)}: {part}}}" for part in parts)


def _listing(program: Program) -> Iterator[str]:
    depth = 0
    for pc in range(len(program.instructions) + 1):
        yield from (f".end {string(n)}" for n, (start, stop) in sorted(program.entries.items()) if start < stop == pc)
        yield from (f".begin {string(n)}" for n, (start, _) in sorted(program.entries.items()) if start == pc)
        yield from (f".end {string(n)}" for n, (start, stop) in sorted(program.entries.items()) if start == stop == pc)
        if pc == len(program.instructions):
            return
        instruction = program.instructions[pc]
        depth -= instruction.opcode is Opcode.ENDLOOP
        yield "  " * depth + print_instruction(instruction, program.debug[pc] if program.debug else None)
        depth += instruction.opcode is Opcode.LOOP


def _arrays(program: Program) -> Iterator[str]:
    yield from _array("table", None, program.param_table)
    for title, arrays in (("init", program.init), ("data", program.data)):
        for name in sorted(arrays):
            yield from _array(title, name, arrays[name])
    for title, points in (("test_x", program.test_x), ("test_u", program.test_u)):
        if points is not None:
            yield from _array(title, None, points)


def _array(title: str, name: str | None, array: np.ndarray) -> Iterator[str]:
    label = f" {string(name)}" if name is not None else ""
    yield f".array {title}{label} {TYPE_OF[array.dtype]}{_shape(array.shape)}"
    raw = np.ascontiguousarray(array).tobytes()
    for start in range(0, max(len(raw), 1), DATA_BYTES_PER_LINE):
        yield "|" + base64.b64encode(raw[start : start + DATA_BYTES_PER_LINE]).decode()


def print_instruction(instruction: Instruction, origin: Origin | None = None) -> str:
    """One line; fields that are zero are left out."""
    definition = DEFS[instruction.opcode]
    header = [f.name for f in definition.header if instruction[f.name]]
    parts = [definition.mnemonic, *(f"{n}={print_value(instruction.opcode, n, instruction[n])}" for n in header)]
    for group in definition.groups:
        values: Mapping[str, int] = {n: v for n, v in instruction.values.items() if n.startswith(f"{group}.") and v}
        if values:
            inside = (
                f"{name.partition('.')[2]}={print_value(instruction.opcode, name, instruction[name])}"
                for name in definition.fields
                if name in values
            )
            parts.append(f"{group}{{{' '.join(inside)}}}")
    if origin is not None:
        parts.append(f"@ {string(origin.op)} {string(origin.file)}:{origin.line}")
    return " ".join(parts)


def print_value(opcode: Opcode, name: str, value: int) -> str:
    """A field's value in the form that reads best and reads back to the same bits."""
    f = DEFS[opcode].fields[name]
    if f.is_float:
        return _immediate(value)
    if name.startswith("uop") and name != "uops":
        return _micro_op(value)
    if name in ("sel0", "sel1"):
        return selector(value)
    names = enum_of(opcode, name)
    if names is not None and value in tuple(names):
        return names(value).name.lower()
    return str(value)


def enum_of(opcode: Opcode, name: str) -> type[IntEnum] | None:
    """The names that a field's values have."""
    group, dot, part = name.partition(".")
    if not dot:
        return DEFS[opcode].fields[name].enum
    if part == "space":
        return Space
    if part == "kind" and opcode is Opcode.VPU:
        return Sink if group in GROUPS[isa.SOURCES :] else Kind
    return Kind if part == "kind" else None


def _immediate(bits: int) -> str:
    number = isa.bits_float(bits)
    if not math.isfinite(number) or abs(number) < 2.0**-126:  # subnormal: a packed stream number, most likely
        return f"{bits:#x}"
    return str(np.float32(number))


def selector(number: int) -> str:
    """`r0`, `s1`, `i2`, `p0`; a number that names nothing prints as `#13`."""
    known = number < len(isa.SELECTORS) and isa.SELECTORS[number] != "-"
    return isa.SELECTORS[number] if known else f"#{number}"


def _micro_op(bits: int) -> str:
    if bits & 63 not in tuple(MicroOp):
        return f"{bits:#x}"
    op, *selectors = isa.split_micro_op(bits)
    used = max([ARITY[op], *(i + 1 for i, s in enumerate(selectors) if s)])
    return f"{op.name.lower()}({','.join(selector(s) for s in selectors[:used])})"
