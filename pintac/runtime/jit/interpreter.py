"""The loops that execute a plan, or a thread's rows: operand addresses, kernel calls. Compiled like the kernels."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from pintac import isa
from pintac.runtime.jit.codegen import I32, I64, PTR, VOID, Emitter, Lowering, Val, Var, internal_function
from pintac.runtime.jit.team import CLEAR, COPY, PUBLISH, ROW_WORDS, RUN, WAIT
from pintac.runtime.jit.transfers import copy_bytes

# A step of a plan: seven 64-bit words, the first saying what it is.
LOOP, END_LOOP, EXECUTE = range(3)
STEP_WORDS = 7
FIRST_FLAG = 5  # position in a LOOP step
TICKS, RUNS = 5, 6  # positions in an EXECUTE step, where a timed interpreter counts
# LOOP: level, count, parameter that holds the count (or NO_PARAM), step behind the end of the loop,
#     first flag and number of flags to clear on entry
# END_LOOP: level, first step of the body
# EXECUTE: kernel address, first word of its records, records, first word of the kernel's arguments

# EXECUTE's records say how its address arguments depend on the loop indices. Each is RECORD_HEAD words, then two for
# each term (offset of the level's index, bytes an iteration), then RING_WORDS more if there is a ring (offset of the
# level's index, slots, bytes a slot).
RECORD_HEAD = 4  # argument, address at index 0, terms, whether there is a ring
RING_WORDS = 3


# What threads share, lines of TEAM_WORDS int64 words: in the first line whether a thread gave up, then a line for each
# thread, its progress. So a counter's cache line is its thread's until another one looks.
TEAM_WORDS = 8


def write_interpreter(module: ir.Module, symbol: str, style: Lowering, timed: bool = False) -> None:
    """i64(steps, stop, records, arguments, params, flags): runs a plan's steps up to `stop`.

    Returns -1, or the number of the step whose kernel returned something else than 0. `timed`: the last two words of an
    EXECUTE step add up the ticks of the processor's clock spent in it, and how often it ran.
    """
    function = ir.Function(module, ir.FunctionType(I64, [PTR, I64, PTR, PTR, PTR, PTR]), symbol)
    e = Emitter(function, style)
    steps, stop, records, arguments, params, flags = e.args()
    index, counts = (Val(e, e.stack(I64, isa.LOOP_LEVELS)) for _ in range(2))
    for level in range(isa.LOOP_LEVELS):
        e.store(e.i64(0), index, 8 * level)
    at, failed = Var(e, I64, 0), Var(e, I64, -1)
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
            began = e.intrinsic("llvm.readcyclecounter", I64) if timed else None
            result = _execute(e, (a, b, c, d), records, arguments, index)
            if began is not None:
                spent = e.intrinsic("llvm.readcyclecounter", I64) - began
                for word, more in ((TICKS, spent), (RUNS, e.i64(1))):
                    e.store(e.load(I64, step, 8 * word, align=8) + more, step, 8 * word, align=8)
            with e.when(result.ne(0)):
                failed.set(at.get())
                at.set(stop - 1)
            at.set(at.get() + 1)
        with control:
            place = a * 8
            with e.either(code.eq(LOOP)) as (begin, again):
                with begin:
                    parameter = e.load(I32, params, e.select(c.eq(isa.NO_PARAM), e.i64(0), c) * 4).zext(I64)
                    count = e.select(c.eq(isa.NO_PARAM), b, parameter)
                    e.store(count, counts, place)
                    flag, number = (e.load(I64, step, 8 * (FIRST_FLAG + i), align=8) for i in range(2))
                    _clear(e, flags, flag, number)
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


def write_team_interpreter(module: ir.Module, symbol: str, style: Lowering) -> None:
    """i64(rows, count, steps, records, arguments, flags, team, thread, bases, yield): runs a thread's rows (`team`).

    Returns -1, or the number of the step whose kernel returned something else than 0, or `GAVE_UP` where another thread
    did so. `team`: see TEAM_WORDS. `bases`: int64 [threads, spaces], where each thread's spaces begin. `yield`: a
    function of no arguments that lets other threads run, or null.
    """
    wait = _write_wait(module, style)
    types = [PTR, I64, PTR, PTR, PTR, PTR, PTR, I64, PTR, PTR]
    function = ir.Function(module, ir.FunctionType(I64, types), symbol)
    e = Emitter(function, style)
    rows, count, steps, records, arguments, flags, team, thread, bases, give_way = e.args()
    index = Val(e, e.stack(I64, isa.LOOP_LEVELS))
    own = e.at(team, (thread + 1) * (8 * TEAM_WORDS))
    failed = Var(e, I64, -1)
    caller_mode = _ieee_mode(e) if style.x86 else None
    stop = Var(e, I64, count)
    at = Var(e, I64, 0)
    with e.repeat() as go_on:
        go_on(at.get().lt(stop.get()))
        row = e.at(rows, at.get() * (4 * ROW_WORDS))
        at.set(at.get() + 1)

        def word(i: int) -> Val:
            return e.load(I32, row, 4 * i, align=4).zext(I64)

        code = word(0)
        with e.either(code.eq(RUN)) as (run, other):
            with run:
                for level in range(isa.LOOP_LEVELS):
                    e.store(word(2 + level), index, 8 * level, align=8)
                step = e.at(steps, word(1) * (8 * STEP_WORDS))
                fields = tuple(e.load(I64, step, 8 * i, align=8) for i in range(1, 5))
                with e.when(_execute(e, fields, records, arguments, index).ne(0)):
                    failed.set(word(1))
                    stop.set(0)
                    e.store_release(e.i64(1), team)
            with other:
                with e.when(code.eq(WAIT)):
                    gave_up = e.call(wait, [team, word(1), word(2), give_way]).ne(0)
                    failed.set(e.select(gave_up, e.i64(GAVE_UP), failed.get()))
                    stop.set(e.select(gave_up, e.i64(0), stop.get()))
                with e.when(code.eq(COPY)):
                    spaces = 8 * len(isa.Space)
                    source, target = (
                        e.load(I64, bases, who * spaces + word(2) * 8, align=8) + word(3) for who in (word(1), thread)
                    )
                    size, stride = word(4), word(6)
                    with e.loop(0, word(5)) as i:
                        to, what = (Val(e, e.b.inttoptr((p + i * stride).v, PTR)) for p in (target, source))
                        copy_bytes(e, to, what, size)
                with e.when(code.eq(CLEAR)):
                    _clear(e, flags, word(1), word(2))
        with e.when(word(PUBLISH).ne(0)):
            e.store_release(at.get(), own)
    if caller_mode is not None:
        e.intrinsic("llvm.x86.sse.ldmxcsr", VOID, caller_mode)
    e.finish(failed.get())


def _execute(e: Emitter, fields: Sequence[Val], records: Val, arguments: Val, index: Val) -> Val:
    """Evaluate the addresses of an EXECUTE step (its words from the second on) and call its kernel; its result."""
    kernel, first_record, number, first_word = fields
    words = e.at(arguments, first_word * 8)
    record = Var(e, PTR, e.at(records, first_record * 8))
    with e.loop(0, number):
        record.set(_address(e, record.get(), index, words))
    return _call_kernel(e, e.b.inttoptr(kernel.v, PTR), words)


def _clear(e: Emitter, flags: Val, first: Val, number: Val) -> None:
    with e.loop(first, first + number) as i:
        e.store(e.i64(0), flags, i * 8)


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
_PATIENCE = 300  # looks at another thread's progress before the processor is offered to others


def _write_wait(module: ir.Module, style: Lowering) -> ir.Function:
    """i64(team, thread, progress, yield): wait until a thread is so far; not 0 if one of the team gave up."""
    function = internal_function(module, "wait", I64, [PTR, I64, I64, PTR])
    e = Emitter(function, style)
    team, thread, progress, give_way = e.args()
    place = e.at(team, (thread + 1) * (8 * TEAM_WORDS))
    result, looks = Var(e, I64, 0), Var(e, I64, 0)
    with e.repeat() as go_on:
        behind = e.load_acquire(place).lt(progress)
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
