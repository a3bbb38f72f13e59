"""The graph IR: types, ops, graphs, text, verifier, reference interpreter."""

from pintac.ir.builder import Builder, rewrite
from pintac.ir.deltas import DELTA_RULES, delta_rule, lower_delta_act
from pintac.ir.gradients import GRADIENTS, grad_rule, sum_to
from pintac.ir.graph import Graph, Location, Node, ancestors, print_graph, print_module, pruned
from pintac.ir.ops import OPS, OpDef
from pintac.ir.text import graphs_equal, parse_graph, parse_module
from pintac.ir.types import TensorType, f32, parse_type
from pintac.ir.verify import verify

__all__ = [
    "DELTA_RULES",
    "GRADIENTS",
    "OPS",
    "Builder",
    "Graph",
    "Location",
    "Node",
    "OpDef",
    "TensorType",
    "ancestors",
    "delta_rule",
    "f32",
    "grad_rule",
    "graphs_equal",
    "lower_delta_act",
    "parse_graph",
    "parse_module",
    "parse_type",
    "print_graph",
    "print_module",
    "pruned",
    "rewrite",
    "sum_to",
    "verify",
]
