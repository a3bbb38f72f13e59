"""Gradients of whole training steps against torch autograd of the unsplit sampled loss.

The twin draws the same numbers and evaluates X + delta in torch; the passes split it into base and differences, reorder
TT layers and differentiate by their own rules. In float64 every parameter's gradient agrees to 1e-9 of its norm; in
float32 the gradient is no further from the float64 one than torch's float32 gradient is.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from torch import nn

from pintac.frontend import Adam, Problem, SecondDifference, Stein, Term, TrainStep, TTLinear, Uniform, laplacian
from pintac.frontend.tracing import trace_step
from pintac.frontend.twin import SampledStep
from pintac.ir import Graph
from pintac.ir.evaluate import evaluate
from pintac.passes import PassManager, Verify, parse_pipeline
from pintac.passes.expand_operators import ExpandOperators
from tests.end_to_end.steps import train_steps

SPLIT = parse_pipeline(
    "expand-operators,split-stein,reorder-tt,differentiate,lower-delta,canonicalize,dce,fold-accumulate"
)
NAIVE = parse_pipeline("expand-operators,split-stein{form=none},reorder-tt{order=sequential},differentiate")

SEED, STEP = 5, 3


def torch_gradients(step: TrainStep, dtype: torch.dtype) -> tuple[float, dict[str, np.ndarray]]:
    twin = SampledStep(step, ExpandOperators().run, seed=SEED, dtype=dtype)
    loss, gradients = twin.loss_and_gradients(STEP)
    return loss, {name: gradient.numpy() for name, gradient in gradients.items()}


def feeds_of(step: TrainStep) -> tuple[Graph, dict[str, np.ndarray]]:
    graph, data = trace_step(step)
    states = SampledStep(step, ExpandOperators().run, seed=SEED).states
    return graph, {**data, **{name: state.detach().numpy() for name, state in states.items()}}


def ir_gradients(graph: Graph, feeds: dict[str, np.ndarray], passes: tuple, mode: str) -> dict[str, np.ndarray]:
    lowered = PassManager(passes, [Verify("ends")]).run(graph)
    return evaluate(lowered, feeds, {"seed": SEED, "step": STEP}, mode)


def assert_equal(found: dict[str, np.ndarray], exact: dict[str, np.ndarray], limit: float) -> None:
    """Norm-wise for every parameter; a gradient that is zero is rounding on both sides."""
    whole = np.sqrt(sum(np.linalg.norm(gradient) ** 2 for gradient in exact.values()))
    for name, gradient in exact.items():
        error, norm = np.linalg.norm(found[f"grad:{name}"] - gradient), np.linalg.norm(gradient)
        assert error <= limit * norm or max(error, norm) <= 1e-11 * whole, f"{name}: {error:.2e} of {norm:.2e}"


def error_of(found: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> float:
    error = sum(np.linalg.norm(found[name].astype(np.float64) - gradient) ** 2 for name, gradient in exact.items())
    norm = sum(np.linalg.norm(gradient) ** 2 for gradient in exact.values())
    if not norm:  # a constraint that leaves nothing to learn at these points
        return 0.0 if not error else np.inf
    return float(np.sqrt(error / norm))


ULPS = 2.0**-20
"""Eight units in the last place of fp32: below that, which of two fp32 gradients is nearer is luck."""


def test_gradients_of_drawn_steps() -> None:
    """At least 20 networks. float64: 1e-9 of every parameter's norm, split and unsplit, both orders of TT layers.

    float32: the whole gradient's error is no more than 1.5 times torch's (and ULPS), for the middle network far less.
    """
    seen: set[str] = set()
    words: set[str] = set()
    ratios = []

    # a failing step is small enough to read: no minutes of shrinking
    @settings(max_examples=32, phases=[Phase.generate])
    @given(train_steps())
    def check(step: TrainStep) -> None:
        problem = step.problem
        what = f"{step.net} {problem.constraint} {problem.names} {problem.points} {step.estimator}"
        if what in seen:
            return
        loss, exact = torch_gradients(step, torch.float64)
        graph, feeds = feeds_of(step)
        for passes in (SPLIT, NAIVE):
            found = ir_gradients(graph, feeds, passes, "float64")
            assert float(found["metric:loss"]) == pytest.approx(loss, rel=1e-9)
            assert_equal(found, exact, 1e-9)

        _, single = torch_gradients(step, torch.float32)
        split = ir_gradients(graph, feeds, SPLIT, "float32")
        ours, torchs = error_of({name: split[f"grad:{name}"] for name in exact}, exact), error_of(single, exact)
        assert ours <= 1.5 * max(torchs, ULPS)
        ratios.append(ours / max(torchs, 2.0**-24))
        seen.add(what)
        words.update([problem.constraint, *problem.names, step.estimator.kind])
        words.update(layer.join for layer in step.net.stack)
        words.update("tt" for layer in step.net.stack if isinstance(layer.main, TTLinear))

    check()
    assert len(seen) >= 20 and np.median(ratios) < 0.75
    joins = {"plain", "residual", "gate", "quotient", "concat", "tt"}
    constraints = {"none", "product", "quotient", "network product"}
    terms = {"poisson", "heat", "burgers", "eikonal", "reaction", "boundary"}
    assert joins | constraints | terms | {"stein", "second-difference"} <= words


class Poisson(Problem):
    def terms(self) -> list[Term]:
        return [Term("interior", Uniform([(0.0, 1.0)] * 2), self.pde, points=6, weight=2.0)]

    def pde(self, u, x):
        return laplacian(u, x) + torch.sin(x.sum(-1, keepdim=True))


@pytest.mark.parametrize(("estimator", "pairs"), [(Stein(K=10, sigma=0.05), 5), (SecondDifference(K=6, sigma=0.05), 3)])
def test_against_a_loss_written_by_hand(estimator: Stein | SecondDifference, pairs: int) -> None:
    """No pass and no IR in the oracle: the module itself at x, x + delta and x - delta, and torch autograd."""
    from pintac import rng
    from pintac.frontend.weights import Layout

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), TTLinear(6, 4, rank=2), nn.Tanh(), nn.Linear(4, 1))
    step = TrainStep(net, Poisson(), Adam(1e-3), estimator, init="module")
    double = copy.deepcopy(net).double()
    graph, data = trace_step(step)
    layout = Layout.of(net, step.problem)
    found = ir_gradients(graph, {**data, **layout.from_module()}, SPLIT, "float64")

    x = torch.from_numpy(rng.uniform(SEED, 1, STEP, 0, (6, 2))).double()
    delta = estimator.sigma * torch.from_numpy(rng.normal(SEED, 2, STEP, 0, (6, pairs, 2))).double()
    even = double(x[:, None] + delta) + double(x[:, None] - delta) - 2 * double(x)[:, None]
    if isinstance(estimator, Stein):
        weight = (delta**2).sum(-1, keepdim=True) - 2 * estimator.sigma**2
        lap = (weight * even).sum(1) / (2 * estimator.sigma**4 * pairs)
    else:
        lap = even.sum(1) / (estimator.sigma**2 * pairs)
    loss = 2.0 * ((lap + torch.sin(x.sum(-1, keepdim=True))) ** 2).mean()
    names = [name for name, _ in double.named_parameters()]
    gradients = torch.autograd.grad(loss, list(double.parameters()), allow_unused=True)
    assert float(found["metric:loss"]) == pytest.approx(float(loss.detach()), rel=1e-9)
    exact = {}
    for name, parameter, gradient in zip(names, double.parameters(), gradients, strict=True):
        value = np.zeros(parameter.shape) if gradient is None else gradient.numpy()
        exact[name] = value.T if name in layout.transposed else value
    assert_equal(found, exact, 1e-9)
    assert set(names) == set(graph.states())
