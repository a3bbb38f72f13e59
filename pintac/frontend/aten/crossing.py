"""A value with points along two axes combines row i of the points with row j.

That is refused where it arises, whatever made it: broadcasting [N, 1] with [N], a transpose, an outer product. Sums and
means over points leave no such axis.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pintac.frontend.recorder import Recorder
from pintac.frontend.traced import GRADIENT_SHAPE, Traced, Unsupported
from pintac.ir import Node


def refuse_crossed_points(r: Recorder, nodes: Sequence[Node], values: Sequence[object]) -> None:
    """Raises Unsupported if one of the `nodes` that an operation made of `values` has points along two axes."""
    for node in nodes:
        if len(r.points.of(node)) > 1:
            raise _refusal(r, [value for value in values if isinstance(value, Tensor)], node.shape)


def refuse_crossed_constants(r: Recorder, values: Sequence[object], shape: tuple[int, ...]) -> None:
    """As above for an elementwise operation on points and on a constant or parameter with a row a point.

    What has as many rows as there are points is taken for that, unless a network is running, whose features may be as
    many: [N, 1] with [N]. A row [1, N] is one of features.
    """
    n = r.rows
    tensors = [value for value in values if isinstance(value, Tensor)]
    if n < 2 or r.in_network:
        return
    traced = [value for value in tensors if isinstance(value, Traced) and value.node is not None and value.on_points]
    at = {axis + len(shape) - t.ndim for t in traced if t.node is not None for axis in r.points.of(t.node)}
    for value in tensors:
        if any(value is t for t in traced) or value.ndim == 0 or value.shape[0] != n:
            continue
        own = len(shape) - value.ndim
        widened = all(t.ndim <= (back := value.ndim - 1) or t.shape[t.ndim - 1 - back] == 1 for t in traced)
        if widened and any(axis != own and (axis < own or value.shape[axis - own] == 1) for axis in at):
            raise _refusal(r, tensors, shape)


def _refusal(r: Recorder, tensors: Sequence[Tensor], shape: tuple[int, ...]) -> Unsupported:
    shapes = list(dict.fromkeys(str(list(tensor.shape)) for tensor in tensors if tensor.ndim))
    n, ranks = r.rows, {tensor.ndim for tensor in tensors if tensor.ndim}
    constant = any(not (isinstance(tensor, Traced) and tensor.on_points) for tensor in tensors if tensor.ndim)
    hint = f"keep columns: x[:, i:i+1] and sum(-1, keepdim=True) are [{n}, 1], x[:, i] and sum(-1) are [{n}]"
    if constant:
        hint += f"; a constant v [{n}] with one value a point is v[:, None], one of {n} features v[None, :]"
    elif len(ranks) == 1:
        hint = "a residual is computed point by point; sums and means over points are allowed: u(x).mean(0)"
    elif 3 in ranks:
        hint = GRADIENT_SHAPE
    made = f"the shapes {' and '.join(shapes)} broadcast to" if len(shapes) > 1 else f"the shape {shapes[0]} becomes"
    return Unsupported(f"{made} {list(shape)}: every point would be combined with every other", hint)
