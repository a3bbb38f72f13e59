"""The float twin: its residuals against estimators written by hand, its gradients, chunks and training."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pintac import rng
from pintac.accuracy import l2_rel
from pintac.errors import ModelError
from pintac.frontend import (
    Adam,
    OrthonormalDirections,
    QuasiRandom,
    SampledStep,
    SecondDifference,
    Stein,
    TrainStep,
    TTLinear,
    linear_decay,
    predict_float,
    test_set,
)
from pintac.frontend.operators import dt, grad, laplacian
from pintac.frontend.problem import Problem, Term
from pintac.frontend.problems import poisson2d
from pintac.frontend.samplers import Points, Uniform
from pintac.frontend.testset import TestSet
from pintac.frontend.tracing import trace
from pintac.ir.evaluate import evaluate
from pintac.passes.expand_operators import ExpandOperators
from tests.frontend.eager_step import EagerStep
from tests.frontend.support import OneTerm, make_step, mlp

expand = ExpandOperators().run


def evaluations(step: TrainStep, seed: int, t: int, rows: int, pairs: int, dims: int, sigma: float):  # type: ignore[no-untyped-def]
    """Points, deltas and u, u+, u- of a bare network in float64, straight from the definition."""
    net = copy.deepcopy(step.net).double()
    x = torch.from_numpy(Uniform([(0.0, 1.0)] * dims).sample(rows, seed, t)).double()
    z = torch.from_numpy(rng.normal(seed, rng.STREAM_DELTA, t, 0, (rows, pairs, dims))).double()
    delta = sigma * z
    with torch.no_grad():
        u, plus, minus = net(x), net(x[:, None] + delta), net(x[:, None] - delta)
    return x, delta, u[:, None], plus, minus


def test_stein_by_hand() -> None:
    sigma, pairs = 0.05, 6

    def residual(u, x):  # type: ignore[no-untyped-def]
        return laplacian(u, x) + 2 * grad(u, x)[..., 1] + u(x)

    step = make_step(mlp(2, 6, 2), residual, estimator=Stein(K=2 * pairs, sigma=sigma), points=5)
    found = SampledStep(step, expand, seed=3, dtype=torch.float64).residuals(4)["only"].detach()
    _, delta, u, plus, minus = evaluations(step, 3, 4, 5, pairs, 2, sigma)
    weight = (delta**2).sum(-1, keepdim=True) - 2 * sigma**2
    lap = (weight * (plus + minus - 2 * u)).sum(1) / (2 * sigma**4 * pairs)
    slope = (delta[..., 1:] * (plus - minus)).sum(1) / (2 * sigma**2 * pairs)
    torch.testing.assert_close(found, lap + 2 * slope + u[:, 0], rtol=1e-9, atol=1e-9)


def test_second_difference_by_hand() -> None:
    sigma, pairs = 0.05, 6
    step = make_step(
        mlp(3, 6, 1),
        lambda u, x: laplacian(u, x) * u(x) - grad(u, x)[..., 0],
        dims=3,
        estimator=SecondDifference(K=2 * pairs, sigma=sigma),
        points=5,
    )
    found = SampledStep(step, expand, seed=1, dtype=torch.float64).residuals(0)["only"].detach()
    _, delta, u, plus, minus = evaluations(step, 1, 0, 5, pairs, 3, sigma)
    lap = (plus + minus - 2 * u).sum(1) / (sigma**2 * pairs)
    slope = (delta[..., :1] * (plus - minus)).sum(1) / (2 * sigma**2 * pairs)
    torch.testing.assert_close(found, lap * u[:, 0] - slope, rtol=1e-9, atol=1e-9)


def test_estimates_approach_exact_derivatives() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        return dt(u, x) - laplacian(u, x, dims=slice(0, 2)) + grad(u, x)[..., 0] ** 2

    torch.manual_seed(0)
    net = mlp(3, 8, 1)
    step = make_step(net, residual, 3, SecondDifference(K=8192, sigma=0.02), points=6)
    found = SampledStep(step, expand, dtype=torch.float64).residuals(0)["only"].detach()
    x = torch.from_numpy(Uniform([(0.0, 1.0)] * 3).sample(6, 0, 0)).double()
    exact = residual(copy.deepcopy(net).double(), x).detach()
    assert torch.linalg.norm(found - exact) / torch.linalg.norm(exact) < 0.1


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.tt, self.out = nn.Linear(2, 6), nn.Linear(2, 6), TTLinear(6, 6, rank=2), nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.a(x)) * torch.sigmoid(self.b(x))
        return self.out(h + torch.sin(self.tt(h)))


class Hard(Problem):
    def terms(self) -> list[Term]:
        return [
            Term("pde", Uniform([(0.0, 1.0)] * 2), lambda u, x: laplacian(u, x) - torch.exp(u(x)), points=9),
            Term("data", Points([[0.5, 0.5], [0.25, 0.125], [0.0, 1.0]]), lambda u, x: u(x) - 1.0, weight=20.0),
        ]

    def u(self, net: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1] + x[:, :1] * (1 - x[:, :1]) * net(x)


@pytest.fixture
def hard_step() -> TrainStep:
    return TrainStep(Gated(), Hard(), Adam(3e-3, schedule=linear_decay(50)), Stein(K=8, sigma=0.1))


def test_values_equal_the_evaluators(hard_step: TrainStep) -> None:
    """Two interpreters of one expanded graph: torch and the reference evaluator."""
    twin = SampledStep(hard_step, expand, seed=2, dtype=torch.float64)
    traced = trace(hard_step)
    feeds = {**traced.data, **twin.arrays()}
    expected = evaluate(expand(traced.step), feeds, {"seed": 2, "step": 5}, mode="float64")
    for term, residual in twin.residuals(5).items():
        np.testing.assert_allclose(residual.detach().numpy(), expected[f"residual:{term}"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 4, 9, 100])
def test_chunks_add_up(hard_step: TrainStep, chunk: int) -> None:
    whole = SampledStep(hard_step, expand, seed=2, dtype=torch.float64)
    parts = SampledStep(hard_step, expand, seed=2, dtype=torch.float64, chunk=chunk)
    loss, gradients = whole.loss_and_gradients(5)
    loss_parts, gradients_parts = parts.loss_and_gradients(5)
    assert loss_parts == pytest.approx(loss, rel=1e-12)
    for name in gradients:
        torch.testing.assert_close(gradients_parts[name], gradients[name], rtol=1e-9, atol=1e-9)


def test_constants_with_a_row_a_point_forbid_chunks() -> None:
    step = make_step(mlp(2, 3, 1), lambda u, x: u(x) * torch.linspace(0, 1, x.shape[0])[:, None], points=6)
    assert SampledStep(step, expand).loss(0) > 0
    with pytest.raises(ModelError, match="in chunks"):
        SampledStep(step, expand, chunk=4).loss_and_gradients(0)


def test_gradients_are_slopes_of_the_loss(hard_step: TrainStep) -> None:
    twin = SampledStep(hard_step, expand, seed=2, dtype=torch.float64)
    _, gradients = twin.loss_and_gradients(1)
    for name, state in twin.states.items():
        direction = torch.randn(state.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                state += sign * 1e-5 * direction
                values.append(twin.loss(1).item())
                state -= sign * 1e-5 * direction
        slope = (values[0] - values[1]) / 2e-5
        assert slope == pytest.approx((gradients[name] * direction).sum().item(), rel=1e-5, abs=1e-5)


def test_the_loss_is_the_weighted_mean_of_squares(hard_step: TrainStep) -> None:
    twin = SampledStep(hard_step, expand, dtype=torch.float64)
    residuals = twin.residuals(0)
    expected = (residuals["pde"] ** 2).mean() + 20 * (residuals["data"] ** 2).mean()
    assert twin.loss(0).item() == pytest.approx(expected.item(), rel=1e-13)


def test_training_follows_adam_and_the_schedule() -> None:
    """Three steps against Adam written out."""
    step = TrainStep(
        mlp(2, 4, 1), OneTerm(lambda u, x: u(x) - 1), Adam(0.1, 0.8, 0.9, 1e-6, linear_decay(4)), Stein(K=2)
    )
    twin = SampledStep(step, expand, seed=9, dtype=torch.float64)
    other = SampledStep(step, expand, seed=9, dtype=torch.float64)
    moments = {name: (torch.zeros_like(s), torch.zeros_like(s)) for name, s in other.states.items()}
    losses = []
    for t in range(3):
        loss, gradients = other.loss_and_gradients(t)
        losses.append(loss)
        for name, g in gradients.items():
            m, v = moments[name]
            m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
            moments[name] = (m, v)
            rate = 0.1 * (1 - t / 4)
            with torch.no_grad():
                corrected = (v / (1 - 0.9 ** (t + 1))).sqrt() + 1e-6
                other.states[name] -= rate * (m / (1 - 0.8 ** (t + 1))) / corrected
    seen = []
    assert twin.train(3, lambda t, loss: seen.append((t, loss))) == pytest.approx(losses)
    assert [t for t, _ in seen] == [0, 1, 2]
    for name, state in twin.states.items():
        torch.testing.assert_close(state, other.states[name])


def test_the_twin_learns_poisson() -> None:
    step = poisson2d(width=24, hidden=2, rank=4, K=8, interior=40, boundary=40, lr=1e-2, schedule_steps=250)
    tests = test_set(step, n=500)
    assert tests is not None
    twin = SampledStep(step, expand, seed=0)
    before = tests.l2_rel(predict_float(step, twin.weights(), tests.x))
    twin.train(250)
    after = tests.l2_rel(predict_float(step, twin.weights(), tests.x))
    assert after < 0.12 < before
    assert tests.l2_affine() < tests.l2_constant()


# ---------------------------------------------------------------------------------------------- eager torch


@pytest.mark.parametrize("estimator", [Stein(K=12, sigma=0.1), SecondDifference(K=12, sigma=0.1)])
@pytest.mark.parametrize("chunk", [None, 3])
def test_eager_torch_computes_the_same_step(estimator, chunk: int | None) -> None:  # type: ignore[no-untyped-def]
    """The user's module itself in eager torch, against the traced graph in torch."""

    class Two(Problem):
        def terms(self) -> list[Term]:
            box = [(0.0, 1.0)] * 2
            return [
                Term("pde", Uniform(box), lambda u, x: laplacian(u, x) + grad(u, x)[..., 0] * u(x), points=7),
                Term("edge", Uniform(box), lambda u, x: u(x) - grad(u, x)[..., 1], points=5, weight=3.0),
            ]

    step = TrainStep(Gated(), Two(), Adam(), estimator)
    eager = EagerStep(step, seed=1, dtype=torch.float64, chunk=chunk)
    twin = SampledStep(step, expand, seed=1, dtype=torch.float64)
    loss, gradients = eager.loss_and_gradients(2)
    expected_loss, expected = twin.loss_and_gradients(2)
    assert loss == pytest.approx(expected_loss, rel=1e-10)
    assert set(gradients) == set(expected)
    for name in expected:
        torch.testing.assert_close(gradients[name], expected[name], rtol=1e-8, atol=1e-9)


def test_eager_torch_with_time() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        return dt(u, x) - laplacian(u, x, dims=slice(0, 2))

    step = make_step(mlp(3, 5, 1), residual, 3, SecondDifference(K=10, sigma=0.1))
    loss, _ = EagerStep(step, dtype=torch.float64).loss_and_gradients(0)
    expected, _ = SampledStep(step, expand, dtype=torch.float64).loss_and_gradients(0)
    assert loss == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("estimator", [OrthonormalDirections(K=4), QuasiRandom(K=4)])
def test_eager_torch_draws_normal_directions_only(estimator) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelError, match="draws normal directions") as caught:
        EagerStep(make_step(mlp(2, 3, 1), lambda u, x: laplacian(u, x), 2, estimator))
    assert "SampledStep" in (caught.value.hint or "")


@pytest.mark.parametrize("estimator", [OrthonormalDirections(K=8, sigma=0.1), QuasiRandom(K=8, sigma=0.1)])
def test_chunks_of_points_see_their_own_directions(estimator) -> None:  # type: ignore[no-untyped-def]
    """The directions of a point are those of the whole draw, in chunks too."""
    step = make_step(mlp(3, 5, 1), lambda u, x: dt(u, x) - laplacian(u, x, dims=slice(0, 2)), 3, estimator)
    whole = SampledStep(step, expand, dtype=torch.float64).loss_and_gradients(1)
    parts = SampledStep(step, expand, dtype=torch.float64, chunk=2).loss_and_gradients(1)
    assert parts[0] == pytest.approx(whole[0], rel=1e-11)
    for name, gradient in whole[1].items():
        torch.testing.assert_close(parts[1][name], gradient, rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------------------------------------- the test set


def test_the_test_set_is_fixed_and_measured_as_stated() -> None:
    step = poisson2d(width=4, rank=1)
    tests = test_set(step)
    assert tests is not None and tests.x.shape == (16384, 2) and tests.u.shape == (16384, 1)
    np.testing.assert_array_equal(tests.x, Uniform([(0.0, 1.0)] * 2).sample(16384, 0, stream=rng.STREAM_TEST))
    np.testing.assert_allclose(tests.u[:, 0], np.sin(tests.x.astype(np.float64).sum(1)) / 2, rtol=1e-12)
    assert tests.l2_rel(1.01 * tests.u) == pytest.approx(0.01)
    assert l2_rel(np.zeros_like(tests.u), tests.u) == 1.0
    assert test_set(make_step(mlp(2, 3, 1))) is None


def test_trivial_columns() -> None:
    x = np.linspace(0, 1, 50, dtype=np.float32)[:, None]
    assert TestSet(x, 3 * x.astype(np.float64) + 1).l2_affine() < 1e-6
    assert TestSet(x, np.full((50, 1), 2.0)).l2_constant() == 0.0


def test_a_wrong_exact_solution_is_called_out() -> None:
    class Flat(OneTerm):
        def exact(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum(-1)

    with pytest.raises(ModelError, match=r"expected \[16384, m\]") as caught:
        test_set(TrainStep(mlp(2, 3, 1), Flat(lambda u, x: u(x)), Adam(), Stein(K=2)))
    assert caught.value.location is not None and caught.value.location.file.endswith("test_twin.py")
