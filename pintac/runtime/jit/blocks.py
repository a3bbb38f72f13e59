"""SMX blocks in registers: unpacking, scales, quantising, packing (NUMERICS 1), four blocks side by side at a time."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from pintac.runtime.jit.codegen import I8, I16, I32, LANES, NAN_BITS, VF, VI, Emitter, Val, Var, vec

E_MIN = -63
E_MAX = 47
BIAS = 127
NONFINITE = 255
FLAG_SATURATED = 1
FLAG_NONFINITE = 2
SMALLEST_INFINITE = 0x7F800000
# Adding 1.5 * 2^23 leaves an fp32 number below 2^22 rounded half to even in the low mantissa bits.
ROUND = 12582912.0

_GROUP = 64  # elements of four blocks


def row_of_blocks(row: int) -> list[int]:
    """Where row `row` of four blocks stands in memory order [block, row, column]."""
    return [16 * block + 4 * row + column for block in range(4) for column in range(4)]


TRANSPOSED = [16 * block + 4 * row + column for block in range(4) for column in range(4) for row in range(4)]


def load_blocks(e: Emitter, pointer: Val, bits: int, word: ir.Type, order: Sequence[int] | None = None) -> Val:
    """The mantissas of four consecutive blocks, sign-extended, <64 x word> (i8 or i16) in memory order or in `order`.

    Reads 8 * bits bytes even where fewer blocks exist: the engine keeps slack behind every address space.
    """
    if bits in (8, 16):
        values = e.load(vec(I8 if bits == 8 else I16, _GROUP), pointer)
    elif bits == 4:
        raw = e.load(vec(I8, _GROUP // 2), pointer)
        low, high = (raw << 4).ashr(4), raw.ashr(4)
        values = low.shuffle([i // 2 + (_GROUP // 2) * (i % 2) for i in range(_GROUP)], high)
    else:
        return _load_triples(e, pointer, word, order)
    values = values.shuffle(order) if order is not None else values
    return values if values.type.element == word else values.sext(word)


def _load_triples(e: Emitter, pointer: Val, word: ir.Type, order: Sequence[int] | None) -> Val:
    """`load_blocks` for 12 bits: two rows of a block, eight elements, are 12 bytes.

    Spread to 16 bytes each, then made words: a pair of elements is three bytes, and the low one ends, the high one
    begins in the middle of the second. With an order, half h of the vectors takes rows 2 h and 2 h + 1 of all blocks,
    as products of words want them.
    """
    # The two loads overlap, so that the second ends with the blocks.
    raw = [e.load(vec(I32), pointer, offset) for offset in (0, 32)]
    words = [16 * lane + 3 * (i // 2) + i % 2 + h for lane in range(4) for i in range(8) for h in range(2)]
    halves = []
    eights = [[4 * half + i if order is None else 2 * i + half for i in range(4)] for half in range(2)]
    for group in eights:
        picked = [3 * eight + min(i, 2) for eight in group for i in range(4)]
        spread_out = raw[0].shuffle([i if i < LANES else i + 8 for i in picked], raw[1])
        pairs = spread_out.cast(vec(I8, _GROUP)).shuffle(words).cast(vec(I16, 32))
        halves.append((pairs << e.table([4, 0] * 16, I16)).ashr(4))
    values = e.concat(halves)
    if order is not None:
        place = {eight: 8 * i for i, eight in enumerate([*eights[0], *eights[1]])}
        values = values.shuffle([place[i // 8] + i % 8 for i in order])
    return values if values.type.element == word else values.sext(word)


def load_codes(e: Emitter, pointer: Val, count: int = 4) -> Val:
    """Exponent codes of `count` consecutive blocks."""
    return e.load(vec(I8, count), pointer)


def scales(e: Emitter, codes: Val) -> Val:
    """2**E of exponent codes, fp32; NaN for a non-finite block."""
    wide = codes.zext(I32)
    nan = e.const(wide.type, NAN_BITS)
    return e.select(wide.eq(NONFINITE), nan, wide << 23).as_float()


def spread(per_block: Val) -> Val:
    """Four block values, each in the four lanes of its block."""
    return per_block.shuffle([lane // 4 for lane in range(LANES)])


def decode_rows(e: Emitter, mantissas: Val, codes: Val) -> list[Val]:
    """The four rows of four blocks in fp32."""
    scale = spread(scales(e, codes))
    if mantissas.type.element == I8:
        # One word a column of a block, a byte a row; moved to the top of the word a byte is 2**24 times itself.
        columns, scale = mantissas.shuffle(TRANSPOSED).cast(VI), scale * 2.0**-24
        return [((columns << (24 - 8 * r)) & -(1 << 24)).to_float() * scale for r in range(4)]
    return [mantissas.shuffle(row_of_blocks(r)).sext(I32).to_float() * scale for r in range(4)]


def quantise_rows(e: Emitter, rows: Sequence[Val], bits: int, status: Val) -> tuple[list[Val], Val]:
    """Four rows of 16 fp32 elements as SMX: mantissas (four int32 vectors) and the codes of the four blocks (i8).

    Of the mantissas only the low `bits` bits count. Flags are added to the status word at `status`. Elements beyond the
    tensor must be 0.
    """
    magnitude = [row.bits() & 0x7FFFFFFF for row in rows]
    largest = e.imax(e.imax(magnitude[0], magnitude[1]), e.imax(magnitude[2], magnitude[3]))
    largest = e.imax(largest, largest.shuffle([i ^ 1 for i in range(LANES)]))
    largest = e.imax(largest, largest.shuffle([i ^ 2 for i in range(LANES)]))
    wanted = (largest >> 23) - (BIAS + bits - 2)
    exponent = Var(e, VI, e.imax(wanted, E_MIN))
    code = Var(e, VI, exponent.get() + BIAS)
    finite = [Var(e, VF, row) for row in rows]
    limit = float(2 ** (bits - 1) - 1)
    # A mantissa beyond the limit comes from a largest number that is rounded up, or from a saturated exponent. From 8
    # bits on that is rare enough for a branch.
    clamped_later = bits < 8
    rounds_up = 0x7FFFFF & -(1 << (24 - bits))
    unusual = wanted.gt(E_MAX)
    seldom = [unusual] if clamped_later else [unusual, (largest & rounds_up).eq(rounds_up)]
    with e.when(e.any_lane(seldom)):
        infinite = largest.ge(SMALLEST_INFINITE)
        saturated = Val(e, e.b.and_(unusual.v, e.b.not_(infinite.v)))
        for mask, flag in ((saturated, FLAG_SATURATED), (infinite, FLAG_NONFINITE)):
            with e.when(e.any_lane([mask])):
                e.store(e.load(I32, status) | flag, status)
        exponent.set(e.imin(exponent.get(), E_MAX))
        code.set(e.select(infinite, e.const(VI, NONFINITE), exponent.get() + BIAS))
        largest_kept = ((exponent.get() + BIAS) << 23).as_float() * limit
        for var in finite:
            row = var.get()
            row = e.select(row.lt(largest_kept), row, largest_kept)
            row = e.select(row.gt(e.neg(largest_kept)), row, e.neg(largest_kept))
            var.set(e.select(infinite, e.f(0.0), row))
    inverse = ((BIAS - exponent.get()) << 23).as_float()
    mantissas = []
    for var in finite:
        # The product is exact, or so small that it vanishes in the sum.
        rounded = e.fma(var.get(), inverse, e.f(ROUND))
        if clamped_later:
            rounded = e.select(rounded.lt(ROUND + limit), rounded, ROUND + limit)
            rounded = e.select(rounded.gt(ROUND - limit), rounded, ROUND - limit)
        mantissas.append(rounded.bits())
    return mantissas, code.get().shuffle([0, 4, 8, 12]).trunc(I8)


def _in_memory_order(e: Emitter, rows: Sequence[Val]) -> Val:
    """Four rows (16 lanes each) as [block, row, column]."""
    order = [16 * r + 4 * b + c for b in range(4) for r in range(4) for c in range(4)]
    return e.concat(rows).shuffle(order)


def pack_blocks(e: Emitter, mantissas: Sequence[Val], bits: int) -> list[Val]:
    """The bytes of four blocks from their rows of mantissas: vectors to be stored one behind the other."""
    if bits == 16:
        return [_in_memory_order(e, [m.trunc(I16) for m in mantissas])]
    if bits == 8:
        upper, lower = [(mantissas[i] & 0xFF) | ((mantissas[i + 1] & 0xFF) << 8) for i in (0, 2)]
        columns = upper | (lower << 16)  # a column of a block in each word
        return [columns.cast(vec(I8, _GROUP)).shuffle(TRANSPOSED)]
    if bits == 4:
        flat = _in_memory_order(e, [m.trunc(I8) for m in mantissas])
        low, high = flat.shuffle(range(0, _GROUP, 2)), flat.shuffle(range(1, _GROUP, 2))
        return [(low & 15) | (high << 4)]
    # Two rows of a block are four pairs of 24 bits, which become 12 of 16 bytes, then three of four 32-bit words.
    even = [4 * block + i % 2 * 2 + LANES * (i // 2) for block in range(4) for i in range(4)]
    triples = [16 * block + 4 * (i // 3) + i % 3 for block in range(4) for i in [*range(12), 0, 0, 0, 0]]
    halves = []
    for first, second in (mantissas[:2], mantissas[2:]):
        low, high = first.shuffle(even, second), first.shuffle([i + 1 for i in even], second)
        pairs = (low & 0xFFF) | (high << 12)
        halves.append(pairs.cast(vec(I8, _GROUP)).shuffle(triples).cast(vec(I32)))
    words = [4 * block + i % 3 + LANES * (i // 3) for block in range(4) for i in range(6)]
    return [halves[0].shuffle(words[:16], halves[1]), halves[0].shuffle(words[16:], halves[1])]


def store_blocks(
    e: Emitter, packed: Sequence[Val], codes: Val, pointer: Val, code_pointer: Val, blocks: Val | None, bits: int
) -> None:
    """Store the first `blocks` (i32, 1 to 4; None: all) of four packed blocks and their codes, and nothing else."""

    def store_all(target: Val) -> None:
        offset = 0
        for vector in packed:
            e.store(vector, target, offset)
            offset += vector.type.count * vector.type.element.width // 8

    if blocks is None:
        store_all(pointer)
        e.store(codes, code_pointer)
        return
    with e.either(blocks.ge(4)) as (full, some):
        with full:
            store_all(pointer)
            e.store(codes, code_pointer)
        with some:
            slot = Val(e, e.stack(I8, 8 * bits))
            store_all(slot)
            block = vec(I8, 2 * bits)
            for i in range(3):
                with e.when(blocks.gt(i)):
                    e.store(e.load(block, slot, 2 * bits * i), pointer, 2 * bits * i)
                    e.store(codes.lane(i), code_pointer, i)
