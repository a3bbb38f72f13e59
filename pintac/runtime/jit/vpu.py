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
from pintac.runtime.jit.codegen import F32, I8, I16, I32, I64, LANES, PTR, Emitter, Lowering, Part, Val
from pintac.runtime.jit.outputs import Output, load_strided, output
from pintac.runtime.jit.shapes import CONSTANT, PER_CHUNK, PER_ROW, PER_STRIP, Source, VpuShape, arguments

# Arguments of a kernel: one pointer to 64-bit words. First these, then GROUP_ARGS for each operand group.
VPU_ARGS = ("params", "status", "scratch", "rows", "cols", "imm0", "imm1", "imm2", "imm3", "p0", "p1", "p2")
GROUP_ARGS = ("address", "codes", "hi", "lo", "inner", "cstep")
VPU_WORDS = len(VPU_ARGS) + len(GROUP_ARGS) * len(isa.GROUPS)


def group_word(group: int, name: str) -> int:
    """Position of an operand group's argument."""
    return len(VPU_ARGS) + group * len(GROUP_ARGS) + GROUP_ARGS.index(name)


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
        self._loaded: dict[int, Val] = {}
        self.rows, self.cols = self.word("rows"), self.word("cols")
        self.status = self.pointer("status")
        self.params = self.pointer("params")
        self.scratch = self.pointer("scratch")
        self.values: dict[int, _Value] = {}
        self.used = {s for op, a, b, c in shape.micro_ops for s in arguments(MicroOp(op), a, b, c)}
        self.used |= {sink.select for _, sink in shape.sinks}

    # --- arguments

    def word(self, name: str | int) -> Val:
        """A 64-bit argument; loaded once, on entry (a store in a loop might change it, for all that LLVM knows)."""
        place = VPU_ARGS.index(name) if isinstance(name, str) else name
        if place not in self._loaded:
            with self.e.on_entry():
                self._loaded[place] = self.e.load(I64, self.words, 8 * place, align=8)
        return self._loaded[place]

    def pointer(self, name: str | int) -> Val:
        word = self.word(name)
        with self.e.on_entry():
            return Val(self.e, self.e.b.inttoptr(word.v, PTR))

    def group(self, group: int, name: str) -> Val:
        return self.word(group_word(group, name))

    def group_pointer(self, group: int, name: str) -> Val:
        return self.pointer(group_word(group, name))

    # --- the walk

    def emit(self) -> None:
        e = self.e
        self._constants()
        # fp32 writes may be in place, so they come last: LLVM's instruction combiner moves a masked load down into a
        # select on the same mask without looking at the stores between.
        sinks = sorted(self.shape.sinks, key=lambda s: s[1].kind == Sink.WRITE and not s[1].bits)
        outputs = [output(self, isa.GROUPS.index(f"d{i}"), sink, i) for i, sink in sinks]
        for out in outputs:
            out.begin()
        with e.loop(0, self.cols, LANES) as column:
            self.column = column
            self.count = e.imin(self.cols - column, e.i64(LANES)).trunc(I32)
            self.chunk = e.whole() if self.shape.whole else e.part(self.count)
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
            self.parts = [self.chunk] + [e.part(e.select(left.gt(r), self.count, 0)) for r in (1, 2, 3)]
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
                scalar = e.load(F32, self.params, self.word(f"p{i}") * 4)
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
        block = (self.row >> 2) * self.group(i, "hi") + (self.column >> 2)
        word = I8 if bits <= 8 else I16
        mantissas = blocks.load_blocks(e, e.at(self.group_pointer(i, "address"), block * (2 * bits)), bits, word)
        codes = blocks.load_codes(e, e.at(self.group_pointer(i, "codes"), block))
        return blocks.decode_rows(e, mantissas, codes)

    def row_offset(self, group: int, inner: bool, row: Val) -> Val:
        """Where a row begins, in units of its strides (bytes of fp32, elements of an index)."""
        hi = self.group(group, "hi")
        if not inner:
            return row * hi
        size, number = self.group(group, "inner").trunc(I32), row.trunc(I32)
        return number.udiv(size).zext(I64) * hi + number.urem(size).zext(I64) * self.group(group, "lo")

    def _row(self, i: int, source: Source, row: Val, part: Part) -> Val:
        e = self.e
        offset = e.i64(0) if source.level == PER_CHUNK else self.row_offset(i, source.inner, row)
        cstep = self.group(i, "cstep")
        if source.bits < 0:
            first = (self.group(i, "address") + offset + self.column * cstep).trunc(I32)
            return e.splat(first) + e.table(range(LANES), I32) * e.splat(cstep.trunc(I32))
        start = e.at(self.group_pointer(i, "address"), offset)
        if source.columns == "same":
            return e.splat(e.load(F32, start))
        if source.columns == "unit":
            return e.load_part(e.at(start, self.column * 4), part)
        return load_strided(e, e.at(start, self.column * cstep), cstep, part)

    def _micro_ops(self, level: int) -> None:
        """Micro-ops whose arguments are all there and that are not done yet."""
        for n, (code, a, b, c) in enumerate(self.shape.micro_ops):
            op = MicroOp(code)
            if op is MicroOp.NOP or n in self.values:
                continue
            if op in vector_math.PHILOX:
                if a not in self.values:
                    continue
                counter = self.values[a]
                stream = self.word(f"imm{b - isa.SELECT_IMM}").trunc(I32)
                rows = [vector_math.philox(self.e, op, x, stream, self.params) for x in counter.rows]
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
    """The kernel of a VPU shape: i64(words of `VPU_ARGS` and `GROUP_ARGS`)."""
    Kernel(shape, ir.Function(module, ir.FunctionType(I64, [PTR]), symbol), style).emit()
