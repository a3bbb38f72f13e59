"""Runs IR in torch, under torch's autograd: an oracle for values and gradients that shares no rule with the passes.

A graph before differentiation (derivatives expanded to sampled evaluations, nothing split or quantised) means the same
here as in the evaluator; its gradients come from torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pintac import rng
from pintac.errors import IRError
from pintac.frontend.layers import chain
from pintac.ir import Graph, Node
from pintac.ir.attrs import integer, ints
from pintac.ir.graph import ancestors
from pintac.ir.ops import COMPARISONS, UNARY

DrawRows = Callable[[Node], Tensor]


class Operators(Protocol):
    """The meaning of `gradient` and `laplacian` nodes in torch, for graphs in which they are not expanded."""

    def at(self, node: Node, x: Tensor) -> Tensor:
        """The points x that something is differentiated at, as the graph shall go on with them."""
        ...

    def apply(self, node: Node, values: Mapping[Node, Tensor]) -> Tensor:
        """The value of an operator; `values` holds every node before it."""
        ...


_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "min": torch.minimum,
    "max": torch.maximum,
}
_UNARY: dict[str, Callable[[Tensor], Tensor]] = {name: getattr(torch, name) for name in UNARY}
_COMPARE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {kind: getattr(torch, kind) for kind in COMPARISONS}


def draw(node: Node, seed: int, step: int, shape: Sequence[int] | None = None) -> np.ndarray:
    """The fp32 numbers of a `random` op, of its own shape or of a larger one that it is a part of."""
    function = rng.uniform if node.attrs["kind"] == "uniform" else rng.normal
    stream, term = integer(node.attrs, "stream"), integer(node.attrs, "term")
    return function(seed, stream, step, term, tuple(shape or node.shape))


def run_graph(
    graph: Graph,
    feeds: Mapping[str, Tensor],
    params: Mapping[str, float],
    dtype: torch.dtype = torch.float64,
    outputs: Sequence[str] | None = None,
    random: DrawRows | None = None,
    data: DrawRows | None = None,
    operators: Operators | None = None,
    known: Mapping[Node, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The outputs of `graph` (all, or those named) as torch values, differentiable in the feeds that require gradients.

    `feeds` are states, inputs and data by name; `params` has seed, step and the scalars read. `random` and `data` may
    replace how those sources get their values. `operators` gives derivatives their meaning, `known` the values
    of nodes that are not to be computed again. Raises IRError for ops without a torch meaning (derivatives, without
    `operators`).
    """
    keys = list(graph.outputs) if outputs is None else list(outputs)
    needed = ancestors(*(graph.outputs[key] for key in keys))
    last = {operand: node for node in graph.nodes if node in needed for operand in node.operands}
    kept = {graph.outputs[key] for key in keys}
    differentiated = {node.operands[1] for node in graph.of("gradient", "laplacian")} if operators else set()
    values: dict[Node, Tensor] = {}
    for node in graph.nodes:
        if node not in needed:
            continue
        if known is not None and node in known:
            values[node] = known[node]
        elif node.op == "random":
            made = random(node) if random else torch.from_numpy(draw(node, int(params["seed"]), int(params["step"])))
            values[node] = made.to(dtype)
        elif node.op == "data" and data is not None:
            values[node] = data(node).to(dtype)
        elif node.op in ("state", "input", "data"):
            values[node] = feeds[str(node.attrs["name"])].to(dtype)
        elif node.op == "scalar":
            values[node] = torch.tensor(params[str(node.attrs["name"])], dtype=dtype)
        elif operators is not None and node.op in ("gradient", "laplacian"):
            values[node] = operators.apply(node, values)
        else:
            values[node] = _apply(node, [values[operand] for operand in node.operands], dtype)
        if operators is not None:
            if node in differentiated:
                values[node] = operators.at(node, values[node])
            continue  # an operator may need any of the values that lead to its operand
        for operand in set(node.operands):
            if last[operand] is node and operand not in kept:
                del values[operand]
    return {key: values[graph.outputs[key]] for key in keys}


def value_of(graph: Graph, node: Node, known: Mapping[Node, Tensor], dtype: torch.dtype) -> Tensor:
    """The value of one node from values on every path to it."""
    needed: set[Node] = set()
    stack = [node]
    while stack:
        current = stack.pop()
        if current not in needed and current not in known:
            needed.add(current)
            stack.extend(current.operands)
    values = dict(known)
    for current in graph.nodes:
        if current in needed:
            values[current] = _apply(current, [values[operand] for operand in current.operands], dtype)
    return values[node]


def _apply(node: Node, x: list[Tensor], dtype: torch.dtype) -> Tensor:
    op, attrs = node.op, node.attrs
    if op in _BINARY:
        return _BINARY[op](x[0], x[1])
    if op in _UNARY:
        return _UNARY[op](x[0])
    rule = _RULES.get(op)
    if rule is None:
        raise IRError(f"{op} has no meaning in torch", location=node.loc, hint="expand-operators and nothing after it")
    return rule(node, attrs, x, dtype)


_Rule = Callable[[Node, Mapping[str, Any], "list[Tensor]", torch.dtype], Tensor]


def _const(node: Node, attrs: Mapping[str, Any], x: list[Tensor], dtype: torch.dtype) -> Tensor:
    values = torch.tensor(attrs["values"], dtype=dtype)
    return values[0].expand(node.shape) if len(attrs["values"]) == 1 else values.reshape(node.shape)


def _matmul(node: Node, attrs: Mapping[str, Any], x: list[Tensor], dtype: torch.dtype) -> Tensor:
    y = x[0] @ (x[1].T if attrs["transpose_b"] else x[1])
    return y + x[2] if len(x) == 3 else y


def _tt_matmul(node: Node, attrs: Mapping[str, Any], x: list[Tensor], dtype: torch.dtype) -> Tensor:
    count = len(ints(node.attrs, "in_factors"))
    return (x[0] @ chain(x[1 : 1 + count])) @ chain(x[1 + count :], left=False)


def _pad(node: Node, attrs: Mapping[str, Any], x: list[Tensor], dtype: torch.dtype) -> Tensor:
    widths = [0, 0] * (x[0].ndim - 1 - attrs["axis"]) + [attrs["before"], attrs["after"]]
    return torch.nn.functional.pad(x[0], widths)


def _sum(node: Node, attrs: Mapping[str, Any], x: list[Tensor], dtype: torch.dtype) -> Tensor:
    return x[0].sum(attrs["axes"], keepdim=attrs["keepdims"]) if attrs["axes"] else x[0]


def _delta_act(node: Node, attrs: Mapping[str, Any], x: list[Tensor], dtype: torch.dtype) -> Tensor:
    fn = _UNARY[attrs["fn"]]
    return fn(x[0] + x[1]) - fn(x[0])


def _quantize(node: Node, attrs: Mapping[str, Any], x: list[Tensor], dtype: torch.dtype) -> Tensor:
    """The values that the SMX blocks hold (NUMERICS 1): rounded to half-even in blocks of one scale, as floats."""
    bits = int(attrs["bits"])
    high, wide = (int(size) for size in str(attrs.get("block", "4x4")).split("x"))
    *outer, rows, columns = x[0].shape
    padded = torch.nn.functional.pad(x[0], [0, -columns % wide, 0, -rows % high])
    blocks = padded.reshape(*outer, padded.shape[-2] // high, high, padded.shape[-1] // wide, wide)
    _, exponent = torch.frexp(blocks.abs().amax((-3, -1), keepdim=True))
    scale = torch.exp2((exponent - 1 - (bits - 2)).clamp(-63, 47).to(dtype))
    most = 2 ** (bits - 1) - 1
    values = (blocks / scale).round().clamp(-most, most) * scale
    return values.reshape(padded.shape)[..., :rows, :columns]


_RULES: dict[str, _Rule] = {
    "quantize": _quantize,
    "decode": lambda node, attrs, x, dtype: x[0],
    "const": _const,
    "matmul": _matmul,
    "tt_matmul": _tt_matmul,
    "pad": _pad,
    "sum": _sum,
    "delta_act": _delta_act,
    "compare": lambda node, attrs, x, dtype: _COMPARE[attrs["kind"]](x[0], x[1]).to(dtype),
    "select": lambda node, attrs, x, dtype: torch.where(x[0] != 0, x[1], x[2]),
    "matmul_tn": lambda node, attrs, x, dtype: (
        x[0].flatten(0, -2).T @ x[1].flatten(0, -2) + (x[2] if len(x) == 3 else 0)
    ),
    "perturb": lambda node, attrs, x, dtype: x[0][:, None, None, :] + x[1],
    "difference": lambda node, attrs, x, dtype: x[0] - x[1],
    "reshape": lambda node, attrs, x, dtype: x[0].reshape(attrs["shape"]),
    "permute": lambda node, attrs, x, dtype: x[0].permute(attrs["perm"]),
    "slice": lambda node, attrs, x, dtype: x[0].narrow(attrs["axis"], attrs["start"], attrs["stop"] - attrs["start"]),
    "concat": lambda node, attrs, x, dtype: torch.cat(x, attrs["axis"]),
    "broadcast": lambda node, attrs, x, dtype: x[0].expand(attrs["shape"]),
    "amax": lambda node, attrs, x, dtype: x[0].amax(attrs["axes"], keepdim=attrs["keepdims"]),
}
