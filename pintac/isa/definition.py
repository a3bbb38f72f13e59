"""The instructions: opcodes, fields, meanings and preconditions. Words, text and the page follow from `DEFS`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from pintac.isa.fields import GROUPS, WORD_BYTES, Field, group_fields, header_fields
from pintac.isa.micro_ops import IMMEDIATES, MAX_MICRO_OPS, MicroOp
from pintac.isa.operands import Kind, Sink
from pintac.isa.programmers_model import LOOP_LEVELS, PARAMS, Queue, Space


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


QUEUE_OF: Mapping[Opcode, Queue] = {
    Opcode.LOAD: Queue.LOAD,
    Opcode.MATMUL: Queue.TCU,
    Opcode.VPU: Queue.VPU,
    Opcode.STORE: Queue.STORE,
}
"""The queue of every instruction that does work; the others are loops and semaphores (`CONTROL`)."""

CONTROL = frozenset({Opcode.LOOP, Opcode.ENDLOOP, Opcode.SIGNAL, Opcode.WAIT})


class Dataflow(IntEnum):
    """Which operand of a matmul stays in the array."""

    OUTPUT = 0
    WEIGHT = 1
    INPUT = 2


class Gather(IntEnum):
    """How a transfer finds its rows in DRAM."""

    NONE = 0
    INDEX = 1  # row i of the outer count lies at index[i] * stride (index vector: int32 in SRAM, operand s1)


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


def _define(
    opcode: Opcode, header: tuple[Field, ...], groups: tuple[str, ...], meaning: str, *pre: str
) -> InstructionDef:
    table = {f.name: f for f in header} | {f.name: f for f in group_fields(groups)}
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
    base = header_fields(*_VPU)
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
            header_fields(
                _LEVEL,
                ("param", 8, "parameter that holds the count; 255: immediate"),
                ("count", 32, "count, or its maximum"),
            ),
            (),
            "Repeat the instructions up to the matching endloop `count` times with index[level] = 0, 1, ...; "
            "all queues.",
            "level equals the number of enclosing loops",
            "count >= 1; a parameter's value is between 0 and count",
        ),
        _define(
            Opcode.ENDLOOP,
            header_fields(_LEVEL),
            (),
            "End of the loop of this level.",
            "closes the innermost open loop",
        ),
        _define(
            Opcode.SIGNAL,
            header_fields(_QUEUE, _SEM),
            (),
            "The queue adds one to the semaphore once everything before it in the queue is complete.",
            "queue is the semaphore's declared source",
            "the value stays <= its capacity",
        ),
        _define(
            Opcode.WAIT,
            header_fields(_QUEUE, _SEM),
            (),
            "The queue starts nothing after it before the semaphore is positive, then takes one.",
            "queue is the semaphore's declared target",
            "every wait is matched by an earlier signal of the listing or by credit",
        ),
        _define(
            Opcode.LOAD,
            header_fields(*_TRANSFER),
            ("s0", "s1", "d0"),
            "Copy outer x count rows of `size` bytes from DRAM (s0) to SRAM (d0); "
            "with gather, row i comes from index[i] * s0.hi.",
            "s0 in DRAM, d0 in SRAM, in bounds",
            "size, count, outer >= 1, less than 2^32 bytes in all; gather: outer = 1, s1 an int32 vector in SRAM",
        ),
        _define(
            Opcode.STORE,
            header_fields(*_TRANSFER),
            ("s0", "s1", "d0"),
            "Copy outer x count rows of `size` bytes from SRAM (s0) to DRAM (d0); "
            "with gather (scatter), row i goes to index[i] * d0.hi.",
            "s0 in SRAM, d0 in DRAM, in bounds",
            "size, count, outer >= 1, less than 2^32 bytes in all; scatter: outer = 1, s1 an int32 vector in SRAM",
        ),
        _define(
            Opcode.MATMUL,
            header_fields(
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
            "For each of rows x cols elements: read the sources, run the micro-ops in order, "
            "give the selected values to the sinks.",
            "sources in SRAM or PSUM; sinks in SRAM or PSUM; SMX sources and sinks have inner 0 and cstep 1",
            "rows, cols >= 1; a destination overlaps a source only where both are the same fp32 elements",
            "every element or block of a destination in a place of its own, mantissas and exponents, too",
            "the two destinations do not overlap; fp32 addresses and steps are multiples of 4",
            "reductions write fp32; rows is a multiple of a row reduction's group",
        ),
    )
}

MNEMONICS: Mapping[str, InstructionDef] = {d.mnemonic: d for d in DEFS.values()}


def isa_hash() -> str:
    """Digest of the whole definition: a program carries it and an engine refuses another one."""
    h = hashlib.sha256()
    h.update(f"{WORD_BYTES} {LOOP_LEVELS} {PARAMS} {[(m.name, m.value) for m in MicroOp]}".encode())
    enums = " ".join(str([(member.name, member.value) for member in enum]) for enum in (Sink, Kind, Space))
    h.update(enums.encode())
    for d in DEFS.values():
        h.update(f"{d.opcode.value} {d.mnemonic} {d.meaning}".encode())
        for f in d.fields.values():
            h.update(f"{f.name} {f.bits} {f.lo} {f.signed}".encode())
    return h.hexdigest()[:16]
