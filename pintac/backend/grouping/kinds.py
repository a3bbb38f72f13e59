"""Kinds of IR ops as the backend sees them: what a kernel computes, what it ends in, what only reads in another way."""

from __future__ import annotations

from pintac.errors import IRError
from pintac.ir import Node, ops
from pintac.isa import MicroOp

# The micro-operation of an element-wise op has its name. One without is lowered by a pass and left out here.
BINARY = {name: MicroOp[name.upper()] for name in (*ops.BINARY, "select")}
UNARY = {name: MicroOp[name.upper()] for name in ops.UNARY}
COMPARE = {kind: MicroOp[kind.upper()] for kind in ops.COMPARISONS}
ELEMENTWISE = {*BINARY, *UNARY, "compare", "random"}
SINKS = {"quantize", *ops.REDUCTIONS}
CONTRACTIONS = {"matmul", "matmul_tn"}
VIEWS = {"reshape", "permute", "slice", "broadcast", "decode"}
COPIES = {"concat", "pad"}
SOURCES = {"state", "scalar", "const", "input", "data"}
LOWERED_BY = {
    "gradient": "expand-operators",
    "laplacian": "expand-operators",
    "perturb": "split-stein",
    "difference": "split-stein",
    "tt_matmul": "reorder-tt",
    "delta_act": "lower-delta",
}
"""The pass after which an op is gone."""


def no_rule(node: Node) -> IRError:
    """That the backend cannot compile an op, and what is missing."""
    by = LOWERED_BY.get(node.op)
    hint = f"run {by} first" if by else "name its micro-operation in pintac/backend/grouping/kinds.py, or lower it"
    return IRError(f"the backend has no rule for {node.op}", location=node.loc, hint=hint)


def root(node: Node) -> Node:
    """The value whose memory a chain of views reads."""
    while node.op in VIEWS:
        node = node.operands[0]
    return node


def is_splat(node: Node) -> bool:
    """A constant that an immediate can hold."""
    values = node.attrs.get("values")
    return node.op == "const" and isinstance(values, tuple) and len(values) == 1
