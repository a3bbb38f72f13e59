"""The graph IR: types, ops, graphs, text, verifier, evaluator."""

from pintac.ir.graph import Builder, Graph, Location, Node, rewrite
from pintac.ir.ops import OPS, OpDef
from pintac.ir.types import TensorType, f32, parse_type

__all__ = ["OPS", "Builder", "Graph", "Location", "Node", "OpDef", "TensorType", "f32", "parse_type", "rewrite"]
