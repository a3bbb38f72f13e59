"""VPU sinks: fp32 and SMX writes, sums and maxima (NUMERICS 1 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pintac.isa import Sink
from pintac.runtime.jit import blocks, vector_math
from pintac.runtime.jit.codegen import F32, I32, LANES, VF, Emitter, Val, Var, vec
from pintac.runtime.jit.partial import Part
from pintac.runtime.jit.shapes import Destination


class Arguments(Protocol):
    """What a sink needs of its kernel."""

    e: Emitter
    rows: Val

    def word(self, name: str) -> Val: ...

    def pointer(self, name: str) -> Val: ...

    def row_offset(self, group: str, inner: bool, row: Val) -> Val: ...


class Output:
    """What a sink does at each point of the walk."""

    def __init__(self, kernel: Arguments, group: str, sink: Destination) -> None:
        self.kernel, self.e, self.group, self.sink = kernel, kernel.e, group, sink
        self.address = kernel.pointer(f"{group}.address")
        self.hi = kernel.word(f"{group}.hi")
        self.cstep = kernel.word(f"{group}.cstep") if sink.columns == "strided" else None

    def begin(self) -> None:
        """Before the first column."""

    def begin_chunk(self, column: Val, part: Part) -> None:
        self.column, self.part = column, part

    def across(self) -> Val:
        """Bytes from the first column to that of the chunk."""
        return self.column * (4 if self.cstep is None else self.cstep)

    def strip(self, row: Val, values: Sequence[Val], parts: Sequence[Part], numbers: Sequence[Val]) -> None:
        """Take four rows; those whose part is empty do not exist."""

    def end_chunk(self) -> None:
        """After the last strip of a chunk."""

    def end(self) -> None:
        """After the last column."""


class Fp32Write(Output):
    """Stores fp32, every NaN as the canonical one."""

    def strip(self, row: Val, values: Sequence[Val], parts: Sequence[Part], numbers: Sequence[Val]) -> None:
        e = self.e
        for value, part, number in zip(values, parts, numbers, strict=True):
            start = e.at(self.address, self.kernel.row_offset(self.group, self.sink.inner, number))
            part.store(e.canonical(value), e.at(start, self.across()), self.cstep)


class SmxWrite(Output):
    """Quantises and stores both planes; what lies beyond the tensor in its last blocks becomes zero."""

    def strip(self, row: Val, values: Sequence[Val], parts: Sequence[Part], numbers: Sequence[Val]) -> None:
        e, bits = self.e, self.sink.bits
        kept = [part.keep(value, 0.0) for value, part in zip(values, parts, strict=True)]
        mantissas, codes = blocks.quantise_rows(e, kept, bits, self.kernel.pointer("status"))
        block = (row >> 2) * self.hi + (self.column >> 2)
        blocks.store_blocks(
            e,
            blocks.pack_blocks(e, mantissas, bits),
            codes,
            e.at(self.address, block * (2 * bits)),
            e.at(self.kernel.pointer(f"{self.group}.codes"), block),
            None if self.part.full else (self.part.count + 3) >> 2,
            bits,
        )


SCRATCH_ROW = 80  # bytes of scratch a row of the instruction takes, for each sink: 16 values and an accumulator


class Reduction(Output):
    """What sums and maxima share: the operation, its neutral element, where accumulators start."""

    def __init__(self, kernel: Arguments, group: str, sink: Destination, number: int) -> None:
        super().__init__(kernel, group, sink)
        e = self.e
        self.sums = sink.kind in (Sink.SUM_ROWS, Sink.SUM_COLS, Sink.SUM_ALL)
        self.neutral = 0.0 if self.sums else float("-inf")
        self.rows = kernel.rows
        padded = (self.rows + 3) & -4
        self.vectors = e.at(kernel.pointer("scratch"), padded * (SCRATCH_ROW * number))
        self.by_row = e.at(self.vectors, padded * (4 * LANES))

    def combine(self, acc: Val, x: Sequence[Val]) -> Val:
        """acc with four values folded in."""
        if self.sums:
            return acc + ((x[0] + x[1]) + (x[2] + x[3]))
        for value in x:
            acc = vector_math.maximum(self.e, acc, value)
        return acc


class RowReduction(Reduction):
    """One row of results a group of rows."""

    def begin(self) -> None:
        self.acc = Var(self.e, VF, self.neutral)
        if self.sink.grouped:
            self.inner = self.kernel.word(f"{self.group}.inner")

    def _place(self, number: Val) -> Val:
        across = self.across()
        return self.e.at(self.address, number * self.hi + across)

    def _start(self, number: Val) -> Val:
        if not self.sink.acc:
            return self.e.f(self.neutral)
        return self.part.load(self._place(number), self.cstep)

    def _finish(self, number: Val, value: Val) -> None:
        self.part.store(self.e.canonical(value), self._place(number), self.cstep)

    def begin_chunk(self, column: Val, part: Part) -> None:
        super().begin_chunk(column, part)
        if not self.sink.grouped:
            self.acc.set(self._start(self.e.i64(0)))

    def strip(self, row: Val, values: Sequence[Val], parts: Sequence[Part], numbers: Sequence[Val]) -> None:
        e = self.e
        if self.sink.grouped == "rows":
            for r, value in enumerate(values):
                e.store(value, self.vectors, (row + r) * (4 * LANES))
            return
        x = [values[0]] + [p.keep(v, self.neutral) for v, p in zip(values[1:], parts[1:], strict=True)]
        if self.sink.grouped:
            number = row.udiv(self.inner)
            place = row - number * self.inner
            with e.when(place.eq(0)):
                self.acc.set(self._start(number))
            self.acc.set(self.combine(self.acc.get(), x))
            with e.when((place + 4).eq(self.inner)):
                self._finish(number, self.acc.get())
        else:
            self.acc.set(self.combine(self.acc.get(), x))

    def end_chunk(self) -> None:
        e = self.e
        if not self.sink.grouped:
            self._finish(e.i64(0), self.acc.get())
        elif self.sink.grouped == "rows":
            with e.loop(0, self.rows.udiv(self.inner)) as number:
                self.acc.set(self._start(number))
                first = number * self.inner
                with e.loop(0, self.inner, 4) as i:
                    x = []
                    for r in range(4):
                        # beyond the group: some row that exists, replaced by the neutral element
                        at = e.imin(i + r, self.inner - 1)
                        value = e.load(VF, self.vectors, (first + at) * (4 * LANES))
                        inside = (i + r).lt(self.inner)
                        x.append(e.select(inside, value, self.neutral))
                    self.acc.set(self.combine(self.acc.get(), x))
                self._finish(number, self.acc.get())


class ColumnReduction(Reduction):
    """One value a row, or (all) a single one: columns first, then rows."""

    def __init__(self, kernel: Arguments, group: str, sink: Destination, number: int) -> None:
        super().__init__(kernel, group, sink, number)
        self.all = sink.kind in (Sink.SUM_ALL, Sink.MAX_ALL)

    def begin(self) -> None:
        e = self.e
        with e.loop(0, self.rows) as row:
            value = e.const(F32, self.neutral)
            if self.sink.acc and not self.all:
                value = e.load(F32, self.address, row * self.hi)
            e.store(value, self.by_row, row * 4)

    def begin_chunk(self, column: Val, part: Part) -> None:
        super().begin_chunk(column, part)
        if not self.sums:
            self.padding = self.e.f(self.neutral)
            return
        # Missing elements of a block count as +0; a block that is missing altogether must not even change -0.
        lanes = self.e.table(range(LANES), I32)
        existing = (part.count + 3) & -4
        self.padding = self.e.select(lanes.lt(self.e.splat(existing)), self.e.f(0.0), -0.0)

    def strip(self, row: Val, values: Sequence[Val], parts: Sequence[Part], numbers: Sequence[Val]) -> None:
        e, four = self.e, vec(F32, 4)
        x = [self.part.keep(value, self.padding) for value in values]
        acc = e.load(four, self.by_row, row * 4)
        if self.sums:
            pairs = [v + v.shuffle([i ^ 1 for i in range(LANES)]) for v in x]
            sums = [p.shuffle([0, 4, 8, 12]) + p.shuffle([2, 6, 10, 14]) for p in pairs]
            by_block = e.concat(sums)
            for block in range(4):
                acc = acc + by_block.shuffle([4 * r + block for r in range(4)])
        else:
            for step in (1, 2, 4, 8):
                x = [vector_math.maximum(e, v, v.shuffle([i ^ step for i in range(LANES)])) for v in x]
            acc = vector_math.maximum(e, acc, e.concat([v.shuffle([0]) for v in x]))
        e.store(acc, self.by_row, row * 4)

    def end(self) -> None:
        e = self.e
        if not self.all:
            with e.loop(0, self.rows) as row:
                e.store(e.canonical(e.load(F32, self.by_row, row * 4)), self.address, row * self.hi)
            return
        acc = Var(e, F32, e.load(F32, self.address) if self.sink.acc else self.neutral)
        with e.loop(0, self.rows, 4) as row:
            x = []
            for r in range(4):
                inside = (row + r).lt(self.rows)
                x.append(e.select(inside, e.load(F32, self.by_row, (row + r) * 4), self.neutral))
            acc.set(self.combine(acc.get(), x))
        e.store(e.canonical(acc.get()), self.address)


def output(kernel: Arguments, group: str, sink: Destination, number: int) -> Output:
    """The code of sink `number`, which is operand group `group` ("d0" or "d1")."""
    if sink.kind == Sink.WRITE:
        return SmxWrite(kernel, group, sink) if sink.bits else Fp32Write(kernel, group, sink)
    if sink.kind in (Sink.SUM_ROWS, Sink.MAX_ROWS):
        return RowReduction(kernel, group, sink, number)
    return ColumnReduction(kernel, group, sink, number)
