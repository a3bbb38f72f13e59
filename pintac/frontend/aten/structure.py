"""ATen operations that move elements: shapes, slices, indices, concatenation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pintac.frontend.aten.table import Arguments, aten, rule
from pintac.frontend.recorder import Recorder
from pintac.frontend.traced import Traced, Unsupported
from pintac.ir import Node


def shaped(r: Recorder, node: Node, shape: Sequence[int]) -> Node:
    """The node in another shape. A reshape of a reshape is one, so that detours over flat rows leave no trace."""
    wanted = tuple(shape)
    while node.op == "reshape" and node.shape != wanted:
        node = node.operands[0]
    return node if node.shape == wanted else r.builder.reshape(node, wanted)


@rule(aten.view, aten._unsafe_view, aten.unsqueeze, aten.squeeze)
def _reshape(r: Recorder, a: Arguments, result: Tensor) -> Node:
    return shaped(r, r.node(a["self"]), result.shape)


@rule(aten.expand)
def _expand(r: Recorder, a: Arguments, result: Tensor) -> Node:
    node = r.node(a["self"])
    return node if node.shape == tuple(result.shape) else r.builder.broadcast(node, tuple(result.shape))


def _permuted(r: Recorder, value: object, perm: Sequence[int]) -> Node:
    if list(perm) == list(range(len(perm))):
        return r.node(value)
    if tuple(perm) == (1, 0):
        return r.transposed(value)
    node = r.node(value)
    moved = [axis for axis in perm if node.shape[axis] != 1]
    if moved == sorted(moved):  # only dimensions of size 1 move: the elements stay where they are
        return shaped(r, node, [node.shape[axis] for axis in perm])
    return r.builder.permute(node, tuple(perm))


@rule(aten.t)
def _t(r: Recorder, a: Arguments, result: Tensor) -> Node:
    return _permuted(r, a["self"], tuple(reversed(range(result.ndim))))


@rule(aten.transpose)
def _transpose(r: Recorder, a: Arguments, result: Tensor) -> Node:
    perm = list(range(result.ndim))
    i, j = a["dim0"] % result.ndim, a["dim1"] % result.ndim
    perm[i], perm[j] = perm[j], perm[i]
    return _permuted(r, a["self"], perm)


@rule(aten.permute)
def _permute(r: Recorder, a: Arguments, result: Tensor) -> Node:
    return _permuted(r, a["self"], [dim % result.ndim for dim in a["dims"]])


def _cut(r: Recorder, node: Node, axis: int, start: int, stop: int) -> Node:
    """A slice; of what was put together ahead of the points, as torch.stack([...]) does, it is a part."""
    if (start, stop) == (0, node.shape[axis]):
        return node
    if node.op == "concat" and node.attrs["axis"] == axis and any(axis < at for at in r.points.of(node)):
        at = 0
        for part in node.operands:
            if (start, stop) == (at, at + part.shape[axis]):
                return part
            at += part.shape[axis]
    return r.builder.slice(node, axis, start, stop)


def pick(r: Recorder, node: Node, axis: int, indices: Sequence[int]) -> Node:
    """Entries of an axis in a constant order: slices of consecutive runs, concatenated."""
    size = node.shape[axis]
    wanted = [index % size for index in indices]
    runs: list[list[int]] = []
    for index in wanted:
        if runs and runs[-1][1] == index:
            runs[-1][1] += 1
        else:
            runs.append([index, index + 1])
    if len(runs) > 64:
        raise Unsupported(
            f"a selection of {len(runs)} separate entries",
            "select consecutive entries, or multiply by a constant matrix",
        )
    parts = [_cut(r, node, axis, start, stop) for start, stop in runs]
    return parts[0] if len(parts) == 1 else r.builder.concat(parts, axis)


@rule(aten.slice)
def _slice(r: Recorder, a: Arguments, result: Tensor) -> Node:
    node, axis = r.node(a["self"]), a["dim"] % result.ndim
    start, stop, step = slice(a["start"], a["end"], a["step"]).indices(node.shape[axis])
    return pick(r, node, axis, range(start, stop, step))


@rule(aten.select)
def _select(r: Recorder, a: Arguments, result: Tensor) -> Node:
    node = r.node(a["self"])
    axis = a["dim"] % len(node.shape)
    return shaped(r, pick(r, node, axis, [a["index"]]), result.shape)


def _constant_indices(r: Recorder, index: Tensor) -> list[int]:
    if isinstance(index, Traced) or r.parameter_name(index) is not None:
        raise Unsupported("indexing with computed indices", "use torch.where(condition, a, b)")
    if index.dtype == torch.bool:
        return [i for i, chosen in enumerate(index.tolist()) if chosen]
    return [int(i) for i in index.reshape(-1).tolist()]


@rule(aten.index)
def _index(r: Recorder, a: Arguments, result: Tensor) -> Node:
    node = r.node(a["self"])
    used = [(axis, index) for axis, index in enumerate(a["indices"]) if index is not None]
    if any(index.ndim != 1 for _, index in used):
        raise Unsupported("indexing with an index tensor of several dimensions", "index one dimension after the other")
    if len(used) == 1:
        return pick(r, node, used[0][0], _constant_indices(r, used[0][1]))
    axes = [axis for axis, _ in used]
    if axes != list(range(axes[0], axes[0] + len(axes))):
        raise Unsupported(
            "indexing dimensions apart from each other at once", "index one after the other, or move them together"
        )
    chosen = [_constant_indices(r, index) for _, index in used]
    count = max(map(len, chosen))
    return _entries(r, node, axes, list(zip(*(c * count if len(c) == 1 else c for c in chosen), strict=True)), axes[0])


def _entries(r: Recorder, node: Node, axes: Sequence[int], entries: Sequence[Sequence[int]], at: int) -> Node:
    """Entries of several axes at once, side by side along one axis in place of them: number `at` of the others."""
    if len(entries) > 64:
        raise Unsupported(f"a selection of {len(entries)} separate entries", "multiply by a constant matrix")
    rest = [size for axis, size in enumerate(node.shape) if axis not in axes]
    parts = []
    for entry in entries:
        part = node
        for axis, index in zip(axes, entry, strict=True):
            part = pick(r, part, axis, [index])
        parts.append(shaped(r, part, [*rest[:at], 1, *rest[at:]]))
    return parts[0] if len(parts) == 1 else r.builder.concat(parts, at)


@rule(aten.diagonal)
def _diagonal(r: Recorder, a: Arguments, result: Tensor) -> Node:
    node = r.node(a["self"])
    i, j = a["dim1"] % len(node.shape), a["dim2"] % len(node.shape)
    down, right = max(0, -a["offset"]), max(0, a["offset"])
    return _entries(r, node, (i, j), [(down + k, right + k) for k in range(result.shape[-1])], result.ndim - 1)


@rule(aten.index_select)
def _index_select(r: Recorder, a: Arguments, result: Tensor) -> Node:
    node = r.node(a["self"])
    return pick(r, node, a["dim"] % len(node.shape), _constant_indices(r, a["index"]))


@rule(aten.unbind)
def _unbind(r: Recorder, a: Arguments, result: Sequence[Tensor]) -> list[Node]:
    node = r.node(a["self"])
    axis = a["dim"] % len(node.shape)
    return [shaped(r, pick(r, node, axis, [i]), part.shape) for i, part in enumerate(result)]


@rule(aten.split, aten.split_with_sizes)
def _split(r: Recorder, a: Arguments, result: Sequence[Tensor]) -> list[Node]:
    node, start, parts = r.node(a["self"]), 0, []
    axis = a["dim"] % len(node.shape)
    for part in result:
        parts.append(_cut(r, node, axis, start, start + part.shape[axis]))
        start += part.shape[axis]
    return parts


@rule(aten.cat)
def _cat(r: Recorder, a: Arguments, result: Tensor) -> Node:
    parts = [r.node(part) for part in a["tensors"] if part.numel()]
    return parts[0] if len(parts) == 1 else r.builder.concat(parts, a["dim"] % result.ndim)


@rule(aten.stack)
def _stack(r: Recorder, a: Arguments, result: Tensor) -> Node:
    axis = a["dim"] % result.ndim
    shape = [1 if i == axis else size for i, size in enumerate(result.shape)]
    return r.builder.concat([r.builder.reshape(r.node(part), shape) for part in a["tensors"]], axis)


@rule(aten.repeat)
def _repeat(r: Recorder, a: Arguments, result: Tensor) -> Node:
    node = r.node(a["self"])
    node = shaped(r, node, (1,) * (result.ndim - len(node.shape)) + node.shape)
    for axis, times in enumerate(a["repeats"]):
        if times > 1:
            shape = tuple(size * (times if i == axis else 1) for i, size in enumerate(node.shape))
            node = r.builder.broadcast(node, shape) if node.shape[axis] == 1 else r.builder.concat([node] * times, axis)
    return node


@rule(aten.flip)
def _flip(r: Recorder, a: Arguments, result: Tensor) -> Node:
    node = r.node(a["self"])
    for dim in a["dims"]:
        node = pick(r, node, dim % result.ndim, range(node.shape[dim % result.ndim])[::-1])
    return node


@rule(aten.roll)
def _roll(r: Recorder, a: Arguments, result: Tensor) -> Node:
    node = r.node(a["self"])
    if not a["dims"]:
        raise Unsupported("torch.roll without dims", "give dims=")
    for shift, dim in zip(a["shifts"], a["dims"], strict=True):
        size = node.shape[dim % result.ndim]
        node = pick(r, node, dim % result.ndim, [(i - shift) % size for i in range(size)])
    return node


@rule(aten.constant_pad_nd)
def _pad(r: Recorder, a: Arguments, result: Tensor) -> Node:
    if a["value"] != 0:
        raise Unsupported("padding with a value other than 0", "torch.cat with torch.full")
    node = r.node(a["self"])
    for k in range(len(a["pad"]) // 2):
        node = r.builder.pad(node, len(node.shape) - 1 - k, a["pad"][2 * k], a["pad"][2 * k + 1])
    return node
