"""How graphs are built: the builder, with a method for each op, and the functional rewriter."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pintac.errors import IRError, suggest
from pintac.ir.attrs import normalize_attrs
from pintac.ir.graph import Graph
from pintac.ir.node import NAME, Location, Node
from pintac.ir.ops import OPS
from pintac.ir.type_rules import infer_type

_COUNTER_SUFFIX = re.compile(r"_\d+\Z")

Operand = Node | float | int
"""What elementwise builder methods accept: a number becomes a scalar constant."""


class Builder:
    """Builds a graph node by node: infers types, makes unique deterministic names, insists on locations.

    Raises IRError, with the location of the offending op, for a broken rule. Nothing is folded.
    """

    def __init__(self, name: str, attrs: Mapping[str, Any] | None = None, reserved: Iterable[str] = ()) -> None:
        """`reserved` names are given only to nodes that ask for them by `name=` (see `rewrite`)."""
        self.name = name
        self.attrs: dict[str, Any] = copy.deepcopy(dict(attrs or {}))
        self._nodes: dict[Node, None] = {}
        self._outputs: dict[str, Node] = {}
        self._names: set[str] = set()
        self._reserved = set(reserved)
        self._counters: dict[str, int] = {}
        self._locations: list[Location] = []

    # ---- construction

    @contextmanager
    def at(self, loc: Location) -> Iterator[Builder]:
        """Every op added inside has the location `loc` unless it brings its own."""
        self._locations.append(loc)
        try:
            yield self
        finally:
            self._locations.pop()

    def add_op(
        self,
        op: str,
        operands: Sequence[Node] = (),
        attrs: Mapping[str, object] | None = None,
        *,
        loc: Location | None = None,
        name: str | None = None,
    ) -> Node:
        """Append an op. `name` is taken as it is when free, else it is the stem of a fresh one."""
        if loc is None:
            if not self._locations:
                raise IRError(f"{op} has no location", hint="pass loc= or build inside `with builder.at(loc)`")
            loc = self._locations[-1]
        if op not in OPS:
            raise IRError(f"unknown op {op!r}", location=loc, hint=suggest(op, list(OPS)))
        for operand in operands:
            if operand not in self._nodes:
                what = f"%{operand.name} of another graph" if isinstance(operand, Node) else repr(operand)
                raise IRError(f"{op} cannot read {what}", location=loc, hint="operands are nodes of the same builder")
        try:
            checked = normalize_attrs(op, OPS[op].attrs, self._resolve_axes(op, operands, attrs))
            type_ = infer_type(op, [operand.type for operand in operands], checked)
        except IRError as error:
            raise IRError(error.message, location=loc, hint=error.hint) from None
        node = Node(self._fresh_name(name, op), op, tuple(operands), checked, type_, loc)
        self._nodes[node] = None
        return node

    def copy(self, node: Node, operands: Sequence[Node], **changes: object) -> Node:
        """The same op over other operands, with `changes` to its attributes; keeps name and location."""
        return self.add_op(node.op, operands, {**node.attrs, **changes}, loc=node.loc, name=node.name)

    def output(self, key: str, node: Node) -> None:
        """Name `node` as an output; raises IRError when the key is taken."""
        if key in self._outputs:
            raise IRError(f"the output {key!r} exists already", location=node.loc)
        if node not in self._nodes:
            raise IRError(f"the output {key!r} is not a node of this graph", location=node.loc)
        self._outputs[key] = node

    def finish(self) -> Graph:
        """The graph. The builder can go on building: what it has given out does not change."""
        return Graph(self.name, tuple(self._nodes), dict(self._outputs), copy.deepcopy(self.attrs))

    def _fresh_name(self, name: str | None, op: str) -> str:
        if name is not None and not NAME.match(name):
            name = re.sub(r"[^A-Za-z0-9_.]", "_", name).lstrip(".") or op
        if name is not None and name not in self._names:
            self._names.add(name)
            return name
        stem = _COUNTER_SUFFIX.sub("", name or op) or op
        count = self._counters.get(stem, 0)
        while f"{stem}_{count}" in self._names or f"{stem}_{count}" in self._reserved:
            count += 1
        self._counters[stem] = count + 1
        self._names.add(f"{stem}_{count}")
        return f"{stem}_{count}"

    @staticmethod
    def _resolve_axes(op: str, operands: Sequence[Node], attrs: Mapping[str, object] | None) -> dict[str, object]:
        """Axes counted from the end become axes counted from the front, the only ones the IR has."""
        resolved = dict(attrs or {})
        if operands and OPS[op].category in ("structure", "reduction"):
            rank = operands[0].type.rank
            axis, axes = resolved.get("axis"), resolved.get("axes")
            if isinstance(axis, int) and -rank <= axis < 0:
                resolved["axis"] = axis + rank
            if isinstance(axes, (list, tuple)) and all(isinstance(i, int) for i in axes):
                resolved["axes"] = tuple(sorted(i + rank if -rank <= i < 0 else i for i in axes))
        return resolved

    def _wrap(self, value: Operand, loc: Location | None) -> Node:
        return value if isinstance(value, Node) else self.scalar_const(value, loc=loc)

    def _elementwise(
        self, op: str, *operands: Operand, loc: Location | None, name: str | None, **attrs: object
    ) -> Node:
        return self.add_op(op, [self._wrap(operand, loc) for operand in operands], attrs, loc=loc, name=name)

    # ---- sources

    def state(self, name: str, shape: Sequence[int], *, loc: Location | None = None) -> Node:
        """A persistent tensor f32[shape]; the node takes the state's name where it can."""
        return self.add_op("state", (), {"name": name, "shape": tuple(shape)}, loc=loc, name=name)

    def input(self, name: str, shape: Sequence[int], *, loc: Location | None = None) -> Node:
        return self.add_op("input", (), {"name": name, "shape": tuple(shape)}, loc=loc, name=name)

    def scalar(self, name: str, *, loc: Location | None = None) -> Node:
        return self.add_op("scalar", (), {"name": name}, loc=loc, name=name)

    def const(
        self,
        values: float | Sequence[float],
        shape: Sequence[int] = (),
        *,
        loc: Location | None = None,
        name: str | None = None,
    ) -> Node:
        """A literal; one value (or a sequence of length 1) fills the shape."""
        listed = tuple(float(value) for value in values) if isinstance(values, Iterable) else (float(values),)
        return self.add_op("const", (), {"shape": tuple(shape), "values": listed}, loc=loc, name=name)

    def scalar_const(self, value: float, *, loc: Location | None = None) -> Node:
        return self.const(float(value), (), loc=loc)

    def random(
        self,
        kind: str,
        stream: int,
        term: int,
        shape: Sequence[int],
        *,
        loc: Location | None = None,
        name: str | None = None,
    ) -> Node:
        attrs = {"kind": kind, "stream": stream, "term": term, "shape": tuple(shape)}
        return self.add_op("random", (), attrs, loc=loc, name=name)

    def data(self, name: str, shape: Sequence[int], *, loc: Location | None = None) -> Node:
        return self.add_op("data", (), {"name": name, "shape": tuple(shape)}, loc=loc, name=name)

    # ---- elementwise

    def add(self, a: Operand, b: Operand, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self._elementwise("add", a, b, loc=loc, name=name)

    def sub(self, a: Operand, b: Operand, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self._elementwise("sub", a, b, loc=loc, name=name)

    def mul(self, a: Operand, b: Operand, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self._elementwise("mul", a, b, loc=loc, name=name)

    def div(self, a: Operand, b: Operand, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self._elementwise("div", a, b, loc=loc, name=name)

    def min(self, a: Operand, b: Operand, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self._elementwise("min", a, b, loc=loc, name=name)

    def max(self, a: Operand, b: Operand, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self._elementwise("max", a, b, loc=loc, name=name)

    def unary(self, fn: str, x: Operand, *, loc: Location | None = None, name: str | None = None) -> Node:
        """A function of one value (`ops.UNARY`), by name."""
        return self._elementwise(fn, x, loc=loc, name=name)

    def neg(self, x: Operand, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self._elementwise("neg", x, loc=loc, name=name)

    def sqrt(self, x: Operand, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self._elementwise("sqrt", x, loc=loc, name=name)

    def abs(self, x: Operand, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self._elementwise("abs", x, loc=loc, name=name)

    def exp(self, x: Operand, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self._elementwise("exp", x, loc=loc, name=name)

    def log(self, x: Operand, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self._elementwise("log", x, loc=loc, name=name)

    def tanh(self, x: Operand, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self._elementwise("tanh", x, loc=loc, name=name)

    def sigmoid(self, x: Operand, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self._elementwise("sigmoid", x, loc=loc, name=name)

    def sin(self, x: Operand, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self._elementwise("sin", x, loc=loc, name=name)

    def cos(self, x: Operand, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self._elementwise("cos", x, loc=loc, name=name)

    def erf(self, x: Operand, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self._elementwise("erf", x, loc=loc, name=name)

    def floor(self, x: Operand, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self._elementwise("floor", x, loc=loc, name=name)

    def round(self, x: Operand, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self._elementwise("round", x, loc=loc, name=name)

    def compare(
        self, kind: str, a: Operand, b: Operand, *, loc: Location | None = None, name: str | None = None
    ) -> Node:
        return self._elementwise("compare", a, b, loc=loc, name=name, kind=kind)

    def select(
        self, c: Operand, a: Operand, b: Operand, *, loc: Location | None = None, name: str | None = None
    ) -> Node:
        return self._elementwise("select", c, a, b, loc=loc, name=name)

    def delta_act(
        self, fn: str, y: Operand, d: Operand, *, loc: Location | None = None, name: str | None = None
    ) -> Node:
        return self._elementwise("delta_act", y, d, loc=loc, name=name, fn=fn)

    # ---- contractions and layers

    def matmul(
        self,
        a: Node,
        b: Node,
        acc: Node | None = None,
        *,
        transpose_b: bool = False,
        lhs_role: str = "",
        rhs_role: str = "",
        loc: Location | None = None,
        name: str | None = None,
    ) -> Node:
        attrs = {"transpose_b": transpose_b, "lhs_role": lhs_role, "rhs_role": rhs_role}
        return self.add_op("matmul", (a, b) if acc is None else (a, b, acc), attrs, loc=loc, name=name)

    def matmul_tn(
        self,
        a: Node,
        g: Node,
        acc: Node | None = None,
        *,
        lhs_role: str = "",
        rhs_role: str = "",
        loc: Location | None = None,
        name: str | None = None,
    ) -> Node:
        attrs = {"lhs_role": lhs_role, "rhs_role": rhs_role}
        return self.add_op("matmul_tn", (a, g) if acc is None else (a, g, acc), attrs, loc=loc, name=name)

    def tt_matmul(
        self,
        x: Node,
        cores: Sequence[Node],
        in_factors: Sequence[int],
        out_factors: Sequence[int],
        ranks: Sequence[int],
        *,
        lhs_role: str = "",
        loc: Location | None = None,
        name: str | None = None,
    ) -> Node:
        attrs = {
            "in_factors": tuple(in_factors),
            "out_factors": tuple(out_factors),
            "ranks": tuple(ranks),
            "lhs_role": lhs_role,
        }
        return self.add_op("tt_matmul", (x, *cores), attrs, loc=loc, name=name)

    # ---- operators

    def gradient(self, y: Node, x: Node, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self.add_op("gradient", (y, x), loc=loc, name=name)

    def laplacian(
        self, y: Node, x: Node, start: int, stop: int, *, loc: Location | None = None, name: str | None = None
    ) -> Node:
        return self.add_op("laplacian", (y, x), {"start": start, "stop": stop}, loc=loc, name=name)

    def perturb(self, x: Node, delta: Node, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self.add_op("perturb", (x, delta), loc=loc, name=name)

    def difference(self, p: Node, b: Node, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self.add_op("difference", (p, b), loc=loc, name=name)

    # ---- structure, reductions, precision (axes may count from the end)

    def reshape(self, x: Node, shape: Sequence[int], *, loc: Location | None = None, name: str | None = None) -> Node:
        return self.add_op("reshape", (x,), {"shape": tuple(shape)}, loc=loc, name=name)

    def permute(self, x: Node, perm: Sequence[int], *, loc: Location | None = None, name: str | None = None) -> Node:
        return self.add_op("permute", (x,), {"perm": tuple(perm)}, loc=loc, name=name)

    def slice(
        self, x: Node, axis: int, start: int, stop: int, *, loc: Location | None = None, name: str | None = None
    ) -> Node:
        return self.add_op("slice", (x,), {"axis": axis, "start": start, "stop": stop}, loc=loc, name=name)

    def concat(self, xs: Sequence[Node], axis: int, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self.add_op("concat", tuple(xs), {"axis": axis}, loc=loc, name=name)

    def broadcast(self, x: Node, shape: Sequence[int], *, loc: Location | None = None, name: str | None = None) -> Node:
        return self.add_op("broadcast", (x,), {"shape": tuple(shape)}, loc=loc, name=name)

    def pad(
        self, x: Node, axis: int, before: int, after: int, *, loc: Location | None = None, name: str | None = None
    ) -> Node:
        return self.add_op("pad", (x,), {"axis": axis, "before": before, "after": after}, loc=loc, name=name)

    def sum(
        self,
        x: Node,
        axes: Sequence[int] | None = None,
        keepdims: bool = False,
        *,
        loc: Location | None = None,
        name: str | None = None,
    ) -> Node:
        """Sum over `axes`, all of them by default."""
        listed = tuple(range(x.type.rank)) if axes is None else tuple(axes)
        return self.add_op("sum", (x,), {"axes": listed, "keepdims": keepdims}, loc=loc, name=name)

    def amax(
        self,
        x: Node,
        axes: Sequence[int] | None = None,
        keepdims: bool = False,
        *,
        loc: Location | None = None,
        name: str | None = None,
    ) -> Node:
        """Largest element over `axes`, all of them by default."""
        listed = tuple(range(x.type.rank)) if axes is None else tuple(axes)
        return self.add_op("amax", (x,), {"axes": listed, "keepdims": keepdims}, loc=loc, name=name)

    def quantize(
        self, x: Node, bits: int, *, block: str = "4x4", loc: Location | None = None, name: str | None = None
    ) -> Node:
        return self.add_op("quantize", (x,), {"bits": bits, "block": block}, loc=loc, name=name)

    def decode(self, x: Node, *, loc: Location | None = None, name: str | None = None) -> Node:
        return self.add_op("decode", (x,), loc=loc, name=name)


RewriteFn = Callable[[Builder, Node, tuple[Node, ...]], Node | None]


def rewrite(graph: Graph, fn: RewriteFn, *, name: str | None = None) -> Graph:
    """A new graph: `fn(builder, node, operands)` gives the replacement of each node in order, None keeps the node.

    `operands` are already rewritten. Inside `fn` the default location is the node's own. Kept nodes keep their names;
    outputs and attrs follow; dead nodes stay (dce is a pass).
    """
    builder = Builder(name or graph.name, graph.attrs, reserved=(node.name for node in graph.nodes))
    new: dict[Node, Node] = {}
    for node in graph.nodes:
        operands = tuple(new[operand] for operand in node.operands)
        with builder.at(node.loc):
            replacement = fn(builder, node, operands)
            new[node] = builder.copy(node, operands) if replacement is None else replacement
    for key, node in graph.outputs.items():
        builder.output(key, new[node])
    return builder.finish()
