"""The reverse rule of every op against torch's autograd in double precision (torch is the oracle, never the code)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from pintac.errors import IRError
from pintac.ir import GRADIENTS, Builder, Location, Node, grad_rule, sum_to, verify
from pintac.ir.deltas import Refusal
from pintac.ir.evaluate import evaluate
from pintac.ir.ops import DELTA_FUNCTIONS

HERE = Location("net.py", 12)

Make = Callable[..., Node]
Torch = Callable[..., torch.Tensor]
Shapes = Sequence[tuple[int, ...]]


def amax(x: torch.Tensor, *axes: int) -> torch.Tensor:
    return torch.amax(x, axes)


CASES: list[tuple[str, Make, Torch, Shapes]] = [
    ("add", lambda b, x, y: b.add(x, y), torch.add, [(4, 1, 1, 3), (2, 5, 3)]),
    ("sub", lambda b, x, y: b.sub(x, y), torch.sub, [(3,), (4, 3)]),
    ("mul", lambda b, x, y: b.mul(x, y), torch.mul, [(4, 1, 1, 3), (4, 2, 5, 3)]),
    ("div", lambda b, x, y: b.div(x, y), torch.div, [(4, 2, 5, 3), (4, 1, 1, 1)]),
    ("min", lambda b, x, y: b.min(x, y), torch.minimum, [(4, 3), (4, 1)]),
    ("max", lambda b, x, y: b.max(x, y), torch.maximum, [(4, 3), (3,)]),
    ("min of equals", lambda b, x: b.min(x, x), lambda x: torch.minimum(x, x), [(4, 3)]),
    ("max of equals", lambda b, x: b.max(x, x), lambda x: torch.maximum(x, x), [(4, 3)]),
    ("same operand twice", lambda b, x: b.mul(x, x), lambda x: x * x, [(4, 3)]),
    *[(fn, lambda b, x, fn=fn: b.unary(fn, x), getattr(torch, fn), [(4, 3)]) for fn in
      ("neg", "abs", "exp", "tanh", "sigmoid", "sin", "cos", "erf")],
    *[(fn, lambda b, x, fn=fn: b.add(x, b.unary(fn, x)), lambda x, fn=fn: x + getattr(torch, fn)(x), [(4, 3)]) for fn in
      ("floor", "round")],
    ("sqrt", lambda b, x: b.sqrt(b.mul(x, x)), lambda x: torch.sqrt(x * x), [(4, 3)]),
    ("log", lambda b, x: b.log(b.mul(x, x)), lambda x: torch.log(x * x), [(4, 3)]),
    ("compare", lambda b, x, y: b.mul(x, b.compare("lt", x, y)), lambda x, y: x * (x < y), [(4, 3), (4, 3)]),
    ("select", lambda b, c, x, y: b.select(b.compare("gt", c, 0.0), x, y), lambda c, x, y: torch.where(c > 0, x, y),
     [(4, 3), (4, 1), (3,)]),
    ("matmul", lambda b, x, w: b.matmul(x, w), torch.matmul, [(5, 3), (3, 4)]),
    ("matmul batch", lambda b, x, w: b.matmul(x, w), torch.matmul, [(2, 1, 5, 3), (3, 4)]),
    ("matmul transposed", lambda b, x, w: b.matmul(x, w, transpose_b=True), lambda x, w: x @ w.T, [(2, 5, 3), (4, 3)]),
    ("matmul acc", lambda b, x, w, a: b.matmul(x, w, a), lambda x, w, a: a + x @ w, [(5, 3), (3, 4), (5, 4)]),
    ("matmul_tn", lambda b, a, g: b.matmul_tn(a, g), lambda a, g: torch.einsum("bij,bik->jk", a, g),
     [(2, 5, 3), (2, 5, 4)]),
    ("matmul_tn acc", lambda b, a, g, c: b.matmul_tn(a, g, c), lambda a, g, c: c + a.T @ g, [(5, 3), (5, 4), (3, 4)]),
    ("perturb", lambda b, x, d: b.perturb(x, d), lambda x, d: x[:, None, None, :] + d, [(4, 3), (4, 2, 5, 3)]),
    ("difference", lambda b, p, q: b.difference(p, q), torch.sub, [(4, 2, 5, 3), (4, 1, 1, 3)]),
    ("reshape", lambda b, x: b.reshape(x, (6, 2)), lambda x: x.reshape(6, 2), [(4, 3)]),
    ("permute", lambda b, x: b.permute(x, (2, 0, 1)), lambda x: x.permute(2, 0, 1), [(4, 3, 2)]),
    ("slice", lambda b, x: b.slice(x, 1, 1, 3), lambda x: x[:, 1:3], [(4, 5)]),
    ("concat", lambda b, *x: b.concat(x, 1), lambda *x: torch.cat(x, 1), [(4, 2), (4, 1), (4, 3)]),
    ("broadcast", lambda b, x: b.broadcast(x, (2, 4, 3)), lambda x: x.broadcast_to(2, 4, 3), [(4, 1)]),
    ("pad", lambda b, x: b.pad(x, 0, 1, 2), lambda x: torch.nn.functional.pad(x, (0, 0, 1, 2)), [(4, 3)]),
    ("sum", lambda b, x: b.sum(x, (0, 2)), lambda x: x.sum((0, 2)), [(4, 3, 2)]),
    ("sum keepdims", lambda b, x: b.sum(x, (1,), keepdims=True), lambda x: x.sum(1, keepdim=True), [(4, 3, 2)]),
    ("sum all", lambda b, x: b.sum(x), torch.sum, [(4, 3)]),
    ("amax", lambda b, x: b.amax(x, (0, 2)), lambda x: x.amax((0, 2)), [(4, 3, 2)]),
    ("amax of equals", lambda b, x: b.amax(b.concat([x, x], 1), (1,), keepdims=True),
     lambda x: torch.cat([x, x], 1).amax(1, keepdim=True), [(4, 3)]),
    ("quantize and decode", lambda b, x: b.decode(b.quantize(x, 4)), lambda x: x * 1, [(4, 3)]),
]  # fmt: skip


def gradients(
    make: Make, arrays: Sequence[np.ndarray], out_grad: np.ndarray | None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Value and gradients by reverse mode over the graph that `make` builds, in float64."""
    b = Builder("g")
    with b.at(HERE):
        inputs = [b.input(f"x{i}", array.shape) for i, array in enumerate(arrays)]
        out = make(b, *inputs)
        nodes = b.finish().nodes
        adjoints: dict[Node, Node] = {out: b.input("out_grad", out.shape)}
        for node in reversed(nodes):
            if node not in adjoints:
                continue
            for operand, grad in zip(node.operands, grad_rule(b, node, node.operands, adjoints[node]), strict=True):
                if grad is not None:
                    assert grad.type.dtype == "f32" and grad.shape == operand.shape
                    adjoints[operand] = b.add(adjoints[operand], grad) if operand in adjoints else grad
        b.output("value", out)
        for i, node in enumerate(inputs):
            if node in adjoints:
                b.output(f"grad{i}", adjoints[node])
    feeds = {f"x{i}": array for i, array in enumerate(arrays)}
    if out_grad is None:
        out_grad = np.random.default_rng(1).normal(size=out.shape)
    values = evaluate(verify(b.finish()), {**feeds, "out_grad": out_grad})
    return values["value"], [values.get(f"grad{i}", np.zeros(array.shape)) for i, array in enumerate(arrays)]


def torch_gradients(fn: Torch, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    leaves = [torch.tensor(array, requires_grad=True) for array in arrays]
    value = fn(*leaves)
    out_grad = torch.tensor(np.random.default_rng(1).normal(size=tuple(value.shape)))
    grads = torch.autograd.grad(value, leaves, out_grad, allow_unused=True)
    dense = [np.zeros(a.shape) if grad is None else grad.numpy() for a, grad in zip(arrays, grads, strict=True)]
    return value.detach().numpy(), dense


@pytest.mark.parametrize(("make", "fn", "shapes"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_gradient(make: Make, fn: Torch, shapes: Shapes) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape) for shape in shapes]
    value, grads = gradients(make, arrays, None)
    expected_value, expected = torch_gradients(fn, arrays)
    np.testing.assert_allclose(value, expected_value, rtol=1e-13, atol=1e-14)
    for grad, reference in zip(grads, expected, strict=True):
        np.testing.assert_allclose(grad, reference, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("fn", DELTA_FUNCTIONS)
@pytest.mark.parametrize("shapes", [[(4, 1, 1, 3), (4, 2, 5, 3)], [(3,), (4, 3)], [(4, 3), (4, 1)]])
def test_gradient_of_delta_act(fn: str, shapes: Shapes) -> None:
    rng = np.random.default_rng(0)
    y, d = rng.uniform(0.5, 2.0, size=shapes[0]), rng.uniform(-0.4, 0.4, size=shapes[1])
    _, grads = gradients(lambda b, y, d: b.delta_act(fn, y, d), [y, d], None)
    of = getattr(torch, fn)
    _, expected = torch_gradients(lambda y, d: of(y + d) - of(y), [y, d])
    for grad, reference in zip(grads, expected, strict=True):
        np.testing.assert_allclose(grad, reference, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("fn", DELTA_FUNCTIONS)
def test_the_gradient_of_the_base_does_not_cancel(fn: str) -> None:
    """dY is of the size of D; by subtracting fn'(Y) from fn'(Y + D) it would have no digit left at D = 1e-14."""
    y = np.full((1, 3), [0.5, 0.9, 1.5])
    d = np.full((1, 3), [1e-14, -3e-14, 2e-15])
    _, (grad_y, _) = gradients(lambda b, y, d: b.delta_act(fn, y, d), [y, d], np.ones((1, 3)))
    leaf = torch.tensor(y, requires_grad=True)
    (first,) = torch.autograd.grad(getattr(torch, fn)(leaf).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    np.testing.assert_allclose(grad_y, second.numpy() * d, rtol=1e-12)


def test_every_rule_is_tested_or_refused() -> None:
    b = Builder("g")
    with b.at(HERE):
        for _, make, _, shapes in CASES:
            make(b, *(b.input("x", shape) for shape in shapes))
    tested = {node.op for node in b.finish().nodes} | {"delta_act"}
    refused = {op for op, rule in GRADIENTS.items() if isinstance(rule, Refusal)}
    assert tested & refused == set()
    assert set(GRADIENTS) - tested - refused == {"state", "scalar", "random", "data"}
    assert refused == {"tt_matmul", "gradient", "laplacian"}


def test_a_refusal_names_the_line_and_the_pass() -> None:
    b = Builder("g")
    y = b.gradient(b.input("u", (4, 1), loc=HERE), b.input("x", (4, 2), loc=HERE), loc=HERE)
    with pytest.raises(IRError, match=r"net.py:12: gradient: .*\n.*expand-operators"):
        grad_rule(b, y, y.operands, y)


def test_only_what_is_needed_is_built() -> None:
    b = Builder("g")
    with b.at(HERE):
        x, w, g = b.input("x", (5, 3)), b.input("w", (3, 4)), b.input("g", (5, 4))
        y = b.matmul(x, w, lhs_role="base", rhs_role="weight")
        assert grad_rule(b, y, y.operands, g, needed=[False, False]) == [None, None]
        assert b.finish().nodes[-1] is y
        _, dw = grad_rule(b, y, y.operands, g, needed=[False, True])
    assert dw is b.finish().nodes[-1] and len(b.finish().nodes) == 5


@pytest.mark.parametrize("transposed", [False, True])
def test_roles_follow_the_operands(transposed: bool) -> None:
    b = Builder("g")
    with b.at(HERE):
        x, w, g = b.input("x", (5, 3)), b.input("w", (4, 3) if transposed else (3, 4)), b.input("g", (5, 4))
        y = b.matmul(x, w, transpose_b=transposed, lhs_role="delta", rhs_role="weight")
        dx, dw = grad_rule(b, y, y.operands, g)
    assert dx is not None and dw is not None
    assert dx.op == "matmul" and dx.operands == (g, w) and dx.attrs["transpose_b"] is not transposed
    assert (dx.attrs["lhs_role"], dx.attrs["rhs_role"]) == ("grad", "weight")
    assert dw.op == "matmul_tn" and dw.operands == ((g, x) if transposed else (x, g))
    assert (dw.attrs["lhs_role"], dw.attrs["rhs_role"]) == (("grad", "delta") if transposed else ("delta", "grad"))


def test_sum_to_is_the_adjoint_of_broadcasting() -> None:
    b = Builder("g")
    with b.at(HERE):
        g = b.input("g", (2, 4, 3))
        for i, shape in enumerate([(2, 4, 3), (4, 3), (1, 3), (4, 1), (), (1, 1, 1), (2, 1, 3), (3,)]):
            b.output(str(i), sum_to(b, g, shape))
            assert b.finish().outputs[str(i)].shape == shape
        assert sum_to(b, g, (2, 4, 3)) is g
    array = np.random.default_rng(0).normal(size=(2, 4, 3))
    out = evaluate(b.finish(), {"g": array})
    np.testing.assert_allclose(out["2"], array.sum((0, 1))[None])
    np.testing.assert_allclose(out["3"], array.sum((0, 2))[:, None])
    np.testing.assert_allclose(out["4"], array.sum())
    np.testing.assert_allclose(out["6"], array.sum(1, keepdims=True))
