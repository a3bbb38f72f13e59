"""Precision: what is quantised, with how many bits, how often, and what must not be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from pintac.errors import PassError
from pintac.ir import Builder, Graph, Node, ancestors
from pintac.ir.verify import verify
from pintac.passes import default_pipeline, parse_pipeline
from pintac.passes.canonicalize import Canonicalize
from pintac.passes.dataflow import descendants
from pintac.passes.insert_smx import InsertSMX, forward_nodes
from pintac.passes.pipeline import PipelineOptions
from pintac.passes.sampling import STREAM_DELTA
from tests.passes.models import LOC, distance, mlp, poisson, run, values
from tests.passes.networks import NETWORKS

BEFORE = "expand-operators,split-stein{form=%s},reorder-tt{order=%s},differentiate,lower-delta"


def before(network: str, form: str = "plus-minus", order: str = "prs") -> Graph:
    return run(poisson(NETWORKS[network], points=3), *parse_pipeline(BEFORE % (form, order)))


def smx(network: str, form: str = "plus-minus", order: str = "prs", **options: object) -> Graph:
    return verify(InsertSMX(**options).run(before(network, form, order)))  # type: ignore[arg-type]


FORMS = ("plus-minus", "even-odd", "none")
EVERY = [(network, form) for network in sorted(NETWORKS) for form in FORMS]


@pytest.mark.parametrize(("network", "form"), EVERY)
def test_every_matmul_reads_smx_and_every_value_is_quantised_once(network: str, form: str) -> None:
    graph = smx(network, form)
    for node in graph.of("matmul", "matmul_tn"):
        assert node.operands[0].type.is_smx and node.operands[1].type.is_smx
    counts = Counter(node.operands[0] for node in graph.of("quantize"))
    assert set(counts.values()) == {1}
    merged = Canonicalize().run(graph)
    assert set(Counter(node.operands[0] for node in merged.of("quantize")).values()) == {1}


@pytest.mark.parametrize(("network", "form"), EVERY)
def test_bits_follow_roles(network: str, form: str) -> None:
    bits = {"weight": 4, "base": 16, "delta": 8, "grad": 12}
    graph = smx(network, form, **bits)
    for node in graph.of("matmul", "matmul_tn"):
        for operand, role in zip(node.operands, ("lhs_role", "rhs_role"), strict=False):
            assert operand.type.bits == bits[str(node.attrs[role])]


def test_weights_are_quantised_once_a_step() -> None:
    """Two terms, base and perturbed rows, forward and backward: one Q(W)."""
    graph = smx("mlp")
    for name in ("0.weight", "1.weight", "2.weight"):
        codes = [node for node in graph.of("quantize") if node.operands[0] is graph.states()[name]]
        assert len(codes) == 1
    readers = graph.users(next(n for n in graph.of("quantize") if n.operands[0] is graph.states()["1.weight"]))
    assert len(readers) == 3 + 3  # forward and backward: interior base and delta, boundary base


def test_both_gradients_read_one_quantised_adjoint() -> None:
    graph = smx("mlp")
    for node in graph.of("matmul_tn"):
        g = node.operands[1]
        assert g.op == "quantize" and g.type.bits == 12
        weight_inputs = [user for user in graph.users(g) if user.op == "matmul"]
        first_layer = node.type.shape[0] == 2
        assert len(weight_inputs) == (0 if first_layer else 1)


def backward_reads(graph: Graph) -> list[tuple[Node, Node]]:
    """(reader, value): forward values that backward nodes other than matmuls read; what makes codes is forward."""
    forward = forward_nodes(graph) | ancestors(*(node.operands[0] for node in graph.of("decode")))
    return [
        (node, operand)
        for node in graph.nodes
        if node not in forward and node.op not in ("matmul", "matmul_tn", "quantize", "decode")
        for operand in node.operands
        if operand in forward
    ]


def depends_on_trained_perturbed_rows(graph: Graph) -> set[Node]:
    first = [node for node in graph.of("matmul") if node.attrs["lhs_role"] == "delta" and node in forward_nodes(graph)]
    return descendants(graph, first)


@pytest.mark.parametrize(("network", "form"), EVERY)
def test_backward_reads_no_wide_perturbed_value_in_fp32(network: str, form: str) -> None:
    """Everything of the perturbed path that backward reads comes out of a quantised tensor."""
    graph = smx(network, form)
    perturbed = depends_on_trained_perturbed_rows(graph)
    rows = [node for node in graph.of("matmul") if node in forward_nodes(graph) and node.attrs["lhs_role"] == "delta"]
    inside = ancestors(*(node.operands[0] for node in rows))
    offending = [(reader, value) for reader, value in backward_reads(graph) if value in perturbed & inside]
    assert offending == []


def test_saved_activations_are_what_the_forward_matmul_read() -> None:
    graph = smx("mlp")
    decoded = graph.of("decode")
    assert [node.shape for node in decoded] == [(3, 2, 4, 5), (3, 2, 4, 7)]
    for node in decoded:
        code = node.operands[0]
        readers = [user for user in graph.users(code) if user.op == "matmul"]
        assert code.type.bits == 8 and [reader.attrs["lhs_role"] for reader in readers] == ["delta"]
        assert any(user.op == "matmul_tn" for user in graph.users(code))


def test_backward_reads_pairs_from_their_saved_halves() -> None:
    """c+ and c- of an activation are b' + a' and b' - a' of the codes that the next matmuls read.

    The Laplacian needs no odd half of u: that of the last activation is made for backward alone.
    """
    graph = smx("mlp", "even-odd")
    decoded = graph.of("decode")
    assert sorted(node.shape for node in decoded) == [(3, 1, 4, 5)] * 2 + [(3, 1, 4, 7)] * 2
    read = [any(user.op == "matmul" for user in graph.users(node.operands[0])) for node in decoded]
    assert read.count(True) == 3
    assert all(node.operands[0].operands[0].op == "mul" for node in decoded)  # halves, no activations
    restored = [n for n in graph.of("add", "sub") if {operand.op for operand in n.operands} == {"decode"}]
    assert sorted(n.op for n in restored) == ["add", "add", "sub", "sub"]


def test_values_that_no_matmul_reads_get_a_quantisation_of_their_own() -> None:
    """sin: its derivative reads the pre-activation D."""
    graph = smx("sin")
    own = [node for node in graph.of("quantize") if not any("matmul" in user.op for user in graph.users(node))]
    assert [(node.operands[0].op, node.type.bits) for node in own] == [("matmul", 8)] * 2


def test_a_sum_with_base_rows_is_restored_from_its_delta() -> None:
    """Products: the factor Y + dY of a gradient is base rows plus the saved dY, not a quantised sum."""
    graph = smx("gated")
    forward = forward_nodes(graph)
    factors = [
        node
        for node in graph.of("add")
        if node not in forward and [operand.op for operand in node.operands] == ["reshape", "decode"]
    ]
    products = [node for node in factors if any(user.op == "mul" for user in graph.users(node))]
    assert products
    sums = [node for node in graph.of("add") if node in forward and node.type.rank == 4]
    quantised = {node.operands[0] for node in graph.of("quantize") if not _read_by_matmul(graph, node)}
    mixed = [node for node in sums if any(operand.op == "reshape" for operand in node.operands)]
    assert mixed and not quantised & set(mixed)


def _read_by_matmul(graph: Graph, code: Node) -> bool:
    return any(user.op == "matmul" for user in graph.users(code))


def test_sequential_layers_save_through_their_views() -> None:
    """The value that backward reads is a permutation of what the first core's matmul read: one quantisation."""
    graph = smx("tensor train", order="sequential")
    restored = []
    for node in graph.of("permute"):
        source = node.operands[0]
        while source.op == "reshape":
            source = source.operands[0]
        restored += [source] if source.op == "decode" else []
    assert len(restored) == 1
    readers = [user for user in graph.users(restored[0].operands[0]) if user.op == "matmul"]
    assert [reader.shape for reader in readers] == [(3, 2, 4, 3, 2)]  # rows, second factor, first bond
    assert set(Counter(node.operands[0] for node in graph.of("quantize")).values()) == {1}


@pytest.mark.parametrize("form", FORMS)
def test_estimator_and_loss_are_never_quantised(form: str) -> None:
    graph = smx("mlp", form)
    draws = [node for node in graph.of("random") if node.attrs["stream"] == STREAM_DELTA]
    quantised = {node.operands[0] for node in graph.of("quantize")}
    residual = graph.outputs["metric:loss:interior"]
    above = ancestors(residual)
    last = [node for node in graph.of("matmul") if node.shape[-1] == 1 and node.type.rank == 4 and node in above]
    after = descendants(graph, last) & above
    assert draws and last and not after & quantised
    assert not any(node.op == "decode" for node in after)
    weights = [user for draw in draws for user in graph.users(draw)]
    assert all(user.op in ("mul", "reshape") for user in weights)


def test_base_rows_are_saved_in_fp32() -> None:
    graph = smx("mlp")
    assert all(node.type.rank == 4 for node in graph.of("decode"))
    base = [value for _, value in backward_reads(graph) if value.op == "tanh" and value.type.rank == 2]
    assert base


def test_saved_f32_is_the_ablation() -> None:
    graph = smx("mlp", saved="f32")
    assert not graph.of("decode")
    assert len(graph.of("quantize")) == len(smx("mlp").of("quantize"))


@pytest.mark.parametrize(("network", "form"), EVERY)
def test_in_float64_nothing_changes(network: str, form: str) -> None:
    graph = before(network, form)
    left, right = values(graph), values(InsertSMX().run(graph))
    for key in left:
        assert distance(left[key], right[key]) < 1e-12 or np.abs(left[key] - right[key]).max() < 1e-12


def test_the_quantised_step_is_near_the_float_one() -> None:
    graph = poisson(mlp(16, 16, 1), points=4, estimator={"kind": "second-difference", "K": 64, "sigma": 0.05})
    whole = [
        values(run(graph, *default_pipeline(PipelineOptions(quant=quant))), mode)["metric:loss:interior"]
        for quant, mode in (("none", "float64"), ("diff", "smx"))
    ]
    assert abs(whole[1] - whole[0]) < 0.3 * abs(whole[0])


def test_operands_without_a_role_are_refused() -> None:
    b = Builder("g")
    with b.at(LOC):
        b.output("y", b.matmul(b.input("x", (4, 4)), b.state("w", (4, 4)), lhs_role="base"))
    with pytest.raises(PassError, match="no role") as caught:
        InsertSMX().run(b.finish())
    assert caught.value.location == LOC


def test_a_second_run_is_refused() -> None:
    graph = smx("mlp")
    with pytest.raises(PassError, match="quantised already"):
        InsertSMX().run(graph)


def test_golden(golden: Callable[[str, str], None]) -> None:
    golden("passes/insert-smx.ir", str(smx("gated")))
