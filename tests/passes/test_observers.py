"""Observers: dumps, times, verification, numeric checks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from pintac.errors import IRError, PassError
from pintac.ir import Graph, rewrite
from pintac.ir.text import parse_graph
from pintac.passes import Dump, NumericCheck, Pass, PassManager, Timing, Verify
from pintac.passes.observers import write_whole
from tests.passes.models import mlp, poisson

PIPELINE = "expand-operators,split-stein,reorder-tt,dce"


@dataclass(frozen=True)
class Swap(Pass):
    """Turns additions into subtractions and claims that nothing changed."""

    name: ClassVar[str] = "swap"
    preserves: ClassVar[bool] = True

    def run(self, graph: Graph) -> Graph:
        return rewrite(graph, lambda b, node, ops: b.sub(*ops) if node.op == "add" else None)


@dataclass(frozen=True)
class Break(Pass):
    """Leaves a graph in which two nodes have one name."""

    name: ClassVar[str] = "break"

    def run(self, graph: Graph) -> Graph:
        last = graph.nodes[-1]
        renamed = dataclasses.replace(last, name=graph.nodes[0].name)
        outputs = {key: renamed if node is last else node for key, node in graph.outputs.items()}
        return Graph(graph.name, (*graph.nodes[:-1], renamed), outputs, graph.attrs)


def test_dumps_after_all_passes_can_be_read_and_compared(tmp_path: Path) -> None:
    graph = poisson(mlp(3, 1))
    for folder in ("one", "two"):
        PassManager(PIPELINE, [Dump(everything=True, directory=tmp_path / folder)]).run(graph)
    names = [
        "000-input.ir",
        "001-expand-operators.ir",
        "002-split-stein.ir",
        "003-reorder-tt.ir",
        "004-dce.ir",
    ]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == names
    for name in names:
        text = (tmp_path / "one" / name).read_text()
        assert str(parse_graph(text)) == text
        assert (tmp_path / "two" / name).read_text() == text


def test_dumps_after_one_pass_and_after_change(tmp_path: Path) -> None:
    graph = poisson(mlp(3, 1))
    result = PassManager(PIPELINE, [Dump(["split-stein"], directory=tmp_path / "one")]).run(graph)
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["002-split-stein.ir"]
    assert (tmp_path / "one" / "002-split-stein.ir").read_text() == str(result)
    PassManager(PIPELINE, [Dump(on_change=True, directory=tmp_path / "two")]).run(graph)
    changed = ["000-input.ir", "001-expand-operators.ir", "002-split-stein.ir"]
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == changed


def test_dumps_to_a_stream() -> None:
    written: list[str] = []
    PassManager(PIPELINE, [Dump(["dce"], write=written.append)]).run(poisson(mlp(3, 1)))
    assert len(written) == 1 and written[0].startswith("// ---- 004-dce\ngraph @step")


def test_a_dump_after_a_pass_that_does_not_run() -> None:
    with pytest.raises(PassError, match="'insert-smx' whose result to dump is not in the pipeline"):
        PassManager(PIPELINE, [Dump(["insert-smx"], write=print)]).run(poisson(mlp(3, 1)))


def test_a_dump_is_whole_or_not_there(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.ir", "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "a.ir", "new \ud800")
    assert (tmp_path / "a.ir").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.ir"]
    with pytest.raises(PassError, match="cannot write"):
        write_whole(tmp_path / "a.ir" / "b.ir", "text")


def test_times() -> None:
    ticks = iter([0.0, 1.0, 10.0, 13.0])
    timing = Timing(lambda: next(ticks))
    PassManager("expand-operators,dce", [timing]).run(poisson(mlp(3, 1)))
    assert [(name, seconds) for name, seconds, _ in timing.rows] == [("expand-operators", 1.0), ("dce", 3.0)]
    lines = str(timing).splitlines()
    assert lines[0].split() == ["pass", "seconds", "share", "nodes"]
    assert lines[1].split()[:3] == ["expand-operators", "1.0000", "25.0%"]
    assert lines[-1].split() == ["total", "4.0000"]


def test_verification_names_what_a_pass_broke() -> None:
    graph = poisson(mlp(3, 1))
    for mode in ("each", "ends"):
        with pytest.raises(IRError, match="two nodes are called"):
            PassManager([Break()], [Verify(mode)]).run(graph)
    PassManager([Break()], [Verify("none")]).run(graph)
    with pytest.raises(PassError, match="verify cannot be 'eech'"):
        Verify("eech")


def test_the_numeric_check_catches_a_pass_that_changes_values() -> None:
    graph = PassManager(PIPELINE).run(poisson(mlp(3, 1)))
    with pytest.raises(PassError, match="swap moved the output 'residual:interior'"):
        PassManager([Swap()], [NumericCheck()]).run(graph)


def test_the_numeric_check_passes_what_is_right() -> None:
    check = NumericCheck(1e-9)
    PassManager("expand-operators,split-stein", [check]).run(poisson(mlp(3, 1)))
    assert list(check.errors) == ["split-stein"] and check.errors["split-stein"] < 1e-9
