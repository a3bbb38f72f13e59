"""DMA kernels: strided copies, gathers and scatters of rows."""

from __future__ import annotations

from llvmlite import ir

from pintac.runtime.jit.codegen import I1, I8, I32, I64, PTR, VOID, Emitter, Lowering, Val, Var, vec

# Arguments: one pointer to 64-bit words. With an index vector, the rows of the indexed side lie in [low, high).
TRANSFER_ARGS = (
    "source", "target", "size", "count", "outer", "source_hi", "source_lo", "target_hi", "target_lo",
    "index", "low", "high",
)  # fmt: skip


_LINE, _SHORT = 64, 1024  # from a line to so many bytes are copied in place, without a call


def copy_bytes(e: Emitter, target: Val, source: Val, size: Val) -> None:
    """Copy `size` bytes between places that do not overlap."""
    line = vec(I8, _LINE)
    short = Val(e, e.b.and_(size.ge(_LINE).v, size.le(_SHORT).v))
    with e.either(short) as (in_place, called):
        with in_place:
            with e.loop(0, size & -_LINE, _LINE) as at:
                e.store(e.load(line, source, at), target, at)
            with e.when((size & (_LINE - 1)).ne(0)):  # the last line again, as far as it overlaps the one before
                e.store(e.load(line, source, size - _LINE), target, size - _LINE)
        with called:
            e.intrinsic("llvm.memcpy.p0.p0.i64", VOID, target, source, size, e.const(I1, 0))


def write_transfer(indexed: str, module: ir.Module, symbol: str, style: Lowering) -> None:
    """i64(words of `TRANSFER_ARGS`). `indexed`: "" or the side whose rows an int32 vector numbers.

    Returns 0, or 1 if a numbered row lies outside [low, high); nothing more is copied then.
    """
    e = Emitter(ir.Function(module, ir.FunctionType(I64, [PTR]), symbol), style)
    (words,) = e.args()
    a = {name: e.load(I64, words, 8 * i, align=8) for i, name in enumerate(TRANSFER_ARGS)}
    failed = Var(e, I64, 0)

    def pointer(address: Val) -> Val:
        return Val(e, e.b.inttoptr(address.v, PTR))

    with e.loop(0, a["outer"]) as j, e.loop(0, a["count"]) as i:
        place = {side: a[side] + i * a[f"{side}_hi"] + j * a[f"{side}_lo"] for side in ("source", "target")}
        if indexed:
            number = e.load(I32, pointer(a["index"]), i * 4).sext(I64)
            row = a[indexed] + number * a[f"{indexed}_hi"]
            place[indexed] = row
            inside = Val(e, e.b.and_(row.ge(a["low"]).v, (row + a["size"]).le(a["high"]).v))
            with e.when(Val(e, e.b.not_(inside.v))):
                failed.set(1)
            with e.when(failed.get().eq(0)):
                copy_bytes(e, pointer(place["target"]), pointer(place["source"]), a["size"])
        else:
            copy_bytes(e, pointer(place["target"]), pointer(place["source"]), a["size"])
    e.finish(failed.get())
