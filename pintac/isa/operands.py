"""Operands: what a source and a destination are, and where their elements lie.

An operand group addresses a tensor:

    address = addr + sum over loop levels l of index[l] * step[l] + (index[ring_level] % ring_size) * ring_step

(`ring_size` 0: no ring term). Steps are bytes for fp32 operands and for transfers, elements for index operands, and
4x4 *blocks* for SMX operands, whose two planes (mantissas at `addr`, one exponent byte a block at `eaddr`) move
together. Inside the operand, element (r, c) of an fp32 tensor lies `4 * (r * hi + c * cstep)` bytes on, or with
`inner` > 0 `4 * ((r // inner) * hi + (r % inner) * lo + c * cstep)`; so `hi = 0` broadcasts a row, `cstep = 0` a
column, and `inner` a row to a group of rows. Block (i, j) of an SMX tensor is block number `i * hi + j`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from pintac.isa.programmers_model import LOOP_LEVELS, Space

SOURCES = 5
SINKS = 2


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


@dataclass(frozen=True)
class Operand:
    """An operand group (the module text has the address rule). Strides of fp32 tensors are elements."""

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


def operand_address(o: Operand, index: Sequence[int]) -> tuple[int, int]:
    """(address, exponent-plane address) of an operand at the loop indices given (missing levels are 0)."""
    offset = sum(i * s for i, s in zip(index, o.steps, strict=False))
    if o.ring_size:
        offset += (index[o.ring_level] % o.ring_size) * o.ring_step
    if o.bits:
        return o.addr + offset * 2 * o.bits, o.eaddr + offset
    return o.addr + offset, 0


def sink_shape(kind: int, rows: int, cols: int, group: int) -> tuple[int, int]:
    """Shape of what a VPU sink writes."""
    if kind in (Sink.SUM_ROWS, Sink.MAX_ROWS):
        return rows // (group or rows), cols
    if kind in (Sink.SUM_COLS, Sink.MAX_COLS):
        return rows, 1
    if kind in (Sink.SUM_ALL, Sink.MAX_ALL):
        return 1, 1
    return rows, cols
