"""Packed rows: the same numbers in exact arithmetic, full blocks, and nothing packed that must not be."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pintac.backend.grouping.axes import UNROLLED_PAIRS
from pintac.ir import Builder, Graph
from pintac.ir.verify import verify
from pintac.passes import parse_pipeline
from pintac.passes.canonicalize import Canonicalize
from pintac.passes.pack_rows import MOST_PAIRS, PackRows
from tests.passes.models import LOC, distance, poisson, run, values
from tests.passes.networks import NETWORKS

PIPELINE = (
    "expand-operators,split-stein{form=%s},reorder-tt,differentiate,expand-optimizer,lower-delta,insert-smx,"
    "canonicalize,dce,fold-accumulate"
)


def quantised(network: str, evaluations: int, form: str = "even-odd", points: int = 6) -> Graph:
    estimator = {"kind": "second-difference", "K": evaluations, "sigma": 0.05}
    return run(poisson(NETWORKS[network], points=points, estimator=estimator), *parse_pipeline(PIPELINE % form))


def perturbed(graph: Graph) -> list[tuple[int, ...]]:
    return [node.shape for node in graph.of("quantize") if node.type.rank == 4]


@pytest.mark.parametrize("evaluations", [2, 4, 6, 10, 14])
@pytest.mark.parametrize("network", sorted(NETWORKS.keys() - {"one layer"}))  # linear: it has no differences
def test_packing_changes_nothing_but_blocks(network: str, evaluations: int) -> None:
    graph = quantised(network, evaluations)
    packed = verify(run(graph, PackRows(), Canonicalize()))
    assert perturbed(graph) and not perturbed(packed)
    exact, same = values(graph), values(packed)
    assert exact.keys() == same.keys()
    assert all(distance(exact[key], same[key]) < 1e-12 for key in exact)
    before, after = values(graph, "smx"), values(packed, "smx")
    assert any((before[key] != after[key]).any() for key in before)


def test_blocks_are_full() -> None:
    """Two pairs of six points are twelve rows: three rows of blocks, not six."""
    packed = run(quantised("mlp", 4), PackRows())
    rows = {q.shape[0] for q in packed.of("quantize") if any(user.op == "matmul_tn" for user in packed.users(q))}
    assert rows == {12, 6}  # of evaluations, and of points and boundary points
    assert all(q.type.padded_shape[-2] == 12 for q in packed.of("quantize") if q.shape[0] == 12)


@pytest.mark.parametrize(
    ("evaluations", "form", "points"),
    [(8, "even-odd", 6), (16, "even-odd", 6), (18, "even-odd", 6), (4, "plus-minus", 6), (4, "even-odd", 1)],
    ids=["full blocks", "two full blocks", "a loop over pairs", "both signs", "one point"],
)
def test_what_stays_apart(evaluations: int, form: str, points: int) -> None:
    graph = quantised("mlp", evaluations, form, points)
    assert perturbed(graph)
    assert PackRows().run(graph) is graph


def test_a_second_time_there_is_nothing_to_do() -> None:
    packed = PackRows().run(quantised("tensor train", 4))
    assert PackRows().run(packed) is packed


def test_the_backend_takes_as_many_pairs_whole() -> None:
    assert MOST_PAIRS == UNROLLED_PAIRS


def test_golden(golden: Callable[[str, str], None]) -> None:
    """A product of the rows of 6 points with two pairs, read forward and by a weight gradient."""
    b = Builder("g")
    with b.at(LOC):
        d, w = b.quantize(b.input("d", (6, 1, 2, 8)), 8), b.quantize(b.state("w", (8, 4)), 8)
        z = b.matmul(d, w, lhs_role="delta", rhs_role="weight")
        b.output("z", b.tanh(z))
        b.output("g", b.matmul_tn(d, b.quantize(z, 12), lhs_role="delta", rhs_role="grad"))
    golden("passes/pack-rows.ir", str(PackRows().run(b.finish())))
