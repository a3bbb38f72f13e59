"""VPU kernels: each distinct chain of micro-operations, operand forms and sinks becomes one fused function.

A kernel walks 16 columns (four blocks) at a time and, inside, strips of four rows. A value that is the same for all
rows (or for the rows of a strip) is computed once there and not once a row.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from pintac import isa
from pintac.isa import MicroOp, Sink
from pintac.runtime.jit import blocks, vector_math
from pintac.runtime.jit.codegen import F32, I8, I16, I32, I64, LANES, PTR, Emitter, Lowering, Val
from pintac.runtime.jit.outputs import Output, output
from pintac.runtime.jit.partial import Part
from pintac.runtime.jit.shapes import CONSTANT, PER_CHUNK, PER_ROW, PER_STRIP, Source, VpuShape, arguments


def kernel_words(shape: VpuShape) -> tuple[str, ...]:
    """Arguments of a shape's kernel: the names of the 64-bit words that its one argument points to.

    `s0.address`, `d1.codes`, `s2.hi` and so on belong to operand groups.
    """
    used = used_selectors(shape)
    philox = [b for op, _, b, _ in shape.micro_ops if op in isa.PHILOX]
    scalars = [f"p{i}" for i in range(isa.SCALARS) if isa.SELECT_SCALAR + i in used]
    words = ["rows", "cols", *scalars]
    words += [f"imm{i}" for i in range(isa.IMMEDIATES) if isa.SELECT_IMM + i in (*used, *philox)]
    if scalars or philox:
        words.append("params")
    if any(sink.bits for _, sink in shape.sinks):
        words.append("status")
    if any(sink.kind != Sink.WRITE for _, sink in shape.sinks):
        words.append("scratch")
    for i, source in enumerate(shape.sources):
        if source is not None:
            names = ["address", "hi"]
            names += ["codes"] * (source.bits > 0) + ["lo", "inner"] * source.inner
            names += ["cstep"] * (source.bits < 0 or source.columns == "strided")
            words += [f"s{i}.{name}" for name in names]
    for i, sink in shape.sinks:
        names = ["address", "hi"] + ["codes"] * (sink.bits > 0) + ["lo"] * sink.inner
        names += ["inner"] * (sink.inner or bool(sink.grouped)) + ["cstep"] * (sink.columns == "strided")
        words += [f"d{i}.{name}" for name in names]
    return tuple(words)


def used_selectors(shape: VpuShape) -> set[int]:
    """Values that micro-operations and sinks take."""
    used = {s for op, a, b, c in shape.micro_ops for s in arguments(MicroOp(op), a, b, c)}
    return used | {sink.select for _, sink in shape.sinks}


class _Value:
    """A value and how often it is computed: one vector, or (PER_ROW) four."""

    def __init__(self, level: int, rows: Sequence[Val]) -> None:
        self.level = level
        self.rows = list(rows)

    def row(self, r: int) -> Val:
        return self.rows[r if len(self.rows) > 1 else 0]


class Kernel:
    """Emits the function of one shape."""

    def __init__(self, shape: VpuShape, function: ir.Function, style: Lowering) -> None:
        self.shape = shape
        self.e = e = Emitter(function, style)
        (self.words,) = e.args()
        self._place = {name: i for i, name in enumerate(kernel_words(shape))}
        self._loaded: dict[str, Val] = {}
        self.rows, self.cols = self.word("rows"), self.word("cols")
        self.values: dict[int, _Value] = {}
        self.used = used_selectors(shape)

    # --- arguments

    def word(self, name: str) -> Val:
        """A 64-bit argument; loaded once, on entry (a store in a loop might change it, for all that LLVM knows)."""
        if name not in self._loaded:
            with self.e.on_entry():
                self._loaded[name] = self.e.load(I64, self.words, 8 * self._place[name], align=8)
        return self._loaded[name]

    def pointer(self, name: str) -> Val:
        word = self.word(name)
        with self.e.on_entry():
            return Val(self.e, self.e.b.inttoptr(word.v, PTR))

    # --- the walk

    def emit(self) -> None:
        e = self.e
        self._constants()
        # fp32 writes may be in place, so they come last: LLVM's instruction combiner moves a masked load down into a
        # select on the same mask without looking at the stores between.
        sinks = sorted(self.shape.sinks, key=lambda s: s[1].kind == Sink.WRITE and not s[1].bits)
        outputs = [output(self, f"d{i}", sink, i) for i, sink in sinks]
        for out in outputs:
            out.begin()
        with e.loop(0, self.cols, LANES) as column:
            self.column = column
            self.count = e.imin(self.cols - column, e.i64(LANES)).trunc(I32)
            self.chunk = Part.whole(e) if self.shape.whole else Part(e, self.count)
            self._sources_of(PER_CHUNK)
            self._micro_ops(PER_CHUNK)
            for out in outputs:
                out.begin_chunk(column, self.chunk)
            with e.loop(0, self.rows, 4) as row:
                self._strip(row, outputs)
            for out in outputs:
                out.end_chunk()
            self._forget(PER_CHUNK)
        for out in outputs:
            out.end()
        e.finish(e.i64(0))

    def _strip(self, row: Val, outputs: Sequence[Output]) -> None:
        e = self.e
        self.row = row
        if self.shape.whole:
            self.parts, self.row_numbers = [self.chunk] * 4, [row + r for r in range(4)]
        else:
            left = (self.rows - row).trunc(I32)
            self.parts = [self.chunk] + [Part(e, e.select(left.gt(r), self.count, 0)) for r in (1, 2, 3)]
            last = self.rows - 1
            self.row_numbers = [row] + [e.imin(row + r, last) for r in (1, 2, 3)]
        self._sources_of(PER_STRIP)
        self._micro_ops(PER_STRIP)
        self._sources_of(PER_ROW)
        self._micro_ops(PER_ROW)
        for out in outputs:
            value = self.values[out.sink.select]
            out.strip(row, [value.row(r) for r in range(4)], self.parts, self.row_numbers)
        self._forget(PER_STRIP)

    def _forget(self, level: int) -> None:
        self.values = {k: v for k, v in self.values.items() if v.level < level}

    # --- values

    def _constants(self) -> None:
        e = self.e
        for i in range(isa.IMMEDIATES):
            if isa.SELECT_IMM + i in self.used:
                bits = self.word(f"imm{i}").trunc(I32)
                self.values[isa.SELECT_IMM + i] = _Value(CONSTANT, [e.splat(bits.cast(F32))])
        for i in range(isa.SCALARS):
            if isa.SELECT_SCALAR + i in self.used:
                scalar = e.load(F32, self.pointer("params"), self.word(f"p{i}") * 4)
                self.values[isa.SELECT_SCALAR + i] = _Value(CONSTANT, [e.splat(scalar)])

    def _sources_of(self, level: int) -> None:
        for i, source in enumerate(self.shape.sources):
            if source is not None and source.level == level:
                if source.bits > 0:
                    rows = self._smx_rows(i, source.bits)
                elif level == PER_ROW:
                    rows = [self._row(i, source, self.row_numbers[r], self.parts[r]) for r in range(4)]
                else:
                    number = self.e.i64(0) if level == PER_CHUNK else self.row
                    rows = [self._row(i, source, number, self.chunk)]
                self.values[isa.SELECT_SOURCE + i] = _Value(level, rows)

    def _smx_rows(self, i: int, bits: int) -> list[Val]:
        e = self.e
        block = (self.row >> 2) * self.word(f"s{i}.hi") + (self.column >> 2)
        word = I8 if bits <= 8 else I16
        mantissas = blocks.load_blocks(e, e.at(self.pointer(f"s{i}.address"), block * (2 * bits)), bits, word)
        codes = blocks.load_codes(e, e.at(self.pointer(f"s{i}.codes"), block))
        return blocks.decode_rows(e, mantissas, codes)

    def row_offset(self, group: str, inner: bool, row: Val) -> Val:
        """Where a row begins, in units of its strides (bytes of fp32, elements of an index)."""
        hi = self.word(f"{group}.hi")
        if not inner:
            return row * hi
        size, number = self.word(f"{group}.inner").trunc(I32), row.trunc(I32)
        return number.udiv(size).zext(I64) * hi + number.urem(size).zext(I64) * self.word(f"{group}.lo")

    def _row(self, i: int, source: Source, row: Val, part: Part) -> Val:
        e = self.e
        offset = e.i64(0) if source.level == PER_CHUNK else self.row_offset(f"s{i}", source.inner, row)
        if source.bits < 0:
            cstep = self.word(f"s{i}.cstep")
            first = (self.word(f"s{i}.address") + offset + self.column * cstep).trunc(I32)
            return e.splat(first) + e.table(range(LANES), I32) * e.splat(cstep.trunc(I32))
        start = e.at(self.pointer(f"s{i}.address"), offset)
        if source.columns == "same":
            return e.splat(e.load(F32, start))
        if source.columns == "unit":
            return part.load(e.at(start, self.column * 4))
        cstep = self.word(f"s{i}.cstep")
        return part.load(e.at(start, self.column * cstep), cstep)

    def _micro_ops(self, level: int) -> None:
        """Micro-ops whose arguments are all there and that are not done yet."""
        for n, (code, a, b, c) in enumerate(self.shape.micro_ops):
            op = MicroOp(code)
            if op is MicroOp.NOP or n in self.values:
                continue
            if op in isa.PHILOX:
                if a not in self.values:
                    continue
                counter = self.values[a]
                stream = self.word(f"imm{b - isa.SELECT_IMM}").trunc(I32)
                rows = [vector_math.philox(self.e, op, x, stream, self.pointer("params")) for x in counter.rows]
                self.values[n] = _Value(counter.level, rows)
                continue
            selectors = arguments(op, a, b, c)
            if any(s not in self.values for s in selectors):
                continue
            args = [self.values[s] for s in selectors]
            depth = max(v.level for v in args)
            count = 4 if depth == PER_ROW else 1
            self.values[n] = _Value(
                depth, [vector_math.micro_op(self.e, op, *(v.row(r) for v in args)) for r in range(count)]
            )


def write_vpu(shape: VpuShape, module: ir.Module, symbol: str, style: Lowering) -> None:
    """The kernel of a VPU shape: i64(its `kernel_words`)."""
    Kernel(shape, ir.Function(module, ir.FunctionType(I64, [PTR]), symbol), style).emit()
