"""Nothing that a program is made of is listed in the order of a set: nodes and buffers are hashed by their address."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pintac

ROOMS = ("backend", "ir", "passes")
PACKAGE = Path(pintac.__file__).parent
SOURCES = sorted(path for room in ROOMS for path in (PACKAGE / room).rglob("*.py"))
MAKERS = {"set", "frozenset", "union", "intersection", "difference", "symmetric_difference"}
OPERATORS = (ast.BitOr, ast.BitAnd, ast.Sub, ast.BitXor)
LISTS = {"list", "tuple", "enumerate"}


def listed_sets(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of loops, lists and dicts that go through what is seen to be a set inside its function.

    Other comprehensions are not among them: most end in a sum, a minimum or another set.
    """
    for scope in [tree, *(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))]:
        known = set(_named(scope)) if isinstance(scope, ast.FunctionDef) else set()
        for node in ast.walk(scope):
            for through in _gone_through(node):
                if _is_set(through, known):
                    yield through.lineno, ast.unparse(through)


def _gone_through(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.For):
        return [node.iter]
    if isinstance(node, (ast.ListComp, ast.DictComp)):
        return [generator.iter for generator in node.generators]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in LISTS:
        return node.args[:1]
    return []


def _is_set(node: ast.expr, known: set[str]) -> bool:
    if isinstance(node, ast.Call):
        made_by = getattr(node.func, "id", getattr(node.func, "attr", ""))
        return made_by in MAKERS
    if isinstance(node, ast.BinOp) and isinstance(node.op, OPERATORS):
        return _is_set(node.left, known) or _is_set(node.right, known)
    return isinstance(node, (ast.Set, ast.SetComp)) or (isinstance(node, ast.Name) and node.id in known)


def _named(function: ast.FunctionDef) -> Iterator[str]:
    """Parameters and variables that are sets by their annotation or by what they are first given."""
    arguments = function.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        if _says_set(argument.annotation):
            yield argument.arg
    for node in ast.walk(function):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _says_set(node.annotation):
            yield node.target.id
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and _is_set(node.value, set()):
            yield node.targets[0].id


def _says_set(annotation: ast.expr | None) -> bool:
    name = annotation.value if isinstance(annotation, ast.Subscript) else annotation
    return isinstance(name, ast.Name) and name.id in ("set", "frozenset")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_list_is_in_the_order_of_a_set(path: Path) -> None:
    assert not list(listed_sets(ast.parse(path.read_text())))


@pytest.mark.parametrize(
    "text",
    [
        "for x in {a, b}: pass",
        "[x for x in set(a)]",
        "{x: 1 for x in a.union(b)}",
        "list({x for x in a})",
        "def f(a: set[int]):\n    for x in a - b: pass",
        "def f():\n    found = frozenset(a)\n    return [x for x in found]",
        "def f():\n    found: set[int] = g()\n    return tuple(found)",
    ],
)
def test_a_list_in_the_order_of_a_set_is_seen(text: str) -> None:
    assert len(list(dict.fromkeys(listed_sets(ast.parse(text))))) == 1


@pytest.mark.parametrize("text", ["for x in sorted({a, b}): pass", "sum(x for x in set(a))", "{x for x in set(a)}"])
def test_what_does_not_depend_on_it_is_left_alone(text: str) -> None:
    assert not list(listed_sets(ast.parse(text)))
