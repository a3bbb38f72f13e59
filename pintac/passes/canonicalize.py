"""canonicalize: trivial ops folded and equal ones shared. Every rewrite keeps every bit of every value.

x * 1, x / 1, x - 0 and x + (-0) are x; x + 0 is not (it turns -0 into +0), so it stays. Constants are folded only
through ops that move or negate elements. Elementwise ops drop broadcasts that their result does not need, and move
before the reshape of base rows [N, w] to [N, 1, 1, w], so that equal work on both becomes one. Equal ops on equal
operands are one op. (Only which NaN an invalid operation makes is not kept.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pintac.ir import OPS, Builder, Graph, Node, rewrite
from pintac.ir.attrs import integer, ints
from pintac.ir.ops import REDUCTIONS
from pintac.ir.text import graphs_equal
from pintac.ir.type_rules import broadcast_shapes
from pintac.passes.base import Pass
from pintac.passes.dataflow import without_dead

_LARGEST_FOLDED = 4096
"""Elements of a constant that is spelled out by folding."""


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Applies the rewrites until nothing changes; dead nodes are removed on the way."""

    name: ClassVar[str] = "canonicalize"
    preserves: ClassVar[bool] = True
    forward: ClassVar[bool] = True

    def run(self, graph: Graph) -> Graph:
        while True:
            shared = _Shared()
            result = without_dead(rewrite(graph, shared.visit))
            if graphs_equal(result, graph):
                return graph
            graph = result


class _Shared:
    """Makes ops in a builder, simplified and each only once."""

    def __init__(self) -> None:
        self.table: dict[tuple[Any, ...], Node] = {}

    def visit(self, b: Builder, node: Node, operands: tuple[Node, ...]) -> Node:
        return self.make(b, node.op, operands, node.attrs, node.name)

    def make(
        self,
        b: Builder,
        op: str,
        operands: Sequence[Node],
        attrs: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> Node:
        attrs = attrs or {}
        simpler = self._simplify(b, op, tuple(operands), attrs)
        if simpler is not None:
            return simpler
        key = (op, tuple(operands), tuple(sorted((key, repr(value)) for key, value in attrs.items())))
        if key not in self.table:
            self.table[key] = b.add_op(op, operands, attrs, name=name)
        return self.table[key]

    def _simplify(self, b: Builder, op: str, operands: tuple[Node, ...], attrs: Mapping[str, Any]) -> Node | None:
        if not operands:
            return None
        x = operands[0]
        category = OPS[op].category
        if category == "structure" and x.op == "const":
            folded = _fold(op, operands, attrs)
            if folded is not None:
                return self.make(b, "const", (), folded)
        if op in _STRUCTURE:
            return _STRUCTURE[op](self, b, x, attrs)
        if category == "elementwise":
            return self._identity(b, op, operands) or self._narrow(b, op, operands, attrs)
        return None

    # ---- arithmetic

    def _identity(self, b: Builder, op: str, operands: tuple[Node, ...]) -> Node | None:
        shape = broadcast_shapes(*(operand.shape for operand in operands))
        x, y = operands[0], operands[-1]
        neutral: float | None = {"mul": 1.0, "div": 1.0, "sub": 0.0, "add": -0.0}.get(op)
        if neutral is not None:
            if x.shape == shape and _is_splat(y, neutral):
                return x
            if op in ("mul", "add") and y.shape == shape and _is_splat(x, neutral):
                return y
        if op == "neg":
            if x.op == "neg":
                return x.operands[0]
            if x.op == "const":
                values = tuple(-value for value in _values(x))
                return self.make(b, "const", (), {"shape": x.shape, "values": values})
        if op == "add" and y.op == "neg":
            return self.make(b, "sub", (x, y.operands[0]))
        if op == "add" and x.op == "neg":
            return self.make(b, "sub", (y, x.operands[0]))
        if op == "sub" and y.op == "neg":
            return self.make(b, "add", (x, y.operands[0]))
        return None

    def _narrow(self, b: Builder, op: str, operands: tuple[Node, ...], attrs: Mapping[str, Any]) -> Node | None:
        """Without broadcasts that the result's shape does not need, and before a reshape of base rows."""
        shape = broadcast_shapes(*(operand.shape for operand in operands))
        for index, operand in enumerate(operands):
            if operand.op == "broadcast":
                changed = (*operands[:index], operand.operands[0], *operands[index + 1 :])
                if broadcast_shapes(*(other.shape for other in changed)) == shape:
                    return self.make(b, op, changed, attrs)
        views = [operand for operand in operands if operand.op == "reshape"]
        if views and all(operand.op == "reshape" or operand.type.rank == 0 for operand in operands):
            sources = {view.operands[0].shape for view in views}
            rows = all(view.shape == _as_rows(view.operands[0].shape) for view in views)
            if rows and len(sources) == 1 and {view.shape for view in views} == {shape}:
                inner = [operand.operands[0] if operand.op == "reshape" else operand for operand in operands]
                return self.make(b, "reshape", (self.make(b, op, inner, attrs),), {"shape": shape})
        return None

    # ---- structure

    def _reshape(self, b: Builder, x: Node, attrs: Mapping[str, Any]) -> Node | None:
        shape = tuple(attrs["shape"])
        if x.shape == shape:
            return x
        if x.op == "reshape":
            return self.make(b, "reshape", x.operands, {"shape": shape})
        if x.op in REDUCTIONS:
            for keepdims in (True, False):
                if shape == _reduced(x.operands[0].shape, ints(x.attrs, "axes"), keepdims):
                    return self.make(b, x.op, x.operands, {"axes": x.attrs["axes"], "keepdims": keepdims})
        if x.op == "broadcast":
            source = _reshaped_source(x, shape)
            if source is not None:
                inner = self.make(b, "reshape", x.operands, {"shape": source})
                return self.make(b, "broadcast", (inner,), {"shape": shape})
        return None

    def _permute(self, b: Builder, x: Node, attrs: Mapping[str, Any]) -> Node | None:
        perm = tuple(attrs["perm"])
        if perm == tuple(range(len(perm))):
            return x
        if x.op == "permute":
            inner = ints(x.attrs, "perm")
            return self.make(b, "permute", x.operands, {"perm": tuple(inner[axis] for axis in perm)})
        return None

    def _slice(self, b: Builder, x: Node, attrs: Mapping[str, Any]) -> Node | None:
        axis, start, stop = attrs["axis"], attrs["start"], attrs["stop"]
        if (start, stop) == (0, x.shape[axis]):
            return x
        if x.op == "slice" and integer(x.attrs, "axis") == axis:
            first = integer(x.attrs, "start")
            return self.make(b, "slice", x.operands, {"axis": axis, "start": first + start, "stop": first + stop})
        if x.op == "concat" and integer(x.attrs, "axis") == axis:
            first = 0
            for part in x.operands:
                size = part.shape[axis]
                if first <= start and stop <= first + size:
                    return self.make(b, "slice", (part,), {"axis": axis, "start": start - first, "stop": stop - first})
                first += size
        return None

    def _broadcast(self, b: Builder, x: Node, attrs: Mapping[str, Any]) -> Node | None:
        shape = tuple(attrs["shape"])
        if x.shape == shape:
            return x
        if x.op == "broadcast":
            return self.make(b, "broadcast", x.operands, {"shape": shape})
        return None

    def _pad(self, b: Builder, x: Node, attrs: Mapping[str, Any]) -> Node | None:
        return x if attrs["before"] == attrs["after"] == 0 else None


_STRUCTURE = {
    "reshape": _Shared._reshape,
    "permute": _Shared._permute,
    "slice": _Shared._slice,
    "broadcast": _Shared._broadcast,
    "pad": _Shared._pad,
}


def _values(const: Node) -> tuple[float, ...]:
    values = const.attrs["values"]
    assert isinstance(values, tuple)
    return tuple(float(value) for value in values)


def _is_splat(node: Node, value: float) -> bool:
    """Whether a constant has this value everywhere; -0 is not 0."""
    return node.op == "const" and all(
        v == value and math.copysign(1, v) == math.copysign(1, value) for v in _values(node)
    )


def _fold(op: str, operands: tuple[Node, ...], attrs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The attributes of the constant that moving the elements of constants gives; None when it is left alone."""
    x = operands[0]
    values = _values(x)
    if len(operands) > 1 or op == "pad":
        return None
    if op in ("reshape", "broadcast") and len(values) == 1:
        return {"shape": tuple(attrs["shape"]), "values": values}
    if x.type.size > _LARGEST_FOLDED or op == "broadcast":
        return None
    array = np.broadcast_to(np.asarray(values), x.shape) if len(values) == 1 else np.asarray(values).reshape(x.shape)
    if op == "reshape":
        array = array.reshape(attrs["shape"])
    elif op == "permute":
        array = array.transpose(attrs["perm"])
    elif op == "slice":
        array = array.take(range(attrs["start"], attrs["stop"]), axis=attrs["axis"])
    else:
        return None
    result = values if len(values) == 1 else tuple(array.ravel().tolist())
    return {"shape": array.shape, "values": result}


def _as_rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of base rows beside perturbed ones: [N, ...] as [N, 1, 1, ...]."""
    return (*shape[:1], 1, 1, *shape[1:])


def _reduced(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    if keepdims:
        return tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def _reshaped_source(broadcast: Node, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape in which a broadcast's source broadcasts to `shape`, a reshape that only adds or drops sizes of 1."""
    before = broadcast.shape
    source = (1,) * (len(before) - broadcast.operands[0].type.rank) + broadcast.operands[0].shape
    if [size for size in before if size != 1] != [size for size in shape if size != 1]:
        return None
    kept = iter([own for own, size in zip(source, before, strict=True) if size != 1])
    return tuple(1 if size == 1 else next(kept) for size in shape)
