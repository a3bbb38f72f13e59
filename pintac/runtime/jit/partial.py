"""Vectors of which only the leading lanes count: the last columns of a row. Memory of the others is not touched."""

from __future__ import annotations

from llvmlite import ir

from pintac.runtime.jit.codegen import (
    F32,
    I32,
    I64,
    LANES,
    PTR,
    VF,
    VOID,
    Emitter,
    Val,
    constant,
    internal_function,
    vec,
)

_MASKED_ALIGN = constant(I32, 1)  # LLVM 22 moved it to the pointer, and still reads it here


class Part:
    """The first `count` (i32, 0 to LANES) lanes: a mask on AVX-512, else a count. `full`: it is known to be all."""

    def __init__(self, e: Emitter, count: Val, full: bool = False) -> None:
        self.e = e
        self.count = count
        self.full = full
        self.mask = e.table(range(LANES), I32).lt(e.splat(count))

    @classmethod
    def whole(cls, e: Emitter) -> Part:
        """All lanes."""
        return cls(e, e.i32(LANES), full=True)

    def keep(self, value: Val, other: Val | float) -> Val:
        """The value where it counts, something else elsewhere."""
        return value if self.full else self.e.select(self.mask, value, other)

    def load(self, pointer: Val, step: Val | None = None) -> Val:
        """fp32 lanes, adjacent or `step` bytes apart; those that do not count are 0."""
        e = self.e
        if step is not None:
            if e.lowering.vnni:
                return e.concat([_gather(e, pointer, offsets, mask) for offsets, mask in self._halves(step)])
            return e.call(_load_strided(e), [pointer, step, self.count])
        if self.full:
            return e.load(VF, pointer)
        if e.lowering.vnni:
            name = f"llvm.masked.load.v{LANES}f32.p0"
            return e.intrinsic(name, VF, pointer, _MASKED_ALIGN, self.mask, e.f(0.0))
        return e.call(_load_part(e), [pointer, self.count])

    def store(self, value: Val, pointer: Val, step: Val | None = None) -> None:
        """Store the fp32 lanes that count, adjacent or `step` bytes apart."""
        e = self.e
        if step is not None:
            if e.lowering.vnni:
                for first, (offsets, mask) in zip((0, 8), self._halves(step), strict=True):
                    _scatter(e, value.shuffle(range(first, first + 8)), pointer, offsets, mask)
            else:
                e.call(_store_strided(e), [value, pointer, step, self.count])
        elif self.full:
            e.store(value, pointer)
        elif e.lowering.vnni:
            name = f"llvm.masked.store.v{LANES}f32.p0"
            e.intrinsic(name, VOID, value, pointer, _MASKED_ALIGN, self.mask)
        else:
            e.call(_store_part(e), [value, pointer, self.count])

    def _halves(self, step: Val) -> list[tuple[Val, Val]]:
        """Offsets `step` apart and which of them count, eight lanes at a time."""
        lanes = [range(8 * i, 8 * i + 8) for i in range(2)]
        return [(self.e.table(half, I64) * self.e.splat(step, 8), self.mask.shuffle(half)) for half in lanes]


# ---- AVX-512


def _gather(e: Emitter, pointer: Val, offsets: Val, mask: Val) -> Val:
    """Eight fp32 lanes at byte offsets, 0 where the mask is not set."""
    eight = vec(F32, 8)
    name = "llvm.x86.avx512.mask.gather.qps.512"
    return e.intrinsic(name, eight, e.const(eight, 0.0), pointer, offsets, mask, e.i32(1))


def _scatter(e: Emitter, value: Val, pointer: Val, offsets: Val, mask: Val) -> None:
    """Store the eight fp32 lanes that the mask selects at byte offsets."""
    e.intrinsic("llvm.x86.avx512.mask.scatter.qps.512", VOID, pointer, mask, offsets, value, e.i32(1))


# ---- elsewhere: functions that take one lane after the other


def _load_part(e: Emitter) -> ir.Function:
    name = "load_part"
    if name in e.module.globals:
        return e.module.globals[name]
    function = internal_function(e.module, name, VF, [PTR, I32])
    inner = Emitter(function, e.lowering)
    pointer, count = inner.args()
    slot = Val(inner, inner.stack(VF))
    with inner.either(count.eq(LANES)) as (full, some):
        with full:
            inner.store(inner.load(VF, pointer), slot)
        with some:
            inner.store(inner.f(0.0), slot)
            with inner.loop(0, count) as i:
                offset = i.zext(I64) * 4
                inner.store(inner.load(I32, pointer, offset), slot, offset)
    inner.finish(inner.load(VF, slot, align=64))
    return function


def _store_part(e: Emitter) -> ir.Function:
    name = "store_part"
    if name in e.module.globals:
        return e.module.globals[name]
    function = internal_function(e.module, name, VOID, [VF, PTR, I32])
    inner = Emitter(function, e.lowering)
    value, pointer, count = inner.args()
    with inner.either(count.eq(LANES)) as (full, some):
        with full:
            inner.store(value, pointer)
        with some:
            slot = Val(inner, inner.stack(VF))
            inner.store(value, slot, align=64)
            with inner.loop(0, count) as i:
                offset = i.zext(I64) * 4
                inner.store(inner.load(I32, slot, offset), pointer, offset)
    inner.finish()
    return function


def _load_strided(e: Emitter) -> ir.Function:
    name = "load_strided"
    if name in e.module.globals:
        return e.module.globals[name]
    function = internal_function(e.module, name, VF, [PTR, I64, I32])
    inner = Emitter(function, e.lowering)
    source, stride, count = inner.args()
    slot = Val(inner, inner.stack(VF))
    inner.store(inner.f(0.0), slot, align=64)
    with inner.loop(0, count) as i:
        wide = i.zext(I64)
        inner.store(inner.load(I32, source, wide * stride), slot, wide * 4)
    inner.finish(inner.load(VF, slot, align=64))
    return function


def _store_strided(e: Emitter) -> ir.Function:
    name = "store_strided"
    if name in e.module.globals:
        return e.module.globals[name]
    function = internal_function(e.module, name, VOID, [VF, PTR, I64, I32])
    inner = Emitter(function, e.lowering)
    stored, target, stride, count = inner.args()
    slot = Val(inner, inner.stack(VF))
    inner.store(stored, slot, align=64)
    with inner.loop(0, count) as i:
        wide = i.zext(I64)
        inner.store(inner.load(I32, slot, wide * 4), target, wide * stride)
    inner.finish()
    return function
