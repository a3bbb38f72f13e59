"""The memory of the simulated machine: DRAM, SRAM, partial sums, parameter block, status flags."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pintac import isa, smx
from pintac.errors import ExecutionError
from pintac.isa import Space
from pintac.program import Program, Symbol
from pintac.runtime.memory import aligned_bytes

FILL = 0xA5  # SRAM and PSUM before anything is written: reading them early gives the same wrong numbers everywhere


class MachineState:
    """Everything an engine reads and writes.

    `dram`, `sram`, `psum` are uint8 and exactly as large as the program says; their storage is 64-byte aligned and
    padded to a multiple of 64 bytes (`padded(space)`), so that it can be seen as fp32. `params` is the parameter block,
    uint32 [isa.PARAMS]; `status` uint32 [1] holds the sticky flags `smx.FLAG_*`.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._storage = {
            Space.DRAM: aligned_bytes(program.dram_bytes, 0),
            Space.SRAM: aligned_bytes(program.sram_bytes, FILL),
            Space.PSUM: aligned_bytes(program.psum_bytes, FILL),
        }
        self.dram = self._storage[Space.DRAM][: program.dram_bytes]
        self.sram = self._storage[Space.SRAM][: program.sram_bytes]
        self.psum = self._storage[Space.PSUM][: program.psum_bytes]
        self.params = np.zeros(isa.PARAMS, np.uint32)
        self.status = np.zeros(1, np.uint32)
        self.set_step(0)
        for arrays in (program.init, program.data):
            for name, array in arrays.items():
                self.write(name, array)

    def padded(self, space: Space) -> np.ndarray:
        """The storage of an address space with its padding."""
        return self._storage[space]

    def size(self, space: Space) -> int:
        """Bytes of an address space."""
        return (self.dram, self.sram, self.psum)[space].size

    def set_step(self, step: int, seed: int | None = None) -> None:
        """Fill the parameter block for a step: its row of the table (the last row for later steps) and its number."""
        table = self.program.param_table
        kept = self.params[isa.PARAM_SEED] if seed is None else seed
        self.params[: table.shape[1]] = table[min(step, len(table) - 1)]
        self.params[isa.PARAM_SEED] = np.uint32(int(kept) & 0xFFFFFFFF)
        self.params[isa.PARAM_STEP] = step

    def _plane(self, addr: int, size: int) -> np.ndarray:
        return self.dram[addr : addr + size]

    def read(self, name: str) -> np.ndarray:
        """A copy of a symbol: fp32 or int32 [shape]; an SMX symbol is decoded to its logical shape."""
        symbol = self.program.symbol(name)
        planes = [self._plane(addr, size) for addr, size in symbol.planes]
        if symbol.bits:
            mant, code = smx.from_bytes(planes[0], planes[1], symbol.bits, smx.padded(symbol.shape))
            return smx.decode(mant, code)[..., : symbol.shape[-2], : symbol.shape[-1]].copy()
        return planes[0].view(np.int32 if symbol.dtype == "i32" else np.float32).reshape(symbol.shape).copy()

    def write(self, name: str, array: np.ndarray) -> None:
        """Set a symbol; an SMX symbol is quantised. Raises `ExecutionError` on another shape."""
        symbol = self.program.symbol(name)
        if array.shape != symbol.shape:
            raise ExecutionError(f"symbol {name!r} is {describe(symbol)}, not of shape {list(array.shape)}")
        if symbol.bits:
            parts: tuple[np.ndarray, ...] = smx.to_bytes(np.ascontiguousarray(array, np.float32), symbol.bits)
        else:
            values = np.ascontiguousarray(array, np.int32 if symbol.dtype == "i32" else np.float32)
            parts = (values.reshape(-1).view(np.uint8),)
        for (addr, size), part in zip(symbol.planes, parts, strict=True):
            self._plane(addr, size)[:] = part

    def symbols(self, kind: str) -> Mapping[str, np.ndarray]:
        """Copies of all symbols of a kind, by name."""
        return {s.name: self.read(s.name) for s in self.program.symbols_of(kind)}


def describe(symbol: Symbol) -> str:
    """`f32[2,256]`."""
    return f"{symbol.dtype}[{','.join(map(str, symbol.shape))}]"
