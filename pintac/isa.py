"""The PINTA instruction set, declared once.

Encoder, decoder, assembler, disassembler, the generated ISA page, both execution engines, the cost model and the
hazard checker all read the tables in this file.

An instruction is one fixed-size word of `WORD_BYTES` bytes, little-endian, seen as 96 unsigned 32-bit words: a header
of 12 words, then seven operand groups of 12 words each (`s0`-`s4`, `d0`, `d1`). A group addresses a tensor:

    address = addr + sum over loop levels l of index[l] * step[l] + (index[ring_level] % ring_size) * ring_step

(`ring_size` 0: no ring term). Steps are bytes for fp32 operands and for transfers, elements for index operands, and
4x4 *blocks* for SMX operands, whose two planes (mantissas at `addr`, one exponent byte a block at `eaddr`) move
together. Inside the operand, element (r, c) of an fp32 tensor lies `4 * (r * hi + c * cstep)` bytes on, or with
`inner` > 0 `4 * ((r // inner) * hi + (r % inner) * lo + c * cstep)`; so `hi = 0` broadcasts a row, `cstep = 0` a column,
and `inner` a row to a group of rows. Block (i, j) of an SMX tensor is block number `i * hi + j`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import IntEnum

import numpy as np

from pintac.errors import ProgramError

WORD_BYTES = 384
LOOP_LEVELS = 5
MAX_MICRO_OPS = 8
MAX_SEMAPHORES = 1024
PARAMS = 64  # entries of the parameter block, 32 bits each
NO_PARAM = 255

# Entries of the parameter block that the instruction set itself reads (Philox key and counter).
PARAM_SEED = 0
PARAM_STEP = 1


class Opcode(IntEnum):
    """What an instruction does; the queue it runs in follows from it (`QUEUE_OF`) or from its `queue` field."""

    LOOP = 1
    ENDLOOP = 2
    SIGNAL = 3
    WAIT = 4
    LOAD = 5
    STORE = 6
    MATMUL = 7
    VPU = 8


class Queue(IntEnum):
    """The four in-order instruction queues. Loops belong to all of them."""

    LOAD = 0
    TCU = 1
    VPU = 2
    STORE = 3


QUEUE_OF: Mapping[Opcode, Queue] = {
    Opcode.LOAD: Queue.LOAD,
    Opcode.MATMUL: Queue.TCU,
    Opcode.VPU: Queue.VPU,
    Opcode.STORE: Queue.STORE,
}
"""The queue of every instruction that does work; the others are loops and semaphores (`CONTROL`)."""

CONTROL = frozenset({Opcode.LOOP, Opcode.ENDLOOP, Opcode.SIGNAL, Opcode.WAIT})


class Space(IntEnum):
    """Address spaces."""

    DRAM = 0
    SRAM = 1
    PSUM = 2


class Kind(IntEnum):
    """What a source operand is."""

    NONE = 0
    TENSOR = 1
    INDEX = 2  # element numbers: addr + r * hi + c * cstep, the counter of the Philox micro-ops


class Sink(IntEnum):
    """What a VPU destination does with its value."""

    NONE = 0
    WRITE = 1
    SUM_ROWS = 2  # over rows (groups of `inner` rows; 0: all): one row a group
    SUM_COLS = 3  # over columns: one column
    SUM_ALL = 4  # over columns, then rows: one element
    MAX_ROWS = 5
    MAX_COLS = 6
    MAX_ALL = 7


class Dataflow(IntEnum):
    """Which operand of a matmul stays in the array."""

    OUTPUT = 0
    WEIGHT = 1
    INPUT = 2


class Gather(IntEnum):
    """How a transfer finds its rows in DRAM."""

    NONE = 0
    INDEX = 1  # row i of the outer count lies at index[i] * stride (index vector: int32 in SRAM, operand s1)


class MicroOp(IntEnum):
    """VPU micro-operations. `a`, `b`, `c` are selectors (`select_*`); the result is register r<position>."""

    NOP = 0
    MOV = 1
    ADD = 2
    SUB = 3
    MUL = 4
    DIV = 5
    NEG = 6
    ABS = 7
    MIN = 8
    MAX = 9
    SQRT = 10
    EXP = 11
    LOG = 12
    TANH = 13
    SIGMOID = 14
    SIN = 15
    COS = 16
    ERF = 17
    LT = 18
    LE = 19
    GT = 20
    GE = 21
    EQ = 22
    NE = 23
    SELECT = 24  # a != 0 ? b : c
    PHILOX_U = 25  # (word0 >> 8) * 2^-24 of the counter a; b: an immediate holding stream | term << 16
    PHILOX_U1 = 26  # ((word0 >> 8) + 1) * 2^-24
    PHILOX_U2 = 27  # (word1 >> 8) * 2^-24
    FLOOR = 28
    ROUND = 29  # halves to even


PHILOX = frozenset({MicroOp.PHILOX_U, MicroOp.PHILOX_U1, MicroOp.PHILOX_U2})
"""Micro-operations that draw random numbers: their operands are an index operand and an immediate."""

ARITY: Mapping[MicroOp, int] = {
    MicroOp[name]: arity
    for arity, names in (
        (0, "NOP"),
        (1, "MOV NEG ABS SQRT EXP LOG TANH SIGMOID SIN COS ERF FLOOR ROUND"),
        (2, "ADD SUB MUL DIV MIN MAX LT LE GT GE EQ NE PHILOX_U PHILOX_U1 PHILOX_U2"),
        (3, "SELECT"),
    )
    for name in names.split()
}

# Value selectors, five bits.
SELECT_REG = 0  # r0-r7
SELECT_SOURCE = 8  # s0-s4
SELECT_IMM = 16  # i0-i3: fp32 immediates
SELECT_SCALAR = 20  # p0-p2: fp32 entries of the parameter block, numbered by the fields scalar0-scalar2
SELECTORS = tuple(
    [f"r{i}" for i in range(8)]
    + [f"s{i}" for i in range(5)]
    + ["-", "-", "-"]
    + [f"i{i}" for i in range(4)]
    + [f"p{i}" for i in range(3)]
)

SOURCES = 5
SINKS = 2
IMMEDIATES = 4
SCALARS = 3


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


@dataclass(frozen=True)
class Operand:
    """An operand group (see the module text for the address rule). Strides of fp32 tensors are elements."""

    kind: int = Kind.NONE
    space: int = Space.SRAM
    bits: int = 0  # 0: fp32; 4, 8, 12, 16: SMX
    addr: int = 0
    eaddr: int = 0
    inner: int = 0
    hi: int = 0
    lo: int = 0
    cstep: int = 0
    steps: tuple[int, ...] = (0,) * LOOP_LEVELS
    ring_level: int = 0
    ring_size: int = 0
    ring_step: int = 0


GROUPS = ("s0", "s1", "s2", "s3", "s4", "d0", "d1")
HEADER_COLUMNS = 48
GROUP_COLUMNS = 20
COLUMNS = HEADER_COLUMNS + len(GROUPS) * GROUP_COLUMNS

# The names of an operand's parts in `Instruction.values`: those of single fields, those of the steps.
_OPERAND_KEYS = {
    group: (
        tuple((f.name, f"{group}.{f.name}") for f in fields(Operand) if f.name != "steps"),
        tuple(f"{group}.step{i}" for i in range(LOOP_LEVELS)),
    )
    for group in GROUPS
}

# (name, bits, signed, doc) of an operand group, twelve 32-bit words.
_GROUP_FIELDS: tuple[tuple[str, int, bool, str], ...] = (
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
GROUP_COLUMN: Mapping[str, int] = {name: i for i, (name, *_rest) in enumerate(_GROUP_FIELDS)}


def group_column(group: str | int) -> int:
    """First decoded column of an operand group."""
    return HEADER_COLUMNS + GROUP_COLUMNS * (group if isinstance(group, int) else GROUPS.index(group))


@dataclass(frozen=True)
class InstructionDef:
    """An instruction class: header fields, the operand groups it uses, its meaning and preconditions."""

    opcode: Opcode
    mnemonic: str
    header: tuple[Field, ...]
    groups: tuple[str, ...]
    meaning: str
    preconditions: tuple[str, ...]
    fields: Mapping[str, Field] = field(default_factory=dict)


def _header(*specs: tuple) -> tuple[Field, ...]:
    """Lay header fields out in order; a field never straddles a 32-bit word unless it is part of `uop`s."""
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


def _group_fields(groups: Iterable[str]) -> Iterator[Field]:
    for group in groups:
        number = GROUPS.index(group)
        bit = 12 * 32 * (number + 1)
        for i, (name, bits, signed, doc) in enumerate(_GROUP_FIELDS):
            yield Field(f"{group}.{name}", bits, bit, group_column(number) + i, signed=signed, doc=doc)
            bit += bits


def _define(
    opcode: Opcode, header: tuple[Field, ...], groups: tuple[str, ...], meaning: str, *pre: str
) -> InstructionDef:
    table = {f.name: f for f in header} | {f.name: f for f in _group_fields(groups)}
    return InstructionDef(opcode, opcode.name.lower(), header, groups, meaning, pre, table)


_LEVEL = ("level", 3, "loop level, 0 outermost")
_QUEUE: tuple = ("queue", 2, "the queue that executes it", {"enum": Queue})
_SEM = ("sem", 10, "semaphore number")
_TRANSFER: tuple[tuple, ...] = (
    ("gather", 2, "row addressing in DRAM", {"enum": Gather}),
    ("size", 32, "contiguous bytes of a row"),
    ("count", 32, "rows; row i lies i * hi bytes on"),
    ("outer", 32, "groups of rows; group j lies j * lo bytes on"),
)
_VPU: tuple[tuple, ...] = (
    ("sel0", 5, "value that d0 receives"),
    ("sel1", 5, "value that d1 receives"),
    ("acc0", 1, "d0 (a reduction) starts from what it holds"),
    ("acc1", 1, "d1 (a reduction) starts from what it holds"),
    ("uops", 4, "micro-operations used"),
    ("scalar0", 8, "parameter number of p0"),
    ("rows", 16, "logical rows"),
    ("cols", 16, "logical columns"),
    *((f"imm{i}", 32, "immediate", {"is_float": True}) for i in range(IMMEDIATES)),
)


def _vpu_header() -> tuple[Field, ...]:
    """Six of the twelve header words hold the eight 21-bit micro-ops, packed without gaps (168 bits)."""
    base = _header(*_VPU)
    first = 6 * 32  # word 6
    column = len(base) + 1
    uops = tuple(
        Field(f"uop{i}", 21, first + 21 * i, column + i, doc="opcode(6) a(5) b(5) c(5), low bits first")
        for i in range(MAX_MICRO_OPS)
    )
    rest = first + 21 * MAX_MICRO_OPS
    scalars = tuple(
        Field(f"scalar{i}", 8, rest + 8 * (i - 1), column + MAX_MICRO_OPS + i - 1, doc=f"parameter number of p{i}")
        for i in (1, 2)
    )
    return (*base, *uops, *scalars)


DEFS: Mapping[Opcode, InstructionDef] = {
    d.opcode: d
    for d in (
        _define(
            Opcode.LOOP,
            _header(
                _LEVEL,
                ("param", 8, "parameter that holds the count; 255: immediate"),
                ("count", 32, "count, or its maximum"),
            ),
            (),
            "Repeat the instructions up to the matching endloop `count` times with index[level] = 0, 1, ...; all queues.",
            "level equals the number of enclosing loops",
            "count >= 1; a parameter's value is between 0 and count",
        ),
        _define(
            Opcode.ENDLOOP, _header(_LEVEL), (), "End of the loop of this level.", "closes the innermost open loop"
        ),
        _define(
            Opcode.SIGNAL,
            _header(_QUEUE, _SEM),
            (),
            "The queue adds one to the semaphore once everything before it in the queue is complete.",
            "queue is the semaphore's declared source",
            "the value stays <= its capacity",
        ),
        _define(
            Opcode.WAIT,
            _header(_QUEUE, _SEM),
            (),
            "The queue starts nothing after it before the semaphore is positive, then takes one.",
            "queue is the semaphore's declared target",
            "every wait is matched by an earlier signal of the listing or by credit",
        ),
        _define(
            Opcode.LOAD,
            _header(*_TRANSFER),
            ("s0", "s1", "d0"),
            "Copy outer x count rows of `size` bytes from DRAM (s0) to SRAM (d0); with gather, row i comes from index[i] * s0.hi.",
            "s0 in DRAM, d0 in SRAM, in bounds",
            "size, count, outer >= 1, less than 2^32 bytes in all; gather: outer = 1, s1 an int32 vector in SRAM",
        ),
        _define(
            Opcode.STORE,
            _header(*_TRANSFER),
            ("s0", "s1", "d0"),
            "Copy outer x count rows of `size` bytes from SRAM (s0) to DRAM (d0); with gather (scatter), row i goes to index[i] * d0.hi.",
            "s0 in SRAM, d0 in DRAM, in bounds",
            "size, count, outer >= 1, less than 2^32 bytes in all; scatter: outer = 1, s1 an int32 vector in SRAM",
        ),
        _define(
            Opcode.MATMUL,
            _header(
                ("ta", 1, "s0 holds the transpose of the left operand"),
                ("tb", 1, "s1 holds the transpose of the right operand"),
                ("acc", 1, "start from the destination instead of 0"),
                ("dataflow", 2, "stationary operand", {"enum": Dataflow}),
                ("m", 16, "logical rows of the result"),
                ("n", 16, "logical columns of the result"),
                ("k", 16, "logical contraction length"),
            ),
            ("s0", "s1", "d0"),
            "d0[m, n] = (acc ? d0 : 0) + s0 . s1 in increasing k-block order, one fp32 rounding a block (NUMERICS 2).",
            "s0, s1 SMX in SRAM; d0 fp32 in PSUM or SRAM with cstep 1 and inner 0",
            "every element of d0 in a place of its own, and none where an operand is",
            "m, n, k >= 1; ta and tb not both",
        ),
        _define(
            Opcode.VPU,
            _vpu_header(),
            GROUPS,
            "For each of rows x cols elements: read the sources, run the micro-ops in order, give the selected values to the sinks.",
            "sources in SRAM or PSUM; sinks in SRAM or PSUM; SMX sources and sinks have inner 0 and cstep 1",
            "rows, cols >= 1; a destination overlaps a source only where both are the same fp32 elements",
            "every element or block of a destination in a place of its own, mantissas and exponents, too",
            "the two destinations do not overlap; fp32 addresses and steps are multiples of 4",
            "reductions write fp32; rows is a multiple of a row reduction's group",
        ),
    )
}

MNEMONICS: Mapping[str, InstructionDef] = {d.mnemonic: d for d in DEFS.values()}


@dataclass(frozen=True)
class Instruction:
    """One instruction: its opcode and the fields that are not zero (names as in `DEFS[opcode].fields`)."""

    opcode: Opcode
    values: Mapping[str, int]

    def __getitem__(self, name: str) -> int:
        return self.values.get(name, 0)

    def operand(self, group: str) -> Operand:
        """The operand group as one object."""
        get, (names, steps) = self.values.get, _OPERAND_KEYS[group]
        return Operand(**{name: get(key, 0) for name, key in names}, steps=tuple([get(key, 0) for key in steps]))

    @property
    def queue(self) -> Queue | None:
        """The queue that runs it; None for loops, which run in all four."""
        if self.opcode in (Opcode.SIGNAL, Opcode.WAIT):
            return Queue(self["queue"])
        return QUEUE_OF.get(self.opcode)


def make(opcode: Opcode, operands: Mapping[str, Operand] | None = None, **header: int) -> Instruction:
    """Build an instruction from header fields and operand groups; a value that does not fit its field is an error."""
    values = {k: int(v) for k, v in header.items() if v}
    for group, operand in (operands or {}).items():
        for f in fields(Operand):
            if f.name == "steps":
                values |= {f"{group}.step{i}": int(s) for i, s in enumerate(operand.steps) if s}
            elif v := getattr(operand, f.name):
                values[f"{group}.{f.name}"] = int(v)
    instruction = Instruction(opcode, values)
    encode(instruction)
    return instruction


def float_bits(value: float) -> int:
    """The bits of an fp32 immediate."""
    return int(np.float32(value).view(np.uint32))


def bits_float(bits: int) -> float:
    """The fp32 value of an immediate field."""
    return float(np.uint32(bits).view(np.float32))


def micro_op(op: MicroOp, a: int = 0, b: int = 0, c: int = 0) -> int:
    """The 21 bits of a micro-op: selectors are 0-31 (`SELECT_REG` + i, `SELECT_SOURCE` + i, ...)."""
    return int(op) | a << 6 | b << 11 | c << 16


def split_micro_op(bits: int) -> tuple[MicroOp, int, int, int]:
    """Inverse of `micro_op`."""
    return MicroOp(bits & 63), bits >> 6 & 31, bits >> 11 & 31, bits >> 16 & 31


def encode(instruction: Instruction) -> bytes:
    """The instruction word. Raises `ProgramError` naming the field that overflows or does not exist."""
    definition = DEFS[instruction.opcode]
    word = int(instruction.opcode)
    for name, value in instruction.values.items():
        f = definition.fields.get(name)
        if f is None:
            raise ProgramError(f"{definition.mnemonic} has no field {name!r}")
        low, high = (-(1 << f.bits - 1), (1 << f.bits - 1) - 1) if f.signed else (0, (1 << f.bits) - 1)
        if not low <= value <= high:
            raise ProgramError(f"{definition.mnemonic}: {name} = {value} does not fit its field ({low} to {high})")
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


@dataclass(frozen=True)
class Region:
    """Bytes an instruction touches: `outer` groups of `count` rows of `size` bytes.

    Row (j, i) starts at `start + j * outer_stride + i * stride`.
    """

    space: Space
    start: int
    size: int
    count: int
    stride: int
    outer: int
    outer_stride: int
    write: bool

    @property
    def end(self) -> int:
        """One past the last byte (strides here are never negative)."""
        return self.start + (self.outer - 1) * self.outer_stride + (self.count - 1) * self.stride + self.size


def operand_address(o: Operand, index: Sequence[int]) -> tuple[int, int]:
    """(address, exponent-plane address) of an operand at the loop indices given (missing levels are 0)."""
    offset = sum(i * s for i, s in zip(index, o.steps, strict=False))
    if o.ring_size:
        offset += (index[o.ring_level] % o.ring_size) * o.ring_step
    if o.bits:
        return o.addr + offset * 2 * o.bits, o.eaddr + offset
    return o.addr + offset, 0


def _tensor_regions(o: Operand, index: Sequence[int], rows: int, cols: int, write: bool) -> Iterator[Region]:
    addr, eaddr = operand_address(o, index)
    space = Space(o.space)
    if o.bits:
        block_rows, block_cols = -(-rows // 4), -(-cols // 4)
        yield Region(space, addr, block_cols * 2 * o.bits, block_rows, o.hi * 2 * o.bits, 1, 0, write)
        yield Region(space, eaddr, block_cols, block_rows, o.hi, 1, 0, write)
    elif o.cstep > 1:  # strided columns: the columns are the rows of the region
        if o.inner:
            for group in range(-(-rows // o.inner)):
                n = min(o.inner, rows - group * o.inner)
                yield Region(space, addr + 4 * group * o.hi, 4, cols, 4 * o.cstep, n, 4 * o.lo, write)
        else:
            yield Region(space, addr, 4, cols, 4 * o.cstep, rows, 4 * o.hi, write)
    else:
        size = 4 * cols if o.cstep else 4
        if o.inner:
            full, rest = divmod(rows, o.inner)
            if full:
                yield Region(space, addr, size, o.inner, 4 * o.lo, full, 4 * o.hi, write)
            if rest:
                yield Region(space, addr + 4 * full * o.hi, size, rest, 4 * o.lo, 1, 0, write)
        else:
            yield Region(space, addr, size, rows, 4 * o.hi, 1, 0, write)


def sink_shape(kind: int, rows: int, cols: int, group: int) -> tuple[int, int]:
    """Shape of what a VPU sink writes."""
    if kind in (Sink.SUM_ROWS, Sink.MAX_ROWS):
        return rows // (group or rows), cols
    if kind in (Sink.SUM_COLS, Sink.MAX_COLS):
        return rows, 1
    if kind in (Sink.SUM_ALL, Sink.MAX_ALL):
        return 1, 1
    return rows, cols


def regions(instruction: Instruction, index: Sequence[int], dram_rows: Sequence[int] | None = None) -> list[Region]:
    """What the instruction reads and writes at the loop indices `index`.

    `dram_rows` are the values of the index vector of a gather or scatter, which only the data tell; without them a
    gather's DRAM side is left out.
    """
    op = instruction.opcode
    out: list[Region] = []
    if op in (Opcode.LOAD, Opcode.STORE):
        size, count, outer = instruction["size"], instruction["count"], instruction["outer"]
        for group, write in (("s0", False), ("d0", True)):
            o = instruction.operand(group)
            start = operand_address(o, index)[0]
            in_dram = (op is Opcode.LOAD) == (group == "s0")
            space = Space.DRAM if in_dram else Space.SRAM
            if in_dram and instruction["gather"]:
                out += [Region(space, start + row * o.hi, size, 1, 0, 1, 0, write) for row in dram_rows or ()]
            else:
                out.append(Region(space, start, size, count, o.hi, outer, o.lo, write))
        if instruction["gather"]:
            start = operand_address(instruction.operand("s1"), index)[0]
            out.append(Region(Space.SRAM, start, 4 * count, 1, 0, 1, 0, False))
    elif op is Opcode.MATMUL:
        m, n, k = instruction["m"], instruction["n"], instruction["k"]
        out += _tensor_regions(
            instruction.operand("s0"), index, *((k, m) if instruction["ta"] else (m, k)), write=False
        )
        out += _tensor_regions(
            instruction.operand("s1"), index, *((n, k) if instruction["tb"] else (k, n)), write=False
        )
        d = instruction.operand("d0")
        if instruction["acc"]:
            out += _tensor_regions(d, index, m, n, write=False)
        out += _tensor_regions(d, index, m, n, write=True)
    elif op is Opcode.VPU:
        rows, cols = instruction["rows"], instruction["cols"]
        for i in range(SOURCES):
            o = instruction.operand(f"s{i}")
            if o.kind == Kind.TENSOR:
                out += _tensor_regions(o, index, rows, cols, write=False)
        for i in range(SINKS):
            o = instruction.operand(f"d{i}")
            if o.kind == Sink.NONE:
                continue
            shape = sink_shape(o.kind, rows, cols, o.inner)
            if o.kind != Sink.WRITE:  # `inner` is the reduction's group there, not an address split
                o = Operand(
                    o.kind, o.space, 0, o.addr, 0, 0, o.hi, 0, o.cstep, o.steps, o.ring_level, o.ring_size, o.ring_step
                )
                if instruction[f"acc{i}"]:
                    out += _tensor_regions(o, index, *shape, write=False)
            out += _tensor_regions(o, index, *shape, write=True)
    elif op not in CONTROL:
        raise NotImplementedError(f"regions of {op.name}")
    return out


@dataclass(frozen=True)
class Semaphore:
    """A counting semaphore from one queue to another.

    The k-th wait (from 0) matches signal k - credit. Exceeding `capacity` is an error, never blocking.
    """

    number: int
    source: Queue
    target: Queue
    credit: int
    capacity: int
    name: str = ""


def isa_hash() -> str:
    """Digest of every table above: a program carries it and an engine refuses another one."""
    h = hashlib.sha256()
    h.update(f"{WORD_BYTES} {LOOP_LEVELS} {PARAMS} {[(m.name, m.value) for m in MicroOp]}".encode())
    h.update(
        f"{[(s.name, s.value) for s in Sink]} {[(k.name, k.value) for k in Kind]} {[(s.name, s.value) for s in Space]}".encode()
    )
    for d in DEFS.values():
        h.update(f"{d.opcode.value} {d.mnemonic} {d.meaning}".encode())
        for f in d.fields.values():
            h.update(f"{f.name} {f.bits} {f.lo} {f.signed}".encode())
    return h.hexdigest()[:16]
