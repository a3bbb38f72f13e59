"""The text form of graphs: the parser, the inverse of `print_graph`, and comparison.

`parse_graph(print_graph(g))` equals g structurally, and canonical text prints back to itself. Strings are JSON strings,
floats print so that they read back to the same bits. Errors point at file, line and column of the text.
"""

from __future__ import annotations

import json
import math
from functools import cache
from importlib import resources
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from pintac.errors import IRError, suggest
from pintac.ir.builder import Builder
from pintac.ir.graph import Graph, Location, Node
from pintac.ir.ops import OPS
from pintac.ir.types import DTYPES, TensorType
from pintac.ir.words import json_text

_WORDS = {"true": True, "false": False, "null": None, "inf": math.inf, "-inf": -math.inf, "nan": math.nan}

# ---------------------------------------------------------------------------------------------- comparing


def graphs_equal(a: Graph, b: Graph) -> bool:
    """Structural equality, in order: names, ops, operands, attributes to the bit, types, locations, outputs, meta."""
    return _structure(a) == _structure(b)


def _structure(graph: Graph) -> tuple[object, ...]:
    nodes = [
        (
            node.name,
            node.op,
            [operand.name for operand in node.operands],
            [(name, repr(value)) for name, value in node.attrs.items()],  # repr: tells -0.0 from 0.0, nan is nan
            node.type,
            node.loc,
        )
        for node in graph.nodes
    ]
    outputs = [(key, node.name) for key, node in graph.outputs.items()]
    return graph.name, nodes, outputs, json_text(graph.attrs)


# ---------------------------------------------------------------------------------------------- parsing


def parse_graph(text: str, file: str = "<text>") -> Graph:
    """The one graph of `text`; raises IRError at `file`:line:col."""
    graphs = parse_module(text, file)
    if len(graphs) != 1:
        raise IRError(f"expected one graph, found {len(graphs)}", location=Location(file, 1))
    return next(iter(graphs.values()))


def parse_module(text: str, file: str = "<text>") -> dict[str, Graph]:
    """The graphs of `text` by name; raises IRError at `file`:line:col."""
    try:
        tree = _parser().parse(text)
    except UnexpectedInput as error:
        raise _syntax_error(error, text, file) from None
    graphs: dict[str, Graph] = {}
    for child in tree.children:
        assert isinstance(child, Tree)
        reader = _Reader(file)
        graph = reader.graph(child)
        if graph.name in graphs:
            name = child.children[0]
            assert isinstance(name, Token)
            raise reader.error(f"a second graph @{graph.name}", name)
        graphs[graph.name] = graph
    return graphs


@cache
def _parser() -> Lark:
    grammar = resources.files("pintac.ir").joinpath("ir.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", maybe_placeholders=False)


_READABLE = {
    "GLOBAL": "a graph name such as @step", "VALUE": "a value such as %x", "WORD": "a word", "STRING": "a string",
    "INT": "an integer", "FLOAT": "a number", "LBRACE": "'{'", "RBRACE": "'}'", "LPAR": "'('", "RPAR": "')'",
    "LSQB": "'['", "RSQB": "']'", "EQUAL": "'='", "COLON": "':'", "COMMA": "','", "LOC": "'loc'", "GRAPH": "'graph'",
    "OUTPUT": "'output'", "$END": "the end of the text",
}  # fmt: skip


def _syntax_error(error: UnexpectedInput, text: str, file: str) -> IRError:
    if isinstance(error, UnexpectedToken) and error.token.type != "$END":
        place = Location(file, error.line, error.column)
        found, expected = repr(str(error.token)), set(error.accepts or error.expected)
    elif isinstance(error, UnexpectedCharacters):
        place = Location(file, error.line, error.column)
        found, expected = repr(error.char), set(error.allowed or ())
    else:
        place = Location(file, text.count("\n") + 1, len(text) - text.rfind("\n"))
        found, expected = "the end of the text", set(getattr(error, "expected", ()))
    names = " or ".join(sorted(_READABLE.get(name, name) for name in expected))
    return IRError(f"unexpected {found}", location=place, hint=f"expected {names}" if names else None)


class _Reader:
    """Builds one graph from its syntax tree; every problem is reported at its place in the text."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.values: dict[str, Node] = {}

    def error(self, message: str, token: Token, hint: str | None = None) -> IRError:
        return IRError(message, location=Location(self.file, token.line or 0, token.column or 0), hint=hint)

    def graph(self, tree: Tree[Token]) -> Graph:
        name, *body = tree.children
        builder = Builder(str(name)[1:])
        for item in body:
            assert isinstance(item, Tree)
            if item.data == "meta":
                builder.attrs.update(self.pairs(item))
            elif item.data == "output":
                key, value = item.children
                assert isinstance(key, Token) and isinstance(value, Token)
                try:
                    builder.output(self.string(key), self.value(value))
                except IRError as error:
                    raise self.error(error.message, key, error.hint) from None
            else:
                self.node(builder, item)
        return builder.finish()

    def node(self, builder: Builder, tree: Tree[Token]) -> None:
        target, op, *rest = tree.children
        assert isinstance(target, Token) and isinstance(op, Token)
        name = str(target)[1:]
        if name in self.values:
            raise self.error(f"%{name} is defined a second time", target)
        if str(op) not in OPS:
            raise self.error(f"unknown op {str(op)!r}", op, suggest(str(op), list(OPS)))
        parts = {str(part.data): part for part in rest if isinstance(part, Tree)}
        operands = [self.value(token) for token in rest if isinstance(token, Token)]
        attrs = self.pairs(parts["attrs"]) if "attrs" in parts else {}
        file, line, *column = (part for part in parts["location"].children if isinstance(part, Token))
        loc = Location(self.string(file), int(line), int(column[0]) if column else 0)
        try:
            node = builder.add_op(str(op), operands, attrs, loc=loc, name=name)
        except IRError as error:
            raise self.error(error.message, op, error.hint) from None
        self.check_type(node, parts["type"])
        self.values[name] = node

    def check_type(self, node: Node, tree: Tree[Token]) -> None:
        dtype, *sizes = tree.children
        assert isinstance(dtype, Token)
        if str(dtype) not in DTYPES:
            raise self.error(f"unknown element type {str(dtype)!r}", dtype, suggest(str(dtype), list(DTYPES)))
        try:
            stated = TensorType(str(dtype), tuple(int(str(size)) for size in sizes))
        except IRError as error:
            raise self.error(error.message, dtype, error.hint) from None
        if stated != node.type:
            raise self.error(f"%{node.name} is stated to be {stated}, {node.op} makes {node.type}", dtype)

    def value(self, token: Token) -> Node:
        name = str(token)[1:]
        if name not in self.values:
            known = ["%" + other for other in self.values]
            hint = suggest(str(token), known) if len(known) <= 40 else "values are defined before they are used"
            raise self.error(f"%{name} is not defined here", token, hint)
        return self.values[name]

    # ---- attributes and meta

    def pairs(self, tree: Tree[Token]) -> dict[str, Any]:
        """`key=value` entries, `"key": value` members."""
        result: dict[str, Any] = {}
        for entry in tree.children:
            assert isinstance(entry, Tree)
            key, value = entry.children
            token = key.children[0] if isinstance(key, Tree) else key
            assert isinstance(token, Token)
            name = self.string(token) if token.type == "STRING" else str(token)
            if name in result:
                raise self.error(f"{name!r} is given a second time", token)
            result[name] = self.literal(value)
        return result

    def literal(self, tree: Tree[Token] | Token) -> Any:
        assert isinstance(tree, Tree)
        if tree.data == "tuple":
            return tuple(self.literal(item) for item in tree.children)
        if tree.data == "array":
            return [self.literal(item) for item in tree.children]
        if tree.data == "object":
            return self.pairs(tree)
        token = tree.children[0]
        assert isinstance(token, Token)
        if tree.data == "int":
            return int(token)
        if tree.data == "float":
            return float(token)
        if tree.data == "string":
            return self.string(token)
        if str(token) not in _WORDS:
            raise self.error(f"{str(token)!r} is not a value", token, f'a string is written "{token}"')
        return _WORDS[str(token)]

    def string(self, token: Token) -> str:
        try:
            text = json.loads(str(token))
        except ValueError:
            raise self.error(f"not a string: {token}", token, "escapes are those of JSON") from None
        assert isinstance(text, str)
        return text
