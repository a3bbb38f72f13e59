"""The default pipeline as a whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from pintac.ir import Builder
from pintac.ir.text import parse_graph
from pintac.passes import NumericCheck, PassManager, PipelineOptions, Verify, default_pipeline
from pintac.passes.pipeline import QUANTISATIONS, SCHEMES
from tests.passes.models import LOC, distance, linear, mlp, poisson, tt_linear, values
from tests.passes.networks import NETWORKS


@pytest.mark.parametrize(("quant", "scheme", "saved"), list(itertools.product(QUANTISATIONS, SCHEMES, ("smx", "f32"))))
def test_every_switch_gives_the_same_step_in_float64(quant: str, scheme: str, saved: str) -> None:
    """Next states and metrics, from the frontend's graph to the backend's, checked after every pass."""
    options = PipelineOptions(quant=quant, scheme=scheme, saved=saved)
    graph = poisson(NETWORKS["tensor train"], points=3)
    found = values(PassManager(default_pipeline(options), [Verify("each"), NumericCheck()]).run(graph))
    plain = PipelineOptions(quant="none", scheme="dense")
    expected = values(PassManager(default_pipeline(plain)).run(graph))
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert distance(value, found[key]) < 1e-9 or np.abs(value - found[key]).max() < 1e-12


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_two_runs_give_equal_text_that_is_read_back(network: str) -> None:
    texts = [str(PassManager(default_pipeline()).run(poisson(NETWORKS[network], points=3))) for _ in range(2)]
    assert texts[0] == texts[1] == str(parse_graph(texts[0]))


def test_quantisation_noise_shrinks_with_the_bits() -> None:
    graph = poisson(mlp(8, 8, 1), points=3)
    exact = values(PassManager(default_pipeline(PipelineOptions(quant="none"))).run(graph))
    errors = []
    for bits in ("4/4/4/4", "8/8/8/8", "12/12/12/12", "16/16/16/16"):
        result = values(PassManager(default_pipeline(PipelineOptions.from_bits(bits))).run(graph), "smx")
        key = "state:adam.m:1.weight"  # 0.1 of the gradient, for moments that start small
        errors.append(distance(exact[key], result[key].astype(np.float64)))
    assert all(small < 0.5 * large for large, small in itertools.pairwise(errors))


def test_the_entry_for_inference() -> None:
    b = Builder("infer")
    with b.at(LOC):
        x = b.input("x", (5, 2))
        h = b.tanh(linear(b, x, "0", 6))
        h = b.tanh(tt_linear(b, h, "1", (2, 3), (2, 2), (2, 3, 2)))
        b.output("u", linear(b, h, "2", 1))
    graph = b.finish()
    result = PassManager(default_pipeline(), [Verify("each")]).run(graph)
    assert list(result.outputs) == ["u"]
    bits = {(str(node.attrs["lhs_role"]), node.operands[0].type.bits) for node in result.of("matmul")}
    assert bits == {("base", 16), ("weight", 8)}


def test_golden(golden: Callable[[str, str], None]) -> None:
    golden("passes/default-pipeline.ir", str(PassManager(default_pipeline()).run(poisson(mlp(3, 1), points=3))))
