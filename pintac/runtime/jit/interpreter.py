"""The loop that executes a plan: hardware loops, operand addresses, kernel calls. Compiled like the kernels."""

from __future__ import annotations

from llvmlite import ir

from pintac import isa
from pintac.runtime.jit.codegen import I32, I64, PTR, VOID, Emitter, Lowering, Val, Var, internal_function

# A step of a plan: seven 64-bit words, the first saying what it is.
LOOP, END_LOOP, EXECUTE, BARRIER = range(4)
STEP_WORDS = 7
FIRST_FLAG = 5  # position in a LOOP step
TICKS, RUNS = 5, 6  # positions in an EXECUTE step, where a timed interpreter counts
# LOOP: level, count, parameter that holds the count (or NO_PARAM), step behind the end of the loop,
#     first flag and number of flags to clear on entry
# END_LOOP: level, first step of the body
# EXECUTE: kernel address, first word of its records, records, first word of the kernel's arguments

# BARRIER: number of threads

# What threads share, lines of TEAM_WORDS int64 words: in the first line whether a thread gave up, then a line for each
# thread, which counts the barriers it has reached. So a counter's cache line is its thread's until another one looks.
TEAM_WORDS = 8

# EXECUTE's records say how its address arguments depend on the loop indices. Each is RECORD_HEAD words, then two for
# each term (offset of the level's index, bytes an iteration), then RING_WORDS more if there is a ring (offset of the
# level's index, slots, bytes a slot).
RECORD_HEAD = 4  # argument, address at index 0, terms, whether there is a ring
RING_WORDS = 3


def write_interpreter(module: ir.Module, symbol: str, style: Lowering, timed: bool = False) -> None:
    """i64(steps, first, stop, records, arguments, params, flags, team, thread, yield): runs steps first to stop.

    Returns -1, or the number of the step whose kernel returned something else than 0, or `GAVE_UP` where another thread
    of the team did so. `team`: see TEAM_WORDS. `yield`: a function of no arguments that lets other threads run, or
    null. `timed`: the last two words of an EXECUTE step add up the ticks of the processor's clock spent in it, and how
    often it ran.
    """
    wait = _write_wait(module, style)
    function = ir.Function(module, ir.FunctionType(I64, [PTR, I64, I64, PTR, PTR, PTR, PTR, PTR, I64, PTR]), symbol)
    e = Emitter(function, style)
    steps, first, stop, records, arguments, params, flags, team, thread, give_way = e.args()
    index, counts = (Val(e, e.stack(I64, isa.LOOP_LEVELS)) for _ in range(2))
    for level in range(isa.LOOP_LEVELS):
        e.store(e.i64(0), index, 8 * level)
    at, failed = Var(e, I64, first), Var(e, I64, -1)
    caller_mode = _ieee_mode(e) if style.x86 else None

    head, body, end = (function.append_basic_block(name) for name in ("next", "step", "done"))
    e.b.branch(head)
    e.b.position_at_end(head)
    e.b.cbranch(at.get().lt(stop).v, body, end)
    e.b.position_at_end(body)
    step = e.at(steps, at.get() * (8 * STEP_WORDS))
    code, a, b, c, d = (e.load(I64, step, 8 * i, align=8) for i in range(5))

    with e.either(code.eq(EXECUTE)) as (execute, control):
        with execute:
            words = e.at(arguments, d * 8)
            began = e.intrinsic("llvm.readcyclecounter", I64) if timed else None
            record = Var(e, PTR, e.at(records, b * 8))
            with e.loop(0, c):
                record.set(_address(e, record.get(), index, words))
            kernel = e.b.inttoptr(a.v, PTR)
            result = _call_kernel(e, kernel, words)
            if began is not None:
                spent = e.intrinsic("llvm.readcyclecounter", I64) - began
                for word, more in ((TICKS, spent), (RUNS, e.i64(1))):
                    e.store(e.load(I64, step, 8 * word, align=8) + more, step, 8 * word, align=8)
            with e.when(result.ne(0)):
                failed.set(at.get())
                at.set(stop - 1)
                e.store_release(e.i64(1), team)
            at.set(at.get() + 1)
        with control:
            place = a * 8
            with e.when(code.eq(BARRIER)):
                gave_up = e.call(wait, [team, a, thread, give_way])
                failed.set(e.select(gave_up.ne(0), e.i64(GAVE_UP), failed.get()))
                at.set(e.select(gave_up.ne(0), stop, at.get() + 1))
            with e.when(code.ne(BARRIER)), e.either(code.eq(LOOP)) as (begin, again):
                with begin:
                    parameter = e.load(I32, params, e.select(c.eq(isa.NO_PARAM), e.i64(0), c) * 4).zext(I64)
                    count = e.select(c.eq(isa.NO_PARAM), b, parameter)
                    e.store(count, counts, place)
                    flag, number = (e.load(I64, step, 8 * (FIRST_FLAG + i), align=8) for i in range(2))
                    with e.loop(flag, flag + number) as i:
                        e.store(e.i64(0), flags, i * 8)
                    at.set(e.select(count.gt(0), at.get() + 1, d))
                with again:
                    following = e.load(I64, index, place) + 1
                    more = following.lt(e.load(I64, counts, place))
                    e.store(e.select(more, following, 0), index, place)
                    at.set(e.select(more, b, at.get() + 1))
    e.b.branch(head)
    e.b.position_at_end(end)
    if caller_mode is not None:
        e.intrinsic("llvm.x86.sse.ldmxcsr", VOID, caller_mode)
    e.finish(failed.get())


_MXCSR = 0x1F80  # round to nearest, subnormals kept, exceptions masked


def _ieee_mode(e: Emitter) -> Val:
    """Switch the processor to plain IEEE arithmetic, whatever the caller's mode (torch may flush subnormals).

    Gives the slot that holds the caller's mode.
    """
    caller, own = (Val(e, e.stack(I32)) for _ in range(2))
    e.intrinsic("llvm.x86.sse.stmxcsr", VOID, caller)
    e.store(e.i32(_MXCSR), own)
    e.intrinsic("llvm.x86.sse.ldmxcsr", VOID, own)
    return caller


def _address(e: Emitter, record: Val, index: Val, words: Val) -> Val:
    """Evaluate a record and store the address in its slot; gives the record behind it."""

    def word(pointer: Val, i: int) -> Val:
        return e.load(I64, pointer, 8 * i, align=8)

    value = Var(e, I64, word(record, 1))
    terms = e.at(record, 8 * RECORD_HEAD)
    size = word(record, 2) * 16
    with e.loop(0, size, 16) as at:
        term = e.at(terms, at)
        value.set(value.get() + e.load(I64, index, word(term, 0), align=8) * word(term, 1))
    after = e.at(terms, size)
    following = Var(e, PTR, after)
    with e.when(word(record, 3).ne(0)):
        number = e.load(I64, index, word(after, 0), align=8).trunc(I32)
        slot = number.urem(word(after, 1).trunc(I32)).zext(I64)
        value.set(value.get() + slot * word(after, 2))
        following.set(e.at(after, 8 * RING_WORDS))
    e.store(value.get(), words, word(record, 0) * 8, align=8)
    return following.get()


GAVE_UP = -2
_PATIENCE = 300  # looks at another thread's counter before the processor is offered to others


def _write_wait(module: ir.Module, style: Lowering) -> ir.Function:
    """i64(team, threads, thread, yield): meet the other threads; not 0 if one of them gave up."""
    function = internal_function(module, "wait", I64, [PTR, I64, I64, PTR])
    e = Emitter(function, style)
    team, threads, thread, give_way = e.args()
    size = 8 * TEAM_WORDS
    own = e.at(team, (thread + 1) * size)
    target = e.load(I64, own, align=8) + 1
    e.store_release(target, own)
    result, looks = Var(e, I64, 0), Var(e, I64, 0)
    with e.loop(0, threads) as other, e.repeat() as go_on:
        behind = e.load_acquire(e.at(team, (other + 1) * size)).lt(target)
        result.set(e.load_acquire(team))
        go_on(Val(e, e.b.and_(behind.v, result.get().eq(0).v)))
        if style.x86:
            e.intrinsic("llvm.x86.sse2.pause", VOID)
        looks.set(looks.get() + 1)
        impatient = Val(e, e.b.and_(looks.get().gt(_PATIENCE).v, Val(e, e.b.ptrtoint(give_way.v, I64)).ne(0).v))
        with e.when(impatient):
            e.b.call(_Function(give_way.v, ir.FunctionType(I32, [])), [])
    e.finish(result.get())
    return function


class _Function(ir.Value):
    """A pointer as something to call: llvmlite wants to know the function's type."""

    def __init__(self, pointer: ir.NamedValue, signature: ir.FunctionType) -> None:
        self.pointer = pointer
        self.type = PTR
        self.function_type = signature

    def get_reference(self) -> str:
        return str(self.pointer.get_reference())


def _call_kernel(e: Emitter, kernel: ir.NamedValue, words: Val) -> Val:
    return Val(e, e.b.call(_Function(kernel, ir.FunctionType(I64, [PTR])), [words.v]))
