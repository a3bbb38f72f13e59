"""Random valid programs: every opcode, operand form, micro-op and sink, with nothing uninitialised.

`random_program(seed)` is deterministic; `programs()` is the hypothesis strategy around it. `assert_same_memory` is what
two engines must pass after running one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from pintac import isa, smx
from pintac.isa import ARITY, Kind, MicroOp, Opcode, Operand, Sink, Space
from pintac.program import Program
from pintac.runtime.state import MachineState
from tests.runtime.listing import IMM, PAR, REG, SRC, Listing

BITS = (4, 8, 12, 16)
MAX_EXTENT = 14
ARITHMETIC = [op for op in MicroOp if op is not MicroOp.NOP and op not in isa.PHILOX]
RANDOM_NUMBERS = sorted(isa.PHILOX)
SCALAR_PARAM = 2  # fp32 words of the parameter block
COUNT_PARAM = 3  # a loop count


def programs(instructions: int = 6) -> st.SearchStrategy[Program]:
    """Programs with up to `instructions` random instructions (besides loads that initialise memory)."""
    return st.builds(random_program, st.integers(0, 2**32 - 1), st.integers(1, instructions))


def random_program(seed: int, instructions: int = 6) -> Program:
    """The program of a seed."""
    return _Generator(random.Random(seed)).generate(instructions)


@dataclass(frozen=True)
class _Loop:
    level: int
    count: int  # the largest index is count - 1


class _Generator:
    """Draws one program. Every operand gets memory of its own that is large enough for all loop iterations."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.values = np.random.default_rng(draw.getrandbits(32))
        table = np.zeros((3, 4), np.uint32)
        table[:, SCALAR_PARAM] = np.array([0.5, -3.0, 1e-3], np.float32).view(np.uint32)
        table[:, COUNT_PARAM] = [draw.randint(0, 3) for _ in range(3)]
        self.listing = Listing(("lr", "rows"), table)
        self.start: list[isa.Instruction] = []
        self.loops: list[_Loop] = []

    def generate(self, instructions: int) -> Program:
        body = self.listing.instructions
        emitted = 0
        while emitted < instructions:
            inside = min(self.draw.randint(1, 3), instructions - emitted)
            with ExitStack() as nest:
                for _ in range(self.draw.choice((0, 0, 1, 1, 2, 3, 5))):
                    by_param = self.draw.random() < 0.2
                    count = 3 if by_param else self.draw.choice((1, 2, 2, 3))
                    level = nest.enter_context(self.listing.loop(count, COUNT_PARAM if by_param else isa.NO_PARAM))
                    self.loops.append(_Loop(level, count))
                for _ in range(inside):
                    self.draw.choice((self._vpu, self._vpu, self._vpu, self._matmul, self._transfer))()
                self.loops.clear()
            emitted += inside
        # What initialises memory comes first; it was collected while operands were drawn.
        self.listing.instructions = self.start + body
        return self.listing.program()

    # --- memory -------------------------------------------------------------------------------------------------------

    def _at_start(self) -> _Swapped:
        return _Swapped(self)

    def _region(self, size: int, space: Space, content: np.ndarray | None = None) -> int:
        """`size` bytes (a multiple of 4) holding fp32 numbers or the bytes of `content`."""
        addr = self.listing.allocate(space, size, self.draw.choice((4, 8, 64)))
        if content is None:
            content = self._numbers((size // 4,)).view(np.int32)
        if space is Space.PSUM:
            value = isa.float_bits(self.draw.choice((0.0, -1.5, 3.25, 0.1)))
            with self._at_start():
                row = min(size // 4, 60000)
                for first in range(0, size // 4, row):
                    n = min(row, size // 4 - first)
                    sink = Operand(Sink.WRITE, Space.PSUM, addr=addr + 4 * first, hi=n, cstep=1)
                    self.listing.vpu((1, n), (), (), ((sink, IMM + 0),), imm0=value)
        else:
            padded = np.zeros(-(-content.nbytes // 4) * 4, np.uint8)
            padded[: content.nbytes] = content.reshape(-1).view(np.uint8)
            symbol = self.listing.constant(padded.view(np.int32))
            with self._at_start():
                self.listing.load(symbol.addr, addr, size)
        return addr

    def _numbers(self, shape: tuple[int, ...]) -> np.ndarray:
        scale = self.draw.choice((1e-3, 1.0, 1.0, 1.0, 50.0, 1e20))
        x = (self.values.standard_normal(shape) * scale).astype(np.float32)
        special = self.draw.choice((None, None, None, 0.0, -0.0, np.inf, np.nan, 1e-42))
        if special is not None and x.size:
            x.reshape(-1)[self.values.integers(0, x.size, max(1, x.size // 20))] = special
        return x

    # --- operands -----------------------------------------------------------------------------------------------------

    def _moves(self, unit: int) -> tuple[tuple[int, ...], dict[str, int], int]:
        """(steps, ring fields, largest offset) in multiples of `unit`, never negative in sum."""
        steps, furthest = [0] * isa.LOOP_LEVELS, 0
        for loop in self.loops:
            if self.draw.random() < 0.6:
                steps[loop.level] = unit * self.draw.randint(0, 9)
                furthest += steps[loop.level] * (loop.count - 1)
        ring: dict[str, int] = {}
        if self.loops and self.draw.random() < 0.3:
            loop = self.draw.choice(self.loops)
            size, step = self.draw.randint(1, 3), unit * self.draw.randint(1, 20)
            ring = {"ring_level": loop.level, "ring_size": size, "ring_step": step}
            furthest += (size - 1) * step
        return tuple(steps), ring, furthest

    def _fp32(self, rows: int, cols: int, kind: int, space: Space, inner: int = 0) -> Operand:
        """An fp32 operand with memory of its own; sinks never hit an element twice."""
        source = kind is Kind.TENSOR and not inner  # (a sink that writes has the same number)
        layout = self.draw.choice(("dense", "dense", "dense", "padded", "columns", "groups", "row", "column", "one"))
        hi, lo, cstep, groups = cols, 0, 1, 0
        if layout == "padded":
            hi = cols + self.draw.randint(1, 5)
        elif layout == "columns":
            hi, cstep = 1, rows + self.draw.randint(0, 3)
        elif layout == "groups" and inner == 0:
            groups = self.draw.randint(1, rows + 1)
            lo = cols + self.draw.randint(0, 2)
            hi = groups * lo + self.draw.randint(0, 3)
        if source:
            if layout == "groups" and self.draw.random() < 0.5:
                lo = 0
            elif layout in ("row", "one"):
                hi = 0
            if layout in ("column", "one"):
                hi, cstep = (0 if layout == "one" else 1 + self.draw.randint(0, 2)), 0
        down = max(r // groups * hi + r % groups * lo if groups else r * hi for r in range(rows))
        steps, ring, furthest = self._moves(4)
        size = furthest + 4 * (down + (cols - 1) * cstep + 1)
        addr = self._region(size, space)
        return Operand(kind, space, 0, addr, 0, inner or groups, hi, lo, cstep, steps, **ring)

    def _smx(self, rows: int, cols: int, kind: int, bits: int = 0) -> Operand:
        """An SMX operand with memory of its own, both planes valid everywhere."""
        bits = bits or self.draw.choice(BITS)
        block_rows, block_cols = -(-rows // 4), -(-cols // 4)
        hi = block_cols + self.draw.choice((0, 0, 1, 3))
        steps, ring, furthest = self._moves(1)
        blocks = furthest + (block_rows - 1) * hi + block_cols
        mant, code = smx.to_bytes(self._numbers((4, 4 * blocks)), bits)
        addr = self._region(mant.size, Space.SRAM, mant)
        eaddr = self._region(-(-code.size // 4) * 4, Space.SRAM, code)
        return Operand(kind, Space.SRAM, bits, addr, eaddr, 0, hi, 0, 1, steps, **ring)

    def _space(self) -> Space:
        return self.draw.choice((Space.SRAM, Space.SRAM, Space.PSUM))

    # --- instructions -------------------------------------------------------------------------------------------------

    def _extent(self) -> int:
        return self.draw.choice((1, 2, 3, 4, 5, 7, 8, self.draw.randint(1, MAX_EXTENT)))

    def _vpu(self) -> None:
        rows, cols = self._extent(), self._extent()
        sources: list[Operand] = []
        for _ in range(self.draw.randint(0, isa.SOURCES)):
            if self.draw.random() < 0.15:
                steps, ring, _furthest = self._moves(1)
                first = self.draw.choice((0, 5, 2**32 - 3))
                sources.append(Operand(kind=Kind.INDEX, addr=first, hi=cols, cstep=1, steps=steps, **ring))
            elif self.draw.random() < 0.4:
                sources.append(self._smx(rows, cols, Kind.TENSOR))
            else:
                sources.append(self._fp32(rows, cols, Kind.TENSOR, self._space()))
        immediates = {f"imm{i}": isa.float_bits(self.draw.choice((0.0, 1.0, -2.5, 1e-3, 6.2831855))) for i in range(3)}
        immediates["imm3"] = self.draw.randint(0, 40) | self.draw.randint(0, 5) << 16
        tensors = [SRC + i for i, o in enumerate(sources) if o.kind == Kind.TENSOR]
        values = tensors * 2 + [IMM + 0, IMM + 1, IMM + 2, PAR + 0]
        uops: list[int] = []
        for number in range(self.draw.randint(0, isa.MAX_MICRO_OPS)):
            uops.append(self._micro_op(sources, values))
            values += [REG + number] * 3
        sinks = [self._sink(rows, cols, sources if i == 0 else []) for i in range(self.draw.choice((1, 1, 2)))]
        acc = {f"acc{i}": int(o.kind != Sink.WRITE and self.draw.random() < 0.5) for i, o in enumerate(sinks)}
        self.listing.vpu(
            (rows, cols),
            sources,
            uops,
            [(o, self.draw.choice(values)) for o in sinks],
            scalar0=SCALAR_PARAM,
            **immediates,
            **acc,
        )

    def _micro_op(self, sources: Sequence[Operand], values: Sequence[int]) -> int:
        counters = [SRC + i for i, o in enumerate(sources) if o.kind == Kind.INDEX]
        if counters and self.draw.random() < 0.5:
            return isa.micro_op(self.draw.choice(RANDOM_NUMBERS), self.draw.choice(counters), IMM + 3)
        op = self.draw.choice(ARITHMETIC)
        return isa.micro_op(op, *(self.draw.choice(values) for _ in range(ARITY[op])))

    def _sink(self, rows: int, cols: int, sources: Sequence[Operand]) -> Operand:
        kind = self.draw.choice((Sink.WRITE, Sink.WRITE, Sink.WRITE, *list(Sink)[2:]))
        if kind is Sink.WRITE:
            in_place = [o for o in sources if _distinct(o, rows, cols)]
            if in_place and self.draw.random() < 0.3:
                return replace(self.draw.choice(in_place), kind=Sink.WRITE)
            if self.draw.random() < 0.4:
                return self._smx(rows, cols, Sink.WRITE)
            return self._fp32(rows, cols, Sink.WRITE, self._space())
        group = 0
        if kind in (Sink.SUM_ROWS, Sink.MAX_ROWS) and self.draw.random() < 0.6:
            group = self.draw.choice([g for g in range(1, rows + 1) if rows % g == 0])
        shape = isa.sink_shape(kind, rows, cols, group)
        operand = self._fp32(*shape, kind, self._space(), inner=max(group, 1))
        return replace(operand, inner=group)

    def _matmul(self) -> None:
        m, n, k = (self.draw.choice((self._extent(), self.draw.randint(1, 24))) for _ in range(3))
        transposed = self.draw.choice(((0, 0), (0, 0), (1, 0), (0, 1)))
        a = self._smx(*((k, m) if transposed[0] else (m, k)), Kind.TENSOR)
        b = self._smx(*((n, k) if transposed[1] else (k, n)), Kind.TENSOR)
        steps, ring, furthest = self._moves(4)
        hi, space = n + self.draw.choice((0, 0, 3)), self.draw.choice((Space.PSUM, Space.SRAM))
        addr = self._region(furthest + 4 * ((m - 1) * hi + n), space)
        d = Operand(Kind.TENSOR, space, 0, addr, 0, 0, hi, 0, 1, steps, **ring)
        self.listing.matmul(m, n, k, a, b, d, ta=transposed[0], tb=transposed[1], acc=self.draw.randint(0, 1))

    def _transfer(self) -> None:
        """A load into or a store out of a fresh region, strided or by an index vector."""
        load = self.draw.random() < 0.5
        gather = self.draw.random() < 0.4
        size = 4 * self.draw.randint(1, 10)
        count, outer = self._extent(), 1 if gather else self.draw.randint(1, 3)
        (dram_steps, dram_ring, dram_far), (sram_steps, sram_ring, sram_far) = self._moves(4), self._moves(4)
        hi, lo = size + 4 * self.draw.randint(0, 2), 0
        lo = count * hi + 4 * self.draw.randint(0, 3)
        sram = self._region(sram_far + outer * lo, Space.SRAM)
        sram_side = Operand(space=Space.SRAM, addr=sram, hi=hi, lo=lo, steps=sram_steps, **sram_ring)
        rows = 9 if gather else count
        dram_hi = size + 4 * self.draw.randint(0, 2)
        dram_lo = rows * dram_hi + 4 * self.draw.randint(0, 2)
        words = (dram_far + outer * dram_lo) // 4
        dram = self.listing.constant(self._numbers((words,))).addr
        dram_side = Operand(space=Space.DRAM, addr=dram, hi=dram_hi, lo=dram_lo, steps=dram_steps, **dram_ring)
        operands = {"s0": dram_side, "d0": sram_side} if load else {"s0": sram_side, "d0": dram_side}
        if gather:
            pick = [self.draw.randrange(rows) for _ in range(count)]
            operands["s1"] = Operand(addr=self._region(4 * count, Space.SRAM, np.array(pick, np.int32)))
        opcode = Opcode.LOAD if load else Opcode.STORE
        self.listing.emit(opcode, operands, size=size, count=count, outer=outer, gather=int(gather))


class _Swapped:
    """Inside, instructions go to the initialising part of the listing."""

    def __init__(self, generator: _Generator) -> None:
        self.generator = generator

    def __enter__(self) -> None:
        self.body = self.generator.listing.instructions
        self.generator.listing.instructions = self.generator.start

    def __exit__(self, *_: object) -> None:
        self.generator.listing.instructions = self.body


def _distinct(o: Operand, rows: int, cols: int) -> bool:
    """Whether an fp32 operand has one element for each (row, column): it can be written in place."""
    if o.kind != Kind.TENSOR or o.bits:
        return False
    inner = o.inner or 1
    places = {
        (r // inner * o.hi + r % inner * o.lo if o.inner else r * o.hi) + c * o.cstep
        for r in range(rows)
        for c in range(cols)
    }
    return len(places) == rows * cols


def assert_same_memory(actual: MachineState, expected: MachineState) -> None:
    """DRAM, SRAM, PSUM and status are equal bit for bit; two NaNs are equal whatever their bits."""
    for space in Space:
        a, e = (state.padded(space).view(np.uint32) for state in (actual, expected))
        nans = np.isnan(a.view(np.float32)) & np.isnan(e.view(np.float32))
        wrong = np.flatnonzero((a != e) & ~nans)
        assert not wrong.size, (
            f"{space.name} differs in {wrong.size} words, first at byte {4 * wrong[0]}: "
            f"{a[wrong[0]]:#010x} is not {e[wrong[0]]:#010x}"
        )
    assert actual.status[0] == expected.status[0]
