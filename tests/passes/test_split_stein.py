"""DiffQuant's split: the same numbers as the perturbed evaluation, without cancellation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest

from pintac.errors import IRError, PassError
from pintac.ir import Builder, Graph, Node, ancestors
from pintac.ir.verify import verify
from pintac.passes.expand_operators import ExpandOperators
from pintac.passes.lifting import lift_op
from pintac.passes.split_stein import SplitStein
from tests.passes.models import distance, linear, mlp, poisson, run, step_graph, values
from tests.passes.networks import NETWORKS

Form = Literal["plus-minus", "even-odd", "none"]

ESTIMATORS = {
    "stein": {"kind": "stein", "K": 6, "sigma": 0.05},
    "second-difference": {"kind": "second-difference", "K": 6, "sigma": 0.05},
    "orthonormal": {"kind": "orthonormal", "K": 6, "sigma": 0.05},
    "with time": {"kind": "second-difference", "K": 6, "sigma": 0.05, "time_dims": [1]},
}


def heat(net: Callable[[Builder, Node], Node]) -> Callable[[Builder, Node], Node]:
    """dt u - u_xx, [N, m]."""

    def residual(b: Builder, x: Node) -> Node:
        u = net(b, x)
        dt = b.reshape(b.slice(b.gradient(u, x), 2, 1, 2), u.shape)
        return b.sub(dt, b.laplacian(u, x, 0, 1))

    return residual


@pytest.mark.parametrize("form", ["plus-minus", "even-odd"])
@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_split_equals_naive_in_float64(network: str, estimator: str, form: Form) -> None:
    graph = step_graph({"r": heat(NETWORKS[network])}, estimator=ESTIMATORS[estimator], points=3)
    naive = run(graph, ExpandOperators())
    split = verify(SplitStein(form).run(naive))
    assert not split.of("perturb", "difference")
    assert distance(values(naive)["residual:r"], values(split)["residual:r"]) < 1e-9


def test_the_even_part_survives_fp32() -> None:
    """sigma = 0.001: the second difference to 1e-4 where the unsplit one has nothing left."""
    errors = {}
    for sigma in (1e-3,):
        graph = poisson(mlp(16, 16, 1), estimator={"kind": "second-difference", "K": 64, "sigma": sigma})
        naive = ExpandOperators().run(graph)
        exact = values(naive)["residual:interior"]
        forms = {"none": naive, "plus-minus": SplitStein().run(naive), "even-odd": SplitStein("even-odd").run(naive)}
        for name, form in forms.items():
            errors[name] = distance(exact, values(form, "float32")["residual:interior"].astype(np.float64))
    assert errors["plus-minus"] < 3e-4 and errors["even-odd"] < 3e-4 and errors["none"] > 1e-2


@pytest.mark.parametrize("network", ["mlp", "deep", "sin", "gated", "silu", "quotient", "tensor train"])
def test_even_halves_are_right_to_four_digits(network: str) -> None:
    """NUMERICS 5: the even part of each final difference, to 1e-4 of their size at sigma = 0.001, in fp32."""

    def residual(b: Builder, x: Node) -> Node:
        delta = b.mul(b.mul(b.random("normal", 2, 0, (5, 1, 8, 2)), 1e-3), b.const((1.0, -1.0), (1, 2, 1, 1)))
        u = NETWORKS[network](b, x)
        lifted = {x: b.perturb(x, delta)}
        for node in b.finish().nodes:
            if x in ancestors(node) and node not in lifted and node.op != "perturb":
                lifted[node] = lift_op(b, node, {n: n for n in b.finish().nodes}, lifted, 8)
        return b.sum(b.difference(lifted[u], b.reshape(u, (5, 1, 1, u.shape[1]))), (1,))

    split = SplitStein("even-odd").run(step_graph({"r": residual}))
    exact, single = values(split)["residual:r"], values(split, "float32")["residual:r"].astype(np.float64)
    assert exact.shape[:2] == (5, 8)
    assert distance(exact, single) < 1e-4


def test_halves_are_values_of_their_own() -> None:
    """[N, 1, P, w] each; the even half is zero at the input and has no first matmul."""
    split = SplitStein("even-odd").run(ExpandOperators().run(poisson(mlp(5, 4, 1), points=3)))
    assert [node.shape for node in _rows(split, "delta")] == [(3, 1, 4, 5), *[(3, 1, 4, 4)] * 2, *[(3, 1, 4, 1)]]
    assert all(node.shape[1] == 1 for node in split.of("delta_act"))
    assert not any(node.shape[1] == 2 for node in split.nodes if node.type.rank == 4)


def test_differences_that_are_no_pair_are_halved() -> None:
    """Rows that are not evidently +delta and -delta, and a difference that something else than the estimator reads."""

    def residual(b: Builder, x: Node) -> Node:
        delta = b.mul(b.random("normal", 2, 0, (5, 2, 4, 2)), 0.1)
        p = b.tanh(linear(b, b.perturb(x, delta), "0", 3, "delta"))
        difference = b.difference(p, b.reshape(b.tanh(linear(b, x, "0", 3)), (5, 1, 1, 3)))
        return b.sum(b.mul(difference, b.exp(difference)), (1, 2))

    graph = step_graph({"r": residual})
    split = SplitStein("even-odd").run(graph)
    assert not split.of("perturb", "difference")
    assert distance(values(graph)["residual:r"], values(split)["residual:r"]) < 1e-12


def test_the_base_path_is_shared_and_keeps_the_biases() -> None:
    naive = ExpandOperators().run(poisson(mlp(5, 4, 1), points=3))
    split = SplitStein().run(naive)
    # no base matmul is added, and the last one of the interior is gone: a difference needs no u
    assert len(_rows(split, "base")) == len(_rows(naive, "base")) - 1
    perturbed_adds = [node for node in split.of("add") if node.type.rank == 4]
    assert perturbed_adds == []
    acts = split.of("delta_act")
    assert [node.shape for node in acts] == [(3, 2, 4, 5), (3, 2, 4, 4)]
    base = [node.operands[0] for node in acts]
    assert [(node.op, node.shape, node.operands[0].op) for node in base] == [
        ("reshape", (3, 1, 1, 5), "add"),
        ("reshape", (3, 1, 1, 4), "add"),
    ]


def _rows(graph: Graph, role: str) -> list[Node]:
    return [node for node in graph.of("matmul") if node.attrs["lhs_role"] == role]


def test_none_leaves_the_graph_alone() -> None:
    graph = ExpandOperators().run(poisson(mlp(3, 1)))
    assert SplitStein("none").run(graph) is graph
    plain = step_graph({"r": mlp(3, 1)})
    assert SplitStein().run(plain) is plain


@pytest.mark.parametrize("fn", ["abs", "erf", "floor", "round"])
def test_functions_without_a_stable_difference_are_refused(fn: str) -> None:
    def residual(b: Builder, x: Node) -> Node:
        return b.laplacian(linear(b, b.unary(fn, linear(b, x, "0", 3)), "1", 1), x, 0, 2)

    naive = ExpandOperators().run(step_graph({"r": residual}))
    with pytest.raises(IRError) as caught:
        SplitStein().run(naive)
    assert caught.value.location is not None and caught.value.location.file == "model.py" and caught.value.hint


def test_a_base_that_is_another_computation_is_refused() -> None:
    def residual(b: Builder, x: Node) -> Node:
        delta = b.random("normal", 2, 0, (5, 2, 4, 2))
        p = b.tanh(linear(b, b.perturb(x, delta), "0", 3, "delta"))
        other = b.sin(linear(b, x, "0", 3))
        return b.sum(b.difference(p, b.reshape(other, (5, 1, 1, 3))), (1, 2))

    with pytest.raises(PassError, match=r"the perturbed tanh .* which has sin"):
        SplitStein().run(step_graph({"r": residual}))


def test_golden(golden: Callable[[str, str], None]) -> None:
    graph = step_graph({"r": lambda b, x: b.laplacian(NETWORKS["gated"](b, x), x, 0, 2)}, points=3)
    golden("passes/split-stein.ir", str(run(graph, ExpandOperators(), SplitStein())))
    golden("passes/split-stein-even-odd.ir", str(run(graph, ExpandOperators(), SplitStein("even-odd"))))
