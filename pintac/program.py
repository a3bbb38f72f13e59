"""The program container: encoded instructions, where their data live, and everything a run needs.

A `.pinta` file is a sealed safetensors file (`container`): its metadata is one key, `pintac`, of sorted JSON, and its
digest covers every byte.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pintac import isa
from pintac.container import seal, write_atomically
from pintac.errors import ProgramError
from pintac.isa.encoding import decode_program, decode_table

FORMAT = 1
MAGIC_KEY = "pintac"
DTYPES = ("f32", "i32", "smx4", "smx8", "smx12", "smx16")
KINDS = ("state", "input", "output", "metric", "data", "scratch")
FIRST_PARAMS = ("seed", "step")  # words 0 and 1 of the parameter block (isa.PARAM_SEED, isa.PARAM_STEP)


@dataclass(frozen=True)
class Symbol:
    """A named tensor in DRAM: row-major fp32 or int32, or the two planes of an SMX tensor.

    `addr` (and `eaddr`, the exponent plane of an SMX tensor) are byte addresses; `kind` is one of `KINDS`.
    """

    name: str
    addr: int
    shape: tuple[int, ...]
    dtype: str = "f32"
    kind: str = "scratch"
    eaddr: int = 0

    @property
    def bits(self) -> int:
        """Bits of an SMX mantissa; 0 for fp32 and int32."""
        return int(self.dtype[3:]) if self.dtype.startswith("smx") else 0

    @property
    def blocks(self) -> int:
        """4x4 blocks over the last two dimensions, padded (SMX)."""
        *lead, rows, cols = self.shape
        return math.prod(lead) * -(-rows // 4) * -(-cols // 4)

    @property
    def planes(self) -> tuple[tuple[int, int], ...]:
        """(address, bytes) of each plane."""
        if self.bits:
            return (self.addr, self.blocks * 2 * self.bits), (self.eaddr, self.blocks)
        return ((self.addr, 4 * math.prod(self.shape)),)


class Origin(NamedTuple):
    """Where an instruction comes from: the IR op and the user's source line (what an error or a trace names)."""

    op: str
    file: str
    line: int


@dataclass(frozen=True, eq=False)
class Program:
    """A compiled program. `program_file.load` gives only programs that keep every rule in `program_rules`.

    code            encoded instructions, `isa.WORD_BYTES` each
    entries         entry name -> (start, stop): range of instruction numbers
    params          names of the words of the parameter block; the first two are `seed` and `step`
    param_table     uint32 [T, len(params)], fp32 entries as bits; row t holds step t, later steps use the last row.
                    A session overwrites the columns of `seed` and `step`.
    init            fp32 start values of state symbols
    data            constants to place in DRAM before the first step, by symbol name
    test_x, test_u  fp32 test points [n, d] and exact values [n, m]
    debug           one `Origin` an instruction, or empty
    meta            JSON: machine, bits, scheme, lower bound, problem name, state export, ...
    """

    code: bytes
    entries: Mapping[str, tuple[int, int]]
    dram_bytes: int
    sram_bytes: int
    psum_bytes: int
    semaphores: tuple[isa.Semaphore, ...] = ()
    symbols: Mapping[str, Symbol] = field(default_factory=dict)
    params: tuple[str, ...] = FIRST_PARAMS
    param_table: np.ndarray = field(default_factory=lambda: np.zeros((1, 2), np.uint32))
    init: Mapping[str, np.ndarray] = field(default_factory=dict)
    data: Mapping[str, np.ndarray] = field(default_factory=dict)
    test_x: np.ndarray | None = None
    test_u: np.ndarray | None = None
    debug: tuple[Origin, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def instructions(self) -> tuple[isa.Instruction, ...]:
        """The decoded listing."""
        return tuple(decode_program(self.code))

    @cached_property
    def table(self) -> np.ndarray:
        """The decoded listing as int64 [instructions, isa.COLUMNS]; read-only."""
        table = decode_table(self.instructions)
        table.flags.writeable = False
        return table

    @property
    def digest(self) -> str:
        """SHA-256 of the program's content (the one its file carries)."""
        return self._file_and_digest[1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash(self.digest)

    def origin(self, pc: int) -> Origin:
        """Where instruction `pc` comes from; `Origin("", "", 0)` without debug information."""
        return self.debug[pc] if self.debug else Origin("", "", 0)

    def entry(self, name: str) -> tuple[int, int]:
        """(start, stop) of an entry. Raises `ProgramError` if there is none of that name."""
        if name not in self.entries:
            raise ProgramError(f"the program has no entry {name!r}", hint=f"it has: {', '.join(sorted(self.entries))}")
        return self.entries[name]

    def symbol(self, name: str) -> Symbol:
        """The DRAM symbol. Raises `ProgramError` if there is none of that name."""
        if name not in self.symbols:
            raise ProgramError(f"the program has no symbol {name!r}")
        return self.symbols[name]

    def symbols_of(self, kind: str) -> list[Symbol]:
        """The symbols of a kind, by name."""
        return [self.symbols[name] for name in sorted(self.symbols) if self.symbols[name].kind == kind]

    def to_bytes(self) -> bytes:
        """The bytes of the `.pinta` file: equal for equal programs."""
        return self._file_and_digest[0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the program; the file appears whole or not at all. Raises `ProgramError` if it cannot be written."""
        try:
            write_atomically(Path(path), self.to_bytes())
        except OSError as error:
            raise ProgramError(f"cannot write {path}: {error.strerror}") from None

    @cached_property
    def _file_and_digest(self) -> tuple[bytes, str]:
        tensors: dict[str, np.ndarray] = {
            "code": np.array(bytearray(self.code), np.uint8),
            "param_table": np.asarray(self.param_table, np.uint32, order="C"),
        }
        tensors |= {f"init:{name}": np.asarray(a, np.float32, order="C") for name, a in self.init.items()}
        tensors |= {f"data:{name}": np.asarray(a, order="C") for name, a in self.data.items()}
        for name in ("test_x", "test_u"):
            array = getattr(self, name)
            if array is not None:
                tensors[name] = np.asarray(array, np.float32, order="C")
        strings = sorted({s for o in self.debug for s in (o.op, o.file)})
        number = {s: i for i, s in enumerate(strings)}
        if self.debug:
            rows = [(number[o.op], number[o.file], o.line) for o in self.debug]
            tensors["debug"] = np.array(rows, np.int32)
        header = {
            "format": FORMAT,
            "isa_hash": isa.isa_hash(),
            "entries": {name: list(span) for name, span in self.entries.items()},
            "semaphores": [
                [s.number, int(s.source), int(s.target), s.credit, s.capacity, s.name] for s in self.semaphores
            ],
            "bytes": [self.dram_bytes, self.sram_bytes, self.psum_bytes],
            "symbols": {s.name: [s.addr, list(s.shape), s.dtype, s.kind, s.eaddr] for s in self.symbols.values()},
            "params": list(self.params),
            "strings": strings,
            "meta": self.meta,
        }
        return seal(MAGIC_KEY, header, tensors)
