"""A small layer over llvmlite for the engine's kernels: typed values with operators, memory, loops.

Kernels are written on vectors of `LANES` = 16 elements (four 4x4 blocks side by side). LLVM splits such a vector where
the processor's are shorter, so one text serves every target; `Lowering` says which extra instructions may be named.

All floating-point operations are plain IEEE operations: no fast-math flag is ever set, so LLVM neither contracts nor
reorders them. `Emitter.fma` may only be used where the product is exact, so that fused and unfused agree.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

LANES = 16

I1 = ir.IntType(1)
I8 = ir.IntType(8)
I16 = ir.IntType(16)
I32 = ir.IntType(32)
I64 = ir.IntType(64)
F32 = ir.FloatType()
F64 = ir.DoubleType()
PTR = ir.PointerType()
VOID = ir.VoidType()

NAN_BITS = 0x7FC00000  # the one NaN the engines store


def vec(element: ir.Type, lanes: int = LANES) -> ir.VectorType:
    """The vector type of `lanes` elements."""
    return ir.VectorType(element, lanes)


VF = vec(F32)
VI = vec(I32)


@dataclass(frozen=True)
class Lowering:
    """What kernels may assume about the processor.

    vnni: AVX-512 with byte and word dot products and masked moves. Without it only portable IR is emitted.
    x86: the floating-point control register is MXCSR.
    """

    name: str
    cpu: str
    features: str
    x86: bool

    @property
    def vnni(self) -> bool:
        return self.name == "avx512"


class _Literal(ir.Constant):
    """A constant given by its text (llvmlite itself has no splat)."""

    def __init__(self, t: ir.Type, text: str) -> None:
        super().__init__(t, ir.Undefined)
        self.text = text

    def _to_string(self) -> str:
        return f"{self.type} {self.text}"

    def get_reference(self) -> str:
        return self.text


def _element(t: ir.Type) -> ir.Type:
    return t.element if isinstance(t, ir.VectorType) else t


def _is_float(t: ir.Type) -> bool:
    return isinstance(_element(t), ir.FloatType | ir.DoubleType)


def constant(t: ir.Type, value: float) -> _Literal:
    """A number as a constant of type t; on a vector type in every lane."""
    element = _element(t)
    if _is_float(t):
        if isinstance(element, ir.FloatType):
            value = struct.unpack("f", struct.pack("f", value))[0]
        text = f"0x{struct.unpack('>Q', struct.pack('>d', value))[0]:016X}"
    else:
        text = str(int(value))
    if isinstance(t, ir.VectorType):
        text = f"splat ({element} {text})"
    return _Literal(t, text)


class Val:
    """An IR value with operators. Python numbers become constants of the other operand's type.

    `<<`, `>>` shift without sign, `ashr` with sign; comparisons are signed or ordered (`ne` on floats: unordered).
    """

    __slots__ = ("e", "v")

    def __init__(self, e: Emitter, v: ir.Value) -> None:
        self.e = e
        self.v = v

    @property
    def type(self) -> ir.Type:
        return self.v.type

    def _coerce(self, other: Val | float) -> ir.Value:
        return other.v if isinstance(other, Val) else constant(self.type, other)

    def _binary(self, other: Val | float, integer: str, floating: str | None = None) -> Val:
        name = floating if floating and _is_float(self.type) else integer
        return Val(self.e, getattr(self.e.b, name)(self.v, self._coerce(other)))

    def __add__(self, o: Val | float) -> Val:
        return self._binary(o, "add", "fadd")

    def __sub__(self, o: Val | float) -> Val:
        return self._binary(o, "sub", "fsub")

    def __rsub__(self, o: float) -> Val:
        return Val(self.e, constant(self.type, o)) - self

    def __mul__(self, o: Val | float) -> Val:
        return self._binary(o, "mul", "fmul")

    __radd__ = __add__
    __rmul__ = __mul__

    def __truediv__(self, o: Val | float) -> Val:
        return self._binary(o, "fdiv")

    def __rtruediv__(self, o: float) -> Val:
        return Val(self.e, constant(self.type, o)) / self

    def __and__(self, o: Val | float) -> Val:
        return self._binary(o, "and_")

    def __or__(self, o: Val | float) -> Val:
        return self._binary(o, "or_")

    def __xor__(self, o: Val | float) -> Val:
        return self._binary(o, "xor")

    def __lshift__(self, o: Val | float) -> Val:
        return self._binary(o, "shl")

    def __rshift__(self, o: Val | float) -> Val:
        return self._binary(o, "lshr")

    def ashr(self, o: Val | float) -> Val:
        return self._binary(o, "ashr")

    def udiv(self, o: Val | float) -> Val:
        return self._binary(o, "udiv")

    def urem(self, o: Val | float) -> Val:
        return self._binary(o, "urem")

    def _compare(self, op: str, o: Val | float) -> Val:
        other = self._coerce(o)
        b = self.e.b
        if not _is_float(self.type):
            return Val(self.e, b.icmp_signed(op, self.v, other))
        return Val(self.e, b.fcmp_unordered(op, self.v, other) if op == "!=" else b.fcmp_ordered(op, self.v, other))

    def lt(self, o: Val | float) -> Val:
        return self._compare("<", o)

    def le(self, o: Val | float) -> Val:
        return self._compare("<=", o)

    def gt(self, o: Val | float) -> Val:
        return self._compare(">", o)

    def ge(self, o: Val | float) -> Val:
        return self._compare(">=", o)

    def eq(self, o: Val | float) -> Val:
        return self._compare("==", o)

    def ne(self, o: Val | float) -> Val:
        return self._compare("!=", o)

    def is_nan(self) -> Val:
        return Val(self.e, self.e.b.fcmp_unordered("uno", self.v, self.v))

    def cast(self, t: ir.Type) -> Val:
        """The same bits as another type."""
        return self if self.type == t else Val(self.e, self.e.b.bitcast(self.v, t))

    def bits(self) -> Val:
        """fp32 as int32, lane by lane."""
        return self.cast(vec(I32, self.type.count) if isinstance(self.type, ir.VectorType) else I32)

    def as_float(self) -> Val:
        """int32 bits as fp32, lane by lane."""
        return self.cast(vec(F32, self.type.count) if isinstance(self.type, ir.VectorType) else F32)

    def _like(self, element: ir.Type) -> ir.Type:
        return vec(element, self.type.count) if isinstance(self.type, ir.VectorType) else element

    def sext(self, element: ir.Type) -> Val:
        return Val(self.e, self.e.b.sext(self.v, self._like(element)))

    def zext(self, element: ir.Type) -> Val:
        return Val(self.e, self.e.b.zext(self.v, self._like(element)))

    def trunc(self, element: ir.Type) -> Val:
        return Val(self.e, self.e.b.trunc(self.v, self._like(element)))

    def to_float(self, element: ir.Type = F32) -> Val:
        """Signed integer to floating point, rounded half to even."""
        return Val(self.e, self.e.b.sitofp(self.v, self._like(element)))

    def lane(self, i: int) -> Val:
        return Val(self.e, self.e.b.extract_element(self.v, ir.Constant(I32, i)))

    def shuffle(self, index: Sequence[int], other: Val | None = None) -> Val:
        """Lanes of this (and, numbered behind them, of `other`)."""
        second = other.v if other is not None else ir.Constant(self.type, ir.Undefined)
        mask = ir.Constant(vec(I32, len(index)), list(index))
        return Val(self.e, self.e.b.shuffle_vector(self.v, second, mask))


class Var:
    """A mutable variable (a stack slot that LLVM turns into registers)."""

    def __init__(self, e: Emitter, t: ir.Type, value: Val | float) -> None:
        self.e, self.t = e, t
        self.slot = e.stack(t)
        self.set(value)

    def get(self) -> Val:
        return Val(self.e, self.e.b.load(self.slot, typ=self.t))

    def set(self, value: Val | float) -> None:
        self.e.b.store(value.v if isinstance(value, Val) else constant(self.t, value), self.slot)


class Emitter:
    """Emits into one function. Pointers are byte pointers; `at` moves them by bytes."""

    def __init__(self, function: ir.Function, lowering: Lowering) -> None:
        self.function = function
        self.module = function.module
        self.lowering = lowering
        self.entry = function.append_basic_block("entry")
        self.b = ir.IRBuilder(self.entry)
        self._allocas = ir.IRBuilder(self.entry)
        self.body = function.append_basic_block("body")
        self.b.position_at_end(self.body)

    def finish(self, result: Val | None = None) -> None:
        """Return, and join the block of stack slots to the body."""
        if result is None:
            self.b.ret_void()
        else:
            self.b.ret(result.v)
        ir.IRBuilder(self.entry).branch(self.body)

    @contextmanager
    def on_entry(self) -> Iterator[None]:
        """Emit into the function's entry block, which dominates everything."""
        before, self.b = self.b, self._allocas
        yield
        self.b = before

    # --- values

    def args(self) -> list[Val]:
        return [Val(self, a) for a in self.function.args]

    def const(self, t: ir.Type, value: float) -> Val:
        return Val(self, constant(t, value))

    def i32(self, value: int) -> Val:
        return self.const(I32, value)

    def i64(self, value: int) -> Val:
        return self.const(I64, value)

    def f(self, value: float) -> Val:
        """An fp32 constant in every lane."""
        return self.const(VF, value)

    def table(self, values: Sequence[float], t: ir.Type) -> Val:
        """A constant vector of different lanes."""
        element = _element(t)
        text = ", ".join(f"{element} {constant(element, v).text}" for v in values)
        return Val(self, _Literal(vec(element, len(values)), f"<{text}>"))

    def splat(self, scalar: Val, lanes: int = LANES) -> Val:
        t = vec(scalar.type, lanes)
        first = self.b.insert_element(ir.Constant(t, ir.Undefined), scalar.v, ir.Constant(I32, 0))
        return Val(self, first).shuffle([0] * lanes)

    def vector(self, lanes: Sequence[Val]) -> Val:
        """Scalars as the lanes of a vector."""
        t = vec(lanes[0].type, len(lanes))
        value: ir.Value = ir.Constant(t, ir.Undefined)
        for i, lane in enumerate(lanes):
            value = self.b.insert_element(value, lane.v, ir.Constant(I32, i))
        return Val(self, value)

    def concat(self, parts: Sequence[Val]) -> Val:
        """Vectors of one type, a power of two of them, end to end."""
        parts = list(parts)
        while len(parts) > 1:
            n = 2 * parts[0].type.count
            parts = [parts[i].shuffle(range(n), parts[i + 1]) for i in range(0, len(parts), 2)]
        return parts[0]

    def stack(self, t: ir.Type, count: int = 1) -> ir.Value:
        """A stack slot of the function (allocated once, at its entry)."""
        slot = self._allocas.alloca(t, size=ir.Constant(I32, count))
        slot.align = 64
        slot.type = PTR  # llvmlite still gives slots a typed pointer
        return slot

    def select(self, condition: Val, a: Val | float, b: Val | float) -> Val:
        t = a.type if isinstance(a, Val) else b.type  # type: ignore[union-attr]
        one, other = (x.v if isinstance(x, Val) else constant(t, x) for x in (a, b))
        return Val(self, self.b.select(condition.v, one, other))

    def imin(self, a: Val, b: Val | float) -> Val:
        return self.select(a.lt(b), a, b)

    def imax(self, a: Val, b: Val | float) -> Val:
        return self.select(a.gt(b), a, b)

    def intrinsic(self, name: str, result: ir.Type, *args: Val | ir.Value) -> Val:
        values = [a.v if isinstance(a, Val) else a for a in args]
        function = self.module.globals.get(name)
        if function is None:
            function = ir.Function(self.module, ir.FunctionType(result, [v.type for v in values]), name)
        return Val(self, self.b.call(function, values))

    def sqrt(self, x: Val) -> Val:
        return self.intrinsic(f"llvm.sqrt.v{x.type.count}f32", x.type, x)

    def fabs(self, x: Val) -> Val:
        return (x.bits() & 0x7FFFFFFF).as_float()

    def neg(self, x: Val) -> Val:
        return (x.bits() ^ -0x80000000).as_float()

    def fma(self, x: Val, y: Val, z: Val) -> Val:
        """x * y + z where x * y is exact: fused or not, the same bits."""
        return self.intrinsic(f"llvm.fmuladd.v{x.type.count}f32", x.type, x, y, z)

    def unordered(self, x: Val, y: Val) -> Val:
        """Where x or y is NaN."""
        return Val(self, self.b.fcmp_unordered("uno", x.v, y.v))

    def any_lane(self, masks: Sequence[Val]) -> Val:
        """Whether any lane of any mask is set."""
        total = masks[0].v
        for mask in masks[1:]:
            total = self.b.or_(total, mask.v)
        return Val(self, self.b.bitcast(total, ir.IntType(total.type.count))).ne(0)

    def canonical(self, x: Val) -> Val:
        """x with every NaN replaced by the one that is stored."""
        return self.select(x.is_nan(), self.const(x.bits().type, NAN_BITS).as_float(), x)

    # --- memory

    def at(self, pointer: Val, offset: Val | int) -> Val:
        """The pointer `offset` bytes on."""
        index = offset.v if isinstance(offset, Val) else ir.Constant(I64, offset)
        return Val(self, self.b.gep(pointer.v, [index], source_etype=I8))

    def load(self, t: ir.Type, pointer: Val, offset: Val | int = 0, align: int = 1) -> Val:
        return Val(self, self.b.load(self.at(pointer, offset).v, typ=t, align=align))

    def store(self, value: Val, pointer: Val, offset: Val | int = 0, align: int = 1) -> None:
        self.b.store(value.v, self.at(pointer, offset).v, align=align)

    def load_acquire(self, pointer: Val) -> Val:
        """An int64 that another thread may write, and everything it wrote before."""
        return Val(self, self.b.load_atomic(pointer.v, "acquire", 8, typ=I64))

    def store_release(self, value: Val, pointer: Val) -> None:
        """Store an int64 after everything written so far."""
        self.b.fence("release")  # llvmlite's own atomic store does not know untyped pointers
        self.store(value, pointer, align=8)

    # --- control flow

    @contextmanager
    def loop(self, start: Val | int, stop: Val, step: int = 1) -> Iterator[Val]:
        """for i in range(start, stop, step); i has the type of `stop`."""
        t = stop.type
        first = start.v if isinstance(start, Val) else ir.Constant(t, start)
        before = self.b.block
        head = self.function.append_basic_block("head")
        inside = self.function.append_basic_block("inside")
        end = self.function.append_basic_block("end")
        self.b.branch(head)
        self.b.position_at_end(head)
        i = self.b.phi(t)
        i.add_incoming(first, before)
        self.b.cbranch(self.b.icmp_signed("<", i, stop.v), inside, end)
        self.b.position_at_end(inside)
        yield Val(self, i)
        i.add_incoming(self.b.add(i, ir.Constant(t, step)), self.b.block)
        self.b.branch(head)
        self.b.position_at_end(end)

    @contextmanager
    def repeat(self) -> Iterator[Callable[[Val], None]]:
        """An endless loop; what it gives is called once, early in the body, with the condition to go on."""
        again, end = (self.function.append_basic_block(name) for name in ("again", "over"))
        self.b.branch(again)
        self.b.position_at_end(again)

        def go_on(condition: Val) -> None:
            inside = self.function.append_basic_block("on")
            self.b.cbranch(condition.v, inside, end)
            self.b.position_at_end(inside)

        yield go_on
        self.b.branch(again)
        self.b.position_at_end(end)

    @contextmanager
    def when(self, condition: Val) -> Iterator[None]:
        """if condition: ..."""
        with self.b.if_then(condition.v):
            yield

    def either(self, condition: Val) -> Any:
        """if condition: ... else: ...; a context manager giving the two branches' context managers."""
        return self.b.if_else(condition.v)

    def call(self, function: ir.Function, args: Sequence[Val]) -> Val:
        return Val(self, self.b.call(function, [a.v for a in args]))


def internal_function(module: ir.Module, name: str, result: ir.Type, args: Sequence[ir.Type]) -> ir.Function:
    """A function of the module that only its other functions call."""
    function = ir.Function(module, ir.FunctionType(result, list(args)), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    return function
