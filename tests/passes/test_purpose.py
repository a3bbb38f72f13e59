"""What each op is for: the sets are checked against the roles of matmuls and against names that a builder gave."""

from __future__ import annotations

import pytest

from pintac.ir import Graph
from pintac.passes import PassManager, PipelineOptions, default_pipeline
from pintac.passes.pipeline import QUANTISATIONS, SCHEMES
from pintac.report.purpose import NO_LAYER, PHASES, from_meta, layer_of, purposes, to_meta
from tests.passes.models import mlp, poisson
from tests.passes.networks import NETWORKS


def compiled(network: str, quant: str = "diff", scheme: str = "prs") -> Graph:
    return PassManager(default_pipeline(PipelineOptions(quant=quant, scheme=scheme))).run(
        poisson(NETWORKS[network], points=3)
    )


@pytest.mark.parametrize("quant", [q for q in QUANTISATIONS if q != "none"])
@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_matmuls_by_their_roles(network: str, quant: str) -> None:
    graph = compiled(network, quant)
    found = purposes(graph)
    assert {phase for _, phase in found.values()} <= set(PHASES)
    assert set(found) == {n.name for n in graph.nodes if n.op not in ("const", "scalar")}
    for node in graph.of("matmul", "matmul_tn"):
        roles = node.attrs["lhs_role"], node.attrs["rhs_role"]
        layer, phase = found[node.name]
        assert layer != NO_LAYER, node.name
        if roles == ("weight", "weight"):
            assert phase == "weights"
        elif roles in (("base", "weight"), ("delta", "weight")):
            assert phase == f"forward {roles[0]}"
        elif roles == ("grad", "weight"):
            assert phase.startswith("backward ") or phase == "weights backward"
            rows = {n.shape[:-1] for n in graph.of("matmul") if n.attrs["lhs_role"] == "delta"}
            if phase != "weights backward":
                assert phase == ("backward delta" if node.shape[:-1] in rows else "backward base")
        elif roles[0] == "weight":
            assert phase == "weights backward"
        else:
            assert phase == "weight gradient"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_layers_of_a_tensor_train(scheme: str) -> None:
    graph = compiled("tensor train", scheme=scheme)
    found = purposes(graph)
    for name, node in graph.states().items():
        layer, phase = found[node.name]
        assert layer == layer_of(name) and phase == ("optimizer" if name.startswith("adam.") else "weights")
    for key, node in graph.outputs.items():
        if key.startswith("state:"):
            assert found[node.name] == (layer_of(key.removeprefix("state:")), "optimizer")
    activations = [found[n.name] for n in graph.of("tanh")]
    assert {layer for layer, _ in activations} <= {layer_of(name) for name in graph.states()}
    assert {phase for _, phase in activations} <= {"forward base", "forward delta"}


def test_the_parts_of_a_step() -> None:
    graph = compiled("tensor train")
    found = purposes(graph)
    by_phase = {phase: [n for n in graph.nodes if n.name in found and found[n.name][1] == phase] for phase in PHASES}
    assert all(by_phase.values()), "every phase has an op"
    assert {n.attrs["stream"] for n in by_phase["perturbations"] if n.op == "random"} == {2}
    assert 2 not in {n.attrs["stream"] for n in by_phase["points"] if n.op == "random"}
    for key, node in graph.outputs.items():
        if not key.startswith("state:"):
            assert found[node.name] == (NO_LAYER, "residual"), key
    assert {n.op for n in by_phase["weight gradient"]} <= {"matmul_tn", "sum", "add", "reshape", "mul"}
    assert not [n for n in by_phase["optimizer"] if n.op in ("matmul", "matmul_tn", "sum")]
    sqrt = [found[n.name] for n in graph.of("sqrt")]
    assert {phase for _, phase in sqrt} == {"optimizer"} and len({layer for layer, _ in sqrt}) >= 2


def test_inference_is_forward_only() -> None:
    graph = compiled("tensor train")
    values = {key: node for key, node in graph.outputs.items() if not key.startswith("state:")}
    forward = Graph("infer", graph.nodes, values, graph.attrs)
    found = purposes(forward)
    assert {found[n.name][1] for n in graph.nodes if n.name in found and n.op != "state"} == {
        "points", "perturbations", "weights", "forward base", "forward delta",
    }  # fmt: skip


def test_layer_names() -> None:
    assert layer_of("2.cores.1") == layer_of("2.bias") == layer_of("adam.m:2.cores.1") == "2"
    assert layer_of("trunk.0.weight") == "trunk.0"
    assert layer_of("weight") == layer_of("adam.v:weight") == NO_LAYER
    assert layer_of("tt.0") == "tt"
    assert layer_of("problem.speed") == "problem"


def test_meta_is_read_back() -> None:
    graph = PassManager(default_pipeline()).run(poisson(mlp(8, 8, 1), points=3))
    meta = {"purposes": to_meta({"step": graph})}
    assert from_meta(meta, "step") == purposes(graph)
    assert from_meta(meta, "infer") == from_meta({}, "step") == {}
