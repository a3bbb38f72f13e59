"""The PINTA instruction set, declared once.

Encoder, decoder, assembler, disassembler, the generated ISA page, both execution engines, the cost model and the
hazard checker all read the tables of this package. What the instruction set *is* is imported from here. What is done
with an instruction has modules of its own: `encoding` makes words of it, `regions` says which bytes it touches.
"""

from pintac.isa.definition import (
    CONTROL,
    DEFS,
    MNEMONICS,
    QUEUE_OF,
    Dataflow,
    Gather,
    InstructionDef,
    Opcode,
    isa_hash,
)
from pintac.isa.fields import COLUMNS, GROUPS, OPERAND_FIELDS, WORD_BYTES, Field
from pintac.isa.instruction import Instruction, make
from pintac.isa.micro_ops import (
    ARITY,
    IMMEDIATES,
    MAX_MICRO_OPS,
    PHILOX,
    SCALARS,
    SELECT_IMM,
    SELECT_REG,
    SELECT_SCALAR,
    SELECT_SOURCE,
    SELECTORS,
    MicroOp,
    bits_float,
    float_bits,
    micro_op,
    split_micro_op,
)
from pintac.isa.operands import SINKS, SOURCES, Kind, Operand, Sink, operand_address, sink_shape
from pintac.isa.programmers_model import (
    LOOP_LEVELS,
    MAX_SEMAPHORES,
    NO_PARAM,
    PARAM_SEED,
    PARAM_STEP,
    PARAMS,
    Queue,
    Semaphore,
    Space,
)

__all__ = [
    "ARITY",
    "COLUMNS",
    "CONTROL",
    "DEFS",
    "GROUPS",
    "IMMEDIATES",
    "LOOP_LEVELS",
    "MAX_MICRO_OPS",
    "MAX_SEMAPHORES",
    "MNEMONICS",
    "NO_PARAM",
    "OPERAND_FIELDS",
    "PARAMS",
    "PARAM_SEED",
    "PARAM_STEP",
    "PHILOX",
    "QUEUE_OF",
    "SCALARS",
    "SELECTORS",
    "SELECT_IMM",
    "SELECT_REG",
    "SELECT_SCALAR",
    "SELECT_SOURCE",
    "SINKS",
    "SOURCES",
    "WORD_BYTES",
    "Dataflow",
    "Field",
    "Gather",
    "Instruction",
    "InstructionDef",
    "Kind",
    "MicroOp",
    "Opcode",
    "Operand",
    "Queue",
    "Semaphore",
    "Sink",
    "Space",
    "bits_float",
    "float_bits",
    "isa_hash",
    "make",
    "micro_op",
    "operand_address",
    "sink_shape",
    "split_micro_op",
]
