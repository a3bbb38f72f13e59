"""ATen reductions: sums, means, extrema, norms, products."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from pintac.frontend.aten.structure import pick, shaped
from pintac.frontend.aten.table import Arguments, aten, rule
from pintac.frontend.traced import Unsupported
from pintac.ir import Node

if TYPE_CHECKING:
    from pintac.frontend.recorder import Recorder


def _axes(a: Arguments, rank: int) -> tuple[int, ...]:
    dims = a.get("dim")
    if dims is None or dims == []:
        return tuple(range(rank))
    return tuple(sorted({dim % max(rank, 1) for dim in ([dims] if isinstance(dims, int) else dims)})) if rank else ()


@rule(aten.sum)
def _sum(r: Recorder, a: Arguments, result: Tensor) -> Node:
    node = r.node(a["self"])
    return r.builder.sum(node, _axes(a, len(node.shape)), bool(a.get("keepdim", False)))


@rule(aten.mean)
def _mean(r: Recorder, a: Arguments, result: Tensor) -> Node:
    node = r.node(a["self"])
    axes = _axes(a, len(node.shape))
    total = r.builder.sum(node, axes, bool(a.get("keepdim", False)))
    return r.builder.mul(total, 1.0 / math.prod(node.shape[axis] for axis in axes))


@rule(aten.amax)
def _amax(r: Recorder, a: Arguments, result: Tensor) -> Node:
    node = r.node(a["self"])
    return r.builder.amax(node, _axes(a, len(node.shape)), bool(a["keepdim"]))


@rule(aten.amin)
def _amin(r: Recorder, a: Arguments, result: Tensor) -> Node:
    node = r.node(a["self"])
    return r.builder.neg(r.builder.amax(r.builder.neg(node), _axes(a, len(node.shape)), bool(a["keepdim"])))


@rule(aten.linalg_vector_norm)
def _norm(r: Recorder, a: Arguments, result: Tensor) -> Node:
    node, b = r.node(a["self"]), r.builder
    axes, keep = _axes(a, len(node.shape)), bool(a["keepdim"])
    if a["ord"] == 1:
        return b.sum(b.abs(node), axes, keep)
    if a["ord"] != 2:
        raise Unsupported(f"a norm of order {a['ord']}", "orders 1 and 2 are supported")
    return b.sqrt(b.sum(b.mul(node, node), axes, keep))


@rule(aten.prod)
def _prod(r: Recorder, a: Arguments, result: Tensor) -> Node:
    node = r.node(a["self"])
    if a.get("dim") is None or node.shape[a["dim"] % len(node.shape)] > 64:
        raise Unsupported("a product over all elements or over more than 64", "multiply slices")
    axis = a["dim"] % len(node.shape)
    parts = [pick(r, node, axis, [i]) for i in range(node.shape[axis])]
    total = parts[0]
    for part in parts[1:]:
        total = r.builder.mul(total, part)
    return shaped(r, total, result.shape)
