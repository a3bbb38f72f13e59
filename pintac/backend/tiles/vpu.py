"""VPU operations from strided views: collapse the axes, unroll what an instruction cannot address."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from pintac import isa
from pintac.backend.tiles.tile import IndexView, Kernel, KernelSink, View, VpuOp
from pintac.backend.tiles.views import Operand, broadcast, collapse, reshape_strides
from pintac.backend.ways import WayError
from pintac.errors import IRError
from pintac.ir import Location
from pintac.isa import Sink

V = TypeVar("V", View, IndexView, View | IndexView)

FOLDS_ROWS = {Sink.SUM_ROWS, Sink.SUM_ALL, Sink.MAX_ROWS, Sink.MAX_ALL}
FOLDS_COLS = {Sink.SUM_COLS, Sink.SUM_ALL, Sink.MAX_COLS, Sink.MAX_ALL}
COPY = Kernel((), 1, (), (), (KernelSink(Sink.WRITE, ("src", 0)),))


def fill(value: float, target: View, name: str, loc: Location) -> VpuOp:
    """Write one value everywhere in `target`."""
    kernel = Kernel((), 0, (isa.float_bits(value),), (), (KernelSink(Sink.WRITE, ("imm", 0)),))
    return operation(kernel, _two_axes(target.shape), [], [target], name, loc)


def copy(source: View, target: View, name: str, loc: Location) -> VpuOp:
    """Copy fp32 (or decode SMX) `source` into `target` of the same shape."""
    return operation(COPY, _two_axes(target.shape), [source], [target], name, loc)


def _two_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1,) * (2 - len(shape)) + tuple(shape)


def operation(
    kernel: Kernel,
    shape: tuple[int, ...],
    sources: Sequence[View | IndexView],
    sinks: Sequence[View],
    name: str,
    loc: Location,
) -> VpuOp:
    """The operation that runs `kernel` over `shape` (at least two axes).

    Sources and sinks broadcast against `shape`; a reduction's sink has size 1 where it folds. It is more than one
    instruction where axes cannot be merged into (row groups, rows, columns); reductions over such rows
    accumulate, in row-major order (NUMERICS 3), so their sinks must hold a start value.
    """
    shape = _two_axes(shape)
    ins: list[View | IndexView] = [broadcast(v, shape) for v in sources]
    outs = [_sink_view(v, shape, s) for v, s in zip(sinks, kernel.sinks, strict=True)]
    if not any(v.bits for v in (*ins, *outs)):
        order = _folded_last(shape, outs, kernel)
        shape, ins, outs = tuple(shape[a] for a in order), _ordered(ins, order), _ordered(outs, order)
    operands = [Operand(v.strides, v.bits if isinstance(v, View) else 0) for v in ins]
    operands += [
        Operand(v.strides, v.bits, folds_rows=s.kind in FOLDS_ROWS) for v, s in zip(outs, kernel.sinks, strict=True)
    ]
    groups = collapse(shape, operands)
    any_smx = any(o.bits for o in operands)
    keep = 3 if not any_smx and _groupable(groups, shape, outs, kernel) else 2
    unrolled = groups[: max(0, len(groups) - keep)]
    axes = groups[len(unrolled) :]
    sizes = tuple(math.prod(shape[a] for a in g) for g in axes)
    _check_size(sizes, name, loc)
    kinds = []
    for sink, view in zip(kernel.sinks, outs, strict=True):
        kind = sink
        if sink.kind in FOLDS_ROWS:
            kind = replace(sink, group=_group(view, axes, sizes))
            if not sink.accumulate and any(view.strides[g[-1]] == 0 for g in unrolled):
                raise AssertionError(f"{name}: an unrolled reduction must accumulate")
        kinds.append(kind)
    whole = tuple(math.prod(shape[a] for a in g) for g in groups)

    def collapsed(view: V) -> V:
        return replace(view, shape=whole, strides=tuple(view.strides[g[-1]] for g in groups))

    ins, outs = [collapsed(v) for v in ins], [collapsed(v) for v in outs]
    return VpuOp(name, loc, replace(kernel, sinks=tuple(kinds)), whole, tuple(ins), tuple(outs), len(unrolled))


def _check_size(sizes: tuple[int, ...], name: str, loc: Location) -> None:
    if math.prod(sizes[:-1]) > 65535 or sizes[-1] > 65535:
        raise WayError(f"{name}: a tile of {sizes} elements is larger than an instruction", location=loc)


def _folded_last(shape: tuple[int, ...], outs: Sequence[View], kernel: Kernel) -> list[int]:
    """The axes with the innermost of those that a row reduction folds as the rows: groups of four are along it.

    (NUMERICS 3. Up to three values have one sum, whichever way they are added. Where the rows are one it is they that
    are folded.)
    """
    last = len(shape) - 1
    sums = [v for v, s in zip(outs, kernel.sinks, strict=True) if s.kind in FOLDS_ROWS]
    folded = [a for a in range(last) if shape[a] > 1 and any(v.strides[a] == 0 for v in sums)]
    if not folded or shape[folded[-1]] < 4 or shape[last - 1] == 1:
        return list(range(last + 1))
    return [*(a for a in range(last) if a != folded[-1]), folded[-1], last]


def _ordered(views: Sequence[V], axes: Sequence[int]) -> list[V]:
    return [
        replace(v, shape=tuple(v.shape[a] for a in axes), strides=tuple(v.strides[a] for a in axes)) for v in views
    ]


def packed_operation(
    kernel: Kernel,
    shape: tuple[int, ...],
    sources: Sequence[View | IndexView],
    sinks: Sequence[View],
    name: str,
    loc: Location,
) -> VpuOp:
    """The operation that runs `kernel` over `shape`, all of whose rows are packed in SMX operands (`pack-rows`).

    These have one axis of rows; every fp32 operand has one or two levels of them, of its own.
    """
    ins, outs = [_with_rows(v, shape) for v in sources], [_with_rows(v, shape) for v in sinks]
    rows = math.prod(shape[:-1])
    if rows == shape[-2] or not any(v.bits for v in (*ins, *outs)):
        return operation(kernel, shape, ins, outs, name, loc)
    _check_size(shape, name, loc)
    ins, outs = [_leveled(v, shape, name, loc) for v in ins], [_leveled(v, shape, name, loc) for v in outs]
    kinds = [
        replace(s, group=v.shape[1] if s.kind in FOLDS_ROWS and len(v.shape) == 3 else 0)
        for s, v in zip(kernel.sinks, outs, strict=True)
    ]
    return VpuOp(name, loc, replace(kernel, sinks=tuple(kinds)), (rows, shape[-1]), tuple(ins), tuple(outs))


def _with_rows(view: V, shape: tuple[int, ...]) -> V:
    """A fp32 view of all rows of `shape`, in the axes that they have there."""
    rows: tuple[int, ...] = shape[:-1]
    if view.bits or view.shape[:-1] == rows or math.prod(view.shape[:-1]) != math.prod(rows):
        return view
    wanted = (*rows, view.shape[-1])
    strides = reshape_strides(view, wanted)
    assert strides is not None, (view, shape)
    return replace(view, shape=wanted, strides=strides)


def _leveled(view: V, shape: tuple[int, ...], name: str, loc: Location) -> V:
    """The view over (rows, columns), or over (row groups, rows, columns) where it needs two levels of rows."""
    if view.bits:
        assert view.shape == (math.prod(shape[:-1]), shape[-1]), (view, shape)
        return view
    wide = broadcast(view, shape)
    levels: list[tuple[int, int]] = []
    for size, stride in zip(reversed(shape[:-1]), reversed(wide.strides[:-1]), strict=True):
        if levels and stride == levels[0][0] * levels[0][1]:
            levels[0] = (size * levels[0][0], levels[0][1])
        elif size > 1:
            levels.insert(0, (size, stride))
    if len(levels) > 2:
        raise IRError(
            f"{name}: packed rows are read along more than two axes",
            location=loc,
            hint="leave the rows of points apart: --rows apart",
        )
    sizes: tuple[int, ...] = tuple(size for size, _ in levels)
    return replace(view, shape=(*sizes, shape[-1]), strides=(*(stride for _, stride in levels), wide.strides[-1]))


def folded_axes(op: VpuOp) -> list[int]:
    """Unrolled axes along which instructions add to the same sums, one after the other."""
    sums = [v for v, s in zip(op.sinks, op.kernel.sinks, strict=True) if s.kind in FOLDS_ROWS]
    return [a for a in range(op.unrolled) if op.shape[a] > 1 and any(v.strides[a] == 0 for v in sums)]


def instructions(op: VpuOp) -> Iterator[VpuOp]:
    """The operation as instructions: without unrolled axes.

    What adds to the same sum keeps its order but lies as far apart as can be: a sum that is still written has to be
    waited for.
    """
    folded = folded_axes(op)
    axes = [*folded, *(a for a in range(op.unrolled) if a not in folded)]
    for counts in itertools.product(*(range(op.shape[a]) for a in axes)):
        index = tuple(i for _, i in sorted(zip(axes, counts, strict=True)))

        def at(view: V, index: tuple[int, ...] = index) -> V:
            offset = view.offset + sum(i * stride for i, stride in zip(index, view.strides, strict=False))
            return replace(view, shape=view.shape[len(index) :], strides=view.strides[len(index) :], offset=offset)

        sources, sinks = tuple(map(at, op.sources)), tuple(map(at, op.sinks))
        yield replace(op, shape=op.shape[op.unrolled :], sources=sources, sinks=sinks, unrolled=0)


def folds_whole(op: VpuOp, sink: int) -> bool:
    """Whether each instruction alone makes what it writes to a reduction's sink."""
    return all(n == 1 or s for n, s in zip(op.shape[: op.unrolled], op.sinks[sink].strides, strict=False))


def without_start(op: VpuOp, sink: int) -> VpuOp:
    """The instruction with a reduction that begins by itself, not from what its sink holds."""
    sinks = list(op.kernel.sinks)
    sinks[sink] = replace(sinks[sink], accumulate=False)
    return replace(op, kernel=replace(op.kernel, sinks=tuple(sinks)))


def _sink_view(view: View, shape: tuple[int, ...], sink: KernelSink) -> View:
    """The sink over the kernel's axes: stride 0 on folded ones."""
    if sink.kind == Sink.WRITE and math.prod(view.shape) != math.prod(shape):
        raise AssertionError(f"a sink of {view.shape} for a kernel over {shape}")
    return broadcast(view, shape)


def _group(view: View, axes: list[list[int]], sizes: tuple[int, ...]) -> int:
    """Rows that a row reduction folds into one: all (0), those of a group, or one where only loops fold."""
    if view.strides[axes[-2][-1]] != 0 and sizes[-2] > 1:
        return 1
    return sizes[1] if len(axes) == 3 and view.strides[axes[0][-1]] != 0 else 0


def _groupable(groups: list[list[int]], shape: tuple[int, ...], outs: Sequence[View], kernel: Kernel) -> bool:
    """Whether three axes can stay: row groups must be addressable by every sink."""
    if len(groups) < 3:
        return False
    head, rows = groups[-3], groups[-2]
    size = math.prod(shape[a] for a in rows)
    for view, sink in zip(outs, kernel.sinks, strict=True):
        high, low = view.strides[head[-1]], view.strides[rows[-1]]
        if sink.kind in FOLDS_ROWS and (high == 0 or sink.kind in FOLDS_COLS):
            return False  # the fold runs across groups whose size is no multiple of 4, or makes one element only
        if sink.kind in (Sink.SUM_COLS, Sink.MAX_COLS) and high != size * low:
            return False
    return True
