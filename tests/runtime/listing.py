"""Building small programs by hand: an allocator, a loop stack and short forms of the instructions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from pintac import isa, smx
from pintac.isa import Kind, MicroOp, Opcode, Operand, Sink, Space
from pintac.isa.encoding import encode_program
from pintac.program import FIRST_PARAMS, Origin, Program, Symbol
from pintac.program_rules import validated

REG, SRC, IMM, PAR = isa.SELECT_REG, isa.SELECT_SOURCE, isa.SELECT_IMM, isa.SELECT_SCALAR


def fp32(
    addr: int, hi: int, *, kind: int = Kind.TENSOR, space: Space = Space.SRAM, cstep: int = 1, **rest: Any
) -> Operand:
    """A row-major fp32 tensor operand (`kind` as for sources; sinks pass their own)."""
    return Operand(kind=kind, space=space, addr=addr, hi=hi, cstep=cstep, **rest)


def uop(op: MicroOp, a: int = 0, b: int = 0, c: int = 0) -> int:
    """A micro-op of selectors: `uop(MicroOp.ADD, SRC + 0, REG + 1)`."""
    return isa.micro_op(op, a, b, c)


class Listing:
    """A program under construction. Addresses are handed out in order, 64-byte aligned unless `align` differs."""

    def __init__(self, params: Sequence[str] = (), table: np.ndarray | None = None) -> None:
        self.instructions: list[isa.Instruction] = []
        self.symbols: dict[str, Symbol] = {}
        self.data: dict[str, np.ndarray] = {}
        self.semaphores: list[isa.Semaphore] = []
        self.params = (*FIRST_PARAMS, *params)
        self.table = np.zeros((1, len(self.params)), np.uint32) if table is None else table
        self.depth = 0
        self._used = dict.fromkeys(Space, 0)

    def allocate(self, space: Space, size: int, align: int = 64) -> int:
        """The address of `size` fresh bytes."""
        start = -(-self._used[space] // align) * align
        self._used[space] = start + size
        return start

    def symbol(self, name: str, shape: tuple[int, ...], dtype: str = "f32", kind: str = "output") -> Symbol:
        """A fresh DRAM tensor."""
        size = Symbol(name, 0, shape, dtype).planes
        addr = self.allocate(Space.DRAM, size[0][1])
        eaddr = self.allocate(Space.DRAM, size[1][1]) if len(size) == 2 else 0
        self.symbols[name] = Symbol(name, addr, shape, dtype, kind, eaddr)
        return self.symbols[name]

    def constant(self, array: np.ndarray, bits: int = 0, name: str | None = None) -> Symbol:
        """A DRAM tensor that holds `array` from the start (quantised where `bits` says so)."""
        dtype = f"smx{bits}" if bits else "i32" if array.dtype == np.int32 else "f32"
        symbol = self.symbol(name or f"c{len(self.data)}", array.shape, dtype, "data")
        self.data[symbol.name] = array
        return symbol

    def emit(self, opcode: Opcode, operands: Mapping[str, Operand] | None = None, **header: int) -> None:
        """Append an instruction."""
        self.instructions.append(isa.make(opcode, operands, **header))

    @contextmanager
    def loop(self, count: int, param: int = isa.NO_PARAM) -> Iterator[int]:
        """Instructions inside the `with` repeat; gives the loop's level."""
        level = self.depth
        self.emit(Opcode.LOOP, level=level, count=count, param=param)
        self.depth += 1
        yield level
        self.depth -= 1
        self.emit(Opcode.ENDLOOP, level=level)

    def load(self, source: int, target: int, size: int) -> None:
        """Copy contiguous bytes from DRAM to SRAM."""
        self.emit(
            Opcode.LOAD,
            {"s0": Operand(space=Space.DRAM, addr=source), "d0": Operand(addr=target)},
            size=size,
            count=1,
            outer=1,
        )

    def on_chip(self, array: np.ndarray, bits: int = 0) -> tuple[int, int]:
        """(address, exponent-plane address) of `array` [rows, cols] in SRAM, loaded from a DRAM constant."""
        symbol = self.constant(np.asarray(array), bits)
        at = [self.allocate(Space.SRAM, size) for _addr, size in symbol.planes]
        for target, (addr, size) in zip(at, symbol.planes, strict=True):
            self.load(addr, target, size)
        return at[0], at[1] if bits else 0

    def source(self, array: np.ndarray, bits: int = 0) -> Operand:
        """A source operand that reads all of `array` [rows, cols]."""
        addr, eaddr = self.on_chip(array, bits)
        hi = -(-array.shape[1] // 4) if bits else array.shape[1]
        return Operand(kind=Kind.TENSOR, bits=bits, addr=addr, eaddr=eaddr, hi=hi, cstep=1)

    def sink(
        self, shape: tuple[int, int], kind: Sink = Sink.WRITE, bits: int = 0, space: Space = Space.SRAM, inner: int = 0
    ) -> Operand:
        """A fresh destination of `shape` (what is written: for a reduction its result)."""
        if bits:
            blocks = smx.exponent_bytes(shape)
            addr, eaddr = self.allocate(space, blocks * 2 * bits), self.allocate(space, blocks)
            return Operand(kind, space, bits, addr, eaddr, hi=-(-shape[1] // 4), cstep=1)
        addr = self.allocate(space, 4 * shape[0] * shape[1])
        return Operand(kind, space, 0, addr, inner=inner, hi=shape[1], cstep=1)

    def vpu(
        self,
        shape: tuple[int, int],
        sources: Sequence[Operand],
        uops: Sequence[int],
        sinks: Sequence[tuple[Operand, int]],
        **header: int,
    ) -> None:
        """A VPU instruction; `sinks` pairs a destination with the selector of its value."""
        operands = {f"s{i}": o for i, o in enumerate(sources)} | {f"d{i}": o for i, (o, _s) in enumerate(sinks)}
        selectors = {f"sel{i}": s for i, (_o, s) in enumerate(sinks)}
        micro = {f"uop{i}": u for i, u in enumerate(uops)}
        self.emit(Opcode.VPU, operands, rows=shape[0], cols=shape[1], uops=len(uops), **selectors, **micro, **header)

    def matmul(self, m: int, n: int, k: int, a: Operand, b: Operand, d: Operand, **header: int) -> None:
        """A TCU instruction."""
        self.emit(Opcode.MATMUL, {"s0": a, "s1": b, "d0": d}, m=m, n=n, k=k, **header)

    def program(self, **more: Any) -> Program:
        """The validated program with one entry, `step`, over the whole listing."""
        count = len(self.instructions)
        fields: dict[str, Any] = {
            "code": encode_program(self.instructions),
            "entries": {"step": (0, count)},
            "dram_bytes": self._used[Space.DRAM],
            "sram_bytes": self._used[Space.SRAM],
            "psum_bytes": self._used[Space.PSUM],
            "semaphores": tuple(self.semaphores),
            "symbols": self.symbols,
            "params": self.params,
            "param_table": self.table,
            "data": self.data,
            "debug": tuple(Origin(f"op{pc}", "listing.py", pc + 1) for pc in range(count)),
        }
        return validated(Program(**(fields | more)))
