"""Estimators against their formulas, against analytic derivatives, and around known functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from pintac.errors import PassError
from pintac.ir import Builder, Graph, Location, Node
from pintac.ir.evaluate import evaluate
from pintac.ir.ops import UNARY
from pintac.ir.verify import verify
from pintac.passes.expand_operators import ExpandOperators
from pintac.passes.sampling import KINDS, STREAM_DELTA, Demand, Estimator, draw_key, plan_rows
from tests.passes.models import LOC, PARAMS, distance, feeds_for, linear, mlp, poisson, shared_state, step_graph, values

STEIN = {"kind": "stein", "K": 12, "sigma": 0.1}
SECOND = {"kind": "second-difference", "K": 12, "sigma": 0.1}
POINTS = 3

Array = np.ndarray
Function = Callable[[Array], Array]


def draw(shape: tuple[int, ...], term: int = 0, stream: int = STREAM_DELTA, kind: str = "normal") -> Array:
    """The numbers a `random` op gives."""
    b = Builder("draw")
    with b.at(LOC):
        b.output("z", b.random(kind, stream, term, shape))
    return evaluate(b.finish(), {}, PARAMS)["z"]


def points(dims: int, count: int = POINTS) -> Array:
    return draw((count, dims), stream=1, kind="uniform")


def expand(residual: Callable[[Builder, Node], Node], **options: Any) -> Graph:
    options.setdefault("points", POINTS)
    return verify(ExpandOperators().run(step_graph({"r": residual}, **options)))


def network(feeds: Mapping[str, Array], prefix: str = "") -> Function:
    """mlp(4, 2) in NumPy."""

    def u(x: Array) -> Array:
        h = np.tanh(x @ feeds[f"{prefix}0.weight"] + feeds[f"{prefix}0.bias"])
        return h @ feeds[f"{prefix}1.weight"] + feeds[f"{prefix}1.bias"]

    return u


NET = mlp(4, 2)


def odd_even(u: Function, x: Array, delta: Array) -> tuple[Array, Array]:
    """u+ - u- and u+ + u- - 2u, [N, P, m]."""
    plus, minus = u(x[:, None] + delta), u(x[:, None] - delta)
    return plus - minus, plus + minus - 2 * u(x)[:, None]


# ---------------------------------------------------------------------------------------- the formulas of NUMERICS 7


def test_stein() -> None:
    graph = expand(
        lambda b, x: b.concat(
            [b.reshape(b.gradient(NET(b, x), x), (POINTS, 6)), b.laplacian(NET(b, x), x, 0, 3)], axis=1
        ),
        dims=3,
        estimator=STEIN,
    )
    u, x, sigma, pairs = network(feeds_for(graph)), points(3), STEIN["sigma"], 6
    delta = sigma * draw((POINTS, pairs, 3))
    odd, even = odd_even(u, x, delta)
    gradient = np.einsum("npc,npm->nmc", delta, odd) / (2 * sigma**2 * pairs)
    weight = (delta**2).sum(-1, keepdims=True) - 3 * sigma**2
    laplacian = (weight * even).sum(1) / (2 * sigma**4 * pairs)
    expected = np.concatenate([gradient.reshape(POINTS, 6), laplacian], 1)
    assert distance(expected, values(graph)["residual:r"]) < 1e-12


def test_stein_over_some_columns_perturbs_all() -> None:
    graph = expand(lambda b, x: b.laplacian(NET(b, x), x, 1, 3), dims=4, estimator=STEIN)
    sigma, pairs = STEIN["sigma"], 6
    delta = sigma * draw((POINTS, pairs, 4))
    _, even = odd_even(network(feeds_for(graph)), points(4), delta)
    weight = (delta[..., 1:3] ** 2).sum(-1, keepdims=True) - 2 * sigma**2
    expected = (weight * even).sum(1) / (2 * sigma**4 * pairs)
    assert distance(expected, values(graph)["residual:r"]) < 1e-12


def test_second_difference_with_time_in_a_pair_of_its_own() -> None:
    """K = 12: five random pairs along the two space columns, one pair along time."""

    def residual(b: Builder, x: Node) -> Node:
        u = NET(b, x)
        dt = b.reshape(b.slice(b.gradient(u, x), 2, 2, 3), (POINTS, 2))
        return b.concat([dt, b.laplacian(u, x, 0, 2)], 1)

    graph = expand(residual, dims=3, estimator={**SECOND, "time_dims": [2]})
    u, x, sigma = network(feeds_for(graph)), points(3), SECOND["sigma"]
    delta = np.zeros((POINTS, 5, 3))
    delta[..., :2] = sigma * draw((POINTS, 6, 2))[:, :5]  # drawn for every row
    laplacian = odd_even(u, x, delta)[1].sum(1) / (sigma**2 * 5)
    dt = odd_even(u, x, np.array([[[0, 0, sigma]]]))[0][:, 0] / (2 * sigma)
    assert distance(np.concatenate([dt, laplacian], 1), values(graph)["residual:r"]) < 1e-12


def test_second_difference_gradient_alone() -> None:
    graph = expand(lambda b, x: b.reshape(b.gradient(NET(b, x), x), (POINTS, 4)), dims=2, estimator=SECOND)
    sigma = SECOND["sigma"]
    delta = sigma * draw((POINTS, 6, 2))
    odd, _ = odd_even(network(feeds_for(graph)), points(2), delta)
    expected = np.einsum("npc,npm->nmc", delta, odd) / (2 * sigma**2 * 6)
    assert distance(expected.reshape(POINTS, 4), values(graph)["residual:r"]) < 1e-12


def test_second_difference_time_between_the_columns() -> None:
    """Time in the middle: the random pairs leave a hole."""

    def residual(b: Builder, x: Node) -> Node:
        u = NET(b, x)
        return b.concat([b.reshape(b.gradient(u, x), (POINTS, 6)), b.laplacian(u, x, 0, 3)], 1)

    graph = expand(residual, dims=3, estimator={**SECOND, "time_dims": [1]})
    u, x, sigma = network(feeds_for(graph)), points(3), SECOND["sigma"]
    delta = np.zeros((POINTS, 5, 3))
    delta[..., [0, 2]] = sigma * draw((POINTS, 6, 2))[:, :5]
    odd, even = odd_even(u, x, delta)
    time_odd, time_even = odd_even(u, x, np.array([[[0, sigma, 0]]]))
    gradient = np.einsum("npc,npm->nmc", delta, odd) / (2 * sigma**2 * 5)
    gradient[..., 1] = time_odd[:, 0] / (2 * sigma)
    laplacian = even.sum(1) / (sigma**2 * 5) + time_even.sum(1) / sigma**2
    expected = np.concatenate([gradient.reshape(POINTS, 6), laplacian], 1)
    assert distance(expected, values(graph)["residual:r"]) < 1e-12


def test_laplacians_over_different_columns_have_blocks_of_their_own() -> None:
    def residual(b: Builder, x: Node) -> Node:
        u = NET(b, x)
        return b.sub(b.laplacian(u, x, 0, 1), b.mul(b.laplacian(u, x, 0, 2), 3.0))

    graph = expand(residual, dims=2, estimator=SECOND)
    u, x, sigma = network(feeds_for(graph)), points(2), SECOND["sigma"]
    second = []
    for block in range(2):
        delta = np.zeros((POINTS, 3, 2))
        rows = slice(3 * block, 3 * block + 3)
        delta[..., [block]] = sigma * draw((POINTS, 6, 1), draw_key(0, 0, block, LOC))[:, rows]
        second.append(odd_even(u, x, delta)[1].sum(1) / (sigma**2 * 3))
    assert distance(second[0] - 3 * (second[0] + second[1]), values(graph)["residual:r"]) < 1e-12


# ---------------------------------------------------------------------------------------- against analytic derivatives


@pytest.mark.parametrize("kind", ["stein", "second-difference"])
def test_estimates_converge_to_the_derivatives(kind: str) -> None:
    """u = (x W)^2 V: the estimators are unbiased for a quadratic; 40,000 evaluations, five standard errors."""

    def residual(b: Builder, x: Node) -> Node:
        h = b.matmul(x, shared_state(b, "w", (2, 3)), lhs_role="base", rhs_role="weight")
        u = b.matmul(b.mul(h, h), shared_state(b, "v", (3, 1)), lhs_role="base", rhs_role="weight")
        return b.concat([b.reshape(b.gradient(u, x), (1, 2)), b.laplacian(u, x, 0, 2)], 1)

    pairs, sigma = 20_000, 0.5
    graph = expand(residual, points=1, estimator={"kind": kind, "K": 2 * pairs, "sigma": sigma})
    feeds, x = feeds_for(graph), points(2, 1)
    w, v = feeds["w"], feeds["v"]
    gradient = 2 * ((x @ w) * v[:, 0]) @ w.T
    hessian = 2 * (w * v[:, 0]) @ w.T
    got = values(graph)["residual:r"]
    scale = np.abs(hessian).sum() / np.sqrt(pairs)
    assert np.abs(got[:, :2] - gradient).max() < 5 * np.abs(gradient).max() * 2 / np.sqrt(pairs)
    assert abs(got[0, 2] - np.trace(hessian)) < 5 * scale * (6 if kind == "stein" else 1.5)


def test_time_derivatives_are_of_second_order_in_sigma() -> None:
    errors = []
    for sigma in (1e-2, 1e-3):
        graph = expand(
            lambda b, x: b.concat(
                [b.reshape(b.gradient(NET(b, x), x), (POINTS, 2)), b.laplacian(NET(b, x), x, 0, 1)], 1
            ),
            dims=1,
            estimator={"kind": "second-difference", "K": 2, "sigma": sigma, "time_dims": [0]},
        )
        feeds, x = feeds_for(graph), points(1)
        t = np.tanh(x @ feeds["0.weight"] + feeds["0.bias"])
        first = ((1 - t**2) * feeds["0.weight"]) @ feeds["1.weight"]
        second = (-2 * t * (1 - t**2) * feeds["0.weight"] ** 2) @ feeds["1.weight"]
        errors.append(distance(np.concatenate([first, second], 1), values(graph)["residual:r"]))
    assert errors[0] < 1e-3 and errors[1] < 1.5e-2 * errors[0]


# ---------------------------------------------------------------------------------------- hard constraints


def test_the_product_rule_is_exact_around_the_estimate() -> None:
    """u = g + d f with g = sin(x0) x1 and d = x0 (1 - x0): only f is estimated."""

    def residual(b: Builder, x: Node) -> Node:
        x0, x1 = b.slice(x, 1, 0, 1), b.slice(x, 1, 1, 2)
        g = b.mul(b.sin(x0), x1)
        d = b.mul(x0, b.sub(1.0, x0))
        u = b.add(g, b.mul(d, NET(b, x)))
        return b.concat([b.reshape(b.gradient(u, x), (POINTS, 4)), b.laplacian(u, x, 0, 2)], 1)

    graph = expand(residual, dims=2, estimator=SECOND)
    assert len(graph.of("perturb")) == 1
    u, x, sigma = network(feeds_for(graph)), points(2), SECOND["sigma"]
    delta = sigma * draw((POINTS, 6, 2))
    odd, even = odd_even(u, x, delta)
    grad_f = np.einsum("npc,npm->nmc", delta, odd) / (2 * sigma**2 * 6)
    lap_f = even.sum(1) / (sigma**2 * 6)
    a, c = x[:, :1], x[:, 1:]
    d, grad_d, lap_d = a * (1 - a), np.concatenate([1 - 2 * a, 0 * a], 1), -2.0
    grad_g, lap_g = np.concatenate([np.cos(a) * c, np.sin(a)], 1), -np.sin(a) * c
    gradient = grad_g[:, None] + grad_d[:, None] * u(x)[..., None] + d[..., None] * grad_f
    laplacian = lap_g + lap_d * u(x) + 2 * (grad_d[:, None] * grad_f).sum(-1) + d * lap_f
    expected = np.concatenate([gradient.reshape(POINTS, 4), laplacian], 1)
    assert distance(expected, values(graph)["residual:r"]) < 1e-12


def test_the_quotient_rule_and_two_networks_with_a_known_factor() -> None:
    """u = (x0 f) f2 / (1 + x1^2), with f and f2 estimated apart because a known factor stands between."""
    net2 = lambda b, x: linear(b, b.tanh(linear(b, x, "b0", 4)), "b1", 2)  # noqa: E731

    def residual(b: Builder, x: Node) -> Node:
        x0, x1 = b.slice(x, 1, 0, 1), b.slice(x, 1, 1, 2)
        product = b.mul(b.mul(x0, NET(b, x)), net2(b, x))
        return b.laplacian(b.div(product, b.add(b.mul(x1, x1), 1.0)), x, 0, 2)

    graph = expand(residual, dims=2, estimator=SECOND)
    feeds, x, sigma = feeds_for(graph), points(2), SECOND["sigma"]
    delta = sigma * draw((POINTS, 6, 2))

    def jet(u: Function) -> tuple[Array, Array, Array]:
        odd, even = odd_even(u, x, delta)
        gradient = np.einsum("npc,npm->nmc", delta, odd) / (2 * sigma**2 * 6)
        return u(x), gradient, even.sum(1) / (sigma**2 * 6)

    def product(p: tuple[Array, ...], q: tuple[Array, ...]) -> tuple[Array, Array, Array]:
        gradient = p[0][..., None] * q[1] + q[0][..., None] * p[1]
        return p[0] * q[0], gradient, p[0] * q[2] + q[0] * p[2] + 2 * (p[1] * q[1]).sum(-1)

    a, c = x[:, :1], x[:, 1:]
    known = (a, np.broadcast_to([[[1.0, 0.0]]], (POINTS, 1, 2)), 0 * a)
    r = 1 / (1 + c**2)
    slope = np.stack([0 * a, -2 * c * r**2], -1)
    inverse = (r, slope, -2 * r**2 + 8 * c**2 * r**3)
    both = product(product(known, jet(network(feeds))), jet(network(feeds, "b")))
    assert distance(product(both, inverse)[2], values(graph)["residual:r"]) < 1e-12


def test_a_product_of_two_networks_is_one_estimate() -> None:
    graph = expand(lambda b, x: b.laplacian(b.mul(NET(b, x), NET(b, x)), x, 0, 2), estimator=SECOND)
    u, sigma = network(feeds_for(graph)), SECOND["sigma"]
    _, even = odd_even(lambda x: u(x) ** 2, points(2), sigma * draw((POINTS, 6, 2)))
    assert distance(even.sum(1) / (sigma**2 * 6), values(graph)["residual:r"]) < 1e-12


def known_functions() -> dict[str, tuple[Callable[[Builder, Node], Node], Callable[[Any], Any]]]:
    """Known functions of x [N, 3] in IR and in torch."""
    import torch

    def sliced(x: Any) -> tuple[Any, Any, Any]:
        return x[:, 0:1], x[:, 1:2], x[:, 2:3]

    def ir_sliced(b: Builder, x: Node) -> tuple[Node, Node, Node]:
        return b.slice(x, 1, 0, 1), b.slice(x, 1, 1, 2), b.slice(x, 1, 2, 3)

    def unary(fn: str) -> tuple[Callable[[Builder, Node], Node], Callable[[Any], Any]]:
        torch_fn = {"neg": torch.neg, "abs": torch.abs, "erf": torch.erf}.get(fn) or getattr(torch, fn)

        def ir(b: Builder, x: Node) -> Node:
            x0, x1, x2 = ir_sliced(b, x)
            return b.unary(fn, b.add(b.mul(x0, x1), b.add(x2, 0.7)))

        return ir, lambda x: torch_fn(sliced(x)[0] * sliced(x)[1] + sliced(x)[2] + 0.7)

    def ir_distance(b: Builder, x: Node) -> Node:
        return b.sum(b.mul(b.mul(x, b.sub(1.0, x)), x), (1,), keepdims=True)

    def ir_norm(b: Builder, x: Node) -> Node:
        return b.sqrt(b.sum(b.mul(x, x), (1,), keepdims=True))

    def ir_shapes(b: Builder, x: Node) -> Node:
        stacked = b.concat([b.sin(x), b.mul(b.slice(x, 1, 1, 2), 2.0)], 1)
        square = b.permute(b.reshape(stacked, (POINTS, 2, 2)), (0, 2, 1))
        return b.reshape(b.mul(square, b.const((1.0, 2.0), (1, 2))), (POINTS, 4))

    def torch_shapes(x: Any) -> Any:
        stacked = torch.cat([torch.sin(x), x[:, 1:2] * 2], 1)
        square = stacked.reshape(-1, 2, 2).transpose(1, 2)
        return (square * torch.tensor([[1.0, 2.0]])).reshape(-1, 4)

    def ir_piecewise(b: Builder, x: Node) -> Node:
        x0, x1, x2 = ir_sliced(b, x)
        larger = b.max(b.mul(x0, x1), b.min(b.mul(x2, x2), x0))
        return b.select(b.compare("lt", x0, 0.5), b.mul(larger, x2), b.div(x1, b.add(x2, 1.0)))

    def torch_piecewise(x: Any) -> Any:
        x0, x1, x2 = sliced(x)
        larger = torch.maximum(x0 * x1, torch.minimum(x2 * x2, x0))
        return torch.where(x0 < 0.5, larger * x2, x1 / (x2 + 1))

    def ir_matmul(b: Builder, x: Node) -> Node:
        mixing = b.const((1.0, 2.0, -1.0, 0.5, 0.25, 3.0), (3, 2))
        return b.cos(b.matmul(x, mixing, lhs_role="base", rhs_role="base"))

    def torch_matmul(x: Any) -> Any:
        return torch.cos(x @ torch.tensor([[1.0, 2.0], [-1.0, 0.5], [0.25, 3.0]], dtype=x.dtype))

    functions = {fn: unary(fn) for fn in UNARY}
    functions["distance"] = (ir_distance, lambda x: (x * (1 - x) * x).sum(1, keepdim=True))
    functions["norm"] = (ir_norm, lambda x: (x * x).sum(1, keepdim=True).sqrt())
    functions["shapes"] = (ir_shapes, torch_shapes)
    functions["piecewise"] = (ir_piecewise, torch_piecewise)
    functions["matmul"] = (ir_matmul, torch_matmul)
    functions["coordinates"] = (lambda b, x: x, lambda x: x * 1)
    return functions


NAMES = [*UNARY, "distance", "norm", "shapes", "piecewise", "matmul", "coordinates"]


@pytest.mark.parametrize("name", NAMES)
def test_known_functions_are_differentiated_exactly(name: str) -> None:
    """Against torch autograd in float64; all columns and a range of them."""
    torch = pytest.importorskip("torch")
    ir, oracle = known_functions()[name]

    def residual(b: Builder, x: Node) -> Node:
        u = ir(b, x)
        m = u.shape[1]
        parts = [b.reshape(b.gradient(u, x), (POINTS, 3 * m)), b.laplacian(u, x, 0, 3), b.laplacian(u, x, 1, 2)]
        return b.concat(parts, 1)

    graph = expand(residual, dims=3, estimator=STEIN)
    assert not graph.of("perturb")
    x = torch.tensor(points(3), requires_grad=True)
    y = oracle(x)
    zeros = torch.zeros_like(x)
    first = [torch.autograd.grad(y[:, j].sum(), x, create_graph=True)[0] for j in range(y.shape[1])]

    def second(j: int, c: int) -> Any:
        if not first[j].requires_grad:
            return zeros[:, c]
        found = torch.autograd.grad(first[j][:, c].sum(), x, retain_graph=True, allow_unused=True)[0]
        return zeros[:, c] if found is None else found[:, c]

    diagonal = torch.stack([torch.stack([second(j, c) for c in range(3)], 1) for j in range(len(first))], 1)
    gradient = torch.stack(first, 1).reshape(POINTS, -1)
    expected = torch.cat([gradient, diagonal.sum(-1), diagonal[..., 1]], 1).detach().numpy()
    assert distance(expected, values(graph)["residual:r"]) < 1e-13


# ---------------------------------------------------------------------------------------- what is evaluated


def test_operators_on_one_u_share_evaluations() -> None:
    def residual(b: Builder, x: Node) -> Node:
        u = NET(b, x)
        parts = [b.slice(u, 1, 0, 1), b.slice(u, 1, 1, 2)]
        flat = [b.reshape(b.slice(b.gradient(part, x), 2, 0, 1), (POINTS, 1)) for part in parts]
        return b.concat([*flat, b.laplacian(parts[0], x, 0, 2), b.laplacian(u, x, 0, 2)], 1)

    graph = expand(residual, estimator=SECOND)
    assert len(graph.of("perturb")) == len(graph.of("difference")) == 1
    assert [node.shape for node in graph.of("matmul") if node.attrs["lhs_role"] == "delta"] == [
        (POINTS, 2, 6, 4),
        (POINTS, 2, 6, 2),
    ]


def test_the_bias_of_the_output_layer_is_not_evaluated_again() -> None:
    graph = expand(lambda b, x: b.laplacian(NET(b, x), x, 0, 2), estimator=SECOND)
    wide = [node for node in graph.of("add") if node.type.rank == 4]
    assert [node.shape[-1] for node in wide] == [4]


def test_two_terms_draw_different_numbers() -> None:
    graph = ExpandOperators().run(poisson(NET))
    assert [node.attrs["term"] for node in graph.of("random") if node.attrs["stream"] == STREAM_DELTA] == [0]
    both = {name: lambda b, x: b.laplacian(NET(b, x), x, 0, 2) for name in ("first", "second")}
    graph = ExpandOperators().run(step_graph(both))
    assert [node.attrs["term"] for node in graph.of("random") if node.attrs["stream"] == STREAM_DELTA] == [0, 1]


def test_points_of_the_base_counterpart() -> None:
    """A value with a row a point that does not depend on x takes part in the perturbed evaluation."""

    def residual(b: Builder, x: Node) -> Node:
        other = b.random("uniform", 7, 0, (POINTS, 4))
        h = b.mul(b.tanh(linear(b, x, "0", 4)), other)
        joined = b.concat([h, other], 1)
        return b.laplacian(linear(b, joined, "1", 1), x, 0, 2)

    graph = expand(residual, estimator=SECOND)
    feeds, sigma = feeds_for(graph), SECOND["sigma"]
    other = draw((POINTS, 4), stream=7, kind="uniform")

    def u(x: Array) -> Array:
        rows = other if x.ndim == 2 else np.broadcast_to(other[:, None], (*x.shape[:2], 4))
        h = np.tanh(x @ feeds["0.weight"] + feeds["0.bias"]) * rows
        return np.concatenate([h, rows], -1) @ feeds["1.weight"]

    _, even = odd_even(u, points(2), sigma * draw((POINTS, 6, 2)))
    assert distance(even.sum(1) / (sigma**2 * 6), values(graph)["residual:r"]) < 1e-11


def test_inner_shapes() -> None:
    """Reshape, permute, sum and amax within a point."""

    def net(b: Builder, x: Node) -> Node:
        h = b.reshape(b.tanh(linear(b, x, "0", 6)), (POINTS, 2, 3))
        h = b.sum(b.permute(h, (0, 2, 1)), (2,))
        return linear(b, b.mul(h, h), "1", 1)

    graph = expand(lambda b, x: b.laplacian(net(b, x), x, 0, 2), estimator=SECOND)
    feeds, sigma = feeds_for(graph), SECOND["sigma"]

    def u(x: Array) -> Array:
        h = np.tanh(x @ feeds["0.weight"] + feeds["0.bias"])
        h = h.reshape(*x.shape[:-1], 2, 3).sum(-2)
        return h**2 @ feeds["1.weight"]

    _, even = odd_even(u, points(2), sigma * draw((POINTS, 6, 2)))
    assert distance(even.sum(1) / (sigma**2 * 6), values(graph)["residual:r"]) < 1e-11


def test_a_leaf_of_another_rank() -> None:
    """u [N, 1] = sum of a [N, 2, 2] leaf: the leaf of the reshape is the tanh."""

    def u_of(b: Builder, x: Node) -> Node:
        h = b.tanh(b.reshape(linear(b, x, "0", 4), (POINTS, 2, 2)))
        return b.reshape(h, (POINTS, 4))

    graph = expand(lambda b, x: b.laplacian(u_of(b, x), x, 0, 2), estimator=SECOND)
    feeds, sigma = feeds_for(graph), SECOND["sigma"]
    _, even = odd_even(
        lambda x: np.tanh(x @ feeds["0.weight"] + feeds["0.bias"]), points(2), sigma * draw((POINTS, 6, 2))
    )
    assert distance(even.sum(1) / (sigma**2 * 6), values(graph)["residual:r"]) < 1e-11


# ---------------------------------------------------------------------------------------- what is refused


def refused(residual: Callable[[Builder, Node], Node], **options: Any) -> PassError:
    with pytest.raises(PassError) as caught:
        ExpandOperators().run(step_graph({"r": residual}, points=POINTS, **options))
    assert caught.value.location is not None and caught.value.location.file == "model.py"
    return caught.value


def test_third_derivatives_are_refused_with_the_line() -> None:
    def residual(b: Builder, x: Node) -> Node:
        inner = b.laplacian(NET(b, x), x, 0, 2, loc=Location("user.py", 7))
        return b.reshape(b.gradient(inner, x), (POINTS, 4))

    error = refused(residual)
    assert "gradient of a laplacian (user.py:7)" in error.message and "third derivatives" in str(error.hint)


def test_derivatives_with_respect_to_other_points_are_refused() -> None:
    def residual(b: Builder, x: Node) -> Node:
        return b.laplacian(NET(b, x), b.random("uniform", 9, 9, (POINTS, 2)), 0, 2)

    assert "does not depend on the points" in refused(residual).message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "stien"}, "unknown estimator 'stien'"),
        ({"K": 7}, "K = 7"),
        ({"K": 0}, "K = 0"),
        ({"sigma": 0.0}, "sigma = 0.0"),
        ({"sigma": "small"}, "sigma = 'small'"),
    ],
)
def test_estimators_that_cannot_be(change: dict[str, Any], message: str) -> None:
    error = refused(lambda b, x: b.laplacian(NET(b, x), x, 0, 2), estimator={**STEIN, **change})
    assert message in error.message


def test_too_few_pairs_for_the_derivatives_asked() -> None:
    def residual(b: Builder, x: Node) -> Node:
        u = NET(b, x)
        return b.add(b.laplacian(u, x, 0, 1), b.laplacian(u, x, 1, 2))

    assert "need at least 4" in refused(residual, estimator={**SECOND, "K": 2}).message


def test_points_must_not_be_mixed() -> None:
    def residual(b: Builder, x: Node) -> Node:
        h = b.tanh(linear(b, x, "0", 4))
        return b.laplacian(linear(b, b.sub(h, b.sum(h, (0,), keepdims=True)), "1", 1), x, 0, 2)

    assert "it mixes points" in refused(residual).message


def test_points_must_stay_the_first_axis() -> None:
    def residual(b: Builder, x: Node) -> Node:
        h = b.tanh(b.reshape(linear(b, x, "0", 1), (1, x.shape[0], 1)))
        return b.laplacian(b.reshape(h, (x.shape[0], 1)), x, 0, 2)

    error = refused(residual)
    assert "points have to stay its first axis" in error.message and "torch.stack([...], -1)" in (error.hint or "")


def test_weights_that_depend_on_the_points_are_refused() -> None:
    def residual(b: Builder, x: Node) -> Node:
        h = linear(b, x, "0", 3)
        return b.laplacian(b.matmul(h, h, lhs_role="base", rhs_role="weight"), x, 0, 2)

    assert "only its left operand" in refused(residual).message


# ---------------------------------------------------------------------------------------- plans


def plan(dims: int, laplacians: list, gradients: list, time: tuple[int, ...] = (), K: int = 16) -> list:
    estimator = Estimator("second-difference", K, 0.1, time)
    rows = plan_rows(estimator, dims, Demand(laplacians, gradients), 0, 0, LOC)
    assert rows.pairs <= K // 2
    assert [block.start for block in rows.blocks] == [0, *(block.stop for block in rows.blocks)][: len(rows.blocks)]
    assert [rows.row(column) for column in rows.alone] == list(range(rows.pairs))[rows.pairs - len(rows.alone) :]
    return [*((block.columns, block.pairs, True) for block in rows.blocks), *(((c,), 1, False) for c in rows.alone)]


def test_plans() -> None:
    assert plan(3, [(0, 3)], []) == [((0, 1, 2), 8, True)]
    assert plan(3, [(0, 2)], [(2, 3)]) == [((0, 1), 7, True), ((2,), 1, False)]
    assert plan(3, [(0, 2)], []) == [((0, 1), 8, True)]
    assert plan(3, [], [(0, 1)]) == [((0, 1, 2), 8, True)]
    assert plan(3, [], [(0, 3)], time=(2,)) == [((0, 1), 7, True), ((2,), 1, False)]
    assert plan(3, [], [(2, 3)], time=(2,)) == [((2,), 1, False)]
    assert plan(3, [(0, 3)], [(0, 3)], time=(2,)) == [((0, 1), 7, True), ((2,), 1, False)]
    assert plan(4, [(0, 2), (1, 3)], [(3, 4)]) == [
        ((0,), 3, True),
        ((1,), 2, True),
        ((2,), 2, True),
        ((3,), 1, False),
    ]


def test_draws_of_different_points_and_blocks_differ_in_16_bits() -> None:
    keys = {draw_key(t, x, block, LOC) for t in (0, 1, 255) for x in (0, 1, 15) for block in (0, 1, 15)}
    assert len(keys) == 27 and max(keys) < 1 << 16 and draw_key(2, 0, 0, LOC) == 2
    for numbers in ((256, 0, 0), (0, 16, 0), (0, 0, 16)):
        with pytest.raises(PassError, match="more than"):
            draw_key(*numbers, LOC)


@pytest.mark.parametrize("kind", KINDS)
def test_golden(kind: str, golden: Callable[[str, str], None]) -> None:
    def residual(b: Builder, x: Node) -> Node:
        u = b.mul(b.slice(x, 1, 0, 1), mlp(3, 1)(b, x))
        dt = b.reshape(b.slice(b.gradient(u, x), 2, 2, 3), (POINTS, 1))
        return b.sub(dt, b.laplacian(u, x, 0, 2))

    graph = expand(residual, dims=3, estimator={"kind": kind, "K": 8, "sigma": 0.1, "time_dims": [2]})
    golden(f"passes/expand-operators-{kind}.ir", str(graph))


def test_a_graph_without_operators_is_left_alone() -> None:
    graph = step_graph({"r": NET}, estimator={"kind": "unknown"})
    assert ExpandOperators().run(graph) is graph
