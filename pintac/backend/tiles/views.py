"""Strides: how a value lies in a buffer, what a view op does to it, and how it collapses into an instruction."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pintac.backend.tiles.tile import Buffer, IndexView, View
from pintac.errors import IRError
from pintac.ir import Node
from pintac.ir.attrs import integer, ints

V = TypeVar("V", bound=View | IndexView)


def compact_strides(shape: Sequence[int], bits: int, padded: bool = False) -> tuple[int, ...]:
    """Strides of a tensor laid out row-major: elements (fp32), or blocks over the last two axes (SMX).

    `padded`: fp32 rows are padded to whole blocks at every leading index.
    """
    if not bits:
        if padded:
            shape = (*shape[:-2], -(-shape[-2] // 4) * 4, shape[-1])
        return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    rows, cols = -(-shape[-2] // 4), -(-shape[-1] // 4)
    lead = tuple(rows * cols * math.prod(shape[i + 1 : -2]) for i in range(len(shape) - 2))
    return (*lead, cols, 1)


def compact_size(shape: Sequence[int], bits: int, padded: bool = False) -> int:
    """Elements or blocks of a tensor laid out row-major (`padded` as in `compact_strides`)."""
    if not bits:
        return math.prod(shape) if not padded else math.prod(shape[:-2]) * -(-shape[-2] // 4) * 4 * shape[-1]
    return math.prod(shape[:-2]) * -(-shape[-2] // 4) * -(-shape[-1] // 4)


def compact_view(buffer: Buffer, shape: Sequence[int]) -> View:
    """The whole buffer as a row-major tensor."""
    return View(buffer, tuple(shape), compact_strides(shape, buffer.bits, buffer.padded))


def narrow(view: V, axis: int, start: int, size: int, step: tuple[int, int] | None = None) -> V:
    """Rows start..start+size of an axis; `step` = (loop level, rows one iteration moves on)."""
    if start < 0 or start + size > view.shape[axis]:
        raise AssertionError(f"rows {start} to {start + size} of axis {axis} of {view}")
    if start == 0 and size == view.shape[axis] and (step is None or not step[1]):
        return view
    stride = view.strides[axis]
    units = (lambda n: n * stride) if not _in_blocks(view, axis) else (lambda n: n // 4 * stride)
    if _in_blocks(view, axis) and (start % 4 or (step is not None and step[1] % 4)):
        raise AssertionError(f"{view} cut off a block boundary")
    shape = (*view.shape[:axis], size, *view.shape[axis + 1 :])
    steps = view.steps
    if step is not None and step[1] and stride:
        merged = dict(steps)
        merged[step[0]] = merged.get(step[0], 0) + units(step[1])
        steps = tuple(sorted(merged.items()))
    return replace(view, shape=shape, offset=view.offset + units(start), steps=steps)


def _in_blocks(view: View | IndexView, axis: int) -> bool:
    return bool(view.bits) and axis >= len(view.shape) - 2


def apply(node: Node, view: View, shape: tuple[int, ...]) -> View:
    """The view of `node` (a reshape, permute, slice, broadcast or decode) given that of its operand.

    `shape` is the result's shape with the extents at hand (a tile's, not the whole tensor's).
    """
    if node.op == "decode":
        return view
    if node.op == "permute":
        perm = ints(node.attrs, "perm")
        return replace(view, shape=tuple(view.shape[p] for p in perm), strides=tuple(view.strides[p] for p in perm))
    if node.op == "slice":
        axis, start = integer(node.attrs, "axis"), integer(node.attrs, "start")
        return narrow(view, axis, start, shape[axis])
    if node.op == "broadcast":
        return broadcast(view, shape)
    if node.op == "reshape":
        strides = reshape_strides(view, shape)
        if strides is None:
            raise IRError(
                f"%{node.name}: this reshape of a strided value needs a copy the backend does not make",
                location=node.loc,
                hint="reshape before permuting or slicing",
            )
        return replace(view, shape=shape, strides=strides)
    raise AssertionError(node.op)


def broadcast(view: V, shape: tuple[int, ...]) -> V:
    """The view repeated to `shape`: axes of size 1, and missing leading ones, get stride 0.

    Values fused across reshapes may have other leading axes of size 1 than `shape`; those are matched by position.
    """
    if view.shape == shape:
        return view
    have = list(zip(view.shape, view.strides, strict=True))
    if len(have) != len(shape) or any(h not in (1, w) for (h, _), w in zip(have, shape, strict=True)):
        tail = have[-2:]
        lead = [(n, st) for n, st in have[:-2] if n != 1]
        wanted = len(shape) - len(tail)
        full = [(1, 0)] * wanted
        for axis in reversed(range(wanted)):
            if lead and (lead[-1][0] == shape[axis]):
                full[axis] = lead.pop()
        if lead:
            raise AssertionError(f"{view} does not broadcast to {shape}")
        have = full + tail
    if view.bits and [h for h, _ in have[-2:]] != list(shape[-2:]):
        raise AssertionError(f"{view}: rows or columns of blocks cannot be repeated to {shape}")
    strides = tuple(0 if h == 1 and w != 1 else st for (h, st), w in zip(have, shape, strict=True))
    return replace(view, shape=shape, strides=strides)


def reshape_strides(view: View | IndexView, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Strides of a reshape that moves no data; None when there are none."""
    if math.prod(shape) != math.prod(view.shape):
        raise AssertionError(f"reshape of {view.shape} to {shape}")
    if view.bits:
        same = [s for s in view.shape[:-2] if s != 1] == [s for s in shape[:-2] if s != 1]
        if not same or view.shape[-2:] != shape[-2:]:
            return None
        kept = iter([st for s, st in zip(view.shape[:-2], view.strides[:-2], strict=True) if s != 1])
        return (*(next(kept) if s != 1 else 0 for s in shape[:-2]), *view.strides[-2:])
    old = [(s, st) for s, st in zip(view.shape, view.strides, strict=True) if s != 1]
    out = [0] * len(shape)
    i = 0
    j = 0
    while j < len(shape):
        if shape[j] == 1:
            j += 1
            continue
        if i >= len(old):
            return None
        i2, j2, have, want = i + 1, j + 1, old[i][0], shape[j]
        while have != want:
            if have < want:
                if i2 >= len(old):
                    return None
                have *= old[i2][0]
                i2 += 1
            else:
                want *= shape[j2]
                j2 += 1
        for a in range(i, i2 - 1):
            if old[a][1] != old[a + 1][0] * old[a + 1][1]:
                return None
        stride = old[i2 - 1][1]
        for b in range(j2 - 1, j - 1, -1):
            out[b] = stride if shape[b] != 1 else 0
            stride *= shape[b]
        i, j = i2, j2
    return tuple(out)


@dataclass(frozen=True)
class Operand:
    """What collapsing must respect: strides, whether they count blocks, whether rows are folded (a reduction)."""

    strides: tuple[int, ...]
    bits: int = 0
    folds_rows: bool = False


def collapse(shape: tuple[int, ...], operands: Sequence[Operand]) -> list[list[int]]:
    """Groups of axes that can be one axis for all operands; the last group is the columns, the one before the rows.

    Leading axes of size 1 disappear (an empty group list entry never occurs).
    """
    rank = len(shape)
    lead = [axis for axis in range(rank - 2) if shape[axis] != 1]
    groups: list[list[int]] = [[rank - 2], [rank - 1]]
    for axis in reversed(lead):
        head = groups[0]
        inner_size = math.prod(shape[i] for i in head)
        if inner_size == 1 and not any(o.bits or o.folds_rows for o in operands):
            groups[0] = [axis]
            continue
        pair = (shape[axis], inner_size)
        ok = True
        for operand in operands:
            is_rows = len(groups) == 2
            stride = operand.strides[axis]
            innermost = operand.strides[head[-1]]
            ok = ok and _joins(operand, stride, innermost, pair, is_rows)
        if ok:
            groups[0] = [axis, *head]
        else:
            groups.insert(0, [axis])
    return groups


def _joins(operand: Operand, outer: int, inner: int, sizes: tuple[int, int], is_rows: bool) -> bool:
    if operand.folds_rows and outer == inner == 0:
        return not is_rows or sizes[1] % 4 == 0
    if operand.bits and is_rows:
        return sizes[1] % 4 == 0 and outer == sizes[1] // 4 * inner
    return outer == sizes[1] * inner


def column_parts(columns: int, count: int) -> list[tuple[int, int]]:
    """(first column, columns) of at most `count` parts: alike, and whole blocks."""
    width = -(-columns // count // 4) * 4
    return [(at, min(width, columns - at)) for at in range(0, columns, width)]


def row_blocks(a: View, d: View) -> Iterator[tuple[View, View, int]]:
    """Both operands as matrices with the same rows: whole where leading axes merge, else one matrix after another.

    Rows between the last of one leading index and the next block are zeros in SMX tensors, and what they lead to in
    fp32 ones is not read: they can be part of the matrix.
    """
    lead = a.shape[:-2]
    rows = a.shape[-2]
    groups = math.prod(lead)
    apart = -(-rows // 4) * 4 if a.bits or d.bits else rows  # from one leading index to the next

    def merged(v: View) -> bool:
        if groups == 1:
            return True
        strides = v.strides
        unit = apart // 4 * strides[-2] if v.bits else apart * strides[-2]
        for axis in range(len(lead) - 1, -1, -1):
            if v.shape[axis] != 1:
                if strides[axis] != unit:
                    return False
                unit *= v.shape[axis]
        return True

    if merged(a) and merged(d):
        whole = (groups - 1) * apart + rows
        yield _matrix(a, whole, 0), _matrix(d, whole, 0), whole
        return
    for index in range(groups):
        yield _matrix(a, rows, _offset(a, index)), _matrix(d, rows, _offset(d, index)), rows


def _offset(v: View, index: int) -> int:
    offset = 0
    for axis in range(len(v.shape) - 3, -1, -1):
        index, i = divmod(index, v.shape[axis])
        offset += i * v.strides[axis]
    return offset


def _matrix(v: View, rows: int, offset: int) -> View:
    return replace(v, shape=(rows, v.shape[-1]), strides=v.strides[-2:], offset=v.offset + offset)
