"""Every pass that claims to preserve values does, on the steps of drawn networks and with drawn options."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pintac.errors import PassError
from pintac.ir import Builder, Graph, Node, rewrite
from pintac.passes import PASSES, NumericCheck, Pass, PassManager, Verify
from tests.conftest import GOLDEN
from tests.passes.drawn import before, passes_of

PRESERVING = sorted(name for name, pass_type in PASSES.items() if pass_type.preserves)


def check(pass_type: type[Pass], phases: Iterable[Phase] = tuple(Phase)) -> int:
    """Run the pass where it stands, under NumericCheck; on how many steps it had something to do. Raises PassError."""
    changed = 0

    @settings(max_examples=60, report_multiple_bugs=False, suppress_health_check=list(HealthCheck), phases=phases)
    @given(st.data())
    def on_a_step(data: st.DataObject) -> None:
        nonlocal changed
        graph = data.draw(before(pass_type.name))
        pass_ = data.draw(passes_of(pass_type, rare=False))
        changed += PassManager([pass_], [Verify("each"), NumericCheck()]).run(graph) is not graph

    on_a_step()
    return changed


@pytest.mark.parametrize("name", PRESERVING)
def test_a_pass_that_claims_to_preserve_values_does(name: str) -> None:
    assert check(PASSES[name]) > 0, "no step gave it anything to do: tests/passes/drawn.py needs a layer that does"


@dataclass(frozen=True)
class MergeScale(Pass):
    """(x c) d becomes x (c d), or what `merged` makes of c and d."""

    name: ClassVar[str] = "merge-scale"
    preserves: ClassVar[bool] = True

    def merged(self, c: float, d: float) -> float:
        return c * d

    def run(self, graph: Graph) -> Graph:
        def scale(node: Node) -> float | None:
            factor = node.operands[1] if node.op == "mul" else None
            if factor is None or factor.op != "const" or factor.type.size != 1:
                return None
            return float(factor.attrs["values"][0])  # type: ignore[index]

        def merge(b: Builder, node: Node, operands: tuple[Node, ...]) -> Node | None:
            first, second = scale(node), scale(operands[0]) if operands else None
            if first is None or second is None or operands[0].shape != node.shape:
                return None
            return b.mul(operands[0].operands[0], self.merged(second, first))

        return rewrite(graph, merge)


@dataclass(frozen=True)
class WrongMergeScale(MergeScale):
    """Adds where it should multiply."""

    def merged(self, c: float, d: float) -> float:
        return c + d


def test_a_wrong_pass_is_found() -> None:
    assert check(MergeScale) > 0
    with pytest.raises(PassError, match="merge-scale moved the output"):
        check(WrongMergeScale, [Phase.generate])


def test_every_pass_has_a_golden_file() -> None:
    names = [path.stem for path in (GOLDEN / "passes").glob("*.ir")]
    assert [name for name in PASSES if not any(stem == name or stem.startswith(f"{name}-") for stem in names)] == []
