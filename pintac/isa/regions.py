"""The bytes that an instruction reads and writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pintac.isa.definition import CONTROL, Opcode
from pintac.isa.instruction import Instruction
from pintac.isa.operands import SINKS, SOURCES, Kind, Operand, Sink, operand_address, sink_shape
from pintac.isa.programmers_model import Space


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
