"""The verifier: every rule a graph must keep, all violations reported at once."""

from __future__ import annotations

import json
import re

from pintac.errors import IRError
from pintac.ir.attrs import integer, ints, normalize_attrs
from pintac.ir.graph import Graph, ancestors
from pintac.ir.node import NAME, Location, Node
from pintac.ir.ops import OPS, REDUCTIONS
from pintac.ir.type_rules import infer_type

_GRAPH_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*\Z")

_ROWWISE = ("decode", "difference", "matmul", "tt_matmul", "perturb")
"""Ops besides the elementwise ones whose rows (axis -2) are those of their operands' rows."""

_SPANS = "a quantised block spans row groups"
ROWS_APART = (
    "concat and pad make groups of rows: evaluate each set of points by itself, u(xl) - u(xr) instead of the halves of"
    " u(torch.cat([xl, xr]))"
)


def verify(graph: Graph) -> Graph:
    """Check every rule of the IR and return the graph, so that calls chain.

    Raises one IRError that lists all problems, each with its source location: names, topological order, locations,
    attributes, types, outputs, states, derivatives only of what depends on the points, and no quantised block over two
    groups of rows (NUMERICS 4).
    """
    problems = _structure(graph)
    if not problems:  # these rules read the attributes of well-formed nodes
        problems = [*_interface(graph), *_operators(graph), *_row_groups(graph)]
    if not problems:
        return graph
    listed = [f"{place}: {text}" if place is not None else text for place, text in problems]
    first = next((place for place, _ in problems if place is not None), None)
    hint = ROWS_APART if any(_SPANS in text for _, text in problems) else None
    if len(listed) == 1:
        raise IRError(f"invalid graph @{graph.name}: {problems[0][1]}", location=first, hint=hint)
    text = f"invalid graph @{graph.name}, {len(listed)} problems:\n  " + "\n  ".join(listed)
    raise IRError(text, location=first, hint=hint)


Problems = list[tuple[Location | None, str]]


def _structure(graph: Graph) -> Problems:
    """Names, order, locations, attributes and types of the nodes."""
    problems: Problems = []
    if not _GRAPH_NAME.match(graph.name):
        problems.append((None, f"the graph's name {graph.name!r} cannot be written in the text form"))
    names: set[str] = set()
    seen: set[Node] = set()
    for node in graph.nodes:
        place = node.loc if isinstance(node.loc, Location) else None
        if place is None or not place.file or place.line < 0:
            problems.append((None, f"%{node.name} has no location"))
        if node in seen:
            problems.append((place, f"%{node.name} is listed twice"))
        elif node.name in names:
            problems.append((place, f"two nodes are called %{node.name}"))
        elif not NAME.match(node.name):
            problems.append((place, f"the name {node.name!r} cannot be written in the text form"))
        problems += [
            (place, f"%{node.name} reads %{operand.name}, which does not come before it")
            for operand in node.operands
            if operand not in seen
        ]
        problems += [(place, f"%{node.name}: {text}") for text in _node(node)]
        names.add(node.name)
        seen.add(node)
    return problems


def _node(node: Node) -> list[str]:
    if node.op not in OPS:
        return [f"unknown op {node.op!r}"]
    try:
        attrs = normalize_attrs(node.op, OPS[node.op].attrs, node.attrs)
        type_ = infer_type(node.op, [operand.type for operand in node.operands], attrs)
    except IRError as error:
        return [error.message + (f" ({error.hint})" if error.hint else "")]
    problems = []
    if repr(dict(attrs)) != repr(dict(node.attrs)):
        problems.append("its attributes are not in canonical form; build nodes with a Builder")
    if type_ != node.type:
        problems.append(f"its type is {node.type}, {node.op} makes {type_}")
    return problems


def _interface(graph: Graph) -> Problems:
    """Outputs, states and meta."""
    problems: Problems = []
    members = set(graph.nodes)
    named: dict[str, Node] = {}
    for node in graph.of("state", "input", "data"):
        name = str(node.attrs["name"])
        if name in named:
            problems.append((node.loc, f"two of the states, inputs and data are called {name!r}"))
        named[name] = node
    for key, node in graph.outputs.items():
        if node not in members:
            problems.append((node.loc, f"the output {key!r} is not a node of the graph"))
        elif key.startswith("state:"):
            state = named.get(key.removeprefix("state:"))
            if state is None or state.op != "state":
                problems.append((node.loc, f"the output {key!r} is the next value of a state that does not exist"))
            elif state.type != node.type:
                problems.append((node.loc, f"the output {key!r} is {node.type}, the state {state.type}"))
    try:
        json.dumps(dict(graph.attrs))
    except (TypeError, ValueError) as error:
        problems.append((None, f"the graph's attrs are not JSON: {error}"))
    return problems


def _operators(graph: Graph) -> Problems:
    """Derivatives are of something that depends on the points."""
    problems: Problems = []
    for node in graph.of("gradient", "laplacian"):
        y, x = node.operands
        if x not in ancestors(y):
            problems.append((node.loc, f"%{node.name}: %{y.name} does not depend on %{x.name}"))
    return problems


def _row_groups(graph: Graph) -> Problems:
    """A block mixes four rows: concatenated groups must start on block boundaries where they are quantised."""
    problems: Problems = []
    breaks: dict[Node, frozenset[int]] = {}
    for node in graph.nodes:
        breaks[node] = _row_breaks(node, breaks)
        if node.op == "quantize":
            for row in sorted(row for row in breaks[node] if row % node.type.block[0])[:1]:
                text = f"{_SPANS}, a group starts at row {row} of {node.shape[-2]}"
                problems.append((node.loc, f"%{node.name}: {text}"))
    return problems


def _row_breaks(node: Node, breaks: dict[Node, frozenset[int]]) -> frozenset[int]:
    """The rows (axis -2) of a value at which another group begins, as far as concat made them."""
    rank = node.type.rank
    if rank < 2 or not node.operands:
        return frozenset()
    first = node.operands[0]
    category = OPS[node.op].category
    if node.op == "concat":
        if integer(node.attrs, "axis") != rank - 2:
            return frozenset().union(*(breaks[operand] for operand in node.operands))
        result: set[int] = set()
        start = 0
        for operand in node.operands:
            result |= {start + row for row in breaks[operand]} | ({start} if start else set())
            start += operand.shape[-2]
        return frozenset(result)
    if node.op in ("slice", "pad"):
        if integer(node.attrs, "axis") != rank - 2:
            return breaks[first]
        if node.op == "pad":
            before = integer(node.attrs, "before")
            return frozenset(row + before for row in breaks[first]) | (frozenset({before}) if before else frozenset())
        start, stop = integer(node.attrs, "start"), integer(node.attrs, "stop")
        return frozenset(row - start for row in breaks[first] if start < row < stop)
    if category in ("elementwise", "precision") or node.op in _ROWWISE:
        rows = node.shape[-2]
        sources = [operand for operand in node.operands if operand.type.rank >= 2 and operand.shape[-2] == rows]
        if node.op in ("matmul", "tt_matmul"):
            sources = [first]
        return frozenset().union(*(breaks[operand] for operand in sources))
    if node.op == "reshape" and first.type.rank >= 2 and first.shape[-2:] == node.shape[-2:]:
        return breaks[first]
    if node.op == "broadcast" and first.type.rank >= 2 and first.shape[-2] == node.shape[-2]:
        return breaks[first]
    if node.op in REDUCTIONS and node.attrs["keepdims"] and rank - 2 not in ints(node.attrs, "axes"):
        return breaks[first]
    return frozenset()
