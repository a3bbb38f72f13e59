"""The optimizers against those of torch.optim, step after step in fp32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pintac.errors import PassError
from pintac.frontend.optimizers import SGD, AdamW, Optimizer
from pintac.ir import Builder, Graph
from pintac.ir.evaluate import evaluate
from pintac.ir.verify import verify
from pintac.passes.expand_optimizer import ExpandOptimizer
from tests.passes.models import ADAM, LOC

SHAPE = (3, 5)


def with_gradient(optimizer: Any = ADAM) -> Graph:
    """One state p whose gradient is the input g."""
    b = Builder("step", {"optimizer": optimizer} if optimizer is not None else {})
    with b.at(LOC):
        b.state("p", SHAPE)
        g = b.input("g", SHAPE)
        b.output("metric:loss", b.sum(g))
        b.output("grad:p", g)
    return b.finish()


@pytest.mark.parametrize("mode", ["float64", "float32"])
def test_adam_is_torchs(mode: str) -> None:
    torch = pytest.importorskip("torch")
    dtype = np.dtype(mode)
    graph = verify(ExpandOptimizer().run(with_gradient()))
    rng = np.random.default_rng(0)
    start = rng.standard_normal(SHAPE).astype(dtype)
    state = {"p": start, "adam.m:p": np.zeros(SHAPE, dtype), "adam.v:p": np.zeros(SHAPE, dtype)}
    parameter = torch.nn.Parameter(torch.tensor(start))
    torch_adam = torch.optim.Adam([parameter], lr=ADAM["lr"], betas=(0.9, 0.999), eps=1e-8)
    for t in range(1, 51):
        g = (rng.standard_normal(SHAPE) * 10.0 ** rng.uniform(-6, 3, SHAPE)).astype(dtype)
        params = {"lr": ADAM["lr"], "bc1": 1 / (1 - 0.9**t), "bc2": 1 / (1 - 0.999**t)}
        out = evaluate(graph, {**state, "g": g}, params, mode)
        state = {name: out[f"state:{name}"] for name in state}
        parameter.grad = torch.tensor(g)
        torch_adam.step()
        # an update is at most lr, so errors are in ulps of p and of lr: a few of each a step
        eps = np.finfo(dtype).eps
        limit = t * (2 * eps * np.abs(start).max() + 8 * eps * ADAM["lr"])
        assert np.abs(state["p"] - parameter.detach().numpy()).max() <= limit
    moments = torch_adam.state[parameter]
    assert np.allclose(state["adam.m:p"], moments["exp_avg"], rtol=1e-5, atol=0)
    assert np.allclose(state["adam.v:p"], moments["exp_avg_sq"], rtol=1e-5, atol=0)


OTHERS = {
    "adamw": AdamW(2e-3, weight_decay=0.3),
    "sgd": SGD(0.05),
    "momentum": SGD(0.05, momentum=0.9),
    "nesterov": SGD(0.05, momentum=0.8, nesterov=True, weight_decay=0.1),
    "decayed": SGD(0.05, weight_decay=0.2),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("mode", ["float64", "float32"])
def test_the_others_are_torchs(name: str, mode: str) -> None:
    """Gradients of fixed size, so that errors are in ulps of the weights and of what is added to them."""
    import torch

    optimizer, dtype = OTHERS[name], np.dtype(mode)
    graph = verify(ExpandOptimizer().run(with_gradient(optimizer.attrs())))
    rng = np.random.default_rng(0)
    start = rng.standard_normal(SHAPE).astype(dtype)
    state = {key: start if key == "p" else np.zeros(SHAPE, dtype) for key in graph.states()}
    parameter = torch.nn.Parameter(torch.tensor(start))
    by_torch = optimizer.in_torch([parameter])
    for t in range(20):
        g = rng.standard_normal(SHAPE).astype(dtype)
        params = {key: value(t) for key, value in optimizer.scalars().items()}
        out = evaluate(graph, {**state, "g": g}, params, mode)
        state = {key: out[f"state:{key}"] for key in state}
        parameter.grad = torch.tensor(g)
        by_torch.step()
        found = parameter.detach().numpy()
        assert np.abs(state["p"] - found).max() <= 4 * (t + 1) * np.finfo(dtype).eps * np.abs(found).max()
    assert np.abs(state["p"] - start).max() > 0.01


def test_states_of_the_others() -> None:
    def states(optimizer: Optimizer) -> list[str]:
        return list(ExpandOptimizer().run(with_gradient(optimizer.attrs())).states())

    assert states(AdamW()) == ["p", "adam.m:p", "adam.v:p"]
    assert states(SGD()) == ["p"]
    assert states(SGD(momentum=0.5)) == ["p", "sgd.b:p"]


def test_the_order_of_operations() -> None:
    """Bit for bit as the docstring says."""
    f = np.float32
    graph = ExpandOptimizer().run(with_gradient())
    rng = np.random.default_rng(1)
    p, m, g = (rng.standard_normal(SHAPE).astype(f) for _ in range(3))
    v = rng.random(SHAPE).astype(f)
    lr, c1, c2 = f(0.003), f(5.2), f(400.5)
    out = evaluate(graph, {"p": p, "adam.m:p": m, "adam.v:p": v, "g": g}, {"lr": lr, "bc1": c1, "bc2": c2}, "float32")
    m = f(0.9) * m + f(1.0 - 0.9) * g
    v = f(0.999) * v + (f(1.0 - 0.999) * g) * g
    p = p - (lr * (m * c1)) / (np.sqrt(v * c2) + f(1e-8))
    for name, value in (("p", p), ("adam.m:p", m), ("adam.v:p", v)):
        assert np.array_equal(out[f"state:{name}"], value)


def test_outputs() -> None:
    graph = ExpandOptimizer().run(with_gradient())
    assert list(graph.outputs) == ["metric:loss", "state:p", "state:adam.m:p", "state:adam.v:p"]
    assert list(graph.states()) == ["p", "adam.m:p", "adam.v:p"]


def test_a_zero_gradient_leaves_a_fresh_state_alone() -> None:
    graph = ExpandOptimizer().run(with_gradient())
    zero = np.zeros(SHAPE)
    p = np.random.default_rng(2).standard_normal(SHAPE)
    feeds = {"p": p, "adam.m:p": zero, "adam.v:p": zero, "g": zero}
    assert np.array_equal(evaluate(graph, feeds, {"lr": 1.0, "bc1": 10.0, "bc2": 1000.0})["state:p"], p)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (None, "no optimizer"),
        ({**ADAM, "kind": "adamx"}, "unknown optimizer 'adamx'"),
        ({**ADAM, "beta1": "much"}, "beta1 is 'much'"),
        ({key: value for key, value in ADAM.items() if key != "eps"}, "eps is None"),
    ],
)
def test_optimizers_that_cannot_be(optimizer: Any, message: str) -> None:
    with pytest.raises(PassError) as caught:
        ExpandOptimizer().run(with_gradient(optimizer))
    assert message in caught.value.message


def test_golden(golden: Callable[[str, str], None]) -> None:
    golden("passes/expand-optimizer.ir", str(ExpandOptimizer().run(with_gradient())))


def test_a_graph_without_gradients_is_left_alone() -> None:
    b = Builder("infer")
    with b.at(LOC):
        b.output("u", b.input("x", SHAPE))
    graph = b.finish()
    assert ExpandOptimizer().run(graph) is graph
