"""ATen reductions: sums, means, extrema, norms, products."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pintac.frontend.aten.structure import pick, shaped
from pintac.frontend.aten.table import ADVICE, Arguments, aten, rule
from pintac.frontend.recorder import Recorder
from pintac.frontend.traced import Unsupported
from pintac.ir import Builder, Node


def _axes(a: Arguments, rank: int) -> tuple[int, ...]:
    dims = a.get("dim")
    if dims is None or dims == []:
        return tuple(range(rank))
    return tuple(sorted({dim % max(rank, 1) for dim in ([dims] if isinstance(dims, int) else dims)})) if rank else ()


def _outside_points(r: Recorder, node: Node, axes: tuple[int, ...]) -> bool:
    """Whether one axis of few entries is reduced that stands before the points, as after torch.stack([...]).

    It is taken apart again: points are the first axis of whatever is evaluated at perturbed points.
    """
    return len(axes) == 1 and node.shape[axes[0]] <= 64 and any(axis > axes[0] for axis in r.points.of(node))


def _each(r: Recorder, node: Node, axis: int, combine: Callable[[Node, Node], Node], shape: Sequence[int]) -> Node:
    """The entries of an axis, combined one after the other."""
    parts = [shaped(r, pick(r, node, axis, [i]), shape) for i in range(node.shape[axis])]
    return functools.reduce(combine, parts)


@rule(aten.sum)
def _sum(r: Recorder, a: Arguments, result: Tensor) -> Node:
    node = r.node(a["self"])
    axes = _axes(a, len(node.shape))
    if _outside_points(r, node, axes):
        return _each(r, node, axes[0], r.builder.add, result.shape)
    return r.builder.sum(node, _axes(a, len(node.shape)), bool(a.get("keepdim", False)))


@rule(aten.mean)
def _mean(r: Recorder, a: Arguments, result: Tensor) -> Node:
    node = r.node(a["self"])
    axes = _axes(a, len(node.shape))
    if _outside_points(r, node, axes):
        return r.builder.mul(_each(r, node, axes[0], r.builder.add, result.shape), 1.0 / node.shape[axes[0]])
    return _average(r.builder, node, axes, bool(a.get("keepdim", False)))


def _average(b: Builder, node: Node, axes: tuple[int, ...], keep: bool) -> Node:
    return b.mul(b.sum(node, axes, keep), 1.0 / math.prod(node.shape[axis] for axis in axes))


def _length(b: Builder, node: Node, axes: tuple[int, ...], keep: bool) -> Node:
    return b.sqrt(b.sum(b.mul(node, node), axes, keep))


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
    return _length(b, node, axes, keep)


@rule(aten._softmax)
def _softmax(r: Recorder, a: Arguments, result: Tensor) -> Node:
    """Good for values up to 88: the largest is not subtracted, as it is another one at the perturbed points."""
    node = r.node(a["self"])
    powers = r.builder.exp(node)
    return r.builder.div(powers, r.builder.sum(powers, _axes(a, len(node.shape)), True))


@rule(aten._log_softmax)
def _log_softmax(r: Recorder, a: Arguments, result: Tensor) -> Node:
    node = r.node(a["self"])
    total = r.builder.sum(r.builder.exp(node), _axes(a, len(node.shape)), True)
    return r.builder.sub(node, r.builder.log(total))


@rule(aten.native_layer_norm)
def _layer_norm(r: Recorder, a: Arguments, result: list[Tensor]) -> list[Node]:
    """The normalised values, their means and the reciprocals of their deviations."""
    b, x = r.builder, r.node(a["input"])
    axes = tuple(range(len(x.shape) - len(a["normalized_shape"]), len(x.shape)))
    mean = _average(b, x, axes, True)
    centred = b.sub(x, mean)
    deviation = b.sqrt(b.add(_average(b, b.mul(centred, centred), axes, True), float(a["eps"])))
    y = b.div(centred, deviation)
    y = y if a["weight"] is None else b.mul(y, r.node(a["weight"]))
    y = y if a["bias"] is None else b.add(y, r.node(a["bias"]))
    return [y, mean, b.div(1.0, deviation)]


@rule(aten.native_batch_norm)
def _batch_norm(r: Recorder, a: Arguments, result: list[Tensor]) -> list[Node]:
    """In evaluation mode: columns scaled by constants. Also the means and the reciprocals of the deviations."""
    if a["training"]:
        raise Unsupported("torch.native_batch_norm with the statistics of a batch", ADVICE["batch_norm"])
    b, x = r.builder, r.node(a["input"])
    columns = (x.shape[1], *[1] * (len(x.shape) - 2))
    mean, scale = r.node(a["running_mean"]), r.node(torch.rsqrt(a["running_var"] + a["eps"]))
    y = b.mul(b.sub(x, shaped(r, mean, columns)), shaped(r, scale, columns))
    y = y if a["weight"] is None else b.mul(y, shaped(r, r.node(a["weight"]), columns))
    y = y if a["bias"] is None else b.add(y, shaped(r, r.node(a["bias"]), columns))
    return [y, mean, scale]


@rule(aten._weight_norm_interface)
def _weight_norm(r: Recorder, a: Arguments, result: list[Tensor]) -> list[Node]:
    """A matrix with rows (or what `dim` says) of the lengths g, and their lengths before."""
    b, v, g = r.builder, r.node(a["v"]), r.node(a["g"])
    axes = tuple(axis for axis in range(len(v.shape)) if axis != a["dim"] % len(v.shape))
    norm = _length(b, v, axes, True)
    return [b.mul(v, b.div(g, norm)), norm]


@rule(aten.prod)
def _prod(r: Recorder, a: Arguments, result: Tensor) -> Node:
    node = r.node(a["self"])
    if a.get("dim") is None or node.shape[a["dim"] % len(node.shape)] > 64:
        raise Unsupported("a product over all elements or over more than 64", "multiply slices")
    return _each(r, node, a["dim"] % len(node.shape), r.builder.mul, result.shape)
