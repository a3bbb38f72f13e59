"""The reference engine: what each instruction means, in NumPy, one obvious function an opcode.

It is slow and checks everything: bounds of every access, overlap of operands, semaphore values. The jit engine is
tested against it bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from pintac import isa, smx
from pintac.isa import Kind, MicroOp, Opcode, Operand, Sink, Space, operand_address
from pintac.program import Program
from pintac.runtime.listing import execution_error, walk
from pintac.runtime.micro_ops import MICRO_OPS, philox
from pintac.runtime.reductions import REDUCTIONS
from pintac.runtime.state import MachineState

Index = tuple[int, ...]


@dataclass(frozen=True)
class _Decoded:
    """An instruction with its operand groups as objects (decoding them at every execution would be slow)."""

    instruction: isa.Instruction
    operands: Mapping[str, Operand]

    def __getitem__(self, name: str) -> int:
        return self.instruction[name]


class _Refused(Exception):
    """What is wrong with an access; `run` adds the place."""


class ReferenceEngine:
    """Executes a program on a `MachineState`, one instruction after the other."""

    def __init__(self, program: Program, state: MachineState) -> None:
        self.program = program
        self.state = state
        self._decoded: dict[int, _Decoded] = {}
        self._execute: Mapping[Opcode, Callable[[_Decoded, Index], None]] = {
            Opcode.LOAD: self._load,
            Opcode.STORE: self._store,
            Opcode.MATMUL: self._matmul,
            Opcode.VPU: self._vpu,
            Opcode.SIGNAL: self._signal,
            Opcode.WAIT: self._wait,
        }
        self._semaphores = {s.number: s for s in program.semaphores}
        self._values: dict[int, int] = {}

    def run(self, entry: str) -> None:
        """Run an entry; see `Engine.run`. The machine drains between entries: semaphores start from their credit."""
        self._values = {s.number: s.credit for s in self.program.semaphores}
        for pc, index in walk(self.program, entry, self.state.params):
            decoded = self._decode(pc)
            try:
                self._execute[decoded.instruction.opcode](decoded, index)
            except _Refused as refused:
                at = f" at loop indices {list(index)}" if any(index) else ""
                raise execution_error(self.program, pc, f"{refused}{at}") from None

    def _decode(self, pc: int) -> _Decoded:
        if pc not in self._decoded:
            instruction = self.program.instructions[pc]
            groups = isa.DEFS[instruction.opcode].groups
            self._decoded[pc] = _Decoded(instruction, {g: instruction.operand(g) for g in groups})
        return self._decoded[pc]

    # --- memory -------------------------------------------------------------------------------------------------------

    def _check(self, space: int, low: int, high: int) -> None:
        size = self.state.size(Space(space))
        if low < 0 or high > size:
            raise _Refused(f"touches [{low}, {high}) of {Space(space).name}, which has {size} bytes")

    def _words(self, space: int) -> np.ndarray:
        return self.state.padded(Space(space)).view(np.float32)

    def _fp32_places(self, o: Operand, index: Index, rows: int, cols: int) -> np.ndarray:
        """Word number of each element [rows, cols] of an fp32 tensor."""
        addr = operand_address(o, index)[0]
        words = addr // 4 + _element_offsets(o, rows, cols)
        self._check(o.space, 4 * int(words.min()), 4 * int(words.max()) + 4)
        return words

    def _smx_blocks(self, o: Operand, index: Index, rows: int, cols: int) -> tuple[np.ndarray, np.ndarray]:
        """First byte of each block's mantissas, and the place of its exponent, [block rows * block columns]."""
        addr, eaddr = operand_address(o, index)
        block_rows, block_cols = -(-rows // 4), -(-cols // 4)
        number = (np.arange(block_rows)[:, None] * o.hi + np.arange(block_cols)).reshape(-1)
        size = 2 * o.bits
        mantissas, codes = addr + size * number, eaddr + number
        self._check(o.space, int(mantissas.min()), int(mantissas.max()) + size)
        self._check(o.space, int(codes.min()), int(codes.max()) + 1)
        return mantissas, codes

    def _read_smx(self, o: Operand, index: Index, rows: int, cols: int) -> smx.Smx:
        """The SMX tensor with the padded shape of [rows, cols]."""
        memory = self.state.padded(Space(o.space))
        mantissas, codes = self._smx_blocks(o, index, rows, cols)
        raw = memory[mantissas[:, None] + np.arange(2 * o.bits)]
        shape = smx.padded((rows, cols))
        return smx.unpack(raw, o.bits, shape), memory[codes].reshape(shape[0] // 4, shape[1] // 4)

    def _write_smx(self, o: Operand, index: Index, values: np.ndarray) -> None:
        """Quantise [rows, cols]; padding rows and columns of the last blocks become zero."""
        memory = self.state.padded(Space(o.space))
        mantissas, codes = self._smx_blocks(o, index, *values.shape)
        mant, code, flags = smx.quantize(values, o.bits)
        memory[mantissas[:, None] + np.arange(2 * o.bits)] = smx.pack(mant, o.bits)
        memory[codes] = code.reshape(-1)
        self.state.status[0] |= np.uint32(flags)

    # --- transfers ----------------------------------------------------------------------------------------------------

    def _rows(self, d: _Decoded, group: str, index: Index) -> np.ndarray:
        """First byte of each row of a transfer, [outer * count]."""
        o = d.operands[group]
        start = operand_address(o, index)[0]
        rows = start + np.arange(d["outer"])[:, None] * o.lo + np.arange(d["count"]) * o.hi
        return rows.reshape(-1)

    def _gathered_rows(self, d: _Decoded, group: str, index: Index) -> np.ndarray:
        """The same with the rows of DRAM given by the index vector."""
        start = operand_address(d.operands["s1"], index)[0]
        self._check(Space.SRAM, start, start + 4 * d["count"])
        numbers = self.state.padded(Space.SRAM).view(np.int32)[start // 4 : start // 4 + d["count"]]
        o = d.operands[group]
        return operand_address(o, index)[0] + numbers.astype(np.int64) * o.hi

    def _copy(self, d: _Decoded, source: tuple[Space, np.ndarray], target: tuple[Space, np.ndarray]) -> None:
        size = d["size"]
        for space, rows in (source, target):
            self._check(space, int(rows.min()), int(rows.max()) + size)
        read, write = self.state.padded(source[0]), self.state.padded(target[0])
        for from_row, to_row in zip(source[1].tolist(), target[1].tolist(), strict=True):
            write[to_row : to_row + size] = read[from_row : from_row + size]

    def _load(self, d: _Decoded, index: Index) -> None:
        rows = self._gathered_rows if d["gather"] else self._rows
        self._copy(d, (Space.DRAM, rows(d, "s0", index)), (Space.SRAM, self._rows(d, "d0", index)))

    def _store(self, d: _Decoded, index: Index) -> None:
        rows = self._gathered_rows if d["gather"] else self._rows
        self._copy(d, (Space.SRAM, self._rows(d, "s0", index)), (Space.DRAM, rows(d, "d0", index)))

    # --- TCU ----------------------------------------------------------------------------------------------------------

    def _matmul(self, d: _Decoded, index: Index) -> None:
        m, n, k = d["m"], d["n"], d["k"]
        left = self._transposable(d.operands["s0"], index, (m, k), bool(d["ta"]))
        right = self._transposable(d.operands["s1"], index, (k, n), bool(d["tb"]))
        o = d.operands["d0"]
        places, words = self._fp32_places(o, index, m, n), self._words(o.space)
        words[places] = smx.matmul(left, right, words[places] if d["acc"] else None, m, n)

    def _transposable(self, o: Operand, index: Index, shape: tuple[int, int], transposed: bool) -> smx.Smx:
        rows, cols = shape[::-1] if transposed else shape
        mant, code = self._read_smx(o, index, rows, cols)
        return smx.transpose(mant, code) if transposed else (mant, code)

    # --- VPU ----------------------------------------------------------------------------------------------------------

    def _vpu(self, d: _Decoded, index: Index) -> None:
        shape = (d["rows"], d["cols"])
        self._check_overlap(d, index, shape)
        values = self._sources(d, index, shape)
        for n in range(d["uops"]):
            op, *selectors = isa.split_micro_op(d[f"uop{n}"])
            if op in isa.PHILOX:
                counter = d.operands[f"s{selectors[0] - isa.SELECT_SOURCE}"]
                stream = d[f"imm{selectors[1] - isa.SELECT_IMM}"]
                values[n] = philox(op, _element_numbers(counter, index, shape), stream, self.state.params)
            elif op is not MicroOp.NOP:
                values[n] = MICRO_OPS[op](*(values[s] for s in selectors[: isa.ARITY[op]]))
        for n in range(isa.SINKS):
            o = d.operands[f"d{n}"]
            if o.kind != Sink.NONE:
                self._sink(o, index, values[d[f"sel{n}"]], acc=bool(d[f"acc{n}"]))

    def _sources(self, d: _Decoded, index: Index, shape: tuple[int, int]) -> dict[int, np.ndarray]:
        """What each selector stands for before the first micro-op, fp32 [rows, cols]."""
        values = {}
        for n in range(isa.SOURCES):
            o = d.operands[f"s{n}"]
            if o.kind == Kind.TENSOR:
                values[isa.SELECT_SOURCE + n] = self._read(o, index, shape)
        for n in range(isa.IMMEDIATES):
            values[isa.SELECT_IMM + n] = np.full(shape, np.uint32(d[f"imm{n}"])).view(np.float32)
        for n in range(isa.SCALARS):
            if d[f"scalar{n}"] < isa.PARAMS:
                values[isa.SELECT_SCALAR + n] = np.full(shape, self.state.params[d[f"scalar{n}"]]).view(np.float32)
        return values

    def _read(self, o: Operand, index: Index, shape: tuple[int, int]) -> np.ndarray:
        if o.bits:
            return smx.decode(*self._read_smx(o, index, *shape))[: shape[0], : shape[1]]
        return self._words(o.space)[self._fp32_places(o, index, *shape)]

    def _sink(self, o: Operand, index: Index, value: np.ndarray, acc: bool) -> None:
        if o.kind == Sink.WRITE:
            if o.bits:
                self._write_smx(o, index, value)
            else:
                self._words(o.space)[self._fp32_places(o, index, *value.shape)] = value
            return
        places = self._fp32_places(_target(o), index, *isa.sink_shape(o.kind, value.shape[0], value.shape[1], o.inner))
        words = self._words(o.space)
        words[places] = REDUCTIONS[Sink(o.kind)](value, o.inner or len(value), words[places] if acc else None)

    def _check_overlap(self, d: _Decoded, index: Index, shape: tuple[int, int]) -> None:
        """A destination overlaps a source only where both are the same fp32 elements, and never the other one."""
        sinks = [o for n in range(isa.SINKS) if (o := d.operands[f"d{n}"]).kind != Sink.NONE]
        sources = [o for n in range(isa.SOURCES) if (o := d.operands[f"s{n}"]).kind == Kind.TENSOR]
        written = [self._touched(_target(o), index, isa.sink_shape(o.kind, shape[0], shape[1], o.inner)) for o in sinks]
        if len(sinks) == 2 and sinks[0].space == sinks[1].space and _intersect(written[0], written[1]):
            raise _Refused("the two destinations overlap")
        for sink, out in zip(sinks, written, strict=True):
            for source in (o for o in sources if o.space == sink.space):
                read = self._touched(source, index, shape)
                in_place = sink.kind == Sink.WRITE and not sink.bits and not source.bits
                if in_place and np.array_equal(read[0][0], out[0][0]):
                    continue
                if _intersect(read, out):
                    raise _Refused("a destination overlaps a source that is not the same fp32 elements")

    def _touched(self, o: Operand, index: Index, shape: tuple[int, int]) -> list[tuple[np.ndarray, int]]:
        """(first bytes, bytes at each) of the pieces of a tensor."""
        if o.bits:
            mantissas, codes = self._smx_blocks(o, index, *shape)
            return [(mantissas, 2 * o.bits), (codes, 1)]
        return [(4 * self._fp32_places(o, index, *shape), 4)]

    # --- semaphores ---------------------------------------------------------------------------------------------------

    def _signal(self, d: _Decoded, _index: Index) -> None:
        number = d["sem"]
        self._values[number] += 1
        if self._values[number] > self._semaphores[number].capacity:
            raise _Refused(f"semaphore {number} exceeds its capacity of {self._semaphores[number].capacity}")

    def _wait(self, d: _Decoded, _index: Index) -> None:
        number = d["sem"]
        if not self._values[number]:
            raise _Refused(f"semaphore {number} is waited for before its signal")
        self._values[number] -= 1


def _target(sink: Operand) -> Operand:
    """A sink as a tensor: the `inner` of a reduction is its group of rows, not a split of the address."""
    return sink if sink.kind == Sink.WRITE else replace(sink, inner=0, lo=0)


def _element_offsets(o: Operand, rows: int, cols: int) -> np.ndarray:
    """Distance of each element [rows, cols] from the first one, in elements (module text of `isa.operands`)."""
    r = np.arange(rows)
    down = (r // o.inner) * o.hi + (r % o.inner) * o.lo if o.inner else r * o.hi
    return down[:, None] + np.arange(cols) * o.cstep


def _element_numbers(o: Operand, index: Index, shape: tuple[int, int]) -> np.ndarray:
    """The value of an index operand, uint32 [rows, cols]."""
    first = operand_address(o, index)[0]
    return (first + _element_offsets(o, *shape)).astype(np.uint32)


def _intersect(a: list[tuple[np.ndarray, int]], b: list[tuple[np.ndarray, int]]) -> bool:
    """Whether two sets of byte ranges have a byte in common."""
    for a_starts, a_size in a:
        for b_starts, b_size in b:
            low = max(int(a_starts.min()), int(b_starts.min()))
            high = min(int(a_starts.max()) + a_size, int(b_starts.max()) + b_size)
            if low < high:
                bytes_of_a = np.unique(a_starts.reshape(-1, 1) + np.arange(a_size))
                bytes_of_b = np.unique(b_starts.reshape(-1, 1) + np.arange(b_size))
                if np.intersect1d(bytes_of_a, bytes_of_b, assume_unique=True).size:
                    return True
    return False
