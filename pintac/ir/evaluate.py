"""The reference interpreter of the IR: what a graph means, in three arithmetics.

- `float64`: exact formulas in double precision; quantize and decode do nothing; random numbers are the fp32 ones.
- `float32`: fp32 throughout, functions of `vmath`, sums in the order of NUMERICS 3; quantize and decode do nothing and
  matmul is NumPy's, so its last bits depend on the BLAS.
- `smx`: the machine's semantics bit for bit (NUMERICS 1-3). The simulator must leave equal bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintac import blocks, rng, smx, vmath
from pintac.errors import IRError
from pintac.ir.attrs import integer, ints
from pintac.ir.builder import Builder
from pintac.ir.deltas import lower_delta_act
from pintac.ir.graph import Graph
from pintac.ir.node import Location, Node
from pintac.ir.ops import OPS
from pintac.ir.types import SMX_BLOCK

Array = NDArray[Any]

MODES = ("float64", "float32", "smx")


@dataclass(frozen=True)
class SmxValue:
    """A quantised tensor: mantissas and exponent codes of the padded shape, and the logical shape."""

    mant: NDArray[np.int16]
    code: NDArray[np.uint8]
    shape: tuple[int, ...]

    @property
    def planes(self) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        return self.mant, self.code

    def decode(self) -> NDArray[np.float32]:
        """The fp32 values, in the logical shape."""
        values = smx.decode(self.mant, self.code)
        return values[..., : self.shape[-2], : self.shape[-1]]


@dataclass(frozen=True)
class BlockValue:
    """A quantised tensor with blocks of another shape (`pintac.blocks`): what it decodes to, in the logical shape."""

    values: NDArray[np.float32]
    bits: int
    block: tuple[int, int]

    def decode(self) -> NDArray[np.float32]:
        """The fp32 values."""
        return self.values


Value = Array | SmxValue | BlockValue
Trace = Callable[[Node, Value], None]


def evaluate(
    graph: Graph,
    feeds: Mapping[str, Array] | None = None,
    params: Mapping[str, float] | None = None,
    mode: str = "float64",
    trace: Trace | None = None,
) -> dict[str, Array]:
    """The outputs of `graph` by key.

    `feeds`: the arrays of its states, inputs and data, by name. `params`: the parameter block, that is `seed` and
    `step` (integers, for random numbers) and every scalar the graph reads. `trace(node, value)` sees each value as it
    is made; values are freed after their last use. Raises IRError for what is missing or of another shape, and for ops
    without a value (operators; in `smx` mode also fp32 matmuls and TT layers).
    """
    return Evaluator(mode, params).run(graph, feeds, trace)


class Evaluator:
    """One arithmetic and one parameter block; `flags` gathers the SMX status flags of what it has run."""

    def __init__(self, mode: str = "float64", params: Mapping[str, float] | None = None) -> None:
        if mode not in MODES:
            raise IRError(f"unknown evaluation mode {mode!r}", hint="one of " + ", ".join(MODES))
        self.mode = mode
        self.dtype: type[np.float64 | np.float32] = np.float64 if mode == "float64" else np.float32
        self.params = dict(params or {})
        self.functions = _DOUBLE if mode == "float64" else _SINGLE
        self.flags = 0
        self.feeds: dict[str, Array] = {}
        self._delta_graphs: dict[tuple[str, tuple[int, ...], tuple[int, ...]], Graph] = {}

    def run(
        self, graph: Graph, feeds: Mapping[str, Array] | None = None, trace: Trace | None = None
    ) -> dict[str, Array]:
        """As `evaluate`."""
        self.feeds = self._checked_feeds(graph, feeds or {})
        last_use: dict[Node, int] = {node: index for index, node in enumerate(graph.nodes)}
        for index, node in enumerate(graph.nodes):
            last_use.update(dict.fromkeys(node.operands, index))
        last_use.update(dict.fromkeys(graph.outputs.values(), len(graph.nodes)))
        dying: dict[int, list[Node]] = {}
        for node, index in last_use.items():
            dying.setdefault(index, []).append(node)

        values: dict[Node, Value] = {}
        with np.errstate(all="ignore"):
            for index, node in enumerate(graph.nodes):
                values[node] = self.value(node, [values[operand] for operand in node.operands])
                if trace is not None:
                    trace(node, values[node])
                for dead in dying.get(index, ()):
                    del values[dead]
        return {key: _dense(values[node]) for key, node in graph.outputs.items()}

    def value(self, node: Node, operands: Sequence[Value]) -> Value:
        """The value of one op."""
        result = EVALUATORS[node.op](self, node, operands)
        if isinstance(result, SmxValue | BlockValue):
            return result
        result = np.asarray(result, self.dtype)
        assert result.shape == node.shape, f"{node!r} evaluated to the shape {result.shape}"
        return result

    def delta_act(self, fn: str, y: Array, d: Array) -> Array:
        """By the ops that `delta_act` lowers to, so that both have the same bits."""
        key = (fn, y.shape, d.shape)
        if key not in self._delta_graphs:
            builder = Builder("delta_act")
            with builder.at(Location.synthetic("delta_act")):
                operands = builder.input("y", y.shape), builder.input("d", d.shape)
                builder.output("value", lower_delta_act(builder, fn, *operands))
            self._delta_graphs[key] = builder.finish()
        return Evaluator(self.mode).run(self._delta_graphs[key], {"y": y, "d": d})["value"]

    def _checked_feeds(self, graph: Graph, feeds: Mapping[str, Array]) -> dict[str, Array]:
        checked: dict[str, Array] = {}
        problems: list[tuple[Node, str]] = []
        for node in graph.of("state", "input", "data"):
            name = str(node.attrs["name"])
            if name not in feeds:
                problems.append((node, f"no value for the {node.op} {name!r} : {node.type}"))
                continue
            checked[name] = np.asarray(feeds[name], self.dtype)
            if checked[name].shape != node.shape:
                problems.append((node, f"the {node.op} {name!r} is {node.type}, its value {list(checked[name].shape)}"))
        for node in graph.of("scalar"):
            if node.attrs["name"] not in self.params:
                problems.append((node, f"no value for the parameter {node.attrs['name']!r}"))
        for name in ("seed", "step"):
            if name not in self.params and (randoms := graph.of("random")):
                problems.append((randoms[0], f"no value for the parameter {name!r}, the graph draws random numbers"))
        if problems:
            raise IRError(
                f"cannot evaluate @{graph.name}: " + "; ".join(text for _, text in problems),
                location=problems[0][0].loc,
                hint="give states, inputs and data in feeds, scalars, seed and step in params",
            )
        return checked


def _dense(value: Value) -> Array:
    return np.array(value) if isinstance(value, np.ndarray) else value.decode()


def _array(value: Value) -> Array:
    assert isinstance(value, np.ndarray), "the verifier keeps smx values out of f32 ops"
    return value


# ---------------------------------------------------------------------------------------------- functions


def _sigmoid64(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _erf64(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


_COMPARE: Mapping[str, Callable[[Array, Array], Array]] = MappingProxyType({
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
})  # fmt: skip

_DOUBLE: Mapping[str, Callable[..., Array]] = MappingProxyType({
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "min": np.minimum, "max": np.maximum,
    "neg": np.negative, "sqrt": np.sqrt, "abs": np.abs, "exp": np.exp, "log": np.log, "tanh": np.tanh,
    "sigmoid": _sigmoid64, "sin": np.sin, "cos": np.cos, "erf": _erf64, "floor": np.floor, "round": np.rint,
})  # fmt: skip

_SINGLE: Mapping[str, Callable[..., Array]] = MappingProxyType({
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "min": vmath.minimum, "max": vmath.maximum,
    "neg": np.negative, "sqrt": np.sqrt, "abs": np.abs, "exp": vmath.exp, "log": vmath.log, "tanh": vmath.tanh,
    "sigmoid": vmath.sigmoid, "sin": vmath.sin, "cos": vmath.cos, "erf": vmath.erf,
    "floor": np.floor, "round": np.rint,
})  # fmt: skip


def ordered_sum(x: Array, axes: Sequence[int], keepdims: bool = False) -> Array:
    """Sum over `axes` in the order of NUMERICS 3, in the precision of x.

    The last axis is reduced first if it is among them, then the others together: the innermost of them in groups of
    four, (x0 + x1) + (x2 + x3) with +0 for what is missing, groups added one after another onto an accumulator that
    starts at +0; axes further out run row-major onto the same accumulator.
    """
    last, rank = x.ndim - 1, x.ndim
    outer = [axis for axis in axes if axis != last]
    if last in axes:
        x = _running_sum(_groups_of_four(np.moveaxis(x, -1, 0)))[..., None]
    if outer:
        moved = np.moveaxis(x, outer, range(len(outer)))
        groups = _groups_of_four(np.moveaxis(moved, len(outer) - 1, 0))
        groups = np.moveaxis(groups, 0, len(outer) - 1)
        total = _running_sum(groups.reshape(-1, *groups.shape[len(outer) :]))
        x = np.expand_dims(total, tuple(outer))
    return x if keepdims else x.reshape([x.shape[axis] for axis in range(rank) if axis not in axes])


def _groups_of_four(x: Array) -> Array:
    """(x0 + x1) + (x2 + x3) along the first axis."""
    if x.shape[0] % 4:
        x = np.concatenate([x, np.zeros((-x.shape[0] % 4, *x.shape[1:]), x.dtype)])
    return (x[0::4] + x[1::4]) + (x[2::4] + x[3::4])


def _running_sum(x: Array) -> Array:
    """Sum along the first axis one after another, from +0."""
    if x.shape[0] == 0:
        return np.zeros(x.shape[1:], x.dtype)
    # a start of +0 only shows in that a sum of nothing but -0 is +0
    return np.add.accumulate(x, axis=0)[-1] + x.dtype.type(0)


# ---------------------------------------------------------------------------------------------- ops

Rule = Callable[[Evaluator, Node, Sequence[Value]], Value]


def _feed(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    return e.feeds[str(node.attrs["name"])]


def _scalar(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    return np.asarray(e.params[str(node.attrs["name"])], e.dtype)


def _const(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    values = np.asarray(node.attrs["values"], e.dtype)
    return np.full(node.shape, values[0], e.dtype) if values.size == 1 else values.reshape(node.shape)


def _random(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    draw = rng.uniform if node.attrs["kind"] == "uniform" else rng.normal
    stream, term = integer(node.attrs, "stream"), integer(node.attrs, "term")
    return draw(int(e.params["seed"]), stream, int(e.params["step"]), term, node.shape)


def _elementwise(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    return e.functions[node.op](*(_array(operand) for operand in ops))


def _compare(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    return _COMPARE[str(node.attrs["kind"])](_array(ops[0]), _array(ops[1])).astype(e.dtype)


def _select(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    return np.where(_array(ops[0]) != 0, _array(ops[1]), _array(ops[2]))


def _delta_act(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    return e.delta_act(str(node.attrs["fn"]), _array(ops[0]), _array(ops[1]))


def _smx_operands(e: Evaluator, node: Node, ops: Sequence[Value]) -> tuple[SmxValue, SmxValue]:
    a, b = ops[0], ops[1]
    if not isinstance(a, SmxValue) or not isinstance(b, SmxValue):
        raise IRError(
            f"%{node.name}: the machine has no fp32 {node.op}",
            location=node.loc,
            hint="run insert-smx first, or evaluate in float32",
        )
    return a, b


def _matmul(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    transposed = bool(node.attrs["transpose_b"])
    acc = _array(ops[2]) if len(ops) == 3 else None
    if isinstance(ops[0], BlockValue) and isinstance(ops[1], BlockValue):
        left, weight = ops[0].values, ops[1].values.T if transposed else ops[1].values
        return blocks.matmul(left, weight, (ops[0].bits, ops[1].bits), ops[0].block[1], acc)
    if e.mode == "smx":
        a, b = _smx_operands(e, node, ops)
        right = smx.transpose(*b.planes) if transposed else b.planes
        return smx.matmul(a.planes, right, acc, m=node.shape[-2], n=node.shape[-1])
    left, weight = _array(ops[0]), _array(ops[1])
    product = np.matmul(left, weight.T if transposed else weight)
    return product if acc is None else acc + product


def _matmul_tn(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    acc = _array(ops[2]) if len(ops) == 3 else None
    if isinstance(ops[0], BlockValue) and isinstance(ops[1], BlockValue):
        bits = ops[0].bits, ops[1].bits
        return blocks.matmul_tn(ops[0].values, ops[1].values, bits, ops[0].block[0], acc)
    if e.mode == "smx":
        a, g = _smx_operands(e, node, ops)
        return smx.matmul_tn(a.planes, g.planes, acc, m=node.shape[0], n=node.shape[1])
    left, right = _array(ops[0]), _array(ops[1])
    product = left.reshape(-1, left.shape[-1]).T @ right.reshape(-1, right.shape[-1])
    return product if acc is None else acc + product


def _tt_matmul(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    if e.mode == "smx":
        raise IRError(
            f"%{node.name}: a TT layer has no order of operations yet", location=node.loc, hint="run reorder-tt first"
        )
    x, cores = _array(ops[0]), [_array(core) for core in ops[1:]]
    train = cores[0]
    for core in cores[1:]:
        train = np.tensordot(train, core, axes=1)
    return np.matmul(x, train.reshape(x.shape[-1], node.shape[-1]))


def _no_value(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    raise IRError(f"{node.op} has no value of its own", location=node.loc, hint="run expand-operators first")


def _perturb(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    return _array(ops[0])[:, None, None, :] + _array(ops[1])


def _difference(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    return _array(ops[0]) - _array(ops[1])


def _reshape(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    return _array(ops[0]).reshape(node.shape)


def _permute(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    return _array(ops[0]).transpose(ints(node.attrs, "perm"))


def _slice(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    axis, start, stop = (integer(node.attrs, name) for name in ("axis", "start", "stop"))
    return _array(ops[0])[(slice(None),) * axis + (slice(start, stop),)]


def _concat(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    return np.concatenate([_array(operand) for operand in ops], axis=integer(node.attrs, "axis"))


def _broadcast(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    return np.broadcast_to(_array(ops[0]), node.shape)


def _pad(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    x = _array(ops[0])
    widths = [(0, 0)] * x.ndim
    widths[integer(node.attrs, "axis")] = integer(node.attrs, "before"), integer(node.attrs, "after")
    return np.pad(x, widths)


def _sum(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    x, axes, keepdims = _array(ops[0]), ints(node.attrs, "axes"), bool(node.attrs["keepdims"])
    return np.sum(x, axes, keepdims=keepdims) if e.mode == "float64" else ordered_sum(x, axes, keepdims)


def _amax(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    x, axes = _array(ops[0]), ints(node.attrs, "axes")
    if not axes:
        return x
    rows = np.moveaxis(x, axes, range(len(axes)))
    rows = rows.reshape(-1, *rows.shape[len(axes) :])
    while len(rows) > 1:  # the largest of a set does not depend on the order
        half = len(rows) // 2
        rows = np.concatenate([e.functions["max"](rows[:half], rows[half : 2 * half]), rows[2 * half :]])
    return rows[0].reshape(node.shape)


def _quantize(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    x = _array(ops[0])
    if e.mode != "smx":
        return x
    bits, block = integer(node.attrs, "bits"), node.type.block
    if block != SMX_BLOCK:
        mant, code, flags = blocks.quantize(x, bits, block)
        e.flags |= flags
        return BlockValue(blocks.decode(mant, code, block)[..., : x.shape[-2], : x.shape[-1]], bits, block)
    mant, code, flags = smx.quantize(x, bits)
    e.flags |= flags
    return SmxValue(mant, code, node.shape)


def _decode(e: Evaluator, node: Node, ops: Sequence[Value]) -> Value:
    return ops[0] if isinstance(ops[0], np.ndarray) else _dense(ops[0])


EVALUATORS: Mapping[str, Rule] = MappingProxyType({
    "state": _feed, "input": _feed, "data": _feed, "scalar": _scalar, "const": _const, "random": _random,
    **{name: _elementwise for name, op in OPS.items() if op.category == "elementwise"},
    "compare": _compare, "select": _select, "delta_act": _delta_act,
    "matmul": _matmul, "matmul_tn": _matmul_tn, "tt_matmul": _tt_matmul,
    "gradient": _no_value, "laplacian": _no_value, "perturb": _perturb, "difference": _difference,
    "reshape": _reshape, "permute": _permute, "slice": _slice, "concat": _concat, "broadcast": _broadcast, "pad": _pad,
    "sum": _sum, "amax": _amax, "quantize": _quantize, "decode": _decode,
})  # fmt: skip
"""The value of each op."""
