"""Kinds of IR ops as the backend sees them: what a kernel computes, what it ends in, what only reads in another way."""

from __future__ import annotations

from pintac.ir import Node
from pintac.ir.ops import REDUCTIONS
from pintac.isa import MicroOp

BINARY = {
    "add": MicroOp.ADD,
    "sub": MicroOp.SUB,
    "mul": MicroOp.MUL,
    "div": MicroOp.DIV,
    "min": MicroOp.MIN,
    "max": MicroOp.MAX,
    "select": MicroOp.SELECT,
}
UNARY = {
    "neg": MicroOp.NEG,
    "abs": MicroOp.ABS,
    "sqrt": MicroOp.SQRT,
    "exp": MicroOp.EXP,
    "log": MicroOp.LOG,
    "tanh": MicroOp.TANH,
    "sigmoid": MicroOp.SIGMOID,
    "sin": MicroOp.SIN,
    "cos": MicroOp.COS,
    "erf": MicroOp.ERF,
}
COMPARE = {k: MicroOp[k.upper()] for k in ("lt", "le", "gt", "ge", "eq", "ne")}
ELEMENTWISE = {*BINARY, *UNARY, "compare", "random"}
SINKS = {"quantize", *REDUCTIONS}
CONTRACTIONS = {"matmul", "matmul_tn"}
VIEWS = {"reshape", "permute", "slice", "broadcast", "decode"}
COPIES = {"concat", "pad"}
SOURCES = {"state", "scalar", "const", "input", "data"}


def root(node: Node) -> Node:
    """The value whose memory a chain of views reads."""
    while node.op in VIEWS:
        node = node.operands[0]
    return node


def is_splat(node: Node) -> bool:
    """A constant that an immediate can hold."""
    values = node.attrs.get("values")
    return node.op == "const" and isinstance(values, tuple) and len(values) == 1
