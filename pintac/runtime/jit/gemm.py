"""Block-matrix products (NUMERICS 2): operands are packed into panels, then multiplied tile by tile in registers.

A panel holds the left operand as [strip of 4 rows][k-block] units and the right one as [chunk of 16 columns][k-block]
units, in the form that the arithmetic wants; transposed operands and all mantissa widths only differ in packing.
The arithmetic (`Kind`) must give the exact integer dot product of four mantissas, rounded once to fp32:

    bytes   up to 8 x 8 bits    unsigned x signed byte dot products, left side biased by 128 (AVX-512 VNNI)
    words   up to 16 x 12 bits  16-bit dot products in int32 (AVX-512 VNNI)
    wide    16 x 16 bits        the two halves of the dot product in int32, their sum in fp64
    floats  up to 12 x 12 bits  decoded operands in fp32: products and sums are exact
    ints    up to 16 x 12 bits  int32 multiplications (portable)

Per k-block the accumulator then becomes fl32(acc + dot * (sa * sb)); dot * (sa * sb) is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from pintac.runtime.jit.blocks import TRANSPOSED, load_blocks, load_codes, scales, spread
from pintac.runtime.jit.codegen import (
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    PTR,
    VF,
    VI,
    VOID,
    Emitter,
    Lowering,
    Val,
    Var,
    internal_function,
    vec,
)
from pintac.runtime.jit.partial import Part


@dataclass(frozen=True)
class Kind:
    """An arithmetic: its panel units in bytes and the word operands are unpacked to.

    `right` is the unit's data; behind it come, for `bytes`, 16 int32 corrections, and, unless `floats`, 16 fp32 scales.
    """

    name: str
    word: ir.Type
    left: int
    right: int
    corrected: bool = False
    scaled: bool = True

    @property
    def right_unit(self) -> int:
        return self.right + 64 * (self.corrected + self.scaled)


BYTES = Kind("bytes", I8, 16, 64, corrected=True)
WORDS = Kind("words", I16, 32, 128)
WIDE = Kind("wide", I16, 32, 128)
FLOATS = Kind("floats", I16, 64, 256, scaled=False)
INTS = Kind("ints", I16, 32, 256)
WIDE_INTS = Kind("wide-ints", I16, 32, 256)


def kind_for(left_bits: int, right_bits: int, style: Lowering) -> Kind:
    """The arithmetic for two mantissa widths."""
    low, high = sorted((left_bits, right_bits))
    if low == 16:
        return WIDE if style.vnni else WIDE_INTS
    if style.vnni:
        return BYTES if high <= 8 else WORDS
    return FLOATS if high <= 12 else INTS


def panel_bytes(m: int, n: int, k: int) -> tuple[int, int, int]:
    """Largest size of the left panel, its scales and the right panel of any kind, each a multiple of 64."""
    strips, chunks, blocks = -(-m // 16) * 4, -(-n // 16), -(-k // 16) * 4
    return strips * blocks * 64, -(-strips * blocks * 4 // 64) * 64 + 64, chunks * blocks * 320


@dataclass(frozen=True)
class _Packing:
    """One operand's way into its panel."""

    bits: int
    transposed: bool
    kind: Kind
    style: Lowering


# --- left operand -----------------------------------------------------------------------------------------------------


def _left_unit(e: Emitter, values: Val, code: Val | None, kind: Kind) -> Val:
    """Four units [unit][row][k] from unpacked blocks; `code`: their scales where the unit is decoded."""
    if kind is BYTES:
        return values ^ -128
    if kind is FLOATS:
        assert code is not None
        wide = values.sext(I32).to_float()
        return wide * code.shuffle([i // 16 for i in range(64)])
    return values


def pack_left(module: ir.Module, name: str, p: _Packing) -> ir.Function:
    """void(mantissas, codes, row stride in blocks, strips, k-blocks, panel, scales, k-blocks padded)."""
    function = internal_function(module, name, VOID, [PTR, PTR, I64, I64, I64, PTR, PTR, I64])
    e = Emitter(function, p.style)
    source, codes, stride, strips, blocks, panel, scale, padded = e.args()
    size = 2 * p.bits
    outer, inner = (blocks, strips) if p.transposed else (strips, blocks)
    with e.loop(0, outer) as i, e.loop(0, inner, 4) as j:
        block = i * stride + j
        values = load_blocks(e, e.at(source, block * size), p.bits, p.kind.word, TRANSPOSED if p.transposed else None)
        factor = scales(e, load_codes(e, e.at(codes, block)))
        units = _left_unit(e, values, factor, p.kind)
        if p.transposed:  # i is the k-block, j the first of four strips
            for q in range(4):
                place = (j + q) * padded + i
                e.store(units.shuffle(range(16 * q, 16 * q + 16)), panel, place * p.kind.left)
                e.store(factor.lane(q), scale, place * 4)
        else:
            place = i * padded + j
            e.store(units, panel, place * p.kind.left)
            e.store(factor, scale, place * 4)
    e.finish()
    return function


# --- right operand ----------------------------------------------------------------------------------------------------


def _right_data(e: Emitter, columns: Val, p: _Packing, per_column: Val) -> list[Val]:
    """A unit's vectors from its elements [column][k]."""
    kind = p.kind
    if kind is BYTES:
        correction = 0 - _byte_dot(e, e.const(VI, 0), e.const(VI, -0x7F7F7F80), columns.cast(VI))
        return [columns, correction]
    if kind in (WORDS, WIDE):
        return [columns.shuffle([4 * c + 2 * h + q for c in range(16) for q in range(2)]) for h in range(2)]
    rows = [columns.shuffle(range(q, 64, 4)).sext(I32) for q in range(4)]
    if kind is FLOATS:
        return [row.to_float() * per_column for row in rows]
    return rows


def _store_right(e: Emitter, columns: Val, per_column: Val, p: _Packing, unit: Val) -> None:
    offset = 0
    for vector in _right_data(e, columns, p, per_column):
        e.store(vector, unit, offset)
        offset += 64
    if p.kind.scaled:
        e.store(per_column, unit, offset)


def pack_right(module: ir.Module, name: str, p: _Packing) -> ir.Function:
    """void(mantissas, codes, row stride in blocks, column blocks, k-blocks, panel, k-blocks padded)."""
    function = internal_function(module, name, VOID, [PTR, PTR, I64, I64, I64, PTR, I64])
    e = Emitter(function, p.style)
    source, codes, stride, columns, blocks, panel, padded = e.args()
    size = 2 * p.bits
    chunks = (columns + 3) >> 2
    with e.loop(0, chunks) as chunk:
        if not p.transposed:
            with e.loop(0, blocks) as k:
                block = k * stride + chunk * 4
                values = load_blocks(e, e.at(source, block * size), p.bits, p.kind.word, TRANSPOSED)
                per_column = spread(scales(e, load_codes(e, e.at(codes, block))))
                _store_right(e, values, per_column, p, e.at(panel, (chunk * padded + k) * p.kind.right_unit))
        else:
            rows = [e.imin(chunk * 4 + i, columns - 1) * stride for i in range(4)]
            with e.loop(0, blocks, 4) as k:
                loaded = [load_blocks(e, e.at(source, (row + k) * size), p.bits, p.kind.word) for row in rows]
                factors = [scales(e, load_codes(e, e.at(codes, row + k))) for row in rows]
                for q in range(4):
                    pick = [16 * q + i for i in range(16)]
                    unit_columns = e.concat([v.shuffle(pick) for v in loaded])
                    per_column = e.concat([f.shuffle([q] * 4) for f in factors])
                    unit = e.at(panel, (chunk * padded + k + q) * p.kind.right_unit)
                    _store_right(e, unit_columns, per_column, p, unit)
    e.finish()
    return function


# --- arithmetic -------------------------------------------------------------------------------------------------------


def _byte_dot(e: Emitter, acc: Val, unsigned: Val, signed: Val) -> Val:
    return e.intrinsic("llvm.x86.avx512.vpdpbusd.512", VI, acc, unsigned, signed)


def _word_pairs(e: Emitter, a: Val, b: Val) -> Val:
    halves = vec(I16, 32)
    return e.intrinsic("llvm.x86.avx512.pmaddw.d.512", VI, a.cast(halves), b.cast(halves))


def _word_dot(e: Emitter, acc: Val, a: Val, b: Val) -> Val:
    return e.intrinsic("llvm.x86.avx512.vpdpwssd.512", VI, acc, a, b)


def _sum_in_double(e: Emitter, a: Val, b: Val) -> Val:
    """fl32(a + b) of two int32 vectors, rounded once."""
    double = a.to_float(F64) + b.to_float(F64)
    return Val(e, e.b.fptrunc(double.v, VF))


class _Step:
    """One k-block of a tile: what is shared by its rows, then `add` for each row and column vector."""

    def __init__(self, e: Emitter, kind: Kind, units: Sequence[Val]) -> None:
        self.e, self.kind = e, kind
        count = kind.right // 64
        element = VF if kind is FLOATS else VI
        self.data = [[e.load(element, unit, 64 * i) for i in range(count)] for unit in units]
        offset = kind.right
        if kind.corrected:
            self.correction = [e.load(VI, unit, offset) for unit in units]
            offset += 64
        if kind.scaled:
            self.scale = [e.load(VF, unit, offset) for unit in units]

    def strip(self, left_scale: Val) -> list[Val]:
        """sa * sb of a strip of four rows, for each column vector."""
        return [left_scale * s for s in self.scale] if self.kind.scaled else []

    def operands(self, pointer: Val) -> list[Val]:
        """A row's four elements, broadcast in the form the arithmetic takes."""
        e, kind = self.e, self.kind
        if kind is BYTES:
            return [e.splat(e.load(I32, pointer))]
        if kind in (WORDS, WIDE):
            return [e.splat(e.load(I32, pointer, 4 * h)) for h in range(2)]
        if kind is FLOATS:
            return [e.splat(e.load(F32, pointer, 4 * q)) for q in range(4)]
        return [e.splat(e.load(I16, pointer, 2 * q).sext(I32)) for q in range(4)]

    def add(self, acc: Val, left: Sequence[Val], v: int, scale: Sequence[Val]) -> Val:
        e, kind, right = self.e, self.kind, self.data[v]
        if kind is FLOATS:
            dot = left[0] * right[0]
            for a, b in zip(left[1:], right[1:], strict=True):
                dot = e.fma(a, b, dot)
            return acc + dot
        if kind is BYTES:
            dot = _byte_dot(e, self.correction[v], left[0], right[0]).to_float()
        elif kind is WORDS:
            dot = _word_dot(e, _word_pairs(e, left[0], right[0]), left[1], right[1]).to_float()
        elif kind is WIDE:
            dot = _sum_in_double(e, *(_word_pairs(e, a, b) for a, b in zip(left, right, strict=True)))
        else:
            halves = [left[i] * right[i] + left[i + 1] * right[i + 1] for i in (0, 2)]
            dot = (halves[0] + halves[1]).to_float() if kind is INTS else _sum_in_double(e, *halves)
        return e.fma(dot, scale[v], acc)


@dataclass(frozen=True)
class _Tile:
    """A tile of results in registers: `rows` (at most 4, or whole strips) x 16 * `vectors`.

    missing: what may lie outside the result, "" (nothing), "columns", or "both".
    """

    rows: int
    vectors: int
    missing: str

    @property
    def name(self) -> str:
        return f"tiles_{self.rows}_{self.vectors}_{self.missing}"


def _tiles(module: ir.Module, kind: Kind, tile: _Tile, style: Lowering) -> ir.Function:
    """All tiles of a group of columns, one below the other.

    void(left, left strip bytes, scales, scale strip bytes, right, right chunk bytes, c, c row bytes, k-blocks,
    accumulate, rows, columns)
    """
    types = [PTR, I64, PTR, I64, PTR, I64, PTR, I64, I64, I64, I64, I64]
    function = internal_function(module, tile.name, VOID, types)
    e = Emitter(function, style)
    left, left_step, scale, scale_step, right, right_step, c, c_step, blocks, accumulate, height, width = e.args()
    grid = [(r, v) for r in range(tile.rows) for v in range(tile.vectors)]
    counts = [e.imin(e.imax(width - 16 * v, 0), 16).trunc(I32) for v in range(tile.vectors)]
    columns = [Part(e, count) if tile.missing else Part.whole(e) for count in counts]
    with e.loop(0, height, tile.rows) as row:
        strip_number = row >> 2
        lefts = [e.at(left, (strip_number + s) * left_step) for s in range(-(-tile.rows // 4))]
        factors = [e.at(scale, (strip_number + s) * scale_step) for s in range(len(lefts))]
        start = e.at(c, row * c_step)
        places = {(r, v): e.at(start, c_step * r + 64 * v) for r, v in grid}
        parts = {(r, v): columns[v] for r, v in grid}
        if tile.missing == "both":
            parts = {(r, v): Part(e, e.select((height - row).gt(r), counts[v], 0)) for r, v in grid}
        acc = {at: Var(e, VF, 0.0) for at in grid}
        with e.when(accumulate.ne(0)):
            for at in grid:
                # a stored -0 becomes +0, as adding an integer zero makes it
                acc[at].set(parts[at].load(places[at]) + 0.0)
        with e.loop(0, blocks) as k:
            step = _Step(e, kind, [e.at(right, right_step * v + k * kind.right_unit) for v in range(tile.vectors)])
            for r in range(tile.rows):
                if r % 4 == 0:
                    strip_scale: list[Val] = []
                    if kind.scaled:
                        strip_scale = step.strip(e.splat(e.load(F32, factors[r // 4], k * 4)))
                    base = e.at(lefts[r // 4], k * kind.left)
                operands = step.operands(e.at(base, (r % 4) * (kind.left // 4)))
                for v in range(tile.vectors):
                    acc[r, v].set(step.add(acc[r, v].get(), operands, v, strip_scale))
        pairs = [grid[i : i + 2] for i in range(0, len(grid), 2)]
        masks = [e.unordered(acc[p[0]].get(), acc[p[-1]].get()) for p in pairs]
        with e.when(e.any_lane(masks)):
            for at in grid:
                acc[at].set(e.canonical(acc[at].get()))
        for at in grid:
            parts[at].store(acc[at].get(), places[at])
    e.finish()
    return function


# --- the instruction --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MatmulShape:
    """What a matmul's code depends on."""

    left_bits: int
    right_bits: int
    ta: bool
    tb: bool

    @property
    def key(self) -> str:
        return f"matmul {self.left_bits} {self.right_bits} {self.ta:d} {self.tb:d}"


# Arguments of a matmul kernel: one pointer to 64-bit words in this order. Where the word at `flag` is 0 the right panel
# is packed, and the word becomes `keep`.
MATMUL_ARGS = (
    "left", "left_codes", "left_stride", "right", "right_codes", "right_stride", "c", "c_stride", "m", "n", "k", "acc",
    "left_panel", "left_scales", "right_panel", "flag", "keep",
)  # fmt: skip


def write_matmul(shape: MatmulShape, module: ir.Module, symbol: str, style: Lowering) -> None:
    """The kernel of a matmul shape: i64(words of `MATMUL_ARGS`)."""
    kernel = _Kernel(shape, module, style)
    function = ir.Function(module, ir.FunctionType(I64, [PTR]), symbol)
    e = Emitter(function, style)
    kernel.emit(e)
    e.finish(e.i64(0))


class _Kernel:
    """Emits the function of one shape.

    16 rows of the left operand are packed, used and forgotten; the right operand is packed 64 columns at a time while
    the first rows need it. So what was packed is in the nearest cache when it is used, and results are written row
    after row.
    """

    def __init__(self, shape: MatmulShape, module: ir.Module, style: Lowering) -> None:
        self.kind = kind = kind_for(shape.left_bits, shape.right_bits, style)
        self.shape, self.style = shape, style
        self.pack_left = pack_left(module, "pack_left", _Packing(shape.left_bits, shape.ta, kind, style))
        self.pack_right = pack_right(module, "pack_right", _Packing(shape.right_bits, shape.tb, kind, style))
        tall, pair = (16, 8) if style.vnni else (4, 4)
        sizes = {(few, 4, "") for few in _FEW} | {(4, 1, "both"), (4, 2, "both")}
        sizes |= {(rows, vectors, missing) for rows, vectors in ((tall, 1), (pair, 2)) for missing in ("", "columns")}
        self.tiles = {size: _tiles(module, kind, _Tile(*size), style) for size in sorted(sizes)}
        self.tall, self.pair = tall, pair

    def emit(self, e: Emitter) -> None:
        (words,) = e.args()
        self.e = e
        self.word = a = {name: e.load(I64, words, 8 * i, align=8) for i, name in enumerate(MATMUL_ARGS)}
        self.pointer = {name: Val(e, e.b.inttoptr(a[name].v, PTR)) for name in MATMUL_ARGS if name in _POINTERS}
        self.m, self.n = a["m"], a["n"]
        self.blocks = (a["k"] + 3) >> 2
        self.padded = (self.blocks + 3) & -4
        fresh = e.load(I64, self.pointer["flag"], align=8).eq(0)
        with e.loop(0, self.m, _GROUP_ROWS) as row:
            height = e.imin(self.m - row, _GROUP_ROWS)
            self.pack_rows(row, height)
            pack = Val(e, e.b.and_(fresh.v, row.eq(0).v))
            with e.loop(0, self.n, _GROUP_COLUMNS) as column:
                width = e.imin(self.n - column, _GROUP_COLUMNS)
                with e.when(pack):
                    self.pack_columns(column, width)
                self.multiply(row, height, column, width)
        with e.when(fresh):
            e.store(a["keep"], self.pointer["flag"], align=8)

    def pack_rows(self, row: Val, height: Val) -> None:
        """Pack rows of the left operand, to the beginning of its panel."""
        e, strip = self.e, row >> 2
        block = strip if self.shape.ta else strip * self.word["left_stride"]
        mantissas = e.at(self.pointer["left"], block * (2 * self.shape.left_bits))
        codes = e.at(self.pointer["left_codes"], block)
        e.call(self.pack_left, [mantissas, codes, self.word["left_stride"], (height + 3) >> 2, self.blocks,
                                self.pointer["left_panel"], self.pointer["left_scales"], self.padded])  # fmt: skip

    def _right_panel(self, column: Val) -> Val:
        return self.e.at(self.pointer["right_panel"], (column >> 4) * self.padded * self.kind.right_unit)

    def pack_columns(self, column: Val, width: Val) -> None:
        """Pack columns of the right operand, to their place in its panel."""
        e, first = self.e, column >> 2
        block = first * self.word["right_stride"] if self.shape.tb else first
        mantissas = e.at(self.pointer["right"], block * (2 * self.shape.right_bits))
        codes = e.at(self.pointer["right_codes"], block)
        e.call(self.pack_right, [mantissas, codes, self.word["right_stride"], (width + 3) >> 2, self.blocks,
                                 self._right_panel(column), self.padded])  # fmt: skip

    def multiply(self, row: Val, height: Val, column: Val, width: Val) -> None:
        """The packed rows, of which `row` is the first, times up to `_GROUP_COLUMNS` packed columns."""
        e = self.e

        def tiles(first: Val, last: Val, at: Val, rows: int, vectors: int, missing: str) -> None:
            strip = first >> 2
            left_step, scale_step = self.padded * self.kind.left, self.padded * 4
            with e.when(last.gt(first)):
                e.call(self.tiles[rows, vectors, missing], [
                    e.at(self.pointer["left_panel"], strip * left_step), left_step,
                    e.at(self.pointer["left_scales"], strip * scale_step), scale_step,
                    self._right_panel(column + at), self.padded * self.kind.right_unit,
                    e.at(self.pointer["c"], (row + first) * self.word["c_stride"] + (column + at) * 4),
                    self.word["c_stride"], self.blocks, self.word["acc"], last - first, width - at,
                ])  # fmt: skip

        zero = e.i64(0)
        done = Var(e, I64, 0)
        for few in _FEW:  # four vectors at a time
            with e.when(height.eq(few)):
                done.set(width & -64)
                with e.loop(0, done.get(), 64) as at:
                    tiles(zero, height, at, few, 4, "")
        with e.loop(done.get(), width, 32) as at, e.either((width - at).gt(16)) as (two, one):
            for branch, rows, vectors in ((two, self.pair, 2), (one, self.tall, 1)):
                with branch:
                    whole = height & -rows
                    with e.either((width - at).ge(16 * vectors)) as (all_columns, some):
                        with all_columns:
                            tiles(zero, whole, at, rows, vectors, "")
                        with some:
                            tiles(zero, whole, at, rows, vectors, "columns")
                    tiles(whole, height, at, 4, vectors, "both")


_FEW = (1, 2, 4)  # rows
_GROUP_ROWS = 16
_GROUP_COLUMNS = 64
_POINTERS = ("left", "left_codes", "right", "right_codes", "c", "left_panel", "left_scales", "right_panel", "flag")
